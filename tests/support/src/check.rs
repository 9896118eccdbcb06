//! What kinds demand of their objects beyond their fields: the rules that people break most.

use serde_json::Value;

use crate::kinds::Kind;
use crate::schema;
use crate::select::Select;
use crate::status::{Answer, Cause, Refusal};

/// Judges an object, whole and with its defaults.
pub fn create(kind: &Kind, object: &Value) -> Answer<()> {
    if let Some(wrong) = crate::validation::mistyped(kind, object) {
        return Err(Refusal::bad(wrong));
    }
    let mut causes = Vec::new();
    if let Some(version) = &kind.custom {
        causes = schema::check(&version["schema"]["openAPIV3Schema"], object);
    }
    match kind.key().as_str() {
        "pods" => pod(&object["spec"], "spec", &mut causes),
        "deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps" => {
            workload(&object["spec"], &mut causes);
        }
        "jobs.batch" => pod(
            &object["spec"]["template"]["spec"],
            "spec.template.spec",
            &mut causes,
        ),
        "services" => service(&object["spec"], &mut causes),
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            webhooks(object, &mut causes);
        }
        crate::server::DEFINITIONS => definition(object, &mut causes),
        _ => {}
    }
    labels(&object["metadata"]["labels"], &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Refusal::invalid(&kind.kind, &kind.group, name, &causes))
}

fn labels(labels: &Value, causes: &mut Vec<Cause>) {
    let is = |text: &str| {
        text.len() <= 63
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !text.starts_with(['-', '_', '.'])
            && !text.ends_with(['-', '_', '.'])
    };
    for (name, value) in labels.as_object().into_iter().flatten() {
        let last = name.rsplit('/').next().unwrap_or_default();
        if last.is_empty() || !is(last) {
            causes.push(Cause::invalid("metadata.labels", &name.as_str().into(), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
        if value.as_str().is_none_or(|v| !is(v)) {
            causes.push(Cause::invalid("metadata.labels", value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"));
        }
    }
}

fn pod(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        let containers = spec[list].as_array();
        if list == "containers" && containers.is_none_or(Vec::is_empty) {
            causes.push(Cause::required(format!("{path}.containers")));
        }
        for (i, container) in containers.into_iter().flatten().enumerate() {
            let at = format!("{path}.{list}[{i}]");
            let name = container["name"].as_str().unwrap_or_default();
            if name.is_empty() {
                causes.push(Cause::required(format!("{at}.name")));
            } else if seen.contains(&name) {
                causes.push(Cause {
                    field: format!("{at}.name"),
                    reason: "FieldValueDuplicate",
                    message: format!("Duplicate value: \"{name}\""),
                });
            }
            seen.push(name);
            if container["image"].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required(format!("{at}.image")));
            }
            let volumes = spec["volumes"].as_array();
            for (m, mount) in container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                let mut there = volumes.into_iter().flatten();
                if !there.any(|v| v["name"] == mount["name"]) {
                    causes.push(Cause {
                        field: format!("{at}.volumeMounts[{m}].name"),
                        reason: "FieldValueNotFound",
                        message: format!("Not found: {}", mount["name"]),
                    });
                }
            }
            if list == "initContainers"
                && container["restartPolicy"] != "Always"
                && [
                    "readinessProbe",
                    "livenessProbe",
                    "startupProbe",
                    "lifecycle",
                ]
                .iter()
                .any(|probe| container[*probe].is_object())
            {
                causes.push(Cause {
                    field: at,
                    reason: "FieldValueForbidden",
                    message:
                        "Forbidden: may not have probes or lifecycle without restartPolicy=Always"
                            .into(),
                });
            }
        }
    }
}

fn workload(spec: &Value, causes: &mut Vec<Cause>) {
    let selector = &spec["selector"];
    if !selector.is_object() {
        causes.push(Cause::required("spec.selector"));
    } else if !Select::of_object(selector).takes_labels(&spec["template"]["metadata"]["labels"]) {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            &spec["template"]["metadata"]["labels"],
            "`selector` does not match template `labels`",
        ));
    }
    let template = &spec["template"]["spec"];
    pod(template, "spec.template.spec", causes);
    if template["restartPolicy"] != "Always" {
        causes.push(Cause {
            field: "spec.template.spec.restartPolicy".into(),
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {}: supported values: \"Always\"",
                template["restartPolicy"]
            ),
        });
    }
    if spec["replicas"].as_i64().is_some_and(|n| n < 0) {
        causes.push(Cause::invalid(
            "spec.replicas",
            &spec["replicas"],
            "must be greater than or equal to 0",
        ));
    }
}

fn service(spec: &Value, causes: &mut Vec<Cause>) {
    let ports = spec["ports"].as_array();
    let count = ports.map_or(0, Vec::len);
    if count == 0 && spec["type"] != "ExternalName" && spec["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports"));
    }
    for (i, port) in ports.into_iter().flatten().enumerate() {
        if port["port"]
            .as_i64()
            .is_none_or(|p| !(1..65_536).contains(&p))
        {
            causes.push(Cause::invalid(
                format!("spec.ports[{i}].port"),
                &port["port"],
                "must be between 1 and 65535, inclusive",
            ));
        }
        if count > 1 && port["name"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("spec.ports[{i}].name")));
        }
    }
}

fn webhooks(object: &Value, causes: &mut Vec<Cause>) {
    for (i, hook) in object["webhooks"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = format!("webhooks[{i}]");
        let name = hook["name"].as_str().unwrap_or_default();
        if name.split('.').filter(|p| !p.is_empty()).count() < 3 {
            causes.push(Cause::invalid(
                format!("{at}.name"),
                &hook["name"],
                "should be a domain with at least three segments separated by dots",
            ));
        }
        if !matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")) {
            causes.push(Cause {
                field: format!("{at}.sideEffects"),
                reason: "FieldValueNotSupported",
                message: format!(
                    "Unsupported value: {}: supported values: \"None\", \"NoneOnDryRun\"",
                    hook["sideEffects"]
                ),
            });
        }
        let versions = hook["admissionReviewVersions"].as_array();
        if !versions.into_iter().flatten().any(|v| v == "v1") {
            causes.push(Cause::invalid(
                format!("{at}.admissionReviewVersions"),
                &hook["admissionReviewVersions"],
                "must include at least one of v1",
            ));
        }
        let client = &hook["clientConfig"];
        if client["url"].is_string() == client["service"].is_object() {
            causes.push(Cause::required(format!("{at}.clientConfig")));
        }
        if hook["timeoutSeconds"]
            .as_i64()
            .is_some_and(|t| !(1..=30).contains(&t))
        {
            causes.push(Cause::invalid(
                format!("{at}.timeoutSeconds"),
                &hook["timeoutSeconds"],
                "the timeout value must be between 1 and 30 seconds",
            ));
        }
        if hook["matchConditions"]
            .as_array()
            .is_some_and(|c| !c.is_empty())
        {
            causes.push(Cause {
                field: format!("{at}.matchConditions"),
                reason: "FieldValueForbidden",
                message: "Forbidden: this API server in memory cannot judge conditions in CEL"
                    .into(),
            });
        }
    }
}

fn definition(object: &Value, causes: &mut Vec<Cause>) {
    let spec = &object["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let wanted = format!(
        "{}.{}",
        text(&spec["names"]["plural"]),
        text(&spec["group"])
    );
    if object["metadata"]["name"] != wanted.as_str() {
        causes.push(Cause::invalid(
            "metadata.name",
            &object["metadata"]["name"],
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let versions = spec["versions"].as_array();
    let stored = versions.into_iter().flatten();
    if stored.filter(|v| v["storage"] == true).count() != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions.into_iter().flatten().enumerate() {
        let schema = &version["schema"]["openAPIV3Schema"];
        let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
        schema::check_definition(schema, &path, causes);
    }
}
