//! Bytes through forward proxies, which may consent or not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshctl::mesh::listener::{ChainAction, Direction, TcpOptions};
use meshctl::mesh::origination::{Asks, Origination};
use meshctl::mesh::outlier::OutlierDetection;
use meshctl::mesh::{Cluster, View};
use meshctl::proxy::{AccessLog, Options};
use meshctl::rt::Tasks;
use meshctl::telemetry::LogFormat;
use meshctl::tls::provider;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::support::*;

const TARGET: &str = "www.example.com:443";
const ASKED: &str = "CONNECT www.example.com:443 HTTP/1.1\r\nHost: www.example.com:443\r\n\r\n";

/// What a forward proxy does when it is asked.
#[derive(Clone, Copy)]
enum Does {
    /// Says this, and is a tunnel to an echo.
    Say(&'static str),
    /// Says this, and ends the connection.
    End(&'static str),
    /// Nothing at all.
    Wait,
}

/// A forward proxy, and the heads of what it was asked.
struct Forward {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: Tasks,
}

impl Forward {
    fn start(does: Does, tls: Option<TlsAcceptor>) -> Self {
        let (socket, address) = listen();
        let (heads, tasks) = (Arc::<Mutex<Vec<String>>>::default(), Tasks::new());
        let (told, group) = (Arc::clone(&heads), tasks.clone());
        tasks.spawn("forward proxy", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                let (told, tls) = (Arc::clone(&told), tls.clone());
                group.spawn("asked", async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve(stream, does, &told).await;
                            }
                        }
                        None => serve(tcp, does, &told).await,
                    }
                });
            }
        });
        Self {
            address,
            heads,
            _tasks: tasks,
        }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: Does,
    told: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(1..) => head.extend(byte),
            // A look whether somebody listens.
            _ => return,
        }
    }
    told.lock().unwrap().push(String::from_utf8(head).unwrap());
    match does {
        Does::Wait => std::future::pending().await,
        Does::End(words) => {
            // Who asked may have gone.
            let _told = stream.write_all(words.as_bytes()).await;
            let _ended = stream.shutdown().await;
        }
        Does::Say(words) => {
            stream.write_all(words.as_bytes()).await.unwrap();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..count]).await.unwrap();
            }
            // Each direction ends on its own.
            let _told = stream.write_all(b"bye").await;
            let _ended = stream.shutdown().await;
        }
    }
}

fn through(attempts: u32) -> TcpOptions {
    TcpOptions {
        tunnel: Some(TARGET.into()),
        max_connect_attempts: attempts,
        ..TcpOptions::default()
    }
}

fn view(bind: SocketAddr, options: TcpOptions, config: Cluster, to: &[SocketAddr]) -> View {
    let action = ChainAction::Tcp {
        clusters: vec![("app".to_owned(), 1)],
        options,
    };
    let endpoints = to.iter().map(|address| endpoint(*address)).collect();
    Views::default()
        .listener("l", bind, Direction::Outbound, action)
        .cluster(config, endpoints)
        .0
}

/// Everything that comes back for `ping`.
async fn said(bind: SocketAddr) -> String {
    let to = meshctl::net::connect(bind, meshctl::net::ConnectOptions::default());
    // A connection that has nowhere to go may be reset as soon as it is there.
    let Ok(mut stream) = to.await else {
        return String::new();
    };
    let mut answer = Vec::new();
    let sent = async {
        stream.write_all(b"ping").await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut answer).await
    };
    let _ended = sent.await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn bytes_go_through_a_forward_proxy_that_consents() {
    for consent in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n",
        // No consent to CONNECT has a body, whatever it says.
        "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\n\r\n",
        // What follows the head is of the tunnel.
        "HTTP/1.1 200 OK\r\n\r\n220 ready\r\n",
    ] {
        let forward = Forward::start(Does::Say(consent), None);
        let bind = free();
        let _proxy = Proxy::start(view(bind, through(1), cluster("app"), &[forward.address])).await;
        let behind = consent.rsplit("\r\n\r\n").next().unwrap();
        assert_eq!(said(bind).await, format!("{behind}pingbye"), "{consent:?}");
        let heads = forward.heads();
        assert!(
            !heads.is_empty() && heads.iter().all(|head| head == ASKED),
            "{heads:?}"
        );
    }
}

#[tokio::test]
async fn a_forward_proxy_that_does_not_consent_is_one_that_cannot_be_connected_to() {
    let good = Forward::start(Does::Say("HTTP/1.1 200 OK\r\n\r\n"), None);
    for (does, why) in [
        (
            Does::End("HTTP/1.1 403 Filtered\r\nContent-Length: 0\r\n\r\n"),
            "the proxy answered 403 Filtered to CONNECT www.example.com:443",
        ),
        (
            Does::Say("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
            "the proxy answered 407 Proxy Authentication Required to CONNECT",
        ),
        (
            Does::Say("HTTP/1.1 101 Switching\r\n\r\n"),
            "the proxy answered 101 Switching",
        ),
        (
            Does::Say("SSH-2.0-OpenSSH_9.2\r\n"),
            "the answer to CONNECT www.example.com:443 is not HTTP",
        ),
        (
            Does::End("HTTP/1.1 200 OK\r\n"),
            "the proxy closed the connection upon CONNECT",
        ),
        (
            Does::End(""),
            "the proxy closed the connection upon CONNECT",
        ),
        (
            Does::Wait,
            "no answer to CONNECT www.example.com:443 in time",
        ),
    ] {
        let bad = Forward::start(does, None);
        let (once, twice) = (free(), free());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let options = |path: Option<&std::path::Path>| Options {
            workers: 1,
            access_log: path.map(|path| AccessLog {
                path: Some(path.to_owned()),
                format: LogFormat::Json,
            }),
            ..Options::default()
        };
        let config = Cluster {
            connect_timeout: Duration::from_millis(300),
            ..cluster("app")
        };
        let one = view(once, through(1), config.clone(), &[bad.address]);
        let both = view(twice, through(2), config, &[bad.address, good.address]);
        let first = Proxy::with(options(Some(&path)), one, None).await;
        let _second = Proxy::with(options(None), both, None).await;
        assert_eq!(said(once).await, "");
        // Another endpoint is tried, whoever has the first turn.
        assert_eq!(said(twice).await, "pingbye", "{why}");
        assert_eq!(said(twice).await, "pingbye", "{why}");
        first.stop().await.unwrap();
        let log = std::fs::read_to_string(&path).unwrap();
        let line = log.lines().find(|line| line.contains(why));
        let line = line.unwrap_or_else(|| panic!("{why:?} is not in {log}"));
        assert!(line.contains("\"UF\""), "{line}");
    }
}

#[tokio::test]
async fn refusals_eject_an_endpoint() {
    let bad = Forward::start(Does::End("HTTP/1.1 503 Busy\r\n\r\n"), None);
    let good = Forward::start(Does::Say("HTTP/1.1 200 OK\r\n\r\n"), None);
    let bind = free();
    let config = Cluster {
        outlier: Some(OutlierDetection {
            consecutive_5xx: 2,
            ..OutlierDetection::default()
        }),
        ..cluster("app")
    };
    let _proxy = Proxy::start(view(bind, through(1), config, &[bad.address, good.address])).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(said(bind).await.is_empty());
    }
    assert!((1..=2).contains(&failed), "{failed}");
    assert_eq!(bad.heads().len(), 2);
}

#[tokio::test]
async fn a_forward_proxy_is_asked_within_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["forward.example.com".to_owned()];
    let own = rcgen::CertificateParams::new(names).unwrap();
    let own = own.self_signed(&key).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![own.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let consent = "HTTP/1.1 200 OK\r\n\r\nhello ";
    let forward = Forward::start(Does::Say(consent), Some(acceptor));
    let bind = free();
    let config = Cluster {
        origination: Some(Box::new(Origination {
            asks: Asks::Name("forward.example.com".to_owned()),
            verify: None,
            certificate: None,
        })),
        ..cluster("app")
    };
    let _proxy = Proxy::start(view(bind, through(1), config, &[forward.address])).await;
    assert_eq!(said(bind).await, "hello pingbye");
    assert!(forward.heads().iter().all(|head| head == ASKED));
}

/// Where nobody has said what is spoken, bytes are those that are no HTTP.
#[tokio::test]
async fn what_turns_out_to_be_no_http_goes_through_and_requests_do_not() {
    let forward = Forward::start(Does::Say("HTTP/1.1 200 OK\r\n\r\n220 ready\r\n"), None);
    let app = App::start("app");
    let bind = free();
    let action = ChainAction::Detect {
        routes: "t".to_owned(),
        cluster: "bytes".to_owned(),
        tunnel: Some(TARGET.into()),
        options: Arc::default(),
    };
    let to_app = meshctl::mesh::route::Action::Forward(super::support::forward(&[("app", 1)]));
    let view = Views::default()
        .listener("l", bind, Direction::Outbound, action)
        .routes("t", vec![route(to_app)])
        .cluster(cluster("app"), vec![endpoint(app.address)])
        .cluster(cluster("bytes"), vec![endpoint(forward.address)])
        .0;
    let _proxy = Proxy::start(view).await;
    assert!(get(bind, "/x").await.contains("app GET /x\n"));
    assert_eq!(said(bind).await, "220 ready\r\npingbye");
    // The server behind the tunnel has the first word.
    let mut silent: TcpStream = connect(bind).await;
    read_until(&mut silent, "220 ready\r\n").await;
    assert_eq!(forward.heads().last().unwrap(), ASKED);
}
