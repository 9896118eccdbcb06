//! How a proxy is started.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::mesh::{Locality, WorkloadRef};
use crate::telemetry::LogFormat;

use super::access_log::Writers;
use super::application::AppPages;
use super::overload::OverloadOptions;
use super::tap::Taps;
use super::trace::TraceOptions;

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node id, such as `sidecar~10.0.0.7~reviews-v1-x.default~default.svc.cluster.local`.
    pub node: String,
    /// The cluster that metrics say we are in; Istio's default is `Kubernetes`.
    pub cluster_id: String,
    /// This workload, for telemetry.
    pub workload: WorkloadRef,
    /// Where this proxy runs, for zone-aware routing; where its own instance is when empty.
    pub locality: Locality,
    /// The cluster of this workload's own instances (Envoy's `local_cluster_name`), whose numbers by
    /// locality zone-aware routing goes by; when empty, one that has `address` among its endpoints.
    pub local_cluster: String,
    /// Worker threads; 0 is one for each core.
    pub workers: usize,
    /// The address to call other workloads from; the system chooses when absent.
    pub address: Option<IpAddr>,
    /// More addresses of this workload, such as those of the other family.
    pub more_addresses: Vec<IpAddr>,
    /// Connections to its addresses are redirected to this proxy, so it calls the application from one that is
    /// left alone (see [`own_source`](crate::net::capture::own_source)).
    pub captured: bool,
    /// Where the administration endpoints listen. They can end the proxy: loopback only.
    pub admin: Option<SocketAddr>,
    /// Where only health and metrics are answered, such as ports 15020, 15021 and 15090.
    pub status: Vec<SocketAddr>,
    /// Where the processes of the pod are answered besides: as `status`, and they may end the proxy. Loopback only.
    pub local: Vec<SocketAddr>,
    /// What is asked of the proxy and answered by the application, at `status` and `local`.
    pub application: AppPages,
    /// Access log; off when absent.
    pub access_log: Option<AccessLog>,
    /// Traces.
    pub tracing: TraceOptions,
    /// How long requests may take to end once the proxy is told to. Default 45 s (Istio's).
    pub drain: Duration,
    /// When to protect the proxy from running out.
    pub overload: OverloadOptions,
    /// Once told to end, it says that it is not ready, and still takes connections for this long, so
    /// that whoever balances load notices first. Default none.
    pub drain_delay: Duration,
    /// Who is asked for the names of endpoints; the machine's own servers when empty.
    pub name_servers: Vec<SocketAddr>,
    /// Told the [`Revision`](crate::mesh::Revision) of each view once all workers go by it.
    pub in_force: watch::Sender<u64>,
    /// Who looks at calls while they happen.
    pub taps: Arc<Taps>,
    /// Files of access logs.
    pub logs: Arc<Writers>,
}

/// Where an access log goes.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Its form.
    pub format: LogFormat,
    /// A file to append to; standard output when absent.
    pub path: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: String::new(),
            cluster_id: "Kubernetes".to_owned(),
            workload: WorkloadRef::default(),
            locality: Locality::default(),
            local_cluster: String::new(),
            workers: 0,
            address: None,
            more_addresses: Vec::new(),
            captured: false,
            admin: None,
            status: Vec::new(),
            local: Vec::new(),
            application: AppPages::default(),
            access_log: None,
            tracing: TraceOptions::default(),
            drain: Duration::from_secs(45),
            overload: OverloadOptions::default(),
            drain_delay: Duration::ZERO,
            name_servers: Vec::new(),
            in_force: watch::Sender::new(0),
            taps: Arc::default(),
            logs: Arc::default(),
        }
    }
}

impl Options {
    /// Whether `address` is this workload's.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.address == Some(address) || self.more_addresses.contains(&address)
    }
}
