//! The control plane: one writer of the world, and everything that serves it.

pub mod ads;
pub mod ca;
pub mod canary;
pub mod push;
pub mod serve_tls;
pub mod token;
