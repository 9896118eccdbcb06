//! A decoded header block in two pieces of memory that are used again: all text, and where each
//! field is in it.
//!
//! What RFC 9113 asks of a single field or of the order of fields is checked while fields are
//! added; the first fault is kept, as the rest of the block must be read all the same.

use std::cell::RefCell;

use super::super::fields::{MAX_FIELDS, MAX_HEAD, Name, classify, decimal};

/// Free memory of blocks kept by each thread.
const KEPT: usize = 256;

/// Envoy's detail for heads that break the rules of HTTP/2 messages.
pub(crate) const MESSAGING: &str = "http2.violation.of.messaging.rule";
/// Envoy's detail for names and values that are none.
pub(crate) const INVALID: &str = "http2.invalid.header.field";

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    Field(Name),
    /// A name in upper case, an unknown one with a colon, or a value that is none.
    Bad,
}

/// How much of a block is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of all names and values.
    pub(crate) size: usize,
    /// Fields.
    pub(crate) count: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            size: MAX_HEAD,
            count: MAX_FIELDS,
        }
    }
}

/// A part of the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    at: u32,
    end: u32,
}

impl Span {
    fn new(at: usize, end: usize) -> Self {
        // Blocks are limited to far less.
        let place = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            at: place(at),
            end: place(end),
        }
    }

    fn of(self, text: &[u8]) -> &[u8] {
        let place = |at| usize::try_from(at).unwrap_or(usize::MAX);
        text.get(place(self.at)..place(self.end))
            .unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy)]
struct Field {
    text: Span,
    value: Span,
    name: Name,
    sensitive: bool,
}

/// A header block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(super) text: Vec<u8>,
    fields: Vec<Field>,
    method: Option<Span>,
    scheme: Option<Span>,
    authority: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    /// 0 when there was none.
    pub(crate) status: u16,
    /// `content-length`.
    pub(crate) length: Option<u64>,
    size: usize,
    cookies: u32,
    fault: Option<&'static str>,
    cut: bool,
}

thread_local! {
    static FREE: RefCell<Vec<(Vec<u8>, Vec<Field>)>> = const { RefCell::new(Vec::new()) };
}

impl Default for Block {
    fn default() -> Self {
        let (text, fields) = FREE
            .try_with(|free| free.borrow_mut().pop())
            .ok()
            .flatten()
            .unwrap_or_default();
        Self {
            text,
            fields,
            method: None,
            scheme: None,
            authority: None,
            path: None,
            protocol: None,
            status: 0,
            length: None,
            size: 0,
            cookies: 0,
            fault: None,
            cut: false,
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        let mut fields = std::mem::take(&mut self.fields);
        if text.capacity() == 0 || text.capacity() > 8 * 1024 {
            return;
        }
        text.clear();
        fields.clear();
        // While the thread ends there is nobody to keep it for.
        let _kept = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push((text, fields));
            }
        });
    }
}

impl Block {
    /// Whether another field of `size` bytes is kept.
    pub(super) fn has_room(&mut self, size: usize, limits: Limits) -> bool {
        self.cut |= self.size + size > limits.size || self.fields.len() >= limits.count;
        !self.cut
    }

    /// Adds the field whose name begins at the first place and its value at the second, where the
    /// text ends.
    pub(super) fn add(&mut self, (at, value): (usize, usize), kind: Kind, sensitive: bool) {
        let end = self.text.len();
        self.size += end - at;
        let span = Span::new(value, end);
        let place = match kind {
            Kind::Field(name) => {
                self.check(name, span);
                self.fields.push(Field {
                    text: Span::new(at, value),
                    value: span,
                    name,
                    sensitive,
                });
                return;
            }
            Kind::Bad => return self.refuse(INVALID),
            Kind::Status => {
                let text = self.text.get(value..end).unwrap_or_default();
                let status = decimal(text).and_then(|status| u16::try_from(status).ok());
                match status {
                    Some(status @ 100..=999) if self.status == 0 && self.fields.is_empty() => {
                        self.status = status;
                    }
                    _ => self.refuse(MESSAGING),
                }
                return;
            }
            Kind::Method => &mut self.method,
            Kind::Scheme => &mut self.scheme,
            Kind::Authority => &mut self.authority,
            Kind::Path => &mut self.path,
            Kind::Protocol => &mut self.protocol,
        };
        // Pseudo-fields come once, and before the others.
        if place.replace(span).is_some() || !self.fields.is_empty() {
            self.refuse(MESSAGING);
        }
    }

    fn check(&mut self, name: Name, value: Span) {
        let value = value.of(&self.text);
        match name {
            Name::Connection | Name::Hop | Name::Upgrade | Name::TransferEncoding => {
                self.refuse(MESSAGING);
            }
            Name::Te if !value.eq_ignore_ascii_case(b"trailers") => self.refuse(MESSAGING),
            Name::ContentLength => {
                let length = decimal(value);
                if length.is_none() || self.length.is_some() {
                    self.refuse(MESSAGING);
                }
                self.length = length;
            }
            Name::Cookie => self.cookies += 1,
            _ => {}
        }
    }

    fn refuse(&mut self, fault: &'static str) {
        self.fault.get_or_insert(fault);
    }

    /// Puts cookies together again, which a caller may have sent apart (RFC 9113, 8.2.3).
    pub(super) fn join_cookies(&mut self) {
        if self.cookies < 2 {
            return;
        }
        let mut joined = Vec::new();
        let mut sensitive = false;
        for field in &self.fields {
            if field.name == Name::Cookie {
                if !joined.is_empty() {
                    joined.extend_from_slice(b"; ");
                }
                joined.extend_from_slice(field.value.of(&self.text));
                sensitive |= field.sensitive;
            }
        }
        self.fields.retain(|field| field.name != Name::Cookie);
        self.put(Name::Cookie, b"cookie", &joined, sensitive);
        self.cookies = 1;
    }

    /// Whether a name has `_`, which some applications read as `-`.
    pub(crate) fn is_odd(&self) -> bool {
        let odd = |field: &Field| field.text.of(&self.text).contains(&b'_');
        self.fields.iter().any(odd)
    }

    /// Takes those out.
    pub(crate) fn drop_odd(&mut self) {
        let text = &self.text;
        self.fields
            .retain(|field| !field.text.of(text).contains(&b'_'));
    }

    /// Adds a field as it is. Its name is in lower case.
    pub(crate) fn put(&mut self, kind: Name, name: &[u8], value: &[u8], sensitive: bool) {
        let at = self.text.len();
        self.text.extend_from_slice(name);
        let value_at = self.text.len();
        self.text.extend_from_slice(value);
        self.size += self.text.len() - at;
        self.fields.push(Field {
            text: Span::new(at, value_at),
            value: Span::new(value_at, self.text.len()),
            name: kind,
            sensitive,
        });
    }

    /// Sets the pseudo-fields of a request.
    pub(crate) fn set_request(
        &mut self,
        (method, scheme): (&[u8], &[u8]),
        (authority, path): (&[u8], &[u8]),
    ) {
        let mut span = |value: &[u8]| {
            let at = self.text.len();
            self.text.extend_from_slice(value);
            Some(Span::new(at, self.text.len()))
        };
        let spans = (span(method), span(scheme), span(authority), span(path));
        (self.method, self.scheme, self.authority, self.path) = spans;
    }

    /// Sets `:protocol` of an extended CONNECT.
    pub(crate) fn set_protocol(&mut self, protocol: &[u8]) {
        let at = self.text.len();
        self.text.extend_from_slice(protocol);
        self.protocol = Some(Span::new(at, self.text.len()));
    }

    fn span(&self, span: Option<Span>) -> Option<&[u8]> {
        span.map(|span| span.of(&self.text))
    }

    pub(crate) fn method(&self) -> &[u8] {
        self.span(self.method).unwrap_or_default()
    }

    pub(crate) fn scheme(&self) -> &[u8] {
        self.span(self.scheme).unwrap_or_default()
    }

    pub(crate) fn authority(&self) -> Option<&[u8]> {
        self.span(self.authority)
    }

    pub(crate) fn path(&self) -> &[u8] {
        self.span(self.path).unwrap_or_default()
    }

    /// `:protocol` of an extended CONNECT (RFC 8441).
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.span(self.protocol)
    }

    /// Calls `visit` with each field in order.
    pub(crate) fn each<'b>(&'b self, mut visit: impl FnMut(Name, &'b [u8], &'b [u8])) {
        self.each_field(|name, text, value, _| visit(name, text, value));
    }

    /// Calls `visit` with each field, and with whether it must not be put into a table.
    pub(crate) fn each_field<'b>(&'b self, mut visit: impl FnMut(Name, &'b [u8], &'b [u8], bool)) {
        for field in &self.fields {
            let (name, value) = (field.text.of(&self.text), field.value.of(&self.text));
            visit(field.name, name, value, field.sensitive);
        }
    }

    /// The first value of `name`, which is in lower case.
    pub(crate) fn first(&self, name: &str) -> Option<&[u8]> {
        let is = |field: &&Field| field.text.of(&self.text) == name.as_bytes();
        let field = self.fields.iter().find(is)?;
        Some(field.value.of(&self.text))
    }

    /// Fields, without pseudo-fields.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.fields.len()
    }

    /// Bytes of all names and values.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether fields were left out for want of room.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Whether there were pseudo-fields.
    fn has_pseudo(&self) -> bool {
        self.status != 0
            || [
                self.method,
                self.scheme,
                self.authority,
                self.path,
                self.protocol,
            ]
            .iter()
            .any(Option::is_some)
    }

    /// What is wrong with a single field.
    #[cfg(test)]
    pub(super) fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// What is wrong with it as a request (RFC 9113, 8.3.1, and RFC 8441, 4).
    pub(crate) fn fault_of_request(&self) -> Option<&'static str> {
        let path = self.path();
        // What is written into a line of HTTP/1 must not end it, whatever the reader takes for a space.
        let line = |byte: &u8| (0x21..0x7f).contains(byte);
        let token = |byte: &u8| is_name(byte.to_ascii_lowercase());
        let empty = |span| self.span(span).is_none_or(<[u8]>::is_empty);
        let wrong = self.status != 0
            || empty(self.method)
            || !self.method().iter().all(token)
            || !path.iter().all(line)
            || if self.method() == b"CONNECT" && self.protocol.is_none() {
                self.scheme.is_some() || self.path.is_some() || empty(self.authority)
            } else {
                let extended = self.method() == b"CONNECT";
                let star = path == b"*" && self.method() == b"OPTIONS";
                empty(self.scheme)
                    || (self.protocol.is_some() && (!extended || empty(self.authority)))
                    || !(path.starts_with(b"/") || star)
            };
        self.fault.or(wrong.then_some(MESSAGING))
    }

    /// What is wrong with it as a response.
    pub(crate) fn fault_of_response(&self) -> Option<&'static str> {
        let wrong = self.status == 0
            // Switching protocols is not a thing of HTTP/2 (RFC 9113, 8.6).
            || self.status == 101
            || self.method.is_some()
            || self.path.is_some()
            || self.scheme.is_some()
            || self.authority.is_some()
            || self.protocol.is_some();
        self.fault.or(wrong.then_some(MESSAGING))
    }

    /// What is wrong with it as trailers.
    pub(crate) fn fault_of_trailers(&self) -> Option<&'static str> {
        self.fault.or(self.has_pseudo().then_some(MESSAGING))
    }

    /// Memory in use.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.text.len() + self.fields.len() * size_of::<Field>()
    }
}

/// What `name` is, and whether it is a name at all: RFC 9113, 8.2.1, and a token of RFC 9110.
pub(super) fn kind(name: &[u8]) -> Kind {
    match name {
        [] => Kind::Bad,
        [b':', ..] => match name {
            b":method" => Kind::Method,
            b":scheme" => Kind::Scheme,
            b":authority" => Kind::Authority,
            b":path" => Kind::Path,
            b":status" => Kind::Status,
            b":protocol" => Kind::Protocol,
            _ => Kind::Bad,
        },
        _ if name.iter().all(|byte| is_name(*byte)) => Kind::Field(classify(name)),
        _ => Kind::Bad,
    }
}

fn is_name(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'!' | b'#' | b'$' | b'%' | b'&'
        | b'\'' | b'*' | b'+' | b'^' | b'`' | b'|' | b'~')
}

/// Whether these are a field's name, in any case, and its value.
pub(crate) fn is_field(name: &[u8], value: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| is_name(byte.to_ascii_lowercase()))
        && value_fits(value)
}

/// Whether `value` is one: no control characters, and no space at either end.
pub(super) fn value_fits(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    // Summed up rather than stopped at the first, so that several bytes are looked at at once.
    let bad: usize = value
        .iter()
        .map(|byte| usize::from((*byte < b' ' && *byte != b'\t') || *byte == 0x7f))
        .sum();
    bad == 0 && !space(value.first()) && !space(value.last())
}

#[cfg(test)]
mod tests {
    use super::super::hpack::{Decoder, Encoder};
    use super::*;

    fn block(fields: &[(&str, &str)]) -> Block {
        let (mut out, mut encoder) = (Vec::new(), Encoder::default());
        for (name, value) in fields {
            encoder.field(&mut out, name.as_bytes(), value.as_bytes(), false);
        }
        let mut block = Block::default();
        Decoder::new(4096)
            .decode(&out, &mut block, Limits::default())
            .unwrap();
        block
    }

    const GET: [(&str, &str); 4] = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/"),
    ];

    fn with(more: &[(&str, &str)]) -> Option<&'static str> {
        block(&[&GET[..], more].concat()).fault_of_request()
    }

    #[test]
    fn requests_that_break_the_rules_are_faulty() {
        assert_eq!(with(&[("a", "b"), ("te", "trailers")]), None);
        for bad in [
            ("A", "b"),
            ("a b", "c"),
            ("", "c"),
            (":other", "c"),
            (":status", "200"),
            (":path", "/twice"),
            (":protocol", "websocket"),
            ("a", "b\r\nc: d"),
            ("a", "b\0"),
            ("a", " b"),
            ("a", "b\t"),
            ("connection", "close"),
            ("keep-alive", "5"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("content-length", "x"),
        ] {
            assert!(with(&[bad]).is_some(), "{bad:?}");
        }
        assert!(with(&[("content-length", "1"), ("content-length", "1")]).is_some());
        assert!(
            block(&[("a", "b"), GET[0], GET[1], GET[2], GET[3]])
                .fault_of_request()
                .is_some()
        );
        for missing in [0, 1, 3] {
            let mut fields = GET.to_vec();
            fields.remove(missing);
            assert!(block(&fields).fault_of_request().is_some(), "{missing}");
        }
        for (at, bad) in [
            (0, "GET / HTTP/1.1"),
            (0, ""),
            (3, "/a b"),
            (3, "a"),
            (3, "*"),
            (3, ""),
        ] {
            let mut fields = GET.to_vec();
            fields[at].1 = bad;
            assert!(block(&fields).fault_of_request().is_some(), "{bad}");
        }
        let connect = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(block(&connect).fault_of_request(), None);
        assert!(
            block(&[connect[0], connect[1], GET[3]])
                .fault_of_request()
                .is_some()
        );
        let extended = [
            ("x", "CONNECT"),
            GET[1],
            GET[2],
            GET[3],
            (":protocol", "websocket"),
        ];
        let extended = extended.map(|(name, value)| {
            if name == "x" {
                (":method", value)
            } else {
                (name, value)
            }
        });
        assert_eq!(block(&extended).fault_of_request(), None);
    }

    #[test]
    fn responses_and_trailers_that_break_the_rules_are_faulty() {
        assert_eq!(
            block(&[(":status", "200"), ("a", "b")]).fault_of_response(),
            None
        );
        for bad in [
            &[("a", "b")][..],
            &[(":status", "99")],
            &[(":status", "101")],
            &[(":status", "2000")],
            &[(":status", "200"), (":status", "200")],
            &[("a", "b"), (":status", "200")],
            &[(":status", "200"), (":path", "/")],
        ] {
            assert!(block(bad).fault_of_response().is_some(), "{bad:?}");
        }
        assert_eq!(block(&[("grpc-status", "0")]).fault_of_trailers(), None);
        assert!(block(&[(":status", "200")]).fault_of_trailers().is_some());
    }

    #[test]
    fn cookies_are_put_together_again() {
        let mut block = block(&[
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("cookie", "c=3"),
        ]);
        block.join_cookies();
        assert_eq!(block.first("cookie"), Some(&b"a=1; b=2; c=3"[..]));
        assert_eq!(block.count(), 2);
    }
}
