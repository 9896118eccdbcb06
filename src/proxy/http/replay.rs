//! What of a request's body went up already, so that it can go up again.

/// The part of a request's body that went up already, for another try.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) kept: Vec<u8>,
    off: bool,
}

impl Replay {
    /// Most that is kept.
    const LIMIT: usize = 64 * 1024;

    /// Takes note of `data` as gone up.
    pub(crate) fn keep(&mut self, data: &[u8]) {
        if self.off {
            return;
        }
        if self.kept.len() + data.len() > Self::LIMIT {
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
