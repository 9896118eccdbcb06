//! What the demo does to its mesh: applies, asks, kills.

use std::net::{IpAddr, SocketAddr};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::api::Version;
use crate::api::local::PodStatus;
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::throwaway::Throwaway;
use crate::local;

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
/// The throw-away mesh that the demo runs in.
#[derive(Debug)]
pub(super) struct Stage {
    mesh: Throwaway,
}

impl Stage {
    /// Makes the home.
    pub(super) fn new() -> Result<Self, CliError> {
        let mesh = Throwaway::new("demo")?;
        Ok(Self { mesh })
    }

    pub(super) fn client(&self) -> &Client {
        self.mesh.client()
    }

    /// Brings the shop up in `namespace` and waits until all of it is ready.
    pub(super) async fn start(&mut self, namespace: &str) -> Result<(), CliError> {
        for (name, text) in FILES {
            let path = self.mesh.path(name);
            std::fs::write(&path, text).map_err(CliError::file("write", &path))?;
        }
        let manifests = ["bookinfo.yaml", "reviews-v4.yaml"];
        self.mesh.start(&manifests, namespace).await
    }

    /// Asks `question` until it has an answer.
    pub(super) async fn eventually<T>(
        &self,
        question: impl AsyncFnMut() -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        self.mesh.eventually(question).await
    }

    /// All pods.
    pub(super) async fn pods(&self) -> Result<Vec<PodStatus>, CliError> {
        self.mesh.pods().await
    }

    /// Ends everything and removes the home.
    pub(super) async fn clear(&mut self) -> Result<(), CliError> {
        self.mesh.clear().await
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
        self.client().post("/resources", &request).await
    }

    /// The address of a pod of `service`.
    pub(super) async fn pod(&self, service: &str) -> Result<IpAddr, CliError> {
        let pod = self.mesh.pod(service).await?;
        let address = pod.address.parse();
        address.map_err(|_| CliError::failed(format!("{} has no address", pod.name)))
    }

    /// Where the application of `service` itself listens, behind its sidecar.
    pub(super) async fn application(&self, service: &str) -> Result<SocketAddr, CliError> {
        let name = self.mesh.pod(service).await?.name;
        let clusters: Value = self
            .client()
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
        let version: Version = self.client().get("/version").await?;
        end(version.pid)
    }

    /// Waits until a control plane answers again and knows everybody.
    pub(super) async fn control_plane_back(&self) -> Result<(), CliError> {
        self.eventually(async || {
            let _: Version = self.client().get("/version").await?;
            Ok(Some(()))
        })
        .await?;
        let expected = self.pods().await?.len();
        self.eventually(async || {
            let proxies: Vec<Value> = self.client().get("/proxies").await?;
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
        self.mesh.all_ready().await
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
}

fn end(pid: u32) -> Result<(), CliError> {
    let pid = i32::try_from(pid).map_err(|_| CliError::failed("not a process id"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)
        .map_err(|error| CliError::failed(format!("cannot kill process {pid}: {error}")))
}
