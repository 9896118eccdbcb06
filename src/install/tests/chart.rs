//! The chart in `assets/helm/meshctl`, which renders what `install` applies.
//!
//! It is made from the objects of an installation whose settings are marks: where a mark is, a template
//! gets the value. So the two cannot drift apart: a change of an object makes this test fail once and
//! write the chart anew, and `tests/interop/helm.rs` holds what Helm makes of it against a dry run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::settings::{SIGNER, SIGNER_ROOT, SIGNER_TOKEN};
use super::super::{
    INJECTOR, KEYS, NAME, Profile, SETTINGS_FILE, Settings, crd, objects, of_revision,
};
use crate::resource::json::write;

/// Marks, and what stands in their place. The longer ones first, as others are parts of them.
const MARKS: &[(&str, &str)] = &[
    ("-zzrev", "{{ $s.suffix }}"),
    ("zzrev", "{{ $s.revision }}"),
    ("zzns", "{{ $.Release.Namespace }}"),
    ("zzimage", "{{ $s.image }}"),
    ("zzpull", "{{ $s.imagePullPolicy }}"),
    ("zztype", "{{ $s.ingressType }}"),
    ("zzpolicy", "{{ $s.failurePolicy }}"),
    ("zzcpu", "{{ $s.cpu | quote }}"),
    ("zzlimit", "{{ $s.memoryLimit | quote }}"),
    ("zzmemory", "{{ $s.memory | quote }}"),
    ("zztag", "{{ $tag }}"),
    ("zzroots", "{{ $s.signerRoots }}"),
    ("70001", "{{ $s.replicas }}"),
    ("70002", "{{ $s.gatewayReplicas }}"),
];

/// Line of an argument that is there only where a domain was set.
const DOMAIN: &str = "--trust-domain=zztd";

fn marked() -> Settings {
    let mut settings = Settings::new(Profile::Demo);
    "zzns".clone_into(&mut settings.namespace);
    "zzrev".clone_into(&mut settings.revision);
    "zzimage".clone_into(&mut settings.image);
    "zzpull".clone_into(&mut settings.pull_policy);
    "zztype".clone_into(&mut settings.ingress_type);
    "zzpolicy".clone_into(&mut settings.failure_policy);
    "zzcpu".clone_into(&mut settings.cpu);
    "zzmemory".clone_into(&mut settings.memory);
    "zzlimit".clone_into(&mut settings.memory_limit);
    (settings.replicas, settings.gateway_replicas) = (70_001, 70_002);
    for (key, value) in [("trustDomain", "zztd"), ("caSigner", "zzsigner")] {
        settings.values.insert(key.to_owned(), value.to_owned());
    }
    "zzroots".clone_into(&mut settings.signer_roots);
    settings
}

/// Begins what is there only where an outside signer was set.
const SIGNERS: &str = "- name: signer";

/// A template of `value`.
fn template(value: &Value) -> String {
    let mut text = write(value);
    assert!(!text.contains("{{"), "{text}");
    // A revision may look like a number; what is a text stays one.
    for mark in ["zzrev", "zzns", "zztag"] {
        let (_, meant) = MARKS.iter().find(|(known, _)| *known == mark).unwrap();
        let quoted = meant.replace(" }}", " | quote }}");
        for before in [": ", "- "] {
            text = text.replace(&format!("{before}{mark}\n"), &format!("{before}{quoted}\n"));
        }
    }
    for (mark, meant) in MARKS {
        text = text.replace(mark, meant);
    }
    let mut out = String::new();
    // How deep the item stands that is a signer's.
    let mut signers: Option<usize> = None;
    for line in text.lines() {
        let depth = line.len() - line.trim_start().len();
        if let Some(own) = signers
            && (depth < own || (depth == own && line.trim_start().starts_with('-')))
        {
            out.push_str("{{- end }}\n");
            signers = None;
        }
        if line.trim_start() == SIGNERS {
            out.push_str("{{- if $s.values.caSigner }}\n");
            signers = Some(depth);
        }
        if line.contains(DOMAIN) {
            let line = line.replace("zztd", "{{ $s.values.trustDomain }}");
            writeln!(
                out,
                "{{{{- if $s.values.trustDomain }}}}\n{line}\n{{{{- end }}}}"
            )
            .unwrap();
        } else {
            writeln!(out, "{line}").unwrap();
        }
    }
    if signers.is_some() {
        out.push_str("{{- end }}\n");
    }
    out
}

/// Which objects are there only where `setting` says so.
fn only_with(change: impl Fn(&mut Settings)) -> BTreeSet<String> {
    let names = |settings: &Settings| -> BTreeSet<String> {
        let all = objects(settings);
        all.iter().map(id).collect()
    };
    let mut without = marked();
    change(&mut without);
    let without = names(&without);
    let with = names(&marked());
    with.difference(&without).cloned().collect()
}

fn id(object: &Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    format!("{} {}", text("/kind"), text("/metadata/name"))
}

/// The webhooks of an installation.
fn hooks(settings: &Settings) -> Vec<Value> {
    let name = of_revision(INJECTOR, &settings.revision);
    let all = objects(settings);
    let found = all.iter().find(|object| {
        object["kind"] == "MutatingWebhookConfiguration"
            && object["metadata"]["name"] == name.as_str()
    });
    found.unwrap()["webhooks"].as_array().unwrap().clone()
}

/// The injector, whose webhooks depend on what the revision is called.
fn injector(object: &Value) -> String {
    let mut bare = object.clone();
    bare.as_object_mut().unwrap().remove("webhooks");
    let mut text = template(&bare);
    text.push_str("webhooks:\n");
    let items = |hooks: &[Value]| template(&json!(hooks));
    text.push_str(&items(&hooks(&marked())));
    let mut usual = marked();
    "default".clone_into(&mut usual.revision);
    let (named, more): (Vec<Value>, Vec<Value>) = hooks(&usual)
        .into_iter()
        .partition(|hook| hook["name"].as_str().unwrap().starts_with("rev."));
    assert_eq!((named.len(), more.len()), (2, 2));
    write!(
        text,
        "{{{{- if eq $s.revision \"default\" }}}}\n{}{{{{- end }}}}\n",
        items(&more)
    )
    .unwrap();
    let tagged = |tag: &str| -> Vec<Value> {
        let mut settings = marked();
        settings.tags = vec![tag.to_owned()];
        hooks(&settings).split_off(2)
    };
    write!(
        text,
        "{{{{- range $tag := $s.tags }}}}\n{}{{{{- if eq $tag \"default\" }}}}\n{}{{{{- end }}}}\n{{{{- end }}}}\n",
        items(&tagged("zztag")),
        items(&tagged("default").split_off(2)),
    ).unwrap();
    text
}

/// The settings that the control plane reads, as a release of Helm notes them.
fn settings_map(object: &Value) -> String {
    let mut bare = object.clone();
    bare.as_object_mut().unwrap().remove("data");
    format!(
        "{}data:\n  {SETTINGS_FILE}: |\n    {{{{- $s.note | nindent 4 }}}}\n",
        template(&bare)
    )
}

const HELPERS: &str = r#"{{/*
What was chosen over the profile, what that comes to, and what the installation notes of itself.
*/}}
{{- define "meshctl.settings" -}}
{{- $profile := .Values.profile | default "default" -}}
{{- $small := ne $profile "default" -}}
{{- $chosen := dict -}}
{{- range $key := list @KEYS@ -}}
{{- $value := index $.Values $key -}}
{{- if not (kindIs "invalid" $value) -}}
{{- if ne (toString $value) "" -}}
{{- $_ := set $chosen $key (toString $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $values := dict "mtls" (eq $profile "demo" | ternary "strict" "permissive") "logLevel" (get (dict "default" "info" "demo" "debug" "minimal" "warn") $profile) -}}
{{- range $key := list "trustDomain" "mtls" "logLevel" "caKeyType" "caSigner" "caSignerName" -}}
{{- if hasKey $chosen $key -}}
{{- $_ := set $values $key (get $chosen $key) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $chosen "caSigner" -}}
{{- if hasKey $chosen "caKeyType" -}}
{{- fail "caKeyType is for a root of its own, and goes not with caSigner" -}}
{{- end -}}
{{- $_ := set $values "caSignerRoot" "@SIGNER@/@ROOT@" -}}
{{- $_ := set $values "caSignerToken" "@SIGNER@/@TOKEN@" -}}
{{- else if or (hasKey $chosen "caSignerRoots") (hasKey $chosen "caSignerName") -}}
{{- fail "caSignerRoots and caSignerName are for a signer: set caSigner" -}}
{{- end -}}
{{- $s := dict
  "revision" (toString (.Values.revision | default "default"))
  "image" (get $chosen "image" | default (printf "meshctl:%s" .Chart.AppVersion))
  "imagePullPolicy" (get $chosen "imagePullPolicy" | default "IfNotPresent")
  "replicas" (get $chosen "replicas" | default ($small | ternary "1" "2"))
  "gatewayReplicas" (get $chosen "gatewayReplicas" | default ($small | ternary "1" "2"))
  "ingress" (get $chosen "ingress" | default (eq $profile "minimal" | ternary "false" "true"))
  "egress" (get $chosen "egress" | default (eq $profile "demo" | ternary "true" "false"))
  "ingressType" (get $chosen "ingressType" | default "LoadBalancer")
  "gatewaySecrets" (get $chosen "gatewaySecrets" | default "true")
  "gatewayDeployments" (get $chosen "gatewayDeployments" | default "true")
  "injector" (get $chosen "injector" | default "true")
  "validator" (get $chosen "validator" | default "true")
  "failurePolicy" (get $chosen "failurePolicy" | default "Fail")
  "cpu" (get $chosen "cpu" | default "100m")
  "memory" (get $chosen "memory" | default "128Mi")
  "memoryLimit" (get $chosen "memoryLimit" | default "1Gi")
  "tags" (without (splitList "," (get $chosen "tags") | uniq | sortAlpha) "")
  "signerRoots" (get $chosen "caSignerRoots" | default "istio-ca-root-cert")
  "values" $values -}}
{{- $_ := set $s "suffix" (eq $s.revision "default" | ternary "" (printf "-%s" $s.revision)) -}}
{{- $noted := merge (dict "image" $s.image "imagePullPolicy" $s.imagePullPolicy) $values -}}
{{- $_ := set $s "note" (toPrettyJson (dict "version" .Chart.AppVersion "profile" $profile "chosen" $chosen "values" $noted)) -}}
{{- toJson $s -}}
{{- end -}}
"#;

const ABOUT: &str = "\
# The chart is made by the test `install::tests::chart` from what `meshctl install --target kubernetes`
# applies; do not edit it.
";

/// What may be written for each key, for those who mistype.
fn schema() -> Value {
    let mut properties = serde_json::Map::new();
    let one_of = |known: &[&str]| json!({"type": ["string", "null"], "enum": known});
    for (key, about) in KEYS {
        let mut kind = match *key {
            "replicas" | "gatewayReplicas" => {
                json!({"type": ["integer", "null"], "minimum": 1, "maximum": 100})
            }
            "ingress" | "egress" | "injector" | "validator" | "gatewaySecrets"
            | "gatewayDeployments" => json!({"type": ["boolean", "null"]}),
            "imagePullPolicy" => one_of(&["Always", "IfNotPresent", "Never"]),
            "ingressType" => one_of(&["LoadBalancer", "NodePort", "ClusterIP"]),
            "failurePolicy" => one_of(&["Fail", "Ignore"]),
            "mtls" => one_of(&["strict", "permissive"]),
            "logLevel" => one_of(&["error", "warn", "info", "debug", "trace"]),
            "caKeyType" => one_of(&["ecdsa-p256", "ecdsa-p384", "rsa2048", "rsa4096", "ed25519"]),
            "cpu" | "memory" | "memoryLimit" => json!({
                "type": ["string", "number", "null"],
                "pattern": "^[0-9]+(\\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
            }),
            _ => json!({"type": ["string", "null"]}),
        };
        if let Some(Value::Array(known)) = kind.get_mut("enum") {
            known.push(Value::Null);
        }
        kind["description"] = (*about).into();
        properties.insert((*key).to_owned(), kind);
    }
    properties.insert(
        "profile".to_owned(),
        json!({"type": "string", "enum": ["default", "demo", "minimal"]}),
    );
    properties.insert(
        "revision".to_owned(),
        json!({"type": ["string", "integer"], "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    );
    properties.insert("global".to_owned(), json!({"type": "object"}));
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn values() -> String {
    let mut text = format!(
        "{ABOUT}
# default, demo or minimal.
profile: default
# Which of several installations side by side.
revision: default

# What is null is as the profile has it.
"
    );
    for (key, about) in KEYS {
        write!(text, "# {about}\n{key}: null\n").unwrap();
    }
    text
}

/// Every file of the chart.
fn chart() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let version = env!("CARGO_PKG_VERSION");
    files.insert(
        "Chart.yaml".into(),
        format!(
            "{ABOUT}apiVersion: v2
name: {NAME}
description: A service mesh in one executable
type: application
version: {version}
appVersion: \"{version}\"
kubeVersion: \">=1.30.0-0\"
"
        ),
    );
    files.insert("values.yaml".into(), values());
    files.insert("values.schema.json".into(), format!("{:#}\n", schema()));
    let keys: Vec<String> = KEYS.iter().map(|(key, _)| format!("{key:?}")).collect();
    let helpers = HELPERS
        .replace("@KEYS@", &keys.join(" "))
        .replace("@SIGNER@", SIGNER)
        .replace("@ROOT@", SIGNER_ROOT)
        .replace("@TOKEN@", SIGNER_TOKEN);
    files.insert("templates/_settings.tpl".into(), helpers);
    files.insert(
        "templates/NOTES.txt".into(),
        "\
meshctl {{ .Chart.AppVersion }} runs in {{ .Release.Namespace }}. Label it once, as `meshctl install` would:
  kubectl label namespace {{ .Release.Namespace }} istio-injection=disabled pod-security.kubernetes.io/enforce=restricted
Namespaces get sidecars by their label:
  kubectl label namespace NAME istio-injection=enabled
"
        .to_owned(),
    );
    let conditions = [
        ("ingress", only_with(|settings| settings.ingress = false)),
        ("egress", only_with(|settings| settings.egress = false)),
        (
            "gatewaySecrets",
            only_with(|settings| settings.gateway_secrets = false),
        ),
        (
            "gatewayDeployments",
            only_with(|settings| settings.gateway_deployments = false),
        ),
        ("injector", only_with(|settings| settings.injector = false)),
        (
            "validator",
            only_with(|settings| settings.validator = false),
        ),
    ];
    let counts = [
        ("replicas", only_with(|settings| settings.replicas = 1)),
        (
            "gatewayReplicas",
            only_with(|settings| settings.gateway_replicas = 1),
        ),
    ];
    for object in objects(&marked()) {
        let kind = object["kind"].as_str().unwrap();
        // Helm makes the namespace, as it keeps its own records there; definitions are not templates.
        if matches!(kind, "Namespace" | "CustomResourceDefinition") {
            continue;
        }
        let named = id(&object);
        let mut tests = Vec::new();
        for (key, only) in &conditions {
            if only.contains(&named) {
                tests.push(format!("(eq $s.{key} \"true\")"));
            }
        }
        for (key, only) in &counts {
            if only.contains(&named) {
                tests.push(format!("(gt (int $s.{key}) 1)"));
            }
        }
        let body = match kind {
            "MutatingWebhookConfiguration" => injector(&object),
            "ConfigMap" => settings_map(&object),
            _ => template(&object),
        };
        let head = "{{- $s := include \"meshctl.settings\" . | fromJson -}}\n";
        let text = if tests.is_empty() {
            format!("{head}{body}")
        } else {
            let all = format!("and {}", tests.join(" "));
            let test = if tests.len() == 1 {
                tests[0].clone()
            } else {
                all
            };
            format!("{head}{{{{- if {test} }}}}\n{body}{{{{- end }}}}\n")
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let name = name.replace("-zzrev", "").replace("-zzns", "");
        let path = format!("templates/{}-{name}.yaml", kind.to_lowercase());
        assert!(files.insert(path.clone().into(), text).is_none(), "{path}");
    }
    for definition in objects(&marked()) {
        if definition["kind"] == "CustomResourceDefinition" {
            let name = definition["metadata"]["name"].as_str().unwrap();
            files.insert(format!("crds/{name}.yaml").into(), write(&definition));
        }
    }
    assert!(files.len() > crd::crds().len() + 20);
    files
}

/// Files below `directory`.
fn there(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        let Ok(entries) = std::fs::read_dir(next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                files.insert(path.strip_prefix(directory).unwrap().to_owned(), text);
            }
        }
    }
    files
}

#[test]
fn the_chart_is_what_an_installation_is() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/helm/meshctl");
    let (made, found) = (chart(), there(&directory));
    if made == found {
        return;
    }
    for gone in found.keys().filter(|path| !made.contains_key(*path)) {
        std::fs::remove_file(directory.join(gone)).unwrap();
    }
    for (path, text) in &made {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    panic!("assets/helm/meshctl was written anew; look at what changed and run the test again");
}
