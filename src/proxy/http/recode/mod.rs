//! Bodies that leave otherwise than they came: compressed, or as browsers take gRPC.
//!
//! What an answer becomes is decided on its head ([`Answering::of`]); its body then goes through a
//! [`Recoder`], which holds nothing back for longer than the endpoint does: whenever nothing more has
//! come, what was put in so far can be read at the other side.

mod gzip;
mod web;

use super::super::filter::compress::Compressing;
use super::Framing;
use super::fields::Fields;
use super::leg::{LegError, Trailers};

pub(crate) use gzip::Gzip;
pub(crate) use web::{Web, WebAnswer, WebCall, WebRequest};

/// What changes a body on its way.
#[derive(Debug)]
pub(crate) enum Recoder {
    Gzip(Gzip),
    WebAnswer(WebAnswer),
    WebRequest(WebRequest),
}

impl Recoder {
    /// Takes `data` in; what it becomes is appended to `out`.
    pub(crate) fn put(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), LegError> {
        match self {
            Self::Gzip(gzip) => gzip.put(data, out),
            Self::WebAnswer(answer) => answer.put(data, out),
            Self::WebRequest(request) => return request.put(data, out),
        }
        Ok(())
    }

    /// Gives out what is held back.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Gzip(gzip) => gzip.flush(out),
            Self::WebAnswer(answer) => answer.flush(out),
            Self::WebRequest(_) => {}
        }
    }

    /// Gives out the end, with what stood behind the body where that becomes part of it.
    pub(crate) fn finish(
        &mut self,
        trailers: Trailers<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), LegError> {
        match self {
            Self::Gzip(gzip) => gzip.finish(out),
            Self::WebAnswer(answer) => answer.finish(trailers, out),
            Self::WebRequest(request) => return request.finish(),
        }
        Ok(())
    }

    /// Trailers become part of the body.
    pub(crate) fn takes_trailers(&self) -> bool {
        matches!(self, Self::WebAnswer(_))
    }
}

/// What may become of a request's answer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answering<'t> {
    pub(crate) compressing: Option<&'t Compressing>,
    pub(crate) web: Option<Web>,
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Coded {
    /// Its body is compressed.
    pub(crate) gzip: Option<u8>,
    /// It would be other for callers that take other codings.
    pub(crate) varies: bool,
    /// Its tag is said to be a weak one, or is lost.
    pub(crate) keeps_etag: bool,
    /// It is gRPC for a browser.
    pub(crate) web: Option<Web>,
}

impl Answering<'_> {
    /// What becomes of an answer with this head; `None` leaves it as it is.
    pub(crate) fn of(&self, status: u16, fields: Fields<'_>, framing: Framing) -> Option<Coded> {
        if let Some(web) = self.web {
            return web::is_grpc(fields).then_some(Coded {
                web: Some(web),
                ..Coded::default()
            });
        }
        let compressing = self.compressing?;
        if !compressing.is_for(status, fields, framing) {
            return None;
        }
        let bodiless = matches!(framing, Framing::None | Framing::Length(0));
        Some(Coded {
            gzip: (compressing.accepted && !bodiless).then_some(compressing.policy.level),
            varies: true,
            keeps_etag: compressing.policy.weaken_etag,
            web: None,
        })
    }
}

impl Coded {
    /// What the body goes through; `None` leaves it as it is.
    pub(crate) fn recoder(self) -> Option<Recoder> {
        match (self.web, self.gzip) {
            (Some(web), _) => Some(Recoder::WebAnswer(WebAnswer::new(web))),
            (None, Some(level)) => Some(Recoder::Gzip(Gzip::new(level))),
            (None, None) => None,
        }
    }

    /// Whether a field is not passed on, as [`Self::each`] writes it anew or it is no longer true.
    pub(crate) fn replaces(self, name: &[u8]) -> bool {
        if self.web.is_some() {
            return name.eq_ignore_ascii_case(b"content-type");
        }
        self.gzip.is_some() && name.eq_ignore_ascii_case(b"etag")
    }

    /// The fields that are written for an answer that came with `fields`.
    pub(crate) fn each(self, fields: Fields<'_>, mut put: impl FnMut(&'static str, &[u8])) {
        if let Some(web) = self.web {
            put("content-type", web.content_type().as_bytes());
            return;
        }
        if self.gzip.is_some() {
            put("content-encoding", b"gzip");
            if let Some(etag) = fields.first("etag").filter(|_| self.keeps_etag) {
                match etag.strip_prefix(b"W/") {
                    Some(_) => put("etag", etag),
                    None => put("etag", &[b"W/", etag].concat()),
                }
            }
        }
        if self.varies && !names(fields, b"vary", b"accept-encoding") {
            put("vary", b"Accept-Encoding");
        }
    }
}

/// Whether a list of names has `wanted`, or `*`.
fn names(fields: Fields<'_>, list: &[u8], wanted: &[u8]) -> bool {
    let mut found = false;
    fields.each(|name, value| {
        if name.eq_ignore_ascii_case(list) {
            found |= value
                .split(|byte| *byte == b',')
                .map(<[u8]>::trim_ascii)
                .any(|token| token == b"*" || token.eq_ignore_ascii_case(wanted));
        }
    });
    found
}
