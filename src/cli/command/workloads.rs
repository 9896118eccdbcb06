//! Manifests as pods to run here: what `up` reads of them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::api::resources::SourceText;
use crate::api::{Problem, Reason};
use crate::cli::error::CliError;
use crate::cli::render::number;
use crate::local::spec;
use crate::mesh::service::TargetPort;
use crate::mesh::{Finding, Severity};
use crate::resource::kube::{Container, EnvValue, PodTemplate, Probe, ProbeAction};
use crate::resource::{self, Kind, Object, Objects, codes};

/// The pods of `sources`, and what to say about them. An error refuses all of them.
pub(crate) fn read(
    sources: &[SourceText],
    namespace: &str,
) -> Result<(Vec<spec::Workload>, Vec<Finding>), CliError> {
    let mut objects = Vec::new();
    let mut findings = Vec::new();
    for source in sources {
        let (found, said) = resource::parse(&source.text, &source.name, namespace);
        objects.extend(found);
        findings.extend(said);
    }
    // Started in the order of the files, so that is kept beside the index.
    let order: Vec<_> = objects.iter().map(Object::key).collect();
    let (objects, said) = resource::collect(objects);
    findings.extend(said);
    let mut reading = Reading {
        objects: &objects,
        findings,
    };
    let workloads: Vec<spec::Workload> = order
        .iter()
        .filter_map(|key| reading.workload(objects.get(key)?))
        .collect();
    let findings = reading.findings;
    let wrong = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    if wrong > 0 {
        let mut problem = Problem::new(
            Reason::Invalid,
            format!("{} in the manifests", number::count(wrong, "error")),
        )
        .hint("nothing was started");
        problem.findings = findings;
        return Err(CliError::Problem(problem));
    }
    Ok((workloads, findings))
}

struct Reading<'a> {
    objects: &'a Objects,
    findings: Vec<Finding>,
}

impl Reading<'_> {
    fn say(&mut self, severity: Severity, object: &Object, message: String, hint: &str) {
        self.findings
            .push(Finding::new(severity, codes::SCHEMA, &object.origin, message).hint(hint));
    }

    fn workload(&mut self, object: &Object) -> Option<spec::Workload> {
        let (replicas, template, kind) = match &object.body {
            Kind::Pod(pod) => (1, &pod.template, spec::WorkloadKind::Pod),
            Kind::Workload(workload) => {
                let kind = if object.kind == "StatefulSet" {
                    spec::WorkloadKind::StatefulSet
                } else {
                    spec::WorkloadKind::Deployment
                };
                (workload.replicas, &workload.template, kind)
            }
            _ => return None,
        };
        let origin = &object.origin;
        Some(spec::Workload {
            name: object.metadata.name.clone(),
            namespace: object.metadata.namespace.clone(),
            kind,
            replicas,
            pod: self.pod(object, template),
            origin: match &origin.file {
                Some(file) => format!("{file}:{}:{}", origin.line, origin.column.max(1)),
                None => origin.to_string(),
            },
        })
    }

    fn pod(&mut self, object: &Object, template: &PodTemplate) -> spec::PodSpec {
        if !template.spec.init_containers.is_empty() {
            self.say(
                Severity::Warning,
                object,
                "init containers are not run on this machine".to_owned(),
                "do by hand what they would do",
            );
        }
        let says_no = [&template.labels, &template.annotations]
            .into_iter()
            .any(|said| {
                said.get("sidecar.istio.io/inject")
                    .is_some_and(|value| value == "false")
            });
        spec::PodSpec {
            service_account: template.spec.service_account.clone(),
            labels: template.labels.clone(),
            containers: template
                .spec
                .containers
                .iter()
                .map(|container| self.container(object, container))
                .collect(),
            // A sidecar cannot stand before a pod that has the machine's own network.
            inject: !says_no && !template.spec.host_network,
            grace: template.spec.termination_grace,
        }
    }

    fn container(&mut self, object: &Object, container: &Container) -> spec::ContainerSpec {
        spec::ContainerSpec {
            name: container.name.clone(),
            image: container.image.clone(),
            command: container.command.clone(),
            args: container.args.clone(),
            env: self.environment(object, container),
            cwd: container.working_dir.clone(),
            ports: container
                .ports
                .iter()
                .map(|port| spec::ContainerPort {
                    name: Some(port.name.clone()).filter(|name| !name.is_empty()),
                    number: port.port,
                    protocol: if port.datagram {
                        spec::PortProtocol::Udp
                    } else {
                        spec::PortProtocol::Tcp
                    },
                })
                .collect(),
            startup: self.probe(object, container.startup.as_ref()),
            readiness: self.probe(object, container.readiness.as_ref()),
            liveness: self.probe(object, container.liveness.as_ref()),
            run_as_user: None,
        }
    }

    fn environment(&mut self, object: &Object, container: &Container) -> Vec<spec::EnvVar> {
        let namespace = &object.metadata.namespace;
        let mut all = Vec::new();
        for name in &container.env_from {
            match self.values("ConfigMap", namespace, name) {
                Some(values) => all.extend(values.into_iter().map(|(name, text)| spec::EnvVar {
                    name,
                    value: spec::EnvValue::Text(text),
                })),
                None => self.missing(object, "ConfigMap", name),
            }
        }
        for variable in &container.env {
            let value = match &variable.value {
                EnvValue::Text(text) => Some(spec::EnvValue::Text(text.clone())),
                EnvValue::Field(path) => Some(spec::EnvValue::Field(path.clone())),
                EnvValue::ConfigMapKey {
                    name,
                    key,
                    optional,
                } => self.key(object, "ConfigMap", name, key, *optional),
                EnvValue::SecretKey {
                    name,
                    key,
                    optional,
                } => self.key(object, "Secret", name, key, *optional),
                EnvValue::Resource(path) => {
                    self.say(
                        Severity::Warning,
                        object,
                        format!(
                            "{} is left out: there is no {path} on this machine",
                            variable.name
                        ),
                        "write a value",
                    );
                    None
                }
            };
            if let Some(value) = value {
                all.push(spec::EnvVar {
                    name: variable.name.clone(),
                    value,
                });
            }
        }
        all
    }

    fn key(
        &mut self,
        object: &Object,
        kind: &'static str,
        name: &str,
        key: &str,
        optional: bool,
    ) -> Option<spec::EnvValue> {
        let values = self.values(kind, &object.metadata.namespace, name);
        let found = values.and_then(|mut values| values.remove(key));
        if found.is_none() && !optional {
            self.missing(object, kind, &format!("{name} with key {key}"));
        }
        found.map(spec::EnvValue::Text)
    }

    fn missing(&mut self, object: &Object, kind: &str, name: &str) {
        self.say(
            Severity::Error,
            object,
            format!("there is no {kind} {name}"),
            "add it to the files",
        );
    }

    /// The texts of a ConfigMap or Secret.
    fn values(&self, kind: &str, namespace: &str, name: &str) -> Option<BTreeMap<String, String>> {
        let object = self.objects.values().find(|object| {
            object.kind == kind
                && object.metadata.name == name
                && object.metadata.namespace == namespace
        })?;
        let texts = |field: &str| -> Vec<(String, String)> {
            let map = object.raw.get(field).and_then(Value::as_object);
            map.into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        if kind != "Secret" {
            return Some(texts("data").into_iter().collect());
        }
        let decoded = texts("data").into_iter().filter_map(|(key, value)| {
            let bytes = STANDARD.decode(value).ok()?;
            Some((key, String::from_utf8(bytes).ok()?))
        });
        Some(decoded.chain(texts("stringData")).collect())
    }

    fn probe(&mut self, object: &Object, probe: Option<&Probe>) -> Option<spec::Probe> {
        let probe = probe?;
        let port = |port: &TargetPort| match port {
            TargetPort::Number(number) => spec::PortRef::Number(*number),
            TargetPort::Name(name) => spec::PortRef::Name(name.clone()),
        };
        let check = match &probe.action {
            ProbeAction::Http {
                path,
                port: to,
                https: false,
                headers,
            } => spec::Check::Http {
                port: port(to),
                path: path.clone(),
                headers: headers.clone(),
            },
            ProbeAction::Tcp { port: to } => spec::Check::Tcp { port: port(to) },
            ProbeAction::Exec(command) => spec::Check::Exec {
                command: command.clone(),
            },
            ProbeAction::Http { port: to, .. } => {
                self.weaker(object, "HTTPS");
                spec::Check::Tcp { port: port(to) }
            }
            ProbeAction::Grpc { port, .. } => {
                self.weaker(object, "gRPC");
                spec::Check::Tcp {
                    port: spec::PortRef::Number(*port),
                }
            }
        };
        Some(spec::Probe {
            check,
            initial_delay: probe.initial_delay,
            period: probe.period,
            timeout: probe.timeout,
            successes: probe.success_threshold,
            failures: probe.failure_threshold,
        })
    }

    fn weaker(&mut self, object: &Object, what: &str) {
        self.say(
            Severity::Info,
            object,
            format!("{what} probes only see whether the port answers on this machine"),
            "an exec probe can look closer",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Vec<SourceText> {
        vec![SourceText {
            name: "pod.yaml".to_owned(),
            text: text.to_owned(),
        }]
    }

    const DEPLOYMENT: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: red, SIZE: '3'}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {token: c2VjcmV0}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop-v1, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop, version: v1}}
    spec:
      serviceAccountName: shop
      containers:
      - name: shop
        image: shop:1
        command: [meshctl, sample-app]
        args: [--name, shop]
        ports: [{name: http, containerPort: 8080}]
        envFrom: [{configMapRef: {name: settings}}]
        env:
        - {name: PLAIN, value: '1'}
        - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
        readinessProbe: {httpGet: {path: /health, port: http}, periodSeconds: 2}
";

    #[test]
    fn a_deployment_becomes_what_is_run() {
        let (found, said) = read(&source(DEPLOYMENT), "shop").unwrap();
        assert!(said.is_empty(), "{said:?}");
        let [shop] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((shop.name.as_str(), shop.replicas), ("shop-v1", 2));
        assert_eq!(shop.origin, "pod.yaml:11:1");
        assert!(shop.pod.inject);
        let container = &shop.pod.containers[0];
        assert_eq!(container.command, ["meshctl", "sample-app"]);
        let env: Vec<String> = container
            .env
            .iter()
            .map(|variable| match &variable.value {
                spec::EnvValue::Text(text) => format!("{}={text}", variable.name),
                spec::EnvValue::Field(path) => format!("{}<{path}", variable.name),
            })
            .collect();
        assert_eq!(
            env,
            [
                "COLOUR=red",
                "SIZE=3",
                "PLAIN=1",
                "IP<status.podIP",
                "TOKEN=secret"
            ]
        );
        let readiness = container.readiness.as_ref().unwrap();
        assert_eq!(readiness.period, std::time::Duration::from_secs(2));
        assert_eq!(
            readiness.check,
            spec::Check::Http {
                port: spec::PortRef::Name("http".to_owned()),
                path: "/health".to_owned(),
                headers: vec![],
            }
        );
    }

    #[test]
    fn what_is_missing_refuses_everything() {
        let text = DEPLOYMENT.replace("name: keys, key: token", "name: keys, key: other");
        let Err(CliError::Problem(problem)) = read(&source(&text), "shop") else {
            panic!("it was taken")
        };
        let said = problem.findings[0].to_string();
        assert!(said.starts_with("pod.yaml:11:"), "{said}");
        assert!(
            said.contains("there is no Secret keys with key other"),
            "{said}"
        );
    }

    #[test]
    fn the_sample_manifests_can_be_run() {
        let bookinfo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/bookinfo");
        let sources = super::super::manifests::read(&[bookinfo], false).unwrap();
        let (found, said) = read(&sources, "default").unwrap();
        assert!(
            said.iter()
                .all(|finding| finding.severity != Severity::Error),
            "{said:?}"
        );
        let names: Vec<&str> = found
            .iter()
            .map(|workload| workload.name.as_str())
            .collect();
        for name in [
            "productpage-v1",
            "details-v1",
            "ratings-v1",
            "reviews-v1",
            "reviews-v3",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
    }
}
