//! The data path.

pub mod control_link;
pub mod identity;
pub mod registration;
