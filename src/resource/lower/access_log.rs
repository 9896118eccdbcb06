//! Which calls are logged: Telemetries and the MeshConfig, with the providers that they name resolved.

use std::sync::Arc;

use super::of_kind;
use super::policies::Around;
use super::providers::service;
use super::told;
use crate::mesh::access_log::rules::{Named, Rule, Rules};
use crate::mesh::access_log::{Logger, Sink};
use crate::mesh::destinations::ROOTS;
use crate::mesh::{Cluster, Protocol, Severity};
use crate::resource::istio::LogProvider;
use crate::resource::object::{Key, Kind, Object};
use crate::resource::{codes, suggest};

pub(super) fn lower(around: &mut Around<'_>) -> Rules {
    let mut rules = Rules::default();
    let written = of_kind(around.objects, |kind| match kind {
        Kind::Telemetry(telemetry) if !telemetry.access_logging.is_empty() => Some(telemetry),
        _ => None,
    });
    let config = ROOTS.iter().find_map(|namespace| {
        around.objects.get(&Key {
            kind: "ConfigMap".to_owned(),
            namespace: (*namespace).to_owned(),
            name: "istio".to_owned(),
        })
    });
    if let Some(config) = config {
        let names = &around.mesh.logs.defaults;
        let path = "data.mesh.defaultProviders.accessLogging";
        rules.base = named(around, names, config, path);
    }
    for (object, telemetry) in written {
        let entries = telemetry.access_logging.iter().enumerate();
        let entries = entries.map(|(at, entry)| {
            let path = format!("spec.accessLogging[{at}].providers");
            let loggers = (!entry.providers.is_empty())
                .then(|| named(around, &entry.providers, object, &path));
            Rule {
                client: entry.mode.holds(true),
                server: entry.mode.holds(false),
                loggers,
                off: entry.disabled.unwrap_or_default(),
                filter: entry.filter.clone(),
            }
        });
        let entries = entries.collect();
        told::add(
            around,
            (object, telemetry),
            entries,
            (&mut rules.all, "calls are logged"),
        );
    }
    rules
}

/// The logs of these names; what cannot be had is said and left out.
fn named(around: &mut Around<'_>, names: &[String], object: &Object, path: &str) -> Vec<Named> {
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let resolved = if let Some(provider) = around.mesh.logs.providers.get(name) {
            resolve(around, provider)
        } else {
            let known = around.mesh.logs.providers.keys().map(String::as_str);
            let hint = match suggest::nearest(name, known) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => "name one with envoyFileAccessLog, envoyHttpAls, envoyTcpAls or envoyOtelAls, or envoy for the one that is built in".to_owned(),
                };
            Err((
                format!(
                    "the MeshConfig has no extensionProvider {name:?} that calls are logged by"
                ),
                hint,
            ))
        };
        let (what, hint) = match resolved {
            Ok((logger, None)) => {
                found.push(Named {
                    name: name.clone(),
                    logger,
                });
                continue;
            }
            Ok((logger, Some(said))) => {
                found.push(Named {
                    name: name.clone(),
                    logger,
                });
                said
            }
            Err((what, hint)) => (format!("{what}: it logs nothing"), hint),
        };
        let path = format!("{path}[{at}]");
        let finding = object.finding(Severity::Warning, codes::TELEMETRY_PROVIDER, &path, what);
        around.findings.push(finding.hint(hint));
    }
    found
}

/// What is wrong, and what to do about it.
type Said = (String, String);

/// The log of a provider, with the cluster that its service is, and what is to be said of that; else why there is none.
fn resolve(around: &Around<'_>, provider: &LogProvider) -> Result<(Logger, Option<Said>), Said> {
    let mut logger = provider.logger.clone();
    let (Sink::Service(to), Some((host, port))) = (&mut logger.to, &provider.at) else {
        return Ok((logger, None));
    };
    let service = service(around, host, *port)?;
    let to = Arc::make_mut(to);
    to.cluster = Cluster::outbound_name(*port, "", &service.host);
    to.authority = service.host.to_string();
    let own = service.ports.iter().find(|own| own.port == *port);
    let speaks = own.is_some_and(|own| matches!(own.protocol, Protocol::Grpc | Protocol::Http2));
    let said = (!speaks).then(|| {
        let message = format!(
            "port {port} of the provider's service {} does not say that it speaks gRPC, so Envoys of the mesh cannot tell it of calls",
            service.host
        );
        (message, "name the port grpc, or write appProtocol: grpc".to_owned())
    });
    Ok((logger, said))
}
