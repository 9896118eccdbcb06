//! The pages under `examples/canary` and `examples/canary-shop`: each is run as it stands, with the real program, and what it says
//! that one sees is what came.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");

/// How far a number behind `~` may be off: shares are drawn by each worker of a sidecar for itself.
const SLACK: u32 = 12;

/// Commands, and what they print where the page says it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    commands: String,
    prints: Option<String>,
}

/// The steps of a page: its blocks of `sh`, each with the block of `text` behind it.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // Text of the page and blocks take turns.
    for (at, part) in page.split("```").enumerate() {
        if at % 2 == 0 {
            continue;
        }
        let (kind, body) = part.split_once('\n').unwrap();
        match kind {
            "sh" => steps.push(Step {
                commands: body.to_owned(),
                prints: None,
            }),
            "text" => steps.last_mut().unwrap().prints = Some(body.trim().to_owned()),
            other => panic!("a block of {other:?} is neither run nor compared"),
        }
    }
    steps
}

/// Whether `came` is what was `said`, word by word; numbers behind `~` are near.
fn agrees(said: &str, came: &str) -> bool {
    let word = |said: &str, came: &str| match said.strip_prefix('~') {
        Some(number) => {
            let (said, came) = (number.parse::<u32>(), came.parse::<u32>());
            matches!((said, came), (Ok(a), Ok(b)) if a.abs_diff(b) <= SLACK)
        }
        None => said == came,
    };
    let line = |said: &str, came: &str| {
        let (said, came): (Vec<_>, Vec<_>) = (
            said.split_whitespace().collect(),
            came.split_whitespace().collect(),
        );
        said.len() == came.len() && said.iter().zip(&came).all(|(a, b)| word(a, b))
    };
    let (said, came): (Vec<_>, Vec<_>) = (said.lines().collect(), came.trim().lines().collect());
    said.len() == came.len() && said.iter().zip(&came).all(|(a, b)| line(a, b))
}

/// A home that is taken down however a page ends.
struct Home(tempfile::TempDir);

impl Home {
    fn command(&self, program: &str) -> Command {
        let own = Path::new(PROGRAM).parent().unwrap().display();
        let path = format!("{own}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.0.path())
            .env("MESHCTL_HOME", self.0.path().join("home"))
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _down = self.command(PROGRAM).arg("down").output().is_ok();
    }
}

fn run(page: &str) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("examples/canary").join(page).join("README.md");
    let steps = steps(&std::fs::read_to_string(file).unwrap());
    assert!(steps.iter().filter(|step| step.prints.is_some()).count() > 0);
    let home = Home(tempfile::tempdir().unwrap());
    let mark = |at: usize| format!("---- end of step {at} ----");
    let mut script = "set -eu\n".to_owned();
    for (at, step) in steps.iter().enumerate() {
        script.push_str(&step.commands);
        writeln!(script, "echo '{}'", mark(at)).unwrap();
    }
    let output = home
        .command("sh")
        .args(["-c", &script])
        .current_dir(&root)
        .output()
        .unwrap();
    let (printed, complaints) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{page}: {printed}\n{complaints}");
    let mut rest = printed.as_str();
    for (at, step) in steps.iter().enumerate() {
        let (came, others) = rest.split_once(&mark(at)).unwrap();
        rest = others;
        if let Some(said) = &step.prints {
            let commands = &step.commands;
            assert!(
                agrees(said, came),
                "{page}: {commands}says\n{said}\nand came{came}\n{complaints}"
            );
        }
    }
}

#[test]
fn by_a_header() {
    run("header");
}

#[test]
fn by_a_cookie() {
    run("cookie");
}

#[test]
fn by_weight() {
    run("weight");
}

#[test]
fn blue_and_green() {
    run("blue-green");
}

#[test]
fn by_copies() {
    run("mirror");
}

#[test]
fn by_itself() {
    run("../canary-shop");
}

#[test]
fn every_page_is_in_the_index_and_is_run() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/canary");
    let index = std::fs::read_to_string(root.join("README.md")).unwrap();
    let mut pages: Vec<String> = std::fs::read_dir(&root)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert_eq!(
        pages,
        ["blue-green", "cookie", "header", "mirror", "weight"]
    );
    for page in pages {
        assert!(index.contains(&format!("({page}/README.md)")), "{page}");
    }
}

#[test]
fn a_page_that_says_something_else_than_comes_is_found_out() {
    assert!(agrees("v1 ~100\nv2 x", "\nv1 95\nv2   x\n"));
    for came in [
        "v1 95\nv2 y",
        "v1 95",
        "v1 80\nv2 x",
        "v1 95\nv2 x\nv3 x",
        "",
    ] {
        assert!(!agrees("v1 ~100\nv2 x", came), "{came:?}");
    }
    let page = "a\n```sh\nx\ny\n```\nb\n```text\n1\n```\n```sh\nz\n```\n";
    let read = steps(page);
    assert_eq!((read.len(), read[0].commands.as_str()), (2, "x\ny\n"));
    assert_eq!(
        (read[0].prints.as_deref(), &read[1].prints),
        (Some("1"), &None)
    );
}
