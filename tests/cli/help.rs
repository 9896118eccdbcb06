//! The help of every command, as people read it on 80 columns.

use std::collections::BTreeSet;

use super::run::Home;

/// Every command that has a page, by the manual: a command that is forgotten here fails.
const COMMANDS: &[&str] = &[
    "",
    "access",
    "access create",
    "access grant",
    "access list",
    "access revoke",
    "access whoami",
    "analyze",
    "apply",
    "authz",
    "authz check",
    "authz default-deny",
    "authz suggest",
    "bench",
    "canary",
    "canary abort",
    "canary history",
    "canary list",
    "canary pause",
    "canary promote",
    "canary resume",
    "canary set",
    "canary start",
    "canary status",
    "canary undo",
    "canary watch",
    "check",
    "completion",
    "config",
    "context",
    "context add",
    "context list",
    "context remove",
    "context use",
    "control-plane",
    "dashboard",
    "delete",
    "demo",
    "deregister",
    "diff",
    "down",
    "edges",
    "endpoints",
    "fault",
    "fault clear",
    "fault inject",
    "fault list",
    "get",
    "history",
    "identity",
    "identity audit",
    "identity issue",
    "identity revoke",
    "identity rotate-root",
    "identity show",
    "inject",
    "install",
    "logs",
    "man",
    "pod",
    "pod capture",
    "pod wait",
    "proxies",
    "proxy",
    "ps",
    "register",
    "rollback",
    "routes",
    "services",
    "shadow",
    "stats",
    "support-bundle",
    "tag",
    "tap",
    "tag list",
    "tag remove",
    "tag set",
    "token",
    "token create",
    "token list",
    "token revoke",
    "top",
    "traces",
    "uninstall",
    "up",
    "upgrade",
    "version",
];

/// The part of a command's own; what follows is the same everywhere.
const GLOBAL: &str = "Global options:";

#[test]
fn every_command_explains_itself_on_eighty_columns() {
    let home = Home::new();
    let whole = home.run(&["--help"]).exits(0).fits().stdout;
    let global = whole
        .split(GLOBAL)
        .nth(1)
        .unwrap()
        .split("-h, --help")
        .next()
        .unwrap();
    for command in COMMANDS {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let help = home.run(&args).exits(0).fits();
        assert_eq!(help.stderr, "", "{command}");
        let (own, rest) = help.stdout.split_once(GLOBAL).unwrap();
        assert!(rest.contains(global.trim_end()), "{command}: {rest}");
        let examples = rest
            .rsplit_once("anything but")
            .map_or(rest, |(_, rest)| rest);
        let after = examples.split_once("warnings and errors\n").unwrap().1;
        let name = format!("help_{}", command.replace([' ', '-'], "_"));
        insta::with_settings!({ omit_expression => true, snapshot_suffix => "" }, {
            insta::assert_snapshot!(name.trim_end_matches('_'), format!("{own}[global options]\n{after}"));
        });
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let home = Home::new();
    let dir = home.beside("man");
    home.run(&["man", "--dir", dir.to_str().unwrap()]).exits(0);
    let pages: BTreeSet<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = COMMANDS
        .iter()
        .map(|command| format!("meshctl-{}", command.replace(' ', "-")))
        .map(|name| format!("{}.1", name.trim_end_matches('-')))
        .collect();
    assert_eq!(pages, known);
    let page = std::fs::read_to_string(dir.join("meshctl-canary-set.1")).unwrap();
    assert!(page.contains("meshctl canary set"), "{page}");
    let one = home.run(&["man", "canary", "set"]).exits(0).stdout;
    assert_eq!(one, page);
    home.run(&["man", "nonsense"]).exits(2);
}

#[test]
fn completions_know_every_command() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completion", shell]).exits(0).stdout;
        for command in COMMANDS
            .iter()
            .flat_map(|command| command.split_whitespace())
        {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    home.run(&["completion", "tcsh"]).exits(2);
}

#[test]
fn help_is_data_and_no_command_is_usage() {
    let home = Home::new();
    let none = home.run(&[]).exits(2);
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("Start here:"), "{none}");
    let version = home.run(&["--version"]).exits(0);
    assert_eq!(
        version.stdout,
        format!("meshctl {}\n", env!("CARGO_PKG_VERSION"))
    );
}
