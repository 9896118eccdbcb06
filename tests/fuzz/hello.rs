//! First bytes of a connection, against a reader of client hellos that is written here anew.

use meshctl::proxy::reading::{Spoken, spoken};

/// What a connection speaks, however its bytes are cut. The first byte says where.
pub(crate) fn hellos(data: &[u8]) {
    let Some((step, data)) = data.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);
    let cuts: Vec<usize> = (step..data.len())
        .step_by(step)
        .chain([data.len()])
        .collect();
    let slow = spoken(data, cuts.iter().copied());
    // As soon as it is clear, and not before; then it stays.
    let clear = cuts.iter().find_map(|cut| spoken(data, [*cut]));
    assert_eq!(slow, clear);
    let Some(Spoken::Tls(name, protocols)) = spoken(data, [data.len()]) else {
        return;
    };
    assert_eq!(data.get(..2), Some(&[0x16, 3][..]));
    if name.is_none() && protocols.is_empty() {
        return;
    }
    let hello = handshake(data).expect("a hello with a name is whole");
    let (own_name, own_protocols) = asked(&hello).expect("what it asks for can be read");
    if let Some(name) = name {
        let own = own_name.expect("a name is in the hello");
        assert_eq!(name.as_bytes(), own.to_ascii_lowercase());
    }
    assert_eq!(protocols, own_protocols);
}

/// The body of the first handshake message, from the records that it came in.
fn handshake(mut data: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        if let [1, a, b, c, body @ ..] = message.as_slice() {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if let Some(body) = body.get(..length) {
                return Some(body.to_vec());
            }
        }
        let [0x16, 3, _, a, b, rest @ ..] = data else {
            return None;
        };
        let length = usize::from(*a) << 8 | usize::from(*b);
        message.extend_from_slice(rest.get(..length)?);
        data = rest.get(length..)?;
    }
}

/// Takes a field of bytes, behind a length of `size` bytes.
fn field<'d>(data: &mut &'d [u8], size: usize) -> Option<&'d [u8]> {
    let (length, rest) = data.split_at_checked(size)?;
    let length = length
        .iter()
        .fold(0, |length, byte| length << 8 | usize::from(*byte));
    let (field, rest) = rest.split_at_checked(length)?;
    *data = rest;
    Some(field)
}

/// A name, and protocols.
type Asked = (Option<Vec<u8>>, Vec<Vec<u8>>);

/// What a client hello asks for (RFC 8446, 4.1.2; RFC 6066, 3; RFC 7301, 3.1).
fn asked(hello: &[u8]) -> Option<Asked> {
    // Version and random.
    let mut rest = hello.get(34..)?;
    let _session = field(&mut rest, 1)?;
    let _suites = field(&mut rest, 2)?;
    let _compression = field(&mut rest, 1)?;
    let mut extensions = field(&mut rest, 2)?;
    let (mut name, mut protocols) = (None, Vec::new());
    while !extensions.is_empty() {
        let (kind, rest) = extensions.split_at_checked(2)?;
        extensions = rest;
        let mut body = field(&mut extensions, 2)?;
        match kind {
            [0, 0] => {
                let mut list = field(&mut body, 2)?;
                while !list.is_empty() {
                    let (kind, rest) = list.split_first()?;
                    // How long a name of another kind is, nobody can know: RFC 6066 defines only this one.
                    if *kind != 0 {
                        break;
                    }
                    list = rest;
                    let one = field(&mut list, 2)?;
                    if name.is_none() {
                        name = Some(one.to_vec());
                    }
                }
            }
            [0, 16] => {
                let mut list = field(&mut body, 2)?;
                while !list.is_empty() {
                    protocols.push(field(&mut list, 1)?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some((name, protocols))
}
