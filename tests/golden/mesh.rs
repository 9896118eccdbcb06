//! What runs, made up from the manifests: a pod for every replica, addresses in order.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use meshctl::mesh::node::{Application, Node};
use meshctl::mesh::{Client, Health, Instance, Locality, NodeKind};
use meshctl::resource::kube::PodTemplate;
use meshctl::resource::{Instances, Kind, Object, Objects};

/// The pods of `objects`.
pub(crate) fn instances(objects: &Objects) -> Instances {
    let mut instances = Instances::default();
    for object in objects.values() {
        let (template, replicas) = match &object.body {
            Kind::Pod(pod) => (&pod.template, 0),
            Kind::Workload(workload) => (&workload.template, workload.replicas),
            _ => continue,
        };
        for number in 0..replicas.max(1) {
            let last = u8::try_from(instances.len() + 1).unwrap();
            let name = match replicas {
                0 => object.metadata.name.clone(),
                _ => format!("{}-{number}", object.metadata.name),
            };
            let instance = instance(object, template, &name, last);
            instances.insert((instance.namespace.clone(), name), Arc::new(instance));
        }
    }
    instances
}

fn instance(object: &Object, template: &PodTemplate, name: &str, last: u8) -> Instance {
    let label = |name: &str| template.labels.get(name).cloned().unwrap_or_default();
    let ports = || template.spec.containers.iter().flat_map(|c| &c.ports);
    Instance {
        name: name.to_owned(),
        namespace: object.metadata.namespace.clone(),
        workload: object.metadata.name.clone(),
        service_account: template.spec.service_account.clone(),
        labels: template.labels.clone(),
        locality: Locality {
            region: label("topology.kubernetes.io/region"),
            zone: label("topology.kubernetes.io/zone"),
            subzone: label("topology.istio.io/subzone"),
        },
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)),
        also_at: Vec::new(),
        ports: BTreeMap::new(),
        port_names: ports()
            .filter(|port| !port.name.is_empty())
            .map(|port| (port.name.clone(), port.port))
            .collect(),
        service_ports: BTreeMap::new(),
        weight: 1,
        health: Health::Healthy,
        mtls: template
            .labels
            .get("sidecar.istio.io/inject")
            .map(String::as_str)
            != Some("false"),
    }
}

/// The proxy beside `instance`, whose application has the ports of its manifest.
pub(crate) fn node(objects: &Objects, instance: &Instance, transparent: bool) -> Node {
    let ports: Vec<u16> = objects
        .values()
        .filter(|object| {
            object.metadata.name == instance.workload
                && object.metadata.namespace == instance.namespace
        })
        .filter_map(|object| match &object.body {
            Kind::Pod(pod) => Some(&pod.template),
            Kind::Workload(workload) => Some(&workload.template),
            _ => None,
        })
        .flat_map(|template| &template.spec.containers)
        .flat_map(|container| container.ports.iter().map(|port| port.port))
        .collect();
    let own = |port: u16| SocketAddr::new(instance.address, port);
    let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    Node {
        id: format!(
            "sidecar~{}~{}.{}~{}.svc.cluster.local",
            instance.address, instance.name, instance.namespace, instance.namespace
        ),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: instance.name.clone(),
        namespace: instance.namespace.clone(),
        service_account: instance.service_account.clone(),
        workload: instance.workload.clone(),
        labels: instance.labels.clone(),
        locality: instance.locality.clone(),
        address: instance.address,
        outbound: local(15001),
        inbound: own(15006),
        transparent,
        applications: ports
            .into_iter()
            .map(|port| Application {
                port,
                name: String::new(),
                bind: own(port),
                address: local(port),
                protocol: meshctl::mesh::Protocol::Auto,
            })
            .collect(),
    }
}
