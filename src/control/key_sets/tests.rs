//! Key sets from a server of the test's own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use super::fetch::{FetchError, fetch};
use super::schedule::{REFRESH, Schedule};
use crate::api::resources::{ApplyRequest, SourceText};
use crate::control::index::Index;
use crate::mesh::World;
use crate::mesh::jwt_authn::{KeySource, NO_KEYS};
use crate::mesh::policy::Says;
use crate::net::{BindOptions, bind};
use crate::rt::{Tasks, Wall};
use crate::source::store::{Options, Store};

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const OTHERS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"FVDNd8PGMmhEcWu3PwrVb4Hcq-0jD9jvQyRGpqgQ1OM","kid":"b","x5t":"AA"},{"kty":"oct","k":"AA"}]}"#;

type Answers = Arc<std::sync::Mutex<Vec<(u16, String)>>>;

/// Answers `/keys` with what `answers` holds first, and keeps the last.
fn server(tasks: &Tasks, answers: &Answers) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, group) = (Arc::clone(answers), tasks.clone());
    tasks.spawn("issuer", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let answers = Arc::clone(&answers);
            group.spawn("issuer connection", async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answers = Arc::clone(&answers);
                    async move {
                        let (status, body) = match request.uri().path() {
                            "/keys" => {
                                let mut all = answers.lock().unwrap();
                                if all.len() > 1 {
                                    all.remove(0)
                                } else {
                                    all[0].clone()
                                }
                            }
                            "/realm/.well-known/openid-configuration" => (
                                200,
                                format!(
                                    "{{\"issuer\": \"x\", \"jwks_uri\": \"http://{address}/keys\"}}"
                                ),
                            ),
                            "/away" => (302, String::new()),
                            _ => (404, String::new()),
                        };
                        let response = Response::builder()
                            .status(status)
                            .header("location", format!("http://{address}/keys"))
                            .body(Full::<Bytes>::new(body.into()));
                        Ok::<_, Infallible>(response.unwrap())
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    address
}

async fn at(source: KeySource) -> Result<String, FetchError> {
    fetch(&source, Path::new("/nonexistent"), Duration::from_secs(5)).await
}

#[tokio::test]
async fn a_set_is_fetched_by_its_address_or_by_its_issuer() {
    let tasks = Tasks::new();
    let address = server(&tasks, &Arc::new(vec![(200, KEYS.to_owned())].into()));
    let url = |path: &str| KeySource::Url(format!("http://{address}{path}"));
    assert_eq!(at(url("/keys")).await.unwrap(), KEYS);
    for base in ["realm", "realm/"] {
        let issuer = KeySource::Discovery(format!("http://{address}/{base}"));
        assert_eq!(at(issuer).await.unwrap(), KEYS);
    }
    // Nobody goes where an answer points to.
    let away = at(url("/away")).await.unwrap_err();
    assert!(
        matches!(away, FetchError::Status { status: 302, .. }),
        "{away}"
    );
    let nothing = at(KeySource::Discovery(format!("http://{address}"))).await;
    assert!(matches!(
        nothing,
        Err(FetchError::Status { status: 404, .. })
    ));
    let nobody = at(KeySource::Url("http://127.0.0.1:1/keys".to_owned())).await;
    assert!(matches!(nobody, Err(FetchError::Connect { .. })));
    let odd = at(KeySource::Url("ftp://127.0.0.1/keys".to_owned())).await;
    assert!(matches!(odd, Err(FetchError::Address(_))));
}

#[tokio::test]
async fn answers_have_a_bound_in_size_and_in_time() {
    let tasks = Tasks::new();
    let long = "x".repeat(crate::jwt::MAX_KEY_SET + 1);
    let address = server(&tasks, &Arc::new(vec![(200, long)].into()));
    let url = KeySource::Url(format!("http://{address}/keys"));
    assert!(matches!(at(url).await, Err(FetchError::Body(_))));
    // One that takes a connection and says nothing.
    let silent = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let url = format!("http://{}/keys", silent.local_addr().unwrap());
    let time = Duration::from_millis(50);
    let late = fetch(&KeySource::Url(url), Path::new("/nonexistent"), time).await;
    assert!(matches!(late, Err(FetchError::Late(_))), "{late:?}");
}

#[tokio::test]
async fn over_tls_a_server_is_believed_by_its_name_and_a_root() {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = rcgen::CertifiedIssuer::self_signed(params, key).unwrap();
    let own = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let leaf = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&own, &root)
        .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            own.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = Tasks::new();
    let group = tasks.clone();
    tasks.spawn("issuer", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            group.spawn("issuer connection", async move {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    return;
                };
                let service = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(KEYS)))
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    let roots = directory.path().join("roots.pem");
    let get = async |host: &str| {
        let source = KeySource::Url(format!("https://{host}:{port}/keys"));
        fetch(&source, &roots, Duration::from_secs(5)).await
    };
    let unknown = get("localhost").await;
    assert!(matches!(unknown, Err(FetchError::Tls(_))), "{unknown:?}");
    std::fs::write(&roots, root.pem()).unwrap();
    assert_eq!(get("localhost").await.unwrap(), KEYS);
    let other = get("127.0.0.1").await;
    assert!(matches!(other, Err(FetchError::Tls(_))), "{other:?}");
}

fn index(directory: &Path) -> Arc<Index> {
    let (store, _) = Store::open(directory, &Options::default()).unwrap();
    Arc::new(Index::open(store, Wall::fixed(1)).unwrap())
}

async fn apply(index: &Index, url: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens}}\nspec: {{jwtRules: [{{issuer: x, jwksUri: '{url}'}}]}}\n"
    );
    let request = ApplyRequest {
        sources: vec![SourceText {
            name: "tokens.yaml".to_owned(),
            text,
        }],
        namespace: "default".to_owned(),
        dry_run: false,
        force: false,
        who: "test".to_owned(),
    };
    index.apply(request).await.unwrap();
}

/// The keys by which tokens of the first rule are judged.
fn keys(world: &World) -> String {
    match &world.config.policies[0].says {
        Says::Tokens(rules) => rules[0].provider.keys.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_reach_the_world_and_outlive_their_server_and_a_restart() {
    let (directory, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let answers: Answers = Arc::new(vec![(500, String::new()), (200, KEYS.to_owned())].into());
    let address = server(&tasks, &answers);
    let url = format!("http://{address}/keys");
    let source = KeySource::Url(url.clone());
    let before = index(directory.path());
    apply(&before, &url).await;
    // Until they are there no token is good.
    assert_eq!(keys(&before.world()), NO_KEYS);
    let watched = Arc::clone(&before);
    let watch = Tasks::new();
    watch.spawn("keys", async move {
        watched
            .watch_keys("/nonexistent".into(), super::GRACE)
            .await;
    });
    let mut reader = before.reader();
    while keys(&reader.load().world) == NO_KEYS {
        reader.changed().await;
    }
    assert_eq!(keys(&before.world()), KEYS);
    watch.end().await;
    before.note_keys(&source, Some("gone".to_owned())).await;
    let missing = before.missing_keys().await;
    assert_eq!(missing, [(source.clone(), "gone".to_owned(), true)]);
    // What is not used is left out, so that it changes nothing.
    let minimal = crate::jwt::minimal(OTHERS).unwrap().unwrap();
    assert!(
        !minimal.contains("x5t") && !minimal.contains("oct"),
        "{minimal}"
    );
    assert!(before.learn_keys(&source, &minimal).await.unwrap());
    assert!(!before.learn_keys(&source, &minimal).await.unwrap());
    assert_eq!(keys(&before.world()), minimal);
    drop((reader, before));
    let after = index(directory.path());
    assert_eq!(keys(&after.world()), minimal);
    // With the last rule that names them they are forgotten.
    apply(&after, "http://127.0.0.1:1/keys").await;
    after.forget_keys().await.unwrap();
    apply(&after, &url).await;
    assert_eq!(keys(&after.world()), NO_KEYS);
}

#[tokio::test(start_paused = true)]
async fn sets_are_fetched_again_in_time_and_sooner_after_a_failure() {
    let source = |name: &str| KeySource::Url(name.to_owned());
    let (a, b) = (source("a"), source("b"));
    let start = Instant::now();
    let mut schedule = Schedule::default();
    schedule.name([&a, &b].into_iter());
    assert_eq!(schedule.due(start), [a.clone(), b.clone()]);
    schedule.tried(&a, true, (start, REFRESH), 0.0);
    schedule.tried(&b, false, (start, REFRESH), 1.0);
    assert!(schedule.due(start).is_empty());
    assert_eq!(
        schedule.due(start + Duration::from_secs(1)),
        std::slice::from_ref(&b)
    );
    assert_eq!(schedule.due(start + REFRESH), [a.clone(), b.clone()]);
    // It gets slower, and never slower than five minutes.
    let mut failing = Schedule::default();
    failing.name([&b].into_iter());
    let mut now = start;
    for _ in 0..20 {
        failing.tried(&b, false, (now, REFRESH), 1.0);
        let next = failing.next().unwrap();
        assert!(next - now <= Duration::from_mins(5), "{:?}", next - now);
        now = next;
    }
    assert!(now - start > Duration::from_mins(20));
    // What is named again goes on, what is not is forgotten.
    schedule.name([&a].into_iter());
    assert_eq!(schedule.next(), Some(start + REFRESH));
    schedule.name(std::iter::empty());
    assert_eq!(schedule.next(), None);
}
