//! Base64url as RFC 7515 has it: one text for each byte string.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The bytes of `text`; `None` for padding, white space, other letters and spare bits that are not zero.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn there_is_one_text_for_each_byte_string() {
        assert_eq!(decode(b"").as_deref(), Some(&b""[..]));
        assert_eq!(decode(b"-_8").as_deref(), Some(&b"\xfb\xff"[..]));
        for bad in [
            "Zg==", "Zg=", "Zh", "Zm9", "Zm9=", "Z", "Zm 8", "Zm8\n", " Zm8", "+/8", "Zm8.",
            "Zm\u{e9}",
        ] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
