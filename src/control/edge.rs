//! What of the cluster's edge the world knows: Gateways that are to be given proxies, Services that reach gateways, and
//! Ingresses that are served by them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::cluster::{Told, outside};
use super::index::Index;
use crate::install::deployed::{Asked, SERVICE_TYPE};
use crate::mesh::world::selects;
use crate::resource::gateway_api::{AddressRequest, Gateway, Protocol};
use crate::resource::{self, CONTROLLER, Key, Kind, Object, Objects};
use crate::source::kubernetes::cluster::ObjectRef;

/// The one class that is ours without an object that says so.
const CLASS: &str = "meshctl";
/// What Gateways are filed under.
const GATEWAY: &str = "Gateway.gateway.networking.k8s.io";

/// Whether GatewayClass `class` is ours, and not another's whom we would serve.
pub(super) fn is_ours(followed: &Objects, class: &str) -> bool {
    let key = Key {
        kind: "GatewayClass".to_owned(),
        namespace: String::new(),
        name: class.to_owned(),
    };
    followed.get(&key).map_or(class == CLASS, |class| {
        class.raw.pointer("/spec/controllerName") == Some(&CONTROLLER.into())
    })
}

impl Asked {
    /// Of which Gateway.
    pub(super) fn key(&self) -> (String, String) {
        (self.namespace.clone(), self.name.clone())
    }

    /// An object that is made for it.
    pub(super) fn reference(&self, kind: &str) -> ObjectRef {
        ObjectRef {
            kind: kind.to_owned(),
            namespace: Some(self.namespace.clone()),
            name: self.called(),
        }
    }
}

impl Index {
    /// Gateways of the cluster that are to be given proxies: those of our classes, unless they say where they are or
    /// how they are made in a way that is not honoured.
    pub(super) async fn gateways(&self) -> Vec<Asked> {
        let state = self.state.lock().await;
        let followed = &state.followed.objects;
        let gateways = followed.values().filter_map(|object| match &object.body {
            Kind::ListeningGateway(gateway) if is_ours(followed, &gateway.class) => {
                asked(object, gateway)
            }
            _ => None,
        });
        gateways.collect()
    }

    /// Uids of all Gateways.
    pub(super) async fn gateway_uids(&self) -> BTreeSet<String> {
        let state = self.state.lock().await;
        let followed = state.followed.objects.iter();
        let gateways = followed.filter(|(key, _)| key.kind == GATEWAY);
        let uid = |object: &Arc<Object>| text(object, "/metadata/uid");
        gateways.map(|(_, object)| uid(object)).collect()
    }

    /// A Service, as the cluster holds it.
    pub(super) async fn service(&self, namespace: &str, name: &str) -> Option<Value> {
        let key = Key {
            kind: "Service".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Some(self.held(&key).await?.raw.clone())
    }

    /// What is to be said of the cluster's Ingresses that we serve: where they are reached. Of those without a
    /// gateway that has an address, that there is none.
    pub(super) async fn ingress_statuses(&self) -> Vec<Told> {
        let state = self.state.lock().await;
        let followed = &state.followed.objects;
        if !followed
            .values()
            .any(|object| matches!(object.body, Kind::Ingress(_)))
        {
            return Vec::new();
        }
        let world = self.world();
        let served = resource::served_ingresses(&state.union(&state.objects), &world.config);
        let instances = state.running();
        let mut reached: BTreeMap<BTreeMap<String, String>, Vec<Value>> = BTreeMap::new();
        let mut told = Vec::new();
        for (key, labels) in served {
            // One that was applied here has no status there.
            let Some(object) = followed.get(&key) else {
                continue;
            };
            let addresses = reached.entry(labels).or_insert_with_key(|labels| {
                let serving: Vec<_> = instances
                    .values()
                    .filter(|one| selects(labels, &one.labels))
                    .map(|one| (one.namespace.as_str(), &one.labels))
                    .collect();
                reaching(followed, &serving)
            });
            let before = object.raw.pointer("/status/loadBalancer/ingress");
            if addresses.is_empty() && before.is_none() {
                continue;
            }
            told.push(Told {
                api_version: object.api_version.clone(),
                uid: text(object, "/metadata/uid"),
                status: json!({"loadBalancer": {"ingress": addresses}}),
                key,
            });
        }
        told
    }
}

/// Addresses of the Services that choose one of `serving`, in the words of an Ingress's status.
fn reaching(followed: &Objects, serving: &[(&str, &BTreeMap<String, String>)]) -> Vec<Value> {
    let mut addresses = BTreeSet::new();
    for object in followed.values() {
        let Kind::Service(_) = &object.body else {
            continue;
        };
        let selector = object
            .raw
            .pointer("/spec/selector")
            .and_then(Value::as_object);
        let Some(selector) = selector.filter(|selector| !selector.is_empty()) else {
            continue;
        };
        let own = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        let selector: BTreeMap<String, String> = selector.iter().filter_map(own).collect();
        let chosen = serving.iter().any(|(namespace, labels)| {
            *namespace == object.metadata.namespace && selects(&selector, labels)
        });
        if chosen {
            addresses.extend(outside(&object.raw));
            let more = object
                .raw
                .pointer("/spec/externalIPs")
                .and_then(Value::as_array);
            let more = more.into_iter().flatten().filter_map(Value::as_str);
            addresses.extend(more.map(|ip| ("IPAddress", ip.to_owned())));
        }
    }
    let entry = |(kind, value): (&'static str, String)| match kind {
        "Hostname" => json!({"hostname": value}),
        _ => json!({"ip": value}),
    };
    addresses.into_iter().map(entry).collect()
}

fn asked(object: &Object, gateway: &Gateway) -> Option<Asked> {
    let elsewhere = |address: &AddressRequest| matches!(address, AddressRequest::Other(_));
    if gateway.parameters || gateway.addresses.iter().any(elsewhere) {
        return None;
    }
    let metadata = &object.metadata;
    let said = |field: &str| {
        let found = object.raw.pointer(&format!("/spec/infrastructure/{field}"));
        let found = found.and_then(Value::as_object).into_iter().flatten();
        let own = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        found.filter_map(own).collect::<BTreeMap<String, String>>()
    };
    let annotations = said("annotations");
    let kind = |of: &BTreeMap<String, String>| {
        let kind = of.get(SERVICE_TYPE)?.as_str();
        let known = ["LoadBalancer", "NodePort", "ClusterIP"];
        known.contains(&kind).then(|| kind.to_owned())
    };
    let service = kind(&metadata.annotations).or_else(|| kind(&annotations));
    let spoken = |protocol: &Protocol| match protocol {
        Protocol::Http => Some("http"),
        Protocol::Https => Some("https"),
        Protocol::Tls => Some("tls"),
        Protocol::Tcp => Some("tcp"),
        Protocol::Other(_) => None,
    };
    let ports = gateway.listeners.iter();
    let ports = ports.filter_map(|one| Some((one.port, spoken(&one.protocol)?)));
    let addresses = gateway
        .addresses
        .iter()
        .filter_map(|address| match address {
            AddressRequest::Ip(ip) => Some(*ip),
            _ => None,
        });
    Some(Asked {
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        class: gateway.class.clone(),
        uid: text(object, "/metadata/uid"),
        api_version: object.api_version.clone(),
        labels: said("labels"),
        ports: ports.collect(),
        service: service.unwrap_or_else(|| "LoadBalancer".to_owned()),
        addresses: addresses.collect(),
        annotations,
    })
}

fn text(object: &Object, pointer: &str) -> String {
    let text = object.raw.pointer(pointer).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}
