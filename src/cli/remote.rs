//! A control plane on another machine: where it is, what proves it, and what is shown to it.
//!
//! It is never asked before it has proven to be the control plane under the root that is known beforehand: from a
//! file, from an identity's directory, or by the fingerprint in the token.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Client;
use super::cluster::Mesh;
use super::contexts::Where;
use super::error::CliError;
use super::settings::Settings;
use crate::net::{ConnectOptions, connect_any};
use crate::tls::{self, AccessToken, Material, Pin};

/// How long connecting and the handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The API of a control plane on another machine.
#[derive(Clone)]
pub(crate) struct Remote {
    address: String,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    bearer: Option<HeaderValue>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Whom commands ask: the control plane of the home unless another is named.
pub(crate) fn client(settings: &Settings) -> Result<Client, CliError> {
    let (flags, environment) = (&settings.remote, &settings.environment);
    let Some(address) = flags.api.as_ref().or(environment.api.as_ref()) else {
        let alone = flags.api_token_file.is_some()
            || flags.api_ca.is_some()
            || flags.api_identity.is_some();
        if alone {
            return Err(
                CliError::usage("there is a way in, and no place that it is for")
                    .hint("name the control plane with --api HOST:PORT"),
            );
        }
        return Ok(match &settings.meant.place {
            Where::Cluster(place) => {
                let mesh = Mesh::new(&settings.meant, place.clone(), environment);
                Client::cluster(Arc::new(mesh))
            }
            _ => Client::new(settings.socket()),
        });
    };
    let address = super::parse::host_port(address).map_err(CliError::usage)?;
    let read = |path: &Path| fs::read_to_string(path).map_err(CliError::file("read", path));
    let token = match (&flags.api_token_file, &environment.api_token) {
        (Some(file), _) => Some(read(file)?),
        (None, Some(token)) if flags.api_identity.is_none() => Some(token.0.clone()),
        _ => None,
    };
    let token: Option<AccessToken> =
        token
            .map(|text| text.parse())
            .transpose()
            .map_err(|error: tls::Error| {
                CliError::usage(error.to_string())
                    .hint("`meshctl access create` makes one where the control plane runs")
            })?;
    let material = flags.api_identity.as_deref().map(identity).transpose()?;
    let of_token = token.as_ref().and_then(|token| token.root);
    let pin = match flags.api_ca.as_ref().or(environment.api_ca.as_ref()) {
        Some(file) => Pin::Roots(roots(file, &read(file)?)?),
        None => {
            match (&material, of_token) {
                (Some(material), _) => Pin::Roots(material.roots.clone()),
                (None, Some(fingerprint)) => Pin::Fingerprint(fingerprint),
                (None, None) => {
                    return Err(CliError::usage(format!("nothing says how {address} proves to be the control plane"))
                    .hint("give the mesh's root with --api-ca, or a token that carries its fingerprint"));
                }
            }
        }
    };
    if token.is_none() && material.is_none() {
        return Err(CliError::usage(format!("{address} asks who calls"))
            .hint("give --api-token-file, MESHCTL_API_TOKEN or --api-identity"));
    }
    let config = tls::api_client_config(&pin, material.as_ref())
        .map_err(|error| CliError::failed(error.to_string()))?;
    let host = address
        .rsplit_once(':')
        .map_or(address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| CliError::usage(format!("{host:?} is not the name of a machine")))?;
    let bearer = token.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
    let mut bearer = bearer
        .transpose()
        .map_err(|error| CliError::failed(error.to_string()))?;
    if let Some(bearer) = &mut bearer {
        bearer.set_sensitive(true);
    }
    Ok(Client::remote(Remote {
        address,
        name,
        tls: Arc::new(config),
        bearer,
    }))
}

fn roots(
    file: &Path,
    text: &str,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, CliError> {
    tls::material::certificates(text)
        .map_err(|error| CliError::failed(format!("{}: {error}", file.display())))
}

/// What `identity issue --out` writes.
fn identity(dir: &Path) -> Result<Material, CliError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read_to_string(&path).map_err(CliError::file("read", path))
    };
    let pems = tls::material::Pems {
        chain: read("cert-chain.pem")?,
        key: read("key.pem")?,
        roots: read("root-cert.pem")?,
    };
    Material::from_pems(&pems)
        .map_err(|error| CliError::failed(format!("{}: {error}", dir.display())))
}

impl Remote {
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        self.bearer.clone()
    }

    pub(super) async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let connected = async {
            let found: Vec<_> = tokio::net::lookup_host(&self.address).await?.collect();
            let tcp = connect_any(&found, ConnectOptions::default()).await?;
            let shaken = TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), tcp);
            shaken
                .await
                .map_err(|error| io::Error::other(tls::explain(&error)))
        };
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        connected.unwrap_or_else(|_| Err(late()))
    }
}

/// Why a connection ended, in the words of the innermost cause.
pub(super) fn explain(error: &hyper::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        words = inner.to_string();
        cause = inner.source();
    }
    words
}
