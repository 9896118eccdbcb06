//! Takes secrets out of text, whoever put them there: private keys, tokens, passwords.

use serde_json::Value;

/// What stands where something was taken out.
const GONE: &str = "[left out]";

/// Keys whose values are never told, in lower case without dashes and underscores.
const SECRET_KEYS: &[&str] = &[
    "password",
    "passphrase",
    "token",
    "secret",
    "clientsecret",
    "apikey",
    "privatekey",
    "authorization",
    "proxyauthorization",
    "cookie",
    "setcookie",
    "lastappliedconfiguration",
    "stringdata",
];

/// A text without private keys and tokens.
pub(super) fn text(text: &str) -> String {
    words(&without_keys(text))
}

/// The same of a value, and without what keys say is secret.
pub(super) fn value(of: &Value) -> Value {
    match of {
        Value::String(held) => Value::String(text(held)),
        Value::Array(list) => Value::Array(list.iter().map(value).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, held)| {
                    let held = match held {
                        Value::String(_) if is_secret(key) => Value::String(GONE.to_owned()),
                        held => value(held),
                    };
                    (key.clone(), held)
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.rsplit('/').next().unwrap_or(key);
    let bare: String = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    SECRET_KEYS.contains(&bare.as_str())
}

/// PEM blocks of private keys go, whole; one without an end takes the rest with it.
fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        out.push_str(before);
        let (label, _) = after.split_once("-----").unwrap_or((after, ""));
        if !label.contains("PRIVATE KEY") {
            out.push_str(BEGIN);
            rest = after;
            continue;
        }
        out.push_str(GONE);
        rest = match after.split_once(END) {
            Some((_, tail)) => tail.split_once("-----").map_or("", |(_, tail)| tail),
            None => "",
        };
    }
    out.push_str(rest);
    out
}

/// Words that are tokens go: JSON Web Tokens, and ours.
fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            word.push(c);
            continue;
        }
        out.push_str(told(&word));
        word.clear();
        out.push(c);
    }
    out.push_str(told(&word));
    out
}

fn told(word: &str) -> &str {
    // Their first part is JSON in base64, which begins with `{"`.
    let jwt = word.starts_with("eyJ") && word.split('.').count() >= 3 && word.len() > 40;
    let ours = ["ma_", "mj_"]
        .iter()
        .any(|prefix| word.starts_with(prefix) && word.len() > 40);
    if jwt || ours { GONE } else { word }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_tokens_go_and_certificates_stay() {
        let key = "a -----BEGIN EC PRIVATE KEY-----\nMHc\n-----END EC PRIVATE KEY----- b";
        assert_eq!(text(key), "a [left out] b");
        let cut = "x -----BEGIN PRIVATE KEY-----\nMHc";
        assert_eq!(text(cut), "x [left out]");
        let certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        assert_eq!(text(certificate), certificate);
        let jwt = format!("eyJhbGciOiJFUzI1NiJ9.{}.c2ln", "e".repeat(40));
        assert_eq!(
            text(&format!("Bearer {jwt}, and")),
            "Bearer [left out], and"
        );
        let own = format!("ma_5d0f2c6a41e8_{}", "0".repeat(64));
        assert_eq!(text(&format!("token={own}\n")), "token=[left out]\n");
        assert_eq!(
            text("ma_5d0f reviews.default.svc"),
            "ma_5d0f reviews.default.svc"
        );
    }

    #[test]
    fn what_keys_call_secret_is_not_told() {
        let before = json!({"client-secret": "a", "list": [{"Password": "b", "name": "c"}], "token": 3,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        let after = json!({"client-secret": "[left out]", "list": [{"Password": "[left out]", "name": "c"}], "token": 3,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "[left out]"}});
        assert_eq!(value(&before), after);
    }
}
