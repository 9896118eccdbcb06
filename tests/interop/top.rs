//! `top` in tmux, over a mesh with traffic: every key of its help does what that says, on a small terminal and on a
//! large one.

use std::process::Command;
use std::time::Duration;

use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, service};
use crate::stand::until;

/// A terminal in which `top` runs.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn start(mesh: &Mesh, (width, height): (u16, u16)) -> Self {
        let socket = format!("meshctl-{}-{width}", std::process::id());
        let terminal = Self { socket };
        let top = format!(
            "{} --home {} top --interval 1s; echo LEFT $?; sleep 60",
            env!("CARGO_BIN_EXE_meshctl"),
            mesh.home().display()
        );
        let (width, height) = (width.to_string(), height.to_string());
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            &top,
        ]);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-L", &self.socket])
            .args(args)
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn press(&self, keys: &[&str]) {
        for key in keys {
            self.tmux(&["send-keys", key]);
        }
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The first word of the row that is marked.
    fn marked(&self) -> String {
        let screen = self.tmux(&["capture-pane", "-p", "-e"]);
        // As tmux writes it: `ESC [0;7m`, then more of them.
        let is_marked = |line: &&str| {
            let sequences = line
                .split('\u{1b}')
                .filter_map(|part| part.strip_prefix('['));
            let mut codes = sequences.filter_map(|part| Some(part.split_once('m')?.0));
            codes.any(|code| code.split(';').any(|one| one == "7"))
        };
        let line = screen.lines().find(is_marked).unwrap_or_default();
        let mut parts = line.split('\u{1b}');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text.push_str(part.split_once('m').map_or("", |(_, behind)| behind));
        }
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    async fn shows(&self, words: &str) {
        until_is(words, || self.screen(), |screen| screen.contains(words)).await;
    }

    async fn hides(&self, words: &str) {
        until_is(words, || self.screen(), |screen| !screen.contains(words)).await;
    }

    async fn marks(&self, row: &str) {
        until_is(row, || self.marked(), |marked| marked.starts_with(row)).await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _gone = Command::new("tmux")
            .args(["-L", &self.socket, "kill-server"])
            .output();
    }
}

async fn until_is(what: &str, look: impl Fn() -> String, good: impl Fn(&str) -> bool) {
    let mut last = String::new();
    for _ in 0..200 {
        last = look();
        if good(&last) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what:?} in\n{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_the_help_does_what_it_says() {
    if Command::new("tmux").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "tmux is not installed");
        eprintln!("SKIPPED: tmux is not installed");
        return;
    }
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = |service, at| App {
        service,
        version: "v1",
        port: 9080,
        at,
        flags: &[],
    };
    let web = mesh.sidecar(&app("web", backend("web", &tasks))).await;
    let shop = mesh.sidecar(&app("shop", backend("shop", &tasks))).await;
    mesh.settled().await;
    for (from, to, pause) in [
        (shop.outbound(), "web:9080", 20),
        (web.outbound(), "shop:9080", 60),
    ] {
        tasks.spawn("load", async move {
            let caller = Caller::new(from);
            loop {
                // The mesh may end before it does.
                let _called = caller.get(to, "/item?id=secret").await.is_ok();
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }
    until("figures of both", 20, || {
        let stats = mesh.json(&["stats"]);
        (stats["rows"].as_array().unwrap().len() >= 2).then_some(())
    })
    .await;

    for size in [(80, 24), (200, 50)] {
        let top = Terminal::start(&mesh, size);
        top.shows("web.default").await;
        top.shows("shop.default").await;
        // Sorting and moving.
        top.press(&["N"]);
        top.shows("SERVICE▼").await;
        top.marks("shop.default").await;
        for (keys, row) in [
            (["j"], "web.default"),
            (["k"], "shop.default"),
            (["Down"], "web.default"),
            (["Up"], "shop.default"),
            (["G"], "web.default"),
            (["g"], "shop.default"),
            (["PageDown"], "web.default"),
            (["PageUp"], "shop.default"),
        ] {
            top.press(&keys);
            top.marks(row).await;
        }
        top.press(&["r"]);
        top.shows("SERVICE▲").await;
        top.marks("web.default").await;
        top.press(&["s"]);
        top.shows("VERSION▼").await;
        for (letter, head) in [
            ("V", "VERSION"),
            ("R", "RPS"),
            ("S", "SUCCESS"),
            ("L", "P50"),
            ("M", "P95"),
            ("H", "P99"),
            ("T", "MTLS"),
        ] {
            top.press(&[letter]);
            until_is(
                head,
                || top.screen(),
                |screen| {
                    screen.contains(&format!("{head}▼")) || screen.contains(&format!("{head}▲"))
                },
            )
            .await;
        }
        // Filtering.
        top.press(&["/", "^w.b", "Enter"]);
        top.hides("shop.default").await;
        top.press(&["Escape"]);
        top.shows("shop.default").await;
        top.press(&["/", "!^web", "Enter"]);
        top.hides("web.default ").await;
        top.press(&["Escape"]);
        top.shows("web.default").await;
        // Pausing, speed, width, namespaces, help.
        top.press(&["p"]);
        top.shows("PAUSED").await;
        top.press(&["Space"]);
        top.hides("PAUSED").await;
        top.press(&["+"]);
        top.shows("every 500ms").await;
        top.press(&["-", "-"]);
        top.shows("every 2s").await;
        top.press(&["+"]);
        top.shows("every 1s").await;
        top.hides("REQUESTS").await;
        top.press(&["w"]);
        top.shows("REQUESTS").await;
        top.press(&["w"]);
        top.hides("REQUESTS").await;
        top.press(&["0"]);
        top.shows("all namespaces").await;
        top.press(&["0"]);
        top.hides("all namespaces").await;
        top.press(&["?"]);
        top.shows("keys, any of which closes this").await;
        top.shows("sort by MTLS").await;
        top.press(&["x"]);
        top.hides("keys, any of which closes this").await;
        // Closer: callers, live calls, the last of them, and back.
        top.press(&["N", "N", "N"]);
        top.shows("web.default").await;
        top.press(&["G"]);
        top.marks("web.default").await;
        top.press(&["Enter"]);
        top.shows("callers of web.default").await;
        top.shows("shop-v1.default").await;
        top.press(&["Enter"]);
        top.shows("live calls of web.default").await;
        top.shows("/item ").await;
        assert!(!top.screen().contains("secret"), "{}", top.screen());
        for (letter, head) in [
            ("F", "SOURCE"),
            ("D", "DESTINATION"),
            ("M", "METHOD"),
            ("P", "PATH"),
            ("C", "COUNT"),
            ("B", "BEST"),
            ("W", "WORST"),
            ("L", "LAST"),
            ("S", "SUCCESS"),
        ] {
            top.press(&[letter]);
            until_is(
                head,
                || top.screen(),
                |screen| {
                    screen.contains(&format!("{head}▼")) || screen.contains(&format!("{head}▲"))
                },
            )
            .await;
        }
        top.press(&["Enter"]);
        top.shows("STATUS").await;
        top.shows("200").await;
        top.press(&["Escape"]);
        top.shows("live calls of web.default").await;
        top.press(&["q"]);
        top.shows("callers of web.default").await;
        top.press(&["q"]);
        top.hides("callers of").await;
        top.marks("web.default").await;
        top.press(&["t"]);
        top.shows("live calls of").await;
        // Another size while it runs.
        let (width, height) = (size.0 + 20, size.1 + 6);
        top.tmux(&[
            "resize-window",
            "-x",
            &width.to_string(),
            "-y",
            &height.to_string(),
        ]);
        until_is(
            "the last line",
            || top.screen(),
            |screen| {
                screen
                    .lines()
                    .nth(usize::from(height) - 1)
                    .is_some_and(|line| line.contains("q back"))
            },
        )
        .await;
        top.press(&["C-c"]);
        top.shows("LEFT 0").await;
        assert!(
            !top.screen().contains("live calls"),
            "the screen is as it was before"
        );
        drop(top);
    }
    // Nobody looks any more.
    until("the taps to end", 10, || {
        let text = crate::mesh::program(
            "curl",
            &[
                "-sS",
                "-m",
                "5",
                &format!("http://{}:15000/stats/prometheus", shop.address),
            ],
        )
        .1;
        text.contains("meshctl_taps 0").then_some(())
    })
    .await;
    let table = mesh.run(
        &["top", "--batch", "--calls", "web", "--window", "2s"],
        None,
    );
    assert!(
        table.starts_with("SOURCE") && table.contains("shop-v1.default"),
        "{table}"
    );
    let two = mesh.run(
        &["top", "--batch", "--count", "2", "--interval", "100ms"],
        None,
    );
    assert_eq!(two.matches("SERVICE").count(), 2, "{two}");
}
