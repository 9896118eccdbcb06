//! What a mesh costs, measured on one that is gone afterwards.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::run::Home;

/// An application that answers pages, and remembers by what name it was asked.
struct Server {
    authority: String,
    answered: Arc<AtomicU64>,
    hosts: Arc<Mutex<BTreeSet<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            authority: listener.local_addr().unwrap().to_string(),
            answered: Arc::default(),
            hosts: Arc::default(),
        };
        let (answered, hosts) = (Arc::clone(&server.answered), Arc::clone(&server.hosts));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answered, hosts) = (Arc::clone(&answered), Arc::clone(&hosts));
                thread::spawn(move || answer(stream, &answered, &hosts));
            }
        });
        server
    }
}

/// Serves one connection until it ends; only `/page` is there.
fn answer(stream: TcpStream, answered: &AtomicU64, hosts: &Mutex<BTreeSet<String>>) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut lines = BufReader::new(stream).lines();
    loop {
        let first = lines.next()?.ok()?;
        loop {
            let line = lines.next()?.ok()?;
            if line.is_empty() {
                break;
            }
            if let Some(host) = line.to_ascii_lowercase().strip_prefix("host:") {
                hosts.lock().unwrap().insert(host.trim().to_owned());
            }
        }
        let status = if first.starts_with("GET /page ") {
            "200 OK"
        } else {
            "404 Not Found"
        };
        answered.fetch_add(1, Ordering::Relaxed);
        write!(writer, "HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok").ok()?;
    }
}

#[test]
fn three_ways_to_an_application_are_measured_and_nothing_stays() {
    let home = Home::new();
    let server = Server::start();
    let temporary = tempfile::tempdir().unwrap();
    let page = format!("http://{}/page", server.authority);
    let args = [
        "bench",
        "--duration",
        "6s",
        "--rate",
        "50",
        "--connections",
        "2",
    ];
    let args = [&args[..], &["--target", &page, "-o", "json"]].concat();
    let mut command = home.command(&args);
    command.env("TMPDIR", temporary.path());
    let report = home.finish(command, "").exits(0).json();
    let paths = report["paths"].as_array().unwrap();
    let names: Vec<&str> = paths
        .iter()
        .filter_map(|path| path["path"].as_str())
        .collect();
    assert_eq!(names, ["direct", "oneHop", "twoHops"]);
    let mut requests = 0;
    for path in paths {
        assert_eq!(path["failed"], 0, "{path}");
        // Fifty a second for a fifteenth of the time, five times, and more as fast as they come.
        assert!(path["requests"].as_u64().unwrap() > 40, "{path}");
        requests += path["requests"].as_u64().unwrap();
        let cpu = path["cpuMicrosPerRequest"].as_f64();
        assert_eq!(cpu.is_some(), path["path"] != "direct", "{path}");
        assert!(cpu.is_none_or(|cpu| cpu > 1.0), "{path}");
    }
    // What warmed up counts for nobody, and none was answered by somebody else.
    assert!(server.answered.load(Ordering::Relaxed) >= requests + 600);
    // By its own name, whichever way.
    assert_eq!(
        *server.hosts.lock().unwrap(),
        BTreeSet::from([server.authority.clone()])
    );
    let verdict = report["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("Two sidecars with mutual TLS add "),
        "{verdict}"
    );
    let left: Vec<_> = temporary.path().read_dir().unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_does_not_answer_well_is_named_before_anything_starts() {
    let home = Home::new();
    let server = Server::start();
    let nowhere = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for (target, words) in [
        (format!("http://{}/other", server.authority), "404"),
        (format!("http://{nowhere}/"), "connect: connection refused"),
    ] {
        let outcome = home.run(&["bench", "--target", &target]).exits(1);
        assert!(outcome.stderr.contains(words), "{outcome}");
        assert!(outcome.stderr.contains("hint: "), "{outcome}");
        assert!(!outcome.stderr.contains("Start a mesh"), "{outcome}");
    }
    home.run(&["bench", "--duration", "1s"]).exits(2);
    home.run(&["bench", "--target", "https://shop/"]).exits(2);
}
