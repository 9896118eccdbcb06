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
    "lastappliedconfiguration",
    "stringdata",
];
/// The same of what such keys end with, and then whatever is below them: fields of requests that routes match or set,
/// `x-api-key` as well as `authorization`.
const SECRET_ENDS: &[&str] = &[
    "password",
    "passphrase",
    "apikey",
    "accesskey",
    "privatekey",
    "clientsecret",
    "accesstoken",
    "authtoken",
    "sessiontoken",
    "csrftoken",
    "authorization",
    "cookie",
];

/// Keys of what a name beside them is about.
const VALUES: &[&str] = &[
    "value",
    "exact",
    "prefix",
    "suffix",
    "regex",
    "contains",
    "stringMatch",
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
        Value::Object(fields) => {
            // A field of a request, or a variable, that is named beside its value.
            let named = fields.get("name").and_then(Value::as_str);
            let named = named.is_some_and(|name| ends_secret(&bare(name)))
                && VALUES.iter().any(|key| fields.contains_key(*key));
            let told = fields.iter().map(|(key, held)| {
                let bare = bare(key);
                let held = match held {
                    held if ends_secret(&bare) || (named && key != "name") => without_words(held),
                    Value::String(_) if SECRET_KEYS.contains(&bare.as_str()) => {
                        Value::String(GONE.to_owned())
                    }
                    held => value(held),
                };
                (key.clone(), held)
            });
            Value::Object(told.collect())
        }
        other => other.clone(),
    }
}

/// The shape of a value, without any text in it.
fn without_words(of: &Value) -> Value {
    match of {
        Value::String(_) => Value::String(GONE.to_owned()),
        Value::Array(list) => Value::Array(list.iter().map(without_words).collect()),
        Value::Object(fields) => {
            let told = fields.iter();
            Value::Object(
                told.map(|(key, held)| (key.clone(), without_words(held)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

/// A key in lower case, without dashes and underscores and what it is qualified by.
fn bare(key: &str) -> String {
    let key = key.rsplit('/').next().unwrap_or(key);
    key.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase()
}

fn ends_secret(bare: &str) -> bool {
    SECRET_ENDS.iter().any(|end| bare.ends_with(end))
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

    #[test]
    fn fields_of_requests_that_are_secret_go_however_routes_name_them() {
        let gone = "[left out]";
        let before = json!({
            "headers": {"request": {"set": {"x-api-key": "a", "x-user": "anna"}}},
            "match": [{"headers": {"authorization": {"exact": "b"}, "cookie": {"regex": "c"}, "x-user": {"exact": "anna"}}}],
            "conditions": [{"name": "X-Auth-Token", "value": {"exact": "d"}}, {"name": "x-user", "value": {"exact": "anna"}}],
            "secret": {"secretName": "of-the-gateway"},
            "metadata": {"name": "session-cookie", "namespace": "shop"},
        });
        let after = json!({
            "headers": {"request": {"set": {"x-api-key": gone, "x-user": "anna"}}},
            "match": [{"headers": {"authorization": {"exact": gone}, "cookie": {"regex": gone}, "x-user": {"exact": "anna"}}}],
            "conditions": [{"name": "X-Auth-Token", "value": {"exact": gone}}, {"name": "x-user", "value": {"exact": "anna"}}],
            "secret": {"secretName": "of-the-gateway"},
            "metadata": {"name": "session-cookie", "namespace": "shop"},
        });
        assert_eq!(value(&before), after);
    }
}
