//! The real `kubectl` against the server, without any flag that a cluster does not need.

#![allow(clippy::unwrap_used, reason = "a failed step should fail the test")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use cluster::Cluster;
use cluster::auth::User;
use cluster::controllers::Settings;
use cluster::path::Ask;
use cluster::serve::{Out, refused};
use cluster::server::Before;
use cluster::status::Refusal;
use http::Response;
use serde_json::Value;

/// From the environments of the interop tests; nothing, said aloud, where those are not made.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn program() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("interop/kubernetes/bin/kubectl");
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing: run tests/interop/venvs.sh", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("SKIPPED: {missing}");
    None
}

struct Person {
    program: PathBuf,
    dir: tempfile::TempDir,
    cluster: Cluster,
}

impl Person {
    async fn start() -> Option<Self> {
        let program = program()?;
        let cluster = Cluster::start_with(Settings::default()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config"), cluster.admin().unwrap()).unwrap();
        Some(Self {
            program,
            dir,
            cluster,
        })
    }

    fn run(&self, line: &str, input: &str) -> Output {
        let mut child = Command::new(&self.program)
            .args(line.split(' '))
            .env_clear()
            .env("KUBECONFIG", self.dir.path().join("config"))
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may have nothing to read, and be gone.
        let _gone = stdin.write_all(input.as_bytes()).is_err();
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn feeds(&self, line: &str, input: &str) -> String {
        let output = self.run(line, input);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn does(&self, line: &str) -> String {
        self.feeds(line, "")
    }

    fn fails(&self, line: &str, input: &str) -> String {
        let output = self.run(line, input);
        assert!(!output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stderr).unwrap().trim().to_owned()
    }
}

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: \"web:1\", ports: [{name: http, containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_does_with_a_deployment() {
    let Some(person) = Person::start().await else {
        return;
    };
    assert_eq!(
        person.feeds("apply -f -", WEB),
        "deployment.apps/web created\nservice/web created"
    );
    assert_eq!(
        person.feeds("apply -f -", WEB),
        "deployment.apps/web unchanged\nservice/web unchanged"
    );
    person.does("rollout status deployment/web --timeout=30s");
    person.does("wait --for=condition=Available deployment/web --timeout=30s");
    let pods = |label: &str| {
        let line = format!("get pods -l {label} -o name");
        person
            .does(&line)
            .lines()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(pods("app=web").len(), 2);
    assert!(pods("app=web")[0].starts_with("pod/web-"));
    let endpoints = person.does("get endpointslices -l kubernetes.io/service-name=web -o jsonpath={.items[0].endpoints[*].conditions.ready}");
    assert_eq!(endpoints, "true true");
    assert_eq!(
        person.does("get endpointslices -l kubernetes.io/service-name=web -o jsonpath={.items[0].ports[0].port}"),
        "80"
    );

    assert_eq!(
        person.does("scale deployment/web --replicas=3"),
        "deployment.apps/web scaled"
    );
    person.does("wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=30s");
    assert_eq!(
        person.does("set image deployment/web web=web:2"),
        "deployment.apps/web image updated"
    );
    person.does("rollout status deployment/web --timeout=30s");
    let images =
        person.does("get pods -l app=web -o jsonpath={.items[*].spec.containers[0].image}");
    assert!(images.split(' ').all(|i| i == "web:2"), "{images}");
    assert!(person.does("rollout history deployment/web").contains('2'));
    person.does("rollout undo deployment/web");
    person.does("rollout status deployment/web --timeout=30s");
    person.does("rollout restart deployment/web");
    person.does("rollout status deployment/web --timeout=30s");
    let revision = "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}";
    assert_eq!(
        person.does(&format!("get deployment web -o jsonpath={revision}")),
        "4"
    );

    // What depends on it goes with it, unless that is not wanted.
    person.does("delete deployment web --cascade=orphan --wait");
    assert_eq!(pods("app=web").len(), 3);
    person.feeds("apply -f -", WEB);
    person.does("rollout status deployment/web --timeout=30s");
    person.does("delete deployment web --cascade=foreground --wait --timeout=30s");
    assert_eq!(person.does("get replicasets,pods -o name"), "");
    person.feeds("delete -f - --ignore-not-found", WEB);
    let gone = person.fails("get service web", "");
    assert_eq!(
        gone,
        "Error from server (NotFound): services \"web\" not found"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_in_protobuf_is_understood() {
    let Some(person) = Person::start().await else {
        return;
    };
    for line in [
        "create namespace shop",
        "create deployment web --image=web:1 --replicas=2 --port=80 -n shop",
        "create service clusterip web --tcp=80:8080 -n shop",
        "create serviceaccount ann -n shop",
        "create configmap settings --from-literal=a=b -n shop",
        "create secret generic key --from-literal=a=b -n shop",
        "create role reader --verb=get,list --resource=pods -n shop",
        "create rolebinding ann --role=reader --serviceaccount=shop:ann -n shop",
        "create job once --image=once:1 -n shop",
        "create ingress web --rule=web.test/*=web:80 -n shop",
        "create poddisruptionbudget web --selector=app=web --min-available=1 -n shop",
        "create quota few --hard=pods=10 -n shop",
        "run alone --image=alone:1 -n shop",
        "expose deployment web --name=again --port=81 -n shop",
        "wait --for=condition=Complete job/once -n shop --timeout=30s",
        "wait --for=condition=Ready pod/alone -n shop --timeout=30s",
        "scale deployment/web --replicas=0 -n shop",
        "cordon node-1",
        "delete pod alone -n shop --force --grace-period=0",
    ] {
        person.does(line);
    }
    let get =
        |what: &str, path: &str| person.does(&format!("get {what} -n shop -o jsonpath={path}"));
    assert_eq!(get("deployment web", "{.spec.replicas}"), "0");
    assert_eq!(get("secret key", "{.data.a}"), "Yg==");
    assert_eq!(get("service web", "{.spec.ports[0].targetPort}"), "8080");
    assert_eq!(
        get("role reader", "{.rules[0].verbs}"),
        "[\"get\",\"list\"]"
    );
    assert_eq!(get("quota few", "{.spec.hard.pods}"), "10");
    assert_eq!(
        get(
            "ingress web",
            "{.spec.rules[0].http.paths[0].backend.service.port.number}"
        ),
        "80"
    );
    let token = person.does("create token ann -n shop --duration=10m --audience=other");
    assert_eq!(token.split('.').count(), 3);

    // Nobody may more than is bound, whoever asks in their name.
    let ann = "--as=system:serviceaccount:shop:ann";
    assert_eq!(
        person.does(&format!("auth can-i list pods -n shop {ann}")),
        "yes"
    );
    let no = person.run(&format!("auth can-i delete pods -n shop {ann}"), "");
    assert_eq!(String::from_utf8_lossy(&no.stdout).trim(), "no");
    assert!(
        person
            .does(&format!("auth whoami {ann}"))
            .contains("system:serviceaccounts:shop")
    );
    let refused = person.fails(&format!("get secrets -n shop {ann}"), "");
    assert!(refused.contains("(Forbidden)"), "{refused}");
    // The group that is named, and no other.
    assert_eq!(
        person.does("auth can-i create nodes --as=eve --as-group=system:masters"),
        "yes"
    );
    let no = person.run(
        "auth can-i create nodes --as=eve --as-group=some,system:masters",
        "",
    );
    assert_eq!(String::from_utf8_lossy(&no.stdout).trim(), "no");

    person.does("delete namespace shop --wait --timeout=30s");
    assert_eq!(person.cluster.get("namespaces", "", "shop"), None);
    assert_eq!(person.cluster.get("secrets", "shop", "key"), None);
}

const DEFINITION: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.tools.test}
spec:
  group: tools.test
  scope: Namespaced
  names: {plural: things, kind: Thing, shortNames: [th]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1}
              colour: {type: string, enum: [red, green], default: red}
          status: {type: object, properties: {seen: {type: boolean}}}
";

fn thing(spec: &str) -> String {
    format!("apiVersion: tools.test/v1\nkind: Thing\nmetadata: {{name: one}}\nspec: {spec}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kind_does_not_have_is_refused() {
    let Some(person) = Person::start().await else {
        return;
    };
    person.feeds("apply -f -", DEFINITION);
    person.does("wait --for=condition=Established crd/things.tools.test --timeout=30s");
    let said = person.fails("apply -f -", &thing("{size: 1, colur: red}"));
    assert!(said.contains("unknown field \"spec.colur\""), "{said}");
    let said = person.fails("apply -f -", &thing("{size: 0}"));
    assert!(said.contains("spec.size: Invalid value: 0"), "{said}");
    let said = person.fails("apply -f -", &thing("{size: 1, colour: blue}"));
    assert!(
        said.contains("supported values: \"red\", \"green\""),
        "{said}"
    );
    let said = person.fails("apply -f -", &thing("{}"));
    assert!(said.contains("spec.size: Required value"), "{said}");
    // Without validation it is dropped, and what is missing comes.
    person.feeds(
        "apply --validate=false -f -",
        &thing("{size: 1, colur: red}"),
    );
    let stored = person
        .cluster
        .get("things.tools.test", "default", "one")
        .unwrap();
    assert_eq!(
        stored["spec"],
        serde_json::json!({"size": 1, "colour": "red"})
    );
    let warned = person.run(
        "apply --validate=warn -f -",
        &thing("{size: 2, colur: red}"),
    );
    let warned = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(
        warned.contains("Warning: unknown field \"spec.colur\""),
        "{warned}"
    );
    person.does(r#"patch th one --type=merge -p {"spec":{"size":3}} --subresource=status"#);
    person.does(r#"patch th one --type=merge -p {"status":{"seen":true}} --subresource=status"#);
    let stored = person
        .cluster
        .get("things.tools.test", "default", "one")
        .unwrap();
    assert_eq!(
        (&stored["spec"]["size"], &stored["status"]["seen"]),
        (&Value::from(2), &Value::from(true))
    );
    let said = person.fails("apply -f -", &WEB.replace("replicas", "replcias"));
    assert!(said.contains("unknown field \"spec.replcias\""), "{said}");
    assert!(person.does("explain things.spec.colour").contains("red"));
    assert!(
        person
            .does("explain pods.spec.containers.image")
            .contains("string")
    );
    let odd = DEFINITION.replace(
        "minimum: 1}",
        "x-kubernetes-validations: [{rule: \"self > 0\"}]}",
    );
    let said = person.fails(
        "apply -f -",
        &odd.replace("things", "odds")
            .replace("Thing", "Odd")
            .replace("[th]", "[]"),
    );
    assert!(said.contains("cannot judge rules in CEL"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_holds_pods_on_a_node_until_others_are_there() {
    let Some(person) = Person::start().await else {
        return;
    };
    person.feeds("apply -f -", WEB);
    person.does("create poddisruptionbudget web --selector=app=web --min-available=2");
    person.does("rollout status deployment/web --timeout=30s");
    person.does("wait --for=jsonpath={.status.currentHealthy}=2 pdb/web --timeout=30s");
    let node = person.does("get pods -l app=web -o jsonpath={.items[0].spec.nodeName}");
    let drain = format!("drain {node} --ignore-daemonsets --timeout=2s");
    let said = person.fails(&drain, "");
    assert!(
        said.contains("violate the pod's disruption budget"),
        "{said}"
    );
    person.does("patch pdb web -p {\"spec\":{\"minAvailable\":1}}");
    person.does("wait --for=jsonpath={.status.disruptionsAllowed}=1 pdb/web --timeout=30s");
    person.does(&format!("drain {node} --ignore-daemonsets --timeout=30s"));
    person.does("rollout status deployment/web --timeout=30s");
    let nodes = person.does("get pods -l app=web -o jsonpath={.items[*].spec.nodeName}");
    assert!(!nodes.split(' ').any(|n| n == node), "{nodes} {node}");
}

/// A server that is at its end, for whoever lists secrets.
#[derive(Debug)]
struct Broken;

impl Before for Broken {
    fn before<'a>(
        &'a self,
        ask: &'a Ask,
        _user: &'a User,
    ) -> Pin<Box<dyn Future<Output = Option<Response<Out>>> + Send + 'a>> {
        let broken = ask.resource == "secrets" && ask.verb == "list";
        let refusal = Refusal::new(500, "InternalError", "the disk is full");
        Box::pin(async move { broken.then(|| refused(&refusal)) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_requests_may_answer_them() {
    let Some(person) = Person::start().await else {
        return;
    };
    person.does("get secrets");
    person.cluster.server().look(Arc::new(Broken));
    let said = person.fails("get secrets", "");
    assert!(
        said.contains("Error from server (InternalError): the disk is full"),
        "{said}"
    );
    person.does("get configmaps");
}
