//! The answer that sends a caller elsewhere.

use std::str;

pub(super) use crate::mesh::route::rewritten;
use crate::mesh::route::{PathMatch, Redirect, Request as _, location};

use super::answer::Answer;
use super::plan::Seen;

/// Where a request is redirected to; its path had matched by `matched`.
pub(super) fn redirected(redirect: &Redirect, matched: &PathMatch, seen: &Seen<'_>) -> Answer {
    let asked = str::from_utf8(seen.scheme()).unwrap_or("http");
    Answer {
        status: redirect.status,
        location: Some(location(
            redirect,
            matched,
            (asked, seen.authority, seen.path),
        )),
        ..Answer::default()
    }
}
