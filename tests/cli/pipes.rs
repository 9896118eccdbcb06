//! Streams: closed early, full, coloured or not.

use std::fs::File;
use std::process::{Command, Stdio};

use super::run::Home;
use super::tables::everything;

#[test]
fn a_reader_that_leaves_is_no_error() {
    let home = Home::new();
    let _fake = everything(&home);
    for args in [
        &["completion", "bash"][..],
        &["services", "-o", "json"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command: Command = home.command(args);
        let output = command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let home = Home::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.command(&["completion", "bash"]);
    let output = command
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: cannot write the output: No space left on device\n"
    );
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let home = Home::new();
    let _fake = everything(&home);
    let coloured = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = home.command(args);
        command.envs(environment.iter().copied());
        let outcome = home.finish(command, "");
        (
            outcome.stdout.contains('\u{1b}'),
            outcome.stderr.contains('\u{1b}'),
        )
    };
    let services = &["services"][..];
    assert_eq!(
        coloured(services, &[]),
        (false, false),
        "a pipe has no colours"
    );
    assert!(coloured(services, &[("CLICOLOR_FORCE", "1")]).0);
    assert!(!coloured(services, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).0);
    assert!(coloured(&["services", "--color", "always"], &[("NO_COLOR", "1")]).0);
    assert!(!coloured(&["services", "--color=never"], &[("CLICOLOR_FORCE", "1")]).0);
    assert!(coloured(&["--help", "--color=always"], &[]).0);
    assert!(!coloured(&["--help"], &[]).0);
    assert!(coloured(&["nonsense", "--color", "always"], &[]).1);
    assert!(!coloured(&["nonsense", "--color", "always", "--color", "never"], &[]).0);
    let json = coloured(&["services", "-o", "json", "--color", "always"], &[]);
    assert_eq!(json, (false, false), "data for programs has none");
}

#[test]
fn colours_change_nothing_else() {
    let home = Home::new();
    let _fake = everything(&home);
    for args in [
        &["services"][..],
        &["routes"],
        &["stats"],
        &["canary", "status", "reviews"],
    ] {
        let plain = home.run(args).exits(0).stdout;
        let mut all = args.to_vec();
        all.extend(["--color", "always"]);
        let painted = home.run(&all).exits(0).stdout;
        assert_eq!(strip(&painted), plain, "{args:?}");
    }
}

fn strip(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    let lines: Vec<&str> = plain.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[test]
fn quiet_leaves_only_data() {
    let home = Home::new();
    let _fake = everything(&home);
    let outcome = home
        .run(&["canary", "set", "reviews", "v1=50", "v3=50", "-q"])
        .exits(0);
    assert_eq!(outcome.stderr, "");
    let outcome = home.run(&["token", "create", "-q"]).exits(0);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("mct1.secret.part\n", "")
    );
    let outcome = home.run(&["services", "-v"]).exits(0);
    assert!(outcome.stderr.contains("GET /api/v1/services"), "{outcome}");
}
