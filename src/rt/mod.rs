//! Clocks, back-off, drain, supervised tasks and published snapshots.
//!
//! Owns what every long-running part needs and knows nothing about meshes.
