//! Where objects come from: files, the embedded store, Kubernetes, memory.

pub mod files;
pub mod store;
