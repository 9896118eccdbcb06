//! The throw-away home and what runs in it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::Version;
use crate::api::local::{LocalStatus, PodStatus};
use crate::api::registry::InstanceReport;
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::local;
use crate::rt::now;

/// The manifests, so that the demo needs no files beside the program.
const FILES: &[(&str, &str)] = &[
    (
        "bookinfo.yaml",
        include_str!("../../../examples/bookinfo/bookinfo.yaml"),
    ),
    (
        "reviews-v4.yaml",
        include_str!("../../../examples/reviews-v4.yaml"),
    ),
    (
        "destination-rule-reviews.yaml",
        include_str!("../../../examples/bookinfo/destination-rule-reviews.yaml"),
    ),
    (
        "reviews-route.yaml",
        include_str!("../../../examples/reviews-route.yaml"),
    ),
    (
        "strict-mtls.yaml",
        include_str!("../../../examples/strict-mtls.yaml"),
    ),
];
/// How long anything that was asked for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A home of its own, and the supervisor in it.
#[derive(Debug)]
pub(super) struct Stage {
    home: PathBuf,
    client: Client,
    started: bool,
}

/// Resolves when the user wants to stop.
pub(super) async fn interrupted() {
    let (Ok(mut int), Ok(mut term)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

impl Stage {
    /// Makes the home.
    pub(super) fn new() -> Result<Self, CliError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let home = std::env::temp_dir().join(format!("meshctl-demo-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(CliError::file("make", &home))?;
        Ok(Self {
            client: Client::new(crate::control::api_socket(&home)),
            home,
            started: false,
        })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Brings the shop up in `namespace` and waits until all of it is ready.
    pub(super) async fn start(&mut self, namespace: &str) -> Result<(), CliError> {
        for (name, text) in FILES {
            let path = self.path(name);
            std::fs::write(&path, text).map_err(CliError::file("write", &path))?;
        }
        self.started = true;
        let file = self.path("bookinfo.yaml");
        self.command(&["install"]).await?;
        let file = file.display().to_string();
        let bad = self.path("reviews-v4.yaml").display().to_string();
        self.command(&[
            "-n",
            namespace,
            "up",
            "--detach",
            "--isolation",
            "process",
            // What is measured is the mesh, not how fast lines are written.
            "--access-log",
            "off",
            &file,
            &bad,
        ])
        .await?;
        self.all_ready().await?;
        Ok(())
    }

    /// Runs one of our own commands on this home.
    async fn command(&self, args: &[&str]) -> Result<(), CliError> {
        let program = std::env::current_exe().map_err(CliError::file("find", "meshctl"))?;
        let output = Command::new(program)
            .arg("--home")
            .arg(&self.home)
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(CliError::file("run", "meshctl"))?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(CliError::failed(format!(
            "`meshctl {}` failed: {}",
            args.join(" "),
            words.trim()
        )))
    }

    /// Applies manifests of the demo.
    pub(super) async fn apply(
        &self,
        names: &[&str],
        namespace: &str,
    ) -> Result<ApplyReport, CliError> {
        let sources = FILES
            .iter()
            .filter(|(name, _)| names.contains(name))
            .map(|(name, text)| SourceText {
                name: (*name).to_owned(),
                text: (*text).to_owned(),
            })
            .collect();
        let request = ApplyRequest {
            sources,
            namespace: namespace.to_owned(),
            force: false,
            dry_run: false,
            who: "demo".to_owned(),
        };
        self.client.post("/resources", &request).await
    }

    /// Asks `question` until it has an answer.
    pub(super) async fn eventually<T>(
        &self,
        mut question: impl AsyncFnMut() -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        let begun = now();
        loop {
            match question().await {
                Ok(Some(answer)) => return Ok(answer),
                Err(error) if begun.elapsed() > PATIENCE => return Err(error),
                Ok(None) if begun.elapsed() > PATIENCE => {
                    return Err(CliError::Timeout {
                        what: "a step of the demo".to_owned(),
                        after: PATIENCE,
                    });
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn status(&self) -> Result<LocalStatus, CliError> {
        local::client::ps(&self.home)
            .await
            .map_err(|error| CliError::failed(error.to_string()))
    }

    /// All pods.
    pub(super) async fn pods(&self) -> Result<Vec<PodStatus>, CliError> {
        Ok(self.status().await?.pods)
    }

    /// Waits until every pod is ready, for the registry too.
    pub(super) async fn all_ready(&self) -> Result<(), CliError> {
        self.eventually(async || {
            let pods = self.pods().await?;
            let instances: Vec<InstanceReport> = self.client.get("/registry/instances").await?;
            let healthy = instances
                .iter()
                .filter(|report| report.instance.health == crate::mesh::Health::Healthy)
                .count();
            let ready = pods.iter().all(|pod| pod.ready) && healthy >= pods.len();
            Ok(ready.then_some(()))
        })
        .await
    }

    /// The address of a pod of `service`.
    pub(super) async fn pod(&self, service: &str) -> Result<IpAddr, CliError> {
        let pods = self.pods().await?;
        pods.iter()
            .find(|pod| pod.service == service)
            .and_then(|pod| pod.address.parse().ok())
            .ok_or_else(|| CliError::failed(format!("no pod of {service} runs")))
    }

    /// Where the application of `service` itself listens, behind its sidecar.
    pub(super) async fn application(&self, service: &str) -> Result<SocketAddr, CliError> {
        let pods = self.pods().await?;
        let pod = pods.iter().find(|pod| pod.service == service);
        let name = pod.map_or("", |pod| pod.name.as_str());
        let clusters: Value = self
            .client
            .get(&format!("/proxies/{name}/config/clusters"))
            .await?;
        clusters
            .pointer("/inbound|9080||/kind/static/0")
            .and_then(Value::as_str)
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| {
                CliError::failed(format!("the sidecar of {service} knows no application"))
            })
    }

    /// Ends the control plane without a word.
    pub(super) async fn kill_control_plane(&self) -> Result<(), CliError> {
        let version: Version = self.client.get("/version").await?;
        end(version.pid)
    }

    /// Waits until a control plane answers again and knows everybody.
    pub(super) async fn control_plane_back(&self) -> Result<(), CliError> {
        self.eventually(async || {
            let _: Version = self.client.get("/version").await?;
            Ok(Some(()))
        })
        .await?;
        let expected = self.pods().await?.len();
        self.eventually(async || {
            let proxies: Vec<Value> = self.client.get("/proxies").await?;
            Ok((proxies.len() >= expected).then_some(()))
        })
        .await
    }

    /// Ends the application (not the sidecar) of `workload` without a word, and waits until another
    /// one answers.
    pub(super) async fn kill_application(&self, workload: &str) -> Result<(), CliError> {
        let Some(killed) = self.application_pid(workload).await? else {
            return Err(CliError::failed(format!(
                "no application of {workload} runs"
            )));
        };
        end(killed)?;
        self.eventually(async || {
            let now = self.application_pid(workload).await?;
            Ok(now.filter(|pid| *pid != killed).map(drop))
        })
        .await?;
        self.all_ready().await
    }

    /// The process of the application of `workload`, while it runs.
    async fn application_pid(&self, workload: &str) -> Result<Option<u32>, CliError> {
        let pods = self.pods().await?;
        let pod = pods.iter().find(|pod| pod.workload == workload);
        let application = pod.and_then(|pod| {
            pod.containers
                .iter()
                .find(|container| container.name != local::plan::SIDECAR)
        });
        Ok(application.and_then(|container| container.pid))
    }

    /// Ends everything and removes the home.
    pub(super) async fn clear(&mut self) -> Result<(), CliError> {
        if self.started {
            local::client::down(&self.home, PATIENCE)
                .await
                .map_err(|error| CliError::failed(error.to_string()))?;
            self.started = false;
        }
        remove(&self.home)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.home.exists() && !self.started {
            drop(remove(&self.home));
        }
    }
}

fn remove(home: &Path) -> Result<(), CliError> {
    match std::fs::remove_dir_all(home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::file("remove", home)(error))
        }
        _ => Ok(()),
    }
}

fn end(pid: u32) -> Result<(), CliError> {
    let pid = i32::try_from(pid).map_err(|_| CliError::failed("not a process id"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)
        .map_err(|error| CliError::failed(format!("cannot kill process {pid}: {error}")))
}
