//! What requests need, walked: by Envoy's rules, with tokens of three issuers.

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::cache::Cache;
use super::{Jwt, Told, bare};
use crate::mesh::jwt_authn::{
    JwtAuthn, JwtHeader, JwtPlaces, JwtProvider, JwtRequirement, JwtRule,
};
use crate::mesh::route::{Match, PathMatch, Request};

/// Tokens end here.
const NOW: u64 = 1_000_000;

struct Asked(Vec<(&'static str, String)>);

impl Request for Asked {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn authority(&self) -> &[u8] {
        b"shop"
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn path_and_query(&self) -> &[u8] {
        b"/cart"
    }
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (key, value) in &self.0 {
            if *key == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

struct Issuer {
    name: &'static str,
    pair: Ed25519KeyPair,
}

impl Issuer {
    fn new(name: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        Self { name, pair }
    }

    fn provider(&self, header: &str) -> JwtProvider {
        let x = URL_SAFE_NO_PAD.encode(self.pair.public_key());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string();
        JwtProvider {
            issuer: self.name.to_owned(),
            keys: keys.into(),
            audiences: vec!["shop".to_owned()],
            from: JwtPlaces {
                headers: vec![JwtHeader {
                    name: header.to_owned(),
                    prefix: String::new(),
                }],
                ..JwtPlaces::default()
            },
            tells: true,
            spaced_claims: ["scope".to_owned()].into(),
            ..JwtProvider::default()
        }
    }

    fn token(&self, audience: &str) -> String {
        let part = |text: String| URL_SAFE_NO_PAD.encode(text);
        let claims = json!({"iss": self.name, "sub": self.name, "aud": audience, "exp": NOW, "scope": "a b"});
        let signed = format!(
            "{}.{}",
            part(r#"{"alg":"EdDSA"}"#.to_owned()),
            part(claims.to_string())
        );
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn named(name: &str) -> JwtRequirement {
    JwtRequirement::Provider {
        name: name.to_owned(),
        audiences: Vec::new(),
    }
}

/// Who is told to call, else the code and the body of the refusal.
fn outcome(told: &Told<'_>) -> Result<String, (u16, &'static str)> {
    if let Some(refusal) = &told.refusal {
        return Err((refusal.status, refusal.body));
    }
    let claims = told.claims.as_ref();
    let who = claims.and_then(|claims| claims.text("sub"));
    Ok(who.unwrap_or("nobody").to_owned())
}

#[test]
fn requirements_are_met_as_in_envoy() {
    use JwtRequirement::{All, AllowMissing, AllowMissingOrFailed, Any, Nothing};
    let (a, b, c) = (Issuer::new("a"), Issuer::new("b"), Issuer::new("c"));
    let other = JwtRequirement::Provider {
        name: "a".to_owned(),
        audiences: vec!["other".to_owned()],
    };
    let good = |of: &Issuer| of.token("shop");
    let bad = |of: &Issuer| format!("{}AAAA", of.token("shop"));
    let one = |name, token: String| vec![(name, token)];
    let missing = Err((401, "Jwt is missing"));
    let fails = Err((401, "Jwt verification fails"));
    let unknown = Err((401, "Jwt issuer is not configured"));
    let audience = Err((403, "Audiences in Jwt are not allowed"));
    // Tokens of a stand in x, those of b in x too, those of c in y.
    for (at, (need, headers, expected)) in [
        (Nothing, one("x", bad(&a)), Ok("nobody")),
        (named("a"), vec![], missing),
        (named("a"), one("x", good(&a)), Ok("a")),
        (named("a"), one("x", good(&b)), unknown),
        (named("a"), one("x", bad(&a)), fails),
        (named("a"), one("x", a.token("other")), audience),
        (other.clone(), one("x", a.token("other")), Ok("a")),
        (other, one("x", good(&a)), audience),
        // One that is good does; what is told else is the worst.
        (
            Any(vec![named("a"), named("c")]),
            one("y", good(&c)),
            Ok("c"),
        ),
        (Any(vec![named("a"), named("c")]), vec![], missing),
        (
            Any(vec![named("a"), named("b")]),
            one("x", good(&b)),
            Ok("b"),
        ),
        (Any(vec![named("a"), named("b")]), one("x", bad(&a)), fails),
        (
            Any(vec![named("a"), named("b")]),
            one("x", good(&c)),
            unknown,
        ),
        (
            Any(vec![named("a"), named("c")]),
            vec![("x", bad(&a)), ("y", good(&c))],
            Ok("c"),
        ),
        (Any(vec![named("a"), AllowMissing]), vec![], Ok("nobody")),
        (
            Any(vec![named("a"), AllowMissing]),
            one("x", bad(&a)),
            fails,
        ),
        (
            Any(vec![AllowMissing, named("a")]),
            one("x", good(&a)),
            Ok("a"),
        ),
        (
            Any(vec![named("a"), AllowMissing]),
            one("x", good(&b)),
            unknown,
        ),
        (
            Any(vec![named("a"), AllowMissing]),
            one("y", bad(&c)),
            Ok("nobody"),
        ),
        (
            Any(vec![named("a"), AllowMissingOrFailed]),
            one("x", bad(&a)),
            Ok("nobody"),
        ),
        (
            Any(vec![named("a"), AllowMissingOrFailed]),
            one("x", good(&a)),
            Ok("a"),
        ),
        (Any(vec![AllowMissing]), one("y", bad(&c)), fails),
        (
            All(vec![named("a"), named("c")]),
            vec![("x", good(&a)), ("y", good(&c))],
            Ok("c"),
        ),
        (
            All(vec![named("a"), named("c")]),
            one("x", good(&a)),
            missing,
        ),
        (AllowMissing, vec![], Ok("nobody")),
        (AllowMissing, one("x", good(&b)), Ok("b")),
        (AllowMissing, one("y", good(&a)), unknown),
        (AllowMissing, vec![("x", good(&a)), ("y", bad(&c))], fails),
        (
            AllowMissingOrFailed,
            vec![("x", good(&a)), ("y", bad(&c))],
            Ok("a"),
        ),
        (AllowMissingOrFailed, one("x", "x".to_owned()), Ok("nobody")),
    ]
    .into_iter()
    .enumerate()
    {
        let config = Arc::new(JwtAuthn {
            providers: [
                ("a".to_owned(), a.provider("x")),
                ("b".to_owned(), b.provider("x")),
                ("c".to_owned(), c.provider("y")),
            ]
            .into(),
            rules: vec![JwtRule {
                matches: Match::default(),
                requires: need.clone(),
            }],
            ..JwtAuthn::default()
        });
        let jwt = Jwt::new(&config, None);
        let cache = RefCell::new(Cache::default());
        let request = Asked(headers);
        // What is remembered changes nothing.
        for _ in 0..2 {
            let told = jwt.look(&cache, &request, NOW);
            assert_eq!(
                outcome(&told),
                expected.map(str::to_owned),
                "{at}: {need:?}"
            );
        }
    }
}

fn single(provider: JwtProvider, requires: JwtRequirement) -> Arc<JwtAuthn> {
    Arc::new(JwtAuthn {
        providers: [("a".to_owned(), provider)].into(),
        rules: vec![JwtRule {
            matches: Match {
                path: PathMatch::Prefix("/cart".to_owned()),
                ..Match::default()
            },
            requires,
        }],
        ..JwtAuthn::default()
    })
}

#[test]
fn a_remembered_token_is_judged_by_the_time_and_forgotten_with_its_keys() {
    let (a, other) = (Issuer::new("a"), Issuer::new("a"));
    let jwt = Jwt::new(&single(a.provider("x"), named("a")), None);
    let cache = RefCell::new(Cache::default());
    let request = Asked(vec![("x", a.token("shop"))]);
    let look = |jwt: &Jwt, now| outcome(&jwt.look(&cache, &request, now));
    assert_eq!(look(&jwt, NOW), Ok("a".to_owned()));
    assert_eq!(cache.borrow().len(), 1);
    assert_eq!(look(&jwt, NOW + 61), Err((401, "Jwt is expired")));
    assert_eq!(look(&jwt, NOW + 60), Ok("a".to_owned()));
    // What stays as it is goes on remembering; with other keys nothing is known.
    let same = Jwt::new(
        &single(a.provider("x"), JwtRequirement::AllowMissing),
        Some(&jwt),
    );
    assert_eq!(look(&same, NOW), Ok("a".to_owned()));
    assert_eq!(cache.borrow().len(), 1);
    let rotated = Jwt::new(&single(other.provider("x"), named("a")), Some(&same));
    assert_eq!(look(&rotated, NOW), Err((401, "Jwt verification fails")));
    assert_eq!(cache.borrow().len(), 1);
}

#[test]
fn what_is_remembered_has_a_bound() {
    let a = Issuer::new("a");
    let jwt = Jwt::new(&single(a.provider("x"), named("a")), None);
    let cache = RefCell::new(Cache::default());
    for at in 0..2_000 {
        let claims = json!({"iss": "a", "aud": "shop", "jti": at.to_string()}).to_string();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(r#"{"alg":"EdDSA"}"#), part(&claims));
        let token = format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(a.pair.sign(signed.as_bytes()))
        );
        let request = Asked(vec![("x", token)]);
        assert!(outcome(&jwt.look(&cache, &request, NOW)).is_ok());
        assert!(cache.borrow().len() <= 512);
    }
}

#[test]
fn a_set_that_cannot_be_read_believes_nobody() {
    let a = Issuer::new("a");
    let request = Asked(vec![("x", a.token("shop"))]);
    for keys in ["", "{\"keys\":[]}", "nonsense"] {
        let provider = JwtProvider {
            keys: keys.into(),
            ..a.provider("x")
        };
        let jwt = Jwt::new(&single(provider, named("a")), None);
        let told = jwt.look(&RefCell::default(), &request, NOW);
        let text = "Jwks doesn't have any valid public key";
        assert_eq!(outcome(&told), Err((401, text)), "{keys}");
    }
}

#[test]
fn words_of_a_claim_count_one_by_one_and_audiences_without_their_scheme() {
    let a = Issuer::new("a");
    let jwt = Jwt::new(&single(a.provider("x"), named("a")), None);
    let request = Asked(vec![("x", a.token("https://shop/"))]);
    let cache = RefCell::default();
    let told = jwt.look(&cache, &request, NOW);
    let claims = told.claims.unwrap();
    assert_eq!(claims.values(&["scope"]), ["a", "b"]);
    for (one, two) in [
        ("shop", "https://shop"),
        ("http://shop/", "shop"),
        ("shop/", "shop"),
    ] {
        assert_eq!(bare(one), bare(two));
    }
    assert_ne!(bare("shop//"), bare("shop"));
}
