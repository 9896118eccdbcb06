//! Conditions of ServiceProfiles: trees of `all`, `any` and `not`, and what they mean as a list of
//! matches any of which suffices.

use crate::mesh::route::{HeaderMatch, Match, PathMatch, Pattern, TextMatch};
use crate::resource::istio::pattern;
use crate::resource::reader::Value;

/// More alternatives than this say nothing that a person meant.
const MOST: usize = 64;

/// A condition on something of which `A` is the smallest part.
pub(super) enum Tree<A> {
    /// A smallest part.
    One(A),
    /// All hold.
    All(Vec<Self>),
    /// Any holds.
    Any(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
}

/// What is asked of a request.
#[derive(Clone)]
pub(super) enum Asked {
    /// The path is this.
    Path(Pattern, Pattern),
    /// The method is this.
    Method(String),
}

impl<A: Clone> Tree<A> {
    /// Reads a condition whose smallest parts are fields that `own` reads.
    pub(super) fn read(
        value: &Value<'_>,
        own: &impl Fn(&crate::resource::reader::Fields<'_>) -> Vec<A>,
    ) -> Option<Self> {
        let fields = value.fields();
        let mut parts: Vec<Self> = own(&fields).into_iter().map(Self::One).collect();
        let list = |name: &'static str| {
            let written = fields.get(name)?;
            let items = written.list();
            if items.is_empty() {
                written.error_hint("a list of conditions needs one", "remove it");
            }
            let read = items.iter().filter_map(|item| Self::read(item, own));
            Some(read.collect::<Vec<Self>>())
        };
        parts.extend(list("all").map(Self::All));
        parts.extend(list("any").map(Self::Any));
        let not = fields.get("not");
        let not = not.and_then(|value| Self::read(&value, own));
        parts.extend(not.map(|inner| Self::Not(Box::new(inner))));
        let written = value.entries().len();
        fields.finish();
        if written == 0 {
            value.error_hint("a condition needs a field", "such as pathRegex: /books");
        }
        // Several fields of one condition hold together.
        match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(Self::All(parts)),
        }
    }

    /// Alternatives, each of parts that hold together, or do not hold; `None` when there are too many.
    pub(super) fn alternatives(&self, holds: bool) -> Option<Vec<Vec<(A, bool)>>> {
        let (parts, together) = match self {
            Self::One(part) => return Some(vec![vec![(part.clone(), holds)]]),
            Self::Not(inner) => return inner.alternatives(!holds),
            Self::All(parts) => (parts, holds),
            // What is none of several is not each of them.
            Self::Any(parts) => (parts, !holds),
        };
        let mut found: Vec<Vec<(A, bool)>> = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            let own = part.alternatives(holds)?;
            if !together || at == 0 {
                found.extend(own);
            } else {
                let joined = |one: &Vec<(A, bool)>| {
                    let own = own.iter();
                    own.map(|other| [one.as_slice(), other].concat())
                        .collect::<Vec<_>>()
                };
                found = found.iter().flat_map(joined).collect();
            }
            if found.len() > MOST {
                return None;
            }
        }
        Some(found)
    }

    /// Whether it holds where `part` says of each smallest part whether that does.
    pub(super) fn holds(&self, part: &impl Fn(&A) -> bool) -> bool {
        match self {
            Self::One(one) => part(one),
            Self::All(parts) => parts.iter().all(|inner| inner.holds(part)),
            Self::Any(parts) => parts.iter().any(|inner| inner.holds(part)),
            Self::Not(inner) => !inner.holds(part),
        }
    }
}

/// The matches any of which a request must fulfil.
pub(super) fn request(value: &Value<'_>) -> Vec<Match> {
    let tree = Tree::read(value, &|fields| {
        let path = fields.get("pathRegex").and_then(|value| {
            let path = pattern(&value)?;
            let beside = within_target(&path);
            if beside.is_none() {
                value.error_hint("the expression is too large", "write it shorter");
            }
            Some(Asked::Path(path, beside?))
        });
        let method = fields.text("method").map(Asked::Method);
        path.into_iter().chain(method).collect()
    });
    let Some(tree) = tree else {
        return Vec::new();
    };
    let Some(alternatives) = tree.alternatives(true) else {
        value.refuse(
            format!("a condition with more than {MOST} alternatives is not honoured"),
            "write several routes",
        );
        return Vec::new();
    };
    alternatives.iter().map(|parts| one(parts)).collect()
}

/// `path` as a condition on path and query together, for what has a condition on the path already.
pub(in crate::resource) fn within_target(path: &Pattern) -> Option<Pattern> {
    Pattern::new(&format!("(?:{})(?:\\?.*)?", path.as_str())).ok()
}

fn one(parts: &[(Asked, bool)]) -> Match {
    let mut matches = Match::default();
    let mut has_path = false;
    for (part, holds) in parts {
        let (name, value) = match part {
            Asked::Path(path, _) if *holds && !has_path => {
                has_path = true;
                matches.path = PathMatch::Regex(path.clone());
                continue;
            }
            Asked::Path(_, beside) => (":path", TextMatch::Regex(beside.clone())),
            Asked::Method(method) => (":method", TextMatch::Exact(method.to_ascii_uppercase())),
        };
        matches.headers.push(HeaderMatch {
            name: name.to_owned(),
            value,
            invert: !holds,
        });
    }
    matches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shapes of conditions on which of eight things hold.
    #[derive(Debug, Clone)]
    enum Shape {
        One(u8),
        All(Vec<Shape>),
        Any(Vec<Shape>),
        Not(Box<Shape>),
    }

    fn shapes() -> impl Strategy<Value = Shape> {
        (0..8_u8)
            .prop_map(Shape::One)
            .prop_recursive(3, 12, 3, |inner| {
                prop_oneof![
                    proptest::collection::vec(inner.clone(), 1..3).prop_map(Shape::All),
                    proptest::collection::vec(inner.clone(), 1..3).prop_map(Shape::Any),
                    inner.prop_map(|inner| Shape::Not(Box::new(inner))),
                ]
            })
    }

    fn tree(shape: &Shape) -> Tree<u8> {
        let all = |parts: &[Shape]| parts.iter().map(tree).collect();
        match shape {
            Shape::One(part) => Tree::One(*part),
            Shape::All(parts) => Tree::All(all(parts)),
            Shape::Any(parts) => Tree::Any(all(parts)),
            Shape::Not(inner) => Tree::Not(Box::new(tree(inner))),
        }
    }

    proptest! {
        #[test]
        fn alternatives_hold_where_the_condition_does(shape in shapes(), facts in any::<u8>()) {
            let tree = tree(&shape);
            let fact = |part: &u8| facts & (1 << part) != 0;
            if let Some(alternatives) = tree.alternatives(true) {
                let any = alternatives
                    .iter()
                    .any(|parts| parts.iter().all(|(part, holds)| fact(part) == *holds));
                prop_assert_eq!(any, tree.holds(&fact));
            }
        }
    }
}
