//! The control plane with sources that are no cluster: the real binary against an agent of Consul, a name
//! server and a directory, all of our own.

mod agent;
mod consul;
mod dns;
mod files;
mod server;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(20);

/// A control plane.
struct Plane {
    dir: TempDir,
    control: Option<Child>,
    args: Vec<String>,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Plane {
    fn start(args: &[&str]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), args)
    }

    fn in_dir(dir: TempDir, args: &[&str]) -> Self {
        let mut plane = Self {
            dir,
            control: None,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        };
        let installed = plane.run(&["install"]);
        assert!(installed.status.success(), "{installed:?}");
        plane.serve();
        plane
    }

    /// Starts it, again perhaps.
    fn serve(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = self.command(&["control-plane"]);
        for port in ["--xds-port", "--tls-port", "--api-port", "--metrics-port"] {
            command.args([port, "0"]);
        }
        let control = command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.control = Some(control);
    }

    fn stop(&mut self) {
        if let Some(mut control) = self.control.take() {
            // It may be gone already.
            drop(control.kill());
            drop(control.wait());
        }
    }

    async fn ready(self) -> Self {
        self.until("everything", "/ready", |(status, _)| *status == 200)
            .await;
        self
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.home())
            .env("MESHCTL_HOME", self.home());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command, for its JSON.
    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Asks the API, or says that nobody answers yet.
    async fn ask(&self, path: &str) -> (u16, Value) {
        let Ok(stream) = UnixStream::connect(self.home().join("control/api.sock")).await else {
            return (0, Value::Null);
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .unwrap();
        let asked = async {
            let request = Request::get(format!("/api/v1{path}"))
                .header("host", "meshctl")
                .body(Full::default())
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or_default())
        };
        tokio::select! {
            answer = asked => answer,
            ended = connection => panic!("{ended:?}"),
        }
    }

    async fn until(&self, what: &str, path: &str, done: impl Fn(&(u16, Value)) -> bool) -> Value {
        let deadline = meshctl::rt::now() + PATIENCE;
        loop {
            let answer = self.ask(path).await;
            if done(&answer) {
                return answer.1;
            }
            assert!(
                meshctl::rt::now() < deadline,
                "waited in vain for {what}: {answer:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until these are the endpoints of `service`: `ADDRESS:PORT HEALTH`.
    async fn until_endpoints(&self, service: &str, expected: &[&str]) {
        let path = format!("/endpoints?service={service}");
        let what = format!("{expected:?} of {service}");
        self.until(&what, &path, |(_, rows)| endpoints(rows) == expected)
            .await;
    }

    /// Waits until the check of the only source is like this; gives it.
    async fn until_source(&self, status: &str, says: &str) -> Value {
        let check = self
            .until(&format!("{status}: {says}"), "/check", |(_, report)| {
                source_of(report).is_some_and(|check| {
                    check["status"] == status
                        && check["detail"]
                            .as_str()
                            .is_some_and(|said| said.contains(says))
                })
            })
            .await;
        source_of(&check).unwrap().clone()
    }
}

fn source_of(report: &Value) -> Option<&Value> {
    let sections = report["sections"].as_array()?;
    let sources = sections.iter().find(|section| section["name"] == "sources");
    sources?["checks"].get(0)
}

/// Each once, whatever the ports by which it is called, in order.
fn endpoints(rows: &Value) -> Vec<String> {
    let rows = rows.as_array();
    let all: BTreeSet<String> = rows
        .into_iter()
        .flatten()
        .map(|row| {
            format!(
                "{} {}",
                row["address"].as_str().unwrap(),
                row["health"].as_str().unwrap()
            )
        })
        .collect();
    all.into_iter().collect()
}

/// The row of an address.
fn row_at<'a>(rows: &'a Value, address: &str) -> &'a Value {
    let found = rows.as_array().unwrap().iter();
    let mut found = found.filter(|row| row["address"] == address);
    found
        .next()
        .unwrap_or_else(|| panic!("no {address} in {rows}"))
}

/// Writes `text` beside `path` and puts it into its place at once.
fn write(path: &Path, text: &str) {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(&aside, path).unwrap();
}
