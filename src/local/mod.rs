//! Pods without Kubernetes: processes, namespaces, and the sample application.
//!
//! Owns what runs here: `meshctl up` hands over [`spec::Workload`]s. [`plan`] turns them into pods with names, addresses,
//! commands and environments (pure); [`supervisor`] runs those, restarts what dies, and answers
//! `ps`, `logs` and `down` on a socket. Nothing outlives it: children die with their parent
//! ([`entry`]), a guard process cleans up when the supervisor is killed, and `down` does the same
//! from the recorded [`state`].
//!
//! Leaves to others: reading manifests (`resource`), the control plane's API ([`supervisor::Mesh`]
//! is how the caller lends it), and what a sidecar does.

pub mod address;
pub mod app;
pub mod client;
mod cleanup;
pub mod entry;
mod error;
mod expand;
mod logs;
pub mod netns;
pub mod plan;
mod probe;
mod process;
mod socket;
pub mod spec;
mod state;
pub mod supervisor;

pub use error::LocalError;
