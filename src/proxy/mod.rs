//! The data path.

pub mod identity;
