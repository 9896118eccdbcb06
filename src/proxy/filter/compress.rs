//! Which answers are compressed (`envoy.filters.http.compressor`).

use std::sync::Arc;

use crate::mesh::filter::Compressor as Config;
use crate::mesh::route::Request;

use super::super::http::Framing;
use super::super::http::fields::Fields;

/// How answers to one request are compressed.
#[derive(Debug, Clone)]
pub(crate) struct Compressing {
    pub(crate) policy: Arc<Config>,
    /// The caller takes them so.
    pub(crate) accepted: bool,
}

impl Compressing {
    pub(super) fn new(policy: &Arc<Config>, request: &dyn Request) -> Self {
        let mut accepts: Option<Vec<u8>> = None;
        request.header("accept-encoding", &mut |value| {
            let all = accepts.get_or_insert_default();
            all.extend_from_slice(value);
            all.push(b',');
            true
        });
        Self {
            policy: Arc::clone(policy),
            accepted: accepts.is_some_and(|accepts| prefers_gzip(&accepts)),
        }
    }

    /// Whether an answer is one that is compressed for who takes it so.
    pub(crate) fn is_for(&self, status: u16, fields: Fields<'_>, framing: Framing) -> bool {
        let policy = &*self.policy;
        let long = match framing {
            Framing::Length(length) => length >= u64::from(policy.min_length),
            Framing::None => fields
                .first("content-length")
                .and_then(super::super::http::fields::decimal)
                .is_some_and(|length| length >= u64::from(policy.min_length)),
            Framing::Chunked | Framing::Close => true,
        };
        if status < 200 || policy.except_statuses.contains(&status) || !long {
            return false;
        }
        let (mut kind, mut fits) = (None, true);
        fields.each(|name, value| {
            if name.eq_ignore_ascii_case(b"content-type") {
                kind = kind.or(Some(value));
            } else if name.eq_ignore_ascii_case(b"content-encoding")
                || (policy.except_etag && name.eq_ignore_ascii_case(b"etag"))
            {
                fits = false;
            } else if name.eq_ignore_ascii_case(b"cache-control") {
                let mut said = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                fits &= !said.any(|word| word.eq_ignore_ascii_case(b"no-transform"));
            }
        });
        fits && kind.is_none_or(|kind| self.takes_kind(kind))
    }

    fn takes_kind(&self, kind: &[u8]) -> bool {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        let kind = kind.trim_ascii();
        self.policy
            .content_types()
            .any(|known| known.as_bytes().eq_ignore_ascii_case(kind))
    }
}

/// Whether gzip is what a caller with this `accept-encoding` likes best, of that and nothing.
fn prefers_gzip(accepts: &[u8]) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for part in accepts.split(|byte| *byte == b',') {
        let mut words = part.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = words.next().unwrap_or_default();
        let weight = words
            .find_map(|word| weight(word.strip_prefix(b"q=").or(word.strip_prefix(b"Q="))?))
            .unwrap_or(1000);
        if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
            gzip = gzip.max(Some(weight));
        } else if name == b"*" {
            any = any.max(Some(weight));
        } else if name.eq_ignore_ascii_case(b"identity") {
            identity = identity.max(Some(weight));
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && identity.is_none_or(|identity| gzip >= identity)
}

/// A weight (RFC 9110, section 12.4.2), in thousandths; what is none counts as nothing.
fn weight(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(0);
    }
    let part: u16 = format!("{part:0<3}").parse().unwrap_or(0);
    Some(match whole {
        "0" => part,
        "1" if part == 0 => 1000,
        _ => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_say_what_they_like() {
        for yes in [
            "gzip",
            "GZIP",
            "br, gzip;q=0.1",
            "*",
            "deflate, *;q=0.5",
            "identity;q=0.5, gzip;q=0.5",
            "gzip;q=1.000",
            "x-gzip",
            "br;q=1.0, gzip;q=0.8, *;q=0.1",
        ] {
            assert!(prefers_gzip(yes.as_bytes()), "{yes}");
        }
        for no in [
            "",
            "br",
            "gzip;q=0",
            "gzip; q=0.000",
            "identity",
            "*;q=0",
            "gzip;q=0, *",
            "identity;q=1, gzip;q=0.5",
            "gzip;q=2",
            "gzip;q=x",
            "gzipped",
        ] {
            assert!(!prefers_gzip(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn answers_that_would_not_gain_or_must_not_change_stay() {
        let compressing = Compressing {
            policy: Arc::new(Config {
                except_statuses: [206].into(),
                ..Config::default()
            }),
            accepted: true,
        };
        let field = |name: &'static str, value: &'static str| httparse::Header {
            name,
            value: value.as_bytes(),
        };
        let is_for = |status, fields: &[httparse::Header<'_>], framing| {
            compressing.is_for(status, Fields::Text(fields), framing)
        };
        let long = Framing::Length(1000);
        let html = field("Content-Type", "text/HTML; charset=utf-8");
        assert!(is_for(200, &[html], long));
        assert!(is_for(200, &[], Framing::Chunked));
        assert!(!is_for(200, &[html], Framing::Length(29)));
        assert!(!is_for(200, &[html], Framing::None));
        assert!(!is_for(206, &[html], long));
        assert!(!is_for(200, &[field("content-type", "image/png")], long));
        assert!(!is_for(200, &[html, field("content-encoding", "br")], long));
        assert!(!is_for(
            200,
            &[html, field("Cache-Control", "public, No-Transform")],
            long
        ));
        assert!(is_for(
            200,
            &[
                html,
                field("Cache-Control", "public"),
                field("etag", "\"x\"")
            ],
            long
        ));
    }
}
