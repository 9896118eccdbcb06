//! What runs: on Kubernetes endpoint slices joined with pods and nodes, to instances; elsewhere what a
//! catalogue lists as instances.
//!
//! Slices say who may be called and how well it is; pods say who that is: labels, account, workload,
//! names of ports; nodes say where. A pod of which no slice speaks is no instance.
//!
//! What comes of it is kept, and of what changes only the instances that it concerns are joined again,
//! so that a change costs the same however large the cluster is. That it comes to what joining all would
//! is held by a test over random changes.

mod places;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use self::places::Places;
use self::read::{Pod, Template};
use super::kube::{EndpointSlice as Slice, SERVICE_NAME, Service, SliceEndpoint as Endpoint};
use super::object::{Key, Kind, Objects};
use crate::mesh::service::TargetPort;
use crate::mesh::{Health, Instance, Locality};

type Name = (String, String);

/// What instances are called that a catalogue outside lists as a whole ([`Instance`] as JSON). Nobody
/// writes such objects.
pub const INSTANCE: &str = "Instance";

/// Pods, endpoint slices, nodes and listed instances as they are known now, and the instances that they make.
#[derive(Debug, Default)]
pub struct Running {
    pods: BTreeMap<Name, Pod>,
    /// Those of all pods, each once.
    templates: BTreeSet<Arc<Template>>,
    nodes: BTreeMap<String, Locality>,
    /// Of other catalogues.
    listed: BTreeMap<Name, Arc<Instance>>,
    places: Places,
    instances: BTreeMap<Name, Arc<Instance>>,
    news: News,
}

/// What came since instances were joined last.
#[derive(Debug, Default)]
struct News {
    slices: BTreeMap<Name, Option<Slice>>,
    services: BTreeSet<Name>,
    nodes: BTreeSet<String>,
    pods: BTreeSet<Name>,
    listed: BTreeSet<Name>,
}

/// An instance that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    /// Namespace and name.
    pub key: (String, String),
    /// What it was, if it was there.
    pub before: Option<Arc<Instance>>,
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

    /// The instance of this namespace and name, as of when they were [settled](Self::settle).
    pub fn instance(&self, key: &(String, String)) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// Takes in an object, which is JSON, or forgets it when there is none. One that cannot be read
    /// leaves the one before it in place and gives the reason.
    pub fn set(&mut self, key: &Key, object: Option<&str>) -> Result<(), String> {
        let name = (key.namespace.clone(), key.name.clone());
        let unread = |error: serde_json::Error| format!("{key} cannot be read: {error}");
        match (key.kind.as_str(), object) {
            ("Pod", Some(text)) => {
                let pod = read::pod(&key.name, text).map_err(unread)?;
                self.put_pod(name, Some(pod));
            }
            ("Pod", None) => self.put_pod(name, None),
            ("EndpointSlice", Some(text)) => {
                let slice = read::slice(text).map_err(unread)?;
                self.news.slices.insert(name, Some(slice));
            }
            ("EndpointSlice", None) => {
                self.news.slices.insert(name, None);
            }
            ("Node", Some(text)) => {
                let locality = read::node(text).map_err(unread)?;
                if self.nodes.get(&key.name) != Some(&locality) {
                    self.nodes.insert(key.name.clone(), locality);
                    self.news.nodes.insert(key.name.clone());
                }
            }
            ("Node", None) => {
                if self.nodes.remove(&key.name).is_some() {
                    self.news.nodes.insert(key.name.clone());
                }
            }
            (INSTANCE, Some(text)) => {
                let instance: Instance = serde_json::from_str(text).map_err(unread)?;
                self.listed.insert(name.clone(), Arc::new(instance));
                self.news.listed.insert(name);
            }
            (INSTANCE, None) => {
                self.listed.remove(&name);
                self.news.listed.insert(name);
            }
            _ => return Err(format!("{key} is not something that runs")),
        }
        Ok(())
    }

    fn put_pod(&mut self, name: Name, pod: Option<Pod>) {
        if self.pods.get(&name) == pod.as_ref() {
            return;
        }
        let before = match pod {
            Some(mut pod) => {
                match self.templates.get(&pod.template) {
                    Some(known) => pod.template = Arc::clone(known),
                    None => drop(self.templates.insert(Arc::clone(&pod.template))),
                }
                self.pods.insert(name.clone(), pod)
            }
            None => self.pods.remove(&name),
        };
        // Held there and by the one that went.
        if let Some(before) = before
            && Arc::strong_count(&before.template) == 2
        {
            self.templates.remove(&before.template);
        }
        self.news.pods.insert(name);
    }

    /// Notes that a Service is not what it was: whether it has a selector says what its slices mean.
    pub fn service(&mut self, namespace: &str, name: &str) {
        let name = (namespace.to_owned(), name.to_owned());
        self.news.services.insert(name);
    }

    /// Joins again what anything came about, and gives the instances that are not what they were. `objects`
    /// are asked for the ports of services without a selector, whose endpoints somebody wrote by hand.
    pub fn settle(&mut self, objects: &Objects) -> Vec<Moved> {
        let news = std::mem::take(&mut self.news);
        let mut stale = news.listed;
        for (name, slice) in news.slices {
            let by_hand = slice
                .as_ref()
                .is_some_and(|slice| without_selector(objects, &name.0, &slice.service).is_some());
            self.places.put(name, slice, by_hand, &mut stale);
        }
        for (namespace, service) in news.services {
            let by_hand = without_selector(objects, &namespace, &service).is_some();
            self.places.judge(&namespace, &service, by_hand, &mut stale);
        }
        for pod in news.pods {
            stale.extend(self.places.of_pod(&pod));
            stale.insert(pod);
        }
        if !news.nodes.is_empty() {
            // Nodes are few and seldom other; no index of pods by node is worth its memory.
            let on = self
                .pods
                .iter()
                .filter(|(_, pod)| news.nodes.contains(&pod.node));
            stale.extend(on.map(|(name, _)| name.clone()));
            self.places.on_nodes(&news.nodes, &mut stale);
        }
        let mut moved = Vec::new();
        for key in stale {
            let made = self.join(&key, objects);
            let made = made
                .map(Arc::new)
                .or_else(|| self.listed.get(&key).cloned());
            // What is equal stays the same, so that nobody looks at it again.
            if self.instances.get(&key) == made.as_ref() {
                continue;
            }
            let before = match made {
                Some(made) => self.instances.insert(key.clone(), made),
                None => self.instances.remove(&key),
            };
            moved.push(Moved { key, before });
        }
        moved
    }

    /// The instance that slices make, of all that they say of it.
    fn join(&self, key: &Name, objects: &Objects) -> Option<Instance> {
        let namespace = &key.0;
        let mut joined: Option<Instance> = None;
        for (spread, endpoint) in self.places.at(key) {
            let slice = &spread.slice;
            let made = if spread.by_hand {
                let service = without_selector(objects, namespace, &slice.service);
                service.map(|service| self.written(namespace, slice, endpoint, service))
            } else {
                self.pod(namespace, endpoint)
            };
            match (&mut joined, made) {
                (_, None) => {}
                (None, made) => joined = made,
                (Some(known), Some(made)) => merge(known, made),
            }
        }
        joined
    }

    /// The pod behind `endpoint`. Pods and slices arrive on streams of their own, so a slice may
    /// still speak of a pod that is gone, or of one before it that had the same name.
    fn pod(&self, namespace: &str, endpoint: &Endpoint) -> Option<Instance> {
        let name = endpoint.pod.as_ref()?;
        let pod = self.pods.get(&(namespace.to_owned(), name.clone()))?;
        if !pod.addresses.contains(&endpoint.address) {
            return None;
        }
        let template = &*pod.template;
        Some(Instance {
            name: name.clone(),
            namespace: namespace.to_owned(),
            workload: template.workload.clone(),
            service_account: template.service_account.clone(),
            labels: template.labels.clone(),
            locality: self.locality(&pod.node, endpoint),
            address: *pod.addresses.first()?,
            also_at: pod.addresses.iter().skip(1).copied().collect(),
            ports: BTreeMap::new(),
            port_names: template.port_names.clone(),
            service_ports: BTreeMap::new(),
            weight: 1,
            health: health(endpoint),
            mtls: template.mtls,
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
            let template = &*pod.template;
            instance.workload.clone_from(&template.workload);
            instance
                .service_account
                .clone_from(&template.service_account);
            instance.labels.extend(template.labels.clone());
            instance.mtls = template.mtls;
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
    let mut instance = Instance {
        name: written_name(&slice.service, address),
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

/// What an endpoint is called that somebody wrote for `service`.
fn written_name(service: &str, address: IpAddr) -> String {
    let address = address.to_string();
    let plain = address
        .chars()
        .map(|c| if c.is_ascii_hexdigit() { c } else { '-' });
    format!("{service}-{}", plain.collect::<String>())
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
