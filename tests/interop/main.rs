//! Programs of others against ours: Envoy and gRPC on our xDS, curl, nghttp2 and openssl through
//! sidecars, and what they all see while the mesh is changed and broken.
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
mod joined;
mod load;
mod mesh;
mod power_cut;
mod processes;
mod sidecars;
mod soak;
mod stand;
mod steady;
mod strict;
mod writer;
