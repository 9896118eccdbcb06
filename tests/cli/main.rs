//! The real binary: what it prints, where, and how it ends.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::format_push_string,
    clippy::format_collect,
    reason = "helpers of tests are tests, too: they fail by panicking and run against the real clock"
)]

mod analyze;
mod bench;
mod canned;
mod changes;
mod fake;
mod help;
mod home;
mod install_sh;
mod json;
mod manifests;
mod mesh;
mod plane;
mod pipes;
mod roles;
mod run;
mod surfaces;
mod tables;
mod top;
mod unreachable;
mod usage;
