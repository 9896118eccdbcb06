//! Somebody outside who is asked whether connections of bytes may be made: by our own proxy as by a real Envoy,
//! and at the sidecar of real processes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::ext_authz::{ExtAuthz, WhenNoted};
use meshctl::mesh::filter::NetworkFilter;
use meshctl::mesh::listener::{ChainAction, Listener, TcpOptions};
use meshctl::mesh::rbac::{Action, Entry, Rbac, Rules, Term};
use meshctl::mesh::route::TextMatch;
use meshctl::mesh::{Cluster, View};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};

use crate::changed::{Member, Open as _, connect, is_cut, issue, server};
use crate::envoy::{any_port, envoy, synced};
use crate::ext_authz::{GRPC, NOBODY, V1, asked, by_grpc};
use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::free;
use crate::stand::{Stand, cluster, endpoints, until, view};

/// Ways to ask, each at a listener of its own.
fn ways() -> Vec<(&'static str, ExtAuthz)> {
    let quick = |to: &str| ExtAuthz {
        stat_prefix: "tcp.".to_owned(),
        timeout: Duration::from_millis(300),
        ..by_grpc(to)
    };
    let open = |config: ExtAuthz| ExtAuthz {
        fail_open: true,
        ..config
    };
    let noted = |config: ExtAuthz| ExtAuthz {
        when: Some(WhenNoted {
            prefix: "noted_".to_owned(),
            policy: TextMatch::Prefix("ask-".to_owned()),
        }),
        ..config
    };
    vec![
        ("always", quick(GRPC)),
        ("open", open(quick(GRPC))),
        ("nobody", quick(NOBODY)),
        ("nobody-open", open(quick(NOBODY))),
        ("sometimes", noted(quick(GRPC))),
        ("sometimes-nobody", noted(quick(NOBODY))),
    ]
}

/// Notes callers from two addresses only.
fn notes() -> Rbac {
    let from = |address: &str| Term::From(format!("{address}/32").parse().unwrap());
    let entry = Entry {
        permissions: vec![Term::Any],
        principals: vec![from("127.0.0.3"), from("127.0.0.5")],
    };
    Rbac {
        shadow: Some(Arc::new(Rules {
            action: Action::Deny,
            policies: [("ask-it".to_owned(), entry)].into(),
        })),
        shadow_prefix: "noted_".to_owned(),
        stat_prefix: "tcp.".to_owned(),
        ..Rbac::default()
    }
}

fn asking(binds: &[SocketAddr], app: SocketAddr, grpc: SocketAddr) -> View {
    // Besides, one for requests: who has no routes is not known to have everything.
    let mut made = view(free(), &[(V1, 1, &[app])]);
    let plain = Arc::clone(&made.listeners["virtualOutbound"]);
    for (name, at) in [(GRPC, grpc), (NOBODY, free())] {
        let cluster = Cluster {
            protocol: UpstreamProtocol::Http2,
            ..Cluster::clone(&cluster(name))
        };
        made.clusters.insert(name.to_owned(), Arc::new(cluster));
        made.endpoints.insert(name.to_owned(), endpoints(&[at]));
    }
    for (bind, (name, way)) in binds.iter().zip(ways()) {
        let mut listener = Listener::clone(&plain);
        name.clone_into(&mut listener.name);
        listener.bind = *bind;
        let chain = &mut listener.chains[0];
        chain.filters.clear();
        chain.action = ChainAction::Tcp {
            clusters: vec![(V1.to_owned(), 1)],
            options: TcpOptions::default(),
        };
        chain.guards = vec![
            NetworkFilter::Rbac(Arc::new(notes())),
            NetworkFilter::ExtAuthz(Arc::new(way)),
        ];
        made.listeners
            .insert(listener.name.clone(), Arc::new(listener));
    }
    made
}

/// Whether bytes come back to a caller from `address`.
fn passes(address: &str, to: SocketAddr) -> bool {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let from = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SockAddr::from(from)).unwrap();
    socket.connect(&SockAddr::from(to)).unwrap();
    let mut stream = std::net::TcpStream::from(socket);
    let most = Some(Duration::from_secs(20));
    stream.set_read_timeout(most).unwrap();
    let _sent = stream.write_all(b"one\n");
    let mut back = [0; 4];
    stream.read_exact(&mut back).is_ok() && back == *b"one\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_asks_about_bytes_as_we_do() {
    let Some(asked) = asked() else { return };
    let tasks = Tasks::new();
    let (app, heard) = server(&tasks, true);
    let count = ways().len();
    let binds: Vec<SocketAddr> = (0..2 * count)
        .map(|_| cluster::ports::free_address())
        .collect();
    let (theirs, ours) = binds.split_at(count);
    let stand = Stand::start(asking(theirs, app, asked.grpc), any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let views = Published::new(asking(ours, app, asked.grpc));
    let identities = Published::new(None);
    let (_drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    tasks.spawn("proxy", async move {
        proxy::run(Options::default(), readers.0, readers.1, signal)
            .await
            .unwrap();
    });
    for bind in &binds {
        until("the listener", 20, || {
            std::net::TcpStream::connect(bind).is_ok().then_some(())
        })
        .await;
    }
    let mut told = Vec::new();
    for ((their, our), (name, _)) in theirs.iter().zip(ours).zip(ways()) {
        for from in ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"] {
            let before = heard.load(Ordering::Relaxed);
            let (expected, found) =
                tokio::task::block_in_place(|| (passes(from, *their), passes(from, *our)));
            assert_eq!(expected, found, "{name} from {from}");
            // Nothing of what is refused gets to the application.
            let bytes = if found { 8 } else { 0 };
            assert_eq!(
                heard.load(Ordering::Relaxed) - before,
                bytes,
                "{name} {from}"
            );
            told.push((name, from, found));
        }
    }
    let passing: Vec<_> = told
        .iter()
        .filter(|(_, _, passes)| *passes)
        .map(|(name, from, _)| (*name, *from))
        .collect();
    assert_eq!(
        passing,
        [
            ("always", "127.0.0.2"),
            ("open", "127.0.0.2"),
            ("open", "127.0.0.4"),
            ("open", "127.0.0.5"),
            ("nobody-open", "127.0.0.2"),
            ("nobody-open", "127.0.0.3"),
            ("nobody-open", "127.0.0.4"),
            ("nobody-open", "127.0.0.5"),
            ("sometimes", "127.0.0.2"),
            ("sometimes", "127.0.0.4"),
            ("sometimes-nobody", "127.0.0.2"),
            ("sometimes-nobody", "127.0.0.4"),
        ]
    );
    tasks.end().await;
}

const PROVIDERS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: meshctl-system}
data:
  mesh: |
    extensionProviders:
    - name: by-grpc
      envoyExtAuthzGrpc:
        service: default/authz-grpc.default.svc.cluster.local
        port: 9000
        timeout: 2s
    - name: by-http
      envoyExtAuthzHttp: {service: authz-grpc.default.svc.cluster.local, port: 9000}
";

fn policy(provider: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ask}}
spec:
  selector: {{matchLabels: {{app: db}}}}
  action: CUSTOM
  provider: {{name: {provider}}}
  rules: [{{from: [{{source: {{notPrincipals: ['*/sa/free']}}}}], to: [{{operation: {{paths: ['/admin']}}}}]}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_decides_about_bytes() {
    let Some(asked) = asked() else { return };
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("db", &[("tcp-db", 9080)]));
    mesh.apply(&service("authz-grpc", &[("grpc", 9000)]));
    mesh.apply(STRICT);
    mesh.apply(PROVIDERS);
    let app = |service, port, at| App {
        service,
        version: "v1",
        port,
        at,
        flags: &["--access-log", "json", "--drain", "2s"],
    };
    let provider = mesh.sidecar(&app("authz-grpc", 9000, asked.grpc)).await;
    let (database, heard) = server(&tasks, true);
    let db = mesh.sidecar(&app("db", 9080, database)).await;
    let db = db.inbound(9080).to_string();
    let [ops, other, free] = ["ops", "other-account", "free"].map(|own| issue(&mesh, own));
    let open = |dir: &std::path::Path| Member::new(&db, dir);
    let say = |member: &mut Member, line: &str| tokio::task::block_in_place(|| member.say(line));

    let mut older = [&ops, &other, &free].map(|dir| open(dir));
    for member in &mut older {
        assert_eq!(say(member, "one").as_deref(), Some("one"));
    }
    mesh.apply(&policy("by-grpc"));
    mesh.settled().await;
    // Nobody was asked about those who are there: whom the policy is about begins anew.
    let still = older.each_mut().map(|member| say(member, "two").is_some());
    assert_eq!(still, [false, false, true]);

    let mut members = [&ops, &other, &free].map(|dir| open(dir));
    let before = heard.load(Ordering::Relaxed);
    let said = members
        .each_mut()
        .map(|member| say(member, "one").is_some());
    assert_eq!(said, [true, false, true]);
    assert_eq!(heard.load(Ordering::Relaxed) - before, 8);
    let log = || mesh.said("db-v1");
    until("the refusal to be logged", 20, || {
        (log().contains("ext_authz_denied") && log().contains("UAEX")).then_some(())
    })
    .await;
    let text = mesh.run(
        &[
            "authz",
            "check",
            "--from",
            "authz-grpc-v1",
            "--to",
            "db",
            "--port",
            "9080",
        ],
        None,
    );
    assert!(text.contains("asks by-grpc"), "{text}");

    // Who was asked is not cut when another rule comes.
    mesh.apply(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: keep-out}
spec:
  selector: {matchLabels: {app: db}}
  action: DENY
  rules: [{from: [{source: {principals: ['*/sa/free']}}]}]
",
    );
    mesh.settled().await;
    let [asked_about, _, kept_out] = &mut members;
    assert_eq!(say(kept_out, "two"), None);
    assert_eq!(say(asked_about, "two").as_deref(), Some("two"));

    // Nobody there to be asked: nothing new passes, and what was let in stays.
    drop(provider);
    assert_eq!(say(&mut open(&ops), "one"), None);
    assert_eq!(say(asked_about, "three").as_deref(), Some("three"));

    // By HTTP nobody is asked about bytes, and it is said beforehand.
    let applied = mesh.try_run(&["apply", "-f", "-"], Some(&policy("by-http")));
    let told = String::from_utf8(applied.stderr).unwrap();
    assert!(told.contains("MSH0512"), "{told}");
    mesh.settled().await;
    assert_eq!(say(asked_about, "four"), None);
    assert_eq!(say(&mut open(&ops), "one"), None);
    // Without a certificate there is nobody to ask about.
    let mut stranger = connect(db.parse().unwrap());
    let _sent = stranger.write_all(b"one\n");
    assert!(tokio::task::block_in_place(|| is_cut(&mut stranger)));
    tasks.end().await;
}
