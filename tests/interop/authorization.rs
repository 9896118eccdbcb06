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
    // Held all at once, so that no two are the same.
    let held: Vec<_> = (0..2 * count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let binds: Vec<SocketAddr> = held.iter().map(|own| own.local_addr().unwrap()).collect();
    drop(held);
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
