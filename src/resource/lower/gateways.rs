//! Gateways, and the Secrets that they show.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;

use super::of_kind;
use crate::mesh::credential::{CertificateSource, RootsSource};
use crate::mesh::gateway::{Credential, Gateway, GatewayName, Server, ServerSecurity, Serves};
use crate::mesh::ocsp::{Staple, Unusable};
use crate::mesh::world::Config;
use crate::mesh::{Finding, OwnTls, Secret, Service, Severity};
use crate::resource::codes;
use crate::resource::istio::{GatewayProtocol, GatewayServer, GatewayTls};
use crate::resource::object::{Kind, Object, Objects};

/// Credentials by namespace and name.
pub(super) type Credentials = BTreeMap<(String, String), Arc<Credential>>;

pub(super) fn lower(
    objects: &Objects,
    credentials: &Credentials,
    findings: &mut Vec<Finding>,
) -> BTreeMap<GatewayName, Arc<Gateway>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let mut gateways = BTreeMap::new();
    for (object, written) in written {
        let metadata = &object.metadata;
        let mut servers = Vec::new();
        for (index, server) in written.servers.iter().enumerate() {
            let path = format!("spec.servers[{index}]");
            if let GatewayTls::Own(own) = &server.tls {
                missing(
                    object,
                    own,
                    (&path, "tls.credentialName"),
                    credentials,
                    findings,
                );
            }
            servers.push(Server {
                name: server.name.clone(),
                port: server.port,
                bind: server.bind,
                serves: serves(server),
                grpc_web: server.grpc_web,
                hosts: server.hosts.clone(),
                attached: None,
                origin: object.origin_of(&path),
            });
        }
        gateways.insert(
            (metadata.namespace.clone(), metadata.name.clone()),
            Arc::new(Gateway {
                namespace: metadata.namespace.clone(),
                name: metadata.name.clone(),
                selector: written.selector.clone(),
                local: false,
                client_certificate: None,
                servers,
                origin: object.origin.clone(),
            }),
        );
    }
    gateways
}

/// Says which servers pass calls on to services of which there are none. They may come later.
pub(super) fn unreached(objects: &Objects, config: &Config, findings: &mut Vec<Finding>) {
    for object in objects.values() {
        let metadata = &object.metadata;
        let (Kind::Gateway(_), Some(gateway)) = (
            &object.body,
            config
                .gateways
                .get(&(metadata.namespace.clone(), metadata.name.clone())),
        ) else {
            continue;
        };
        for (index, server) in gateway.servers.iter().enumerate() {
            let reaches = |service: &Arc<Service>| {
                let (host, of) = (&service.host, &service.namespace);
                let mut hosts = server.hosts.iter();
                hosts.any(|own| own.meets(host, of, &gateway.namespace).as_ref() == Some(host))
            };
            if server.serves.is_routed() || config.services.values().any(reaches) {
                continue;
            }
            let path = format!("spec.servers[{index}].hosts");
            let message =
                "no service of the mesh has one of these hosts, so no call is passed on here";
            let code = codes::MISSING_REFERENCE;
            let finding = object.finding(Severity::Warning, code, &path, message);
            findings.push(finding.hint(
                "name hosts as services have them, such as *.local or shop.default.svc.cluster.local",
            ));
        }
    }
}

fn serves(server: &GatewayServer) -> Serves {
    let security = match &server.tls {
        GatewayTls::None { redirect } => {
            return match server.protocol {
                GatewayProtocol::Tcp => Serves::Tcp,
                _ => Serves::Http {
                    redirect: *redirect,
                },
            };
        }
        GatewayTls::Passthrough => return Serves::Passthrough,
        GatewayTls::AutoPassthrough => return Serves::MeshPassthrough,
        GatewayTls::Mesh => ServerSecurity::Mesh,
        GatewayTls::Own(own) => ServerSecurity::Own(own.clone()),
    };
    match server.protocol {
        GatewayProtocol::Tls | GatewayProtocol::Tcp => Serves::Tls(security),
        GatewayProtocol::Http | GatewayProtocol::Https => Serves::Https(security),
    }
}

/// Says which Secrets are not there. They may come later, and until then nobody is served; so that is
/// no error.
pub(super) fn missing(
    object: &Object,
    own: &OwnTls,
    (path, field): (&str, &str),
    credentials: &Credentials,
    findings: &mut Vec<Finding>,
) {
    let say = |findings: &mut Vec<Finding>, name: &str, what: &str| {
        let path = format!("{path}.{field}");
        let message = format!("no Secret {name:?} with {what} exists, so nobody is served here");
        let hint = format!("make it in the namespace of the proxy, with {what}");
        let finding = object.finding(Severity::Warning, codes::MISSING_REFERENCE, &path, message);
        findings.push(finding.hint(hint));
    };
    let has = |name: &str, of: &dyn Fn(&Credential) -> bool| {
        credentials
            .iter()
            .any(|((_, known), credential)| known == name && of(credential))
    };
    for source in &own.certificates {
        let CertificateSource::Secret(name) = source else {
            continue;
        };
        if !has(name, &|credential| credential.certificate.is_some()) {
            say(findings, name, "tls.crt and tls.key");
        }
        let unstapled = credentials.iter().find_map(|((_, known), credential)| {
            let reason = credential.unstapled.filter(|_| known == name);
            reason.map(|reason| (known, reason))
        });
        if let Some((known, reason)) = unstapled {
            let path = format!("{path}.{field}");
            let message = format!("tls.ocsp-staple of Secret {known:?} has no effect: {reason}");
            let finding = object.finding(Severity::Warning, codes::IGNORED, &path, message);
            findings.push(finding.hint(
                "ask the certificate's authority anew: openssl ocsp -issuer CA -cert CERTIFICATE -url RESPONDER -respout FILE",
            ));
        }
    }
    if let Some(clients) = &own.clients
        && let RootsSource::Secret(name) = &clients.roots
    {
        let roots = |credential: &Credential| credential.roots.is_some();
        if !has(name, &roots) && !has(&format!("{name}-cacert"), &roots) {
            say(findings, name, "ca.crt");
        }
    }
}

/// What Secrets hold that can be shown or held against others: in the form of Kubernetes
/// (`tls.crt`, `tls.key`, `tls.ocsp-staple`, `ca.crt`, `ca.crl`), or in Istio's old one (`cert`, `key`, `cacert`).
pub(super) fn credentials(objects: &Objects) -> Credentials {
    objects
        .values()
        .filter(|object| matches!(object.body, Kind::Secret))
        .filter_map(|object| {
            let text = |names: [&str; 2]| names.iter().find_map(|name| entry(object, name));
            let chain = text(["tls.crt", "cert"]);
            let key = text(["tls.key", "key"]);
            let roots = text(["ca.crt", "cacert"]);
            let crl = text(["ca.crl", "crl"]).unwrap_or_default();
            let (staple, unstapled) = match (&chain, bytes(object, "tls.ocsp-staple")) {
                (Some(chain), Some(staple)) => match fits(chain, &staple) {
                    Ok(()) => (staple, None),
                    Err(reason) => (Vec::new(), Some(reason)),
                },
                _ => (Vec::new(), None),
            };
            let credential = Credential {
                certificate: chain
                    .zip(key)
                    .map(|(chain, key)| Arc::new(Secret::Certificate { chain, key, staple })),
                unstapled,
                roots: roots.map(|certificates| Arc::new(Secret::Roots { certificates, crl })),
            };
            let used = credential.certificate.is_some() || credential.roots.is_some();
            let metadata = &object.metadata;
            used.then(|| {
                let name = (metadata.namespace.clone(), metadata.name.clone());
                (name, Arc::new(credential))
            })
        })
        .chain(objects.values().filter_map(|object| match &object.body {
            // Roots of the Gateway API are here.
            Kind::ConfigMap(map) => {
                let metadata = &object.metadata;
                let name = (metadata.namespace.clone(), config_map(&metadata.name));
                let roots = Secret::Roots {
                    certificates: map.data.get("ca.crt")?.clone(),
                    crl: map.data.get("ca.crl").cloned().unwrap_or_default(),
                };
                let credential = Credential {
                    unstapled: None,
                    certificate: None,
                    roots: Some(Arc::new(roots)),
                };
                Some((name, Arc::new(credential)))
            }
            _ => None,
        }))
        .collect()
}

/// The name of what a ConfigMap holds among credentials. No Secret is called so.
pub(super) fn config_map(name: &str) -> String {
    format!("configmap:{name}")
}

/// An entry of a Secret, as text.
fn entry(object: &Object, name: &str) -> Option<String> {
    let within = |field: &str| object.raw.get(field)?.get(name)?.as_str();
    // What is written as text has the last word, as in Kubernetes.
    if let Some(text) = within("stringData") {
        return Some(text.to_owned());
    }
    String::from_utf8(bytes(object, name)?).ok()
}

/// An entry of a Secret that is coded, as it is.
fn bytes(object: &Object, name: &str) -> Option<Vec<u8>> {
    let coded = object.raw.get("data")?.get(name)?.as_str()?;
    decoded(coded.split_whitespace())
}

fn decoded<'t>(lines: impl Iterator<Item = &'t str>) -> Option<Vec<u8>> {
    let coded: String = lines.collect();
    let base64 = base64::engine::general_purpose::STANDARD;
    base64.decode(coded).ok()
}

/// Whether an OCSP response is one for the first certificate of a chain. A chain that cannot be read is not
/// for this to complain of.
fn fits(chain: &str, staple: &[u8]) -> Result<(), Unusable> {
    let lines = chain.lines().map(str::trim);
    let first = lines
        .skip_while(|line| *line != "-----BEGIN CERTIFICATE-----")
        .skip(1)
        .take_while(|line| !line.starts_with("-----"));
    match decoded(first).filter(|leaf| !leaf.is_empty()) {
        Some(leaf) => Staple::for_certificate(staple, &leaf).map(drop),
        None => Staple::read(staple).map(drop),
    }
}
