//! The control plane: one writer of the world, and everything that serves it.

pub mod canary;
