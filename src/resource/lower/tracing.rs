//! Which calls leave spans: Telemetries and the MeshConfig, with the providers that they name resolved.

use super::of_kind;
use super::policies::Around;
use super::providers::service;
use super::told;
use crate::mesh::destinations::ROOTS;
use crate::mesh::tracing::{Rule, Rules, SpanSink};
use crate::mesh::{Cluster, Finding, Severity};
use crate::resource::istio::{SpanProvider, TracingRule};
use crate::resource::object::{Key, Kind, Object};
use crate::resource::{codes, suggest};

pub(super) fn lower(around: &mut Around<'_>) -> Rules {
    let mut rules = Rules {
        base: base(around),
        ..Rules::default()
    };
    let written = of_kind(around.objects, |kind| match kind {
        Kind::Telemetry(telemetry) if !telemetry.tracing.is_empty() => Some(telemetry),
        _ => None,
    });
    for (object, telemetry) in written {
        let entries = telemetry.tracing.iter().enumerate();
        let entries = entries.map(|(at, entry)| {
            let path = format!("spec.tracing[{at}].providers[0].name");
            let to = entry.providers.first();
            let to = to.map(|name| resolve(around, name, object, &path));
            rule(entry, to)
        });
        let entries = entries.collect();
        told::add(
            around,
            (object, telemetry),
            entries,
            (&mut rules.all, "spans are"),
        );
    }
    rules
}

/// What the MeshConfig says; none where it says nothing.
fn base(around: &mut Around<'_>) -> Option<Rule> {
    let mesh = around.mesh;
    let own = mesh.proxies.tracing.clone().unwrap_or_default();
    let named = mesh.span_defaults.first();
    let object = ROOTS.iter().find_map(|namespace| {
        around.objects.get(&Key {
            kind: "ConfigMap".to_owned(),
            namespace: (*namespace).to_owned(),
            name: "istio".to_owned(),
        })
    })?;
    let path = "data.mesh.defaultProviders.tracing[0]";
    let to = named.map(|name| resolve(around, name, object, path));
    let said = mesh.enable_tracing == Some(false) || mesh.proxies.tracing.is_some();
    (said || to.is_some()).then(|| Rule {
        client: true,
        server: true,
        off: (mesh.enable_tracing == Some(false) && to.is_none()).then_some(true),
        to,
        sampling: own.sampling,
        max_path: own.max_path,
        tags: own.tags,
        istio_tags: own.istio_tags,
    })
}

#[expect(
    clippy::option_option,
    reason = "nothing said, somebody who is not there, or somebody"
)]
fn rule(from: &TracingRule, to: Option<Option<(SpanSink, Option<u32>)>>) -> Rule {
    Rule {
        client: from.mode.holds(true),
        server: from.mode.holds(false),
        max_path: None,
        to,
        sampling: from.sampling,
        off: from.disabled,
        tags: from.custom_tags.clone(),
        istio_tags: from.istio_tags,
    }
}

/// Who gets spans by the name `name`, and the longest path that it takes; nobody where it cannot be resolved.
fn resolve(
    around: &mut Around<'_>,
    name: &str,
    object: &Object,
    path: &str,
) -> Option<(SpanSink, Option<u32>)> {
    let found = if let Some(provider) = around.mesh.span_providers.get(name) {
        sink(around, provider)
    } else {
        let mut known = around.mesh.span_providers.keys().map(String::as_str);
        let hint = match suggest::nearest(name, known.clone()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if known.next().is_none() => {
                "write it into extensionProviders of the MeshConfig, with opentelemetry or zipkin"
                    .to_owned()
            }
            None => "name one with opentelemetry or zipkin".to_owned(),
        };
        Err((
            format!("the MeshConfig has no extensionProvider {name:?} that gets spans"),
            hint,
        ))
    };
    match found {
        Ok(found) => Some(found),
        Err((what, hint)) => {
            let message = format!("{what}: spans go to nobody but the control plane");
            let code = codes::TELEMETRY_PROVIDER;
            let finding: Finding = object.finding(Severity::Warning, code, path, message);
            around.findings.push(finding.hint(hint));
            None
        }
    }
}

fn sink(
    around: &Around<'_>,
    provider: &SpanProvider,
) -> Result<(SpanSink, Option<u32>), (String, String)> {
    let found = service(around, &provider.service, provider.port)?;
    let sink = SpanSink {
        cluster: Cluster::outbound_name(provider.port, "", &found.host),
        authority: found.host.to_string(),
        ..provider.sink.clone()
    };
    Ok((sink, provider.max_path))
}
