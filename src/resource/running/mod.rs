//! What runs: on Kubernetes endpoint slices joined with pods and nodes, to instances; elsewhere what a
//! catalogue lists as instances.
//!
//! Slices say who may be called and how well it is; pods say who that is: labels, account, workload,
//! names of ports; nodes say where. A pod of which no slice speaks is no instance.

mod read;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::Value;

use self::read::Pod;
use super::kube::{EndpointSlice as Slice, SERVICE_NAME, Service, SliceEndpoint as Endpoint};
use super::object::{Key, Kind, Objects};
use crate::mesh::service::TargetPort;
use crate::mesh::{Health, Instance, Locality};

type Name = (String, String);

/// What instances are called that a catalogue outside lists as a whole ([`Instance`] as JSON). Nobody
/// writes such objects.
pub const INSTANCE: &str = "Instance";

/// Pods, endpoint slices, nodes and listed instances as they are known now.
#[derive(Debug, Default)]
pub struct Running {
    pods: BTreeMap<Name, Pod>,
    slices: BTreeMap<Name, Slice>,
    nodes: BTreeMap<String, Locality>,
    /// Of other catalogues.
    listed: BTreeMap<Name, Arc<Instance>>,
}

impl Running {
    /// Whether objects of `kind` belong here rather than to what people want.
    pub fn keeps(kind: &str) -> bool {
        matches!(kind, "Pod" | "EndpointSlice" | "Node" | INSTANCE)
    }

    /// Whether there is a cluster that says what its pods are.
    pub fn has_pods(&self) -> bool {
        !self.pods.is_empty()
    }

    /// Whether one of them is called so.
    pub fn has_pod(&self, namespace: &str, name: &str) -> bool {
        self.pods
            .contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    /// Takes in an object, or forgets it when there is none. One that cannot be read leaves the one
    /// before it in place and gives the reason.
    pub fn set(&mut self, key: &Key, object: Option<&Value>) -> Result<(), String> {
        let name = (key.namespace.clone(), key.name.clone());
        let unread = |error: serde_json::Error| format!("{key} cannot be read: {error}");
        match (key.kind.as_str(), object) {
            ("Pod", Some(value)) => {
                let pod = read::pod(&key.name, value).map_err(unread)?;
                self.pods.insert(name, pod);
            }
            ("Pod", None) => {
                self.pods.remove(&name);
            }
            ("EndpointSlice", Some(value)) => {
                let slice = read::slice(value).map_err(unread)?;
                self.slices.insert(name, slice);
            }
            ("EndpointSlice", None) => {
                self.slices.remove(&name);
            }
            ("Node", Some(value)) => {
                let locality = read::node(value).map_err(unread)?;
                self.nodes.insert(key.name.clone(), locality);
            }
            ("Node", None) => {
                self.nodes.remove(&key.name);
            }
            (INSTANCE, Some(value)) => {
                let instance = Instance::deserialize(value).map_err(unread)?;
                self.listed.insert(name, Arc::new(instance));
            }
            (INSTANCE, None) => {
                self.listed.remove(&name);
            }
            _ => return Err(format!("{key} is not something that runs")),
        }
        Ok(())
    }

    /// The instances, by namespace and name. `objects` are asked for the ports of services without a
    /// selector, whose endpoints somebody wrote by hand.
    pub fn instances(&self, objects: &Objects) -> BTreeMap<Name, Arc<Instance>> {
        let mut instances: BTreeMap<Name, Instance> = BTreeMap::new();
        for ((namespace, _), slice) in &self.slices {
            let by_hand = without_selector(objects, namespace, &slice.service);
            for endpoint in &slice.endpoints {
                let made = match by_hand {
                    Some(service) => Some(self.written(namespace, slice, endpoint, service)),
                    None => self.pod(namespace, endpoint),
                };
                let Some(made) = made else { continue };
                let key = (made.namespace.clone(), made.name.clone());
                match instances.get_mut(&key) {
                    None => {
                        instances.insert(key, made);
                    }
                    Some(known) => merge(known, made),
                }
            }
        }
        let instances = instances
            .into_iter()
            .map(|(key, instance)| (key, Arc::new(instance)));
        let listed = self.listed.iter();
        listed
            .map(|(key, instance)| (key.clone(), Arc::clone(instance)))
            .chain(instances)
            .collect()
    }

    /// The pod behind `endpoint`. Pods and slices arrive on streams of their own, so a slice may
    /// still speak of a pod that is gone, or of one before it that had the same name.
    fn pod(&self, namespace: &str, endpoint: &Endpoint) -> Option<Instance> {
        let name = endpoint.pod.as_ref()?;
        let pod = self.pods.get(&(namespace.to_owned(), name.clone()))?;
        if !pod.addresses.contains(&endpoint.address) {
            return None;
        }
        Some(Instance {
            name: name.clone(),
            namespace: namespace.to_owned(),
            workload: pod.workload.clone(),
            service_account: pod.service_account.clone(),
            labels: pod.labels.clone(),
            locality: self.locality(&pod.node, endpoint),
            address: *pod.addresses.first()?,
            also_at: pod.addresses.iter().skip(1).copied().collect(),
            ports: BTreeMap::new(),
            port_names: pod.port_names.clone(),
            service_ports: BTreeMap::new(),
            weight: 1,
            health: health(endpoint),
            mtls: pod.mtls,
        })
    }

    /// An endpoint of a service without a selector. It carries the name of its service as a label,
    /// which is what such a service chooses by.
    fn written(
        &self,
        namespace: &str,
        slice: &Slice,
        endpoint: &Endpoint,
        service: &Service,
    ) -> Instance {
        let address = endpoint.address;
        let mut instance = listed(namespace, slice, endpoint, service);
        instance.locality = self.locality(&endpoint.node, endpoint);
        let pod = endpoint.pod.as_ref();
        if let Some(pod) = pod.and_then(|pod| self.pods.get(&(namespace.to_owned(), pod.clone())))
            && pod.addresses.contains(&address)
        {
            instance.workload.clone_from(&pod.workload);
            instance.service_account.clone_from(&pod.service_account);
            instance.labels.extend(pod.labels.clone());
            instance.mtls = pod.mtls;
        }
        instance
    }

    fn locality(&self, node: &str, endpoint: &Endpoint) -> Locality {
        let mut locality = self.nodes.get(node).cloned().unwrap_or_default();
        if locality.zone.is_empty() {
            locality.zone.clone_from(&endpoint.zone);
        }
        locality
    }
}

/// An endpoint that `slice` lists for a service without a selector, as far as the slice says.
pub(super) fn listed(
    namespace: &str,
    slice: &Slice,
    endpoint: &Endpoint,
    service: &Service,
) -> Instance {
    let address = endpoint.address;
    let plain: String = address
        .to_string()
        .chars()
        .map(|c| if c.is_ascii_hexdigit() { c } else { '-' })
        .collect();
    let mut instance = Instance {
        name: format!("{}-{plain}", slice.service),
        namespace: namespace.to_owned(),
        workload: slice.service.clone(),
        service_account: "default".to_owned(),
        labels: BTreeMap::from([(SERVICE_NAME.to_owned(), slice.service.clone())]),
        locality: Locality {
            zone: endpoint.zone.clone(),
            ..Locality::default()
        },
        address,
        also_at: Vec::new(),
        ports: BTreeMap::new(),
        port_names: BTreeMap::new(),
        service_ports: BTreeMap::new(),
        weight: 1,
        health: health(endpoint),
        mtls: false,
    };
    // A slice's ports have the names of the service's ports; a target has no pod to mean anything in.
    for port in &service.ports {
        let Some(number) = slice.ports.get(&port.name).copied() else {
            continue;
        };
        match &port.target {
            TargetPort::Number(target) if *target == number => {}
            TargetPort::Number(target) => {
                let at = SocketAddr::new(address, number);
                instance.ports.insert(*target, at);
            }
            TargetPort::Name(name) => {
                instance.port_names.insert(name.clone(), number);
            }
        }
    }
    instance
}

/// The service of this name when it has no selector.
fn without_selector<'a>(objects: &'a Objects, namespace: &str, name: &str) -> Option<&'a Service> {
    let key = Key {
        kind: "Service".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    match &objects.get(&key)?.body {
        Kind::Service(service) if service.selector.is_empty() => Some(service),
        _ => None,
    }
}

fn health(endpoint: &Endpoint) -> Health {
    if endpoint.terminating && endpoint.serving {
        Health::Draining
    } else if endpoint.ready && !endpoint.terminating {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// Two slices speak of one instance: of two services, or of the two families of one. The worse word
/// counts, since an instance has one health and a call that fails costs more than one that goes elsewhere.
pub(super) fn merge(known: &mut Instance, other: Instance) {
    let rank = |health: Health| match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::Draining => 2,
        Health::Unhealthy => 3,
    };
    if rank(other.health) > rank(known.health) {
        known.health = other.health;
    }
    known.ports.extend(other.ports);
    known.port_names.extend(other.port_names);
}

#[cfg(test)]
mod tests;
