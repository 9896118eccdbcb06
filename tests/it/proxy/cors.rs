//! What pages of other origins are told.

use std::net::SocketAddr;
use std::sync::Arc;

use meshctl::mesh::View;
use meshctl::mesh::filter::{Abort, AbortWith, Cors, Fault, HttpFilter};
use meshctl::mesh::listener::{ChainAction, Direction, HttpCodec};
use meshctl::mesh::route::{Action, Share, TextMatch};
use meshctl::rt::Tasks;

use super::support::*;

const GOOD: &str = "https://shop.example.com";

fn policy() -> Cors {
    Cors {
        origins: vec![TextMatch::Exact(GOOD.to_owned())],
        methods: "GET,PUT".to_owned(),
        headers: "*".to_owned(),
        expose: "x-app".to_owned(),
        max_age: "60".to_owned(),
        credentials: Some(true),
        ..Cors::default()
    }
}

/// Carries HTTP from `bind` to `app` with these filters of the route.
fn view(bind: SocketAddr, app: SocketAddr, own: Vec<HttpFilter>) -> View {
    let mut action = forward(&[("app", 1)]);
    action.filters = own;
    let mut route = route(Action::Forward(action));
    let set = [("access-control-allow-origin".to_owned(), "route".to_owned())];
    route.headers.response.set = set.into();
    let http = ChainAction::Http {
        routes: "t".to_owned(),
        codec: HttpCodec::Auto,
        options: Arc::default(),
    };
    let mut view = Views::default()
        .listener("t", bind, Direction::Outbound, http)
        .routes("t", vec![route])
        .cluster(cluster("app"), vec![endpoint(app)])
        .0;
    let mut listener = (*view.listeners["t"]).clone();
    listener.chains[0].filters = vec![
        HttpFilter::Cors(Arc::default()),
        HttpFilter::Fault(Arc::default()),
    ];
    view.listeners.insert("t".to_owned(), Arc::new(listener));
    view
}

fn of(policy: Cors) -> HttpFilter {
    HttpFilter::Cors(Arc::new(policy))
}

async fn ask(to: SocketAddr, method: &str, origin: &str, fields: &str) -> String {
    let request = format!(
        "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nOrigin: {origin}\r\n{fields}\r\n"
    );
    exchange(to, request).await.to_ascii_lowercase()
}

/// The values of a field of an answer.
fn values<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let name = format!("{name}: ");
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .filter_map(|line| line.strip_prefix(name.as_str()))
        .collect()
}

const WANTED: &str = "Access-Control-Request-Method: PUT\r\n\
                      Access-Control-Request-Headers: x-token, x-more\r\n";

#[tokio::test]
async fn what_is_asked_beforehand_is_answered_here() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, vec![of(policy())])).await;
    let answer = ask(bind, "OPTIONS", GOOD, WANTED).await;
    assert_eq!(status(&answer), 200, "{answer}");
    for (name, value) in [
        ("access-control-allow-origin", GOOD),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "get,put"),
        ("access-control-allow-headers", "x-token, x-more"),
        ("access-control-expose-headers", "x-app"),
        ("access-control-max-age", "60"),
        ("content-length", "0"),
    ] {
        assert_eq!(values(&answer, name), [value], "{answer}");
    }
    assert_eq!(app.hits(), 0);
    // Others are the application's to answer, as are options that nobody asks for beforehand.
    let answer = ask(bind, "OPTIONS", "https://evil.example.com", WANTED).await;
    assert_eq!(values(&answer, "access-control-allow-origin"), ["route"]);
    ask(bind, "OPTIONS", GOOD, "").await;
    assert_eq!(app.hits(), 2);
}

#[tokio::test]
async fn what_nobody_allows_may_be_answered_without_leave() {
    let app = App::start("a");
    let bind = free();
    let ignoring = Cors {
        forward_unmatched: Some(false),
        ..policy()
    };
    let _proxy = Proxy::start(view(bind, app.address, vec![of(ignoring)])).await;
    let answer = ask(bind, "OPTIONS", "https://evil.example.com", WANTED).await;
    assert_eq!(status(&answer), 200);
    assert!(values(&answer, "access-control-allow-origin").is_empty());
    assert_eq!(app.hits(), 0);
}

#[tokio::test]
async fn answers_say_whose_pages_may_read_them() {
    let app = App::start("a");
    let bind = free();
    let _proxy = Proxy::start(view(bind, app.address, vec![of(policy())])).await;
    let answer = ask(bind, "GET", GOOD, "").await;
    assert_eq!(
        values(&answer, "access-control-allow-origin"),
        [GOOD],
        "{answer}"
    );
    assert_eq!(
        values(&answer, "access-control-allow-credentials"),
        ["true"]
    );
    assert_eq!(values(&answer, "access-control-expose-headers"), ["x-app"]);
    assert!(values(&answer, "access-control-allow-methods").is_empty());
    let answer = ask(bind, "GET", "https://evil.example.com", "").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(values(&answer, "access-control-allow-origin"), ["route"]);
    assert!(values(&answer, "access-control-expose-headers").is_empty());

    let tasks = Tasks::new();
    let (send, connection) = h2::client::handshake(connect(bind).await).await.unwrap();
    tasks.spawn("h2 caller", async move {
        let _ended = connection.await;
    });
    let request = hyper::Request::get("http://app/").header("origin", GOOD);
    let mut send = send.ready().await.unwrap();
    let (answer, _) = send.send_request(request.body(()).unwrap(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["access-control-allow-origin"], GOOD);
}

/// Pages could not tell an error from a refusal otherwise.
#[tokio::test]
async fn errors_say_it_too() {
    let abort = Abort {
        with: AbortWith::Http(503),
        share: Share::default(),
    };
    let fault = HttpFilter::Fault(Arc::new(Fault {
        abort: Some(abort),
        ..Fault::default()
    }));
    for more in [None, Some(fault)] {
        let bind = free();
        let filters = [of(policy())].into_iter().chain(more).collect();
        // Nobody listens there.
        let _proxy = Proxy::start(view(bind, free(), filters)).await;
        let answer = ask(bind, "GET", GOOD, "").await;
        assert_eq!(status(&answer), 503);
        assert_eq!(
            values(&answer, "access-control-allow-origin"),
            [GOOD],
            "{answer}"
        );
    }
}

#[tokio::test]
async fn all_origins_may_be_allowed_or_those_of_a_pattern() {
    let app = App::start("a");
    for (origin, allowed) in [
        (TextMatch::Exact("*".to_owned()), true),
        (TextMatch::Prefix("https://shop.".to_owned()), true),
        (TextMatch::Exact("https://shop".to_owned()), false),
    ] {
        let bind = free();
        let policy = Cors {
            origins: vec![origin.clone()],
            ..Cors::default()
        };
        let _proxy = Proxy::start(view(bind, app.address, vec![of(policy)])).await;
        let answer = ask(bind, "GET", GOOD, "").await;
        let expected = if allowed { GOOD } else { "route" };
        assert_eq!(
            values(&answer, "access-control-allow-origin"),
            [expected],
            "{origin}"
        );
    }
}
