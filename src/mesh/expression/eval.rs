//! Asking a call.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::attribute::{Attribute, Fields};
use super::parse::{Compare, Node, Test};

/// What a part of an expression comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'c> {
    /// Not known before the call has ended.
    Unknown,
    /// The call has no such thing.
    Absent,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// A text.
    Text(Cow<'c, str>),
    /// A time in nanoseconds.
    Duration(i64),
}

/// A call that can be asked.
pub trait Attributes {
    /// One fact.
    fn attribute(&self, which: Attribute) -> Value<'_>;
    /// The value of a field, by its name in lower case.
    fn field(&self, of: Fields, name: &str) -> Value<'_>;
}

pub(super) fn eval<'v>(node: &'v Node, call: &'v dyn Attributes) -> Value<'v> {
    match node {
        Node::Bool(value) => Value::Bool(*value),
        Node::Int(value) => Value::Int(*value),
        Node::Double(value) => Value::Double(*value),
        Node::Text(text) => Value::Text(Cow::Borrowed(text)),
        Node::Duration(nanos) => Value::Duration(*nanos),
        Node::Attribute(which) => call.attribute(*which),
        Node::Field(of, name) => call.field(*of, name),
        Node::Has(inner) => match eval(inner, call) {
            Value::Unknown => Value::Unknown,
            Value::Absent => Value::Bool(false),
            _ => Value::Bool(true),
        },
        Node::Size(inner) => match eval(inner, call) {
            Value::Text(text) => {
                Value::Int(i64::try_from(text.chars().count()).unwrap_or(i64::MAX))
            }
            Value::Unknown => Value::Unknown,
            _ => Value::Absent,
        },
        Node::Not(inner) => match eval(inner, call) {
            Value::Bool(held) => Value::Bool(!held),
            other => other,
        },
        Node::And(parts) => joined(parts, call, false),
        Node::Or(parts) => joined(parts, call, true),
        Node::Compare(how, left, right) => {
            let (left, right) = (eval(left, call), eval(right, call));
            compared(*how, &left, &right)
        }
        Node::In(left, list) => {
            let left = eval(left, call);
            let mut open = Value::Bool(false);
            for one in list {
                match compared(Compare::Equal, &left, &eval(one, call)) {
                    Value::Bool(true) => return Value::Bool(true),
                    Value::Bool(false) => {}
                    other => open = other,
                }
            }
            open
        }
        Node::Test(inner, test) => match eval(inner, call) {
            Value::Text(text) => Value::Bool(match test {
                Test::StartsWith(begin) => text.starts_with(begin.as_str()),
                Test::EndsWith(end) => text.ends_with(end.as_str()),
                Test::Contains(part) => text.contains(part.as_str()),
                Test::Matches(pattern) => pattern.is_match(&text),
            }),
            Value::Unknown => Value::Unknown,
            _ => Value::Absent,
        },
    }
}

/// One part that is `decides` decides, whatever the others are.
fn joined<'v>(parts: &'v [Node], call: &'v dyn Attributes, decides: bool) -> Value<'v> {
    let mut open = Value::Bool(!decides);
    for part in parts {
        match eval(part, call) {
            Value::Bool(held) if held == decides => return Value::Bool(decides),
            Value::Bool(_) => {}
            Value::Unknown => open = Value::Unknown,
            _ if open == Value::Unknown => {}
            _ => open = Value::Absent,
        }
    }
    open
}

fn compared(how: Compare, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
    if [left, right].contains(&&Value::Unknown) {
        return Value::Unknown;
    }
    let order = match (left, right) {
        (Value::Int(a), Value::Int(b)) | (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Double(b)) => float(*a).partial_cmp(b),
        (Value::Double(a), Value::Int(b)) => a.partial_cmp(&float(*b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        // Istio's documentation compares times with numbers, which are then milliseconds.
        (Value::Duration(a), Value::Int(b)) => Some((a / 1_000_000).cmp(b)),
        (Value::Int(a), Value::Duration(b)) => Some(a.cmp(&(b / 1_000_000))),
        _ => None,
    };
    let Some(order) = order else {
        return Value::Absent;
    };
    Value::Bool(match how {
        Compare::Equal => order == Ordering::Equal,
        Compare::Unequal => order != Ordering::Equal,
        Compare::Less => order == Ordering::Less,
        Compare::AtMost => order != Ordering::Greater,
        Compare::More => order == Ordering::Greater,
        Compare::AtLeast => order != Ordering::Less,
    })
}

/// Exact for what calls have.
fn float(value: i64) -> f64 {
    let high = i32::try_from(value >> 32).unwrap_or(i32::MAX);
    let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
