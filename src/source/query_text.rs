//! What is written behind a source on the command line: `…?key=value&key=value`.

use crate::resource::nearest;

/// Keys with their values.
type Pairs = Vec<(String, String)>;

/// The part before `?`, and the pairs behind it. Only `known` keys may be there.
pub(super) fn split<'a>(text: &'a str, known: &[&str]) -> Result<(&'a str, Pairs), String> {
    let (plain, query) = text.split_once('?').unwrap_or((text, ""));
    let mut pairs = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if !known.contains(&&*key) {
            let meant = nearest(&key, known.iter().copied());
            let meant = meant.map(|meant| format!("; did you mean {meant:?}?"));
            return Err(format!(
                "{key:?} is none of {}{}",
                known.join(", "),
                meant.unwrap_or_default()
            ));
        }
        if value.is_empty() {
            return Err(format!("{key} has no value"));
        }
        pairs.push((key.into_owned(), value.into_owned()));
    }
    Ok((plain, pairs))
}

/// The last value of `key`.
pub(super) fn value(pairs: &[(String, String)], key: &str) -> Option<String> {
    let found = pairs.iter().rev().find(|(known, _)| known == key);
    found.map(|(_, value)| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_others_are_named() {
        let (plain, pairs) = split("a:1?dc=x%20y&ns=b&dc=z", &["dc", "ns"]).unwrap();
        assert_eq!(plain, "a:1");
        assert_eq!(value(&pairs, "dc").as_deref(), Some("z"));
        assert_eq!(value(&pairs, "other"), None);
        assert_eq!(split("a", &["dc"]).unwrap(), ("a", Vec::new()));
        let error = split("a?datacentre=x", &["datacenter", "ns"]).unwrap_err();
        assert!(error.contains("did you mean \"datacenter\"?"), "{error}");
        assert!(split("a?ns=", &["ns"]).is_err());
    }
}
