//! Both answers of a request that was copied, until they can be compared.
//!
//! What is kept is bounded, and comparing is done beside the threads that carry requests; when there is more of it than
//! these get done, pairs are left out and counted.

use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::mesh::shadow::{Answer, Comparison, differences};
use crate::rt::{Tasks, Wall};
use crate::telemetry::Registry;
use crate::telemetry::shadow::{Example, Outcome};

use super::super::fields::Fields;
use super::super::replay::Replay;

/// Pairs of all workers that wait or are compared.
const MOST: usize = 64;
/// How much larger than it came a body may be that was compressed.
const UNPACKED: usize = 8;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// What is kept of an answer while it passes.
#[derive(Debug)]
pub(crate) struct Kept {
    how: Arc<Comparison>,
    status: u16,
    headers: Vec<Option<String>>,
    coding: Coding,
    body: Replay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Plain,
    Gzip,
    Other,
}

impl Kept {
    fn new(how: &Arc<Comparison>) -> Self {
        let limit = if how.body { how.body_limit } else { 0 };
        Self {
            how: Arc::clone(how),
            status: 0,
            headers: Vec::new(),
            coding: Coding::Plain,
            body: Replay::new(Some(u64::from(limit))),
        }
    }

    /// Takes note of the head; `recodes` says that the body passes by another way, on which it is not kept.
    pub(crate) fn head(&mut self, status: u16, fields: Fields<'_>, recodes: bool) {
        self.status = status;
        self.headers = vec![None; self.how.headers.len()];
        let mut coding = Coding::Plain;
        fields.each(|name, value| {
            if name.eq_ignore_ascii_case(b"content-encoding") {
                coding = match value.trim_ascii() {
                    b"gzip" | b"x-gzip" if coding == Coding::Plain => Coding::Gzip,
                    b"identity" | b"" => coding,
                    _ => Coding::Other,
                };
            }
            let names = self.how.headers.iter();
            for (wanted, found) in names.zip(&mut self.headers) {
                if name.eq_ignore_ascii_case(wanted.as_bytes()) {
                    let value = String::from_utf8_lossy(value.trim_ascii());
                    match found {
                        Some(before) => {
                            before.push_str(", ");
                            before.push_str(&value);
                        }
                        None => *found = Some(value.into_owned()),
                    }
                }
            }
        });
        self.coding = if recodes { Coding::Other } else { coding };
    }

    /// Where the body goes as it passes.
    pub(crate) fn body(&mut self) -> &mut Replay {
        &mut self.body
    }

    fn answer(self) -> Answer {
        let limit = usize::try_from(self.how.body_limit).unwrap_or(usize::MAX);
        let whole = self.body.is_whole();
        let body = match self.coding {
            _ if !whole => None,
            Coding::Plain => Some(self.body.kept),
            Coding::Gzip => unpacked(&self.body.kept, limit.saturating_mul(UNPACKED)),
            Coding::Other => None,
        };
        Answer {
            status: self.status,
            headers: self.headers,
            body,
        }
    }
}

fn unpacked(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let reader = flate2::read::GzDecoder::new(packed);
    let mut reader = reader.take(u64::try_from(most).ok()?.saturating_add(1));
    reader.read_to_end(&mut body).ok()?;
    (body.len() <= most).then_some(body)
}

/// The request itself, or its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Primary,
    Shadow,
}

/// One of the two ends of a comparison: what belongs to the request, or to its copy.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pair: Rc<Pair>,
    side: Side,
}

#[derive(Debug)]
struct Pair {
    how: Arc<Comparison>,
    primary: RefCell<Option<Box<Kept>>>,
    shadow: RefCell<Option<Box<Kept>>>,
    /// The copy has ended, with or without an answer.
    copied: Cell<bool>,
}

/// Two ends, for a request and its copy.
pub(crate) fn pair(how: &Arc<Comparison>) -> (End, End) {
    let pair = Rc::new(Pair {
        how: Arc::clone(how),
        primary: RefCell::default(),
        shadow: RefCell::default(),
        copied: Cell::new(false),
    });
    let primary = End {
        pair: Rc::clone(&pair),
        side: Side::Primary,
    };
    let shadow = End {
        pair,
        side: Side::Shadow,
    };
    (primary, shadow)
}

impl End {
    /// Room for an answer.
    pub(crate) fn keeping(&self) -> Kept {
        Kept::new(&self.pair.how)
    }

    /// The answer that went through whole.
    pub(crate) fn answered(&self, kept: Box<Kept>, around: (&Arc<Registry>, &Wall)) {
        match self.side {
            Side::Primary => {
                self.pair.primary.replace(Some(kept));
                if self.pair.copied.get() {
                    self.pair.settle(around);
                }
            }
            Side::Shadow => {
                self.pair.shadow.replace(Some(kept));
            }
        }
    }

    /// The copy has ended.
    pub(crate) fn over(&self, around: (&Arc<Registry>, &Wall)) {
        self.pair.copied.set(true);
        // The request itself may still be under way; or it failed, and there is nothing to compare with.
        if self.pair.primary.borrow().is_some() {
            self.pair.settle(around);
        }
    }
}

impl Pair {
    fn settle(&self, (registry, wall): (&Arc<Registry>, &Wall)) {
        let Some(primary) = self.primary.take() else {
            return;
        };
        let service = &self.how.service;
        let Some(shadow) = self.shadow.take() else {
            registry.shadows(|shadows| shadows.compared(service, Outcome::Unanswered));
            return;
        };
        if UNDER_WAY.fetch_add(1, Ordering::Relaxed) >= MOST {
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            registry.shadows(|shadows| shadows.compared(service, Outcome::Skipped));
            return;
        }
        let (registry, at_unix_ms) = (Arc::clone(registry), wall.millis());
        let how = Arc::clone(&self.how);
        tokio::task::spawn_local(Tasks::blocking(move || {
            judge(
                &how,
                (primary.answer(), shadow.answer()),
                &registry,
                at_unix_ms,
            );
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        }));
    }
}

fn judge(
    how: &Comparison,
    (primary, shadow): (Answer, Answer),
    registry: &Registry,
    at_unix_ms: u64,
) {
    let (found, left_out) = differences(how, &primary, &shadow);
    let outcome = match (found.is_empty(), left_out) {
        (false, _) => Outcome::Different,
        (true, true) => Outcome::Partly,
        (true, false) => Outcome::Same,
    };
    registry.shadows(|shadows| {
        shadows.compared(&how.service, outcome);
        for one in found {
            shadows.differs(Example {
                service: how.service.clone(),
                part: one.part.name(),
                at: one.at,
                primary: one.primary,
                shadow: one.shadow,
                at_unix_ms,
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn header<'h>(name: &'h str, value: &'h str) -> httparse::Header<'h> {
        let value = value.as_bytes();
        httparse::Header { name, value }
    }

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(text).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_compressed_is_compared_as_it_was() {
        let how = Arc::new(Comparison::default());
        let mut kept = Kept::new(&how);
        kept.head(
            200,
            Fields::Text(&[
                header("content-type", "text/plain"),
                header("Content-Encoding", "gzip"),
            ]),
            false,
        );
        kept.body().keep(&packed(b"a page"));
        assert_eq!(kept.answer().body.as_deref(), Some(&b"a page"[..]));
    }

    #[test]
    fn bodies_that_grow_too_much_are_left_out() {
        let how = Arc::new(Comparison {
            body_limit: 1_000,
            ..Comparison::default()
        });
        let mut kept = Kept::new(&how);
        kept.head(
            200,
            Fields::Text(&[header("content-encoding", "gzip")]),
            false,
        );
        kept.body().keep(&packed(&vec![b' '; 100_000]));
        assert_eq!(kept.answer().body, None);
    }

    #[test]
    fn fields_are_joined_and_codings_that_are_not_read_leave_the_body_out() {
        let how = Arc::new(Comparison {
            headers: vec!["vary".to_owned(), "x-none".to_owned()],
            ..Comparison::default()
        });
        let mut kept = Kept::new(&how);
        kept.head(
            200,
            Fields::Text(&[
                header("Vary", "a"),
                header("vary", "b"),
                header("content-encoding", "br"),
            ]),
            false,
        );
        kept.body().keep(b"x");
        let answer = kept.answer();
        assert_eq!(answer.headers, [Some("a, b".to_owned()), None]);
        assert_eq!(answer.body, None);
    }
}
