//! `install.sh`: everything in place below a prefix, without root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run::{BINARY, Home, Outcome};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("install.sh")
}

fn install(home: &Home, args: &[&str]) -> Outcome {
    let mut command = Command::new("sh");
    command
        .arg(script())
        .args(args)
        .current_dir(home.beside(""))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", home.beside(""));
    home.finish(command, "")
}

#[test]
fn everything_is_put_into_place_and_taken_away_again() {
    let home = Home::new();
    let args = ["--prefix", "a prefix", "--from-file", BINARY];
    let outcome = install(&home, &args).exits(0);
    insta::assert_snapshot!(outcome);
    let at = |file: &str| home.beside("a prefix").join(file);
    let files = [
        "bin/meshctl",
        "share/man/man1/meshctl.1",
        "share/man/man1/meshctl-canary-set.1",
        "share/bash-completion/completions/meshctl",
        "share/zsh/site-functions/_meshctl",
        "share/fish/vendor_completions.d/meshctl.fish",
    ];
    for file in files {
        assert!(std::fs::metadata(at(file)).unwrap().len() > 100, "{file}");
    }
    let version = Command::new(at("bin/meshctl"))
        .args(["version", "--client"])
        .output()
        .unwrap();
    assert!(version.status.success());
    install(&home, &args).exits(0);
    let left: Vec<_> = std::fs::read_dir(at("bin"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["meshctl"], "nothing half-done stays");

    install(&home, &["--prefix", "a prefix", "--uninstall"]).exits(0);
    for file in files {
        assert!(!at(file).exists(), "{file}");
    }
    let again = install(&home, &["--prefix", "a prefix", "--uninstall"]).exits(0);
    assert!(again.stdout.contains("is not installed"), "{again}");
}

#[test]
fn mistakes_install_nothing() {
    let home = Home::new();
    install(&home, &["--nonsense"]).exits(2);
    install(&home, &["--prefix"]).exits(2);
    install(&home, &["--prefix", "p", "--from-file", "missing"]).exits(1);
    home.write("text", "no program");
    let outcome = install(&home, &["--prefix", "p", "--from-file", "text"]);
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(!home.beside("p/bin/meshctl").exists());
    home.write("file", "in the way");
    let outcome = install(&home, &["--prefix", "file", "--from-file", BINARY]).exits(1);
    assert!(
        outcome.stderr.contains("choose another --prefix"),
        "{outcome}"
    );
}

#[test]
fn it_says_its_version_and_help() {
    let home = Home::new();
    let expected = format!("meshctl {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(install(&home, &["--version"]).exits(0).stdout, expected);
    assert_eq!(
        install(&home, &["--version", "--from-file", BINARY])
            .exits(0)
            .stdout,
        expected
    );
    assert!(
        install(&home, &["--help"])
            .exits(0)
            .stdout
            .contains("--prefix DIR")
    );
}

#[test]
fn it_is_plain_shell() {
    assert!(
        Command::new("sh")
            .arg("-n")
            .arg(script())
            .status()
            .unwrap()
            .success()
    );
    // Not everybody has it; CI does.
    if let Ok(output) = Command::new("shellcheck").arg(script()).output() {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
