//! Callers that come back to the endpoint that they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshctl::mesh::filter::HttpFilter;
use meshctl::mesh::route::{Action, AttemptHeaders, Retry, RetryOn};
use meshctl::mesh::session::{SessionBy, SessionCookie, StatefulSession};
use meshctl::mesh::{Endpoint, Health, View};

use super::support::*;

fn cookie() -> SessionCookie {
    SessionCookie {
        name: "s".to_owned(),
        path: "/cart".to_owned(),
        ..SessionCookie::default()
    }
}

fn by_cookie() -> StatefulSession {
    StatefulSession::by(SessionBy::Cookie(cookie()))
}

fn by_header() -> StatefulSession {
    StatefulSession::by(SessionBy::Header("x-s".to_owned()))
}

/// HTTP from `bind` to clusters, each with its weight and endpoints; `own` is the route's.
fn view(
    bind: SocketAddr,
    clusters: &[(&str, u32, Vec<Endpoint>)],
    own: Option<StatefulSession>,
) -> View {
    let weights: Vec<(&str, u32)> = clusters
        .iter()
        .map(|(name, weight, _)| (*name, *weight))
        .collect();
    let mut action = forward(&weights);
    action.filters = own
        .map(|own| HttpFilter::StatefulSession(Arc::new(own)))
        .into_iter()
        .collect();
    let mut views = Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(action))]);
    for (name, _, endpoints) in clusters {
        views = views.cluster(cluster(name), endpoints.clone());
    }
    in_chain(views.0, StatefulSession::default())
}

fn in_chain(mut view: View, session: StatefulSession) -> View {
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![HttpFilter::StatefulSession(Arc::new(session))];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

fn apps(count: usize) -> (Vec<App>, Vec<Endpoint>) {
    let apps: Vec<App> = (0..count).map(|n| App::start(&format!("app{n}"))).collect();
    let endpoints = apps.iter().map(|app| endpoint(app.address)).collect();
    (apps, endpoints)
}

async fn ask(to: SocketAddr, path: &str, fields: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    exchange(to, request).await
}

/// The values of a field of an answer.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

/// Who answered.
fn who(answer: &str) -> &str {
    values(answer, "x-app")[0]
}

/// The field by which a caller shows the cookie that it was given.
fn shown(answer: &str) -> String {
    let given = values(answer, "set-cookie");
    let pair = given[0].split("; ").next().unwrap();
    format!("Cookie: other=1; {pair}\r\n")
}

fn told(address: SocketAddr) -> String {
    STANDARD.encode(address.to_string())
}

#[tokio::test]
async fn a_caller_with_the_cookie_stays_and_is_given_none_again() {
    let (_apps, endpoints) = apps(4);
    let bind = free();
    let _proxy = Proxy::start(view(bind, &[("app", 1, endpoints)], Some(by_cookie()))).await;
    for _ in 0..4 {
        let first = ask(bind, "/cart/a", "").await;
        let given = values(&first, "set-cookie");
        assert_eq!(given.len(), 1, "{first}");
        assert!(given[0].ends_with("; Path=/cart; HttpOnly"), "{first}");
        for path in ["/cart", "/cart/b?x=1"] {
            let again = ask(bind, path, &shown(&first)).await;
            assert_eq!(who(&again), who(&first));
            assert!(values(&again, "set-cookie").is_empty(), "{again}");
        }
    }
    // Elsewhere there is no session, whatever is shown.
    let first = ask(bind, "/cart", "").await;
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let other = ask(bind, "/carts", &shown(&first)).await;
        assert!(values(&other, "set-cookie").is_empty(), "{other}");
        met.insert(who(&other).to_owned());
    }
    assert!(met.len() > 1, "{met:?}");
}

#[tokio::test]
async fn a_caller_with_the_header_stays_and_is_told_only_news() {
    let (apps, endpoints) = apps(4);
    let bind = free();
    let _proxy = Proxy::start(view(bind, &[("app", 1, endpoints)], Some(by_header()))).await;
    let first = ask(bind, "/", "").await;
    let own = apps
        .iter()
        .find(|app| values(&first, "x-s") == [told(app.address)]);
    assert!(own.is_some(), "{first}");
    for _ in 0..8 {
        let again = ask(bind, "/", &format!("X-S: {}\r\n", values(&first, "x-s")[0])).await;
        assert_eq!(who(&again), who(&first));
        assert!(values(&again, "x-s").is_empty(), "{again}");
    }
}

#[tokio::test]
async fn the_chains_own_sessions_hold_where_a_route_does_not_say() {
    let (_apps, endpoints) = apps(4);
    let (bind, other) = (free(), free());
    let clusters = [("app", 1, endpoints)];
    let plain = in_chain(view(bind, &clusters, None), by_header());
    let _proxy = Proxy::start(plain).await;
    let first = ask(bind, "/", "").await;
    let again = ask(bind, "/", &format!("x-s: {}\r\n", values(&first, "x-s")[0])).await;
    assert_eq!(who(&again), who(&first));
    let off = in_chain(
        view(other, &clusters, Some(StatefulSession::default())),
        by_header(),
    );
    let _other = Proxy::start(off).await;
    assert!(values(&ask(other, "/", "").await, "x-s").is_empty());
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_begins_anew_unless_it_is_strict() {
    let (apps, endpoints) = apps(3);
    let bind = free();
    let mut own = by_header();
    let clusters = [("app", 1, endpoints.clone())];
    let proxy = Proxy::start(view(bind, &clusters, Some(own.clone()))).await;
    let gone = format!("x-s: {}\r\n", told(apps[0].address));
    assert_eq!(who(&ask(bind, "/", &gone).await), "app0");
    let rest = endpoints[1..].to_vec();
    proxy
        .views
        .publish(view(bind, &[("app", 1, rest.clone())], Some(own.clone())));
    eventually(|| async { who(&ask(bind, "/", &gone).await) != "app0" }).await;
    let moved = ask(bind, "/", &gone).await;
    assert_eq!(values(&moved, "x-s").len(), 1, "{moved}");
    proxy.views.publish(view(
        bind,
        &[("app", 1, endpoints.clone())],
        Some(own.clone()),
    ));
    eventually(|| async { who(&ask(bind, "/", &gone).await) == "app0" }).await;
    // One that is there but ill is left as well.
    let mut ill = endpoints;
    ill[0].health = Health::Unhealthy;
    proxy
        .views
        .publish(view(bind, &[("app", 1, ill.clone())], Some(own.clone())));
    eventually(|| async { who(&ask(bind, "/", &gone).await) != "app0" }).await;
    // Strictly, nobody else may take over.
    own.strict = true;
    own.gone_status = 410;
    proxy
        .views
        .publish(view(bind, &[("app", 1, rest)], Some(own.clone())));
    eventually(|| async { status(&ask(bind, "/", &gone).await) == 410 }).await;
    assert_eq!(status(&ask(bind, "/", "").await), 200);
    proxy
        .views
        .publish(view(bind, &[("app", 1, ill)], Some(own)));
    // What is there and cannot be called answers as Envoy does, whatever was configured for what is gone.
    eventually(|| async { status(&ask(bind, "/", &gone).await) == 503 }).await;
}

#[tokio::test]
async fn garbage_and_foreign_addresses_choose_nothing() {
    let (_apps, endpoints) = apps(2);
    let outside = App::start("outside");
    let bind = free();
    // Also not one that another route's cluster has.
    let mut all = view(bind, &[("app", 1, endpoints)], Some(by_header()));
    let other = Views::default().cluster(cluster("other"), vec![endpoint(outside.address)]);
    all.clusters.extend(other.0.clusters);
    all.endpoints.extend(other.0.endpoints);
    let _proxy = Proxy::start(all).await;
    let texts = [
        told(outside.address),
        told(([127, 0, 0, 1], 1).into()),
        STANDARD.encode("nonsense"),
        STANDARD.encode(outside.address.ip().to_string()),
        outside.address.to_string(),
        "%%%".to_owned(),
        "A".repeat(4000),
    ];
    for text in texts {
        for _ in 0..3 {
            let answer = ask(bind, "/", &format!("x-s: {text}\r\n")).await;
            assert_eq!(status(&answer), 200, "{text}");
            assert_eq!(values(&answer, "x-s").len(), 1, "{text}: {answer}");
        }
    }
    assert_eq!(outside.hits(), 0);
}

#[tokio::test]
async fn a_session_outlasts_changes_of_weights() {
    let (_first, old) = apps(2);
    let fresh = App::start("fresh");
    let new = vec![endpoint(fresh.address)];
    let bind = free();
    let with = |old_weight, new_weight| {
        let clusters = [
            ("old", old_weight, old.clone()),
            ("new", new_weight, new.clone()),
        ];
        view(bind, &clusters, Some(by_cookie()))
    };
    let proxy = Proxy::start(with(100, 0)).await;
    let begun = ask(bind, "/cart", "").await;
    let session = shown(&begun);
    proxy.views.publish(with(0, 100));
    eventually(|| async { who(&ask(bind, "/cart", "").await) == "fresh" }).await;
    for _ in 0..8 {
        let again = ask(bind, "/cart", &session).await;
        assert_eq!(who(&again), who(&begun));
        assert!(values(&again, "set-cookie").is_empty(), "{again}");
    }
    // Sessions take nothing of the shares of those who begin one.
    proxy.views.publish(with(50, 50));
    eventually(|| async { who(&ask(bind, "/cart", "").await) != "fresh" }).await;
    let mut taken = 0;
    for _ in 0..40 {
        assert_eq!(who(&ask(bind, "/cart", &session).await), who(&begun));
        taken += usize::from(who(&ask(bind, "/cart", "").await) == "fresh");
    }
    assert!((15..=25).contains(&taken), "{taken}");
}

#[tokio::test]
async fn a_session_ends_when_it_was_to_end() {
    let (apps, endpoints) = apps(2);
    let bind = free();
    let lasting = StatefulSession::by(SessionBy::Cookie(SessionCookie {
        ttl: Duration::from_hours(1),
        ..cookie()
    }));
    let _proxy = Proxy::start(view(bind, &[("app", 1, endpoints)], Some(lasting))).await;
    let answer = ask(bind, "/cart", "").await;
    assert!(
        values(&answer, "set-cookie")[0].contains("; Max-Age=3600; Path=/cart"),
        "{answer}"
    );
    let again = ask(bind, "/cart", &shown(&answer)).await;
    assert_eq!(who(&again), who(&answer));
    assert!(values(&again, "set-cookie").is_empty());
    // One that ended in 1970: field 1 is the address, field 2 the end.
    let address = apps[0].address.to_string();
    let mut message = vec![0x0a, u8::try_from(address.len()).unwrap()];
    message.extend_from_slice(address.as_bytes());
    message.extend_from_slice(&[0x10, 7]);
    let ended = format!("Cookie: s=\"{}\"\r\n", STANDARD.encode(message));
    for _ in 0..3 {
        let answer = ask(bind, "/cart", &ended).await;
        assert_eq!(values(&answer, "set-cookie").len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn another_try_goes_elsewhere_and_the_caller_is_told() {
    let (_apps, mut endpoints) = apps(1);
    // Nobody listens there.
    let dead = free();
    endpoints.push(endpoint(dead));
    let bind = free();
    let mut view = view(bind, &[("app", 1, endpoints)], Some(by_header()));
    let table = Arc::make_mut(view.routes.get_mut("t").unwrap());
    table.hosts[0].attempts = AttemptHeaders {
        response: true,
        ..AttemptHeaders::default()
    };
    if let Action::Forward(forward) = &mut table.hosts[0].routes[0].action {
        forward.retry = Some(Retry {
            attempts: 1,
            on: vec![RetryOn::ConnectFailure],
            ..Retry::default()
        });
    }
    let _proxy = Proxy::start(view).await;
    let answer = ask(bind, "/", &format!("x-s: {}\r\n", told(dead))).await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(values(&answer, "x-envoy-attempt-count"), ["2"]);
    assert_eq!(values(&answer, "x-s").len(), 1, "{answer}");
}
