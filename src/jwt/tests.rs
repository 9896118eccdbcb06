//! Tokens of the standards, and tokens that somebody bent.

use serde_json::json;

use super::{Algorithm, Keys, KeysError, MAX_TOKEN, Status, Times, Token};

#[test]
fn texts_and_details_agree() {
    for status in [
        Status::Missing,
        Status::NotYetValid,
        Status::Expired,
        Status::BadFormat,
        Status::TooLarge,
        Status::HeaderBase64,
        Status::HeaderJson,
        Status::HeaderAlg,
        Status::HeaderAlgUnsupported,
        Status::HeaderKid,
        Status::HeaderCrit,
        Status::PayloadBase64,
        Status::PayloadJson,
        Status::Issuer,
        Status::Subject,
        Status::Id,
        Status::Audience,
        Status::IssuedAt,
        Status::IssuedAtRange,
        Status::NotBefore,
        Status::NotBeforeRange,
        Status::Expiry,
        Status::ExpiryRange,
        Status::SignatureBase64,
        Status::UnknownIssuer,
        Status::AudienceNotAllowed,
        Status::Verification,
        Status::NoKeys,
        Status::NoSuchKey,
    ] {
        assert_eq!(status.text(), status.to_string());
        let details = status.text().replace(' ', "_");
        assert_eq!(
            status.details(),
            format!("jwt_authn_access_denied{{{details}}}")
        );
    }
}

#[test]
fn clocks_may_differ_by_the_skew_and_no_more() {
    let times = Times {
        expires: Some(1_000),
        not_before: Some(500),
        issued: None,
    };
    assert_eq!(times.check(439, 60), Err(Status::NotYetValid));
    assert_eq!(times.check(440, 60), Ok(()));
    assert_eq!(times.check(1_060, 60), Ok(()));
    assert_eq!(times.check(1_061, 60), Err(Status::Expired));
    assert_eq!(times.check(1_001, 0), Err(Status::Expired));
    let future = Times {
        issued: Some(2_000),
        ..Times::default()
    };
    assert_eq!(future.check(1_000, 60), Err(Status::NotYetValid));
    assert_eq!(Times::default().check(u64::MAX, 60), Ok(()));
    let end = Times {
        expires: Some(u64::MAX),
        ..Times::default()
    };
    assert_eq!(end.check(u64::MAX, u64::MAX), Ok(()));
}

/// RFC 7515, A.2 and A.3, and RFC 8037, A.4.
const RFC: &str = include_str!("rfc.json");

#[test]
fn examples_of_the_standards_verify() {
    let cases: serde_json::Value = serde_json::from_str(RFC).unwrap();
    for case in cases.as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let keys = Keys::parse(&json!({"keys": [case["key"]]}).to_string()).unwrap();
        assert!(keys.skipped.is_empty(), "{name}: {:?}", keys.skipped);
        let text = case["token"].as_str().unwrap();
        let (signed, signature) = text.rsplit_once('.').unwrap();
        let mut signature = super::base64url::decode(signature.as_bytes()).unwrap();
        let algorithm = Algorithm::named(case["alg"].as_str().unwrap()).unwrap();
        let claims = (algorithm, None);
        let verify = |signed: &str, signature: &[u8]| {
            keys.verify_signature(claims, signed.as_bytes(), signature)
        };
        assert_eq!(verify(signed, &signature), Ok(()), "{name}");
        assert_eq!(
            verify(&format!("{signed}A"), &signature),
            Err(Status::Verification),
            "{name}"
        );
        signature[10] ^= 1;
        assert_eq!(
            verify(signed, &signature),
            Err(Status::Verification),
            "{name}"
        );
        // What is signed in some is no set of claims.
        let read = Token::parse(text.as_bytes());
        assert_eq!(
            read.err().map(Status::text),
            case["status"].as_str(),
            "{name}"
        );
    }
}

fn part(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

fn unsigned(header: &str, payload: &str) -> Result<Token, Status> {
    Token::parse(format!("{}.{}.AA", part(header), part(payload)).as_bytes())
}

#[test]
fn a_token_is_three_parts_of_strict_base64url() {
    let header = part(r#"{"alg":"RS256"}"#);
    for (text, status) in [
        (String::new(), Status::BadFormat),
        ("a".to_owned(), Status::BadFormat),
        ("a.b".to_owned(), Status::BadFormat),
        ("a.b.c.d".to_owned(), Status::BadFormat),
        ("..".to_owned(), Status::HeaderJson),
        (format!("{header}=.e30.AA"), Status::HeaderBase64),
        (format!(" {header}.e30.AA"), Status::HeaderBase64),
        (format!("{header}.e30=.AA"), Status::PayloadBase64),
        (format!("{header}.e31.AA"), Status::PayloadBase64),
        (format!("{header}.e30.AA=="), Status::SignatureBase64),
        (format!("{header}.e30.AB"), Status::SignatureBase64),
        (format!("{header}.e30.AA\n"), Status::SignatureBase64),
        (format!("{header}.W10.AA"), Status::PayloadJson),
        (
            format!("{header}.e30.{}", "A".repeat(MAX_TOKEN)),
            Status::TooLarge,
        ),
    ] {
        assert_eq!(
            Token::parse(text.as_bytes()).err(),
            Some(status),
            "{text:.60}"
        );
    }
    assert_eq!(
        Token::parse(b"\xff.\xff.\xff").err(),
        Some(Status::BadFormat)
    );
}

#[test]
fn headers_name_an_algorithm_that_is_ours_and_ask_for_nothing() {
    for (header, status) in [
        ("{}", Status::HeaderAlg),
        (r#"{"alg":256}"#, Status::HeaderAlg),
        (r#"{"alg":null}"#, Status::HeaderAlg),
        (r#"{"alg":["RS256"]}"#, Status::HeaderAlg),
        (r#"{"alg":"none"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"None"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"NONE"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"nOnE"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":""}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"HS256"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"HS512"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"rs256"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"RS256 "}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"RSA-OAEP"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"ES256K"}"#, Status::HeaderAlgUnsupported),
        (r#"{"alg":"RS256","alg":"none"}"#, Status::HeaderJson),
        (r#"{"alg":"RS256","kid":1}"#, Status::HeaderKid),
        (r#"{"alg":"RS256","kid":null}"#, Status::HeaderKid),
        (r#"{"alg":"RS256","crit":["exp"]}"#, Status::HeaderCrit),
        (r#"{"alg":"RS256","crit":[]}"#, Status::HeaderCrit),
        (
            r#"{"alg":"RS256","b64":false,"crit":["b64"]}"#,
            Status::HeaderCrit,
        ),
    ] {
        assert_eq!(unsigned(header, "{}").err(), Some(status), "{header}");
    }
}

#[test]
fn claims_that_are_looked_at_are_of_their_kind() {
    let header = r#"{"alg":"ES256"}"#;
    for (payload, status) in [
        (r#"{"iss":1}"#, Status::Issuer),
        (r#"{"iss":"a","iss":"b"}"#, Status::PayloadJson),
        (r#"{"sub":{}}"#, Status::Subject),
        (r#"{"jti":1}"#, Status::Id),
        (r#"{"aud":1}"#, Status::Audience),
        (r#"{"aud":["a",1]}"#, Status::Audience),
        (r#"{"aud":[["a"]]}"#, Status::Audience),
        (r#"{"exp":"1"}"#, Status::Expiry),
        (r#"{"exp":null}"#, Status::Expiry),
        (r#"{"exp":-1}"#, Status::ExpiryRange),
        (r#"{"exp":1e30}"#, Status::ExpiryRange),
        (r#"{"nbf":true}"#, Status::NotBefore),
        (r#"{"nbf":-0.5}"#, Status::NotBeforeRange),
        (r#"{"iat":[]}"#, Status::IssuedAt),
        (r#"{"iat":18446744073709551616}"#, Status::IssuedAtRange),
    ] {
        assert_eq!(unsigned(header, payload).err(), Some(status), "{payload}");
    }
    let token = unsigned(header, r#"{"exp":1.9,"nbf":1e3,"iss":"i","aud":["a","b"]}"#).unwrap();
    assert_eq!(token.times.expires, Some(1));
    assert_eq!(token.times.not_before, Some(1_000));
    assert_eq!(token.issuer(), "i");
    assert_eq!(token.audiences().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        token.payload_text(),
        part(r#"{"exp":1.9,"nbf":1e3,"iss":"i","aud":["a","b"]}"#)
    );
}

#[test]
fn a_key_is_for_what_it_says_and_nothing_else() {
    let cases: serde_json::Value = serde_json::from_str(RFC).unwrap();
    let key = |at: usize| cases[at]["key"].clone();
    let with = |at: usize, name: &str, value: serde_json::Value| {
        let mut key = key(at);
        key[name] = value;
        key
    };
    let (rsa, ec, okp) = (0, 1, 3);
    for (key, reason) in [
        (json!(1), "no object"),
        (json!({}), "\"kty\" is missing"),
        (json!({"kty": "oct", "k": "AAAA"}), "it is a shared secret"),
        (json!({"kty": "AKP"}), "its kty is \"AKP\""),
        (
            with(rsa, "use", json!("enc")),
            "its use is \"enc\", not \"sig\"",
        ),
        (
            with(rsa, "key_ops", json!(["sign"])),
            "its key_ops have no \"verify\"",
        ),
        (
            with(rsa, "alg", json!("ES256")),
            "its alg \"ES256\" is not for keys of its kind",
        ),
        (
            with(rsa, "alg", json!("HS256")),
            "its alg \"HS256\" is not for keys of its kind",
        ),
        (
            with(ec, "alg", json!("ES384")),
            "its alg \"ES384\" is not for keys of its kind",
        ),
        (
            with(okp, "alg", json!("RS256")),
            "its alg \"RS256\" is not for keys of its kind",
        ),
        (
            with(ec, "crv", json!("secp256k1")),
            "its curve is \"secp256k1\"",
        ),
        (with(ec, "x", json!("AA")), "\"x\" has not 32 bytes"),
        (with(okp, "crv", json!("Ed448")), "its curve is \"Ed448\""),
        (with(okp, "x", json!("AA==")), "\"x\" is no base64url"),
        (
            with(ec, "x", key(1)["y"].clone()),
            "it is no point of its curve",
        ),
        (
            with(rsa, "n", json!(part(&"\u{7f}".repeat(128)))),
            "its modulus has 1023 bits, not 2048 to 8192",
        ),
        (
            with(rsa, "e", json!("AQ")),
            "it is no RSA key that verifies",
        ),
        (
            with(rsa, "e", json!("Ag")),
            "it is no RSA key that verifies",
        ),
        (with(rsa, "kid", json!(7)), "\"kid\" is no text"),
    ] {
        let keys = Keys::parse(&json!({"keys": [key]}).to_string()).unwrap();
        assert!(keys.is_empty(), "{key}");
        assert_eq!(keys.skipped[0].reason, reason, "{key}");
    }
}

#[test]
fn a_set_is_an_object_with_a_list() {
    for (text, error) in [
        ("", KeysError::Json),
        ("[]", KeysError::Json),
        ("{}", KeysError::NoList),
        (r#"{"keys": {}}"#, KeysError::NoList),
        (r#"{"keys": [], "keys": []}"#, KeysError::Json),
        (
            &json!({"keys": vec![0; 65]}).to_string(),
            KeysError::TooMany { found: 65 },
        ),
        (&" ".repeat(super::MAX_KEY_SET + 1), KeysError::TooLarge),
    ] {
        assert_eq!(Keys::parse(text).err(), Some(error));
    }
    let none = Keys::parse(r#"{"keys": []}"#).unwrap();
    let token = unsigned(r#"{"alg":"ES256"}"#, "{}").unwrap();
    assert_eq!(none.verify(&token), Err(Status::NoKeys));
}

#[test]
fn kid_chooses_among_the_keys_and_does_nothing_else() {
    let cases: serde_json::Value = serde_json::from_str(RFC).unwrap();
    let mut named = cases[1]["key"].clone();
    named["kid"] = json!("one");
    let token = |kid: &str| {
        let text = cases[1]["token"].as_str().unwrap();
        let mut token = Token::parse(text.as_bytes()).unwrap();
        token.kid = Some(kid.to_owned());
        token
    };
    let keys = Keys::parse(&json!({"keys": [named]}).to_string()).unwrap();
    assert_eq!(keys.verify(&token("one")), Ok(()));
    for kid in [
        "",
        "two",
        "ONE",
        "../one",
        "/dev/null",
        "one' OR '1'='1",
        "one\0",
    ] {
        assert_eq!(keys.verify(&token(kid)), Err(Status::NoSuchKey), "{kid:?}");
    }
    let mut confused = token("one");
    for algorithm in Algorithm::ALL {
        confused.algorithm = algorithm;
        let expected = if algorithm == Algorithm::Es256 {
            Ok(())
        } else {
            Err(Status::NoSuchKey)
        };
        assert_eq!(keys.verify(&confused), expected, "{}", algorithm.name());
    }
}

#[test]
fn signatures_of_another_length_or_of_zeros_are_none() {
    let cases: serde_json::Value = serde_json::from_str(RFC).unwrap();
    for at in [0, 1] {
        let keys = Keys::parse(&json!({"keys": [cases[at]["key"]]}).to_string()).unwrap();
        let text = cases[at]["token"].as_str().unwrap();
        let token = Token::parse(text.as_bytes()).unwrap();
        let good = token.signature.clone();
        let half = good.len() / 2;
        let mut forged = vec![
            Vec::new(),
            vec![0; good.len()],
            [&[0], &good[..]].concat(),
            [&good[..], &[0]].concat(),
            good[..good.len() - 1].to_vec(),
            good[1..].to_vec(),
            [vec![0; half], good[half..].to_vec()].concat(),
            [good[..half].to_vec(), vec![0; half]].concat(),
            vec![0xff; good.len()],
        ];
        if at == 1 {
            // DER, as other uses of ECDSA have it.
            forged.push([&[0x30, 0x44, 2, 32], &good[..32], &[2, 32], &good[32..]].concat());
        }
        for signature in forged {
            let token = Token {
                signature,
                ..token.clone()
            };
            assert_eq!(keys.verify(&token), Err(Status::Verification));
        }
    }
}
