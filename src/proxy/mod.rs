//! The data path.

pub mod identity;
pub mod registration;
