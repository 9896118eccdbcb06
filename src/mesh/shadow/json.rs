//! Bodies by the structure of their JSON.

use serde_json::{Map, Number, Value};

use super::path::{At, written};
use super::{ABSENT, Comparison, Found, Part};

/// Compares bodies that are not the same bytes. Where one is no JSON, the bytes are what counts.
pub(super) fn compare(how: &Comparison, primary: &[u8], shadow: &[u8], found: &mut Found) {
    let both = serde_json::from_slice::<Value>(primary).ok();
    let both = both.zip(serde_json::from_slice::<Value>(shadow).ok());
    if let Some((one, other)) = both {
        walk(how, &one, &other, &mut Vec::new(), found);
        return;
    }
    let size = |body: &[u8]| format!("{} bytes", body.len());
    found.add(Part::Body, "", &size(primary), &size(shadow));
}

/// Reading limits how deep a value is, and so how deep this goes.
fn walk<'v>(
    how: &Comparison,
    one: &'v Value,
    other: &'v Value,
    place: &mut Vec<At<'v>>,
    found: &mut Found,
) {
    if one == other || how.ignore.iter().any(|path| path.covers(place)) {
        return;
    }
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            for (name, value) in one {
                place.push(At::Member(name));
                match other.get(name) {
                    Some(theirs) => walk(how, value, theirs, place, found),
                    None => lacks(how, (value, true), place, found),
                }
                place.pop();
            }
            for (name, value) in missing(other, one) {
                place.push(At::Member(name));
                lacks(how, (value, false), place, found);
                place.pop();
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() != other.len() => {
            let at = format!("{}.length", written(place));
            found.add(Part::Body, &at, &one.len(), &other.len());
        }
        (Value::Array(one), Value::Array(other)) => {
            place.push(At::Element);
            for (one, other) in one.iter().zip(other) {
                walk(how, one, other, place, found);
            }
            place.pop();
        }
        (Value::Number(one), Value::Number(other)) if same(one, other) => {}
        _ => found.add(Part::Body, &written(place), one, other),
    }
}

fn lacks<'v>(
    how: &Comparison,
    (value, of_primary): (&'v Value, bool),
    place: &[At<'v>],
    found: &mut Found,
) {
    if how.ignore.iter().any(|path| path.covers(place)) {
        return;
    }
    let at = written(place);
    if of_primary {
        found.add(Part::Body, &at, value, &ABSENT);
    } else {
        found.add(Part::Body, &at, &ABSENT, value);
    }
}

fn missing<'v>(
    of: &'v Map<String, Value>,
    than: &Map<String, Value>,
) -> impl Iterator<Item = (&'v String, &'v Value)> {
    of.iter().filter(|(name, _)| !than.contains_key(*name))
}

/// One number may be written in two ways, `1` and `1.0`. Two whole numbers are the same only as they are, since a
/// float holds no more than 53 bits of them.
fn same(one: &Number, other: &Number) -> bool {
    one.is_f64() != other.is_f64()
        && one
            .as_f64()
            .zip(other.as_f64())
            .is_some_and(|(one, other)| one.total_cmp(&other).is_eq())
}
