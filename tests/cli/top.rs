//! `top` on a terminal: it takes the screen, and gives it back however it ends.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::run::{BINARY, Home};
use super::tables::everything;

impl Drop for Terminal {
    /// A test that failed leaves no `top` behind: its terminal goes, and it with it.
    fn drop(&mut self) {
        let _gone = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}

/// Enters and leaves the alternate screen; shows the cursor.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const CURSOR: &str = "\u{1b}[?25h";

const PATIENCE: Duration = Duration::from_secs(20);

/// `top` on a terminal of its own, 80 columns wide, by `script` of util-linux.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    text: String,
}

impl Terminal {
    fn top(home: &Home, environment: &[(&str, &str)]) -> Self {
        let pid = home.beside("pid");
        let shell = format!(
            "stty rows 24 cols 80; echo $$ > {}; exec {BINARY} top --interval 200ms",
            pid.display()
        );
        let mut command = Command::new("script");
        command
            .args(["-qefc", &shell, "/dev/null"])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env("MESHCTL_HOME", home.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (send, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            keys,
            shown,
            text: String::new(),
        }
    }

    /// Waits until `words` are on the screen.
    fn wait_for(&mut self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.text.contains(words) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => panic!("no {words:?} ({error}) in {:?}", self.text),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for the end and checks that the terminal is as before.
    fn ends(mut self) -> String {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it goes on: {:?}", self.text);
            std::thread::sleep(Duration::from_millis(20));
        };
        while let Ok(bytes) = self.shown.recv_timeout(Duration::from_secs(1)) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(status.success(), "{status}: {:?}", self.text);
        let left = self.text.rfind(LEAVE).unwrap();
        assert!(self.text.find(ENTER).unwrap() < left);
        assert!(
            self.text
                .rfind(CURSOR)
                .is_some_and(|at| at > self.text.find(ENTER).unwrap())
        );
        std::mem::take(&mut self.text)
    }
}

#[test]
fn q_leaves_and_gives_the_terminal_back() {
    let home = Home::new();
    let _fake = everything(&home);
    let mut terminal = Terminal::top(&home, &[]);
    terminal.wait_for("reviews.default");
    terminal.wait_for("proxies");
    terminal.press("?");
    // Words that stand there already are not drawn again.
    terminal.wait_for("closes this");
    terminal.press("x/");
    terminal.press("ratings\r");
    terminal.wait_for("/ratings");
    terminal.press("q");
    terminal.ends();
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let home = Home::new();
    let _fake = everything(&home);
    let mut terminal = Terminal::top(&home, &[]);
    terminal.wait_for("reviews.default");
    let pid: i32 = std::fs::read_to_string(home.beside("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    terminal.ends();
}

#[test]
fn no_color_means_none() {
    let home = Home::new();
    let _fake = everything(&home);
    let coloured = |environment: &[(&str, &str)]| {
        let mut terminal = Terminal::top(&home, environment);
        terminal.wait_for("reviews.default");
        terminal.press("q");
        let text = terminal.ends();
        // Foregrounds: 30 to 37 and 90 to 97, or 38;5;N.
        text.split("\u{1b}[")
            .filter_map(|rest| rest.split_once('m'))
            .filter(|(codes, _)| codes.chars().all(|c| c.is_ascii_digit() || c == ';'))
            .any(|(codes, _)| {
                codes.starts_with("38;5;") || matches!(codes.parse(), Ok(30..=37 | 90..=97))
            })
    };
    assert!(coloured(&[]));
    assert!(!coloured(&[("NO_COLOR", "1")]));
}
