//! The answer that sends a caller elsewhere.

pub(super) use crate::mesh::route::rewritten;
use crate::mesh::route::{Redirect, location};

use super::answer::Answer;
use super::plan::Seen;

pub(super) fn redirected(redirect: &Redirect, seen: &Seen<'_>) -> Answer {
    Answer {
        status: redirect.status,
        location: Some(location(redirect, seen.authority, seen.path)),
        ..Answer::default()
    }
}
