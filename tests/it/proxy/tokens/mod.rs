//! Tokens of requests, from outside: who is let in with what, and what the application learns of it.

mod changed;
mod forged;
mod forgeries;
mod openssl;
mod routing;
mod signer;

use std::net::SocketAddr;

use meshctl::mesh::{NodeKind, View};
use serde_json::{Value, json};

use super::policies::{SHOP, view};
use super::support::*;
use forgeries::{ALGORITHMS, ISSUER, alice, now};
use signer::Signer;

/// A rule of an issuer whose keys are `keys`; `more` are further lines of it.
fn rule(issuer: &str, keys: &str, more: &str) -> String {
    let lines = format!("\n{more}").replace('\n', "\n    ");
    let lines = lines.trim_end();
    format!("\n  - issuer: {issuer}\n    jwks: '{keys}'{lines}")
}

fn manifest(rules: &[String]) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens}}\nspec:\n  selector: {{matchLabels: {{app: shop}}}}\n  jwtRules:{}\n",
        rules.concat()
    )
}

/// The view of a sidecar with these rules.
fn sidecar(rules: &[String], at: (SocketAddr, SocketAddr)) -> View {
    view(&format!("{SHOP}{}", manifest(rules)), NodeKind::Sidecar, at)
}

async fn ask(to: SocketAddr, path: &str, fields: &str) -> String {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n{fields}\r\n"
    );
    exchange(to, request).await
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_taken_and_not_sent_on() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &signer.keys(), "audiences: [shop]")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    for alg in ALGORITHMS {
        let token = signer.token(alg, &alice());
        // The second time it is remembered.
        for _ in 0..2 {
            let answer = ask(bind, "/a?b=1", &bearer(&token)).await;
            assert_eq!(status(&answer), 200, "{alg}: {answer}");
            assert!(!answer.contains("authorization"), "{alg}: {answer}");
            let answer = ask(bind, &format!("/a?access_token={token}&b=1"), "").await;
            assert_eq!(status(&answer), 200, "{alg}: {answer}");
            assert!(answer.contains("shop GET /a?b=1\n"), "{alg}: {answer}");
        }
    }
    // Who has no token is nobody, and may pass; so may who shows something else.
    for fields in ["", "Authorization: Basic YTpi\r\n"] {
        assert_eq!(status(&ask(bind, "/", fields).await), 200, "{fields}");
    }
}

#[tokio::test]
async fn callers_learn_what_is_wrong_with_their_token() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &signer.keys(), "audiences: [shop]")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let changed = |name: &str, value: Value| {
        let mut claims = alice();
        claims[name] = value;
        signer.token("ES256", &claims)
    };
    for (token, code, text) in [
        (changed("exp", (now() - 61).into()), 401, "Jwt is expired"),
        (
            changed("nbf", (now() + 90).into()),
            401,
            "Jwt not yet valid",
        ),
        (
            changed("iat", (now() + 90).into()),
            401,
            "Jwt not yet valid",
        ),
        (
            changed("iss", "https://issuer.example.com/".into()),
            401,
            "Jwt issuer is not configured",
        ),
        (
            changed("aud", "others".into()),
            403,
            "Audiences in Jwt are not allowed",
        ),
        (
            "x".to_owned(),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
    ] {
        let answer = ask(bind, "/secret?access=1", &bearer(&token)).await;
        assert_eq!(status(&answer), code, "{answer}");
        assert_eq!(body(&answer), text);
        let challenge = "www-authenticate: Bearer realm=\"http://shop.example.com/secret\", error=\"invalid_token\"";
        assert!(answer.contains(challenge), "{answer}");
    }
    // Within the skew of clocks.
    for token in [
        changed("exp", (now() - 30).into()),
        changed("nbf", (now() + 30).into()),
        changed("aud", "https://shop/".into()),
    ] {
        assert_eq!(status(&ask(bind, "/", &bearer(&token)).await), 200);
    }
    assert_eq!(app.hits(), 3);
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_expires_and_when_its_keys_go() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let at = (bind, app.address);
    let rules = [rule(ISSUER, &signer.keys(), "")];
    let proxy = Proxy::start(sidecar(&rules, at)).await;
    let token = signer.token("RS256", &alice());
    for _ in 0..3 {
        assert_eq!(status(&ask(bind, "/", &bearer(&token)).await), 200);
    }
    // The issuer takes other keys.
    let others = [rule(ISSUER, &Signer::new().keys(), "")];
    proxy.views.publish(sidecar(&others, at));
    let token = &token;
    eventually(|| async move { status(&ask(bind, "/", &bearer(token)).await) == 401 }).await;
    let answer = ask(bind, "/", &bearer(token)).await;
    assert_eq!(body(&answer), "Jwt verification fails");
    assert_eq!(status(&ask(bind, "/", "").await), 200);
}

#[tokio::test]
async fn the_application_learns_what_the_token_says_and_nothing_that_callers_make_up() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let more = "outputPayloadToHeader: X-Payload
outputClaimToHeaders:
- {header: X-Sub, claim: sub}
- {header: x-role, claim: realm.role}
- {header: x-level, claim: level}
- {header: x-groups, claim: groups}
- {header: x-none, claim: none}
forwardOriginalToken: true";
    let rules = [rule(ISSUER, &signer.keys(), more)];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let made_up = "x-sub: mallory\r\nX-SUB: root\r\nx-role: root\r\nx-none: root\r\nx-payload: e30\r\nx-groups: root\r\nx-other: mine\r\n";
    let of = |answer: &str, name: &str| -> Vec<String> {
        let start = format!("{name}: ");
        let lines = body(answer).lines().map(str::to_owned);
        lines
            .filter_map(|line| line.strip_prefix(&start).map(str::to_owned))
            .collect()
    };
    let token = signer.token("EdDSA", &alice());
    let answer = ask(bind, "/", &format!("{made_up}{}", bearer(&token))).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(of(&answer, "x-sub"), ["alice"]);
    assert_eq!(of(&answer, "x-role"), ["admin"]);
    assert_eq!(of(&answer, "x-level"), ["7"]);
    assert_eq!(of(&answer, "x-payload"), [token.split('.').nth(1).unwrap()]);
    assert_eq!(of(&answer, "authorization"), [format!("Bearer {token}")]);
    for name in ["x-none", "x-groups"] {
        assert!(of(&answer, name).is_empty(), "{answer}");
    }
    assert_eq!(of(&answer, "x-other"), ["mine"]);
    // Without a token nobody is anybody.
    let answer = ask(bind, "/", made_up).await;
    assert_eq!(status(&answer), 200);
    for name in ["x-sub", "x-role", "x-none", "x-payload", "x-groups"] {
        assert!(of(&answer, name).is_empty(), "{answer}");
    }
    assert_eq!(of(&answer, "x-other"), ["mine"]);
}

#[tokio::test]
async fn tokens_stand_where_the_rule_says() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let more = "fromHeaders: [{name: X-Token, prefix: 'Token '}, {name: x-plain}]
fromParams: [t]
fromCookies: [session]";
    let rules = [rule(ISSUER, &signer.keys(), more)];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let good = signer.token("ES384", &alice());
    let bad = format!("{good}x");
    let code = async |path: &str, fields: &str| status(&ask(bind, path, fields).await);
    for (token, expected) in [(&good, 200), (&bad, 401)] {
        let param = format!("/?a&t={token}");
        assert_eq!(code(&param, "").await, expected);
        for field in [
            format!("x-token: Token {token}\r\n"),
            format!("x-plain: {token}\r\n"),
            format!("cookie: a=b; session={token}; c=d\r\n"),
            format!("cookie: a=b\r\ncookie: session=\"{token}\"\r\n"),
        ] {
            assert_eq!(code("/", &field).await, expected, "{field}");
        }
    }
    // Nobody looks elsewhere, and what is there goes on.
    let answer = ask(bind, &format!("/?access_token={bad}"), &bearer(&bad)).await;
    assert_eq!(status(&answer), 200);
    assert!(answer.contains("authorization: Bearer "), "{answer}");
    // The second of two must be good as well.
    for fields in [
        format!("cookie: session={good}; session={bad}\r\n"),
        format!("cookie: session={good}\r\nx-plain: {bad}\r\n"),
        format!("x-plain: {good}\r\nx-plain: {bad}\r\n"),
    ] {
        assert_eq!(code("/", &fields).await, 401, "{fields}");
    }
    let twice = format!("/?t={good}&%74={bad}");
    assert_eq!(code(&twice, "").await, 401);
}

#[tokio::test]
async fn each_issuer_is_believed_for_its_own_tokens() {
    let (one, two) = (Signer::new(), Signer::new());
    let (app, bind) = (App::start("shop"), free());
    let rules = [
        rule("one", &one.keys(), "audiences: [shop]"),
        rule(
            "two",
            &two.keys(),
            "outputClaimToHeaders: [{header: x-sub, claim: sub}]",
        ),
    ];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let of = |signer: &Signer, issuer: &str| {
        let mut claims = alice();
        claims["iss"] = issuer.into();
        signer.token("RS256", &claims)
    };
    for token in [of(&one, "one"), of(&two, "two")] {
        assert_eq!(status(&ask(bind, "/", &bearer(&token)).await), 200);
    }
    for (token, text) in [
        (of(&one, "two"), "Jwt verification fails"),
        (of(&two, "one"), "Jwt verification fails"),
        (of(&one, "three"), "Jwt issuer is not configured"),
    ] {
        let answer = ask(bind, "/", &bearer(&token)).await;
        assert_eq!((status(&answer), body(&answer)), (401, text));
    }
    assert_eq!(status(&ask(bind, "/", "").await), 200);
    // Claims of one are not told as the other's.
    let answer = ask(
        bind,
        "/",
        &format!("x-sub: root\r\n{}", bearer(&of(&one, "one"))),
    )
    .await;
    assert!(!answer.contains("x-sub"), "{answer}");
}

#[tokio::test]
async fn browsers_ask_without_a_token_and_grpc_is_told_in_its_own_words() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let rules = [rule(ISSUER, &signer.keys(), "")];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let preflight = |fields: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: Bearer x\r\n{fields}\r\n"
        )
    };
    let browser = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n";
    assert_eq!(status(&exchange(bind, preflight(browser)).await), 200);
    assert_eq!(status(&exchange(bind, preflight("")).await), 401);
    let grpc = format!("content-type: application/grpc\r\n{}", bearer("x"));
    let answer = ask(bind, "/shop.Shop/Buy", &grpc).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.contains("grpc-status: 16"), "{answer}");
}
