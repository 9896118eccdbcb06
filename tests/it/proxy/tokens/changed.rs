//! Which rules a request goes by whose connection is older than they are.

use super::super::policies::{SHOP, view};
use super::super::raw_http2::RawHttp2;
use super::*;

/// A connection that is told to end still takes streams of a caller that has not heard of it. Those go
/// by the tokens and by the authorization of the day alike: an issuer that is believed no more lets nobody
/// in, and one that is new does.
#[tokio::test]
async fn streams_on_an_ending_connection_go_by_the_newest_rules_alone() {
    let (before, after) = (Signer::new(), Signer::new());
    let (app, bind) = (App::start("shop"), free());
    let members = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: known}
spec:
  selector: {matchLabels: {app: shop}}
  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]
";
    let by = |signer: &Signer| {
        let rules = [rule(ISSUER, &signer.keys(), "")];
        let text = format!("{SHOP}{}{members}", manifest(&rules));
        view(&text, NodeKind::Sidecar, (bind, app.address))
    };
    let proxy = Proxy::start(by(&before)).await;
    let [old, new] = [&before, &after].map(|signer| {
        let token = signer.token("ES256", &alice());
        format!("Bearer {token}")
    });
    let fields = |method, token| {
        [
            (":method", method),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "shop.example.com"),
            ("authorization", token),
        ]
    };
    let mut kept = RawHttp2::open(bind).await;
    kept.ask(1, &fields("GET", &old), true).await;
    assert_eq!(kept.status(1).await, 200);
    // Under way, so that the connection stays.
    kept.ask(3, &fields("POST", &old), false).await;
    eventually(|| async { app.hits() == 2 }).await;

    proxy.views.publish(by(&after));
    kept.warned().await;
    let was = app.hits();
    kept.ask(5, &fields("GET", &old), true).await;
    assert_eq!(kept.status(5).await, 401);
    kept.ask(7, &fields("GET", ""), true).await;
    assert_eq!(kept.status(7).await, 403);
    assert_eq!(app.hits(), was);
    kept.ask(9, &fields("GET", &new), true).await;
    assert_eq!(kept.status(9).await, 200);
    // What had begun is served.
    kept.end(3).await;
    assert_eq!(kept.status(3).await, 200);
}
