//! HTTP/2 in both directions: a core without a socket, and thin tasks around it.
//!
//! [`session`] holds the state of a connection; frames come in by `receive` and go out by `send`.
//! [`hpack`] turns header blocks into a [`block`] and back, [`guard`] bounds what a peer may do for
//! nothing, and a `handle` is a stream as its user holds it. `carry` moves the bytes of a
//! connection's socket: one read brings the frames of many streams, one write takes them.

pub(crate) mod block;
mod carry;
pub(crate) mod client;
pub(crate) mod config;
mod control;
pub(crate) mod frame;
mod guard;
pub(crate) mod handle;
mod hpack;
mod receive;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod stream;

#[cfg(test)]
mod tests;
