//! What a line of log consists of: Envoy's format operators, read once.
//!
//! A name that Envoy does not know is refused as Envoy refuses it. What Envoy knows and this proxy has not is written as
//! `-`, which is what Envoy writes where there is nothing, and [`Compiled::missing`] names it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::operators::{Operator, meant};

/// Longest format that is read.
const MAX_BYTES: usize = 16 * 1024;
/// Objects within objects at most.
const MAX_DEPTH: usize = 16;

/// A format as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Format {
    /// Lines of text; one that does not end with a line end gets none.
    Text(String),
    /// One object a line.
    Json(BTreeMap<String, Part>),
}

/// A value in an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Part {
    /// A text with operators.
    Text(String),
    /// Values in order.
    List(Vec<Part>),
    /// Values by name.
    Object(BTreeMap<String, Part>),
}

/// Why a format is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operator}: {reason}")]
pub struct BadFormat {
    /// The operator, or the place.
    pub operator: String,
    /// What is wrong, and what is expected.
    pub reason: String,
}

/// A format that is ready to be written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiled {
    /// A line.
    Text(Template),
    /// An object.
    Json(Node),
}

/// A value in an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// One operator and nothing more: a figure stays one, and nothing is null.
    Value(Operator, Option<usize>),
    /// A text.
    Text(Template),
    /// Values in order.
    List(Vec<Node>),
    /// Values by name, in the order of names (Envoy's).
    Object(Vec<(String, Node)>),
}

/// A text with operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// In order.
    pub pieces: Vec<Piece>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Literal(String),
    /// What an operator says, of at most so many bytes.
    Operator(Operator, Option<usize>),
}

impl Format {
    /// Reads it.
    pub fn compile(&self) -> Result<Compiled, BadFormat> {
        match self {
            Self::Text(text) => Ok(Compiled::Text(Template::new(text)?)),
            Self::Json(parts) => Ok(Compiled::Json(object(parts, 0)?)),
        }
    }
}

impl Part {
    /// Reads it.
    pub fn compile(&self) -> Result<Node, BadFormat> {
        node(self, 0)
    }
}

fn object(parts: &BTreeMap<String, Part>, depth: usize) -> Result<Node, BadFormat> {
    let nodes = parts.iter();
    let nodes = nodes.map(|(name, part)| Ok((name.clone(), node(part, depth + 1)?)));
    Ok(Node::Object(nodes.collect::<Result<_, _>>()?))
}

fn node(part: &Part, depth: usize) -> Result<Node, BadFormat> {
    if depth > MAX_DEPTH {
        return Err(bad("the object", "objects are nested too deeply"));
    }
    match part {
        Part::Text(text) => {
            let mut template = Template::new(text)?;
            if template.pieces.len() == 1
                && let Some(Piece::Operator(operator, most)) = template.pieces.pop()
            {
                return Ok(Node::Value(operator, most));
            }
            Ok(Node::Text(Template::new(text)?))
        }
        Part::List(list) => {
            let nodes = list.iter().map(|part| node(part, depth + 1));
            Ok(Node::List(nodes.collect::<Result<_, _>>()?))
        }
        Part::Object(parts) => object(parts, depth),
    }
}

pub(super) fn bad(operator: &str, reason: impl Into<String>) -> BadFormat {
    BadFormat {
        operator: operator.to_owned(),
        reason: reason.into(),
    }
}

impl Compiled {
    /// Calls `visit` with each operator.
    pub fn each(&self, visit: &mut dyn FnMut(&Operator)) {
        match self {
            Self::Text(template) => template.each(visit),
            Self::Json(node) => node.each(visit),
        }
    }

    /// Names of operators that say nothing here.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        self.each(&mut |operator| {
            if let Operator::Nothing(name) = operator
                && !names.contains(name)
            {
                names.push(*name);
            }
        });
        names
    }
}

impl Node {
    /// Calls `visit` with each operator.
    pub fn each(&self, visit: &mut dyn FnMut(&Operator)) {
        match self {
            Self::Value(operator, _) => visit(operator),
            Self::Text(template) => template.each(visit),
            Self::List(list) => list.iter().for_each(|node| node.each(visit)),
            Self::Object(parts) => parts.iter().for_each(|(_, node)| node.each(visit)),
        }
    }
}

impl Template {
    fn each(&self, visit: &mut dyn FnMut(&Operator)) {
        for piece in &self.pieces {
            if let Piece::Operator(operator, _) = piece {
                visit(operator);
            }
        }
    }

    /// Reads a text.
    pub fn new(text: &str) -> Result<Self, BadFormat> {
        if text.len() > MAX_BYTES {
            return Err(bad("the format", format!("longer than {MAX_BYTES} bytes")));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(more) = after.strip_prefix('%') {
                literal.push('%');
                rest = more;
                continue;
            }
            let (operator, most, more) = operator(after)?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Operator(operator, most));
            rest = more;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }
}

/// `NAME(words):LENGTH%` and what comes behind it.
fn operator(text: &str) -> Result<(Operator, Option<usize>, &str), BadFormat> {
    let named = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let end = text.find(|c: char| !named(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    if name.is_empty() {
        return Err(bad(
            "%",
            "what follows is no operator; write %% for a percent sign",
        ));
    }
    let (words, rest) = match rest.strip_prefix('(') {
        Some(inner) => {
            let (words, rest) = inner
                .split_once(')')
                .ok_or_else(|| bad(name, "its bracket is not closed"))?;
            (Some(words), rest)
        }
        None => (None, rest),
    };
    let (most, rest) = match rest.strip_prefix(':') {
        Some(figure) => {
            let end = figure
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(figure.len());
            let (digits, rest) = figure.split_at_checked(end).unwrap_or((figure, ""));
            let most = digits
                .parse()
                .map_err(|_| bad(name, "a length is a number"))?;
            (Some(most), rest)
        }
        None => (None, rest),
    };
    let rest = rest
        .strip_prefix('%')
        .ok_or_else(|| bad(name, "expected % at its end"))?;
    Ok((meant(name, words)?, most, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::operators::Time;
    use super::super::usual::{ENVOY, ISTIO, istio_json};
    use super::*;

    #[test]
    fn operators_are_read_with_their_words_and_lengths() {
        let template = Template::new("a%%%REQ(X-A?:Path):3%b%START_TIME(%Y%%)%%PROTOCOL%").unwrap();
        assert_eq!(
            template.pieces,
            [
                Piece::Literal("a%".to_owned()),
                Piece::Operator(
                    Operator::Request("x-a".to_owned(), Some(":path".to_owned())),
                    Some(3)
                ),
                Piece::Literal("b".to_owned()),
                Piece::Operator(Operator::StartTime(Time::Strftime("%Y%%".to_owned())), None),
                Piece::Operator(Operator::Protocol, None),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, operator, reason) in [
            ("%NOPE%", "NOPE", "no such operator"),
            ("%CEL(request.path)%", "CEL", "in filters only"),
            ("%REQ%", "REQ", "expected words"),
            ("%REQ(a?b?c)%", "REQ", "at most one"),
            ("%REQ(a%", "REQ", "not closed"),
            ("%PROTOCOL(x)%", "PROTOCOL", "takes no words"),
            ("%PROTOCOL", "PROTOCOL", "expected %"),
            ("%REQ(a):x%", "REQ", "a length is a number"),
            ("100% sure", "%", "write %%"),
            ("%GRPC_STATUS(x)%", "GRPC_STATUS", "one of"),
            (
                "%COMMON_DURATION(DS_RX_BEG)%",
                "COMMON_DURATION",
                "two points",
            ),
            (
                "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:h)%",
                "COMMON_DURATION",
                "ms, us and ns",
            ),
        ] {
            let bad = Template::new(text).unwrap_err();
            assert_eq!(bad.operator, operator, "{text}: {bad}");
            assert!(bad.reason.contains(reason), "{text}: {bad}");
        }
    }

    #[test]
    fn what_is_not_here_is_named_once() {
        let format = Format::Text(
            "%UPSTREAM_PEER_SUBJECT% %UPSTREAM_METADATA(a:b)% %UPSTREAM_PEER_SUBJECT%".to_owned(),
        );
        assert_eq!(
            format.compile().unwrap().missing(),
            ["UPSTREAM_PEER_SUBJECT", "UPSTREAM_METADATA"]
        );
        for usual in [
            Format::Text(ISTIO.to_owned()),
            Format::Text(ENVOY.to_owned()),
            istio_json(),
        ] {
            assert_eq!(usual.compile().unwrap().missing(), [""; 0]);
        }
    }

    #[test]
    fn a_value_that_is_one_operator_keeps_its_kind() {
        let one = Part::Text("%DURATION%".to_owned());
        let text = Part::Text("%DURATION%ms".to_owned());
        let parts = [
            ("b".to_owned(), Part::List(vec![one.clone(), text])),
            ("a".to_owned(), one),
        ];
        let compiled = Format::Json(parts.into()).compile().unwrap();
        let Compiled::Json(Node::Object(nodes)) = compiled else {
            panic!("no object");
        };
        assert_eq!(
            nodes[0],
            ("a".to_owned(), Node::Value(Operator::Duration, None))
        );
        assert!(matches!(&nodes[1].1, Node::List(list) if matches!(list[1], Node::Text(_))));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[%A-Z_()?:0-9a-z é]{0,40}") {
            let _read = Template::new(&text);
        }

        /// What is no operator comes out as it went in.
        #[test]
        fn text_without_operators_stays(text in "[^%]{0,40}") {
            let template = Template::new(&text.replace('%', "%%")).unwrap();
            let whole: String = template.pieces.iter().map(|piece| match piece {
                Piece::Literal(text) => text.clone(),
                Piece::Operator(..) => panic!("an operator"),
            }).collect();
            prop_assert_eq!(whole, text);
        }
    }
}
