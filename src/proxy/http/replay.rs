//! What of a request's body went up already, so that it can go up again.

/// Most that is kept where the route does not say.
const LIMIT: usize = 64 * 1024;

/// The part of a request's body that went up already, for another try.
#[derive(Debug, Clone)]
pub(crate) struct Replay {
    pub(crate) kept: Vec<u8>,
    limit: usize,
    off: bool,
}

impl Replay {
    /// Keeps at most `limit` bytes, else 64 KiB.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            kept: Vec::new(),
            limit: limit.map_or(LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            off: false,
        }
    }

    /// The same, where `kept` is to go up before what comes.
    pub(crate) fn after(limit: Option<u64>, kept: Vec<u8>) -> Self {
        Self {
            kept,
            ..Self::new(limit)
        }
    }

    /// Takes note of `data` as gone up.
    pub(crate) fn keep(&mut self, data: &[u8]) {
        if self.off {
            return;
        }
        if self.kept.len().saturating_add(data.len()) > self.limit {
            self.off = true;
            self.kept = Vec::new();
            return;
        }
        self.kept.extend_from_slice(data);
    }

    /// Whether another try could send the same body.
    pub(crate) fn is_whole(&self) -> bool {
        !self.off
    }
}
