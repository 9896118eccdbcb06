//! Hosts that the mesh does not run, called through a sidecar.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use meshctl::mesh::origination::{
    Asks, KeyPair, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};
use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::envoy::{any_port, changed, envoy, synced};
use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::{Process, free};
use crate::stand::{Stand, cluster, table, until, view};

/// A host by name and one by address, with routes of their own.
fn entries(named: u16, fixed: u16) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named}}
spec:
  hosts: [named.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: localhost, ports: {{http: {named}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: fixed}}
spec:
  hosts: [fixed.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {fixed}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: named}}
spec:
  hosts: [named.example.com]
  http:
  - match: [{{uri: {{prefix: /moved}}}}]
    route: [{{destination: {{host: fixed.example.com}}}}]
  - route: [{{destination: {{host: named.example.com}}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outside_are_called_by_name_and_by_address() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(STRICT);
    let (named, fixed) = (backend("named", &tasks), backend("fixed", &tasks));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    mesh.apply(&entries(named.port(), fixed.port()));
    mesh.settled().await;
    let caller = Caller::new(sidecar.outbound());
    let ask = async |host: &str, path: &str| {
        let (status, body) = caller.get(host, path).await.unwrap();
        let body = body.trim().to_owned();
        (status, body)
    };
    for _ in 0..3 {
        // A certificate of the mesh is nobody's business outside.
        assert_eq!(
            ask("named.example.com", "/").await,
            (200, "named /".to_owned())
        );
        assert_eq!(
            ask("fixed.example.com:80", "/").await,
            (200, "fixed /".to_owned())
        );
        assert_eq!(
            ask("named.example.com", "/moved").await,
            (200, "fixed /moved".to_owned())
        );
    }
    // Lists call them by their own names, and count them to the namespace of their entry.
    let routes = mesh.run(&["routes", "named.example.com"], None);
    assert!(routes.contains("fixed.example.com"), "{routes}");
    let stats = |namespace: &str| mesh.run(&["stats", "-n", namespace], None);
    crate::stand::until("numbers", 20, || {
        stats("default").contains("fixed.example.com").then_some(())
    })
    .await;
    assert!(!stats("other").contains("example.com"));
    drop(mesh);
    tasks.end().await;
}

/// Envoy begins TLS by our configuration as our proxy does: the server is asked for by the request's host,
/// must be it, and is shown the certificate.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_begins_tls_by_our_configuration() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let (at, to) = (free(), free());
    let _server = server(dir.path(), to.port());
    let file = |name: &str| Pem::File(dir.path().join(name).to_str().unwrap().to_owned());
    let how = Origination {
        asks: Asks::Requested,
        verify: Some(Verify {
            roots: Roots::Given(file("ca.pem")),
            revoked: None,
            names: Named::Asked,
        }),
        certificate: Some(Shown::Pair(KeyPair {
            chain: file("client.pem"),
            key: file("client.key"),
        })),
    };
    let mut served = view(at, &[("outside", 1, &[to])]);
    let of_all = |name: &str| {
        let mut table = (*table(&[(name, 1)])).clone();
        table.hosts[0].domains = vec!["*".to_owned()];
        Arc::new(table)
    };
    served.routes.insert("9080".to_owned(), of_all("outside"));
    let mut cluster = (*cluster("outside")).clone();
    cluster.origination = Some(Box::new(how.clone()));
    served
        .clusters
        .insert("outside".to_owned(), Arc::new(cluster.clone()));
    let stand = Stand::start(served, any_port(), None);
    let Some((_envoy, _logs)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let caller = Caller::new(at);
    let (status, body) = caller.get("tls.example.com", "/").await.unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(body.replace(" = ", "=").contains("CN=client"));
    let (status, body) = caller.get("other.example.com", "/").await.unwrap();
    assert_eq!(status, 503, "{body}");
    // All that it may be told, it takes.
    for (asks, roots, names) in [
        (
            Asks::Name("tls.example.com".to_owned()),
            Roots::Given(file("ca.pem")),
            Named::Any(Vec::new()),
        ),
        (
            Asks::Name(String::new()),
            Roots::Given(file("ca.pem")),
            Named::Any(vec![
                NameMatch::Exact("tls.example.com".to_owned()),
                NameMatch::Exact("spiffe://a/b".to_owned()),
                NameMatch::Exact("10.1.1.1".to_owned()),
                NameMatch::Prefix("spiffe://c/".to_owned()),
            ]),
        ),
    ] {
        let how = Origination {
            asks,
            verify: Some(Verify {
                roots,
                revoked: None,
                names,
            }),
            ..how.clone()
        };
        let cluster = Arc::new(meshctl::mesh::Cluster {
            origination: Some(Box::new(how)),
            ..cluster.clone()
        });
        changed(&stand, |view| {
            view.clusters.insert("outside".to_owned(), cluster);
        })
        .await;
        let (status, body) = caller.get("whatever", "/").await.unwrap();
        assert_eq!(status, 200, "{body}");
    }
    for verify in [
        None,
        Some(Verify {
            roots: Roots::System,
            revoked: None,
            names: Named::Asked,
        }),
    ] {
        let open = verify.is_none();
        let how = Origination {
            asks: Asks::Requested,
            verify,
            ..how.clone()
        };
        let cluster = Arc::new(meshctl::mesh::Cluster {
            origination: Some(Box::new(how)),
            ..cluster.clone()
        });
        changed(&stand, |view| {
            view.clusters.insert("outside".to_owned(), cluster);
        })
        .await;
        let (status, body) = caller.get("tls.example.com", "/").await.unwrap();
        assert_eq!(status == 200, open, "{status} {body}");
    }
    drop(stand);
    tasks.end().await;
}

/// Certificates of an authority that is nobody's in the mesh, made by openssl in `dir`.
fn certificates(dir: &Path) {
    let script = "set -e; cd \"$1\"; \
        ec() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }; \
        ec ca; openssl req -x509 -new -key ca.key -subj /CN=outside -days 2 -out ca.pem; \
        for who in server client; do ec $who; \
          openssl req -new -key $who.key -subj /CN=$who -out $who.csr; \
          printf 'subjectAltName=DNS:tls.example.com' > $who.ext; \
          openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile $who.ext -out $who.pem; done";
    let made = Command::new("sh")
        .args(["-c", script, "sh", dir.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// openssl as a server that asks its callers for a certificate and answers with what it knows of them.
fn server(dir: &Path, port: u16) -> Process {
    let child = Command::new("openssl")
        .args(["s_server", "-www", "-Verify", "1", "-verify_return_error"])
        .args(["-accept", &port.to_string()])
        .args([
            "-cert",
            "server.pem",
            "-key",
            "server.key",
            "-CAfile",
            "ca.pem",
        ])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Process(child)
}

fn secured(dir: &Path, port: u16, mode: &str) -> String {
    let dir = dir.display();
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: tls}}
spec:
  hosts: [tls.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {port}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: tls}}
spec:
  host: tls.example.com
  trafficPolicy:
    tls: {{mode: {mode}, caCertificates: {dir}/ca.pem}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_outside_is_called_by_tls_that_the_application_does_not_speak() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let port = free().port();
    let _server = server(dir.path(), port);
    until("the server", 20, || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .is_ok()
            .then_some(())
    })
    .await;
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    let caller = Caller::new(sidecar.outbound());
    // Without a certificate nobody is served.
    mesh.apply(&secured(dir.path(), port, "SIMPLE"));
    mesh.settled().await;
    let (status, _) = caller.get("tls.example.com", "/").await.unwrap();
    assert_ne!(status, 200);
    let files = dir.path().display();
    let mutual =
        format!("MUTUAL, clientCertificate: {files}/client.pem, privateKey: {files}/client.key");
    mesh.apply(&secured(dir.path(), port, &mutual));
    mesh.settled().await;
    let (status, body) = caller.get("tls.example.com", "/").await.unwrap();
    assert_eq!(status, 200, "{body}");
    // The spaces are a matter of openssl's version.
    let shown = body.replace(" = ", "=");
    assert!(shown.contains("Client certificate") && shown.contains("CN=client"));
    drop(mesh);
    tasks.end().await;
}
