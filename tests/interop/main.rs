//! Programs of others against ours: Envoy and gRPC on our xDS, curl, nghttp2 and openssl through
//! sidecars, and what they all see while the mesh is changed and broken.
//!
//! They come from virtual environments that `venvs.sh` makes. Without those the tests say so
//! and pass on a developer's machine, and fail where `CI` is set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a failed step should fail the test"
)]

mod access_logs;
#[path = "../it/elsewhere/agent.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod agent;
mod attacks;
mod attested;
mod authority;
mod authorization;
mod backend;
mod changed;
mod changed_gateway;
mod consul;
mod dashboard;
mod definitions;
#[path = "../it/proxy/corpus.rs"]
mod corpus;
mod doors;
mod eastwest;
mod ejected;
mod edges;
mod envoy;
mod envoy_chains;
mod ext_authz;
mod ext_authz_bytes;
mod faults;
mod figures;
mod forged;
mod gate;
mod gateway;
mod gateway_api;
mod gateway_streams;
mod gateway_tls;
mod grpc;
mod helm;
mod hot_restart;
mod idle;
mod imported;
mod ingress;
mod joined;
mod outside;
mod key_sets;
mod left;
mod load;
mod log_services;
mod lasting;
mod mesh;
mod misbehaving;
mod pages;
mod pods;
mod power_cut;
mod processes;
#[path = "../it/proxy/raw_http2.rs"]
#[allow(
    dead_code,
    reason = "shared with tests within the process, which use all of it"
)]
mod raw_http2;
mod rollouts;
mod rollouts_asked;
mod rollouts_ways;
mod scoped;
mod shadows;
mod shaken;
mod short_of_files;
mod sidecars;
mod signer;
mod smuggling;
mod soak;
#[path = "../it/proxy/spellings.rs"]
mod spellings;
mod stand;
mod steady;
mod stream;
mod strict;
mod tap;
mod tcp_backends;
mod tokens;
mod top;
mod traced;
mod traffic;
mod validated;
mod websocket;
mod writer;
