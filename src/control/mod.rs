//! The control plane: one writer of the world, and everything that serves it.

pub mod ca;
pub mod canary;
pub mod serve_tls;
pub mod token;
