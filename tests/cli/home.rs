//! `install`, `uninstall`, `identity`: what they leave on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::canned;
use super::fake::Answers;
use super::run::{Home, mode};
use super::tables::everything;

#[test]
fn install_makes_a_private_home_and_changes_nothing_the_second_time() {
    let home = Home::new();
    let first = home.run(&["install", "-o", "json"]).exits(0).json();
    let outcomes = |report: &serde_json::Value| -> Vec<String> {
        report["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["outcome"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(outcomes(&first), ["created"; 4]);
    let path = home.path();
    for (file, bits) in [
        ("", 0o700),
        ("control", 0o700),
        ("install.json", 0o600),
        ("control/ca/ca-key.pem", 0o600),
        ("control/ca/root-cert.pem", 0o600),
        ("control/store", 0o700),
    ] {
        assert_eq!(mode(&path.join(file)), bits, "{file}");
    }
    let root = fs::read(path.join("control/ca/root-cert.pem")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let second = home.run(&["install", "-o", "json"]).exits(0).json();
    assert_eq!(outcomes(&second), ["unchanged"; 4]);
    assert_eq!(
        fs::read(path.join("control/ca/root-cert.pem")).unwrap(),
        root
    );
    assert_eq!(mode(&path), 0o700, "an open home is closed again");

    let third = home.run(&[
        "install",
        "--profile",
        "demo",
        "--set",
        "xdsPort=16010",
        "-o",
        "json",
    ]);
    assert_eq!(outcomes(&third.exits(0).json())[3], "changed");
    let note = fs::read_to_string(path.join("install.json")).unwrap();
    assert!(
        note.contains("\"mtls\": \"strict\"") && note.contains("16010"),
        "{note}"
    );
    let refused = home
        .run(&["install", "--set", "trustDomain=other.example"])
        .exits(1);
    assert!(
        refused
            .stderr
            .contains("the trust domain cannot be changed"),
        "{refused}"
    );
    let shown = home.run(&[
        "identity",
        "show",
        path.join("control/ca/root-cert.pem").to_str().unwrap(),
    ]);
    let shown = shown.exits(0).fits();
    assert!(shown.stdout.contains("(authority)"), "{shown}");
}

#[test]
fn a_dry_run_makes_nothing() {
    let home = Home::new();
    insta::assert_snapshot!(home.run(&["install", "--dry-run"]).exits(0));
    assert!(!home.path().exists());
}

#[test]
fn contexts_are_homes_of_their_own() {
    let home = Home::new();
    home.run(&["install", "--context", "stage"]).exits(0);
    assert!(home.path().join("contexts/stage/install.json").is_file());
    assert!(!home.path().join("install.json").exists());
    let mut command = home.command(&["services"]);
    command.env("MESHCTL_CONTEXT", "stage");
    let outcome = home.finish(command, "").exits(4);
    assert!(
        outcome.stderr.contains("contexts/stage/control/api.sock"),
        "{outcome}"
    );
}

#[test]
fn a_home_that_cannot_be_one_is_said() {
    let home = Home::new();
    fs::write(home.path(), "a file").unwrap();
    let outcome = home.run(&["install"]).exits(1);
    assert!(
        outcome
            .stderr
            .contains("error: cannot make [DIR]/home: File exists"),
        "{outcome}"
    );
    let checked = home.run(&["check", "--pre"]).exits(1);
    assert!(
        checked.stdout.contains("× the home is a directory"),
        "{checked}"
    );
}

#[test]
fn a_damaged_root_is_refused_and_kept() {
    let home = Home::new();
    home.run(&["install"]).exits(0);
    let root = home.path().join("control/ca/root-cert.pem");
    fs::write(&root, "nonsense").unwrap();
    let outcome = home.run(&["install"]).exits(1);
    assert!(
        outcome
            .stderr
            .contains("[DIR]/home/control/ca: no certificate"),
        "{outcome}"
    );
    assert_eq!(fs::read_to_string(&root).unwrap(), "nonsense");
}

#[test]
fn uninstall_keeps_the_state_unless_purged() {
    let home = Home::new();
    home.run(&["install"]).exits(0);
    let kept = home.run(&["uninstall"]).exits(0);
    assert_eq!(kept.stdout, "[DIR]/home kept\n");
    let dry = home.run(&["uninstall", "--purge", "--dry-run"]).exits(0);
    assert_eq!(dry.stdout, "[DIR]/home removed (dry run)\n");
    assert!(home.path().exists());
    home.run(&["uninstall", "--purge"]).exits(0);
    assert!(!home.path().exists());
    let none = home.run(&["uninstall", "--purge"]).exits(0);
    assert!(none.stderr.contains("Nothing is installed there"), "{none}");
}

#[test]
fn uninstall_removes_nothing_that_is_not_ours() {
    let home = Home::new();
    fs::create_dir(home.path()).unwrap();
    fs::write(home.path().join("thesis.tex"), "years").unwrap();
    let outcome = home.run(&["uninstall", "--purge"]).exits(1);
    assert!(
        outcome.stderr.contains("was not made by `meshctl install`"),
        "{outcome}"
    );
    assert!(home.path().join("thesis.tex").exists());
}

#[test]
fn uninstall_waits_for_nobody_who_still_runs() {
    let home = Home::new();
    home.run(&["install"]).exits(0);
    let _fake = Answers::new()
        .on("GET /version", &canned::version())
        .serve(&home);
    let outcome = home.run(&["uninstall", "--purge"]).exits(1);
    assert!(outcome.stderr.contains("(process 4711)"), "{outcome}");
    assert!(home.path().join("install.json").exists());
}

#[test]
fn a_service_is_written_enabled_and_removed() {
    let home = Home::new();
    let log = home.beside("systemctl.log");
    let tool = home.write(
        "bin/systemctl",
        &format!("#!/bin/sh\necho \"$@\" >> {}\n", log.display()),
    );
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |args: &[&str]| {
        let mut command = home.command(args);
        command.env(
            "PATH",
            format!("{}:/usr/bin:/bin", home.beside("bin").display()),
        );
        home.finish(command, "").exits(0)
    };
    run(&["install", "--service"]);
    let unit = home.beside(".config/systemd/user/meshctl.service");
    let text = home.clean(&fs::read_to_string(&unit).unwrap());
    assert!(
        text.contains("--home \"[DIR]/home\" control-plane"),
        "{text}"
    );
    run(&["uninstall"]);
    assert!(!unit.exists());
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "--user daemon-reload\n--user enable --now meshctl.service\n\
         --user disable --now meshctl.service\n--user daemon-reload\n"
    );
}

#[test]
fn an_identity_goes_into_private_files() {
    let home = Home::new();
    let _fake = everything(&home);
    let args = [
        "identity",
        "issue",
        "--service-account",
        "ops",
        "--out",
        "ops",
    ];
    let outcome = home.run(&args).exits(0);
    assert_eq!(
        outcome.stdout,
        "ops/cert-chain.pem\nops/key.pem\nops/root-cert.pem\n"
    );
    assert_eq!(mode(&home.beside("ops")), 0o700);
    assert_eq!(mode(&home.beside("ops/key.pem")), 0o600);
    let key = fs::read_to_string(home.beside("ops/key.pem")).unwrap();
    assert_eq!(key, canned::identity().key_pem);
    let wrong = home.run(&["identity", "show", "ops/key.pem"]).exits(1);
    assert!(wrong.stderr.contains("no certificate in it"), "{wrong}");
}

#[test]
fn the_control_plane_wants_an_installation() {
    let home = Home::new();
    let outcome = home.run(&["control-plane"]).exits(1);
    insta::assert_snapshot!(outcome);
}
