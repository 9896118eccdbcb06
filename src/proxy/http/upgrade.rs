//! Asking for another protocol: `Upgrade` of HTTP/1.1 and extended CONNECT of HTTP/2 (RFC 8441),
//! each carried as the other where the two sides differ.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::fields::Fields;

/// What RFC 6455, 1.3 adds to a key.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Another protocol that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Upgrade {
    /// Its name, such as `websocket`.
    pub(crate) protocol: Vec<u8>,
    /// What a caller by HTTP/1.1 expects as `sec-websocket-accept`.
    pub(crate) accept: Option<String>,
}

impl Upgrade {
    /// What is asked for by these fields.
    pub(crate) fn new(protocol: &[u8], fields: Fields<'_>) -> Self {
        Self {
            protocol: protocol.to_vec(),
            accept: fields.first("sec-websocket-key").map(accept),
        }
    }

    /// Whether it is a WebSocket, which has a handshake of its own over HTTP/1.1.
    pub(crate) fn is_websocket(protocol: &[u8]) -> bool {
        protocol.eq_ignore_ascii_case(b"websocket")
    }
}

/// A key for a WebSocket handshake over HTTP/1.1 that the caller did not have to make.
pub(crate) fn key() -> String {
    STANDARD.encode(fastrand::u128(..).to_be_bytes())
}

/// The answer to `key`.
fn accept(key: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    STANDARD.encode(context.finish())
}

/// Whether a field belongs to the handshake over HTTP/1.1 only (RFC 8441, 5).
pub(crate) fn is_handshake(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"sec-websocket-key")
        || name.eq_ignore_ascii_case(b"sec-websocket-accept")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_rfc_6455() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(key().len(), 24);
    }
}
