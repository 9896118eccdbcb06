//! A proxy that may open no more files: it waits, says so, and goes on when it can.

use std::process::{Command, Stdio};
use std::time::Duration;

use meshctl::net::{ConnectOptions, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::backend::{Caller, backend};
use crate::processes::{Process, free};
use crate::stand::until;

/// More than the proxy has for itself, less than the callers want.
const FILES: usize = 64;
const CALLERS: usize = 200;

/// CPU seconds of `process`, in hundredths.
fn ticks(process: &Process) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.0.id())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let field = |at| -> u64 { fields.split_whitespace().nth(at).unwrap().parse().unwrap() };
    field(11) + field(12)
}

/// The status of the answer, if there is one.
async fn asks(stream: &mut TcpStream) -> Option<u16> {
    let ask = b"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut answer = [0; 4096];
    let reading = async {
        stream.write_all(ask).await.ok()?;
        stream.read(&mut answer).await.ok()
    };
    let read = tokio::time::timeout(Duration::from_millis(500), reading).await;
    let text = String::from_utf8_lossy(answer.get(..read.ok()??)?).into_owned();
    text.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn a_proxy_without_files_waits_for_some() {
    let tasks = Tasks::new();
    let app = backend("a", &tasks);
    let home = tempfile::tempdir().unwrap();
    let listen = free();
    let log = home.path().join("log");
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n \"$1\" && shift && exec \"$@\"",
            "sh",
            &FILES.to_string(),
        ])
        .arg(env!("CARGO_BIN_EXE_meshctl"))
        .arg("--home")
        .arg(home.path())
        .args(["proxy", "--workers", "1", "--static"])
        .arg(format!("{listen}={app}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let caller = Caller::new(listen);
    let served = async || matches!(caller.get("a", "/").await, Ok((200, _)));
    for _ in 0..200 {
        if served().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    drop(caller);
    let mut streams = Vec::new();
    for _ in 0..CALLERS {
        // The kernel completes what nobody accepts yet.
        streams.push(connect(listen, ConnectOptions::default()).await.unwrap());
    }
    let said = "connections are not accepted";
    until("the proxy to say that it is short of files", 10, || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.contains(said).then_some(())
    })
    .await;
    // It waits, and does not turn in a circle.
    let before = ticks(&process);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = ticks(&process) - before;
    assert!(used < 30, "{used} hundredths of a second");
    assert!(process.0.try_wait().unwrap().is_none(), "it ended");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.matches(said).count() < 5, "{text}");
    // Those that it could accept are told, the others wait; all are served once there are files again.
    assert_eq!(asks(&mut streams[0]).await, Some(503));
    let waits = streams.last_mut().unwrap();
    assert_eq!(asks(waits).await, None);
    drop(streams);
    let caller = Caller::new(listen);
    let mut good = 0;
    for _ in 0..400 {
        good += usize::from(matches!(caller.get("a", "/").await, Ok((200, _))));
        if good == 20 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{good} answers after the files came back");
}
