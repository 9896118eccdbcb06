//! Serial numbers: drawn at random, and as people write them.

use rcgen::SerialNumber;

use super::super::{Error, random};
use super::refused;

/// A serial number as it is written: an even number of hexadecimal digits, with or without colons.
pub(super) fn unhex(text: &str) -> Result<Vec<u8>, Error> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    let wrong = || refused(format!("{text:?} is not a serial number"));
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair)
            .ok()
            .filter(|pair| pair.len() == 2);
        let byte = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok());
        byte.ok_or_else(wrong)
    });
    let bytes = pairs.collect::<Result<Vec<u8>, _>>()?;
    if bytes.is_empty() || bytes.len() > 20 || text.contains('+') {
        return Err(wrong());
    }
    Ok(bytes)
}

/// 127 random bits: positive, never zero, 16 bytes at most 20 (RFC 5280, 4.1.2.2).
pub(super) fn serial() -> Result<SerialNumber, Error> {
    let mut bytes: [u8; 16] = random()?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}
