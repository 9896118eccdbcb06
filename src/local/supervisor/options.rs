//! What `up` is asked to run, and how.

use std::path::PathBuf;
use std::time::Duration;

use crate::local::plan::Isolation;
use crate::local::spec::Workload;

/// The variables of the caller that [`Options::base_env`] should have.
pub const INHERITED: [&str; 8] = [
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "TERM",
];

/// What `up` runs and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The mesh's home; everything of this run is under `local` in it.
    pub home: PathBuf,
    /// Our own executable, which is also every sidecar and the control plane.
    pub executable: PathBuf,
    /// How pods are kept apart; `netns` needs root.
    pub isolation: Isolation,
    /// What to run.
    pub workloads: Vec<Workload>,
    /// Handed on to every process: `PATH`, `HOME`, `LANG`, `TZ` and their like.
    pub base_env: Vec<(String, String)>,
    /// For sidecars and the control plane only, on top of `base_env`.
    pub own_env: Vec<(String, String)>,
    /// More arguments for every sidecar.
    pub sidecar_args: Vec<String>,
    /// The control plane that sidecars are to use.
    pub control_plane: ControlPlane,
    /// How long the control plane may take to become ready.
    pub patience: Duration,
}

/// How the control plane is started and found. `$(LISTEN_IP)` stands for an address that every pod
/// of this run reaches and nobody else uses: 127.x.y.1, or the bridge with `netns`.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// Arguments after the executable; none when the caller runs it himself.
    pub args: Option<Vec<String>>,
    /// `host:port` for sidecars.
    pub address: String,
}
