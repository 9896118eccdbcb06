//! What people make up in the place of a token.

use meshctl::rt::Wall;
use serde_json::{Value, json};

use super::signer::{Signer, part};

pub(super) const ISSUER: &str = "https://issuer.example.com";
/// All algorithms that are taken.
pub(super) const ALGORITHMS: [&str; 10] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
];

pub(super) fn now() -> u64 {
    Wall::System.millis() / 1_000
}

/// What an honest token of alice says.
pub(super) fn alice() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": ["shop", "other"], "exp": now() + 300, "nbf": now() - 5,
        "iat": now() - 5, "realm": {"role": "admin"}, "groups": ["staff", "night"],
        "scope": "read write", "level": 7,
    })
}

/// A header and a payload as they are, with a signature that the signer made of them.
fn raw(signer: &Signer, header: &str, payload: &str) -> String {
    signer.text("RS256", header, payload)
}

fn hmac(key: &[u8], text: &str) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    part(aws_lc_rs::hmac::sign(&key, text.as_bytes()))
}

/// What is wrong with each, and the token.
pub(super) fn forgeries(signer: &Signer) -> Vec<(String, String)> {
    let mallory = Signer::new();
    let payload = alice().to_string();
    let good = signer.token("RS256", &alice());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = signed.split_once('.').unwrap();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |what: &str, token: String| all.push((what.to_owned(), token));

    for alg in ["none", "None", "NONE", "nOnE", "none ", "", "NULL"] {
        let signed = format!("{}.{body}", part(json!({"alg": alg}).to_string()));
        add("no algorithm, no signature", format!("{signed}."));
        add("no algorithm, two parts", signed.clone());
        add(
            "no algorithm, another's signature",
            format!("{signed}.{signature}"),
        );
    }
    add(
        "no algorithm at all",
        format!("{}.{body}.{signature}", part("{}")),
    );
    // The public key in the place of a shared secret, in the forms that libraries have fallen for.
    let key = signer.key("RS256");
    for alg in ["HS256", "HS384", "HS512"] {
        let head = json!({"alg": alg, "kid": "RSA"}).to_string();
        let signed = format!("{}.{body}", part(head));
        for secret in [
            signer.keys().into_bytes(),
            key.to_string().into_bytes(),
            key["n"].as_str().unwrap().as_bytes().to_vec(),
            Vec::new(),
        ] {
            add(
                "a shared secret",
                format!("{signed}.{}", hmac(&secret, &signed)),
            );
        }
    }
    // Keys that the token brings, or says where to find.
    let own = mallory.key("RS256");
    for more in [
        json!({"jwk": own}),
        json!({"jku": "https://mallory.example.com/keys.json"}),
        json!({"x5u": "https://mallory.example.com/chain.pem"}),
        json!({"x5c": ["MIIB"]}),
        json!({"jwk": own, "kid": "mallory"}),
    ] {
        add("a key of its own", mallory.with("RS256", more, &alice()));
    }
    for kid in [
        "unknown",
        "",
        "../../../../dev/null",
        "/etc/passwd",
        "RSA' OR '1'='1",
        "RSA'; DROP TABLE keys; --",
        "RSA\u{0}",
        "rsa",
        "ES256",
    ] {
        add(
            "a kid of its own",
            mallory.with("RS256", json!({"kid": kid}), &alice()),
        );
        if !kid.is_empty() {
            add(
                "a good signature, another's kid",
                signer.with("RS256", json!({"kid": kid}), &alice()),
            );
        }
    }
    add(
        "no kid, another's key",
        mallory.with("RS256", json!({"kid": Value::Null}), &alice()),
    );
    for alg in ALGORITHMS {
        add("another's key", mallory.token(alg, &alice()));
        // A key is for its own algorithms.
        let other = if alg.starts_with("ES") {
            "RS256"
        } else {
            "ES256"
        };
        let header = json!({"alg": other, "kid": if alg.starts_with("ES") { alg } else { "RSA" }});
        let signed = format!("{}.{body}", part(header.to_string()));
        let signature = part(signer.signature(alg, &signed));
        add(
            "an algorithm of another kind of key",
            format!("{signed}.{signature}"),
        );
        // Signatures of the wrong length, of zeros, and of another text.
        let token = signer.token(alg, &alice());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let bytes = signer.signature(alg, signed);
        let half = bytes.len() / 2;
        for forged in [
            Vec::new(),
            vec![0; bytes.len()],
            vec![0xff; bytes.len()],
            bytes[..bytes.len() - 1].to_vec(),
            [&bytes[..], &[0]].concat(),
            [vec![0; half], bytes[half..].to_vec()].concat(),
            [bytes[..half].to_vec(), vec![0; half]].concat(),
        ] {
            add(
                "a signature that is none",
                format!("{signed}.{}", part(forged)),
            );
        }
        let mut other = alice();
        other["sub"] = "root".into();
        let header = signed.split('.').next().unwrap();
        add(
            "another payload",
            format!("{header}.{}.{signature}", part(other.to_string())),
        );
    }
    // What only some readers read alike. All are signed by the right key.
    let alg = r#""alg":"RS256","kid":"RSA""#;
    for (what, header, claims) in [
        (
            "an algorithm twice",
            format!("{{{alg},\"alg\":\"none\"}}"),
            payload.clone(),
        ),
        (
            "a kid twice",
            format!("{{{alg},\"kid\":\"x\"}}"),
            payload.clone(),
        ),
        (
            "a claim twice",
            format!("{{{alg}}}"),
            payload.replacen('{', "{\"sub\":\"root\",", 1),
        ),
        (
            "a claim twice, escaped",
            format!("{{{alg}}}"),
            payload.replacen('{', "{\"s\\u0075b\":\"root\",", 1),
        ),
        (
            "a claim twice inside another",
            format!("{{{alg}}}"),
            payload.replacen("{\"role\"", "{\"role\":\"x\",\"role\"", 1),
        ),
        (
            "something critical",
            format!("{{{alg},\"crit\":[\"exp\"]}}"),
            payload.clone(),
        ),
        (
            "something critical and unknown",
            format!("{{{alg},\"crit\":[\"x\"],\"x\":1}}"),
            payload.clone(),
        ),
        (
            "nothing critical",
            format!("{{{alg},\"crit\":[]}}"),
            payload.clone(),
        ),
        (
            "an unencoded payload",
            format!("{{{alg},\"crit\":[\"b64\"],\"b64\":false}}"),
            payload.clone(),
        ),
        ("a header that is a list", "[]".to_owned(), payload.clone()),
        (
            "a payload that is a list",
            format!("{{{alg}}}"),
            format!("[{payload}]"),
        ),
        (
            "a payload that is nothing",
            format!("{{{alg}}}"),
            String::new(),
        ),
        (
            "text behind the payload",
            format!("{{{alg}}}"),
            format!("{payload}x"),
        ),
        (
            "an expiry that is a text",
            format!("{{{alg}}}"),
            payload.replacen("\"exp\":", "\"exp\":\"9\",\"x\":", 1),
        ),
        (
            "an issuer that is a list",
            format!("{{{alg}}}"),
            payload.replacen(&format!("\"{ISSUER}\""), &format!("[\"{ISSUER}\"]"), 1),
        ),
        (
            "an audience that is a number",
            format!("{{{alg}}}"),
            payload.replacen("\"aud\":[", "\"aud\":[1,", 1),
        ),
    ] {
        add(what, raw(signer, &header, &claims));
    }
    for depth in [64, 5_000] {
        let nested = format!("{{\"x\":{}{},", "[".repeat(depth), "]".repeat(depth));
        add(
            "deeply nested",
            raw(
                signer,
                &format!("{{{alg}}}"),
                &payload.replacen('{', &nested, 1),
            ),
        );
    }
    // Spellings of base64url that are not its only one.
    let padded = |text: &str| {
        let missing = (4 - text.len() % 4) % 4;
        format!("{text}{}", "=".repeat(missing.max(1)))
    };
    add(
        "padding in the header",
        format!("{}.{body}.{signature}", padded(header)),
    );
    add(
        "padding in the payload",
        format!("{header}.{}.{signature}", padded(body)),
    );
    add(
        "padding in the signature",
        format!("{signed}.{}", padded(signature)),
    );
    // 256 bytes leave four bits of the last letter, which must be zero.
    let spare = signature.len() - 1;
    let last = if signature.ends_with('w') { 'x' } else { 'B' };
    add(
        "spare bits",
        format!("{signed}.{}{last}", signature.split_at(spare).0),
    );
    for odd in ["+", "/", "%2B", "~", "\u{7f}"] {
        add(
            "letters of another alphabet",
            format!("{signed}.{odd}{}", signature.split_at(1).1),
        );
    }
    add(
        "white space inside",
        format!("{header}. {body}.{signature}"),
    );
    add("a tab inside", format!("{header}.{body}.\t{signature}"));
    add("four parts", format!("{good}.{signature}"));
    add(
        "five parts, as if encrypted",
        format!("{header}.a.b.c.{signature}"),
    );
    add("two parts", signed.to_owned());
    add("dots", "..".to_owned());
    add("a word", "null".to_owned());
    add("two tokens in one", format!("{good},{good}"));
    add("a token and more", format!("{good} {good}"));
    // Times and addressees.
    for (name, value) in [
        ("exp", json!(now() - 120)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!(now() + 120)),
        ("iat", json!(now() + 120)),
        ("iss", json!("https://mallory.example.com")),
        ("iss", json!("")),
        ("iss", json!(format!("{ISSUER}\u{0}"))),
        ("iss", json!(ISSUER.to_uppercase())),
    ] {
        let mut claims = alice();
        claims[name] = value;
        add(&format!("a wrong {name}"), signer.token("RS256", &claims));
    }
    let mut nobody = alice();
    nobody.as_object_mut().unwrap().remove("iss");
    add("no issuer", signer.token("RS256", &nobody));
    all
}
