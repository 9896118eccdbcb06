//! Gateways that pass mTLS on by its server name (`AUTO_PASSTHROUGH`): between sidecars of the real executable, under
//! the hands of openssl, and a real Envoy in the gateway's place.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use meshctl::mesh::{Client, Node, NodeKind, View};
use meshctl::resource::{self, Instances, Objects};
use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::changed::issue;
use crate::envoy::{any_port, envoy};
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::processes::{Process, free};
use crate::stand::{Stand, until};

const WHOLE: &str = "outbound_.9080_._.db.default.svc.cluster.local";
const FIRST: &str = "outbound_.9080_.v1_.db.default.svc.cluster.local";

/// What the gateway knows of services, beside `db` itself.
const SERVICES: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db}
spec:
  host: db
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v9, labels: {version: v9}}
---
# Exported to its own namespace only.
apiVersion: v1
kind: Service
metadata: {name: hidden, namespace: other, annotations: {networking.istio.io/exportTo: '.'}}
spec: {selector: {app: hidden}, ports: [{name: http, port: 9080}]}
---
# Its callers speak no mTLS.
apiVersion: v1
kind: Service
metadata: {name: plain}
spec: {selector: {app: db}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec: {host: plain, trafficPolicy: {tls: {mode: DISABLE}}}
---
# Of the hosts that the server is for it has none.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: elsewhere}
spec:
  hosts: [elsewhere.example.com]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.0.1, labels: {security.istio.io/tlsMode: istio}}]
";

fn gateway(port: u16) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: edge}}
  servers:
  - port: {{number: {port}, name: tls, protocol: TLS}}
    hosts: ['*.local']
    tls: {{mode: AUTO_PASSTHROUGH}}
"
    )
}

/// What comes back of a request by openssl with this server name, these protocols and this certificate.
fn by_openssl(to: SocketAddr, name: &str, alpn: Option<&str>, who: Option<&Path>) -> String {
    let alpn = alpn.map_or_else(String::new, |alpn| format!("-alpn {alpn}"));
    let with = who.map_or_else(String::new, |dir| {
        let dir = dir.display();
        format!("-cert {dir}/cert-chain.pem -key {dir}/key.pem")
    });
    let script = format!(
        "(printf 'GET /x HTTP/1.1\\r\\nHost: db\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) \
         | timeout 20 openssl s_client -quiet -connect {to} -servername {name} {alpn} {with} 2>/dev/null"
    );
    program("sh", &["-c", &script]).1
}

/// Who gets through a gateway of SERVICES, and who does not.
fn passes(to: SocketAddr, member: &Path) {
    let http = Some("istio-http/1.1");
    for (name, alpn) in [
        (WHOLE, http),
        (FIRST, http),
        (WHOLE, Some("istio-http/1.1,istio,http/1.1")),
        // Names have no case.
        ("OUTBOUND_.9080_._.DB.default.svc.cluster.local", http),
    ] {
        let said = by_openssl(to, name, alpn, Some(member));
        assert!(said.contains("HTTP/1.1 200"), "{name} {alpn:?}: {said}");
        // It is the caller whom the application is told of: nothing in between has opened the connection.
        assert!(said.contains("/sa/ops"), "{said}");
    }
    for (why, name, alpn, who) in [
        (
            "a stranger, whom the workload does not take",
            WHOLE,
            http,
            None,
        ),
        ("TLS that is not the mesh's", WHOLE, None, Some(member)),
        ("another's protocol", WHOLE, Some("http/1.1"), Some(member)),
        ("a host", "db.default.svc.cluster.local", http, Some(member)),
        (
            "another port",
            "outbound_.9081_._.db.default.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "no such subset",
            "outbound_.9080_.v2_.db.default.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "a subset that nobody is of",
            "outbound_.9080_.v9_.db.default.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "a service of others",
            "outbound_.9080_._.hidden.other.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "a service without mTLS",
            "outbound_.9080_._.plain.default.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "a host that the server is not for",
            "outbound_.9080_._.elsewhere.example.com",
            http,
            Some(member),
        ),
        (
            "the name of the gateway's own cluster",
            "outbound|9080||db.default.svc.cluster.local",
            http,
            Some(member),
        ),
        (
            "more labels",
            "x.outbound_.9080_._.db.default.svc.cluster.local",
            http,
            Some(member),
        ),
    ] {
        let said = by_openssl(to, name, alpn, who);
        assert!(!said.contains("HTTP/1.1"), "{why}: {said}");
    }
    let url = format!("http://{to}/");
    let (served, said) = program("curl", &["-sS", "-m", "10", &url]);
    assert!(!served, "plaintext: {said}");
}

/// A service elsewhere, which is called by way of the gateway: its members are reached by the name that they have
/// there, and must be who they are there.
fn by_way_of(gateway: SocketAddr) -> String {
    let (ip, port) = (gateway.ip(), gateway.port());
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: far}}
spec:
  hosts: [db.far]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 9080, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: {ip}, labels: {{security.istio.io/tlsMode: istio}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: far}}
spec:
  host: db.far
  trafficPolicy:
    tls:
      mode: ISTIO_MUTUAL
      sni: {WHOLE}
      subjectAltNames: [spiffe://cluster.local/ns/default/sa/db-account]
"
    )
}

const NOT_THE_FIRST: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: edge}
spec:
  selector: {matchLabels: {istio: edge}}
  action: DENY
  rules: [{when: [{key: connection.sni, values: ['outbound_.9080_.v1_.*']}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_call_through_a_gateway_that_opens_nothing() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("db", &[("http", 9080)]));
    mesh.apply(SERVICES);
    mesh.apply(STRICT);
    let app = App {
        service: "db",
        version: "v1",
        port: 9080,
        at: backend("db", &tasks),
        flags: &[],
    };
    let _db = mesh.sidecar(&app).await;
    let web = mesh
        .sidecar(&App {
            service: "web",
            ..app
        })
        .await;
    mesh.apply(&gateway(15443));
    let (edge, address) = mesh.gateway("edge", &[15443]).await;
    let to = SocketAddr::new(address, 15443);
    let ops = issue(&mesh, "ops");
    until("the gateway", 20, || {
        std::net::TcpStream::connect(to).is_ok().then_some(())
    })
    .await;
    mesh.settled().await;
    tokio::task::block_in_place(|| passes(to, &ops));

    // From one application to the other: the gateway stands between two sidecars and is neither.
    mesh.apply(&by_way_of(to));
    mesh.settled().await;
    let caller = Caller::new(web.outbound());
    let (status, body) = caller.get("db.far:9080", "/y").await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(
        body.starts_with("db /y ") && body.contains("/sa/web-account"),
        "{body}"
    );
    assert!(!body.contains("edge"), "{body}");

    // What is said of it beforehand.
    let listed = mesh.run(&["routes", "--gateway", "edge"], None);
    assert!(
        listed.contains(WHOLE) && !listed.contains("hidden"),
        "{listed}"
    );
    let url = format!("https://{FIRST}:15443/");
    let said = mesh.run(
        &["routes", "--explain", "GET", &url, "--gateway", "edge"],
        None,
    );
    assert!(said.contains("unopened") && said.contains(FIRST), "{said}");
    let url = "https://outbound_.9080_._.hidden.other.svc.cluster.local:15443/";
    let said = mesh.run(
        &["routes", "--explain", "GET", url, "--gateway", "edge"],
        None,
    );
    assert!(said.contains("closed"), "{said}");

    // The gateway's policies are about server names: who is not let in any more is cut, others stay.
    let mut kept = [FIRST, WHOLE].map(|name| member(to, name, &ops));
    mesh.apply(NOT_THE_FIRST);
    let [refused, stays] = &mut kept;
    until("the refused one's connection to end", 20, || {
        refused.0.try_wait().unwrap()
    })
    .await;
    tokio::task::block_in_place(|| {
        let http = Some("istio-http/1.1");
        let said = by_openssl(to, FIRST, http, Some(&ops));
        assert!(!said.contains("HTTP/1.1"), "{said}");
        let said = by_openssl(to, WHOLE, http, Some(&ops));
        assert!(said.contains("HTTP/1.1 200"), "{said}");
        assert!(stays.0.try_wait().unwrap().is_none(), "others are cut too");
    });

    // Without the server nothing is passed on, and what was is cut.
    mesh.apply(&gateway(15443).replace("'*.local'", "'*.example.com'"));
    until("the other's connection to end", 20, || {
        stays.0.try_wait().unwrap()
    })
    .await;
    drop((mesh, edge));
    tasks.end().await;
}

/// openssl, connected for as long as it is let.
fn member(to: SocketAddr, name: &str, dir: &Path) -> Process {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "istio-http/1.1"])
        .args(["-servername", name, "-connect", &to.to_string()])
        .args(["-cert", &file("cert-chain.pem"), "-key", &file("key.pem")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: db\r\n\r\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), request).unwrap();
    let mut first = [0; 12];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    Process(child)
}

/// A loop that only a mistake makes: the gateway itself stands among the members of what it passes on to.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_does_not_pass_calls_on_to_itself() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&gateway(15443));
    let (process, address) = mesh.gateway("edge", &[15443]).await;
    let to = SocketAddr::new(address, 15443);
    mesh.apply(&by_way_of(to).replace("db.far", "far.local"));
    mesh.settled().await;
    let ops = issue(&mesh, "ops");
    let name = "outbound_.9080_._.far.local";
    let listed = mesh.run(&["routes", "--gateway", "edge"], None);
    assert!(listed.contains(name), "{listed}");
    let open = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", process.0.id()));
        fds.unwrap().count()
    };
    let before = open();
    let said =
        tokio::task::block_in_place(|| by_openssl(to, name, Some("istio-http/1.1"), Some(&ops)));
    assert_eq!(said, "");
    assert!(open() < before + 10, "{} files", open());
    drop(mesh);
    tasks.end().await;
}

/// What a gateway that is an Envoy is told, where `db` runs at `db`.
fn view_of_envoy(db: SocketAddr, at: SocketAddr) -> View {
    let text = format!(
        "{}---{SERVICES}---{}---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: db}}
spec:
  address: {}
  serviceAccount: db-account
  labels: {{app: db, version: v1, security.istio.io/tlsMode: istio}}
",
        service("db", &[("http", 9080)]),
        gateway(at.port()),
        db.ip()
    );
    let (read, findings) = resource::parse(&text, "x", "default");
    assert!(findings.is_empty(), "{findings:?}");
    let objects = read.into_iter();
    let objects: Objects = objects
        .map(|object| (object.key(), Arc::new(object)))
        .collect();
    let (world, _) = resource::lower(&objects, Instances::default());
    let node = Node {
        id: String::new(),
        client: Client::Envoy,
        kind: NodeKind::Gateway,
        name: "edge".to_owned(),
        namespace: "default".to_owned(),
        service_account: "edge".to_owned(),
        workload: "edge".to_owned(),
        labels: [("istio".to_owned(), "edge".to_owned())].into(),
        locality: meshctl::mesh::Locality::default(),
        address: at.ip(),
        outbound: any_port(),
        inbound: any_port(),
        transparent: false,
        applications: Vec::new(),
    };
    world.view(&node)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_passes_the_same_calls_on() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("db", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "db",
        version: "v1",
        port: 9080,
        at: backend("db", &tasks),
        flags: &[],
    };
    let db = mesh.sidecar(&app).await;
    let at = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), free().port());
    let view = view_of_envoy(db.inbound(9080), at);
    let stand = Stand::start(view, any_port(), None);
    let Some((_envoy, _logs)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    until("Envoy to be in sync", 20, || {
        let status = stand.hub.status();
        let kinds = status.iter().flat_map(|proxy| &proxy.types);
        let rejected: Vec<_> = kinds.filter_map(|kind| kind.rejected.as_ref()).collect();
        assert!(rejected.is_empty(), "{rejected:?}");
        let listens = std::net::TcpStream::connect(at).is_ok();
        (status.len() == 1 && status[0].synced && listens).then_some(())
    })
    .await;
    let ops = issue(&mesh, "ops");
    tokio::task::block_in_place(|| passes(at, &ops));
    drop((mesh, stand));
    tasks.end().await;
}
