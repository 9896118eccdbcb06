//! The status of Gateway API objects, in the API's words.
//!
//! A pure function of the objects: what a status says of each is what `lower` did with it. Times and
//! generations are the caller's, who knows the object's history.

use serde_json::{Map, Value, json};

use crate::mesh::world::Instances;

use super::gateway_api::{GROUP, ParentRef, RouteKind};
use super::lower::{Condition, ParentVerdict, Verdict, Verdicts};
use super::object::{Key, Object, Objects};

/// What of the API is served, by the names of its conformance suite and in their order. `tests/gateway_api`
/// holds it to what passes.
pub const FEATURES: [&str; 57] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendRequestRedirect",
    "HTTPRouteBackendTimeout",
    "HTTPRouteBackendURLRewrite",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
];

/// What is said of each object of the API that is served here.
#[derive(Debug, Default)]
pub struct Statuses(Verdicts);

impl Statuses {
    /// Judges `objects`, with what runs.
    pub fn of(objects: &Objects, instances: &Instances) -> Self {
        Self(super::lower::verdicts(objects, instances))
    }

    /// `object` as it is told, with its status. `generation` is what it is in where it does not say so
    /// itself.
    pub fn complete(&self, object: &Object, generation: u64, since: &str) -> Value {
        let mut told = object.raw.clone();
        let written = told.pointer("/metadata/generation").and_then(Value::as_u64);
        let generation = written.unwrap_or(generation);
        let Some(status) = self.get(&object.key(), generation, since) else {
            return told;
        };
        if let Value::Object(fields) = &mut told {
            fields.insert("status".to_owned(), status);
            if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
                metadata.insert("generation".to_owned(), generation.into());
            }
        }
        told
    }

    /// The `status` of the object at `key` in its `generation`, whose conditions are so since `since`
    /// (RFC 3339); none for what is not served here.
    pub fn get(&self, key: &Key, generation: u64, since: &str) -> Option<Value> {
        let verdict = self.0.of.get(key)?;
        let conditions = |of: &[Condition]| -> Vec<Value> {
            let one = |of| condition(of, generation, since);
            of.iter().map(one).collect()
        };
        Some(match verdict {
            Verdict::Class(of) => {
                let named: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
                json!({"conditions": conditions(of), "supportedFeatures": named})
            }
            Verdict::Gateway(of) => {
                let listeners: Vec<Value> = of
                    .listeners
                    .iter()
                    .map(|listener| {
                        let kinds: Vec<Value> = listener.kinds.iter().map(kind).collect();
                        json!({
                            "name": listener.name,
                            "supportedKinds": kinds,
                            "attachedRoutes": listener.attached,
                            "conditions": conditions(&listener.conditions),
                        })
                    })
                    .collect();
                let addresses: Vec<Value> = of
                    .addresses
                    .iter()
                    .map(|address| json!({"type": "IPAddress", "value": address}))
                    .collect();
                json!({
                    "addresses": addresses,
                    "conditions": conditions(&of.conditions),
                    "listeners": listeners,
                })
            }
            Verdict::Route(of) => json!({"parents": each(of, "parentRef", &conditions)}),
            Verdict::Policy(of) => json!({"ancestors": each(of, "ancestorRef", &conditions)}),
        })
    }
}

/// What is said for each parent, which is told as `reference`.
fn each(
    of: &[ParentVerdict],
    reference: &str,
    conditions: &impl Fn(&[Condition]) -> Vec<Value>,
) -> Vec<Value> {
    let told = of.iter().map(|of| {
        json!({
            reference: parent(&of.parent),
            "controllerName": of.controller,
            "conditions": conditions(&of.conditions),
        })
    });
    told.collect()
}

fn condition(of: &Condition, generation: u64, since: &str) -> Value {
    json!({
        "type": of.kind,
        "status": if of.holds { "True" } else { "False" },
        "reason": of.reason,
        "message": of.message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

fn kind(of: &RouteKind) -> Value {
    json!({"group": of.group, "kind": of.kind})
}

fn parent(of: &ParentRef) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("group", of.to.group.clone().into());
    put("kind", of.to.kind.clone().into());
    if let Some(namespace) = &of.to.namespace {
        put("namespace", namespace.clone().into());
    }
    put("name", of.to.name.clone().into());
    if let Some(section) = &of.section {
        put("sectionName", section.clone().into());
    }
    if let Some(port) = of.port {
        put("port", port.into());
    }
    Value::Object(fields)
}

/// Whether objects of a kind of `api_version` have a status of ours.
pub fn has_status(api_version: &str) -> bool {
    api_version
        .split_once('/')
        .is_some_and(|(group, _)| group == GROUP)
}
