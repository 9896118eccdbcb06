//! Numbers from every proxy, merged into series and golden signals.
//!
//! Proxies push cumulative counters and histograms (`envoy.service.metrics.v3.MetricsService`).
//! [`ingest`] turns them into increments, [`series`] keeps those by edge and time within a fixed bound, [`links`]
//! does so for what protects connections, [`shadows`] for answers to copies of requests, [`ejections`] has what each
//! proxy leaves out now, [`mod@edges`] holds there
//! what both ends of one say against each other, [`traces`] puts spans together, [`query`] answers questions about a
//! window, all of them by one function. Owns what the numbers mean, and is pure:
//! the stream, the clock and the store are left to the control plane.

mod cell;
pub mod codes;
mod coding;
mod cursors;
pub mod edge;
pub mod edges;
pub mod ejections;
pub mod histogram;
pub mod ingest;
pub mod legacy;
pub mod links;
pub mod query;
pub mod report;
pub mod sample;
pub mod series;
pub mod shadows;
mod table;
pub mod traces;

pub use cell::Cell;
pub use codes::{Code, Codes};
pub use edge::{Class, Edge};
pub use edges::{Asked, edges};
pub use ejections::Ejections;
pub use ingest::{Ingest, Process};
pub use links::Links;
pub use query::{GroupBy, Query};
pub use report::{report, shares};
pub use sample::{Sample, Value};
pub use series::{Limits, Series};
