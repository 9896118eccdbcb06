//! Contexts of traces in heads: W3C's `traceparent` and B3, in one field or in several.
//!
//! Reading is strict, as everything in a head is a stranger's word: what is not exactly a context is none,
//! and a new trace takes its place (W3C Trace Context, 3.2.3). Nothing is kept of what is read but numbers.

use super::super::http::fields::{Fields, Name};
use super::super::http::marks::digits;

/// W3C's field.
const W3C: &str = "traceparent";
/// Length of W3C's value in the version that is written.
const W3C_LENGTH: usize = 55;

/// Forms that a context has in a head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    pub(crate) w3c: bool,
    /// B3 in one field.
    pub(crate) single: bool,
    /// B3 in a field for each part.
    pub(crate) several: bool,
}

impl Forms {
    fn any(self) -> bool {
        self.w3c || self.single || self.several
    }
}

/// Numbers that tell a span from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ids {
    /// Not 0.
    pub(crate) trace: u128,
    /// Not 0.
    pub(crate) span: u64,
    /// Only the lower half of the trace's number was said (B3).
    pub(crate) narrow: bool,
}

/// What a head says of the trace that a request is part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Came {
    /// The caller's span.
    pub(crate) ids: Option<Ids>,
    /// Whether the trace is recorded, where that was decided.
    pub(crate) sampled: Option<bool>,
    /// The forms in which it is said.
    pub(crate) forms: Forms,
}

/// Reads `fields`. Where forms disagree W3C's counts, then the single field.
pub(crate) fn read(fields: Fields<'_>) -> Came {
    let mut w3c = Once::default();
    let mut single = Once::default();
    let (mut trace, mut span) = (Once::default(), Once::default());
    let (mut sampled, mut flags) = (Once::default(), Once::default());
    fields.each_known(|known, name, value| {
        if known != Name::Trace {
            return;
        }
        match name.len() {
            2 => single.see(value),
            10 => flags.see(value),
            11 if name.first().is_some_and(|first| first | 0x20 == b't') => w3c.see(value),
            11 => span.see(value),
            12 if name.get(5).is_some_and(|letter| letter | 0x20 == b't') => trace.see(value),
            12 => sampled.see(value),
            // The caller's own parent is of no use to anybody else.
            _ => {}
        }
    });
    let mut came = Came::default();
    if let Some((ids, decided)) = w3c.only().and_then(traceparent) {
        came.forms.w3c = true;
        (came.ids, came.sampled) = (Some(ids), Some(decided));
    }
    if let Some((ids, decided)) = single.only().and_then(b3) {
        came.forms.single = true;
        came.ids = came.ids.or(ids);
        came.sampled = came.sampled.or(decided);
    }
    let whole = trace.only().zip(span.only());
    let ids = whole.and_then(|(trace, span)| ids(trace, span));
    let decided = match (flags.only(), sampled.only()) {
        (Some(b"1"), _) | (_, Some(b"1" | b"true")) => Some(true),
        (_, Some(b"0" | b"false")) => Some(false),
        _ => None,
    };
    if ids.is_some() || (whole.is_none() && decided.is_some()) {
        came.forms.several = true;
        came.ids = came.ids.or(ids);
        came.sampled = came.sampled.or(decided);
    }
    came
}

/// A field's value, unless there are several.
#[derive(Default)]
struct Once<'m> {
    value: Option<&'m [u8]>,
    again: bool,
}

impl<'m> Once<'m> {
    fn see(&mut self, value: &'m [u8]) {
        self.again |= self.value.replace(value).is_some();
    }

    fn only(&self) -> Option<&'m [u8]> {
        self.value.filter(|_| !self.again)
    }
}

/// `traceparent` (W3C Trace Context, 3.2.2): of a later version the parts that this one has.
fn traceparent(value: &[u8]) -> Option<(Ids, bool)> {
    let upper = |byte: &u8| byte.is_ascii_uppercase();
    let (version, rest) = value.split_at_checked(2)?;
    let version = hex(version)?;
    let known = match value.len() {
        W3C_LENGTH => true,
        more => version > 0 && more > W3C_LENGTH && value.get(W3C_LENGTH) == Some(&b'-'),
    };
    let parts = value.get(..W3C_LENGTH)?;
    if version == 0xff || !known || parts.iter().any(upper) {
        return None;
    }
    let rest = rest.get(..W3C_LENGTH - 2)?;
    let (trace, rest) = rest.strip_prefix(b"-")?.split_at_checked(32)?;
    let (span, flags) = rest.strip_prefix(b"-")?.split_at_checked(16)?;
    let flags = hex(flags.strip_prefix(b"-")?)?;
    Some((ids(trace, span)?, flags & 1 == 1))
}

/// `b3`: ids with a decision, ids alone, or a decision alone.
fn b3(value: &[u8]) -> Option<(Option<Ids>, Option<bool>)> {
    let decided = |text: &[u8]| match text {
        b"1" | b"d" => Some(true),
        b"0" => Some(false),
        _ => None,
    };
    if value.len() <= 1 {
        return Some((None, Some(decided(value)?)));
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let ids = ids(parts.next()?, parts.next()?)?;
    let sampled = match parts.next() {
        Some(text) => Some(decided(text)?),
        None => None,
    };
    let parent = parts.next();
    let fits = parent.is_none_or(|parent| parent.len() == 16 && hex(parent).is_some());
    (fits && parts.next().is_none()).then_some((Some(ids), sampled))
}

fn ids(trace: &[u8], span: &[u8]) -> Option<Ids> {
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return None;
    }
    let ids = Ids {
        trace: hex(trace)?,
        span: u64::try_from(hex(span)?).ok()?,
        narrow: trace.len() == 16,
    };
    (ids.trace != 0 && ids.span != 0).then_some(ids)
}

/// A number of at most 32 hexadecimal digits.
fn hex(text: &[u8]) -> Option<u128> {
    if text.is_empty() || text.len() > 32 {
        return None;
    }
    text.iter().try_fold(0_u128, |number, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(number << 4 | u128::from(digit))
    })
}

/// A context on its way to whoever is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Goes {
    pub(crate) ids: Ids,
    /// The span that this one is part of, where B3 says that too.
    pub(crate) parent: Option<u64>,
    pub(crate) sampled: bool,
    pub(crate) forms: Forms,
    /// The trace begins here: what came with another one goes no further.
    pub(crate) fresh: bool,
}

impl Goes {
    /// Whether a field of the caller does not pass.
    pub(crate) fn replaces(&self, known: Name) -> bool {
        match known {
            Name::Trace => true,
            Name::TraceState => self.fresh,
            _ => false,
        }
    }

    /// Each field that says it.
    pub(crate) fn each(&self, mut put: impl FnMut(&'static str, &[u8])) {
        let Ids {
            trace,
            span,
            narrow,
        } = self.ids;
        let flag: &[u8] = if self.sampled { b"1" } else { b"0" };
        let (wide, own) = (wide(trace), half(span));
        // Whoever said half of a number looks for that half.
        let shown = match wide.split_at_checked(16) {
            Some((_, low)) if narrow => low,
            _ => &wide,
        };
        if self.forms.w3c || !self.forms.any() {
            let mut text = [b'-'; W3C_LENGTH];
            text[..2].copy_from_slice(b"00");
            text[3..35].copy_from_slice(&wide);
            text[36..52].copy_from_slice(&own);
            text[53..].copy_from_slice(if self.sampled { b"01" } else { b"00" });
            put(W3C, &text);
        }
        if self.forms.single {
            let mut text = Vec::with_capacity(68);
            for part in [shown, b"-", &own, b"-", flag] {
                text.extend_from_slice(part);
            }
            if let Some(parent) = self.parent {
                text.push(b'-');
                text.extend_from_slice(&half(parent));
            }
            put("b3", &text);
        }
        if self.forms.several {
            put("x-b3-traceid", shown);
            put("x-b3-spanid", &own);
            if let Some(parent) = self.parent {
                put("x-b3-parentspanid", &half(parent));
            }
            put("x-b3-sampled", flag);
        }
    }
}

/// 32 digits.
pub(crate) fn wide(number: u128) -> [u8; 32] {
    let mut text = [b'0'; 32];
    for (part, shift) in text.chunks_exact_mut(8).zip([96, 64, 32, 0]) {
        part.copy_from_slice(&digits(number >> shift));
    }
    text
}

/// 16 digits.
pub(crate) fn half(number: u64) -> [u8; 16] {
    let mut text = [b'0'; 16];
    for (part, shift) in text.chunks_exact_mut(8).zip([32, 0]) {
        part.copy_from_slice(&digits(u128::from(number >> shift)));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
    const SPAN: u64 = 0x00f0_67aa_0ba9_02b7;

    fn came(fields: &[(&str, &str)]) -> Came {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| httparse::Header {
                name,
                value: value.as_bytes(),
            })
            .collect();
        read(Fields::Text(&fields))
    }

    fn ids(narrow: bool) -> Ids {
        Ids {
            trace: if narrow {
                TRACE & u128::from(u64::MAX)
            } else {
                TRACE
            },
            span: SPAN,
            narrow,
        }
    }

    #[test]
    fn w3c_is_read_as_its_specification_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        for (value, sampled) in [
            (format!("{good}-01"), Some(true)),
            (format!("{good}-00"), Some(false)),
            (format!("{good}-03"), Some(true)),
            (good.replacen("00", "cc", 1) + "-01", Some(true)),
            (good.replacen("00", "cc", 1) + "-01-more", Some(true)),
            (format!("{good}-01-more"), None),
            (good.replacen("00", "cc", 1) + "-01more", None),
            (good.replacen("00", "ff", 1) + "-01", None),
            (good.to_uppercase() + "-01", None),
            (format!("{good}-0"), None),
            (format!("{good}-0g"), None),
            (format!("{good}_01"), None),
            (
                good.replace("00f067aa0ba902b7", "0000000000000000") + "-01",
                None,
            ),
            (
                good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)) + "-01",
                None,
            ),
            (String::new(), None),
        ] {
            let came = came(&[("Traceparent", &value)]);
            assert_eq!(came.sampled, sampled, "{value}");
            assert_eq!(came.ids, sampled.map(|_| ids(false)), "{value}");
        }
        let twice = (
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        assert_eq!(came(&[twice, twice]), Came::default());
    }

    #[test]
    fn b3_is_read_in_one_field_and_in_several() {
        let (wide, narrow) = ("4bf92f3577b34da6a3ce929d0e0e4736", "a3ce929d0e0e4736");
        let span = "00f067aa0ba902b7";
        for (value, found) in [
            (
                format!("{wide}-{span}-1"),
                Some((Some(ids(false)), Some(true))),
            ),
            (
                format!("{narrow}-{span}-0"),
                Some((Some(ids(true)), Some(false))),
            ),
            (
                format!("{wide}-{span}-d-{span}"),
                Some((Some(ids(false)), Some(true))),
            ),
            (format!("{wide}-{span}"), Some((Some(ids(false)), None))),
            ("0".to_owned(), Some((None, Some(false)))),
            ("d".to_owned(), Some((None, Some(true)))),
            ("2".to_owned(), None),
            (format!("{wide}-{span}-1-"), None),
            (format!("{wide}-{span}-1-{span}-x"), None),
            (format!("{wide}-{span}-true"), None),
            (wide.to_owned(), None),
            (format!("{}-{span}-1", "0".repeat(32)), None),
        ] {
            let came = came(&[("B3", &value)]);
            assert_eq!(came.forms.single, found.is_some(), "{value}");
            assert_eq!(
                (came.ids, came.sampled),
                found.unwrap_or_default(),
                "{value}"
            );
        }
        let parts = |trace, sampled| {
            came(&[
                ("X-B3-TraceId", trace),
                ("x-b3-spanid", span),
                ("x-b3-parentspanid", span),
                sampled,
            ])
        };
        assert_eq!(parts(wide, ("x-b3-sampled", "1")).sampled, Some(true));
        assert_eq!(
            parts(narrow, ("x-b3-sampled", "false")).ids,
            Some(ids(true))
        );
        assert_eq!(parts(wide, ("x-b3-flags", "1")).sampled, Some(true));
        assert_eq!(parts("xyz", ("x-b3-sampled", "1")), Came::default());
        assert_eq!(came(&[("x-b3-sampled", "0")]).sampled, Some(false));
    }

    fn forms() -> impl Strategy<Value = Forms> {
        (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(w3c, single, several)| Forms {
            w3c,
            single,
            several,
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_again(
            trace in 1..=u128::MAX,
            span in 1..=u64::MAX,
            parent in proptest::option::of(1..=u64::MAX),
            sampled in any::<bool>(),
            forms in forms(),
        ) {
            let ids = Ids { trace, span, narrow: false };
            let goes = Goes { ids, parent, sampled, forms, fresh: false };
            let mut written = Vec::new();
            goes.each(|name, value| {
                written.push((name, String::from_utf8(value.to_vec()).unwrap()));
            });
            let fields: Vec<_> = written.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let came = came(&fields);
            prop_assert_eq!(came.ids, Some(ids));
            prop_assert_eq!(came.sampled, Some(sampled));
            let said = Forms { w3c: forms.w3c || !forms.any(), ..forms };
            prop_assert_eq!(came.forms, said);
        }

        #[test]
        fn no_value_breaks_the_readers(value in proptest::collection::vec(any::<u8>(), 0..80)) {
            for name in ["traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"] {
                let field = [httparse::Header { name, value: &value }];
                let came = read(Fields::Text(&field));
                prop_assert!(came.ids.is_none_or(|ids| ids.trace != 0 && ids.span != 0));
            }
        }
    }
}
