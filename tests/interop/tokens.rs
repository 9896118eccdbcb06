//! The same tokens before a real Envoy that has our filter, so that what callers are told is Envoy's word.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshctl::mesh::filter::HttpFilter;
use meshctl::mesh::jwt_authn::{
    ClaimHeader, JwtProvider, KeySource, SPACED_CLAIMS, TokenRule, filter,
};
use meshctl::mesh::listener::Listener;
use meshctl::mesh::route::{ClaimMatch, TextMatch};
use meshctl::mesh::{RouteTable, View};
use meshctl::net::{ConnectOptions, connect};
use meshctl::rt::{Tasks, Wall};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::backend;
use crate::envoy::{any_port, envoy, synced};
use crate::processes::free;
use crate::stand::{Stand, view};

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V3: &str = "outbound|9080|v3|reviews.default.svc.cluster.local";

pub(crate) fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn token(pair: &Ed25519KeyPair, header: &str, claims: &Value) -> String {
    let signed = format!("{}.{}", part(header), part(claims.to_string()));
    let signature = part(pair.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn rule(issuer: &str, pair: &Ed25519KeyPair) -> TokenRule {
    let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "a", "x": part(pair.public_key())});
    TokenRule {
        provider: JwtProvider {
            issuer: issuer.to_owned(),
            audiences: vec!["shop".to_owned()],
            keys: json!({"keys": [key]}).to_string().into(),
            claim_headers: vec![ClaimHeader {
                header: "x-sub".to_owned(),
                claim: "sub".to_owned(),
            }],
            tells: true,
            spaced_claims: SPACED_CLAIMS.map(str::to_owned).into(),
            ..JwtProvider::default()
        },
        source: KeySource::Inline,
        timeout: std::time::Duration::from_secs(5),
    }
}

/// Goes to `v3` for those of the group `night`, else to `v1`.
fn by_claim(view: &mut View) {
    let mut table = RouteTable::clone(&view.routes["9080"]);
    let routes = &mut table.hosts[0].routes;
    let mut night = routes[0].clone();
    "night".clone_into(&mut night.name);
    night.matches.claims.push(ClaimMatch {
        path: vec!["groups".to_owned()],
        value: TextMatch::Exact("night".to_owned()),
        invert: false,
    });
    let cluster = |route: &mut meshctl::mesh::Route, name: &str| {
        if let meshctl::mesh::route::Action::Forward(forward) = &mut route.action {
            forward.clusters.truncate(1);
            name.clone_into(&mut forward.clusters[0].cluster);
            forward.clusters[0].weight = 1;
        }
    };
    cluster(&mut night, V3);
    cluster(&mut routes[0], V1);
    routes.insert(0, night);
    view.routes.insert("9080".to_owned(), Arc::new(table));
}

async fn ask(to: SocketAddr, fields: &str) -> (u16, String, String) {
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let request =
        format!("GET /cart HTTP/1.1\r\nHost: reviews:9080\r\nConnection: close\r\n{fields}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let challenge = head
        .lines()
        .find_map(|line| line.strip_prefix("www-authenticate: "));
    (
        status,
        body.to_owned(),
        challenge.unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn envoy_takes_our_filter_and_says_what_we_say() {
    let tasks = Tasks::new();
    let (one, three) = (backend("v1", &tasks), backend("v3", &tasks));
    let listen = free();
    let pair = Ed25519KeyPair::generate().unwrap();
    let other = Ed25519KeyPair::generate().unwrap();
    let mut world = view(listen, &[(V1, 1, &[one]), (V3, 1, &[three])]);
    by_claim(&mut world);
    let rules = [rule("one", &pair), rule("two", &other)];
    let tokens = filter(&[&rules[0], &rules[1]]).unwrap();
    let mut listener = Listener::clone(&world.listeners["virtualOutbound"]);
    listener.chains[0].filters = vec![HttpFilter::JwtAuthn(Arc::new(tokens))];
    world
        .listeners
        .insert(listener.name.clone(), Arc::new(listener));
    let stand = Stand::start(world, any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;

    let now = Wall::System.millis() / 1_000;
    let header = r#"{"alg":"EdDSA","kid":"a"}"#;
    let claims = |issuer: &str, group: &str| json!({"iss": issuer, "sub": "alice", "aud": "shop", "exp": now + 300, "groups": [group]});
    let with = |name: &str, value: Value| {
        let mut claims = claims("one", "day");
        claims[name] = value;
        token(&pair, header, &claims)
    };
    let good = token(&pair, header, &claims("one", "day"));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (fields, who) in [
        (String::new(), "v1"),
        (bearer(&good), "v1"),
        (bearer(&token(&pair, header, &claims("one", "night"))), "v3"),
        (
            bearer(&token(&other, header, &claims("two", "night"))),
            "v3",
        ),
        ("@request.auth.claims.groups: night\r\n".to_owned(), "v1"),
    ] {
        let (status, body, _) = ask(listen, &fields).await;
        // The name of the last is none that Envoy lets pass at all.
        if fields.starts_with('@') && status == 400 {
            continue;
        }
        assert_eq!(status, 200, "{fields}: {body}");
        assert!(body.starts_with(who), "{fields}: {body}");
    }
    // What `tests/it/proxy/tokens` expects of our own proxy.
    for (token, status, text) in [
        (
            token(&other, header, &claims("one", "day")),
            401,
            "Jwt verification fails",
        ),
        (with("exp", (now - 61).into()), 401, "Jwt is expired"),
        (with("nbf", (now + 90).into()), 401, "Jwt not yet valid"),
        (
            with("iss", "three".into()),
            401,
            "Jwt issuer is not configured",
        ),
        (
            with("aud", "other".into()),
            403,
            "Audiences in Jwt are not allowed",
        ),
        (
            "x".to_owned(),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            token(&pair, r#"{"alg":"none"}"#, &claims("one", "day")),
            401,
            "Jwt header [alg] is not supported",
        ),
        (
            token(&pair, r#"{"alg":"EdDSA","kid":"b"}"#, &claims("one", "day")),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
    ] {
        let (found, body, challenge) = ask(listen, &bearer(&token)).await;
        assert_eq!((found, body.as_str()), (status, text), "{token}");
        let expected = "Bearer realm=\"http://reviews:9080/cart\", error=\"invalid_token\"";
        assert_eq!(challenge, expected, "{token}");
    }
}
