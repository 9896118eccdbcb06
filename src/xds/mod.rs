//! xDS v3, pure: views to Envoy's messages and back, and the protocol as state machines.
//!
//! Owns [`encode()`] (one translator a kind of client, because clients disagree), [`decode()`] (accepts
//! more than we encode, and names what it refuses), how a node introduces itself ([`node`]), and
//! both ends of the protocol without a socket ([`subscription`]). Streams, clocks and files are
//! left to `control::ads` and `proxy::client`. What ties the two programs together is one property:
//! `decode(&encode(&view)).view == view`, with nothing rejected.
//!
//! One rule for fields that we do not implement: what changes security or routing is rejected by
//! name; what only tunes is ignored and reported.

mod canonical;
pub mod decode;
pub mod encode;
#[cfg(test)]
pub(crate) mod generate;
pub mod node;
mod pb;
pub mod snapshot;
mod structs;
pub mod subscription;
pub mod tap;

pub use decode::{Decoded, Rejected, decode};
pub use encode::encode;
pub use node::{node_from_proto, node_to_proto};
pub use snapshot::{Kind, Resource, Snapshot};
