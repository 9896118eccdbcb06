//! Programs of others against the library: Envoy and gRPC on our xDS.
//!
//! They come from two virtual environments that `venvs.sh` makes. Without those the tests say so
//! and pass on a developer's machine, and fail where `CI` is set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a failed step should fail the test"
)]

mod backend;
mod envoy;
mod envoy_chains;
mod grpc;
mod processes;
mod stand;
