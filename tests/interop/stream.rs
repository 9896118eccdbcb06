//! TLS by server name and PROXY headers, with openssl, curl and HAProxy at the other end.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::cluster::Cluster;
use meshctl::mesh::listener::{
    Chain, ChainAction, ChainLimits, ChainMatch, Direction, Listener, ListenerOptions,
    ProxyProtocol, ProxyVersion, TcpOptions,
};
use meshctl::net::{BindOptions, bind};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mesh::program;
use crate::processes::{Process, free};
use crate::stand::{cluster, endpoints, until};

/// Runs a proxy by `view` until the tasks end.
async fn run(tasks: &Tasks, view: View) {
    let addresses: Vec<SocketAddr> = view.listeners.values().map(|l| l.bind).collect();
    let (views, identities) = (Published::new(view), Published::new(None));
    let readers = (views.reader(), identities.reader());
    tasks.spawn("proxy", async move {
        let (_drain, signal) = Drain::new();
        let options = Options {
            workers: 1,
            ..Options::default()
        };
        proxy::run(options, readers.0, readers.1, signal)
            .await
            .unwrap();
        drop((views, identities));
    });
    for address in addresses {
        until("the proxy", 20, || {
            std::net::TcpStream::connect(address).is_ok().then_some(())
        })
        .await;
    }
}

fn chain(name: &str, server_names: &[&str]) -> Chain {
    Chain {
        name: name.to_owned(),
        matches: ChainMatch {
            server_names: server_names.iter().map(|name| (*name).to_owned()).collect(),
            ..ChainMatch::default()
        },
        tls: None,
        action: ChainAction::Tcp {
            clusters: vec![(name.to_owned(), 1)],
            options: TcpOptions::default(),
        },
        guards: Vec::new(),
        limits: ChainLimits::default(),
        filters: Vec::new(),
    }
}

fn listener(bind: SocketAddr, chains: Vec<Chain>, header: Option<ProxyProtocol>) -> Arc<Listener> {
    Arc::new(Listener {
        name: "l".to_owned(),
        bind,
        direction: Direction::Outbound,
        transparent: false,
        chains,
        default_chain: None,
        detect_timeout: Duration::from_secs(5),
        options: ListenerOptions {
            proxy_protocol: header,
            ..ListenerOptions::default()
        },
    })
}

/// A TLS server that shows a certificate for `name` and answers every request with a page.
fn tls_server(dir: &Path, name: &str) -> (Process, SocketAddr) {
    let at = |what: &str| {
        dir.join(format!("{name}.{what}"))
            .to_str()
            .unwrap()
            .to_owned()
    };
    let subject = format!("/CN={name}");
    let names = format!("subjectAltName=DNS:{name}");
    let words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        &subject,
        "-addext",
        &names,
        "-keyout",
        &at("key"),
        "-out",
        &at("crt"),
    ];
    let (good, said) = program("openssl", &words);
    assert!(good, "{said}");
    let address = free();
    let port = address.port().to_string();
    let child = Command::new("openssl")
        .args(["s_server", "-quiet", "-www", "-accept", &port])
        .args(["-cert", &at("crt"), "-key", &at("key")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Process(child), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_curl_reach_the_server_that_their_name_asks_for() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let (_one, first) = tls_server(dir.path(), "one.example.com");
    let (_two, second) = tls_server(dir.path(), "two.example.com");
    let at = free();
    let mut view = View::default();
    let chains = vec![
        chain("wild", &["*.example.com"]),
        chain("one", &["one.example.com"]),
    ];
    view.listeners
        .insert("l".to_owned(), listener(at, chains, None));
    for (name, to) in [("one", first), ("wild", second)] {
        view.clusters.insert(name.to_owned(), cluster(name));
        view.endpoints.insert(name.to_owned(), endpoints(&[to]));
    }
    run(&tasks, view).await;
    for address in [first, second] {
        until("the server", 20, || {
            std::net::TcpStream::connect(address).is_ok().then_some(())
        })
        .await;
    }
    let to = at.to_string();
    let shown = |name: &str| {
        program(
            "openssl",
            &["s_client", "-connect", &to, "-servername", name],
        )
        .1
    };
    assert!(shown("one.example.com").contains("subject=CN = one.example.com"));
    assert!(shown("any.example.com").contains("subject=CN = two.example.com"));
    let nobody = shown("one.example.org");
    assert!(nobody.contains("no peer certificate available"), "{nobody}");
    let (_, nobody) = program("openssl", &["s_client", "-connect", &to, "-noservername"]);
    assert!(nobody.contains("no peer certificate available"), "{nobody}");
    // curl verifies, so what it gets comes from the very server.
    for (name, file) in [("one.example.com", "one"), ("two.example.com", "two")] {
        let roots = dir.path().join(format!("{file}.example.com.crt"));
        let resolve = format!("{name}:{}:127.0.0.1", at.port());
        let url = format!("https://{name}:{}/", at.port());
        let roots = roots.to_str().unwrap();
        let args = [
            "-sS",
            "-m",
            "10",
            "--cacert",
            roots,
            "--resolve",
            &resolve,
            &url,
        ];
        let (good, said) = program("curl", &args);
        assert!(good && said.contains("Ciphers supported"), "{name}: {said}");
    }
    tasks.end().await;
}

/// An application that answers with the PROXY header that it got, as HTTP.
fn teller(tasks: &Tasks) -> SocketAddr {
    let socket = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = socket.local_addr().unwrap();
    let group = tasks.clone();
    tasks.spawn("teller", async move {
        while let Ok((mut tcp, _)) = socket.accept().await {
            group.spawn("connection", async move {
                let mut text = Vec::new();
                let mut buffer = [0; 1024];
                while !String::from_utf8_lossy(&text).contains("\r\n\r\n") {
                    match tcp.read(&mut buffer).await {
                        Ok(count @ 1..) => text.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                }
                let text = String::from_utf8_lossy(&text);
                let body = text.lines().next().unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let _sent = tcp.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_haproxy_agree_on_headers() {
    let (tasks, dir) = (Tasks::new(), tempfile::tempdir().unwrap());
    let app = teller(&tasks);
    // curl → ours; ours → app, in version 1.
    let (plain, strict) = (free(), Some(ProxyProtocol::default()));
    let carry = |bind: SocketAddr, to: SocketAddr, form: ProxyVersion, header| {
        let mut view = View::default();
        let any = chain("app", &[]);
        view.listeners
            .insert("l".to_owned(), listener(bind, vec![any], header));
        let told = Cluster {
            proxy_protocol: Some(form),
            ..Cluster::clone(&cluster("app"))
        };
        view.clusters.insert("app".to_owned(), Arc::new(told));
        view.endpoints.insert("app".to_owned(), endpoints(&[to]));
        view
    };
    run(&tasks, carry(plain, app, ProxyVersion::V1, strict)).await;
    let url = format!("http://{plain}/");
    let (good, said) = program("curl", &["-sS", "-m", "10", "--haproxy-protocol", &url]);
    assert!(
        good && said.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
        "{said}"
    );
    assert!(
        said.trim().ends_with(&format!(" {}", plain.port())),
        "{said}"
    );
    let (good, said) = program("curl", &["-sS", "-m", "10", &url]);
    assert!(!good, "without a header: {said}");

    // curl → HAProxy → ours → HAProxy → app. Between them version 2 (with values), then both.
    if program("haproxy", &["-v"]).1.is_empty() {
        eprintln!("SKIPPED: haproxy is not installed");
        return;
    }
    for (name, send, form) in [
        (
            "v2",
            "send-proxy-v2 proxy-v2-options crc32c,unique-id",
            ProxyVersion::V2,
        ),
        ("v1", "send-proxy", ProxyVersion::V1),
    ] {
        let (front, ours, back) = (free(), free(), free());
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             frontend front\n bind {front}\n unique-id-format %pid\n default_backend ours\n\
             backend ours\n server s {ours} {send}\n\
             frontend back\n bind {back} accept-proxy\n default_backend app\n\
             backend app\n server s {app} send-proxy\n"
        );
        let path = dir.path().join(format!("{name}.cfg"));
        std::fs::write(&path, config).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let _haproxy = Process(child);
        run(&tasks, carry(ours, back, form, strict)).await;
        until("HAProxy", 20, || {
            std::net::TcpStream::connect(back).is_ok().then_some(())
        })
        .await;
        let local = free().port().to_string();
        let url = format!("http://{front}/");
        let args = ["-sS", "-m", "10", "--local-port", &local, &url];
        let (good, said) = program("curl", &args);
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {local} {}", front.port());
        assert!(good && said.trim() == expected, "{name}: {said}");
    }
    tasks.end().await;
}
