//! The notation of definitions, and its reader.
//!
//! A file is lines; what belongs to a line is indented under it. `#` begins a comment, `\` at the end of
//! a line goes on with the next.
//!
//! ```text
//! group networking.istio.io            the group of the kinds below
//! categories istio-io                  their categories
//! annotation KEY VALUE                 an annotation of their definitions
//! pattern lower ^[a-z]+$               a regular expression with a name
//! type Percent                         a type with a name, used as a word
//!   value number
//! type Name string 1..63 ~lower        a type that is another one with limits
//! kind VirtualService virtualservices vs     kind, plural, short names
//!   versions v1* v1beta1               served; the starred one is stored
//!   cluster                            it lives in no namespace
//!   column Hosts string .spec.hosts    what `kubectl get` shows (`wide` at the end: only with -o wide)
//!   spec                               a mapping whose fields follow
//!     hosts! [string 1..] 1..16        `!` required; `[T]` list, `{T}` mapping to T, (A B) one of these words
//!     routes [] by:name                a list of mappings whose fields follow; items are told apart by name
//!       name! Name
//!       weight int 0..100 = 1          limits (of a number, or a length); default, as JSON
//!     * at-most-one a b                rules: also exactly-one, at-least-one,
//!     * union type A=a B=b             and which field goes with which word of `type`
//!     * open                           fields that are not named here are kept
//! ```
//!
//! Words for types: `string`, `bool`, `int` (32 bits), `int64`, `uint32`, `uint64`, `number`, `time` (RFC 3339),
//! `int-or-string`, `object` (a mapping of anything), `any`.

use serde_json::Value;

use super::Fault;

/// A file.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) kinds: Vec<Kind>,
    /// Types by name.
    pub(super) types: Vec<(String, Typed)>,
}

/// A kind.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) line: usize,
    pub(super) group: String,
    pub(super) name: String,
    pub(super) plural: String,
    pub(super) short: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
    /// Those that are served, and whether it is the stored one.
    pub(super) versions: Vec<(String, bool)>,
    /// It lives in no namespace.
    pub(super) cluster: bool,
    pub(super) columns: Vec<Column>,
    pub(super) body: Object,
}

/// What `kubectl get` shows.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) of: String,
    pub(super) path: String,
    /// Only with `-o wide`.
    pub(super) wide: bool,
}

/// A mapping whose fields are known.
#[derive(Debug, Default, Clone)]
pub(super) struct Object {
    pub(super) fields: Vec<Field>,
    pub(super) rules: Vec<Rule>,
    /// Unknown fields are kept.
    pub(super) open: bool,
}

/// A field.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) typed: Typed,
}

/// What holds between the fields of a mapping.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    AtMostOne(Vec<String>),
    ExactlyOne(Vec<String>),
    AtLeastOne(Vec<String>),
    /// The field that tells, and the field that goes with each of its words.
    Union(String, Vec<(String, String)>),
}

/// A type and its limits.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) line: usize,
    pub(super) of: Of,
    /// Of a number, or of a length.
    pub(super) low: Option<i64>,
    pub(super) high: Option<i64>,
    pub(super) pattern: Option<String>,
    /// The fields that tell items of a list apart.
    pub(super) keys: Vec<String>,
    /// No item of the list is there twice.
    pub(super) set: bool,
    pub(super) default: Option<Value>,
}

/// A type.
#[derive(Debug, Clone)]
pub(super) enum Of {
    Word(String),
    Choice(Vec<String>),
    List(Box<Typed>),
    Map(Box<Typed>),
    Object(Object),
}

impl Typed {
    fn new(line: usize, of: Of) -> Self {
        Self {
            line,
            of,
            low: None,
            high: None,
            pattern: None,
            keys: Vec::new(),
            set: false,
            default: None,
        }
    }
}

struct Line {
    number: usize,
    indent: usize,
    text: String,
}

impl Line {
    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault {
            line: self.number,
            message: message.into(),
        }
    }

    /// The first word, and what follows it.
    fn head(&self) -> (&str, &str) {
        let (head, rest) = self.text.split_once(' ').unwrap_or((&self.text, ""));
        (head, rest.trim())
    }
}

/// Lines without comments, those that go on put together.
fn lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut goes_on = false;
    for (index, written) in text.lines().enumerate() {
        let (text, more) = match written.strip_suffix('\\') {
            Some(text) => (text, true),
            None => (written, false),
        };
        let trimmed = text.trim();
        if let (true, Some(last)) = (goes_on, lines.last_mut()) {
            last.text = format!("{} {trimmed}", last.text);
        } else if !trimmed.is_empty() && !trimmed.starts_with('#') {
            lines.push(Line {
                number: index + 1,
                indent: text.len() - text.trim_start().len(),
                text: trimmed.to_owned(),
            });
        }
        goes_on = more;
    }
    lines
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<File, Fault> {
    let lines = lines(text);
    let mut file = File::default();
    let mut patterns: Vec<(String, String)> = Vec::new();
    let (mut group, mut categories, mut annotations) = (String::new(), Vec::new(), Vec::new());
    let mut rest = lines.as_slice();
    while let Some((line, after)) = rest.split_first() {
        if line.indent > 0 {
            return Err(line.fault("nothing stands above this line that it could belong to"));
        }
        let (within, after) = block(after, 0);
        rest = after;
        let (head, said) = line.head();
        match head {
            "group" => {
                said.clone_into(&mut group);
                categories = Vec::new();
                annotations = Vec::new();
            }
            "categories" => categories = words(said),
            "annotation" => annotations.push(pair(line, said)?),
            "pattern" => patterns.push(pair(line, said)?),
            "type" => {
                let (name, said) = said.split_once(' ').unwrap_or((said, ""));
                let typed = typed(line, said, within, &patterns)?;
                if file.types.iter().any(|(other, _)| other == name) {
                    return Err(line.fault(format!("there are two types {name}")));
                }
                file.types.push((name.to_owned(), typed));
            }
            "kind" => {
                let mut names = words(said).into_iter();
                let (Some(name), Some(plural)) = (names.next(), names.next()) else {
                    return Err(line.fault("a kind has a name and a plural"));
                };
                let known = Kind {
                    line: line.number,
                    group: group.clone(),
                    name,
                    plural,
                    short: names.collect(),
                    categories: categories.clone(),
                    annotations: annotations.clone(),
                    ..Kind::default()
                };
                file.kinds.push(definition(known, within, &patterns)?);
            }
            _ => return Err(line.fault(format!("{head:?} is not known here"))),
        }
    }
    Ok(file)
}

/// What is indented under a line of `indent`, and what follows.
fn block(lines: &[Line], indent: usize) -> (&[Line], &[Line]) {
    let inside = lines.iter().take_while(|line| line.indent > indent).count();
    lines.split_at(inside)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn pair(line: &Line, said: &str) -> Result<(String, String), Fault> {
    let pair = said.split_once(' ');
    let pair = pair.ok_or_else(|| line.fault("a name and what it stands for are needed"))?;
    Ok((pair.0.to_owned(), pair.1.trim().to_owned()))
}

fn definition(
    mut kind: Kind,
    lines: &[Line],
    patterns: &[(String, String)],
) -> Result<Kind, Fault> {
    let said = |line: &&Line| matches!(line.head().0, "versions" | "column" | "cluster");
    let fields = lines.iter().take_while(said).count();
    let (said, fields) = lines.split_at(fields);
    for line in said {
        let (head, rest) = line.head();
        match head {
            "versions" => {
                let versions = rest.split_whitespace();
                let starred =
                    |text: &str| (text.trim_end_matches('*').to_owned(), text.ends_with('*'));
                kind.versions = versions.map(starred).collect();
            }
            "cluster" => kind.cluster = true,
            _ => {
                let parts = words(rest);
                let [name, of, path, wide @ ..] = parts.as_slice() else {
                    return Err(line.fault("a column has a name, a type and a path"));
                };
                kind.columns.push(Column {
                    name: name.clone(),
                    of: of.clone(),
                    path: path.clone(),
                    wide: !wide.is_empty(),
                });
            }
        }
    }
    kind.body = object(fields, patterns)?;
    Ok(kind)
}

fn object(lines: &[Line], patterns: &[(String, String)]) -> Result<Object, Fault> {
    let mut object = Object::default();
    let mut rest = lines;
    while let Some((line, after)) = rest.split_first() {
        let (within, after) = block(after, line.indent);
        rest = after;
        if lines
            .first()
            .is_some_and(|first| first.indent != line.indent)
        {
            return Err(line.fault("indented otherwise than the line above"));
        }
        let (name, said) = line.head();
        if name == "*" {
            match rule(line, said)? {
                Some(rule) => object.rules.push(rule),
                None => object.open = true,
            }
            continue;
        }
        let bare = name.trim_end_matches('!');
        if object.fields.iter().any(|field| field.name == bare) {
            return Err(line.fault(format!("there are two fields {bare}")));
        }
        object.fields.push(Field {
            name: bare.to_owned(),
            required: name.ends_with('!'),
            typed: typed(line, said, within, patterns)?,
        });
    }
    let mut named = object.rules.iter().flat_map(|rule| match rule {
        Rule::AtMostOne(of) | Rule::ExactlyOne(of) | Rule::AtLeastOne(of) => of.clone(),
        Rule::Union(field, of) => {
            let fields = of.iter().map(|(_, field)| field.clone());
            fields.chain([field.clone()]).collect()
        }
    });
    let missing = named.find(|name| !object.fields.iter().any(|field| field.name == *name));
    match (missing, lines.first()) {
        (Some(name), Some(line)) => {
            Err(line.fault(format!("a rule names {name}, which is no field")))
        }
        _ => Ok(object),
    }
}

/// A rule; none for `open`.
fn rule(line: &Line, said: &str) -> Result<Option<Rule>, Fault> {
    let mut words = words(said).into_iter();
    let head = words.next().unwrap_or_default();
    let names: Vec<String> = words.collect();
    Ok(Some(match head.as_str() {
        "open" => return Ok(None),
        "at-most-one" => Rule::AtMostOne(names),
        "exactly-one" => Rule::ExactlyOne(names),
        "at-least-one" => Rule::AtLeastOne(names),
        "union" => {
            let (field, of) = names
                .split_first()
                .ok_or_else(|| line.fault("a union is told by a field"))?;
            let of = of.iter().map(|text| {
                let pair = text.split_once('=');
                let pair = pair.ok_or_else(|| line.fault("write WORD=FIELD"))?;
                Ok((pair.0.to_owned(), pair.1.to_owned()))
            });
            Rule::Union(field.clone(), of.collect::<Result<_, Fault>>()?)
        }
        other => return Err(line.fault(format!("{other:?} is no rule"))),
    }))
}

/// Reads a type, `within` being the lines that belong to it.
fn typed(
    line: &Line,
    said: &str,
    within: &[Line],
    patterns: &[(String, String)],
) -> Result<Typed, Fault> {
    let said = format!(" {said}");
    let (said, default) = match said.split_once(" = ") {
        Some((said, default)) => (said, Some(default)),
        None => (said.as_str(), None),
    };
    let mut spaced = said.to_owned();
    for bracket in ["[", "]", "{", "}", "(", ")"] {
        spaced = spaced.replace(bracket, &format!(" {bracket} "));
    }
    let mut reading = Reading {
        line,
        tokens: words(&spaced).into_iter().rev().collect(),
        within: Some(within).filter(|within| !within.is_empty()),
        patterns,
    };
    let mut read = reading.typed()?;
    if let Some(token) = reading.tokens.last() {
        return Err(line.fault(format!("{token:?} is too much")));
    }
    if let Some(extra) = reading.within.and_then(|within| within.first()) {
        return Err(extra.fault("the line above takes no fields"));
    }
    if let Some(text) = default {
        let value = serde_json::from_str(text);
        read.default = Some(value.map_err(|error| line.fault(format!("{text}: {error}")))?);
    }
    Ok(read)
}

struct Reading<'a> {
    line: &'a Line,
    /// The next is the last.
    tokens: Vec<String>,
    /// The fields of the mapping that is not written in this line.
    within: Option<&'a [Line]>,
    patterns: &'a [(String, String)],
}

impl Reading<'_> {
    fn ends(&self) -> bool {
        let last = self.tokens.last();
        last.is_none_or(|token| matches!(token.as_str(), "]" | "}"))
    }

    fn close(&mut self, bracket: &str) -> Result<(), Fault> {
        match self.tokens.pop() {
            Some(token) if token == bracket => Ok(()),
            _ => Err(self.line.fault(format!("{bracket} is missing"))),
        }
    }

    fn typed(&mut self) -> Result<Typed, Fault> {
        let number = self.line.number;
        if self.ends() {
            let Some(lines) = self.within.take() else {
                return Err(self.line.fault("neither a type nor fields"));
            };
            return Ok(Typed::new(
                number,
                Of::Object(object(lines, self.patterns)?),
            ));
        }
        let head = self.tokens.pop().unwrap_or_default();
        let of = match head.as_str() {
            "[" => {
                let item = self.typed()?;
                self.close("]")?;
                Of::List(Box::new(item))
            }
            "{" => {
                let item = self.typed()?;
                self.close("}")?;
                Of::Map(Box::new(item))
            }
            "(" => {
                let mut words = Vec::new();
                while self.tokens.last().is_some_and(|token| token != ")") {
                    words.extend(self.tokens.pop());
                }
                self.close(")")?;
                Of::Choice(words)
            }
            _ => Of::Word(head),
        };
        let mut typed = Typed::new(number, of);
        while !self.ends() {
            let token = self.tokens.pop().unwrap_or_default();
            self.limit(&mut typed, &token)?;
        }
        Ok(typed)
    }

    fn limit(&self, typed: &mut Typed, token: &str) -> Result<(), Fault> {
        if let Some(name) = token.strip_prefix('~') {
            let known = self.patterns.iter().find(|(known, _)| known == name);
            let known =
                known.ok_or_else(|| self.line.fault(format!("there is no pattern {name}")))?;
            typed.pattern = Some(known.1.clone());
        } else if let Some(keys) = token.strip_prefix("by:") {
            typed.keys = keys.split(',').map(str::to_owned).collect();
        } else if token == "set" {
            typed.set = true;
        } else if let Some((low, high)) = token.split_once("..") {
            let end = |text: &str| match text {
                "" => Ok(None),
                _ => text.parse().map(Some),
            };
            let (Ok(low), Ok(high)) = (end(low), end(high)) else {
                return Err(self.line.fault(format!("{token:?} are no limits")));
            };
            (typed.low, typed.high) = (low, high);
        } else {
            return Err(self.line.fault(format!("{token:?} is not known here")));
        }
        Ok(())
    }
}
