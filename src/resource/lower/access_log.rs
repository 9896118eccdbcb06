//! Which calls are logged: Telemetries and the MeshConfig, with the providers that they name resolved.

use std::sync::Arc;

use super::of_kind;
use super::policies::Around;
use crate::mesh::Severity;
use crate::mesh::access_log::rules::{Named, Rule, Rules, Told};
use crate::mesh::destinations::ROOTS;
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
        let whom = around.whom(object, &telemetry.targets, false);
        let namespace = &object.metadata.namespace;
        let mut before = rules.all.iter();
        let same = before.find(|told| told.namespace == *namespace && told.whom == whom);
        if let Some(older) = same {
            let message = format!(
                "Telemetry {namespace}/{} is for the same and older, so calls are logged as that one says",
                older.origin.name
            );
            let code = codes::POLICY_WITHOUT_EFFECT;
            let finding = object.finding(Severity::Warning, code, "spec", message);
            around.findings.push(
                finding.hint("put both into one Telemetry, or choose workloads by other labels"),
            );
        }
        rules.all.push(Arc::new(Told {
            namespace: namespace.clone(),
            whom,
            rules: entries,
            origin: object.origin.clone(),
        }));
    }
    rules
}

/// The logs of these names; what cannot be had is said and left out.
fn named(around: &mut Around<'_>, names: &[String], object: &Object, path: &str) -> Vec<Named> {
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        if let Some(logger) = around.mesh.logs.providers.get(name) {
            found.push(Named {
                name: name.clone(),
                logger: logger.clone(),
            });
            continue;
        }
        let known = around.mesh.logs.providers.keys().map(String::as_str);
        let hint = match suggest::nearest(name, known) {
            Some(near) => format!("did you mean {near:?}?"),
            None => {
                "name one with envoyFileAccessLog, or envoy for the one that is built in".to_owned()
            }
        };
        let message = format!(
            "the MeshConfig has no extensionProvider {name:?} that calls are logged by: it logs nothing"
        );
        let path = format!("{path}[{at}]");
        let finding = object.finding(Severity::Warning, codes::TELEMETRY_PROVIDER, &path, message);
        around.findings.push(finding.hint(hint));
    }
    found
}
