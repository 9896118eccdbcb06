//! Text to objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::catalogue::{Standing, standing};
use super::document::split;
use super::kube as kinds;
use super::object::{Key, Kind, Metadata, Object, Objects, places};
use super::reader::{Fields, Report, Value};
use super::status::has_status;
use super::tree::{Node, Tree};
use super::{codes, flagger, gateway_api, istio, linkerd, policy, smi};
use crate::mesh::destinations::ROOTS;
use crate::mesh::{Finding, Origin, Severity};

/// Reads every object of a YAML or JSON stream.
///
/// `file` is what findings call the text; `namespace` is for objects that name none. An object with
/// an error is left out; every mistake is a finding with its line and column.
pub fn parse(text: &str, file: &str, namespace: &str) -> (Vec<Object>, Vec<Finding>) {
    let mut reading = Reading {
        file: Some(Arc::from(file)),
        namespace,
        objects: Vec::new(),
        findings: Vec::new(),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for piece in split(text) {
        if piece.is_blank() {
            continue;
        }
        match Tree::read(piece.text, piece.line) {
            Ok(tree) => reading.document(&tree, ""),
            Err(error) => {
                let origin = Origin {
                    file: reading.file.clone(),
                    line: error.place.line.max(piece.line),
                    column: error.place.column.max(1),
                    ..Origin::default()
                };
                let mut finding =
                    Finding::new(Severity::Error, codes::SYNTAX, &origin, error.message);
                finding.hint = Some(syntax_hint(&finding.message, piece.text).to_owned());
                reading.findings.push(finding);
            }
        }
    }
    let mut findings = reading.findings;
    findings.sort_by_key(|finding| (finding.origin.line, finding.origin.column));
    (reading.objects, findings)
}

fn syntax_hint(message: &str, text: &str) -> &'static str {
    if message.contains("tab") || text.lines().any(|line| line.starts_with('\t')) {
        "YAML is indented with spaces; replace the tab"
    } else if message.contains("mapping values are not allowed") {
        "put a text that has \": \" in it in quotes, or check the indentation"
    } else if message.contains("written twice") {
        "remove one of them"
    } else {
        "check the brackets, quotes and indentation here and on the line above"
    }
}

/// Reads one object from its raw form.
pub fn from_value(value: &serde_json::Value, file: &str) -> (Option<Object>, Vec<Finding>) {
    one(&Tree::from_json(value), Some(Arc::from(file)))
}

/// Reads one object again as the store keeps it: its raw form, its file, and where in that each field
/// stood ([`Object::places`]).
pub fn from_store(
    value: &serde_json::Value,
    file: &str,
    places: &BTreeMap<String, (u32, u32)>,
) -> (Option<Object>, Vec<Finding>) {
    let mut tree = Tree::from_json(value);
    tree.put_places(places);
    one(&tree, Some(Arc::from(file)))
}

/// Reads an object as a cluster keeps it. Its findings have no file, only its name.
pub fn from_cluster(value: &serde_json::Value) -> (Option<Object>, Vec<Finding>) {
    one(&Tree::from_json(value), None)
}

fn one(tree: &Tree, file: Option<Arc<str>>) -> (Option<Object>, Vec<Finding>) {
    let mut reading = Reading {
        file,
        namespace: "default",
        objects: Vec::new(),
        findings: Vec::new(),
    };
    reading.document(tree, "");
    (reading.objects.pop(), reading.findings)
}

/// Files `objects` by key. An object that is written twice is an error, and the first stays.
pub fn collect(objects: Vec<Object>) -> (Objects, Vec<Finding>) {
    let mut filed = Objects::new();
    let mut findings = Vec::new();
    for object in objects {
        let key: Key = object.key();
        if let Some(first) = filed.get(&key) {
            let message = format!("{key} is written twice; the first is at {}", place(first));
            findings.push(
                object
                    .finding(Severity::Error, codes::DUPLICATE, "metadata.name", message)
                    .hint("remove one of them, or give it another name"),
            );
        } else {
            filed.insert(key, Arc::new(object));
        }
    }
    (filed, findings)
}

fn place(object: &Object) -> String {
    let file = object.origin.file.as_deref().unwrap_or("?");
    format!("{file}:{}", object.origin.line)
}

struct Reading<'a> {
    /// None for objects that come from a cluster: their names say where they are.
    file: Option<Arc<str>>,
    namespace: &'a str,
    objects: Vec<Object>,
    findings: Vec<Finding>,
}

impl Reading<'_> {
    fn document(&mut self, tree: &Tree, path: &str) {
        let text = |key: &str| tree.get(key).and_then(Tree::text).unwrap_or_default();
        let metadata = |key: &str| {
            let value = tree.get("metadata").and_then(|m| m.get(key));
            value.and_then(Tree::text).unwrap_or_default().to_owned()
        };
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let mut origin = Origin {
            kind: kind.to_owned(),
            namespace: metadata("namespace"),
            name: metadata("name"),
            file: self.file.clone(),
            line: tree.place.line,
            column: tree.place.column,
        };
        if origin.namespace.is_empty() && !kind.is_empty() {
            self.namespace.clone_into(&mut origin.namespace);
        }
        let at = |key: &str| {
            let place = tree.get(key).unwrap_or(tree).place;
            Origin {
                line: place.line,
                column: place.column,
                ..origin.clone()
            }
        };
        if !matches!(tree.node, Node::Map(_)) {
            let message = format!("expected an object, found {}", tree.node.describe());
            self.findings.push(
                Finding::new(Severity::Error, codes::SCHEMA, &origin, message)
                    .at(path)
                    .hint("an object has apiVersion, kind, metadata and spec"),
            );
            return;
        }
        if api_version.is_empty() || kind.is_empty() {
            let (field, example) = if kind.is_empty() {
                ("kind", "Deployment")
            } else {
                ("apiVersion", "v1")
            };
            let message = match tree.get(field) {
                Some(value) => format!("expected text, found {}", value.node.describe()),
                None => format!("field {field:?} is missing"),
            };
            self.findings.push(
                Finding::new(Severity::Error, codes::SCHEMA, &at(field), message)
                    .at(field)
                    .hint(format!("such as {field}: {example}")),
            );
            return;
        }
        if kind.ends_with("List") && tree.get("items").is_some() {
            if let Some(Node::List(items)) = tree.get("items").map(|items| &items.node) {
                for (index, item) in items.iter().enumerate() {
                    self.document(item, &format!("items[{index}]"));
                }
            }
            return;
        }
        let refuse = |code: &str, message: String, hint: String| {
            Finding::new(Severity::Error, code, &at("kind"), message)
                .at("kind")
                .hint(hint)
        };
        match standing(api_version, kind) {
            Standing::Read {
                kind,
                namespaced,
                modern,
            } => {
                if !namespaced {
                    origin.namespace.clear();
                }
                kind.clone_into(&mut origin.kind);
                self.object(tree, origin, kind, namespaced, modern);
            }
            Standing::Unused { restricts } => {
                let (severity, hint) = if restricts {
                    (
                        Severity::Warning,
                        "it has its effect on a cluster only; inside the mesh nothing is changed by it",
                    )
                } else {
                    (Severity::Info, "it has its effect on a cluster only")
                };
                let message = format!("{kind} is none of the mesh's business and is left out");
                self.findings.push(
                    Finding::new(severity, codes::IGNORED, &at("kind"), message)
                        .at("kind")
                        .hint(hint),
                );
            }
            Standing::Refused(instead) => {
                let message = format!("{kind} ({api_version}) is not honoured by meshctl yet");
                self.findings
                    .push(refuse(codes::NOT_HONOURED, message, instead.to_owned()));
                if kind == "EnvoyFilter" {
                    self.patches(tree, &origin);
                }
            }
            Standing::OldPolicy => {
                let message =
                    format!("{kind} ({api_version}) is gone from Istio since 1.6 and is not read");
                let hint = istio::modern_policy(tree, &origin.name, &metadata("namespace"));
                self.findings
                    .push(refuse(codes::NOT_HONOURED, message, hint));
            }
            Standing::Unknown(hint) => {
                let message = format!("unknown kind {kind} of apiVersion {api_version}");
                self.findings
                    .push(refuse(codes::UNKNOWN_KIND, message, hint));
            }
        }
    }

    /// Says of each patch of an EnvoyFilter what it is about, and the native way to that.
    fn patches(&mut self, tree: &Tree, origin: &Origin) {
        for patch in istio::native(tree) {
            if patch.sets.is_empty() {
                continue;
            }
            let place = patch.tree.place;
            let origin = Origin {
                line: place.line,
                column: place.column,
                ..origin.clone()
            };
            let message = format!("this patch is about {}", patch.sets);
            self.findings.push(
                Finding::new(Severity::Error, codes::NOT_HONOURED, &origin, message)
                    .at(&patch.path)
                    .hint(patch.hint),
            );
        }
    }

    fn object(
        &mut self,
        tree: &Tree,
        origin: Origin,
        kind: &'static str,
        namespaced: bool,
        modern: Option<&'static str>,
    ) {
        let report = Report::new(origin.clone());
        let fields = Value::root(tree, &report).fields();
        let api_version = fields.text("apiVersion").unwrap_or_default();
        fields.accept(&["kind", "status"]);
        if let (Some(modern), Some(written)) = (modern, fields.get("apiVersion")) {
            let (since, more) = match kind {
                "Ingress" => (
                    "1.22",
                    ", a pathType for each path, and defaultBackend and service: {name, port} in place of backend, serviceName and servicePort",
                ),
                "IngressClass" => ("1.22", ""),
                _ => (
                    "1.16",
                    ", and spec.selector.matchLabels with the labels of the template",
                ),
            };
            written.warn(
                codes::DEPRECATED,
                format!(
                    "{kind} of {api_version} is gone from clusters since {since}; read as {modern}"
                ),
                format!("write apiVersion: {modern}{more}"),
            );
        }
        let metadata = metadata(&fields, &origin.namespace);
        let body = body(kind, &fields, &metadata, modern.is_some());
        fields.finish();
        let failed = report.failed();
        self.findings.extend(report.into_findings());
        if failed {
            return;
        }
        let mut raw = tree.to_json();
        if namespaced && let Some(serde_json::Value::Object(written)) = raw.get_mut("metadata") {
            written.insert("namespace".to_owned(), origin.namespace.clone().into());
        }
        // What a status says, and how often an object has changed, is not for who writes it.
        if let (Some(_), true, serde_json::Value::Object(written)) =
            (&self.file, has_status(&api_version), &mut raw)
        {
            written.remove("status");
            if let Some(serde_json::Value::Object(metadata)) = written.get_mut("metadata") {
                metadata.remove("generation");
            }
        }
        self.objects.push(Object {
            api_version,
            kind,
            metadata,
            origin,
            body,
            raw,
            places: places(tree),
        });
    }
}

fn metadata(fields: &Fields<'_>, namespace: &str) -> Metadata {
    let Some(value) = fields.require("metadata") else {
        return Metadata::default();
    };
    let fields = value.fields();
    fields.accept(&[
        "generateName",
        "uid",
        "resourceVersion",
        "generation",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "clusterName",
        "initializers",
    ]);
    let name = fields.require("name").and_then(|value| {
        let name = value.text()?;
        name_ok(&value, &name).then_some(name)
    });
    if let Some(value) = fields.get("namespace")
        && let Some(text) = value.text()
    {
        name_ok(&value, &text);
    }
    let metadata = Metadata {
        name: name.unwrap_or_default(),
        namespace: namespace.to_owned(),
        labels: fields.texts("labels"),
        annotations: fields.texts("annotations"),
        created: fields.text("creationTimestamp"),
    };
    fields.finish();
    metadata
}

/// Names of objects become host names and file names.
fn name_ok(value: &Value<'_>, name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ok = name.len() <= 253
        && name
            .bytes()
            .all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain);
    if !ok {
        value.error_hint(
            format!("{name:?} is not a name"),
            "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit, at most 253",
        );
    }
    ok
}

fn body(kind: &str, fields: &Fields<'_>, metadata: &Metadata, old: bool) -> Kind {
    match kind {
        "Namespace" => {
            fields.accept(&["spec"]);
            Kind::Namespace(kinds::Namespace::default())
        }
        "Service" => Kind::Service(kinds::service(fields)),
        "Pod" => Kind::Pod(kinds::pod(fields, metadata)),
        "ServiceAccount" => {
            fields.accept(&[
                "secrets",
                "imagePullSecrets",
                "automountServiceAccountToken",
            ]);
            Kind::ServiceAccount
        }
        "ConfigMap" => {
            let data = fields.texts("data");
            fields.accept(&["binaryData", "immutable"]);
            let root = ROOTS.contains(&metadata.namespace.as_str());
            let mesh = fields
                .get("data")
                .filter(|_| root && metadata.name == "istio");
            let mesh = mesh.and_then(|value| {
                let mut entries = value.entries().into_iter();
                let (_, value) = entries.find(|(name, _)| *name == "mesh")?;
                istio::mesh_config(&value).map(Box::new)
            });
            Kind::ConfigMap(kinds::ConfigMap { data, mesh })
        }
        "Secret" => {
            fields.accept(&["data", "stringData", "type", "immutable"]);
            Kind::Secret
        }
        "EndpointSlice" => Kind::EndpointSlice(kinds::endpoint_slice(fields, metadata)),
        "Ingress" => Kind::Ingress(kinds::ingress(fields, old)),
        "IngressClass" => Kind::IngressClass(kinds::ingress_class(fields)),
        "VirtualService" => Kind::VirtualService(istio::virtual_service(fields)),
        "DestinationRule" => Kind::DestinationRule(istio::destination_rule(fields)),
        "ServiceEntry" => Kind::ServiceEntry(istio::service_entry(fields)),
        "Gateway" => Kind::Gateway(istio::gateway(fields)),
        "Sidecar" => Kind::Sidecar(istio::sidecar(fields)),
        "WorkloadEntry" => Kind::WorkloadEntry(istio::workload_entry(fields)),
        "WorkloadGroup" => Kind::WorkloadGroup(istio::workload_group(fields)),
        "TrafficSplit" => Kind::TrafficSplit(smi::traffic_split(fields)),
        "HTTPRouteGroup" => Kind::HttpRouteGroup(smi::http_route_group(fields)),
        "ServiceProfile" => Kind::ServiceProfile(linkerd::service_profile(fields)),
        "ProxyConfig" => Kind::ProxyConfig(istio::proxy_config(fields)),
        "PeerAuthentication" => Kind::PeerAuthentication(istio::peer_authentication(fields)),
        "RequestAuthentication" => {
            Kind::RequestAuthentication(istio::request_authentication(fields))
        }
        "AuthorizationPolicy" => Kind::AuthorizationPolicy(istio::authorization_policy(fields)),
        "Telemetry" => Kind::Telemetry(istio::telemetry(fields)),
        "GatewayClass" => Kind::GatewayClass(gateway_api::gateway_class(fields)),
        "Gateway.gateway.networking.k8s.io" => Kind::ListeningGateway(gateway_api::gateway(fields)),
        "HTTPRoute" => Kind::HttpRoute(gateway_api::http_route(fields)),
        "GRPCRoute" => Kind::GrpcRoute(gateway_api::grpc_route(fields)),
        "TLSRoute" => Kind::TlsRoute(gateway_api::tls_route(fields)),
        "TCPRoute" => Kind::TcpRoute(gateway_api::tcp_route(fields)),
        "ReferenceGrant" => Kind::ReferenceGrant(gateway_api::reference_grant(fields)),
        "BackendTLSPolicy" => Kind::BackendTlsPolicy(gateway_api::backend_tls_policy(fields)),
        "RateLimitPolicy" => Kind::RateLimitPolicy(policy::rate_limit_policy(fields)),
        "CompressionPolicy" => Kind::CompressionPolicy(policy::compression_policy(fields)),
        "FaultInjection" => Kind::FaultInjection(policy::fault_injection(fields)),
        "HeaderPolicy" => Kind::HeaderPolicy(policy::header_policy(fields)),
        "ShadowDiff" => Kind::ShadowDiff(policy::shadow_diff(fields)),
        "Canary" => Kind::Canary(Box::new(policy::canary(fields))),
        "Canary.flagger.app" => Kind::Canary(Box::new(flagger::canary(fields))),
        _ => Kind::Workload(kinds::workload(kind, fields, old)),
    }
}
