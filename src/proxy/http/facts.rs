//! What stays known of a request once its head is gone.

use super::plan::Ask;
use super::recode::{Web, WebCall};
use super::{Framing, Version};

/// What stays known of a request.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a request, each asked for by name"
)]
pub(crate) struct Facts {
    pub(crate) version: Version,
    pub(crate) framing: Framing,
    /// HEAD: the answer has no body.
    pub(crate) head: bool,
    /// Doing it twice does what doing it once does (RFC 9110, 9.2.2), or the application has a key
    /// to tell.
    pub(crate) idempotent: bool,
    pub(crate) grpc: bool,
    /// It is gRPC as a browser speaks it, and how the answer is wanted.
    pub(crate) web: Option<WebCall>,
    pub(crate) connect: bool,
    /// Asks for another protocol.
    pub(crate) upgrade: bool,
    /// The connection may carry another request.
    pub(crate) keep: bool,
    /// Some of its body was read already, and waits to be sent on.
    pub(crate) held: bool,
}

impl Facts {
    /// The body is sent on otherwise than it came.
    pub(crate) fn recodes(&self) -> bool {
        self.web.is_some_and(|web| web.body == Web::Text) && self.framing != Framing::None
    }

    /// How the end of the body is told to the endpoint.
    pub(crate) fn goes(&self) -> Framing {
        if self.recodes() {
            Framing::Chunked
        } else {
            self.framing
        }
    }
}

pub(super) fn facts(ask: &Ask<'_>, connect: bool) -> Facts {
    let connection = &ask.scan.connection;
    let keep = match ask.version {
        Version::Http10 => connection.keep_alive && !connection.close,
        Version::Http11 => !connection.close,
        Version::Http2 => true,
    };
    Facts {
        version: ask.version,
        framing: ask.framing,
        head: ask.method == b"HEAD",
        idempotent: matches!(
            ask.method,
            b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
        ) || ask.scan.idempotency_key,
        grpc: ask.scan.grpc,
        web: None,
        connect,
        upgrade: ask.upgrade.is_some(),
        keep,
        held: false,
    }
}
