//! Behaviour through real sockets, files and processes, a module per feature.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed step should fail the test"
)]

mod ads;
mod capture;
mod elsewhere;
mod identity;
mod kubernetes;
mod local;
mod numbers;
mod proxy;
mod sample_app;
#[path = "../interop/stand.rs"]
mod stand;
mod store;
