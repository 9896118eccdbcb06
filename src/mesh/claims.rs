//! What a verified token says about who calls: read by authorization and by routing, written by whoever
//! verified the signature.

use serde_json::{Map, Value};

/// The claims of a token whose signature, issuer, audience and times were found good.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Of a token's payload.
    pub fn new(payload: Map<String, Value>) -> Self {
        Self(payload)
    }

    /// The caller as Istio writes it: `ISS/SUB`; `None` when either is not there.
    pub fn principal(&self) -> Option<String> {
        let (issuer, subject) = (self.text("iss")?, self.text("sub")?);
        Some(format!("{issuer}/{subject}"))
    }

    /// Whom the token is for (`aud`, a text or a list).
    pub fn audiences(&self) -> Vec<&str> {
        self.values(&["aud"])
    }

    /// Who presents it (`azp`).
    pub fn presenter(&self) -> Option<&str> {
        self.text("azp")
    }

    /// A claim that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The texts at a path through nested claims: the one that stands there, or those of a list. Other
    /// kinds of values match nothing, as in Istio.
    pub fn values(&self, path: &[&str]) -> Vec<&str> {
        let Some((first, rest)) = path.split_first() else {
            return Vec::new();
        };
        let start = self.0.get(*first);
        let found = rest
            .iter()
            .fold(start, |value, name| value?.as_object()?.get(*name));
        match found {
            Some(Value::String(text)) => vec![text.as_str()],
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Everything, for who passes it on.
    pub fn payload(&self) -> &Map<String, Value> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_texts_and_lists_are_found_and_nothing_else() {
        let Value::Object(payload) = serde_json::json!({
            "iss": "https://issuer.example", "sub": "alice", "aud": ["a", 1, "b"], "azp": "web",
            "realm": {"roles": ["x", "y"], "level": 3}, "scope": "read write",
        }) else {
            panic!("no object");
        };
        let claims = Claims::new(payload);
        assert_eq!(
            claims.principal().as_deref(),
            Some("https://issuer.example/alice")
        );
        assert_eq!(claims.audiences(), ["a", "b"]);
        assert_eq!(claims.presenter(), Some("web"));
        assert_eq!(claims.values(&["realm", "roles"]), ["x", "y"]);
        assert_eq!(claims.values(&["scope"]), ["read write"]);
        for path in [
            &["realm", "level"][..],
            &["realm"],
            &["sub", "x"],
            &["none"],
            &[],
        ] {
            assert!(claims.values(path).is_empty(), "{path:?}");
        }
        assert_eq!(Claims::new(Map::new()).principal(), None);
    }
}
