//! Typed reading of a tree: what is expected, what was found, and where.
//!
//! A [`Value`] is a node with its path; a [`Fields`] is a mapping that remembers which fields were
//! asked for, so that [`Fields::finish`] can name the unknown ones. Nothing stops at the first
//! mistake: a reader answers `None` or a default and goes on, and the findings decide.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use super::suggest::nearest;
use super::tree::{Node, Place, Tree, join};
use super::{codes, duration};
use crate::mesh::route::Share;
use crate::mesh::{Finding, Origin, Severity};

/// Collects the findings of one document.
pub(crate) struct Report {
    origin: Origin,
    findings: RefCell<Vec<Finding>>,
    failed: Cell<bool>,
}

impl Report {
    pub(crate) fn new(origin: Origin) -> Self {
        Self {
            origin,
            findings: RefCell::default(),
            failed: Cell::new(false),
        }
    }

    /// Whether an error was found.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings.into_inner()
    }

    fn add(
        &self,
        severity: Severity,
        code: &str,
        place: Place,
        path: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        let origin = Origin {
            line: place.line,
            column: place.column,
            ..self.origin.clone()
        };
        let mut finding = Finding::new(severity, code, &origin, message).at(path);
        finding.hint = hint;
        if severity == Severity::Error {
            self.failed.set(true);
        }
        self.findings.borrow_mut().push(finding);
    }
}

/// A node, where it is in the document, and where mistakes go.
#[derive(Clone)]
pub(crate) struct Value<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) path: String,
    report: &'a Report,
}

impl<'a> Value<'a> {
    pub(crate) fn root(tree: &'a Tree, report: &'a Report) -> Self {
        Self {
            tree,
            path: String::new(),
            report,
        }
    }

    /// What stands inside this text: its fields are below this path.
    pub(crate) fn inside<'b>(&self, tree: &'b Tree) -> Value<'b>
    where
        'a: 'b,
    {
        Value {
            tree,
            path: self.path.clone(),
            report: self.report,
        }
    }

    fn add(
        &self,
        severity: Severity,
        code: &str,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.report
            .add(severity, code, self.tree.place, &self.path, message, hint);
    }

    /// A schema error here.
    pub(crate) fn error(&self, message: impl Into<String>) {
        self.add(Severity::Error, codes::SCHEMA, message, None);
    }

    /// A schema error here, and how to mend it.
    pub(crate) fn error_hint(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Error, codes::SCHEMA, message, Some(hint.into()));
    }

    /// Something that works, but hardly as meant.
    pub(crate) fn warn(&self, code: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, code, message, Some(hint.into()));
    }

    /// A field or value that is known, but not honoured, and would change routing or security.
    pub(crate) fn refuse(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.add(
            Severity::Error,
            codes::NOT_HONOURED,
            message,
            Some(hint.into()),
        );
    }

    fn expected(&self, what: &str) {
        self.error(format!(
            "expected {what}, found {}",
            self.tree.node.describe()
        ));
    }

    pub(crate) fn text(&self) -> Option<String> {
        match &self.tree.node {
            Node::Text(text) => Some(text.clone()),
            Node::Bool(_) | Node::Number(_) => {
                self.error_hint(
                    format!("expected text, found {}", self.tree.node.describe()),
                    "write it in quotes",
                );
                None
            }
            _ => {
                self.expected("text");
                None
            }
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        if let Node::Bool(value) = self.tree.node {
            return Some(value);
        }
        self.expected("true or false");
        None
    }

    /// A whole number from `low` to `high`.
    pub(crate) fn integer(&self, low: i64, high: i64) -> Option<i64> {
        let Node::Number(number) = &self.tree.node else {
            self.expected(&format!("a whole number from {low} to {high}"));
            return None;
        };
        let whole = number.as_i64().filter(|n| (low..=high).contains(n));
        if whole.is_none() {
            self.expected(&format!("a whole number from {low} to {high}"));
        }
        whole
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.integer(1, 65535).and_then(|n| u16::try_from(n).ok())
    }

    /// A whole number from 0 to `high`.
    pub(crate) fn count(&self, high: u32) -> Option<u32> {
        self.integer(0, i64::from(high))
            .and_then(|n| u32::try_from(n).ok())
    }

    /// A number, of any kind; nothing is said where it is none.
    pub(crate) fn number(&self) -> Option<f64> {
        match &self.tree.node {
            Node::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    /// A number above 0, in thousandths.
    pub(crate) fn thousandths(&self) -> Option<u32> {
        let number = match &self.tree.node {
            Node::Number(number) => number.as_f64(),
            _ => None,
        };
        let whole = number
            .filter(|number| *number > 0.0)
            .and_then(|number| format!("{:.0}", number * 1000.0).parse().ok())
            .filter(|whole| *whole > 0);
        if whole.is_none() {
            self.expected("a number above 0");
        }
        whole
    }

    /// A number from 0 to 100, in steps of a ten-thousandth (Istio's precision).
    pub(crate) fn percent(&self) -> Option<Share> {
        let number = match &self.tree.node {
            Node::Number(number) => number.as_f64(),
            _ => None,
        };
        let parts = number
            .filter(|number| (0.0..=100.0).contains(number))
            .and_then(|number| format!("{:.0}", number * 10_000.0).parse::<u32>().ok());
        if parts.is_none() {
            self.expected("a percentage from 0 to 100");
        }
        let parts = parts?;
        Some(if parts.is_multiple_of(10_000) {
            Share {
                of: 100,
                parts: parts / 10_000,
            }
        } else {
            Share {
                of: 1_000_000,
                parts,
            }
        })
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        let read = self.tree.text().and_then(duration::parse);
        if read.is_none() {
            self.add(
                Severity::Error,
                codes::SCHEMA,
                format!(
                    "expected a duration of at most a year, found {}",
                    self.tree.node.describe()
                ),
                Some("write it with a unit, such as 500ms, 5s or 1m30s".to_owned()),
            );
        }
        read
    }

    /// One of the names in `choices`.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let message = format!("expected one of {}, found {text:?}", names.join(", "));
            match nearest(&text, names) {
                Some(name) => self.error_hint(message, format!("did you mean {name}?")),
                None => self.error(message),
            }
        }
        found.map(|(_, value)| *value)
    }

    /// The items of a list; nothing counts as an empty one.
    pub(crate) fn list(&self) -> Vec<Value<'a>> {
        match &self.tree.node {
            Node::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, tree)| Value {
                    tree,
                    path: format!("{}[{index}]", self.path),
                    report: self.report,
                })
                .collect(),
            Node::Null => Vec::new(),
            _ => {
                self.expected("a list");
                Vec::new()
            }
        }
    }

    /// The fields of a mapping; nothing counts as an empty one.
    pub(crate) fn fields(&self) -> Fields<'a> {
        if !matches!(self.tree.node, Node::Map(_) | Node::Null) {
            self.expected("a mapping");
        }
        Fields {
            value: self.clone(),
            asked: RefCell::default(),
        }
    }

    /// Name and value of each entry of a mapping whose keys are free.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Value<'a>)> {
        match &self.tree.node {
            Node::Map(entries) => entries
                .iter()
                .map(|(key, tree)| (key.text.as_str(), self.child(&key.text, tree)))
                .collect(),
            Node::Null => Vec::new(),
            _ => {
                self.expected("a mapping");
                Vec::new()
            }
        }
    }

    /// A mapping from text to text.
    pub(crate) fn texts(&self) -> BTreeMap<String, String> {
        self.entries()
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.text()?)))
            .collect()
    }

    fn child(&self, name: &str, tree: &'a Tree) -> Value<'a> {
        Value {
            tree,
            path: join(&self.path, name),
            report: self.report,
        }
    }
}

/// A mapping whose fields are known.
pub(crate) struct Fields<'a> {
    pub(crate) value: Value<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The value of field `name`; `None` when it is absent or nothing.
    pub(crate) fn get(&self, name: &'static str) -> Option<Value<'a>> {
        self.asked.borrow_mut().push(name);
        #[cfg(test)]
        asked::note(&self.value.path, name);
        let tree = self.value.tree.get(name)?;
        (tree.node != Node::Null).then(|| self.value.child(name, tree))
    }

    /// The value of field `name`, which must be there.
    pub(crate) fn require(&self, name: &'static str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            self.value.error(format!("field {name:?} is missing"));
        }
        value
    }

    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        self.get(name)?.text()
    }

    pub(crate) fn boolean(&self, name: &'static str) -> Option<bool> {
        self.get(name)?.boolean()
    }

    pub(crate) fn port(&self, name: &'static str) -> Option<u16> {
        self.get(name)?.port()
    }

    pub(crate) fn count(&self, name: &'static str, high: u32) -> Option<u32> {
        self.get(name)?.count(high)
    }

    pub(crate) fn duration(&self, name: &'static str) -> Option<Duration> {
        self.get(name)?.duration()
    }

    pub(crate) fn texts(&self, name: &'static str) -> BTreeMap<String, String> {
        self.get(name)
            .map(|value| value.texts())
            .unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &'static str) -> Vec<Value<'a>> {
        self.get(name).map(|value| value.list()).unwrap_or_default()
    }

    pub(crate) fn text_list(&self, name: &'static str) -> Vec<String> {
        self.list(name).iter().filter_map(Value::text).collect()
    }

    /// Refuses field `name` if it is written: it is known, but not honoured, and changes routing or security.
    pub(crate) fn refuse(&self, name: &'static str, hint: &str) {
        if let Some(value) = self.get(name) {
            value.refuse(format!("{name:?} is not honoured by meshctl yet"), hint);
        }
    }

    /// Reports field `name` if it is written: it is known, but not honoured, and only tunes.
    pub(crate) fn ignore(&self, name: &'static str, hint: &str) {
        if let Some(value) = self.get(name) {
            value.warn(
                codes::IGNORED,
                format!("{name:?} is not honoured by meshctl yet and has no effect"),
                hint,
            );
        }
    }

    /// Fields that are known and are none of the mesh's business.
    pub(crate) fn accept(&self, names: &[&'static str]) {
        self.asked.borrow_mut().extend_from_slice(names);
        #[cfg(test)]
        for name in names {
            asked::note(&self.value.path, name);
        }
    }

    /// Reports every field that nobody asked for.
    pub(crate) fn finish(self) {
        let Node::Map(entries) = &self.value.tree.node else {
            return;
        };
        let asked = self.asked.borrow();
        for (key, tree) in entries {
            if asked.contains(&key.text.as_str()) {
                continue;
            }
            let value = self.value.child(&key.text, tree);
            let hint = nearest(&key.text, asked.iter().copied()).map_or_else(
                || {
                    let mut known = asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known here: {}", known.join(", "))
                },
                |name| format!("did you mean {name:?}?"),
            );
            value.report.add(
                Severity::Error,
                codes::SCHEMA,
                key.place,
                &value.path,
                format!("unknown field {:?}", key.text),
                Some(hint),
            );
        }
    }
}

/// What readers asked for, for tests that hold the definitions of kinds to it.
#[cfg(test)]
pub(crate) mod asked {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    /// The path of a mapping, and the field that was asked for.
    type Asked = BTreeSet<(String, &'static str)>;

    thread_local! {
        static ASKED: RefCell<Option<Asked>> = const { RefCell::new(None) };
    }

    pub(super) fn note(path: &str, name: &'static str) {
        ASKED.with_borrow_mut(|asked| {
            if let Some(asked) = asked {
                asked.insert((path.to_owned(), name));
            }
        });
    }

    /// What `read` asks for on this thread.
    pub(crate) fn during(read: impl FnOnce()) -> Asked {
        ASKED.set(Some(Asked::new()));
        read();
        ASKED.take().unwrap_or_default()
    }
}
