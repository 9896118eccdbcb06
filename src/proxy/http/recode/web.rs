//! gRPC as browsers speak it (gRPC-Web): trailers as the last frame of the body, and all of it as
//! base64 where a browser can only take text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::fields::Fields;
use super::super::leg::{LegError, Trailers};

/// What a frame of trailers begins with.
const TRAILERS: u8 = 0x80;

/// How a browser takes its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Web {
    Binary,
    Text,
}

/// A call of a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WebCall {
    /// How its body is written.
    pub(crate) body: Web,
    /// How its answer is to be written.
    pub(crate) answer: Web,
}

impl WebCall {
    /// What a request with these fields is, if it is one of these.
    pub(crate) fn of(fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            body: Web::named(fields.first("content-type")?)?,
            answer: Web::wanted(fields),
        })
    }
}

impl Web {
    /// Of the value of a field.
    fn named(value: &[u8]) -> Option<Self> {
        let kind = value.split(|byte| *byte == b';').next()?.trim_ascii();
        let kind = kind.to_ascii_lowercase();
        let form = kind.strip_prefix(b"application/grpc-web")?;
        match form.strip_prefix(b"-text") {
            Some(rest) => matches!(rest.first(), None | Some(b'+')).then_some(Self::Text),
            None => matches!(form.first(), None | Some(b'+')).then_some(Self::Binary),
        }
    }

    /// How the answer to it is to be written: as text for who asks for that, else as bytes (Envoy).
    fn wanted(fields: Fields<'_>) -> Self {
        let accepts = fields.first("accept").unwrap_or_default();
        let mut kinds = accepts.split(|byte| *byte == b',');
        if kinds.any(|kind| Self::named(kind.trim_ascii()) == Some(Self::Text)) {
            Self::Text
        } else {
            Self::Binary
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web+proto",
            Self::Text => "application/grpc-web-text+proto",
        }
    }
}

/// Whether an answer is gRPC. What is not, such as an error page, stays as it is.
pub(super) fn is_grpc(fields: Fields<'_>) -> bool {
    let kind = fields.first("content-type").unwrap_or_default();
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The body of a request, from text to bytes.
#[derive(Debug, Default)]
pub(crate) struct WebRequest {
    /// Of a group of four letters that has not come whole.
    begun: Vec<u8>,
}

impl WebRequest {
    pub(super) fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LegError> {
        self.begun.extend_from_slice(data);
        let whole = self.begun.len() - self.begun.len() % 4;
        // What was made of several messages has padding in the middle.
        for group in self.begun.get(..whole).unwrap_or_default().chunks(4) {
            STANDARD
                .decode_vec(group, out)
                .map_err(|_| LegError::Malformed)?;
        }
        self.begun.drain(..whole);
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), LegError> {
        if self.begun.is_empty() {
            Ok(())
        } else {
            Err(LegError::Malformed)
        }
    }
}

/// The body of an answer, with its trailers.
#[derive(Debug)]
pub(crate) struct WebAnswer {
    form: Web,
    /// Of a group of three bytes that has not come whole.
    begun: Vec<u8>,
}

impl WebAnswer {
    pub(super) fn new(form: Web) -> Self {
        Self {
            form,
            begun: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if self.form == Web::Binary {
            out.extend_from_slice(data);
            return;
        }
        self.begun.extend_from_slice(data);
        let whole = self.begun.len() - self.begun.len() % 3;
        encode(self.begun.get(..whole).unwrap_or_default(), out);
        self.begun.drain(..whole);
    }

    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        encode(&self.begun, out);
        self.begun.clear();
    }

    pub(super) fn finish(&mut self, trailers: Trailers<'_>, out: &mut Vec<u8>) {
        self.flush(out);
        let mut lines = Vec::new();
        trailers.each(|name, value| {
            lines.extend_from_slice(&name.to_ascii_lowercase());
            lines.extend_from_slice(b":");
            lines.extend_from_slice(value);
            lines.extend_from_slice(b"\r\n");
        });
        // An answer of nothing but a head has its status there.
        if lines.is_empty() {
            return;
        }
        let mut frame = vec![TRAILERS];
        frame.extend_from_slice(&u32::try_from(lines.len()).unwrap_or(u32::MAX).to_be_bytes());
        frame.append(&mut lines);
        match self.form {
            Web::Binary => out.append(&mut frame),
            Web::Text => encode(&frame, out),
        }
    }
}

fn encode(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        out.extend_from_slice(STANDARD.encode(data).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_are_told_by_their_names() {
        let named = |text: &str| Web::named(text.as_bytes());
        assert_eq!(named("application/grpc-web"), Some(Web::Binary));
        assert_eq!(named("application/grpc-web+proto"), Some(Web::Binary));
        assert_eq!(
            named("Application/gRPC-Web-Text; charset=utf-8"),
            Some(Web::Text)
        );
        assert_eq!(named("application/grpc-web-text+proto"), Some(Web::Text));
        for other in [
            "application/grpc",
            "application/grpc-webby",
            "application/grpc-web-texts",
            "",
        ] {
            assert_eq!(named(other), None, "{other}");
        }
    }

    #[test]
    fn trailers_become_the_last_frame() {
        let lines = b"grpc-status: 0\r\nGrpc-Message: fine\r\n";
        let frame = b"\x80\0\0\0\x23grpc-status:0\r\ngrpc-message:fine\r\n";
        let mut out = Vec::new();
        WebAnswer::new(Web::Binary).finish(Trailers::Text(lines), &mut out);
        assert_eq!(out[5..], frame[5..]);
        assert_eq!(usize::from(out[4]), out.len() - 5);
        let mut text = Vec::new();
        WebAnswer::new(Web::Text).finish(Trailers::Text(lines), &mut text);
        assert_eq!(STANDARD.decode(text).unwrap(), out);
        let mut none = Vec::new();
        WebAnswer::new(Web::Text).finish(Trailers::None, &mut none);
        assert!(none.is_empty());
    }

    #[test]
    fn text_that_is_none_is_refused() {
        let mut out = Vec::new();
        let mut request = WebRequest::default();
        assert!(request.put(b"AAAA*", &mut out).is_ok());
        assert!(request.put(b"AAA", &mut out).is_err());
        let mut request = WebRequest::default();
        assert!(request.put(b"AAAAA", &mut out).is_ok() && request.finish().is_err());
    }

    proptest! {
        /// Whatever the pieces, and with padding wherever the other side flushed.
        #[test]
        fn text_is_read_as_it_was_written(
            parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..8),
            step in 1..9_usize,
        ) {
            let (mut writer, mut text, mut whole) = (WebAnswer::new(Web::Text), Vec::new(), Vec::new());
            for (part, flush) in &parts {
                writer.put(part, &mut text);
                whole.extend_from_slice(part);
                if *flush {
                    writer.flush(&mut text);
                }
            }
            writer.finish(Trailers::None, &mut text);
            let (mut reader, mut out) = (WebRequest::default(), Vec::new());
            for piece in text.chunks(step) {
                prop_assert!(reader.put(piece, &mut out).is_ok());
            }
            prop_assert!(reader.finish().is_ok());
            prop_assert_eq!(out, whole);
        }
    }
}
