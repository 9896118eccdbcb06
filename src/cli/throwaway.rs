//! A mesh for the length of a command: a home that nobody else has, what runs in it, and their end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::api::local::{LocalStatus, PodStatus};
use crate::api::registry::InstanceReport;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::local;
use crate::rt::now;

/// How long anything that was asked for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A home of its own, and the supervisor in it.
#[derive(Debug)]
pub(crate) struct Throwaway {
    home: PathBuf,
    client: Client,
    started: bool,
}

/// Resolves when the user wants to stop.
pub(crate) async fn interrupted() {
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

impl Throwaway {
    /// Makes the home, whose name has `what` it is for.
    pub(crate) fn new(what: &str) -> Result<Self, CliError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let home = std::env::temp_dir().join(format!("meshctl-{what}-{}", std::process::id()));
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

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A file in the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Brings up what `manifests`, files in the home, say in `namespace`, without root and without access logs (what
    /// is measured is the mesh, not how fast lines are written), and waits until all of it is ready.
    pub(crate) async fn start(
        &mut self,
        manifests: &[&str],
        namespace: &str,
    ) -> Result<(), CliError> {
        self.started = true;
        self.command(&["install"]).await?;
        let files = manifests
            .iter()
            .map(|name| self.path(name).display().to_string());
        let files: Vec<String> = files.collect();
        let mut args = vec!["-n", namespace, "up", "--detach"];
        args.extend(["--isolation", "process", "--access-log", "off"]);
        args.extend(files.iter().map(String::as_str));
        self.command(&args).await?;
        self.all_ready().await?;
        Ok(())
    }

    /// Runs one of our own commands on this home.
    pub(crate) async fn command(&self, args: &[&str]) -> Result<(), CliError> {
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

    /// Asks `question` until it has an answer.
    pub(crate) async fn eventually<T>(
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
                        what: "a mesh for the length of this command".to_owned(),
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
    pub(crate) async fn pods(&self) -> Result<Vec<PodStatus>, CliError> {
        Ok(self.status().await?.pods)
    }

    /// The first pod of `service`.
    pub(crate) async fn pod(&self, service: &str) -> Result<PodStatus, CliError> {
        let pods = self.pods().await?;
        pods.into_iter()
            .find(|pod| pod.service == service)
            .ok_or_else(|| CliError::failed(format!("no pod of {service} runs")))
    }

    /// Waits until every pod is ready, for the registry too.
    pub(crate) async fn all_ready(&self) -> Result<(), CliError> {
        self.eventually(async || {
            let pods = self.pods().await?;
            let ready = pods.iter().all(|pod| pod.ready) && self.healthy().await? >= pods.len();
            Ok(ready.then_some(()))
        })
        .await
    }

    /// Instances that may be called.
    pub(crate) async fn healthy(&self) -> Result<usize, CliError> {
        let instances: Vec<InstanceReport> = self.client.get("/registry/instances").await?;
        Ok(instances
            .iter()
            .filter(|report| report.instance.health == crate::mesh::Health::Healthy)
            .count())
    }

    /// Ends everything and removes the home.
    pub(crate) async fn clear(&mut self) -> Result<(), CliError> {
        if self.started {
            local::client::down(&self.home, PATIENCE)
                .await
                .map_err(|error| CliError::failed(error.to_string()))?;
            self.started = false;
        }
        remove(&self.home)
    }
}

impl Drop for Throwaway {
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
