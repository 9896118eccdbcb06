//! Deterministic bytes: entries of protobuf maps in the order of their keys.
//!
//! The generated messages hold maps in hash maps, whose order differs from run to run. Unequal
//! bytes for equal content would push unchanged resources and make clients drain connections, so
//! every encoded message passes through here once.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// What is known about a message: fields that hold maps, and fields whose messages do.
type Shape = &'static [(u32, Field)];

/// The map that is being collected: its field, and entries by key.
type Collected = Option<(u32, Vec<(Vec<u8>, Vec<u8>)>)>;

#[derive(Clone, Copy)]
enum Field {
    /// A map, whose values have this shape.
    Map(Shape),
    /// One message or several.
    Message(Shape),
}

const FLAT: Shape = &[];
/// Values hold structs and lists, which hold values: a shape that goes round, so it is a static.
static OF_VALUE: [(u32, Field); 2] = [
    (5, Field::Message(&OF_STRUCT)),
    (6, Field::Message(&[(1, Field::Message(&OF_VALUE))])),
];
static OF_STRUCT: [(u32, Field); 1] = [(1, Field::Map(&OF_VALUE))];
const STRUCT: Shape = &OF_STRUCT;
const METADATA: Shape = &[(1, Field::Map(STRUCT)), (2, Field::Map(FLAT))];
const CHAIN: Shape = &[(5, Field::Message(METADATA))];
/// `envoy.config.listener.v3.Listener`.
pub(crate) const LISTENER: Shapes = Shapes(&[
    (3, Field::Message(CHAIN)),
    (6, Field::Message(METADATA)),
    (25, Field::Message(CHAIN)),
]);
const CLUSTER_WEIGHT: Shape = &[(10, Field::Map(FLAT))];
const ROUTE_ACTION: Shape = &[(3, Field::Message(&[(1, Field::Message(CLUSTER_WEIGHT))]))];
const ROUTE_ENTRY: Shape = &[
    (2, Field::Message(ROUTE_ACTION)),
    (4, Field::Message(METADATA)),
    (13, Field::Map(FLAT)),
];
const VIRTUAL_HOST: Shape = &[
    (3, Field::Message(ROUTE_ENTRY)),
    (15, Field::Map(FLAT)),
    (24, Field::Message(METADATA)),
];
/// `envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication`, which is carried as an `Any`.
pub(crate) const JWT_AUTHN: Shapes = Shapes(&[(1, Field::Map(FLAT))]);
const RULES: Shape = &[(2, Field::Map(FLAT))];
/// `envoy.extensions.filters.http.rbac.v3.RBAC`, which is carried as an `Any`.
pub(crate) const HTTP_RBAC: Shapes =
    Shapes(&[(1, Field::Message(RULES)), (2, Field::Message(RULES))]);
/// `envoy.extensions.filters.network.rbac.v3.RBAC`, which is carried as an `Any`.
pub(crate) const NETWORK_RBAC: Shapes =
    Shapes(&[(1, Field::Message(RULES)), (2, Field::Message(RULES))]);
/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`, which is carried as an `Any`.
pub(crate) const FILE_LOG: Shapes = Shapes(&[(5, Field::Message(&[(2, Field::Message(STRUCT))]))]);
/// `envoy.config.route.v3.RouteConfiguration`.
pub(crate) const ROUTE: Shapes = Shapes(&[
    (2, Field::Message(VIRTUAL_HOST)),
    (16, Field::Map(FLAT)),
    (17, Field::Message(METADATA)),
]);
const LB_ENDPOINT: Shape = &[(3, Field::Message(METADATA))];
const LOCALITY: Shape = &[
    (2, Field::Message(LB_ENDPOINT)),
    (9, Field::Message(METADATA)),
];
const ASSIGNMENT: Shape = &[(2, Field::Message(LOCALITY)), (5, Field::Map(FLAT))];
/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
pub(crate) const ENDPOINT: Shapes = Shapes(ASSIGNMENT);
/// `envoy.config.cluster.v3.Cluster`.
pub(crate) const CLUSTER: Shapes = Shapes(&[
    (25, Field::Message(METADATA)),
    (33, Field::Message(ASSIGNMENT)),
    (36, Field::Map(FLAT)),
    (43, Field::Message(&[(2, Field::Message(STRUCT))])),
]);

/// The shape of a top-level message.
pub(crate) struct Shapes(Shape);

/// `message` with the entries of its maps sorted by key.
pub(crate) fn encode(message: &impl prost::Message, shapes: &Shapes) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    // Bytes that we have just encoded parse; if not, they are what they were.
    sorted(&bytes, shapes.0).unwrap_or(bytes)
}

fn sorted(mut bytes: &[u8], shape: Shape) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut map: Collected = None;
    while !bytes.is_empty() {
        let start = bytes;
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        let known = shape.iter().find(|(field, _)| *field == tag);
        let field = match (known, wire) {
            (Some((_, field)), WireType::LengthDelimited) => Some(*field),
            _ => None,
        };
        if map.as_ref().is_some_and(|(collected, _)| *collected != tag) {
            flush(&mut map, &mut out);
        }
        let Some(field) = field else {
            let rest = skip(bytes, wire)?;
            out.extend_from_slice(start.get(..start.len() - rest.len())?);
            bytes = rest;
            continue;
        };
        let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        let body = bytes.get(..length)?;
        bytes = bytes.get(length..)?;
        match field {
            Field::Message(shape) => delimited(&mut out, tag, &sorted(body, shape)?),
            Field::Map(value) => {
                // An entry is a message of key (1) and value (2).
                let entry = match value {
                    [] => body.to_vec(),
                    value => entry(body, value)?,
                };
                let key = key_of(&entry)?;
                map.get_or_insert_with(|| (tag, Vec::new()))
                    .1
                    .push((key, entry));
            }
        }
    }
    flush(&mut map, &mut out);
    Some(out)
}

fn flush(map: &mut Collected, out: &mut Vec<u8>) {
    if let Some((tag, mut entries)) = map.take() {
        entries.sort();
        for (_, entry) in entries {
            delimited(out, tag, &entry);
        }
    }
}

/// The entry with its value sorted.
fn entry(mut bytes: &[u8], value: Shape) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let start = bytes;
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if tag == 2 && wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            delimited(&mut out, tag, &sorted(bytes.get(..length)?, value)?);
            bytes = bytes.get(length..)?;
        } else {
            let rest = skip(bytes, wire)?;
            out.extend_from_slice(start.get(..start.len() - rest.len())?);
            bytes = rest;
        }
    }
    Some(out)
}

fn key_of(mut entry: &[u8]) -> Option<Vec<u8>> {
    if entry.is_empty() {
        return Some(Vec::new());
    }
    let (tag, wire) = decode_key(&mut entry).ok()?;
    if tag != 1 || wire != WireType::LengthDelimited {
        return Some(Vec::new());
    }
    let length = usize::try_from(decode_varint(&mut entry).ok()?).ok()?;
    entry.get(..length).map(<[u8]>::to_vec)
}

fn delimited(out: &mut Vec<u8>, tag: u32, body: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(u64::try_from(body.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(body);
}

/// What follows the value of a field.
pub(crate) fn skip(mut bytes: &[u8], wire: WireType) -> Option<&[u8]> {
    match wire {
        WireType::Varint => {
            decode_varint(&mut bytes).ok()?;
            Some(bytes)
        }
        WireType::SixtyFourBit => bytes.get(8..),
        WireType::ThirtyTwoBit => bytes.get(4..),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            bytes.get(length..)
        }
        WireType::StartGroup | WireType::EndGroup => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::pb::{cluster, core};
    use super::super::structs::{object, text};
    use super::*;

    #[test]
    fn maps_are_sorted_at_every_depth_and_nothing_is_lost() {
        let make = || {
            let inner = object((0..20).map(|i| (format!("k{i}"), text("v"))));
            let outer = object((0..20).map(|i| {
                (
                    format!("o{i}"),
                    super::super::structs::nested(inner.clone()),
                )
            }));
            cluster::Cluster {
                name: "c".to_owned(),
                metadata: Some(core::Metadata {
                    filter_metadata: [("b".to_owned(), outer.clone()), ("a".to_owned(), outer)]
                        .into(),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let first = encode(&make(), &CLUSTER);
        for _ in 0..8 {
            assert_eq!(encode(&make(), &CLUSTER), first);
        }
        assert_eq!(cluster::Cluster::decode(&*first).unwrap(), make());
    }
}
