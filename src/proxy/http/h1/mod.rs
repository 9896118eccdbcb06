//! HTTP/1: reading heads and bodies, and serving a connection.

pub(crate) mod body;
pub(crate) mod chunked;
mod lane;
pub(crate) mod parse;
pub(crate) mod request;
pub(crate) mod serve;
