//! Numbers from every proxy, merged into series and golden signals.
//!
//! Proxies push cumulative counters and histograms (`envoy.service.metrics.v3.MetricsService`).
//! [`ingest`] turns them into increments, [`series`] keeps those by edge and time slot within a
//! fixed bound, [`links`] does so for what protects connections, [`mod@edges`] holds there what both ends of
//! one say against each other, [`traces`] puts spans together, [`mod@report`] answers questions about a window. Owns what the numbers mean, and is pure:
//! the stream, the clock and the store are left to the control plane.

pub mod edges;
pub mod histogram;
pub mod ingest;
pub mod links;
pub mod report;
pub mod sample;
pub mod series;
pub mod shadows;
pub mod traces;

pub use edges::{Asked, edges};
pub use ingest::Ingest;
pub use links::Links;
pub use report::{GroupBy, Query, report, shares};
pub use sample::{Sample, Value};
pub use series::{Edge, Series};
