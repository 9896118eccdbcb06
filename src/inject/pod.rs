//! Putting the sidecar in.

use serde_json::{Map, Value, json};

use super::annotations::Wishes;
use super::capture;
use super::container::{self, Facts};
use super::ids::{ids, refuse_shared_ids};
use super::owner;
use super::probes;
use super::proxy_config::Settings;
use super::report::Report;
use super::strip::{Override, STATUS, Status, strip};
use super::{InjectConfig, Pod};

/// The container that is put beside applications.
pub const PROXY: &str = "meshctl-proxy";
pub(super) const INIT: &str = "meshctl-init";
/// Istio's name for its own.
const ISTIO_PROXY: &str = "istio-proxy";
const METRICS: [&str; 3] = [
    "prometheus.io/scrape",
    "prometheus.io/port",
    "prometheus.io/path",
];

/// `pod` with its sidecar; `None` when it is refused, and the report says why.
pub(super) fn inject(pod: Pod<'_>, config: &InjectConfig, report: &mut Report) -> Option<Value> {
    let mut template = pod.template.clone();
    strip(&mut template);
    if !sound(&template, report) {
        return None;
    }
    let mut wishes = Wishes::of(&template, report);
    let settings = Settings::of(&template, pod.namespace.name(), &config.proxies, report);
    let mut status = Status {
        revision: config.revision.clone(),
        ..Status::default()
    };
    let overrides = take_overrides(&mut template, &mut status);
    let laid_over = |name: &str| overrides.iter().find(|own| own.name() == name);
    let ids = ids(pod, laid_over(PROXY), report);
    refuse_shared_ids(&template, ids, report);
    let native = native(&template, &wishes, config, report);
    let hold = settings.hold_application.unwrap_or(config.hold_application);
    let workload = owner::workload(&template, pod.workload);
    let status_port = status_port(&template, (&mut wishes, &settings), config, report);
    let scrape = scrape(&template, (&wishes, status_port), config, report);
    let facts = Facts {
        service: service(&template, &workload).to_owned(),
        version: revision(&template).to_owned(),
        ids,
        native,
        hold: hold && !native,
        scrape: scrape.clone(),
        status_port,
        ports: container::ports(&template),
        grace: template
            .pointer("/spec/terminationGracePeriodSeconds")
            .and_then(Value::as_u64)
            .unwrap_or(30),
    };
    let spec = template.get_mut("spec")?.as_object_mut()?;
    let questions = if wishes.rewrite_probes.unwrap_or(config.rewrite_probes) {
        let done = probes::rewrite(spec, (&[PROXY, INIT], status_port), report);
        status.probes = done.before;
        done.questions
    } else {
        Map::new()
    };
    let mut proxy = container::proxy(&facts, &wishes, (&settings, &questions), config);
    let image = wishes.image.as_deref().unwrap_or(&config.image);
    let mut init = capture::init(config, (image, &wishes.capture), ids);
    for (ours, name) in [(&mut proxy, PROXY), (&mut init, INIT)] {
        if let Some(policy) = &config.image_pull_policy
            && let Some(ours) = ours.as_object_mut()
        {
            ours.insert("imagePullPolicy".to_owned(), json!(policy));
        }
        if let Some(own) = laid_over(name) {
            lay_over(ours, &own.container, report);
        }
    }
    place(spec, (init, proxy), &facts, &mut status);
    let volumes = container::volumes(config);
    volumes_in(spec, volumes, &wishes, &mut status, report);
    pull_secrets(spec, &config.image_pull_secrets, &mut status);
    metadata(&mut template, &facts, scrape.is_some(), &mut status);
    let text = serde_json::to_string(&status).unwrap_or_default();
    if let Some(Value::Object(annotations)) = template.pointer_mut("/metadata/annotations") {
        annotations.insert(STATUS.to_owned(), Value::String(text));
    }
    Some(template)
}

fn sound(template: &Value, report: &mut Report) -> bool {
    let containers = template.pointer("/spec/containers");
    if containers
        .and_then(Value::as_array)
        .is_none_or(Vec::is_empty)
    {
        report.wrong(
            "the pod has no containers",
            "containers: [{name: app, image: …}]",
        );
        return false;
    }
    for field in ["metadata", "metadata/labels", "metadata/annotations"] {
        let value = template.pointer(&format!("/{field}"));
        if value.is_some_and(|value| !value.is_object() && !value.is_null()) {
            let field = field.replace('/', ".");
            report.wrong(
                format!("{field} is not a mapping"),
                "write it as key: value",
            );
            return false;
        }
    }
    for field in [
        "initContainers",
        "containers",
        "volumes",
        "imagePullSecrets",
    ] {
        let value = template.pointer(&format!("/spec/{field}"));
        if value.is_some_and(|value| !value.is_array() && !value.is_null()) {
            report.wrong(
                format!("spec.{field} is not a list"),
                "write its items with a dash",
            );
            return false;
        }
        let items = value.and_then(Value::as_array).into_iter().flatten();
        let names: Vec<&str> = items
            .filter_map(|item| item.get("name")?.as_str())
            .collect();
        if field == "volumes"
            && let Some(taken) = names.iter().find(|name| container::VOLUMES.contains(*name))
        {
            report.wrong(
                format!("spec.volumes has {taken:?}, which the sidecar needs"),
                "give it another name, or keep the annotation sidecar.istio.io/status that says who added it",
            );
            return false;
        }
        if names.contains(&ISTIO_PROXY) {
            report.refuse(
                format!("spec.{field} has {ISTIO_PROXY}, Istio's sidecar or what is laid over it"),
                format!("name it {PROXY} to lay it over this sidecar, or remove it"),
            );
            return false;
        }
    }
    let only_ours = containers
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .all(|container| container.get("name").and_then(Value::as_str) == Some(PROXY));
    if only_ours {
        report.refuse(
            "the pod has no container beside the sidecar",
            "a gateway is `meshctl proxy --gateway` in a pod of its own",
        );
        return false;
    }
    true
}

/// What the user says of our containers is taken out, and laid over them later.
fn take_overrides(template: &mut Value, status: &mut Status) -> Vec<Override> {
    let mut taken = Vec::new();
    for list in ["containers", "initContainers"] {
        let items = template.pointer_mut(&format!("/spec/{list}"));
        let Some(Value::Array(items)) = items else {
            continue;
        };
        let mut at = 0;
        let mut index = 0;
        while at < items.len() {
            let name = items.get(at).and_then(|item| item.get("name")?.as_str());
            if matches!(name, Some(PROXY | INIT)) {
                let container = items.remove(at);
                taken.push(Override {
                    list: list.to_owned(),
                    index,
                    container,
                });
            } else {
                at += 1;
            }
            index += 1;
        }
    }
    status.overrides.clone_from(&taken);
    taken
}

/// Mappings are merged, lists of what has names by name, all else is as the user says. An image `auto` is
/// ours, as with Istio.
fn lay_over(ours: &mut Value, own: &Value, report: &mut Report) {
    let mut own = own.clone();
    if let Some(own) = own.as_object_mut() {
        if own.get("image").and_then(Value::as_str) == Some("auto") {
            own.shift_remove("image");
        }
        let asks = |pointer: &str| {
            own.get("securityContext")
                .and_then(|all| all.pointer(pointer))
        };
        if asks("/privileged") == Some(&Value::Bool(true)) || asks("/runAsUser") == Some(&json!(0))
        {
            report.warn(
                "the sidecar is given more rights than it needs by the container laid over it",
                "remove its securityContext",
            );
        }
    }
    merge(ours, own);
}

fn merge(ours: &mut Value, own: Value) {
    match (ours, own) {
        (Value::Object(ours), Value::Object(own)) => {
            for (key, value) in own {
                match ours.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => {
                        ours.insert(key, value);
                    }
                }
            }
        }
        (Value::Array(ours), Value::Array(own))
            if own.iter().all(|item| key_of(item).is_some()) =>
        {
            for item in own {
                let key = key_of(&item);
                match ours.iter_mut().find(|there| key_of(there) == key) {
                    // A variable that is given a value has no other source.
                    Some(there) if there.get("valueFrom").is_some() => *there = item,
                    Some(there) => merge(there, item),
                    None => ours.push(item),
                }
            }
        }
        (ours, own) => *ours = own,
    }
}

/// By what Kubernetes tells items of a list apart: mounts by their path.
fn key_of(item: &Value) -> Option<String> {
    let text = |field: &str| Some(item.get(field)?.as_str()?.to_owned());
    text("mountPath").or_else(|| text("name"))
}

/// Whether the proxy is an init container that stays. A pod that is meant to end can only have that: else it
/// would run for as long as its proxy does. Every version that is still cared for has it.
fn native(template: &Value, wishes: &Wishes, config: &InjectConfig, report: &mut Report) -> bool {
    let has = config.kubernetes.map(|version| version >= (1, 29));
    let policy = template
        .pointer("/spec/restartPolicy")
        .and_then(Value::as_str);
    let ends = matches!(policy, Some("Never" | "OnFailure"));
    let said = wishes.native_sidecar.or(config.native_sidecar);
    if said == Some(true) && has == Some(false) {
        report.refuse(
            "a native sidecar is asked for, and the cluster has none",
            "Kubernetes 1.29 has; remove sidecar.istio.io/nativeSidecar",
        );
    }
    let native = said.or(has).unwrap_or(ends);
    if ends && !native {
        report.warn(
            "the pod is meant to end, and does not while its proxy runs",
            "a native sidecar (Kubernetes 1.29) ends with it; else have it end with curl -X POST http://127.0.0.1:15020/quitquitquit",
        );
    }
    native
}

/// Where the proxy answers for the application.
fn status_port(
    template: &Value,
    (wishes, settings): (&mut Wishes, &Settings),
    config: &InjectConfig,
    report: &mut Report,
) -> u16 {
    let usual = super::annotations::OWN_STATUS_PORT;
    let port = wishes.status_port.or(settings.status_port).unwrap_or(usual);
    if port == 0 {
        // As with Istio: nobody answers for the application.
        wishes.rewrite_probes = Some(false);
        wishes.merge_metrics = Some(false);
        return usual;
    }
    let own = [
        config.outbound_port,
        config.inbound_port,
        15_000,
        15_021,
        15_053,
        15_090,
    ];
    let declared = container::ports(template);
    if own.contains(&port) || declared.iter().any(|(taken, _)| *taken == u64::from(port)) {
        report.refuse(
            format!("the proxy cannot answer for the application at port {port}, which is in use"),
            "status.sidecar.istio.io/port or statusPort: 15020, or another port that is free",
        );
        return usual;
    }
    if port != usual {
        wishes.capture.exclude_inbound.push(port);
    }
    port
}

/// `PORT/PATH` of the application's metrics, where they are to come with ours.
fn scrape(
    template: &Value,
    (wishes, status_port): (&Wishes, u16),
    config: &InjectConfig,
    report: &mut Report,
) -> Option<Scrape> {
    if !wishes.merge_metrics.unwrap_or(config.merge_metrics) {
        return None;
    }
    let annotations = template.pointer("/metadata/annotations");
    let said = |name: &str| annotations?.get(name)?.as_str();
    let [scrape, port, path] = METRICS;
    match said(scrape) {
        Some("false") => None,
        Some("true") => {
            let port = said(port).unwrap_or("80");
            let Ok(number) = port.parse::<u16>() else {
                report.warn(
                    format!("annotation prometheus.io/port: {port:?} is no port, and the application's metrics are not merged"),
                    "a number, as \"9090\"",
                );
                return None;
            };
            let path = said(path).unwrap_or("/metrics");
            let slash = if path.starts_with('/') { "" } else { "/" };
            // Already ours, as in a template that was made from a meshed pod.
            let ours = number == status_port;
            Some(Scrape((!ours).then(|| format!("{number}{slash}{path}"))))
        }
        _ => Some(Scrape(None)),
    }
}

/// Metrics are scraped from the proxy, with those of the application at `PORT/PATH` if it has any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scrape(pub(super) Option<String>);

/// Where the containers go.
fn place(
    spec: &mut Map<String, Value>,
    (init, proxy): (Value, Value),
    facts: &Facts,
    status: &mut Status,
) {
    status.init_containers = vec![INIT.to_owned()];
    let inits = list(spec, "initContainers", status);
    if facts.native {
        status.init_containers.push(PROXY.to_owned());
        // Before the others, so that these already have the mesh.
        inits.insert(0, proxy);
        inits.insert(0, init);
        return;
    }
    // After the others: once capture is on, nothing gets through before the proxy runs.
    inits.push(init);
    status.containers = vec![PROXY.to_owned()];
    let containers = list(spec, "containers", status);
    if facts.hold {
        // The kubelet starts the next one when the hook of this one has ended.
        containers.insert(0, proxy);
    } else {
        containers.push(proxy);
    }
}

fn volumes_in(
    spec: &mut Map<String, Value>,
    mut volumes: Vec<Value>,
    wishes: &Wishes,
    status: &mut Status,
    report: &mut Report,
) {
    let there = list(spec, "volumes", status);
    for volume in &wishes.volumes {
        let taken = |other: &Value| other.get("name") == volume.get("name");
        if there.iter().chain(&volumes).any(taken) {
            report.wrong(
                format!(
                    "annotation sidecar.istio.io/userVolume: the pod has a volume {} already",
                    volume.get("name").unwrap_or(&Value::Null)
                ),
                "give it another name, or only mount it with sidecar.istio.io/userVolumeMount",
            );
            continue;
        }
        volumes.push(volume.clone());
    }
    status.volumes = volumes
        .iter()
        .filter_map(|volume| Some(volume.get("name")?.as_str()?.to_owned()))
        .collect();
    there.append(&mut volumes);
}

fn pull_secrets(spec: &mut Map<String, Value>, names: &[String], status: &mut Status) {
    if names.is_empty() {
        return;
    }
    let there = list(spec, "imagePullSecrets", status);
    for name in names {
        let item = json!({"name": name});
        if !there.contains(&item) {
            there.push(item);
            status.image_pull_secrets.push(name.clone());
        }
    }
}

fn label<'a>(template: &'a Value, names: &[&str]) -> Option<&'a str> {
    let labels = template.get("metadata")?.get("labels")?;
    names.iter().find_map(|name| labels.get(*name)?.as_str())
}

/// Istio's canonical service of a pod.
fn service<'a>(template: &'a Value, owner: &'a str) -> &'a str {
    let names = [
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ];
    label(template, &names).unwrap_or(owner)
}

/// Istio's canonical revision of a pod.
fn revision(template: &Value) -> &str {
    let names = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    label(template, &names).unwrap_or("latest")
}

fn metadata(template: &mut Value, facts: &Facts, scraped: bool, status: &mut Status) {
    let add_labels = [
        ("security.istio.io/tlsMode", "istio".to_owned()),
        ("service.istio.io/canonical-name", facts.service.clone()),
        ("service.istio.io/canonical-revision", facts.version.clone()),
    ];
    let first = template
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|container| container.get("name")?.as_str())
        .find(|name| *name != PROXY)
        .unwrap_or_default()
        .to_owned();
    let add_annotations = [
        ("istio.io/rev", status.revision.clone()),
        ("kubectl.kubernetes.io/default-container", first.clone()),
        ("kubectl.kubernetes.io/default-logs-container", first),
    ];
    let Some(template) = template.as_object_mut() else {
        return;
    };
    let metadata = object(template, "metadata", status);
    let labels = object(metadata, "labels", status);
    status.labels = insert(labels, &add_labels);
    let annotations = object(metadata, "annotations", status);
    status.annotations = insert(annotations, &add_annotations);
    if scraped {
        let port = facts.status_port.to_string();
        for (name, value) in METRICS
            .into_iter()
            .zip(["true", &port, "/stats/prometheus"])
        {
            let before = annotations.insert(name.to_owned(), json!(value));
            match before {
                Some(before) => {
                    status.replaced.insert(name.to_owned(), before);
                }
                None => status.annotations.push(name.to_owned()),
            }
        }
    }
}

/// Adds what is not there yet; the names of what was added.
fn insert(map: &mut Map<String, Value>, add: &[(&str, String)]) -> Vec<String> {
    let mut added = Vec::new();
    for (key, value) in add {
        if !map.contains_key(*key) {
            map.insert((*key).to_owned(), Value::String(value.clone()));
            added.push((*key).to_owned());
        }
    }
    added
}

/// The mapping under `field`, made if it is not there.
fn object<'a>(
    parent: &'a mut Map<String, Value>,
    field: &str,
    status: &mut Status,
) -> &'a mut Map<String, Value> {
    let entry = made(parent, field, json!({}), status);
    match entry {
        Value::Object(map) => map,
        // Made one just above.
        _ => unreachable!("a mapping"),
    }
}

fn list<'a>(
    parent: &'a mut Map<String, Value>,
    field: &str,
    status: &mut Status,
) -> &'a mut Vec<Value> {
    match made(parent, field, json!([]), status) {
        Value::Array(list) => list,
        // Made one just above.
        _ => unreachable!("a list"),
    }
}

/// The value of `field`, which is `empty` if there was none; the status says what was.
fn made<'a>(
    parent: &'a mut Map<String, Value>,
    field: &str,
    empty: Value,
    status: &mut Status,
) -> &'a mut Value {
    let entry = parent.entry(field).or_insert_with(|| {
        status.created.push(field.to_owned());
        empty.clone()
    });
    if entry.is_null() {
        status.nulls.push(field.to_owned());
        *entry = empty;
    }
    entry
}
