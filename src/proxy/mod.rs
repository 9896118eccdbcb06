//! The data path.

pub mod client;
pub mod control_link;
pub mod identity;
pub mod registration;
