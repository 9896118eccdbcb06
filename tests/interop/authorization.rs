//! The same policies in a real Envoy: what it says of plain requests is what our own proxy says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::authorization::{At, Authorization, Condition, On, PolicyAction, Rule, compile};
use meshctl::mesh::filter::HttpFilter;
use meshctl::mesh::listener::Listener;
use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::backend;
use crate::envoy::{any_port, envoy, synced};
use crate::mesh::{App, Mesh, STRICT, Sidecar, service};
use crate::stand::{Stand, until, view};

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";

fn is(on: On, values: &[&str], not: &[&str]) -> Condition {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Condition {
        on,
        values: texts(values),
        not: texts(not),
    }
}

fn to(conditions: Vec<Condition>) -> Rule {
    Rule {
        to: vec![conditions],
        ..Rule::default()
    }
}

fn from(conditions: Vec<Condition>) -> Rule {
    Rule {
        from: vec![conditions],
        ..Rule::default()
    }
}

fn when(conditions: Vec<Condition>) -> Rule {
    Rule {
        when: conditions,
        ..Rule::default()
    }
}

/// Each asks for one thing, so that each is judged by itself.
fn rules(port: u16) -> Vec<Rule> {
    let port = port.to_string();
    let header = || On::Header("x-a".to_owned());
    let claim = || On::Claim(vec!["groups".to_owned()]);
    vec![
        Rule::default(),
        to(vec![is(On::Path, &["/a"], &[])]),
        to(vec![is(On::Path, &["/a*"], &["/a/b*"])]),
        to(vec![is(On::Path, &["*/c"], &[])]),
        to(vec![is(On::Path, &["*"], &[])]),
        to(vec![is(On::Path, &["/a/{*}/c"], &[])]),
        to(vec![is(On::Path, &["/a/{**}"], &[])]),
        to(vec![is(On::Path, &["/{*}/b/{**}"], &[])]),
        to(vec![is(On::Method, &["GET", "P*"], &[])]),
        to(vec![is(On::Method, &[], &["GET"])]),
        to(vec![is(On::Host, &["a.example"], &[])]),
        to(vec![is(On::Host, &["*.example"], &["b.example"])]),
        to(vec![is(On::Host, &["a*"], &[])]),
        to(vec![is(On::DestinationPort, &[&port], &[])]),
        to(vec![is(On::DestinationPort, &["1"], &[])]),
        from(vec![is(On::SourceIp, &["127.0.0.0/8"], &[])]),
        from(vec![is(On::SourceIp, &[], &["127.0.0.1"])]),
        from(vec![is(On::RemoteIp, &["10.0.0.0/8", "127.0.0.0/8"], &[])]),
        from(vec![is(On::Principal, &["*"], &[])]),
        from(vec![is(On::Namespace, &["shop"], &[])]),
        from(vec![is(On::Namespace, &[], &["shop"])]),
        from(vec![is(On::RequestPrincipal, &["*"], &[])]),
        from(vec![is(On::RequestPrincipal, &[], &["https://x/*"])]),
        when(vec![is(header(), &["1"], &[])]),
        when(vec![is(header(), &["1*"], &["12"])]),
        when(vec![is(header(), &["*"], &[])]),
        when(vec![is(header(), &[], &["1"])]),
        when(vec![is(claim(), &["a"], &[])]),
        when(vec![is(claim(), &[], &["a"])]),
        when(vec![is(On::DestinationIp, &["127.0.0.1"], &[])]),
        when(vec![is(On::ServerName, &["a"], &[])]),
    ]
}

async fn ask(to: SocketAddr, (method, path, host, fields): (&str, &str, &str, &str)) -> u16 {
    let reached = until("the listener", 20, || {
        std::net::TcpStream::connect(to).is_ok().then_some(())
    });
    reached.await;
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    // Envoy takes its time to close a connection, so that is not awaited.
    let mut answer = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(20), io.read_exact(&mut answer));
    read.await.expect("an answer").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

const REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("GET", "/a", "a.example", ""),
    ("GET", "/a?x=/a/b", "A.EXAMPLE", "X-A: 1\r\n"),
    (
        "POST",
        "/a/b",
        "b.example:80",
        "X-A: 12\r\nContent-Length: 0\r\n",
    ),
    (
        "PUT",
        "/a/b/c",
        "a.example:80",
        "X-A: 1\r\nX-A: 1\r\nContent-Length: 0\r\n",
    ),
    ("DELETE", "/x/b/y/z", "other", "X-A: \r\n"),
    ("GET", "/a/x/c", "xa.example", "X-A: 2\r\n"),
    ("GET", "/a/", "a", ""),
    ("GET", "/", "example", ""),
];

/// A listener for each rule and action, guarded by nothing else.
fn guarded(binds: &[SocketAddr], backend: SocketAddr) -> View {
    let mut made = view(binds[0], &[(V1, 1, &[backend])]);
    let table = made.routes.get_mut("9080").unwrap();
    // Whatever the host.
    Arc::make_mut(table).hosts[0].domains = vec!["*".to_owned()];
    let plain = made.listeners.remove("virtualOutbound").unwrap();
    for (index, bind) in binds.iter().enumerate() {
        let (action, rule) = case(index, bind.port());
        let policy = Authorization {
            namespace: "default".to_owned(),
            name: "p".to_owned(),
            action,
            dry_run: false,
            provider: None,
            rules: vec![rule],
        };
        let at = At {
            trust_domain: "cluster.local",
            port: None,
            bytes: false,
        };
        let filters = compile(&[&policy], at).into_iter();
        let mut listener = Listener::clone(&plain);
        listener.name = format!("l{index}");
        listener.bind = *bind;
        listener.chains[0].filters = filters
            .map(|rbac| HttpFilter::Rbac(Arc::new(rbac)))
            .collect();
        made.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }
    made
}

fn case(index: usize, port: u16) -> (PolicyAction, Rule) {
    let action = [PolicyAction::Allow, PolicyAction::Deny][index % 2];
    (action, rules(port).swap_remove(index / 2))
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_judges_plain_requests_as_we_do() {
    let tasks = Tasks::new();
    let one = backend("v1", &tasks);
    let count = 2 * rules(1).len();
    let binds: Vec<SocketAddr> = (0..2 * count)
        .map(|_| cluster::ports::free_address())
        .collect();
    let (theirs, ours) = binds.split_at(count);
    let stand = Stand::start(guarded(theirs, one), any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let (views, identities) = (Published::new(guarded(ours, one)), Published::new(None));
    let (_drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    tasks.spawn("proxy", async move {
        proxy::run(Options::default(), readers.0, readers.1, signal)
            .await
            .unwrap();
    });
    let mut outcomes = BTreeMap::new();
    for (index, (their, our)) in theirs.iter().zip(ours).enumerate() {
        let (action, rule) = case(index, our.port());
        for request in REQUESTS {
            let (expected, found) = (ask(*their, *request).await, ask(*our, *request).await);
            assert_eq!(found, expected, "{request:?} by {action:?} {rule:?}");
            *outcomes.entry(found).or_insert(0) += 1;
        }
    }
    assert_eq!(
        outcomes.keys().collect::<Vec<_>>(),
        [&200, &403],
        "{outcomes:?}"
    );
    tasks.end().await;
}

/// The status of what `caller`'s application is told when it asks for `path`.
async fn status(caller: &Sidecar, method: &str, path: &str) -> u16 {
    ask(caller.outbound(), (method, path, "reviews:9080", "")).await
}

const ONLY_READERS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/productpage-account]}}]
    to: [{operation: {methods: [GET], paths: ['/reviews/*']}}]
";

/// With the real binary: what is applied is in force when `apply` returns, what `authz check` says comes so,
/// and a policy that was suggested lets pass what was seen and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_before_is_what_comes() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    let at = backend("v1", &tasks);
    let start = async |service: &'static str| {
        let app = App {
            service,
            version: "v1",
            port: 9080,
            at,
            flags: &[],
        };
        mesh.sidecar(&app).await
    };
    let reviews = start("reviews").await;
    let page = start("productpage").await;
    let thief = start("thief").await;
    mesh.settled().await;
    assert_eq!(status(&page, "GET", "/reviews/1").await, 200);
    assert_eq!(status(&thief, "GET", "/reviews/1").await, 200);

    mesh.apply(ONLY_READERS);
    for (who, from, method, path) in [
        (&page, "productpage-v1", "GET", "/reviews/1"),
        (&page, "productpage-v1", "DELETE", "/reviews/1"),
        (&page, "productpage-v1", "GET", "/reviews/../admin"),
        (&thief, "thief-v1", "GET", "/reviews/1"),
        (&reviews, "reviews-v1", "GET", "/reviews/1"),
    ] {
        let args = [
            "authz", "check", "--from", from, "--to", "reviews", method, path,
        ];
        let said = mesh.try_run(&args, None);
        let came = status(who, method, path).await;
        let text = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.status.code(), Some(i32::from(came != 200)), "{text}");
        assert_eq!(text.contains("Allowed"), came == 200, "{text}");
        assert!(matches!(came, 200 | 403), "{came}");
    }
    let url = "http://reviews:9080/reviews/1";
    for (from, word) in [
        ("productpage-v1", "allowed there"),
        ("thief-v1", "refused there"),
    ] {
        let text = mesh.run(&["routes", "--explain", "GET", url, "--from", from], None);
        assert!(text.contains(word), "{text}");
    }
    let nobody = mesh.try_run(
        &["authz", "check", "--to", "reviews", "GET", "/reviews/1"],
        None,
    );
    assert_eq!(nobody.status.code(), Some(1));
    let text = String::from_utf8(nobody.stdout).unwrap();
    assert!(text.contains("STRICT"), "{text}");
    // Without an identity nobody gets as far as that.
    let plain = std::net::TcpStream::connect(reviews.inbound(9080));
    let mut plain = tokio::net::TcpStream::from_std({
        let plain = plain.unwrap();
        plain.set_nonblocking(true).unwrap();
        plain
    })
    .unwrap();
    let _sent = plain
        .write_all(b"GET /reviews/1 HTTP/1.1\r\nHost: reviews\r\n\r\n")
        .await;
    let mut heard = Vec::new();
    let _end = plain.read_to_end(&mut heard).await;
    assert!(heard.is_empty(), "{}", String::from_utf8_lossy(&heard));

    mesh.run(&["delete", "authorizationpolicy", "readers"], None);
    for _ in 0..20 {
        assert_eq!(status(&page, "GET", "/reviews/1").await, 200);
    }
    // Of the thief's calls nothing is known in the last seconds; it called before, though.
    let suggested = loop {
        let text = mesh.try_run(&["authz", "suggest", "reviews"], None);
        let text = String::from_utf8(text.stdout).unwrap();
        if text.contains("productpage-account") {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(
        suggested.contains("kind: AuthorizationPolicy"),
        "{suggested}"
    );
    let lines = suggested.lines();
    let narrowed: Vec<&str> = lines
        .filter(|line| !line.contains("thief-account"))
        .collect();
    mesh.apply(&narrowed.join("\n"));
    assert_eq!(status(&page, "GET", "/reviews/1").await, 200);
    assert_eq!(status(&thief, "GET", "/reviews/1").await, 403);

    // Nothing that was seen is refused unawares, and what policies allow still passes.
    let switch = |to: &'static str| mesh.try_run(&["authz", "default-deny", to], None);
    assert_eq!(switch("status").status.code(), Some(1));
    mesh.run(&["delete", "authorizationpolicy", "reviews-callers"], None);
    let refused = switch("on");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("productpage-v1.default -> reviews.default"),
        "{told}"
    );
    assert_eq!(status(&thief, "GET", "/reviews/1").await, 200);
    mesh.apply(&narrowed.join("\n"));
    let on = switch("on");
    assert_eq!(on.status.code(), Some(0), "{on:?}");
    assert_eq!(switch("status").status.code(), Some(0));
    assert_eq!(status(&page, "GET", "/reviews/1").await, 200);
    assert_eq!(status(&thief, "GET", "/reviews/1").await, 403);
    mesh.run(&["delete", "authorizationpolicy", "reviews-callers"], None);
    assert_eq!(status(&page, "GET", "/reviews/1").await, 403);
    assert_eq!(switch("off").status.code(), Some(0));
    assert_eq!(status(&page, "GET", "/reviews/1").await, 200);
    tasks.end().await;
}
