//! Bodies in protobuf, as typed clients of Go send built-in kinds: read into the JSON that they mean.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::shapes::{self, Field, Message, Shape};

/// Their media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";

/// A value on the wire.
enum Wire<'b> {
    Number(u64),
    Fixed64(u64),
    Bytes(&'b [u8]),
}

/// Reads a body: an envelope with the type, and the object in it.
pub fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body
        .strip_prefix(MAGIC)
        .ok_or("it does not begin with the four bytes that say so")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    each(envelope, |number, wire| {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => each(meta, |number, wire| {
                match (number, wire) {
                    (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                    (2, Wire::Bytes(text)) => kind = utf8(text)?,
                    _ => {}
                }
                Ok(())
            })?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (3 | 4, Wire::Bytes(bytes)) if !bytes.is_empty() => {
                return Err("the object in it is encoded otherwise".into());
            }
            _ => {}
        }
        Ok(())
    })?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let name = shapes::name_of(group, version, &kind)
        .ok_or_else(|| format!("the fields of {api_version}, Kind={kind} are not known"))?;
    let mut object = json!({"kind": kind, "apiVersion": api_version});
    message(&name, raw, &mut object)?;
    Ok(object)
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it ends within a number")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long".into())
}

fn take<'b>(bytes: &mut &'b [u8], count: u64) -> Result<&'b [u8], String> {
    let count = usize::try_from(count).map_err(|e| e.to_string())?;
    let (taken, rest) = bytes
        .split_at_checked(count)
        .ok_or("it ends within a field")?;
    *bytes = rest;
    Ok(taken)
}

fn each<'b>(
    bytes: &'b [u8],
    mut see: impl FnMut(u64, Wire<'b>) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut rest)?),
            1 => Wire::Fixed64(little(take(&mut rest, 8)?)),
            2 => {
                let length = varint(&mut rest)?;
                Wire::Bytes(take(&mut rest, length)?)
            }
            5 => Wire::Number(little(take(&mut rest, 4)?)),
            other => return Err(format!("wire type {other} is not known")),
        };
        see(tag >> 3, wire)?;
    }
    Ok(())
}

fn little(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Reads a message into an object.
fn message(name: &str, bytes: &[u8], into: &mut Value) -> Result<(), String> {
    let fields: &Message =
        shapes::message(name).ok_or_else(|| format!("the fields of {name} are not known"))?;
    each(bytes, |number, wire| {
        // What is newer than the table is dropped, as an older server does.
        let Some(field) = fields.iter().find(|f| f.number == number) else {
            return Ok(());
        };
        one(field, wire, into).map_err(|why| format!("{name}.{}: {why}", field.name))
    })
}

fn one(field: &Field, wire: Wire<'_>, into: &mut Value) -> Result<(), String> {
    match (&field.shape, wire) {
        (Shape::Message(name), Wire::Bytes(bytes)) if field.name.is_empty() => {
            message(name, bytes, into)
        }
        (Shape::List(item), wire) => {
            if !into[&field.name].is_array() {
                into[&field.name] = json!([]);
            }
            let Some(list) = into[&field.name].as_array_mut() else {
                return Ok(());
            };
            match (&**item, wire) {
                // Numbers may be packed.
                (Shape::Int(_), Wire::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        list.push(value(item, Wire::Number(varint(&mut packed)?))?);
                    }
                }
                (item, wire) => list.push(value(item, wire)?),
            }
            Ok(())
        }
        (Shape::Map(inner), Wire::Bytes(entry)) => {
            let (mut name, mut found) = (String::new(), None);
            each(entry, |number, wire| {
                match (number, wire) {
                    (1, Wire::Bytes(text)) => name = utf8(text)?,
                    (2, wire) => found = Some(value(inner, wire)?),
                    _ => {}
                }
                Ok(())
            })?;
            into[&field.name][name] = found.unwrap_or_else(|| "".into());
            Ok(())
        }
        (shape, wire) => {
            let value = value(shape, wire)?;
            if field.pointer || !is_zero(&value) {
                into[&field.name] = value;
            }
            Ok(())
        }
    }
}

/// What Go leaves out of JSON.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Array(_) => false,
    }
}

fn value(shape: &Shape, wire: Wire<'_>) -> Result<Value, String> {
    Ok(match (shape, wire) {
        (Shape::Text, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Shape::Bool, Wire::Number(number)) => (number != 0).into(),
        (Shape::Int(_), Wire::Number(number)) => number.cast_signed().into(),
        (Shape::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Shape::Time(micro), Wire::Bytes(bytes)) => time(bytes, *micro)?,
        (Shape::Duration, Wire::Bytes(bytes)) => duration(numbers(bytes)?.0),
        (Shape::Json, Wire::Bytes(bytes)) => {
            let raw = text_at(bytes, 1)?;
            if raw.is_empty() {
                Value::Null
            } else {
                serde_json::from_str(&raw).map_err(|e| e.to_string())?
            }
        }
        (Shape::Quantity, Wire::Bytes(bytes)) => text_at(bytes, 1)?.into(),
        (Shape::IntOrText, Wire::Bytes(bytes)) => match numbers(bytes)? {
            (1, _) => text_at(bytes, 3)?.into(),
            // Of 32 bits, whose sign is extended.
            (_, number) => number.into(),
        },
        (Shape::Message(name), Wire::Bytes(bytes)) => {
            let mut inner = Value::Object(Map::new());
            message(name, bytes, &mut inner)?;
            inner
        }
        // A list within a map is a message of items.
        (Shape::List(item), Wire::Bytes(bytes)) => {
            let mut list = Vec::new();
            each(bytes, |number, wire| {
                if number == 1 {
                    list.push(value(item, wire)?);
                }
                Ok(())
            })?;
            list.into()
        }
        _ => return Err("it is of another wire type than the field".into()),
    })
}

/// Fields 1 and 2 of a message of numbers.
fn numbers(bytes: &[u8]) -> Result<(i64, i64), String> {
    let (mut one, mut two) = (0, 0);
    each(bytes, |number, wire| {
        if let Wire::Number(value) = wire {
            match number {
                1 => one = value.cast_signed(),
                2 => two = value.cast_signed(),
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok((one, two))
}

fn text_at(bytes: &[u8], wanted: u64) -> Result<String, String> {
    let mut text = String::new();
    each(bytes, |number, wire| {
        if let (true, Wire::Bytes(bytes)) = (number == wanted, wire) {
            text = utf8(bytes)?;
        }
        Ok(())
    })?;
    Ok(text)
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, String> {
    let (seconds, nanos) = numbers(bytes)?;
    // Nothing written, or Go's year one.
    if (seconds == 0 && nanos == 0) || seconds == -62_135_596_800 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|e| e.to_string())?;
    let time = jiff::Timestamp::new(seconds, if micro { nanos } else { 0 });
    let time = time.map_err(|e| e.to_string())?;
    Ok(if micro {
        format!("{time:.6}").into()
    } else {
        time.to_string().into()
    })
}

/// As Go prints one, in its largest whole units.
fn duration(nanos: i64) -> Value {
    if nanos % 1_000_000_000 != 0 {
        return format!("{}ms", nanos / 1_000_000).into();
    }
    let seconds = nanos / 1_000_000_000;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::decode;

    /// A length-delimited field.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u8::try_from(bytes.len()).unwrap();
        assert!(length < 128);
        [&[number << 3 | 2, length][..], bytes].concat()
    }

    fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &meta), field(2, object)].concat()
    }

    #[test]
    fn a_pointer_to_zero_is_kept_and_a_zero_is_not() {
        let metadata = [field(1, b"web"), field(2, b""), field(8, &[])].concat();
        // spec.replicas 0, spec.minReadySeconds 0
        let object = [field(1, &metadata), field(2, &[8, 0, 40, 0])].concat();
        assert_eq!(
            decode(&body("apps/v1", "Deployment", &object)).unwrap(),
            json!({"kind": "Deployment", "apiVersion": "apps/v1", "metadata": {"name": "web"}, "spec": {"replicas": 0}})
        );
    }

    #[test]
    fn maps_and_bytes_become_json() {
        let entry = [field(1, b"a"), field(2, b"\xff\x00")].concat();
        let object = [field(2, &entry), field(3, b"Opaque")].concat();
        assert_eq!(
            decode(&body("v1", "Secret", &object)).unwrap(),
            json!({"kind": "Secret", "apiVersion": "v1", "data": {"a": "/wA="}, "type": "Opaque"})
        );
    }

    #[test]
    fn what_is_cut_is_refused() {
        let whole = body("v1", "Secret", &field(3, b"Opaque"));
        for end in 0..whole.len() {
            // A cut between two fields leaves a shorter message, which has no kind.
            assert!(
                decode(&whole[..end]).is_err() || end >= whole.len() - 10,
                "{end}"
            );
        }
    }
}
