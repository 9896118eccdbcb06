mod judge;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::mesh::{Finding, Severity};
use crate::resource::{asked, codes, document, from_value, kind_named, kinds};
use judge::{Walk, at, faults, pruned, structural, within};
use sample::sample;

/// Kinds that are read, and that Kubernetes has itself.
const BUILT_IN: [&str; 13] = [
    "Namespace",
    "Service",
    "Pod",
    "Deployment",
    "StatefulSet",
    "ReplicaSet",
    "DaemonSet",
    "ServiceAccount",
    "ConfigMap",
    "Secret",
    "EndpointSlice",
    "Ingress",
    "IngressClass",
];
/// Kinds that are defined and not read.
const REFUSED: [&str; 2] = ["EnvoyFilter", "WasmPlugin"];
/// How many objects are made up for each kind.
const SAMPLES: u64 = 300;

fn text<'v>(of: &'v Value, pointer: &str) -> &'v str {
    of.pointer(pointer).and_then(Value::as_str).unwrap()
}

fn versions(crd: &Value) -> Vec<(&str, &Value)> {
    let versions = crd.pointer("/spec/versions").unwrap().as_array().unwrap();
    versions
        .iter()
        .map(|version| {
            let schema = version.pointer("/schema/openAPIV3Schema").unwrap();
            (text(version, "/name"), schema)
        })
        .collect()
}

fn named(crd: &Value) -> String {
    let (plural, group) = (text(crd, "/spec/names/plural"), text(crd, "/spec/group"));
    format!("{plural}.{group}")
}

/// The definitions of kinds that are read.
fn read() -> Vec<Value> {
    let refused = |crd: &Value| REFUSED.contains(&text(crd, "/spec/names/kind"));
    crds().into_iter().filter(|crd| !refused(crd)).collect()
}

#[test]
fn every_kind_that_is_read_is_defined_and_named_as_here() {
    let mut defined = BTreeSet::new();
    for crd in read() {
        let kind =
            kind_named(&named(&crd)).unwrap_or_else(|| panic!("{} is not read", named(&crd)));
        assert!(defined.insert(kind), "{kind} is defined twice");
        let short = crd.pointer("/spec/names/shortNames");
        for short in short.and_then(Value::as_array).into_iter().flatten() {
            assert_eq!(kind_named(short.as_str().unwrap()), Some(kind));
        }
        let scope = text(&crd, "/spec/scope");
        assert_eq!(
            scope == "Namespaced",
            crate::resource::namespaced(kind),
            "{kind}"
        );
        assert_eq!(text(&crd, "/metadata/name"), named(&crd));
    }
    let wanted: BTreeSet<&str> = kinds().into_iter().collect();
    let wanted: BTreeSet<&str> = wanted.difference(&BUILT_IN.into()).copied().collect();
    assert_eq!(defined, wanted);
}

#[test]
fn kinds_that_are_refused_are_refused_by_name() {
    for crd in crds() {
        let kind = text(&crd, "/spec/names/kind");
        if !REFUSED.contains(&kind) {
            continue;
        }
        for (version, _) in versions(&crd) {
            let object = json!({
                "apiVersion": format!("{}/{version}", text(&crd, "/spec/group")),
                "kind": kind,
                "metadata": {"name": "x", "namespace": "default"},
                "spec": {},
            });
            let (read, found) = from_value(&object, "x");
            assert!(read.is_none());
            assert!(
                found.iter().any(|f| f.code == codes::NOT_HONOURED),
                "{kind}"
            );
        }
    }
}

#[test]
fn servers_take_the_definitions() {
    for crd in crds() {
        for (version, schema) in versions(&crd) {
            let found = structural(schema);
            assert!(found.is_empty(), "{} {version}: {found:#?}", named(&crd));
        }
        // What etcd takes, with room for what a server keeps beside it.
        assert!(crd.to_string().len() < 1_000_000, "{}", named(&crd));
    }
}

/// A path of a reader (`spec.http[0].match`), without what differs between objects.
fn steps(path: &str) -> Vec<String> {
    let path = path.replace('[', ".[");
    let steps = path.split('.').filter(|step| !step.is_empty());
    steps.map(str::to_owned).collect()
}

/// Fields that a schema keeps and a reader calls unknown: a check of callers that cannot be left out here,
/// how an old release spelled one, and half of a form that is read only whole.
const UNREAD: [(&str, &str); 3] = [
    ("gateways.networking.istio.io", "insecureSkipVerify"),
    ("virtualservices.networking.istio.io", "mirror_percent"),
    ("virtualservices.networking.istio.io", "replacement"),
];

#[test]
fn readers_know_every_field_and_ask_for_no_other() {
    let mut allowances = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    let mut missing = BTreeSet::new();
    let mut unseen = BTreeSet::new();
    for crd in read() {
        let name = named(&crd);
        let kind = text(&crd, "/spec/names/kind");
        for (place, (version, schema)) in versions(&crd).into_iter().enumerate() {
            // All have one schema; of the older versions only the name is another.
            let samples = if place == 0 { SAMPLES } else { 3 };
            assert_eq!(schema, versions(&crd)[0].1);
            let mut chance = fastrand::Rng::with_seed(7);
            let mut seen = BTreeSet::new();
            for _ in 0..samples {
                let mut object = sample(schema, &mut chance);
                let fields = object.as_object_mut().unwrap();
                let api_version = format!("{}/{version}", text(&crd, "/spec/group"));
                fields.insert("apiVersion".to_owned(), api_version.into());
                fields.insert("kind".to_owned(), kind.into());
                fields.insert(
                    "metadata".to_owned(),
                    json!({"name": "x", "namespace": "default"}),
                );
                let wrong = faults(schema, &object);
                assert!(wrong.is_empty(), "{name}: {wrong:#?}\n{object:#}");
                assert_eq!(pruned(schema, &object), object, "{name}");
                within(schema, &object, &mut seen);
                let mut found: Vec<Finding> = Vec::new();
                let asked = asked::during(|| found = from_value(&object, "x").1);
                for finding in found {
                    let says = |text: &str| finding.message.starts_with(text);
                    let allowed = |(of, field): &&(&str, &str)| {
                        *of == name && says(&format!("unknown field {field:?}"))
                    };
                    if let Some(allowance) = UNREAD.iter().find(allowed) {
                        allowances.insert(allowance);
                    } else if says("unknown field") || says("unknown kind") {
                        let steps = steps(&finding.path);
                        unknown.insert(format!(
                            "{name} {version}: {}: {}",
                            steps.join("/"),
                            finding.message
                        ));
                    }
                }
                for (path, field) in asked {
                    let mut steps = steps(&path);
                    steps.push(field.to_owned());
                    let known = at(schema, &steps);
                    if matches!(known, Walk::Unknown)
                        && !path.starts_with("metadata")
                        && !matches!(
                            field,
                            "apiVersion" | "kind" | "metadata" | "status" | "spec"
                        )
                    {
                        missing.insert(format!("{name} {version}: {}", steps.join("/")));
                    }
                }
            }
            let mut all = BTreeSet::new();
            if place == 0 {
                judge::paths(schema, "", &mut all);
            }
            unseen.extend(all.difference(&seen).map(|path| format!("{name}: {path}")));
        }
    }
    assert!(unknown.is_empty(), "readers do not know: {unknown:#?}");
    assert!(missing.is_empty(), "a server would drop: {missing:#?}");
    assert!(unseen.is_empty(), "no object had: {unseen:#?}");
    assert_eq!(allowances.len(), UNREAD.len(), "used: {allowances:?}");
}

/// Kinds of which no manifest elsewhere is without a mistake.
const WORKLOADS: &str = "\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine}
spec:
  address: 192.0.2.1
  ports: {http: 8080}
  labels: {app: shop}
  locality: north/a
  weight: 2
  serviceAccount: shop
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: machines}
spec:
  metadata: {labels: {app: shop}, annotations: {example.com/owner: us}}
  template: {serviceAccount: shop, ports: {http: 8080}}
";

/// Every manifest in `directory`.
fn manifests(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests(&path, into);
        } else if path.extension().is_some_and(|end| end == "yaml") {
            into.push(path);
        }
    }
}

#[test]
fn whatever_is_read_passes_a_server_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for directory in ["tests/golden", "tests/fuzz/seeds", "examples", "assets"] {
        manifests(&root.join(directory), &mut files);
    }
    let crds = crds();
    let mut schemas: BTreeMap<(String, String), &Value> = BTreeMap::new();
    for crd in &crds {
        for (version, schema) in versions(crd) {
            let api_version = format!("{}/{version}", text(crd, "/spec/group"));
            schemas.insert(
                (api_version, text(crd, "/spec/names/kind").to_owned()),
                schema,
            );
        }
    }
    let (mut passed, mut wrong) = (BTreeSet::new(), Vec::new());
    let mut texts = vec![("workloads".to_owned(), WORKLOADS.to_owned())];
    texts.extend(files.iter().map(|file| {
        let written = fs::read_to_string(file).unwrap();
        (file.display().to_string(), written)
    }));
    for (name, written) in texts {
        for piece in document::split(&written) {
            let Ok(object) = crate::resource::json::read(piece.text, &name, piece.line) else {
                continue;
            };
            if object["kind"] == json!("List") {
                continue;
            }
            let field = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
            let (api_version, kind) = (field("apiVersion"), field("kind"));
            let Some(schema) = schemas.get(&(api_version.clone(), kind.clone())) else {
                let (read, _) = from_value(&object, "x");
                if read.is_some() && !BUILT_IN.contains(&kind.as_str()) {
                    wrong.push(format!("{name}:{}: no {kind} of {api_version}", piece.line));
                }
                continue;
            };
            let (read, found) = from_value(&object, "x");
            let failed = found.iter().any(|f| f.severity == Severity::Error);
            if read.is_none() || failed {
                continue;
            }
            let said = faults(schema, &object);
            if !said.is_empty() {
                wrong.push(format!("{name}:{}: {said:?}", piece.line));
            }
            if pruned(schema, &object) != object {
                wrong.push(format!("{name}:{}: fields would be dropped", piece.line));
            }
            passed.insert(kind);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let kinds: BTreeSet<String> = read()
        .iter()
        .map(|crd| text(crd, "/spec/names/kind").to_owned())
        .collect();
    let without: Vec<&String> = kinds.difference(&passed).collect();
    assert!(without.is_empty(), "no manifest of {without:?}");
}

#[test]
fn mistakes_in_the_notation_are_told_with_their_line() {
    let mistake = |text: &str| definitions(text).unwrap_err().to_string();
    for (text, says) in [
        (
            "kind A as\n  versions v1*\n  spec\n    a strin",
            "line 4: there is no type strin",
        ),
        (
            "kind A as\n  versions v1\n  spec object",
            "line 1: one version is stored; mark it with *",
        ),
        ("kind A", "line 1: a kind has a name and a plural"),
        ("type A\n  a [string", "line 2: ] is missing"),
        ("type A\n  a", "line 2: neither a type nor fields"),
        (
            "type A\n  a string\n    b string",
            "line 3: the line above takes no fields",
        ),
        (
            "type A\n  a string\n   b string",
            "line 3: the line above takes no fields",
        ),
        (
            "type A\n    a string\n  b string",
            "line 3: indented otherwise than the line above",
        ),
        (
            "type A\n  a string\n  a string",
            "line 3: there are two fields a",
        ),
        (
            "type A\n  a string\n  * at-most-one a b",
            "line 2: a rule names b, which is no field",
        ),
        ("type A string ~x", "line 1: there is no pattern x"),
        ("type A string 1..b", "line 1: \"1..b\" are no limits"),
        (
            "type A string\ntype A string",
            "line 2: there are two types A",
        ),
        (
            "type A\n  a A\nkind B bs\n  versions v1*\n  spec A",
            "line 2: types within types without an end",
        ),
        (
            "  spec",
            "line 1: nothing stands above this line that it could belong to",
        ),
        ("thing", "line 1: \"thing\" is not known here"),
    ] {
        assert_eq!(mistake(text), says, "{text}");
    }
}

#[test]
fn a_definition_is_what_its_lines_say() {
    let crds = definitions(
        "pattern lower ^[a-z]+$\n\
         type Name string 1..8 ~lower # no comment\n",
    );
    assert_eq!(crds.unwrap_err().line, 2);
    let crds = definitions(
        "group example.com\n\
         categories all\n\
         annotation who us\n\
         pattern lower ^[a-z]+$\n\
         type Name string 1..8 ~lower\n\
         # A comment.\n\
         kind Thing things th\n\
         \x20 versions v1* v1beta1\n\
         \x20 column Size integer .spec.size wide\n\
         \x20 spec!\n\
         \x20   items! [] 1..2 by:name\n\
         \x20     name! Name\n\
         \x20   size int 0.. = 3\n\
         \x20   mode (A \\\n\
         \x20     B)\n\
         \x20   all {[bool]}\n\
         \x20   * at-most-one size mode\n\
         \x20 status object\n",
    )
    .unwrap();
    insta::assert_yaml_snapshot!(crds);
}
