//! The tables that indexes point into: the fixed one and the one that grows with a connection.

use std::collections::VecDeque;

use super::super::super::fields::Name;
use super::super::block::Kind;

/// Bytes that an entry costs beyond its text (RFC 7541, 4.1).
const OVERHEAD: usize = 32;
/// Text in front that is no longer needed is kept up to this many bytes before all is moved.
const SLACK: usize = 1024;

const OTHER: Kind = Kind::Field(Name::Other);

/// RFC 7541, appendix A.
#[rustfmt::skip]
pub(super) static FIXED: [(&str, &str, Kind); 61] = [
    (":authority", "", Kind::Authority), (":method", "GET", Kind::Method), (":method", "POST", Kind::Method),
    (":path", "/", Kind::Path), (":path", "/index.html", Kind::Path), (":scheme", "http", Kind::Scheme),
    (":scheme", "https", Kind::Scheme), (":status", "200", Kind::Status), (":status", "204", Kind::Status),
    (":status", "206", Kind::Status), (":status", "304", Kind::Status), (":status", "400", Kind::Status),
    (":status", "404", Kind::Status), (":status", "500", Kind::Status), ("accept-charset", "", OTHER),
    ("accept-encoding", "gzip, deflate", OTHER), ("accept-language", "", OTHER), ("accept-ranges", "", OTHER),
    ("accept", "", OTHER), ("access-control-allow-origin", "", OTHER), ("age", "", OTHER), ("allow", "", OTHER),
    ("authorization", "", OTHER), ("cache-control", "", OTHER), ("content-disposition", "", OTHER),
    ("content-encoding", "", OTHER), ("content-language", "", OTHER),
    ("content-length", "", Kind::Field(Name::ContentLength)), ("content-location", "", OTHER),
    ("content-range", "", OTHER), ("content-type", "", Kind::Field(Name::ContentType)),
    ("cookie", "", Kind::Field(Name::Cookie)), ("date", "", OTHER), ("etag", "", OTHER), ("expect", "", Kind::Field(Name::Expect)),
    ("expires", "", OTHER), ("from", "", OTHER), ("host", "", Kind::Field(Name::Host)), ("if-match", "", OTHER),
    ("if-modified-since", "", OTHER), ("if-none-match", "", OTHER), ("if-range", "", OTHER),
    ("if-unmodified-since", "", OTHER), ("last-modified", "", OTHER), ("link", "", OTHER), ("location", "", OTHER),
    ("max-forwards", "", OTHER), ("proxy-authenticate", "", OTHER), ("proxy-authorization", "", OTHER),
    ("range", "", OTHER), ("referer", "", OTHER), ("refresh", "", OTHER), ("retry-after", "", OTHER),
    ("server", "", Kind::Field(Name::Server)), ("set-cookie", "", OTHER), ("strict-transport-security", "", OTHER),
    ("transfer-encoding", "", Kind::Field(Name::TransferEncoding)), ("user-agent", "", OTHER), ("vary", "", OTHER),
    ("via", "", Kind::Field(Name::Via)), ("www-authenticate", "", OTHER),
];

/// The index of a field name in the fixed table; 0 is none. By length first, as most differ in it.
pub(super) fn fixed_name(name: &[u8]) -> usize {
    let candidates: &[usize] = match name.len() {
        3 => &[21, 60],
        4 => &[33, 38, 34, 59, 37, 45],
        5 => &[4, 22, 50],
        6 => &[54, 19, 32, 35],
        7 => &[2, 6, 8, 36, 51, 52],
        8 => &[46, 39, 42],
        10 => &[58, 1, 55],
        11 => &[53],
        12 => &[31, 47],
        13 => &[24, 23, 18, 30, 41, 44],
        14 => &[28, 15],
        15 => &[16, 17],
        16 => &[26, 27, 29, 61],
        17 => &[40, 57],
        18 => &[48],
        19 => &[25, 43, 49],
        25 => &[56],
        27 => &[20],
        _ => return 0,
    };
    let is = |index: &&usize| {
        FIXED
            .get(**index - 1)
            .is_some_and(|(text, ..)| text.as_bytes() == name)
    };
    candidates.iter().find(is).copied().unwrap_or(0)
}

/// The table that grows; the newest entry is the first.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    /// Names and values of the entries, the oldest first, behind what is no longer needed.
    text: Vec<u8>,
    size: usize,
    /// Bytes at most, with overhead.
    pub(super) max: usize,
    /// Entries ever.
    pub(super) inserted: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: usize,
    name: usize,
    value: usize,
    kind: Kind,
}

/// An entry of either table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'t> {
    pub(super) name: &'t [u8],
    pub(super) value: &'t [u8],
    pub(super) kind: Kind,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            ..Self::default()
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Entry `number`, counted from the newest, which is 0.
    pub(super) fn get(&self, number: usize) -> Option<Found<'_>> {
        let at = self.entries.len().checked_sub(number)?.checked_sub(1)?;
        let entry = self.entries.get(at)?;
        let text = self.text.get(entry.at..)?;
        let (name, rest) = text.split_at_checked(entry.name)?;
        Some(Found {
            name,
            value: rest.get(..entry.value)?,
            kind: entry.kind,
        })
    }

    /// Makes room and puts an entry in front; one that is larger than the table empties it.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], kind: Kind) {
        let size = name.len() + value.len() + OVERHEAD;
        self.shrink(self.max.saturating_sub(size));
        if size > self.max {
            return;
        }
        self.move_up();
        self.entries.push_back(Entry {
            at: self.text.len(),
            name: name.len(),
            value: value.len(),
            kind,
        });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
    }

    /// Changes how many bytes there may be.
    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most
            && let Some(entry) = self.entries.pop_front()
        {
            self.size -= entry.name + entry.value + OVERHEAD;
        }
        if self.entries.is_empty() {
            self.text.clear();
        }
    }

    fn move_up(&mut self) {
        let Some(begin) = self.entries.front().map(|entry| entry.at) else {
            return;
        };
        if begin > SLACK {
            self.text.drain(..begin);
            for entry in &mut self.entries {
                entry.at -= begin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::block::kind;
    use super::*;

    #[test]
    fn names_of_the_fixed_table_are_found_and_classified_as_everywhere() {
        for (at, (name, _, known)) in FIXED.iter().enumerate() {
            let found = fixed_name(name.as_bytes());
            assert!(found > 0 && found <= at + 1, "{name}");
            assert_eq!(FIXED[found - 1].0, *name);
            assert_eq!(kind(name.as_bytes()), *known, "{name}");
        }
        assert_eq!(fixed_name(b"x-request-id"), 0);
    }

    #[test]
    fn the_oldest_entries_make_room() {
        let mut table = Table::new(100);
        for n in 0..1000_u32 {
            let name = format!("name{n:04}");
            table.insert(name.as_bytes(), b"value", OTHER);
            assert_eq!(table.get(0).unwrap().name, name.as_bytes());
            assert!(table.len() <= 2 && table.text.len() <= SLACK + 200);
        }
        assert_eq!(table.get(1).unwrap().name, b"name0998");
        assert!(table.get(2).is_none());
        table.insert(&[b'a'; 200], b"", OTHER);
        assert_eq!((table.len(), table.size), (0, 0));
    }
}
