//! Who is asked by policies of action CUSTOM.

use std::sync::Arc;

use super::policies::Around;
use crate::mesh::authorization::Provider;
use crate::mesh::ext_authz::{Asks, ExtAuthz};
use crate::mesh::{Cluster, Hostname, Protocol, Service, Severity};
use crate::resource::codes;
use crate::resource::istio::AuthzProvider;
use crate::resource::object::Object;
use crate::resource::suggest;

/// The provider `name` of the MeshConfig, as the policy `object` asks it.
pub(super) fn resolve(around: &mut Around<'_>, object: &Object, name: &str) -> Provider {
    let mut provider = Provider {
        name: name.to_owned(),
        ..Provider::default()
    };
    let asked = match around.mesh.providers.get(name) {
        Some(Some(written)) => {
            provider.at = format!("{}:{}", host(written), written.port);
            ask(around, written)
        }
        Some(None) => Err((
            format!(
                "extensionProvider {name:?} is not one that is asked whether requests may be made"
            ),
            "name one with envoyExtAuthzGrpc or envoyExtAuthzHttp".to_owned(),
        )),
        None => {
            let mut asked = around.mesh.providers.iter();
            let known = asked.by_ref().filter(|(_, of)| of.is_some());
            let known: Vec<&str> = known.map(|(name, _)| name.as_str()).collect();
            let hint = match suggest::nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None if known.is_empty() => {
                    "write it into extensionProviders of the MeshConfig (key mesh of ConfigMap istio in the root namespace)".to_owned()
                }
                None => format!("one of {}", known.join(", ")),
            };
            Err((
                format!("the MeshConfig has no extensionProvider {name:?}"),
                hint,
            ))
        }
    };
    match asked {
        Ok(how) => provider.how = Some(Arc::new(how)),
        Err((what, hint)) => {
            let message = format!("{what}: whatever the rules hold for is refused");
            let code = codes::PROVIDER_UNKNOWN;
            let finding = object.finding(Severity::Error, code, "spec.provider.name", message);
            around.findings.push(finding.hint(hint));
        }
    }
    provider
}

fn host(written: &AuthzProvider) -> &str {
    let service = written.service.as_str();
    service.split_once('/').map_or(service, |(_, host)| host)
}

/// How it is asked, with the cluster that its service is; else why not, and what to do.
fn ask(around: &Around<'_>, written: &AuthzProvider) -> Result<ExtAuthz, (String, String)> {
    let service = service(around, &written.service, written.port)?;
    let ports = &service.ports;
    let protocol = ports.iter().find(|port| port.port == written.port);
    let protocol = protocol.map(|port| port.protocol).unwrap_or_default();
    let cluster = Cluster::outbound_name(written.port, "", &service.host);
    let mut how = written.how.clone();
    match &mut how.asks {
        Asks::Http(http) => {
            http.uri = format!("http://{}", service.host);
            http.cluster = cluster;
        }
        Asks::Grpc { .. } => {
            if !matches!(protocol, Protocol::Grpc | Protocol::Http2) {
                return Err((
                    format!(
                        "port {} of the provider's service {} does not say that it speaks gRPC",
                        written.port, service.host
                    ),
                    "name the port grpc, or write appProtocol: grpc".to_owned(),
                ));
            }
            how.asks = Asks::Grpc {
                // What is between the parts of a cluster's name may not stand in a host (Istio's spelling).
                authority: cluster.replace('|', "_."),
                cluster,
                metadata: Vec::new(),
            };
        }
    }
    Ok(how)
}

/// The service that a provider is, which has that port; else why there is none, and what to do.
pub(super) fn service<'a>(
    around: &'a Around<'_>,
    named: &str,
    port: u16,
) -> Result<&'a Arc<Service>, (String, String)> {
    let service = find(around, named).ok_or_else(|| {
        (
            format!("the provider's service {named:?} does not exist"),
            "write NAMESPACE/HOST of a Service or a ServiceEntry that there is".to_owned(),
        )
    })?;
    if service.ports.iter().any(|own| own.port == port) {
        return Ok(service);
    }
    let ports = service.ports.iter().map(|port| port.port.to_string());
    let ports: Vec<String> = ports.collect();
    Err((
        format!("the provider's service {} has no port {port}", service.host),
        format!("one of {}", ports.join(", ")),
    ))
}

fn find<'a>(around: &'a Around<'_>, named: &str) -> Option<&'a Arc<Service>> {
    let services = &around.config.services;
    let (namespace, host) = match named.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, named),
    };
    let is = |service: &&Arc<Service>| namespace.is_none_or(|of| service.namespace == of);
    let full: Option<Hostname> = host.parse().ok();
    let named = full.and_then(|host| services.get(&host)).filter(is);
    // A name alone needs its namespace.
    named.or_else(|| {
        let host = Hostname::service(host, namespace?);
        services.get(&host).filter(is)
    })
}
