//! The mesh in one crate.
//!
//! A service mesh is a compiler with a network at both ends. What people write and what the world
//! is go in at the front; out comes one small program per proxy, which the data path executes.
//! Modules are listed in dependency order: each may use only the ones above it, and
//! `tests/architecture.rs` checks that.
//!
//! | arrow | where | kind |
//! |---|---|---|
//! | outside → objects | [`source`] | I/O |
//! | text → object | [`resource::parse`] | pure |
//! | objects → world | [`resource::lower`] | pure |
//! | world → view | [`mesh::world`] | pure |
//! | view → wire → view | [`xds`] | pure |
//! | view → tables → connections | [`proxy`] | I/O |
//! | events → series → report | [`telemetry`], [`aggregate`] | pure at the core |
//! | report → text | [`cli`] | pure at the core |

// Foundations: know nothing about meshes.
pub mod rt;
pub mod net;

// Vocabulary.
pub mod mesh;
pub mod api;
pub mod jwt;
pub mod telemetry;
pub mod tls;

// Configuration in.
pub mod resource;
pub mod source;

// The wire.
pub mod xds;

// Two programs that never import each other.
pub mod proxy;
pub mod aggregate;
pub mod inject;
pub mod install;
pub mod control;
pub mod local;

// Faces.
pub mod dashboard;
pub mod cli;
