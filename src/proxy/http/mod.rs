//! HTTP: requests from either version carried to either version.
//!
//! `h1` and `h2` speak the protocols, [`leg`] gives both sides of an exchange one shape, [`head`]
//! rewrites heads from either form into either form without a header map where both are HTTP/1,
//! [`call`] sends a request to endpoints until one answers, and [`respond`] says what every way to
//! fail looks like to the caller.

pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod authority;
pub(crate) mod call;
pub(crate) mod control;
mod decide;
pub(crate) mod drive;
mod edits;
pub(crate) mod facts;
pub(crate) mod fields;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod hash;
mod head;
mod hold;
mod judge;
pub(crate) mod leg;
pub(crate) mod marks;
mod name;
pub(crate) mod plan;
pub(crate) mod recode;
mod record;
pub(crate) mod replay;
pub(crate) mod respond;
mod rewrite;
mod session;
pub(crate) mod target;
mod telling;
pub(crate) mod tunnel;
pub(crate) mod upgrade;

/// Which HTTP the caller speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// As logs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    #[default]
    None,
    /// After this many bytes.
    Length(u64),
    /// By its coding (or, over HTTP/2, by its last frame).
    Chunked,
    /// With the connection.
    Close,
}
