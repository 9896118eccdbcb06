//! Runs the binary in a fresh home with a bare environment.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_meshctl");

/// A directory of its own, removed at the end.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mc-").tempdir().unwrap();
        Self { dir }
    }

    /// The home that commands are given; not made yet.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A file or directory beside the home.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.beside(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("MESHCTL_HOME", self.path())
            .env("COLUMNS", "80");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        self.finish(self.command(args), "")
    }

    pub(crate) fn feed(&self, args: &[&str], stdin: &str) -> Outcome {
        self.finish(self.command(args), stdin)
    }

    pub(crate) fn finish(&self, mut command: Command, stdin: &str) -> Outcome {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that does not read may be gone already.
        let _fed = input.write_all(stdin.as_bytes()).is_ok();
        drop(input);
        let output = child.wait_with_output().unwrap();
        let clean = |bytes: Vec<u8>| self.clean(&String::from_utf8(bytes).unwrap());
        Outcome {
            code: output.status.code(),
            stdout: clean(output.stdout),
            stderr: clean(output.stderr),
        }
    }

    /// Paths that differ between runs get names.
    pub(crate) fn clean(&self, text: &str) -> String {
        text.replace(&self.dir.path().display().to_string(), "[DIR]")
    }
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// No line is wider than a usual terminal.
    #[track_caller]
    pub(crate) fn fits(self) -> Self {
        for line in self.stdout.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}\n{self}");
        }
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self
            .code
            .map_or_else(|| "signal".to_owned(), |code| code.to_string());
        write!(
            f,
            "exit: {code}\n----- stdout -----\n{}----- stderr -----\n{}",
            self.stdout, self.stderr
        )
    }
}

/// Permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
