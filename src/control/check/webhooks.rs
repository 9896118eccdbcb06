//! What the API server meets when it asks our webhooks: the certificate that this replica shows, held against what
//! the configurations of the webhooks believe. Looked at by a handshake, as the API server makes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use super::{PATIENCE, check};
use crate::api::check::{Check, CheckStatus};
use crate::control::Control;
use crate::control::cluster::Membership;
use crate::install::{INJECTOR, VALIDATOR, of_revision};
use crate::net::{ConnectOptions, connect};
use crate::source::kubernetes::cluster::{Cluster, ObjectRef};
use crate::tls;

/// One that ends sooner should have been renewed: half of its life is over at twelve hours.
const SOON: i64 = 3_600;

/// A line for each configuration of webhooks that is there.
pub(super) async fn shown(
    control: &Control,
    cluster: &Cluster,
    membership: &Membership,
) -> Vec<Check> {
    let now = i64::try_from(control.wall.millis() / 1_000).unwrap_or_default();
    let mut checks = Vec::new();
    for (kind, name) in [
        ("MutatingWebhookConfiguration", INJECTOR),
        ("ValidatingWebhookConfiguration", VALIDATOR),
    ] {
        let which = ObjectRef {
            kind: kind.to_owned(),
            namespace: None,
            name: of_revision(name, &membership.revision),
        };
        // That it cannot be read is a right that is missing, or an API server that is away, and told there.
        let read = tokio::time::timeout(PATIENCE, cluster.get(&which)).await;
        let Ok(Ok(Some(found))) = read else {
            continue;
        };
        let text = format!("the webhook shows what {} believes", which.name);
        let looked = tokio::time::timeout(PATIENCE, look(membership, &bundles(&found))).await;
        let looked = looked.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        checks.push(judged(&text, looked, now));
    }
    checks
}

fn judged(text: &str, looked: Result<i64, String>, now: i64) -> Check {
    let hint = "the replica that writes keeps the bundle, and each renews its certificate while the authority in the Secret lasts: `meshctl check` on the mesh's root, and the pods' logs";
    match looked {
        Ok(end) if end - now < SOON => {
            let detail = format!(
                "its certificate ends at {}, and was not renewed",
                moment(end)
            );
            check(text, CheckStatus::Warning, detail, hint)
        }
        Ok(end) => {
            let detail = format!("its certificate ends at {}", moment(end));
            check(text, CheckStatus::Ok, detail, "")
        }
        Err(reason) => check(text, CheckStatus::Failed, reason, hint),
    }
}

fn moment(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds);
    at.unwrap_or_default().to_string()
}

/// What each webhook of a configuration believes, each once.
fn bundles(configuration: &Value) -> Vec<String> {
    let hooks = configuration.get("webhooks").and_then(Value::as_array);
    let mut all = Vec::new();
    for hook in hooks.into_iter().flatten() {
        let bundle = hook.pointer("/clientConfig/caBundle");
        let bundle = bundle.and_then(Value::as_str).unwrap_or_default();
        let bundle = STANDARD.decode(bundle).unwrap_or_default();
        let bundle = String::from_utf8(bundle).unwrap_or_default();
        if !all.contains(&bundle) {
            all.push(bundle);
        }
    }
    all
}

/// When the certificate ends that is shown, if everybody believes it.
async fn look(membership: &Membership, bundles: &[String]) -> Result<i64, String> {
    let mut end = i64::MAX;
    for bundle in bundles {
        end = end.min(handshake(membership, bundle).await?);
    }
    Ok(end)
}

async fn handshake(membership: &Membership, bundle: &str) -> Result<i64, String> {
    let mut roots = RootCertStore::empty();
    let believed = tls::material::certificates(bundle)
        .map_err(|_| "the bundle there has no certificate".to_owned())?;
    for root in believed {
        roots.add(root).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = membership.names().into_iter().next().unwrap_or_default();
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let at = membership.webhooks;
    let address = SocketAddr::new(local(at.ip()), at.port());
    let options = ConnectOptions {
        timeout: PATIENCE,
        ..ConnectOptions::default()
    };
    let stream = connect(address, options)
        .await
        .map_err(|error| format!("nothing answers at {address}: {error}"))?;
    let connected = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| words(&error))?;
    let (_, session) = connected.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let ends = leaf.and_then(|der| {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.ok_or_else(|| "it shows no certificate".to_owned())
}

/// An address at which who listens at `ip` is reached from here.
fn local(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(any) if any.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(any) if any.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        some => some,
    }
}

/// Why a handshake failed, in words about certificates.
fn words(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|error| error.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
            not_after,
            ..
        })) => {
            let ended = i64::try_from(not_after.as_secs()).unwrap_or_default();
            format!(
                "its certificate, or an authority above it, ended at {}",
                moment(ended)
            )
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Expired)) => {
            "its certificate, or an authority above it, has ended".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is of an authority that the bundle there does not have".to_owned()
        }
        _ => error.to_string(),
    }
}
