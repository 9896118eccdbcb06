//! HTTP/2 in both directions, over the `h2` crate.

pub(crate) mod client;
pub(crate) mod serve;

/// What one stream may have under way before it is passed on.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// What all streams of a connection may; well above one stream's, or one that stalls blocks all.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Largest frame that we take.
pub(crate) const FRAME: u32 = 64 * 1024;
