//! Shifting the weights of a service's versions.
//!
//! Owns the edit: which objects change so that versions get the weights that were asked for. What
//! people wrote stays theirs: an existing route keeps its timeout, retries and headers, and objects
//! are only made where none serves. Pure; storing and publishing is the index's. Rollouts shift by the same edit,
//! with rules [`beside`] it, and read what came of it by [`observe`].

mod beside;
mod edit;
pub mod observe;
mod routes;

#[cfg(test)]
mod tests;

pub use beside::{is_plain, route};
pub use edit::{Shift, current, shift};
pub use routes::{current_of_routes, shift_routes, versions};
