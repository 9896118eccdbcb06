//! Keys of token issuers over a server that is slow, goes away and comes back, and what is counted of tokens.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use meshctl::rt::{Tasks, Wall};
use serde_json::{Value, json};

use crate::backend::backend;
use crate::mesh::{App, Mesh, program, service};
use crate::stand::until;
use crate::tokens::{part, token};

/// A server of one key set, which can be broken.
struct Issuer {
    address: SocketAddr,
    works: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    fn new(keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let issuer = Self {
            address: listener.local_addr().unwrap(),
            works: Arc::new(AtomicBool::new(true)),
            asked: Arc::default(),
        };
        let (works, asked) = (Arc::clone(&issuer.works), Arc::clone(&issuer.asked));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                asked.fetch_add(1, Ordering::SeqCst);
                if !works.load(Ordering::SeqCst) {
                    continue;
                }
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        break;
                    }
                    request.push(byte[0]);
                }
                // Slow enough for requests to come first.
                std::thread::sleep(Duration::from_millis(700));
                let _sent = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}",
                    keys.len()
                );
            }
        });
        issuer
    }
}

fn rule(issuer: &str, keys: SocketAddr) -> String {
    format!(
        r"
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  jwtRules: [{{issuer: {issuer}, jwksUri: 'http://{keys}/keys'}}]
"
    )
}

/// The status of a call with a token, or none.
fn ask(to: SocketAddr, token: &str) -> u16 {
    let mut stream = TcpStream::connect(to).unwrap();
    let credential = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n{credential}\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The value of a metric at `url`, by the beginning of its line.
fn metric(url: &str, name: &str) -> Option<u64> {
    let (good, text) = program("curl", &["-sS", "-m", "10", url]);
    assert!(good, "{text}");
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_waited_for_kept_for_a_grace_and_counted() {
    let tasks = Tasks::new();
    let pair = Ed25519KeyPair::generate().unwrap();
    let key = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "a", "x": part(pair.public_key())});
    let issuer = Issuer::new(json!({"keys": [key]}).to_string());
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    mesh.start_control_plane_with(&["--key-set-grace", "6s"])
        .await;
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let to = web.inbound(9080);
    let now = Wall::System.millis() / 1_000;
    let header = r#"{"alg":"EdDSA","kid":"a"}"#;
    let claims = |issuer: &str, exp: u64| json!({"iss": issuer, "sub": "anna", "exp": exp});
    let signed = |claims: &Value| token(&pair, header, claims);
    let good = signed(&claims("one", now + 600));
    let late = signed(&claims("one", now - 600));
    let foreign = signed(&claims("two", now + 600));

    // Callers with good tokens come all the while; none is refused for keys that are on their way.
    let over = Arc::new(AtomicBool::new(false));
    let (stop, mine) = (Arc::clone(&over), good.clone());
    let calls = std::thread::spawn(move || {
        let mut statuses = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            statuses.push(ask(to, &mine));
        }
        statuses
    });
    mesh.apply(&rule("one", issuer.address));
    mesh.settled().await;
    assert!(issuer.asked.load(Ordering::SeqCst) >= 1);
    assert_eq!(ask(to, &late), 401, "the rule is in force");
    over.store(true, Ordering::SeqCst);
    let statuses = calls.join().unwrap();
    let refused = statuses.iter().filter(|status| **status != 200).count();
    assert_eq!(refused, 0, "of {}", statuses.len());
    assert!(statuses.len() > 10, "{}", statuses.len());

    // What is counted, by Envoy's names; and why calls were refused.
    assert_eq!(ask(to, &foreign), 401);
    assert_eq!(ask(to, "rubbish"), 401);
    assert_eq!(ask(to, &good), 200);
    assert_eq!(ask(to, &good), 200);
    let proxy = format!("http://{}:15090/stats/prometheus", web.address);
    let read = |name: &str| metric(&proxy, name).unwrap_or_else(|| panic!("{name}"));
    assert!(read("envoy_http_jwt_authn_allowed") >= 2);
    assert_eq!(read("envoy_http_jwt_authn_denied"), 3);
    assert!(read("envoy_http_jwt_authn_jwt_cache_hit") >= 1);
    assert!(read("envoy_http_jwt_authn_jwt_cache_miss") >= 3);
    for reason in [
        "Jwt is expired",
        "Jwt issuer is not configured",
        "Jwt is not in the form",
    ] {
        assert_eq!(
            read(&format!("meshctl_jwt_denied_total{{reason=\"{reason}")),
            1,
            "{reason}"
        );
    }
    let plane = format!("http://{}:15014/metrics", Mesh::xds().ip());
    let fetched = || metric(&plane, "pilot_jwks_resolver_network_fetch_success_total");
    let failed = || metric(&plane, "pilot_jwks_resolver_network_fetch_fail_total");
    assert!(fetched() >= Some(1));
    assert_eq!(failed(), Some(0));

    // It is asked again in time; without it the keys stay for their grace, and are then no good any more.
    until("another fetch", 10, || {
        (issuer.asked.load(Ordering::SeqCst) >= 3).then_some(())
    })
    .await;
    issuer.works.store(false, Ordering::SeqCst);
    until("a fetch that fails", 10, || {
        (failed() >= Some(1)).then_some(())
    })
    .await;
    assert_eq!(ask(to, &good), 200, "within the grace");
    until("the grace to be over", 20, || {
        (ask(to, &good) == 401).then_some(())
    })
    .await;
    assert_eq!(ask(to, ""), 200, "who shows none is nobody, as ever");
    let check = mesh.try_run(&["check"], None);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("none of its tokens is good"), "{said}");
    // A restart does not bring them back.
    mesh.kill_control_plane();
    mesh.start_control_plane_with(&["--key-set-grace", "6s"])
        .await;
    mesh.settled().await;
    assert_eq!(ask(to, &good), 401);
    issuer.works.store(true, Ordering::SeqCst);
    until("the keys again", 20, || {
        (ask(to, &good) == 200).then_some(())
    })
    .await;

    // An issuer that was never there: its rule does not wait for ever, and lets no token of it in.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = dead.local_addr().unwrap();
    let begun = meshctl::rt::now();
    mesh.apply(&rule("two", silent));
    assert!(begun.elapsed() < Duration::from_secs(20));
    mesh.settled().await;
    until("the other rule", 10, || {
        (ask(to, &foreign) == 401 && ask(to, &good) == 401).then_some(())
    })
    .await;
    drop((mesh, dead));
    tasks.end().await;
}
