//! Where objects come from: files, the embedded store, Kubernetes, memory.
//!
//! Owns getting at them and keeping them; what they say is left to `resource`, and what they mean
//! to `resource::lower`.

pub mod files;
pub mod kubernetes;
pub mod store;
