//! Answers by status, as far as somebody may ask about a single one.
//!
//! 200 and, of gRPC, 0 are left out, so that a service where all is well takes no room for them.

use serde::{Deserialize, Serialize};

/// What gRPC statuses are kept as, above those of HTTP.
const GRPC: u16 = 1_000;

/// One way to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// A status of HTTP.
    Http(u16),
    /// A status of gRPC.
    Grpc(u16),
}

impl Code {
    /// As series are named: `404`, `grpc-14`.
    pub fn name(self) -> String {
        match self {
            Self::Http(status) => status.to_string(),
            Self::Grpc(status) => format!("grpc-{status}"),
        }
    }

    const fn number(self) -> u16 {
        match self {
            Self::Http(status) => status,
            Self::Grpc(status) => GRPC.saturating_add(status),
        }
    }

    const fn of(number: u16) -> Self {
        match number.checked_sub(GRPC) {
            Some(status) => Self::Grpc(status),
            None => Self::Http(number),
        }
    }
}

/// Counts by code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Codes {
    /// Ascending by code; no count is 0.
    counts: Vec<(u16, u64)>,
}

impl Codes {
    /// Adds `count` answers, unless they are of those that nobody asks about.
    pub fn add(&mut self, code: Code, count: u64) {
        match code {
            Code::Http(200 | GRPC..) | Code::Grpc(0) => {}
            code => self.add_number(code.number(), count),
        }
    }

    pub(super) fn add_number(&mut self, number: u16, count: u64) {
        if count == 0 {
            return;
        }
        match self
            .counts
            .binary_search_by_key(&number, |(known, _)| *known)
        {
            Ok(at) => {
                if let Some((_, known)) = self.counts.get_mut(at) {
                    *known = known.saturating_add(count);
                }
            }
            Err(at) => self.counts.insert(at, (number, count)),
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (number, count) in &other.counts {
            self.add_number(*number, *count);
        }
    }

    /// Every code with its count.
    pub fn each(&self) -> impl Iterator<Item = (Code, u64)> {
        self.counts
            .iter()
            .map(|(number, count)| (Code::of(*number), *count))
    }

    /// As they are written down.
    pub(super) fn all(&self) -> &[(u16, u64)] {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_well_takes_no_room() {
        let mut codes = Codes::default();
        codes.add(Code::Http(200), 1_000);
        codes.add(Code::Grpc(0), 1_000);
        assert!(codes.all().is_empty());
        codes.add(Code::Grpc(14), 2);
        codes.add(Code::Http(404), 1);
        codes.add(Code::Http(404), 1);
        let named: Vec<_> = codes
            .each()
            .map(|(code, count)| (code.name(), count))
            .collect();
        assert_eq!(named, [("404".to_owned(), 2), ("grpc-14".to_owned(), 2)]);
    }
}
