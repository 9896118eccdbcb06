//! Addresses, sockets and packets: bind and connect, original destination, copying, capture rules.
//!
//! Owns every system call that makes or redirects a connection, and how our own pages are served. What a connection means is decided above.

pub mod bind;
pub mod capture;
pub mod connect;
pub mod local_user;
pub(crate) mod netlink;
pub mod original;
pub mod pages;
pub mod pass;
pub mod proxy_protocol;
pub mod rules;

pub use bind::{BindOptions, Keepalive, available, bind, bind_unix, keep_alive, tune};
pub use connect::{ConnectOptions, connect, connect_any};
pub use original::{canonical, original_destination};
