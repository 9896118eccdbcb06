//! Paths by segments, as Istio writes them: `{*}` is one segment, `{**}` the rest
//! (`envoy.path.match.uri_template`).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest template (Envoy's bound is on its parts; no path is longer than a head).
const MAX_BYTES: usize = 8 * 1024;

/// A path whose segments are fixed, any (`{*}` or `*`), or the rest (`{**}` or `**`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    source: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// One segment that is not empty.
    One,
    /// Whatever there is, also nothing; what follows must fit the end.
    Rest,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{template:?} is not a path template: {reason}")]
pub struct TemplateError {
    /// The text.
    pub template: String,
    /// What is wrong.
    pub reason: &'static str,
}

impl PathTemplate {
    /// Whether Istio takes `path` as a template.
    pub fn is_meant(path: &str) -> bool {
        path.contains("{*}") || path.contains("{**}")
    }

    /// Reads a template.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        let fault = |reason| TemplateError {
            template: source.to_owned(),
            reason,
        };
        if source.len() > MAX_BYTES {
            return Err(fault("it is too long"));
        }
        let inner = source
            .strip_prefix('/')
            .ok_or_else(|| fault("it does not begin with /"))?;
        let mut parts = Vec::new();
        let mut rest = false;
        for segment in inner.split('/') {
            let part = match segment {
                "{*}" | "*" => Part::One,
                "{**}" | "**" if rest => return Err(fault("{**} stands in it twice")),
                "{**}" | "**" => {
                    rest = true;
                    Part::Rest
                }
                other if other.contains(['{', '}', '*']) => {
                    return Err(fault(
                        "{*} and {**} stand for whole segments, and nothing else has { } or * in it",
                    ));
                }
                other => Part::Literal(other.to_owned()),
            };
            parts.push(part);
        }
        Ok(Self {
            source: source.to_owned(),
            parts,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether `path` (without its query) is of this shape.
    pub fn matches(&self, path: &[u8], ignore_case: bool) -> bool {
        let Some(inner) = path.strip_prefix(b"/") else {
            return false;
        };
        let segments: Vec<&[u8]> = inner.split(|byte| *byte == b'/').collect();
        let fits = |part: &Part, segment: &[u8]| match part {
            Part::Literal(text) if ignore_case => segment.eq_ignore_ascii_case(text.as_bytes()),
            Part::Literal(text) => segment == text.as_bytes(),
            Part::One => !segment.is_empty(),
            Part::Rest => true,
        };
        let at = self.parts.iter().position(|part| *part == Part::Rest);
        let Some(at) = at else {
            let mut pairs = self.parts.iter().zip(&segments);
            return self.parts.len() == segments.len()
                && pairs.all(|(part, segment)| fits(part, segment));
        };
        let (before, after) = self.parts.split_at(at);
        let after = after.get(1..).unwrap_or_default();
        // "/a/{**}" is also "/a/", which is a segment that is empty, but not "/a".
        if segments.len() < before.len() + 1 + after.len() {
            return false;
        }
        let tail = segments.len() - after.len();
        let mut first = before.iter().zip(&segments);
        let mut last = after.iter().zip(segments.get(tail..).unwrap_or_default());
        first.all(|(part, segment)| fits(part, segment))
            && last.all(|(part, segment)| fits(part, segment))
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for PathTemplate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_matched_whole() {
        for (template, path, expected) in [
            ("/a/{*}/c", "/a/b/c", true),
            ("/a/{*}/c", "/a//c", false),
            ("/a/{*}/c", "/a/b/d/c", false),
            ("/a/{*}", "/a/", false),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}/z", "/a/b/c/z", true),
            ("/a/{**}/z", "/a/z", false),
            ("/{*}/x/{**}", "/v1/x/y/z", true),
            ("/{*}/x/{**}", "/v1/y/y/z", false),
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/", false),
        ] {
            let made = PathTemplate::new(template).unwrap();
            assert_eq!(
                made.matches(path.as_bytes(), false),
                expected,
                "{template} {path}"
            );
        }
        assert!(PathTemplate::new("/A/{*}").unwrap().matches(b"/a/x", true));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["a/{*}", "/a{*}", "/{**}/{**}", "/{a}", "/{*", "/a*"] {
            assert!(PathTemplate::new(text).is_err(), "{text}");
        }
    }
}
