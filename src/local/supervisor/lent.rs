//! What the caller lends: whoever can talk to the control plane.

use futures_util::future::BoxFuture;

use crate::local::plan::Pod;

/// The control plane, as far as running pods needs it. Errors are in words for people.
pub trait Mesh: std::fmt::Debug + Send + Sync + 'static {
    /// Whether it answers and is ready.
    fn ready(&self) -> BoxFuture<'_, bool>;

    /// Called once it is ready and before any pod starts: the place to apply manifests.
    fn prepare(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// A token with which the sidecar of `pod` joins; asked for at every start of the sidecar.
    /// `None` starts it without one.
    fn join_token<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<Option<String>, String>>;

    /// Told whenever a pod becomes ready or stops being so.
    fn pod_ready<'a>(&'a self, _pod: &'a Pod, _ready: bool) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

/// No control plane at all: pods run, their sidecars are on their own.
#[derive(Debug, Clone, Copy)]
pub struct NoMesh;

impl Mesh for NoMesh {
    fn ready(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { true })
    }

    fn join_token<'a>(&'a self, _: &'a Pod) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async { Ok(None) })
    }
}
