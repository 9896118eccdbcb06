//! Tokens and the keys that they are judged by.

use meshctl::jwt::{Keys, Times, Token, minimal};

/// First line: a token. The rest: a key set. What is taken is what every other reader takes it for.
pub(crate) fn tokens(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let text = parts.next().unwrap_or_default();
    let set = std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
    let keys = Keys::parse(set).unwrap_or_default();
    if let Ok(Some(less)) = minimal(set) {
        let again = Keys::parse(&less).expect("what was made can be read");
        assert_eq!((again.len(), again.skipped.len()), (keys.len(), 0));
        assert_eq!(minimal(&less), Ok(Some(less)));
    } else {
        assert!(keys.is_empty());
    }
    let Ok(token) = Token::parse(text) else {
        return;
    };
    let parts = text.split(|byte| *byte == b'.').count();
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    assert!(parts == 3 && text.iter().all(letter));
    let read: serde_json::Value =
        serde_json::from_slice(&bytes(token.payload_text())).expect("another reader takes it too");
    assert_eq!(read.as_object(), Some(&token.payload));
    assert!(token.audiences().count() <= text.len() && token.issuer().len() <= text.len());
    let Times {
        expires,
        not_before,
        issued,
    } = token.times;
    if let (Some(expires), None, None) = (expires, not_before, issued) {
        assert!(token.times.check(expires, 0).is_ok());
        if let Some(later) = expires.checked_add(1) {
            assert!(token.times.check(later, 0).is_err());
        }
    }
    if keys.verify(&token).is_err() {
        return;
    }
    // A genuine token is no longer one when a letter of it is another.
    for at in (0..text.len()).step_by(1 + text.len() / 16) {
        let mut bent = text.to_vec();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        if let Ok(bent) = Token::parse(&bent) {
            assert!(keys.verify(&bent).is_err(), "letter {at}");
        }
    }
}

/// Base64url, by a reader that is written here anew.
fn bytes(text: &str) -> Vec<u8> {
    let digit = |byte: u8| {
        u32::from(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            _ => 63,
        })
    };
    let mut out = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let joined = group.iter().fold(0, |all, byte| all << 6 | digit(*byte));
        let joined = joined << (6 * (4 - group.len()));
        let whole = joined.to_be_bytes();
        out.extend_from_slice(&whole[1..group.len()]);
    }
    out
}
