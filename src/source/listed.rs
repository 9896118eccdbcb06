//! A service that a catalogue lists, as the mesh has it: a ServiceEntry that chooses by a label of
//! ours, and an instance for each of its members, as those that register themselves are.
//!
//! Where a member is known by a name only, the entry says all of them itself, and proxies ask for
//! the names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::MADE_FROM;
use super::outlet::Made;
use crate::mesh::{Health, Instance, Locality};
use crate::resource::json::set;
use crate::resource::{INSTANCE, Key};

/// Label of instances that a catalogue lists: the host of their service.
const SERVICE: &str = "meshctl.dev/service";

/// A service and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Which catalogue says so, such as `Consul`.
    pub(super) from: &'static str,
    /// By which names it is called; the first is its own.
    pub(super) hosts: Vec<String>,
    /// Its namespace in the mesh.
    pub(super) namespace: String,
    /// What it is called in metrics.
    pub(super) workload: String,
    /// Where callers call it.
    pub(super) ports: Vec<Port>,
    /// Who stands behind it, each known by a name of its own.
    pub(super) members: BTreeMap<String, Member>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) number: u16,
    /// As ServiceEntries say it; unknown where nobody says.
    pub(super) protocol: Option<&'static str>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) port: u16,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) locality: Locality,
    pub(super) weight: u32,
    pub(super) health: Health,
    /// The account that it runs as.
    pub(super) account: String,
    /// A proxy of the mesh stands before it.
    pub(super) mtls: bool,
}

/// Where a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Address(IpAddr),
    Name(String),
}

impl Port {
    fn name(&self) -> String {
        let protocol = self.protocol.unwrap_or("port").to_ascii_lowercase();
        format!("{protocol}-{}", self.number)
    }
}

/// What ServiceEntries call a protocol; none for what they do not know.
pub(super) fn protocol(text: &str) -> Option<&'static str> {
    let known = [
        ("http", "HTTP"),
        ("http2", "HTTP2"),
        ("h2c", "HTTP2"),
        ("grpc", "GRPC"),
        ("grpc-web", "GRPC-WEB"),
        ("https", "HTTPS"),
        ("tls", "TLS"),
        ("tcp", "TCP"),
        ("mongo", "MONGO"),
        ("mysql", "MYSQL"),
        ("redis", "REDIS"),
    ];
    let lowered = text.to_ascii_lowercase();
    let found = known.iter().find(|(written, _)| *written == lowered);
    found.map(|(_, meant)| *meant)
}

/// `text` as the name of an instance. What had to be changed carries a mark of what it was, so that
/// two of them stay two.
pub(super) fn name_of(text: &str) -> String {
    const LONGEST: usize = 200;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.len() <= LONGEST && !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    // FNV-1a: the same everywhere and for ever.
    let mark = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |mark, byte| {
        (mark ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let kept = text.chars().take(LONGEST);
    let kept: String = kept.map(|c| if plain(c) { c } else { '-' }).collect();
    format!("{kept}-{mark:016x}")
}

impl Listed {
    /// Its objects.
    pub(super) fn objects(&self) -> Made {
        let Some(host) = self.hosts.first() else {
            return Made::new();
        };
        let by_name = self
            .members
            .values()
            .any(|member| matches!(member.place, Place::Name(_)));
        let endpoints: Vec<Value> = if by_name {
            self.members
                .values()
                .filter_map(|m| self.entry(m))
                .collect()
        } else {
            Vec::new()
        };
        let ports = self.ports.iter().map(|port| {
            let mut made = json!({"number": port.number, "name": port.name()});
            if let Some(protocol) = port.protocol {
                set(&mut made, "protocol", protocol);
            }
            made
        });
        let mut spec = json!({
            "hosts": self.hosts,
            "location": "MESH_INTERNAL",
            "ports": ports.collect::<Vec<_>>(),
        });
        // Without endpoints the host itself would be asked for.
        if endpoints.is_empty() {
            set(&mut spec, "resolution", "STATIC");
            set(
                &mut spec,
                "workloadSelector",
                json!({"labels": {SERVICE: host}}),
            );
        } else {
            set(&mut spec, "resolution", "DNS");
            set(&mut spec, "endpoints", endpoints);
        }
        let entry = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {
                "name": host,
                "namespace": self.namespace,
                "annotations": {MADE_FROM: self.from},
            },
            "spec": spec,
        });
        let mut made = Made::new();
        made.insert(self.key("ServiceEntry", host), Arc::new(entry));
        if by_name {
            return made;
        }
        for (name, member) in &self.members {
            if let Some(instance) = self.instance(host, name, member)
                && let Ok(value) = serde_json::to_value(&instance)
            {
                made.insert(self.key(INSTANCE, name), Arc::new(value));
            }
        }
        made
    }

    fn key(&self, kind: &str, name: &str) -> Key {
        Key {
            kind: kind.to_owned(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    /// Every port of the service leads to the one of the member.
    fn reached_at(&self, member: &Member) -> BTreeMap<String, u16> {
        let ports = self.ports.iter();
        ports.map(|port| (port.name(), member.port)).collect()
    }

    fn instance(&self, host: &str, name: &str, member: &Member) -> Option<Instance> {
        let Place::Address(address) = member.place else {
            return None;
        };
        let mut labels = member.labels.clone();
        labels.insert(SERVICE.to_owned(), host.to_owned());
        Some(Instance {
            name: name.to_owned(),
            namespace: self.namespace.clone(),
            workload: self.workload.clone(),
            service_account: member.account.clone(),
            labels,
            locality: member.locality.clone(),
            address,
            also_at: Vec::new(),
            ports: BTreeMap::new(),
            port_names: BTreeMap::new(),
            service_ports: self.reached_at(member),
            weight: member.weight,
            health: member.health,
            mtls: member.mtls,
        })
    }

    /// A member in the entry itself, which says of none how it is: only those that may be called.
    fn entry(&self, member: &Member) -> Option<Value> {
        if member.health != Health::Healthy {
            return None;
        }
        let address = match &member.place {
            Place::Address(address) => address.to_string(),
            Place::Name(name) => name.clone(),
        };
        let Locality {
            region,
            zone,
            subzone,
        } = &member.locality;
        let locality = format!("{region}/{zone}/{subzone}");
        let mut made = json!({
            "address": address,
            "ports": self.reached_at(member),
            "labels": member.labels,
            "weight": member.weight,
        });
        let locality = locality.trim_end_matches('/');
        if !locality.is_empty() {
            set(&mut made, "locality", locality);
        }
        if member.mtls {
            set(&mut made, "serviceAccount", member.account.clone());
        }
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource;

    fn member(place: Place, health: Health) -> Member {
        Member {
            place,
            port: 8_081,
            labels: BTreeMap::from([("version".to_owned(), "v1".to_owned())]),
            locality: Locality {
                region: "dc1".to_owned(),
                ..Locality::default()
            },
            weight: 3,
            health,
            account: "web".to_owned(),
            mtls: false,
        }
    }

    fn listed(members: Vec<(&str, Member)>) -> Listed {
        Listed {
            from: "Consul",
            hosts: vec!["web.service.consul".to_owned()],
            namespace: "consul".to_owned(),
            workload: "web".to_owned(),
            ports: vec![
                Port {
                    number: 80,
                    protocol: protocol("http"),
                },
                Port {
                    number: 8_080,
                    protocol: None,
                },
            ],
            members: members
                .into_iter()
                .map(|(name, member)| (name.to_owned(), member))
                .collect(),
        }
    }

    #[test]
    fn the_parser_takes_what_is_made_and_members_are_instances() {
        let address = Place::Address("192.0.2.1".parse().unwrap());
        let made = listed(vec![("web-1", member(address, Health::Unhealthy))]).objects();
        assert_eq!(made.len(), 2);
        for (key, value) in &made {
            if key.kind == INSTANCE {
                let instance: Instance = serde_json::from_value(Value::clone(value)).unwrap();
                assert_eq!(instance.service_ports["http-80"], 8_081);
                assert_eq!(instance.service_ports["port-8080"], 8_081);
                assert_eq!(instance.labels[SERVICE], "web.service.consul");
                assert_eq!((instance.weight, instance.health), (3, Health::Unhealthy));
            } else {
                let (object, findings) = resource::from_cluster(value);
                assert!(findings.is_empty(), "{findings:?}");
                assert_eq!(&object.unwrap().key(), key);
            }
        }
    }

    #[test]
    fn names_are_for_proxies_to_ask_for_and_only_who_is_well_is_named() {
        let name = || Place::Name("db.example.com".to_owned());
        let address = Place::Address("192.0.2.1".parse().unwrap());
        let all = vec![
            ("a", member(name(), Health::Healthy)),
            ("b", member(address, Health::Healthy)),
            ("c", member(name(), Health::Unhealthy)),
        ];
        let made = listed(all).objects();
        let values: Vec<_> = made.values().collect();
        assert_eq!(values.len(), 1);
        let spec = &values[0]["spec"];
        assert_eq!(spec["resolution"], "DNS");
        assert_eq!(spec["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(spec["endpoints"][0]["locality"], "dc1");
        let (_, findings) = resource::from_cluster(values[0]);
        assert!(findings.is_empty(), "{findings:?}");
        // With nobody well, nobody is called: not the host itself either.
        let made = listed(vec![("c", member(name(), Health::Unhealthy))]).objects();
        let value = made.values().next().unwrap();
        assert_eq!(value["spec"]["resolution"], "STATIC");
        let (_, findings) = resource::from_cluster(value);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn names_stay_apart() {
        assert_eq!(name_of("web-1.node_a"), "web-1.node_a");
        let (one, other) = (name_of("web/1"), name_of("web:1"));
        assert_ne!(one, other);
        assert!(one.starts_with("web-1-"), "{one}");
        assert!(name_of(&"x".repeat(500)).len() < 253);
        assert_ne!(name_of(""), "");
    }
}
