//! What VirtualServices do to requests besides sending them on, through a sidecar.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, Sidecar, service};
use crate::stand::until;

/// A server that answers with its name, and keeps the heads that it was sent.
struct Heard {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Heard {
    fn start(name: &'static str, tasks: &Tasks) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (kept, connections) = (Arc::clone(&heads), tasks.clone());
        tasks.spawn("heard", async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                connections.spawn("connection", async move {
                    let mut text = String::new();
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = io.read(&mut buffer).await {
                        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                        if !text.ends_with("\r\n\r\n") {
                            continue;
                        }
                        kept.lock().unwrap().push(std::mem::take(&mut text));
                        let length = name.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
                        if io.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Hosts outside of the mesh, by name and address of what listens there, all at one port.
fn hosts(of: &[(&str, SocketAddr)], (port, protocol): (u16, &str)) -> String {
    let entry = |(name, at): &(&str, SocketAddr)| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
             spec:\n  hosts: [{name}.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: {port}, name: own, protocol: {protocol}}}]\n  \
             endpoints: [{{address: 127.0.0.1, ports: {{own: {}}}}}]\n",
            at.port()
        )
    };
    let entries: Vec<String> = of.iter().map(entry).collect();
    entries.join("---\n")
}

/// A VirtualService for `a.example.com` with these routes.
fn rules(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\n\
         spec:\n  hosts: [a.example.com]\n  http:\n{http}"
    )
}

/// A sidecar whose application may call `a` and `b`.
async fn stage(mesh: &Mesh, tasks: &Tasks, of: &[(&str, SocketAddr)]) -> Sidecar {
    mesh.apply(&service("shop", &[("http", 9080)]));
    let sidecar = mesh
        .sidecar(&App {
            service: "shop",
            version: "v1",
            port: 9080,
            at: backend("shop", tasks),
            flags: &[],
        })
        .await;
    mesh.apply(&hosts(of, (80, "HTTP")));
    sidecar
}

/// Sends one request for `a.example.com` and gives the whole answer.
async fn ask(sidecar: &Sidecar, line: &str, fields: &str) -> String {
    let to = sidecar.outbound();
    let mut io = connect(to, ConnectOptions::default()).await.unwrap();
    let request =
        format!("{line} HTTP/1.1\r\nhost: a.example.com\r\nconnection: close\r\n{fields}\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_go_where_mirrors_say() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let (a, b) = (Heard::start("a", &tasks), Heard::start("b", &tasks));
    let sidecar = stage(&mesh, &tasks, &[("a", a.address), ("b", b.address)]).await;
    mesh.apply(&rules(
        "
  - match: [{uri: {prefix: /copied}}]
    route: [{destination: {host: a.example.com}}]
    mirror: {host: b.example.com}
  - route: [{destination: {host: a.example.com}}]
    mirrors: [{destination: {host: b.example.com}, percentage: {}}]
",
    ));
    mesh.settled().await;
    for path in ["/copied/1", "/alone", "/copied/2"] {
        let answer = ask(&sidecar, &format!("GET {path}"), "x-own: 1\r\n").await;
        assert!(answer.ends_with("\r\n\r\na"), "{answer}");
    }
    until("two copies", 20, || (b.heads().len() == 2).then_some(())).await;
    let copies = b.heads();
    assert!(copies.iter().all(|head| head.starts_with("GET /copied/")));
    for line in ["host: a.example.com\r\n", "x-own: 1\r\n"] {
        assert!(copies.iter().all(|head| head.contains(line)), "{copies:?}");
    }
    assert_eq!(a.heads().len(), 3);
    let routes = mesh.run(&["routes", "a.example.com"], None);
    assert!(routes.contains("mirror b.example.com"), "{routes}");
    let why = mesh.run(
        &["routes", "--explain", "GET", "http://a.example.com/copied"],
        None,
    );
    assert!(
        why.contains("copied  100 of 100 requests to outbound|80||b.example.com"),
        "{why}"
    );
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_injected_on_connections_that_were_there() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let a = Heard::start("a", &tasks);
    let sidecar = stage(&mesh, &tasks, &[("a", a.address)]).await;
    mesh.settled().await;
    let caller = Caller::new(sidecar.outbound());
    assert_eq!(caller.get("a.example.com", "/x").await.unwrap().0, 200);
    mesh.apply(&rules(
        "
  - match: [{uri: {prefix: /slow}}]
    fault: {delay: {fixedDelay: 200ms, percentage: {value: 100}}}
    route: [{destination: {host: a.example.com}}]
  - fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: a.example.com}}]
",
    ));
    mesh.settled().await;
    let refused = caller.get("a.example.com", "/x").await.unwrap();
    assert_eq!(refused, (418, "fault filter abort".to_owned()));
    let begun = meshctl::rt::now();
    assert_eq!(caller.get("a.example.com", "/slow").await.unwrap().0, 200);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(200));
    assert_eq!(a.heads().len(), 2);
    let routes = mesh.run(&["routes", "a.example.com"], None);
    assert!(
        routes.contains("delay 200ms") && routes.contains("abort 418"),
        "{routes}"
    );
    mesh.apply(&rules(
        "  - route: [{destination: {host: a.example.com}}]\n",
    ));
    mesh.settled().await;
    assert_eq!(caller.get("a.example.com", "/x").await.unwrap().0, 200);
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_told_what_they_may() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let a = Heard::start("a", &tasks);
    let sidecar = stage(&mesh, &tasks, &[("a", a.address)]).await;
    mesh.apply(&rules(
        "
  - corsPolicy:
      allowOrigins: [{exact: \"https://shop.example.com\"}]
      allowMethods: [GET]
      maxAge: 1m
    route: [{destination: {host: a.example.com}}]
",
    ));
    mesh.settled().await;
    let origin = "origin: https://shop.example.com\r\n";
    let asked = format!("{origin}access-control-request-method: GET\r\n");
    let answer = ask(&sidecar, "OPTIONS /", &asked).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    for line in [
        "access-control-allow-origin: https://shop.example.com\r\n",
        "access-control-allow-methods: GET\r\n",
        "access-control-max-age: 60\r\n",
    ] {
        assert!(answer.contains(line), "{answer}");
    }
    assert!(a.heads().is_empty());
    let answer = ask(&sidecar, "GET /", origin).await;
    let told = "access-control-allow-origin: https://shop.example.com\r\n";
    assert!(answer.contains(told), "{answer}");
    let answer = ask(&sidecar, "GET /", "origin: https://evil.example.com\r\n").await;
    assert!(!answer.contains("access-control"), "{answer}");
    let why = mesh.run(
        &["routes", "--explain", "GET", "http://a.example.com/"],
        None,
    );
    assert!(
        why.contains(r#"cors    {"origins":[{"exact":"https://shop.example.com"}]"#),
        "{why}"
    );
    drop(mesh);
    tasks.end().await;
}

/// One byte stream through a tunnel of the sidecar: what the other end says first.
async fn tunnelled(sidecar: &Sidecar, to: &str) -> String {
    let mut io = connect(sidecar.outbound(), ConnectOptions::default())
        .await
        .unwrap();
    let request = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n");
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, said) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    said.to_owned()
}

/// A server that says its name and ends.
fn speaking(name: &'static str, tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("speaking", async move {
        while let Ok((mut io, _)) = listener.accept().await {
            // Callers go as they please.
            let _said = io.write_all(name.as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_split_by_weight() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let (a, b) = (speaking("a", &tasks), speaking("b", &tasks));
    let sidecar = stage(&mesh, &tasks, &[("web", a)]).await;
    mesh.apply(&hosts(&[("a", a), ("b", b)], (7000, "TCP")));
    mesh.settled().await;
    assert_eq!(tunnelled(&sidecar, "a.example.com:7000").await, "a");
    mesh.apply(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example.com]
  tcp:
  - match: [{port: 7000, sourceLabels: {app: nobody}}]
    route: [{destination: {host: b.example.com}}]
  - match: [{port: 7000}]
    route:
    - {destination: {host: a.example.com}, weight: 25}
    - {destination: {host: b.example.com}, weight: 75}
",
    );
    mesh.settled().await;
    let mut said = String::new();
    for _ in 0..40 {
        said += &tunnelled(&sidecar, "a.example.com:7000").await;
    }
    // Each worker has a round of its own, exact every four connections.
    assert!((5..=15).contains(&said.matches('a').count()), "{said}");
    let routes = mesh.run(&["routes", "a.example.com"], None);
    assert!(
        routes.contains("25.0%") && routes.contains("75.0%"),
        "{routes}"
    );
    assert_eq!(tunnelled(&sidecar, "b.example.com:7000").await, "b");
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_share_a_host_and_delegate() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let (a, b) = (Heard::start("a", &tasks), Heard::start("b", &tasks));
    let sidecar = stage(&mesh, &tasks, &[("a", a.address), ("b", b.address)]).await;
    // The delegate is there before anybody leads to it.
    let delegate = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team}
spec:
  http:
  - match: [{uri: {prefix: /team/b}}]
    route: [{destination: {host: b.example.com}}]
  - directResponse: {status: 404, body: {string: nothing here}}
";
    mesh.apply(delegate);
    mesh.apply(&rules(
        "  - route: [{destination: {host: a.example.com}}]\n",
    ));
    let second = rules(
        "
  - match: [{uri: {prefix: /team}}]
    delegate: {name: team}
",
    )
    .replace("{name: a}", "{name: second}");
    let output = mesh.try_run(&["apply", "-f", "-"], Some(&second));
    let told = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("IST0109"),
        "{told}"
    );
    mesh.settled().await;
    for (path, expected) in [
        ("/", "a"),
        ("/team/b/1", "b"),
        ("/team/c", "nothing here"),
        ("/tea", "a"),
    ] {
        let answer = ask(&sidecar, &format!("GET {path}"), "").await;
        assert!(
            answer.ends_with(&format!("\r\n\r\n{expected}")),
            "{path}: {answer}"
        );
    }
    drop(mesh);
    tasks.end().await;
}
