//! One fetch of a key set, over HTTP or HTTPS.
//!
//! The answer comes from outside: it has a bound in size and in time, and nobody follows where it
//! redirects to. Servers are believed by their DNS names and the machine's roots.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::jwt::MAX_KEY_SET;
use crate::mesh::jwt_authn::KeySource;
use crate::mesh::origination::{NameMatch, Named};
use crate::net::{ConnectOptions, connect_any};
use crate::rt::Tasks;
use crate::tls::outside::{Anchors, Believes, SYSTEM_ROOTS, outside_config};

/// Why a set was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// Nobody is there.
    #[error("cannot connect to {host}")]
    Connect {
        /// To whom.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The server cannot be believed.
    #[error("{0}")]
    Tls(String),
    /// It speaks no HTTP.
    #[error("the exchange failed")]
    Http(#[from] hyper::Error),
    /// It says something else.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// What came.
        status: u16,
    },
    /// More than anybody's keys.
    #[error("{0} answered more than {MAX_KEY_SET} bytes, or broke off")]
    Body(String),
    /// The issuer says nothing of its keys.
    #[error("{0}")]
    Discovery(String),
    /// The address is none.
    #[error("{0:?} is no address")]
    Address(String),
}

/// Fetches the set at `source` within `time`. Certificates in the file `roots` are believed beside the
/// machine's.
pub async fn fetch(source: &KeySource, roots: &Path, time: Duration) -> Result<String, FetchError> {
    let whole = async {
        match source {
            KeySource::Inline => Err(FetchError::Address(String::new())),
            KeySource::Url(url) => get(url, roots, time).await,
            KeySource::Discovery(issuer) => {
                let base = issuer.trim_end_matches('/');
                let told = format!("{base}/.well-known/openid-configuration");
                let text = get(&told, roots, time).await?;
                get(&keys_url(issuer, &text)?, roots, time).await
            }
        }
    };
    let late = |_| FetchError::Late(time);
    tokio::time::timeout(time, whole).await.map_err(late)?
}

/// Where an issuer says that its keys are.
fn keys_url(issuer: &str, text: &str) -> Result<String, FetchError> {
    let told: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let url = told
        .as_ref()
        .and_then(|told| told.get("jwks_uri")?.as_str());
    let url = url.ok_or_else(|| {
        FetchError::Discovery(format!("{issuer} names no jwks_uri in its configuration"))
    })?;
    if issuer.starts_with("https://") && !url.starts_with("https://") {
        return Err(FetchError::Discovery(format!(
            "{issuer} names {url:?}, which is not protected as its configuration is"
        )));
    }
    Ok(url.to_owned())
}

async fn get(url: &str, roots: &Path, time: Duration) -> Result<String, FetchError> {
    let bad = || FetchError::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let authority = uri.authority().ok_or_else(bad)?;
    let host = authority.host();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let port = authority
        .port_u16()
        .unwrap_or(if secure { 443 } else { 80 });
    let failed = |source| FetchError::Connect {
        host: host.to_owned(),
        source,
    };
    let found = tokio::net::lookup_host((bare, port))
        .await
        .map_err(failed)?;
    let addresses: Vec<_> = found.collect();
    let options = ConnectOptions {
        timeout: time,
        ..ConnectOptions::default()
    };
    let tcp = connect_any(&addresses, options).await.map_err(failed)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        // Without a user, who is nobody's business there.
        .header("host", match authority.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
        .header("accept", "application/json, application/jwk-set+json")
        .header("user-agent", concat!("meshctl/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| bad())?;
    if !secure {
        return exchange(tcp, request, url).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| bad())?;
    let believes = Believes {
        anchors: anchors(roots).await?,
        revoked: None,
        names: Named::Any(vec![NameMatch::Exact(bare.to_owned())]),
    };
    let config = outside_config(Some(believes), None, &["http/1.1"])
        .map_err(|error| FetchError::Tls(error.to_string()))?;
    let tls = TlsConnector::from(config).connect(name, tcp).await;
    let tls =
        tls.map_err(|error| FetchError::Tls(format!("{host} cannot be believed: {error}")))?;
    exchange(tls, request, url).await
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    url: &str,
) -> Result<String, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    let tasks = Tasks::new();
    tasks.spawn("key set", async move {
        // What goes wrong is told to the one who waits for the answer.
        let _ended = connection.await;
    });
    let answer = sender.send_request(request).await?;
    if answer.status().as_u16() != 200 {
        return Err(FetchError::Status {
            url: url.to_owned(),
            status: answer.status().as_u16(),
        });
    }
    let long = |_| FetchError::Body(url.to_owned());
    let body = Limited::new(answer.into_body(), MAX_KEY_SET)
        .collect()
        .await;
    let bytes = body.map_err(long)?.to_bytes();
    String::from_utf8(bytes.to_vec()).map_err(|_| FetchError::Body(url.to_owned()))
}

/// The machine's roots and those of the file `roots`, as far as there are any.
async fn anchors(roots: &Path) -> Result<Anchors, FetchError> {
    let roots = roots.to_owned();
    let read = Tasks::blocking(move || {
        let system = SYSTEM_ROOTS
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok());
        let own = std::fs::read_to_string(roots).ok();
        [system, own]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("\n")
    });
    let text = read.await.unwrap_or_default();
    Anchors::read_some(&text).map_err(|_| FetchError::Tls("this machine has no roots".to_owned()))
}
