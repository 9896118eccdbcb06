//! What the API server asks before it takes an object: whether configuration is right, and what a pod needs.
//!
//! Answers depend on nothing but the object, so asking costs nobody else anything. The port is open to whoever
//! reaches it in the cluster, as webhooks' are: connections, bytes and time are bounded, and what is answered
//! is what `meshctl analyze` and `meshctl inject` say to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{self, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;

use super::Membership;
use crate::control::signer::SignError;
use crate::control::{Control, serve_tls};
use crate::inject::{InjectConfig, Namespace, Operation, Outcome, Pod, json_patch, mesh_pod};
use crate::mesh::{Finding, Origin, Severity};
use crate::resource;
use crate::resource::json::set;
use crate::rt::Tasks;
use crate::tls;

/// Longer questions are not read: an object has at most 1.5 MiB in etcd, and an update has two.
const MOST_BYTES: usize = 4 << 20;
/// A connection is ended after this time, when nothing is being answered on it.
const LIFE: Duration = Duration::from_mins(10);
/// And then cut after this one.
const LINGER: Duration = Duration::from_secs(30);

/// Serves `/inject` and `/validate` until `tasks` end; fails only when the first certificate cannot be made.
pub(super) async fn serve(
    control: &Arc<Control>,
    membership: &Membership,
    listener: TcpListener,
    tasks: &Tasks,
) -> Result<(), SignError> {
    let trust = &control.trust;
    let mut incoming = serve_tls::incoming(
        listener,
        serve_tls::TlsOptions {
            issuer: trust.issuer(),
            keep: trust.kept_in("webhook"),
            changed: trust.current().versions(),
            revoked: trust.revoked_fn(),
            lifetime: tls::issuer::DEFAULT_LIFETIME,
            names: serve_tls::ServerNames {
                dns: membership.names(),
                ips: Vec::new(),
            },
            alpn: &["h2", "http/1.1"],
            // The API server shows no certificate; ours ends connections in good order before that.
            strangers: LIFE + 2 * LINGER,
            wall: control.wall.clone(),
        },
        tasks,
    )
    .await?;
    let injector = Arc::new(Injector {
        control: Arc::clone(control),
        config: membership.injection.clone(),
    });
    let routes = Router::new()
        .route("/inject", post(inject))
        .route("/inject/{tag}", post(inject_by_tag))
        .with_state(injector)
        .route("/validate", post(validate))
        .layer(DefaultBodyLimit::max(MOST_BYTES));
    let connections = tasks.clone();
    tasks.spawn("webhook", async move {
        while let Some(connection) = incoming.next().await {
            let Ok(connection) = connection else { continue };
            let service = TowerToHyperService::new(routes.clone());
            connections.spawn("webhook-connection", async move {
                let builder = Builder::new(TokioExecutor::new());
                let serving = builder.serve_connection(TokioIo::new(connection), service);
                tokio::pin!(serving);
                let ended = tokio::select! {
                    ended = &mut serving => Some(ended),
                    () = tokio::time::sleep(LIFE) => None,
                };
                let ended = if ended.is_some() {
                    ended
                } else {
                    serving.as_mut().graceful_shutdown();
                    tokio::time::timeout(LINGER, serving).await.ok()
                };
                if let Some(Err(error)) = ended {
                    tracing::debug!(%error, "a connection of a webhook's caller ended");
                }
            });
        }
    });
    Ok(())
}

/// A question of the API server.
struct Review {
    uid: String,
    request: Value,
}

impl Review {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let review: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let version = review.get("apiVersion").and_then(Value::as_str);
        if version != Some("admission.k8s.io/v1") {
            return Err("it is no AdmissionReview of admission.k8s.io/v1".to_owned());
        }
        let request = review.get("request").cloned().unwrap_or(Value::Null);
        match request.get("uid").and_then(Value::as_str) {
            Some(uid) if !uid.is_empty() => Ok(Self {
                uid: uid.to_owned(),
                request,
            }),
            _ => Err("its request has no uid".to_owned()),
        }
    }

    /// The answer, with warnings that the client of the API server shows.
    fn answer(&self, refused: Option<String>, warnings: Vec<String>) -> Response {
        let mut response = json!({"uid": self.uid, "allowed": refused.is_none()});
        if let Some(message) = refused {
            let status = json!({"code": 422, "reason": "Invalid", "message": message});
            set(&mut response, "status", status);
        }
        Self::respond(response, warnings)
    }

    /// The answer that the object is to be changed so.
    fn patched(&self, steps: &[Operation], warnings: Vec<String>) -> Response {
        let mut response = json!({"uid": self.uid, "allowed": true});
        if !steps.is_empty() {
            set(&mut response, "patchType", "JSONPatch");
            let patch = STANDARD.encode(json!(steps).to_string());
            set(&mut response, "patch", patch);
        }
        Self::respond(response, warnings)
    }

    fn respond(mut response: Value, warnings: Vec<String>) -> Response {
        if !warnings.is_empty() {
            set(&mut response, "warnings", warnings);
        }
        let review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "response": response,
        });
        axum::Json(review).into_response()
    }
}

/// What answers for pods.
struct Injector {
    control: Arc<Control>,
    config: InjectConfig,
}

async fn inject(State(injector): State<Arc<Injector>>, body: Bytes) -> Response {
    answer_for_pod(&injector, &injector.config, &body).await
}

/// The same for pods that choose us by another name, which the installation put into the path.
async fn inject_by_tag(
    State(injector): State<Arc<Injector>>,
    extract::Path(tag): extract::Path<String>,
    body: Bytes,
) -> Response {
    let config = InjectConfig {
        tags: vec![tag],
        ..injector.config.clone()
    };
    answer_for_pod(&injector, &config, &body).await
}

async fn answer_for_pod(injector: &Injector, config: &InjectConfig, body: &Bytes) -> Response {
    let review = match Review::read(body) {
        Ok(review) => review,
        Err(why) => return misunderstood(&why),
    };
    let pod = review.request.get("object").cloned().unwrap_or(Value::Null);
    if !pod.is_object() {
        return review.answer(None, Vec::new());
    }
    let text = |value: &Value, pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    // A pod that is being made need not say its namespace; the question does.
    let namespace = injector
        .namespace(&text(&review.request, "/namespace"))
        .await;
    let origin = Origin {
        kind: "Pod".to_owned(),
        namespace: namespace.name.clone(),
        name: text(&pod, "/metadata/name"),
        ..Origin::default()
    };
    let asked = Pod {
        template: &pod,
        workload: "",
        namespace: &namespace,
    };
    let config = InjectConfig {
        proxies: injector.control.index.proxy_configs().await,
        ..config.clone()
    };
    let (outcome, findings) = mesh_pod(asked, &config, &origin);
    let told = |severity: Severity| {
        let such = findings
            .iter()
            .filter(|finding| finding.severity == severity);
        such.map(words).collect::<Vec<String>>()
    };
    let warnings = told(Severity::Warning);
    match outcome {
        Outcome::Meshed(meshed) => review.patched(&json_patch(&pod, &meshed), warnings),
        Outcome::LeftAlone(why) => {
            tracing::debug!(pod = %origin.name, namespace = %origin.namespace, %why, "left alone");
            review.answer(None, warnings)
        }
        Outcome::Refused => review.answer(Some(told(Severity::Error).join("; ")), warnings),
    }
}

impl Injector {
    /// What is known of a namespace. It may be newer than our watch: then its name is all that is known, and
    /// that we are asked says the rest.
    async fn namespace(&self, name: &str) -> Namespace {
        let found = self
            .control
            .index
            .objects("Namespace", None, Some(name))
            .await;
        let Some(found) = found.into_iter().next() else {
            return Namespace::named(name);
        };
        let texts = |pointer: &str| {
            let fields = found.object.pointer(pointer).and_then(Value::as_object);
            let texts = fields
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            texts.collect::<BTreeMap<String, String>>()
        };
        Namespace {
            name: name.to_owned(),
            labels: Some(texts("/metadata/labels")),
            annotations: texts("/metadata/annotations"),
        }
    }
}

fn misunderstood(why: &str) -> Response {
    let told = format!("the question is not understood: {why}\n");
    (StatusCode::BAD_REQUEST, told).into_response()
}

async fn validate(body: Bytes) -> Response {
    let review = match Review::read(&body) {
        Ok(review) => review,
        Err(why) => return misunderstood(&why),
    };
    let object = review.request.get("object").cloned().unwrap_or(Value::Null);
    let going = object.pointer("/metadata/deletionTimestamp").is_some();
    // A finalizer must come off what is wrong, too; and a deletion has no object.
    if object.is_null() || going {
        return review.answer(None, Vec::new());
    }
    let findings = findings(&object);
    let told = |severity: Severity| {
        let such = findings
            .iter()
            .filter(move |finding| finding.severity == severity);
        such.map(words).collect::<Vec<String>>()
    };
    let errors = told(Severity::Error);
    let refused = (!errors.is_empty()).then(|| errors.join("; "));
    review.answer(refused, told(Severity::Warning))
}

/// What is wrong with one object by itself. What it refers to may come later.
fn findings(object: &Value) -> Vec<Finding> {
    let (_, findings) = resource::from_cluster(object);
    findings
}

/// A finding without its place: lines are of a text that nobody has seen.
pub(super) fn words(finding: &Finding) -> String {
    let path = finding.path.as_str();
    let mut words = format!("{}: {}", finding.code, finding.message);
    if !path.is_empty() {
        words = format!("{path}: {words}");
    }
    if let Some(hint) = &finding.hint {
        words.push_str(" (");
        words.push_str(hint);
        words.push(')');
    }
    words
}
