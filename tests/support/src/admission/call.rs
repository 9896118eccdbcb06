//! One call of a webhook: over TLS, with the authority that its configuration names, within its time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::Server;

/// No answer is longer.
const LONGEST: usize = 3 << 20;

/// What a webhook said.
#[derive(Debug, Default)]
pub(super) struct Called {
    /// A JSON patch.
    pub(super) patch: Option<Value>,
    /// The status of a refusal.
    pub(super) denied: Option<Value>,
    /// For the client.
    pub(super) warnings: Vec<String>,
}

/// Why a webhook could not be asked.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

/// Where a webhook is.
struct Place {
    uri: Uri,
    /// By which its certificate is judged.
    name: String,
    address: SocketAddr,
}

pub(super) async fn call(
    server: &Server,
    hook: &Value,
    uid: &str,
    review: &Value,
) -> Result<Called, Failure> {
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10);
    let client = &hook["clientConfig"];
    let place = place(server, client, seconds).await?;
    let asked = tokio::time::timeout(
        Duration::from_secs(seconds),
        exchange(client, &place, review),
    );
    let failed = |why: &str| {
        Failure(format!(
            "failed to call webhook: Post \"{}\": {why}",
            place.uri
        ))
    };
    match asked.await {
        Err(_) => Err(failed("context deadline exceeded")),
        Ok(Err(why)) => Err(failed(&why.to_string())),
        Ok(Ok(answer)) => read(&answer, uid),
    }
}

async fn place(server: &Server, client: &Value, seconds: u64) -> Result<Place, Failure> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let service = &client["service"];
    if service.is_object() {
        let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
        let port = service["port"].as_u64().unwrap_or(443);
        let path = text(&service["path"]);
        let host = format!("{name}.{namespace}.svc");
        let uri = format!(
            "https://{host}:{port}/{}?timeout={seconds}s",
            path.trim_start_matches('/')
        );
        let uri: Uri = uri
            .parse()
            .map_err(|e| Failure(format!("bad address {uri}: {e}")))?;
        let address = server
            .reach(&namespace, &name, port)
            .map_err(|why| Failure(format!("failed to call webhook: Post \"{uri}\": {why}")))?;
        return Ok(Place {
            uri,
            name: host,
            address,
        });
    }
    let url = text(&client["url"]);
    let uri: Uri = url
        .parse()
        .map_err(|e| Failure(format!("bad address {url}: {e}")))?;
    let name = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let mut found = tokio::net::lookup_host((name.as_str(), port))
        .await
        .map_err(|e| Failure(format!("failed to call webhook: Post \"{url}\": {e}")))?;
    let address = found.next();
    drop(found);
    let address = address.ok_or_else(|| Failure(format!("no address for {name}")))?;
    Ok(Place { uri, name, address })
}

type Broken = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(client: &Value, place: &Place, review: &Value) -> Result<Value, Broken> {
    let mut roots = RootCertStore::empty();
    let bundle = STANDARD.decode(client["caBundle"].as_str().unwrap_or_default())?;
    for certificate in CertificateDer::pem_slice_iter(&bundle) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(place.address).await?;
    let name = ServerName::try_from(place.name.clone())?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = place
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let host = place
        .uri
        .authority()
        .map_or("", http::uri::Authority::as_str);
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(review.to_string())))?;
    let asked = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST)
            .collect()
            .await?;
        let body = body.to_bytes();
        if !status.is_success() {
            let said = String::from_utf8_lossy(&body);
            return Err(Broken::from(format!(
                "an error on the server (\"{said}\") has prevented the request from succeeding: {status}"
            )));
        }
        Ok::<Value, Broken>(serde_json::from_slice(&body)?)
    };
    tokio::pin!(connection);
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        ended = &mut connection => match ended {
            Err(error) => Err(error.into()),
            // The answer may have come with the end.
            Ok(()) => asked.await,
        },
    }
}

fn read(answer: &Value, uid: &str) -> Result<Called, Failure> {
    let wrong = |what: &str| Failure(format!("expected response {what}, got {answer}"));
    if answer["apiVersion"] != "admission.k8s.io/v1" || answer["kind"] != "AdmissionReview" {
        return Err(wrong("of admission.k8s.io/v1, Kind=AdmissionReview"));
    }
    let response = &answer["response"];
    if response["uid"] != uid {
        return Err(wrong(&format!(".uid=\"{uid}\"")));
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let mut called = Called {
        warnings: warnings
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        ..Called::default()
    };
    if response["allowed"] != true {
        called.denied = Some(response["status"].clone());
        return Ok(called);
    }
    match (response["patch"].as_str(), response["patchType"].as_str()) {
        (None | Some(""), None) => {}
        (Some(patch), Some("JSONPatch")) => {
            let bytes = STANDARD
                .decode(patch)
                .map_err(|e| wrong(&format!("with a patch in base64 ({e})")))?;
            let patch = serde_json::from_slice(&bytes)
                .map_err(|e| wrong(&format!("with a JSON patch ({e})")))?;
            called.patch = Some(patch);
        }
        _ => return Err(wrong(".patchType=\"JSONPatch\" with a patch")),
    }
    Ok(called)
}
