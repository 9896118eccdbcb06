//! Words to a tree, checked as far as it can be without a call.

use regex::{Regex, RegexBuilder};

use super::BadExpression;
use super::attribute::{Attribute, Fields, NAMES};
use super::token::{Placed, Token, tokens};

/// Brackets within brackets at most.
const MAX_DEPTH: usize = 32;

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// What is asked of a text.
#[derive(Debug, Clone)]
pub(super) enum Test {
    StartsWith(String),
    EndsWith(String),
    Contains(String),
    Matches(Regex),
}

/// A part of an expression.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    /// In nanoseconds.
    Duration(i64),
    Attribute(Attribute),
    /// The value of a field; its name is in lower case.
    Field(Fields, String),
    Has(Box<Node>),
    Size(Box<Node>),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Compare(Compare, Box<Node>, Box<Node>),
    /// Is one of a list.
    In(Box<Node>, Vec<Node>),
    Test(Box<Node>, Test),
}

impl Node {
    pub(super) fn fields<'n>(&'n self, of: Fields, found: &mut Vec<&'n str>) {
        match self {
            Self::Field(which, name) if *which == of && !found.contains(&name.as_str()) => {
                found.push(name);
            }
            Self::Has(inner) | Self::Size(inner) | Self::Not(inner) | Self::Test(inner, _) => {
                inner.fields(of, found);
            }
            Self::And(parts) | Self::Or(parts) => {
                for part in parts {
                    part.fields(of, found);
                }
            }
            Self::Compare(_, left, right) => {
                left.fields(of, found);
                right.fields(of, found);
            }
            Self::In(left, list) => {
                left.fields(of, found);
                for part in list {
                    part.fields(of, found);
                }
            }
            _ => {}
        }
    }

    /// Comes to true or false.
    fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::Bool(_)
                | Self::Has(_)
                | Self::Not(_)
                | Self::And(_)
                | Self::Or(_)
                | Self::Compare(..)
                | Self::In(..)
                | Self::Test(..)
                | Self::Attribute(Attribute::Mtls)
        )
    }
}

pub(super) fn parse(text: &str) -> Result<Node, BadExpression> {
    let mut parser = Parser {
        end: text.chars().count() + 1,
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let root = parser.condition()?;
    if parser.at < parser.tokens.len() {
        return Err(parser.bad("expected the end, `&&` or `||`"));
    }
    Ok(root)
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    end: usize,
}

type Parsed = Result<Node, BadExpression>;

impl Parser {
    fn bad(&self, reason: impl Into<String>) -> BadExpression {
        self.bad_at(self.at, reason)
    }

    fn bad_at(&self, at: usize, reason: impl Into<String>) -> BadExpression {
        BadExpression {
            column: self.tokens.get(at).map_or(self.end, |placed| placed.column),
            reason: reason.into(),
        }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|placed| &placed.token)
    }

    fn take(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is);
        is
    }

    fn need(&mut self, sign: &str) -> Result<(), BadExpression> {
        if self.take(sign) {
            Ok(())
        } else {
            Err(self.bad(format!("expected `{sign}`")))
        }
    }

    /// Something that comes to true or false.
    fn condition(&mut self) -> Parsed {
        let begin = self.at;
        let node = self.or()?;
        if node.is_condition() {
            Ok(node)
        } else {
            Err(self.bad_at(
                begin,
                "this is a value and no condition; compare it with something",
            ))
        }
    }

    fn or(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.bad("brackets are nested too deeply"));
        }
        let found = self.joined("||", Self::and, Node::Or);
        self.depth -= 1;
        found
    }

    fn and(&mut self) -> Parsed {
        self.joined("&&", Self::relation, Node::And)
    }

    fn joined(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Parsed,
        join: fn(Vec<Node>) -> Node,
    ) -> Parsed {
        let begin = self.at;
        let first = part(self)?;
        let mut parts = vec![(begin, first)];
        while self.take(sign) {
            let begin = self.at;
            parts.push((begin, part(self)?));
        }
        if parts.len() > 1
            && let Some((at, _)) = parts.iter().find(|(_, part)| !part.is_condition())
        {
            return Err(self.bad_at(*at, format!("`{sign}` needs a condition on both sides")));
        }
        let mut parts: Vec<Node> = parts.into_iter().map(|(_, part)| part).collect();
        Ok(match (parts.len(), parts.pop()) {
            (1, Some(only)) => only,
            (_, last) => join(parts.into_iter().chain(last).collect()),
        })
    }

    fn relation(&mut self) -> Parsed {
        let left = self.unary()?;
        let sign = match self.peek() {
            Some(Token::Sign(sign)) => *sign,
            Some(Token::Name(name)) if name == "in" => {
                self.at += 1;
                return self.list(left);
            }
            _ => return Ok(left),
        };
        let compare = match sign {
            "==" => Compare::Equal,
            "!=" => Compare::Unequal,
            "<" => Compare::Less,
            "<=" => Compare::AtMost,
            ">" => Compare::More,
            ">=" => Compare::AtLeast,
            _ => return Ok(left),
        };
        self.at += 1;
        let right = self.unary()?;
        Ok(Node::Compare(compare, Box::new(left), Box::new(right)))
    }

    fn list(&mut self, left: Node) -> Parsed {
        self.need("[")?;
        let mut list = Vec::new();
        while !self.take("]") {
            if !list.is_empty() {
                self.need(",")?;
            }
            list.push(self.unary()?);
        }
        Ok(Node::In(Box::new(left), list))
    }

    fn unary(&mut self) -> Parsed {
        if self.take("!") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.bad("too many `!`"));
            }
            let begin = self.at;
            let inner = self.unary()?;
            self.depth -= 1;
            return if inner.is_condition() {
                Ok(Node::Not(Box::new(inner)))
            } else {
                Err(self.bad_at(begin, "`!` needs a condition"))
            };
        }
        if self.take("-") {
            return match self.unary()? {
                Node::Int(value) => Ok(Node::Int(-value)),
                Node::Double(value) => Ok(Node::Double(-value)),
                _ => Err(self.bad("expected a number after `-`")),
            };
        }
        let mut node = self.primary()?;
        while self.take(".") {
            node = self.method(node)?;
        }
        Ok(node)
    }

    fn primary(&mut self) -> Parsed {
        let begin = self.at;
        let Some(token) = self.peek().cloned() else {
            return Err(self.bad("expected a condition"));
        };
        self.at += 1;
        match token {
            Token::Text(text) => Ok(Node::Text(text)),
            Token::Int(value) => Ok(Node::Int(value)),
            Token::Double(value) => Ok(Node::Double(value)),
            Token::Sign("(") => {
                let inner = self.or()?;
                self.need(")")?;
                Ok(inner)
            }
            Token::Sign(sign) => Err(self.bad_at(begin, format!("`{sign}` is not expected here"))),
            Token::Name(name) => match name.as_str() {
                "true" => Ok(Node::Bool(true)),
                "false" => Ok(Node::Bool(false)),
                "has" | "size" | "duration" if self.take("(") => {
                    let inner = self.unary()?;
                    self.need(")")?;
                    self.function(&name, inner, begin)
                }
                _ => self.attribute(name, begin),
            },
        }
    }

    fn function(&self, name: &str, inner: Node, begin: usize) -> Parsed {
        match (name, inner) {
            ("has", inner @ (Node::Field(..) | Node::Attribute(_))) => {
                Ok(Node::Has(Box::new(inner)))
            }
            ("has", _) => Err(self.bad_at(
                begin,
                "has() takes an attribute, as in has(request.headers.host)",
            )),
            ("size", inner) => Ok(Node::Size(Box::new(inner))),
            (_, Node::Text(text)) => duration(&text).map(Node::Duration).ok_or_else(|| {
                self.bad_at(
                    begin,
                    format!("{text:?} is not a duration such as \"1.5s\" or \"100ms\""),
                )
            }),
            _ => Err(self.bad_at(begin, "duration() takes a string such as \"100ms\"")),
        }
    }

    /// The rest of a name that began with `first`.
    fn attribute(&mut self, first: String, begin: usize) -> Parsed {
        let mut name = first;
        while let (Some(Token::Sign(".")), Some(Token::Name(next))) = (
            self.peek(),
            self.tokens.get(self.at + 1).map(|placed| &placed.token),
        ) {
            // A word before a bracket is a question to what stands before it.
            let called = self.tokens.get(self.at + 2).map(|placed| &placed.token);
            if called == Some(&Token::Sign("(")) {
                break;
            }
            name = format!("{name}.{next}");
            self.at += 2;
            if let Some((of, field)) = fields(&name) {
                return Ok(Node::Field(of, field.to_ascii_lowercase()));
            }
        }
        if let Some(of) = fields_named(&name) {
            self.need("[")?;
            let Some(Token::Text(field)) = self.peek().cloned() else {
                return Err(self.bad("expected the name of a field as a string"));
            };
            self.at += 1;
            self.need("]")?;
            return Ok(Node::Field(of, field.to_ascii_lowercase()));
        }
        match Attribute::named(&name) {
            Some(attribute) => Ok(Node::Attribute(attribute)),
            None => Err(self.bad_at(begin, unknown(&name))),
        }
    }

    fn method(&mut self, of: Node) -> Parsed {
        let begin = self.at;
        let Some(Token::Name(name)) = self.peek().cloned() else {
            return Err(self.bad("expected a name after `.`"));
        };
        self.at += 1;
        if !self.take("(") {
            return Err(self.bad_at(begin, format!("{name:?} is not known here")));
        }
        if name == "size" {
            self.need(")")?;
            return Ok(Node::Size(Box::new(of)));
        }
        let Some(Token::Text(text)) = self.peek().cloned() else {
            return Err(self.bad(format!("{name}() takes a string")));
        };
        self.at += 1;
        self.need(")")?;
        let test = match name.as_str() {
            "startsWith" => Test::StartsWith(text),
            "endsWith" => Test::EndsWith(text),
            "contains" => Test::Contains(text),
            "matches" => Test::Matches(
                RegexBuilder::new(&text)
                    .size_limit(1 << 20)
                    .build()
                    .map_err(|_| {
                        self.bad_at(begin, format!("{text:?} is not a regular expression"))
                    })?,
            ),
            _ => {
                return Err(self.bad_at(
                    begin,
                    format!("{name}() is not known; there are startsWith, endsWith, contains, matches and size"),
                ));
            }
        };
        Ok(Node::Test(Box::new(of), test))
    }
}

fn fields_named(name: &str) -> Option<Fields> {
    match name {
        "request.headers" => Some(Fields::Request),
        "response.headers" => Some(Fields::Response),
        _ => None,
    }
}

/// `request.headers.host` as which fields and which of them.
fn fields(name: &str) -> Option<(Fields, &str)> {
    let (before, field) = name.rsplit_once('.')?;
    Some((fields_named(before)?, field))
}

fn unknown(name: &str) -> String {
    let group = name.split('.').next().unwrap_or_default();
    let alike: Vec<&str> = NAMES
        .iter()
        .map(|(known, _)| *known)
        .filter(|known| known.split('.').next() == Some(group))
        .collect();
    if alike.is_empty() {
        format!(
            "{name} is not an attribute that is known; there are those of request, response, connection, source, destination, upstream and xds"
        )
    } else {
        format!(
            "{name} is not an attribute that is known; there are {}",
            alike.join(", ")
        )
    }
}

/// Nanoseconds of `1h2m3.5s` and the like.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (figure, after) = rest.split_at_checked(digits)?;
        let length = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(length)?;
        let one: i64 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, part) = figure.split_once('.').unwrap_or((figure, ""));
        let whole: i64 = whole.parse().ok()?;
        let mut value = whole.checked_mul(one)?;
        let mut step = one;
        for digit in part.chars() {
            step /= 10;
            value = value.checked_add(i64::from(digit.to_digit(10)?).checked_mul(step)?)?;
        }
        sum = sum.checked_add(value)?;
        rest = next;
    }
    Some(sum)
}
