//! Edits of heads, as routes and policies say them.

use crate::mesh::route::HeaderOperations;

use super::super::filter::cors::Granted;
use super::super::tables::EndpointEntry;
use super::hash::Hashed;
use super::head::Sink;
use super::session::Session;

/// Edits in force for one head; the inner ones (of the weighted cluster) come first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Edits<'t> {
    parts: [Option<&'t HeaderOperations>; 2],
    /// What may hold a cookie for the caller.
    hashed: Option<&'t Hashed>,
    /// What a page of another origin is told.
    granted: Option<&'t Granted>,
    /// What tells the caller where its session is.
    session: Option<&'t Session>,
    /// Who answers.
    by: Option<&'t EndpointEntry>,
}

impl<'t> Edits<'t> {
    pub(crate) fn new(cluster: &'t HeaderOperations, route: &'t HeaderOperations) -> Self {
        let some = |edits: &'t HeaderOperations| (!edits.is_empty()).then_some(edits);
        Self {
            parts: [some(cluster), some(route)],
            ..Self::default()
        }
    }

    /// With what `granted` tells a page of another origin.
    pub(crate) fn with_granted(self, granted: Option<&'t Granted>) -> Self {
        Self { granted, ..self }
    }

    /// With what `session` tells the caller of whoever answers.
    pub(crate) fn with_session(self, session: Option<&'t Session>) -> Self {
        Self { session, ..self }
    }

    /// For an answer of `by`.
    pub(crate) fn answered_by(self, by: Option<&'t EndpointEntry>) -> Self {
        Self { by, ..self }
    }

    /// Whether a field of the same name is written last.
    fn is_granted(&self, name: &[u8]) -> bool {
        let session = || self.session.zip(self.by);
        self.granted.is_some_and(|granted| granted.replaces(name))
            || session().is_some_and(|(session, by)| session.replaces(name, by))
    }

    /// With the cookie that `hashed` may hold for the caller.
    pub(crate) fn with_cookie(self, hashed: Option<&'t Hashed>) -> Self {
        Self { hashed, ..self }
    }

    pub(super) fn touches(&self, name: &[u8]) -> bool {
        if self.is_granted(name) {
            return true;
        }
        if let [None, None] = self.parts {
            return false;
        }
        self.parts.iter().flatten().any(|edits| {
            edits
                .remove
                .iter()
                .chain(edits.set.keys())
                .any(|edited| name.eq_ignore_ascii_case(edited.as_bytes()))
        })
    }

    /// Writes what is added to a head that came with the fields that `came` knows, by lower-case names.
    pub(super) fn write(&self, came: impl Fn(&str) -> bool, sink: &mut impl Sink) {
        if let Some(cookie) = self.hashed.and_then(|hashed| hashed.cookie.as_deref()) {
            sink.put(b"set-cookie", cookie.as_bytes());
        }
        if let Some((session, by)) = self.session.zip(self.by) {
            session.tell(by, |name, value| sink.put(name, value));
        }
        if let Some(granted) = self.granted {
            granted.each(|name, value| sink.put(name.as_bytes(), value.as_bytes()));
        }
        for (at, edits) in self.parts.iter().enumerate() {
            let Some(edits) = edits else { continue };
            for (name, value) in &edits.set {
                let set_before = at > 0
                    && self
                        .parts
                        .first()
                        .copied()
                        .flatten()
                        .is_some_and(|inner| inner.set.contains_key(name));
                if !set_before && !is_host(name) && !self.is_granted(name.as_bytes()) {
                    sink.put(name.as_bytes(), value.as_bytes());
                }
            }
            for (name, value) in &edits.add {
                if !is_host(name) && !self.is_granted(name.as_bytes()) {
                    sink.put(name.as_bytes(), value.as_bytes());
                }
            }
        }
        for (at, edits) in self.parts.iter().enumerate() {
            for (name, value) in edits.iter().flat_map(|edits| &edits.add_if_absent) {
                if !is_host(name) && !self.has(name, &came, at) {
                    sink.put(name.as_bytes(), value.as_bytes());
                }
            }
        }
    }

    /// Whether a head has a field already when edits of this place add it where there is none.
    fn has(&self, name: &str, came: &impl Fn(&str) -> bool, at: usize) -> bool {
        let bytes = name.as_bytes();
        let passed = !self.touches(bytes) && came(name);
        let mut parts = self.parts.iter().enumerate();
        passed
            || self.is_granted(bytes)
            || parts.any(|(part, edits)| {
                edits.is_some_and(|edits| {
                    edits.set.contains_key(name)
                        || edits.add.contains_key(name)
                        || (part < at && edits.add_if_absent.contains_key(name))
                })
            })
    }

    /// A host that edits set.
    pub(crate) fn host(&self) -> Option<&'t str> {
        self.parts.iter().flatten().find_map(|edits| {
            ["host", ":authority"]
                .iter()
                .find_map(|name| edits.set.get(*name))
                .map(String::as_str)
        })
    }
}

fn is_host(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}
