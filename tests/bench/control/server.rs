//! The control plane: a process of its own, its API, and what it costs.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meshctl::api::PREFIX;
use meshctl::control::{self, ControlOptions, api_socket};
use meshctl::rt::Drain;

/// Runs a control plane in this process until its input ends.
pub(crate) fn serve(home: &Path, xds_port: u16) {
    let options = ControlOptions {
        xds_port,
        tls_port: 0,
        metrics_port: 0,
        health_port: 0,
        ..ControlOptions::new(home)
    };
    let (drain, signal) = Drain::new();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ended = std::io::stdin().read_to_end(&mut rest).is_ok();
        drain.start();
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let ready = |addresses: &control::Addresses| println!("{}", addresses.xds);
    runtime
        .block_on(control::run(options, signal, ready))
        .unwrap();
}

pub(crate) struct Server {
    home: PathBuf,
    child: Child,
    address: SocketAddr,
}

impl Server {
    pub(crate) fn start(home: &Path) -> Self {
        let (child, address) = Self::run(home, 0);
        Self {
            home: home.to_owned(),
            child,
            address,
        }
    }

    fn run(home: &Path, port: u16) -> (Child, SocketAddr) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .args([home.as_os_str(), port.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        child.stdout = Some(out.into_inner());
        (child, address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn start_again(&mut self) {
        (self.child, self.address) = Self::run(&self.home, self.address.port());
    }

    pub(crate) fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(api_socket(&self.home)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {PREFIX}{path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{method} {path}: {answer}"
        );
        answer
    }

    pub(crate) fn apply(&self, text: &str) {
        let request = serde_json::json!({
            "sources": [{"name": "mesh.yaml", "text": text}], "namespace": "default",
        });
        self.ask("POST", "/resources", &request.to_string());
    }

    /// Waits until that many proxies are connected and have everything.
    pub(crate) fn wait_synced(&self, proxies: usize) {
        loop {
            let answer = self.ask("GET", "/proxies", "");
            if answer.matches("\"synced\":true").count() >= proxies {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Milliseconds of CPU that the process has used.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let rest = stat.rsplit_once(')').unwrap().1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        // A tick is 10 ms on every Linux that this runs on.
        (ticks(11) + ticks(12)) * 10.0
    }

    /// MiB of memory, and their peak.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            let kib = line.split_whitespace().nth(1).unwrap();
            kib.parse::<f64>().unwrap() / 1024.0
        };
        (of("VmRSS"), of("VmHWM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill().is_ok();
        let _reaped = self.child.wait().is_ok();
    }
}
