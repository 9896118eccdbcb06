//! What the proxy says about itself: one struct per event, one table of metric names and units.
//!
//! Owns Istio's standard metrics, Envoy's response flags and the access-log line. The data path
//! hands over events; each worker counts into cells that only it writes ([`Recorder`]), and
//! [`Registry::gather`] adds the cells of all workers up when somebody asks. Label sets are
//! resolved once for each distinct [`HttpKey`] or [`TcpKey`], never for each request. Leaves
//! sending to `proxy` and storing to `aggregate`.

pub mod access;
pub mod changed;
pub mod ejected;
pub mod event;
pub mod flag;
mod grpc_status;
pub mod line;
pub mod link;
pub mod names;
pub mod openmetrics;
pub mod otlp;
pub mod otlp_logs;
pub mod recorder;
pub mod registry;
pub mod shadow;
pub mod shown;
pub mod text;
pub mod told;

pub use access::{AccessRecord, LogFormat};
pub use event::{
    HttpKey, PeerId, PeerLabels, Protocol, Reporter, RouteId, Security, ServiceId, TcpKey,
};
pub use flag::Flag;
pub use line::Place;
pub use link::{Link, LinkKey, Linked, Protection, Why};
pub use recorder::{Exemplar, Recorder, TcpCells};
pub use registry::{Family, Gauge, Registry, Sample, Value};
pub use shown::Shown;
pub use told::Told;
