//! The data path: what happens to a connection between two workloads.
//!
//! Owns sockets, protocols, balancing, pools, retries and the numbers about them. What should
//! happen is decided elsewhere and arrives as a [`View`](crate::mesh::View); which route matches is
//! `mesh::route`; who is trusted is `tls`.
//!
//! One thread a core serves connections ([`worker`]): its own runtime, its own listening sockets,
//! its own pools, and futures that never leave it. One further thread, the caller's, does
//! everything else ([`run`]): it builds [`tables`] from views and hands them to the workers. A
//! request keeps the tables that it began with.
//!
//! A connection goes `accept` → `detect` → TLS → `http` or `tcp`. System calls are what a request
//! costs, so one read and one write a message and side is the aim everywhere: heads are edited
//! while they are copied from the read buffer to the write buffer, and bodies leave with them.

pub mod client;
pub mod control_link;
pub mod handover;
pub mod identity;
pub mod registration;
pub mod replicas;
pub mod sidecar;

mod accept;
mod access_log;
mod admin;
mod application;
mod balance;
mod believed;
mod buffer;
mod client_cert;
mod connect;
mod context;
mod control;
mod credentials;
mod detect;
mod dns;
mod filter;
mod ext_authz;
mod first_word;
mod fixed;
mod health;
mod http;
mod introduced;
mod jwt;
mod limit;
mod listening;
mod observe;
mod options;
mod origination;
mod overload;
mod pool;
mod rbac;
pub mod push;
pub mod reading;
mod resolve;
mod retired;
mod run;
mod stats;
mod stream;
mod tables;
mod taken;
mod tap;
mod tcp;
mod timer;
mod tls;
mod trace;
mod tunnel;
mod unary;
mod worker;

pub use access_log::Writers;
pub use application::{AppPages, Metrics};
pub use fixed::{Side, SideProtocol, static_view};
pub use options::{AccessLog, Options};
pub use overload::OverloadOptions;
pub use run::{ProxyError, run, run_after, run_with};
pub use tap::Taps;
pub use trace::{Collector, TraceOptions};
