//! Answers of the proxy's own.

use crate::mesh::http::ServerOptions;

use super::Version;
use super::edits::Edits;
use super::fields::UNDELIVERED;
use super::h2::send::HeadWriter;
use super::head::{Sink, connection, put_length, status_line};
use super::marks::AnswerMarks;
use super::recode::Web;
use super::respond::reason;

/// An answer of the proxy's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) body: String,
    pub(crate) overloaded: bool,
    /// Tells a peer's proxy that the application never got the request.
    pub(crate) undelivered: bool,
    /// Further fields.
    pub(crate) headers: Vec<(String, String)>,
    /// Answer as gRPC: status 200, this `grpc-status`, and the body as message.
    pub(crate) grpc_status: Option<u8>,
    /// As browsers take gRPC.
    pub(crate) web: Option<Web>,
    /// What it tells the caller about the proxy, where that is not the usual.
    pub(crate) marks: Option<Box<AnswerMarks>>,
}

impl Answer {
    /// Sends the caller to `path` of the same host.
    pub(super) fn elsewhere(mut path: Vec<u8>) -> Self {
        if let [b'/', b'/' | b'\\', ..] = *path {
            // "//name" would be another host.
            path.splice(..0, *b"/.");
        }
        Self {
            status: 307,
            location: Some(String::from_utf8_lossy(&path).into_owned()),
            ..Self::default()
        }
    }

    fn fields(&self, sink: &mut impl Sink, edits: Edits<'_>) {
        if let Some(location) = &self.location {
            sink.put(b"location", location.as_bytes());
        }
        if let Some(status) = self.grpc_status {
            let mut text = itoa::Buffer::new();
            let kind = self.web.map_or("application/grpc", Web::content_type);
            sink.put(b"content-type", kind.as_bytes());
            sink.put(b"grpc-status", text.format(status).as_bytes());
            sink.put(b"grpc-message", self.body.as_bytes());
        } else if !self.body.is_empty() && !self.says("content-type") {
            sink.put(b"content-type", b"text/plain");
        }
        if self.overloaded {
            sink.put(b"x-envoy-overloaded", b"true");
        }
        if self.undelivered {
            sink.put(UNDELIVERED.as_bytes(), b"true");
        }
        for (name, value) in &self.headers {
            // What says it in gRPC's way is of no other type.
            if self.grpc_status.is_some() && name.eq_ignore_ascii_case("content-type") {
                continue;
            }
            sink.put(name.as_bytes(), value.as_bytes());
        }
        match &self.marks {
            None => sink.put(b"server", ServerOptions::NAME.as_bytes()),
            Some(marks) => marks.each_own(|name, value| sink.put(name.as_bytes(), value)),
        }
        edits.write(|name| self.has(name), sink);
    }

    fn says(&self, name: &str) -> bool {
        let mut own = self.headers.iter();
        own.any(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    /// Whether it has a field of its own with this lower-case name.
    fn has(&self, name: &str) -> bool {
        match name {
            "location" => self.location.is_some(),
            "content-type" => {
                self.grpc_status.is_some() || !self.body.is_empty() || self.says(name)
            }
            "server" | "content-length" => true,
            _ => self.says(name),
        }
    }

    fn status(&self) -> u16 {
        if self.grpc_status.is_some() {
            200
        } else {
            self.status
        }
    }

    /// The body as it is sent.
    pub(crate) fn body(&self) -> &[u8] {
        if self.grpc_status.is_some() {
            &[]
        } else {
            self.body.as_bytes()
        }
    }

    /// Appends the whole answer as HTTP/1.1.
    pub(crate) fn write_text(
        &self,
        out: &mut Vec<u8>,
        edits: Edits<'_>,
        (close, version, head): (bool, Version, bool),
    ) {
        status_line(out, self.status(), reason(self.status()));
        self.fields(out, edits);
        put_length(out, u64::try_from(self.body().len()).unwrap_or(0));
        connection(out, close, version);
        out.extend_from_slice(b"\r\n");
        if !head {
            out.extend_from_slice(self.body());
        }
    }

    /// Writes the head as HTTP/2.
    pub(crate) fn write_h2(&self, edits: Edits<'_>, out: &mut HeadWriter<'_>) {
        out.status(self.status());
        self.fields(out, edits);
    }
}
