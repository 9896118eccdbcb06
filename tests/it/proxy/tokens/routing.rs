//! At a gateway, routes go by what a token says.

use super::*;

const EDGE: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*']
  gateways: [edge]
  http:
  - match: [{headers: {'@request.auth.claims.realm.role': {exact: admin}, '@request.auth.claims[sub]': {prefix: al}}}]
    directResponse: {status: 201}
  - match: [{headers: {'@request.auth.claims.groups': {exact: night}}}]
    directResponse: {status: 202}
  - match: [{headers: {'@request.auth.claims.scope': {exact: write}}}]
    directResponse: {status: 203}
  - match: [{headers: {x-sub: {exact: carol}}}]
    directResponse: {status: 204}
  - match: [{withoutHeaders: {'@request.auth.claims.sub': {}}}]
    directResponse: {status: 205}
  - directResponse: {status: 206}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: edge}
spec:
  selector: {matchLabels: {istio: edge}}
  jwtRules:";

#[tokio::test]
async fn routes_go_by_claims_and_never_by_what_callers_send() {
    let signer = Signer::new();
    let bind = free();
    let rule = rule(
        ISSUER,
        &signer.keys(),
        "outputClaimToHeaders: [{header: x-sub, claim: sub}]",
    );
    let view = view(
        &format!("{EDGE}{rule}\n"),
        NodeKind::Gateway,
        (bind, free()),
    );
    let _proxy = Proxy::start(view).await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = alice();
        change(&mut claims);
        signer.token("ES256", &claims)
    };
    let told = async |token: &str| status(&ask(bind, "/", &bearer(token)).await);
    assert_eq!(told(&with(&|_| {})).await, 201);
    let token = with(&|claims| claims["sub"] = "bob".into());
    assert_eq!(told(&token).await, 202);
    let token = with(&|claims| {
        claims["sub"] = "bob".into();
        claims["groups"] = json!(["day"]);
    });
    assert_eq!(told(&token).await, 203);
    let last = |sub: &'static str| {
        with(&move |claims: &mut Value| {
            claims["sub"] = sub.into();
            claims["groups"] = json!([]);
            claims["scope"] = "read".into();
        })
    };
    // What a claim became as a header is what routes see of that header.
    assert_eq!(told(&last("carol")).await, 204);
    assert_eq!(told(&last("bob")).await, 206);
    // Nobody is who they say without a token.
    for fields in [
        "",
        "@request.auth.claims.sub: alice\r\n@request.auth.claims.realm.role: admin\r\n",
        "request.auth.claims.sub: alice\r\n",
        "x-sub: carol\r\n",
    ] {
        let code = status(&ask(bind, "/", fields).await);
        assert!([205, 400].contains(&code), "{fields}: {code}");
    }
    let forged = format!("{}x", last("bob"));
    assert_eq!(told(&forged).await, 401);
}

#[tokio::test]
async fn a_bad_token_is_told_before_that_there_is_no_route() {
    let signer = Signer::new();
    let bind = free();
    let rules = rule(ISSUER, &signer.keys(), "");
    let edge = EDGE.replace(
        "hosts: ['*']\n  gateways",
        "hosts: [other.example.com]\n  gateways",
    );
    let view = view(
        &format!("{edge}{rules}\n"),
        NodeKind::Gateway,
        (bind, free()),
    );
    let _proxy = Proxy::start(view).await;
    assert_eq!(status(&ask(bind, "/", "").await), 404);
    assert_eq!(status(&ask(bind, "/", &bearer("x")).await), 401);
}

/// Over HTTP/2 it is the same, and what is sent on is too.
#[tokio::test]
async fn over_http2_tokens_are_looked_at_as_well() {
    let signer = Signer::new();
    let (app, bind) = (App::start("shop"), free());
    let more = "outputClaimToHeaders: [{header: x-sub, claim: sub}]";
    let rules = [rule(ISSUER, &signer.keys(), more)];
    let _proxy = Proxy::start(sidecar(&rules, (bind, app.address))).await;
    let tcp = connect(bind).await;
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    let tasks = meshctl::rt::Tasks::new();
    tasks.spawn("caller", async move {
        let _ended = connection.await;
    });
    let mut client = client.ready().await.unwrap();
    let token = signer.token("ES256", &alice());
    for (token, code) in [(token.clone(), 200), (format!("{token}AAAA"), 401)] {
        let request = http::Request::builder()
            .uri(format!("http://shop.example.com/?access_token={token}"))
            .header("authorization", format!("Bearer {token}"))
            .header("x-sub", "root")
            .body(())
            .unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status().as_u16(), code);
        let mut stream = answer.into_body();
        let mut text = Vec::new();
        while let Some(chunk) = stream.data().await {
            text.extend_from_slice(&chunk.unwrap());
        }
        let text = String::from_utf8(text).unwrap();
        if code == 200 {
            assert!(text.starts_with("shop GET /\n"), "{text}");
            assert!(text.contains("x-sub: alice\n"), "{text}");
            assert!(
                !text.contains("root") && !text.contains("authorization"),
                "{text}"
            );
        } else {
            assert_eq!(text, "Jwt verification fails");
        }
    }
    assert_eq!(app.hits(), 1);
}
