//! Who calls whom and what protects it, as the connections themselves have it: curl, openssl and raw bytes
//! before and behind real sidecars.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use meshctl::rt::Tasks;
use serde_json::{Value, json};

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, program, service};
use crate::stand::until;

const RULES: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  mtls: {mode: STRICT}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop.default.svc.cluster.local
  trafficPolicy: {tls: {mode: DISABLE}}
";

fn outside(port: u16) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside}}
spec:
  hosts: [outside.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]
"
    )
}

/// Says back whatever it hears.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                let _ended = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
    address
}

/// A connection to `to` through a sidecar, for bytes.
fn through(sidecar: SocketAddr, to: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.extend_from_slice(&byte);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    stream
}

fn account(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_say_how_each_call_is_protected() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&service("db", &[("tcp", 5432)]));
    let app = |service, port, at| App {
        service,
        version: "v1",
        port,
        at,
        flags: &[],
    };
    let web = mesh
        .sidecar(&app("web", 9080, backend("web", &tasks)))
        .await;
    let shop = mesh
        .sidecar(&app("shop", 9080, backend("shop", &tasks)))
        .await;
    let _db = mesh.sidecar(&app("db", 5432, echo())).await;
    let egress = backend("outside", &tasks);
    mesh.apply(RULES);
    mesh.apply(&outside(egress.port()));
    mesh.settled().await;

    let ops = mesh.path().join("ops");
    let out = ops.display().to_string();
    mesh.run(
        &[
            "identity",
            "issue",
            "--service-account",
            "ops",
            "--out",
            &out,
        ],
        None,
    );
    let of_shop = Caller::new(shop.outbound());
    let of_web = Caller::new(web.outbound());
    let mut to_db = through(shop.outbound(), "db.default.svc.cluster.local:5432");
    let plain = format!("http://{}/", shop.inbound(9080));
    let (address, file) = (web.inbound(9080), |name: &str| format!("{out}/{name}"));
    // Of the two groups one is for the exchange, the other for the curve of the certificate's key.
    let by_hand = format!(
        "(printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) \
         | openssl s_client -connect {address} -CAfile {} -verify_return_error -quiet -tls1_2 \
           -groups X25519:P-256 -alpn istio-http/1.1 -cert {} -key {}",
        file("root-cert.pem"),
        file("cert-chain.pem"),
        file("key.pem")
    );
    for _ in 0..5 {
        for (caller, host) in [
            (&of_shop, "web:9080"),
            (&of_shop, "outside.example.com"),
            (&of_web, "shop:9080"),
        ] {
            assert_eq!(caller.get(host, "/").await.unwrap().0, 200, "{host}");
        }
        to_db.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        to_db.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
        assert!(program("curl", &["-sS", "-m", "10", "-f", &plain]).0);
    }
    let said = program("sh", &["-c", &by_hand]).1;
    assert!(said.contains("web /"), "{said}");

    let edges = |args: &[&str]| -> Vec<Value> {
        let report = mesh.json(&[&["edges", "-t", "5m"], args].concat());
        report["edges"].as_array().unwrap().clone()
    };
    let pick = |row: &Value, keys: &[&str]| -> Value {
        keys.iter().map(|key| row[*key].clone()).collect()
    };
    let ends = |row: &Value| pick(row, &["source", "destination", "clientId"]);
    let expected = [
        json!(["", "shop.default", ""]),
        json!(["", "web.default", account("ops")]),
        json!(["shop-v1.default", "db.default", account("shop-account")]),
        json!(["shop-v1.default", "outside.example.com.default", ""]),
        json!(["shop-v1.default", "web.default", account("shop-account")]),
        json!(["web-v1.default", "shop.default", ""]),
    ];
    let all = until("both ends to tell of every edge", 30, || {
        let all = edges(&[]);
        let told = all.iter().map(ends).collect::<Vec<_>>() == expected;
        let both = |row: &Value| {
            let mutual = row["clientId"] == account("shop-account");
            !mutual || row["reportedBy"] == "both"
        };
        let bytes = all.iter().any(|row| row["tcpReceivedBytes"] == 25);
        (told && bytes && all.iter().all(both)).then_some(all)
    })
    .await;
    let facts = |row: &Value| {
        pick(
            row,
            &[
                "security",
                "reason",
                "tlsVersion",
                "cipher",
                "keyExchange",
                "serverId",
                "protocol",
                "reportedBy",
            ],
        )
    };
    let mesh_tls = |server: &str, protocol: &str| {
        json!([
            "mutualTls",
            "",
            "TLSv1.3",
            "TLS_AES_128_GCM_SHA256",
            "X25519MLKEM768",
            account(server),
            protocol,
            "both"
        ])
    };
    let plaintext =
        |reason: &str, by: &str| json!(["plaintext", reason, "", "", "", "", "http", by]);
    assert_eq!(facts(&all[0]), plaintext("permissive", "destination"));
    let by_hand = facts(&all[1]);
    assert_eq!(
        (&by_hand[0], &by_hand[2], &by_hand[4]),
        (&json!("mutualTls"), &json!("TLSv1.2"), &json!("X25519"))
    );
    let cipher = by_hand[3].as_str().unwrap();
    assert!(cipher.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{cipher}");
    assert_eq!(by_hand[5], account("web-account"));
    assert_eq!(facts(&all[2]), mesh_tls("db-account", "tcp"));
    assert_eq!(facts(&all[3]), plaintext("external", "source"));
    assert_eq!(facts(&all[4]), mesh_tls("web-account", "http"));
    assert_eq!(facts(&all[5]), plaintext("disabledByCaller", "source"));
    for row in &all {
        let secure = row["security"] == "mutualTls";
        assert_eq!(row["encrypted"], secure, "{row}");
        assert!(row.get("differences").is_none(), "{row}");
    }
    // The called side counts both who call it in plaintext.
    let numbers = |row: &Value| {
        pick(
            row,
            &[
                "requests",
                "connectionsOpened",
                "tcpSentBytes",
                "tcpReceivedBytes",
            ],
        )
    };
    assert_eq!(all[0]["requests"], 10);
    assert_eq!(numbers(&all[1]), json!([1, 1, 0, 0]));
    assert_eq!(numbers(&all[2]), json!([0, 1, 25, 25]));
    assert_eq!(all[2]["connectionsOpen"], 1);
    assert_eq!(all[4]["requests"], 5);

    // Chosen by either end, by both, and by what is wrong.
    let count = |args: &[&str]| edges(args).len();
    assert_eq!(count(&["db"]), 1);
    assert_eq!(count(&["web"]), 2, "a service is what is called");
    assert_eq!(count(&["web-v1"]), 3, "and a workload calls, too");
    assert_eq!(count(&["--from", "shop-v1"]), 3);
    assert_eq!(count(&["--from", "shop-v1", "--to", "web"]), 1);
    assert_eq!(count(&["-n", "default"]), 6);
    assert_eq!(count(&["-n", "other"]), 0);
    let output = mesh.try_run(&["edges", "-t", "5m", "--insecure", "-o", "json"], None);
    assert_eq!(output.status.code(), Some(1));
    let insecure: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(insecure["edges"].as_array().unwrap().len(), 3);
    let none = mesh.try_run(&["edges", "-t", "5m", "--insecure", "--to", "web"], None);
    assert_eq!(none.status.code(), Some(0), "{none:?}");
    let unknown = mesh.try_run(&["edges", "nobody"], None);
    assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
    let long = mesh.try_run(&["edges", "-t", "1h"], None);
    assert_eq!(long.status.code(), Some(1), "{long:?}");
    let wide = mesh.run(&["edges", "-t", "5m", "-o", "wide"], None);
    for word in ["X25519MLKEM768", "no: PERMISSIVE", &account("ops")] {
        assert!(wide.contains(word), "{wide}");
    }
    let yaml = mesh.run(&["edges", "-t", "5m", "-o", "yaml"], None);
    assert!(yaml.contains("keyExchange: X25519MLKEM768"), "{yaml}");

    // What ends is not open any more; what it was is still told.
    drop(to_db);
    until("the connection to be closed", 20, || {
        let row = edges(&["db"]).first().cloned()?;
        (row["connectionsOpen"] == 0).then_some(())
    })
    .await;
    drop((mesh, of_shop, of_web));
    tasks.end().await;
}
