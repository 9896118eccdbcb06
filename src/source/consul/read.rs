//! What Consul says of a service, as the mesh has it.
//!
//! These are facts and not wishes, so they are read leniently: what is not asked for is passed over,
//! and Consul writes an empty list as `null`, too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer};

use super::Options;
use crate::mesh::{Health, Hostname, Locality};
use crate::source::listed::{self, Listed, Member, Place, Port};

/// More different ports than this mean nothing to callers: then the service is called at one.
const MOST_PORTS: usize = 8;
/// Checks by which Consul keeps in mind that somebody is working on an instance, or on its machine.
const MAINTENANCE: [&str; 2] = ["_node_maintenance", "_service_maintenance"];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    node: Node,
    service: Service,
    #[serde(deserialize_with = "or_default")]
    checks: Vec<Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    #[serde(rename = "Node")]
    name: String,
    address: String,
    datacenter: String,
    #[serde(deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    locality: Where,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Where {
    region: String,
    zone: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Kind")]
    kind: String,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Port")]
    port: u16,
    #[serde(rename = "Tags", deserialize_with = "or_default")]
    tags: Vec<String>,
    #[serde(rename = "Meta", deserialize_with = "or_default")]
    meta: BTreeMap<String, String>,
    #[serde(rename = "Weights", deserialize_with = "or_default")]
    weights: Weights,
    #[serde(rename = "Locality", deserialize_with = "or_default")]
    locality: Where,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Weights {
    passing: u32,
    warning: u32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            passing: 1,
            warning: 1,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    #[serde(rename = "CheckID")]
    id: String,
    #[serde(rename = "Status")]
    status: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads what `/v1/health/service/NAME` answers. None where nobody can be called: no instance, none
/// with a port, or Consul's own proxies.
pub(super) fn service(
    name: &str,
    body: &[u8],
    options: &Options,
) -> Result<Option<Listed>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let mut entries: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| matches!(entry.service.kind.as_str(), "" | "typical"))
        .filter(|entry| entry.service.port > 0)
        .collect();
    entries.sort_by(|a, b| (&a.node.name, &a.service.id).cmp(&(&b.node.name, &b.service.id)));
    let Some(host) = options.host_of(name) else {
        return Ok(None);
    };
    let mut members = BTreeMap::new();
    let mut said = Vec::new();
    for entry in &entries {
        let labels = labels(name, &entry.service);
        let Some(member) = member(entry, &labels) else {
            tracing::debug!(service = name, id = entry.service.id, "it has no address");
            continue;
        };
        let datacenter = &entry.node.datacenter;
        let id = format!("{}.{}.{datacenter}", entry.service.id, entry.node.name);
        members.insert(listed::name_of(&id), member);
        said.push(labels);
    }
    if members.is_empty() {
        return Ok(None);
    }
    let protocol = said
        .iter()
        .find_map(|labels| listed::protocol(labels.get("protocol")?));
    let ports = ports(&members, &said, protocol);
    Ok(Some(Listed {
        from: "Consul",
        hosts: vec![host],
        namespace: options.namespace.clone(),
        workload: name.to_ascii_lowercase(),
        ports,
        members,
    }))
}

/// Where the service is called: at the port that its instances name, else at the ports that they have.
fn ports(
    members: &BTreeMap<String, Member>,
    said: &[BTreeMap<String, String>],
    protocol: Option<&'static str>,
) -> Vec<Port> {
    let named = said.iter().find_map(|labels| {
        let port: u16 = labels.get("service-port")?.parse().ok()?;
        (port > 0).then_some(port)
    });
    let own: BTreeSet<u16> = members.values().map(|member| member.port).collect();
    let numbers = match named {
        Some(named) => BTreeSet::from([named]),
        None if own.len() > MOST_PORTS => {
            BTreeSet::from([if protocol == Some("HTTPS") { 443 } else { 80 }])
        }
        None => own,
    };
    let port = |number| Port { number, protocol };
    numbers.into_iter().map(port).collect()
}

fn member(entry: &Entry, labels: &BTreeMap<String, String>) -> Option<Member> {
    let Entry { node, service, .. } = entry;
    let written = if service.address.is_empty() {
        &node.address
    } else {
        &service.address
    };
    let place = if let Ok(address) = written.parse() {
        Place::Address(address)
    } else {
        // Machines outside are listed by their names sometimes.
        let name: Hostname = written.parse().ok()?;
        (!name.as_str().starts_with('*')).then(|| Place::Name(name.to_string()))?
    };
    let (health, weight) = health(entry);
    let first = |texts: &[Option<&String>]| {
        let mut said = texts.iter().flatten().filter(|text| !text.is_empty());
        said.next().map(|text| (*text).clone()).unwrap_or_default()
    };
    let mtls = labels
        .get("mtls")
        .is_some_and(|said| said == "true" || said == "istio");
    Some(Member {
        place,
        port: service.port,
        locality: Locality {
            region: first(&[
                Some(&service.locality.region),
                Some(&node.locality.region),
                node.meta.get("region"),
                Some(&node.datacenter),
            ]),
            zone: first(&[
                Some(&service.locality.zone),
                Some(&node.locality.zone),
                node.meta.get("zone"),
            ]),
            subzone: String::new(),
        },
        weight,
        health,
        account: labels
            .get("service-account")
            .cloned()
            .unwrap_or_else(|| "default".to_owned()),
        mtls,
        labels: labels.clone(),
    })
}

/// The worst check counts. One that is being worked on keeps the calls that it has.
fn health(entry: &Entry) -> (Health, u32) {
    let weights = &entry.service.weights;
    let worked_on = |id: &str| {
        let known = MAINTENANCE.iter();
        known
            .filter_map(|known| id.strip_prefix(known))
            .any(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    let mut critical = false;
    let mut maintained = false;
    let mut warning = false;
    for check in &entry.checks {
        match check.status.as_str() {
            "passing" => {}
            "warning" => warning = true,
            "maintenance" => maintained = true,
            _ if worked_on(&check.id) => maintained = true,
            _ => critical = true,
        }
    }
    let weight = if warning {
        weights.warning
    } else {
        weights.passing
    };
    let health = if critical || weight == 0 {
        Health::Unhealthy
    } else if maintained {
        Health::Draining
    } else {
        Health::Healthy
    };
    (health, weight.max(1))
}

/// Labels of an instance: its meta, its tags, and what those say that the mesh has names for.
fn labels(name: &str, service: &Service) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut looks_like_version = BTreeSet::new();
    for tag in &service.tags {
        // `key=value`, as Traefik and Nomad have it; `key|value`, as Istio had.
        let pair = tag.split_once(['=', '|']);
        if let Some((key, value)) = pair
            && is_key(key)
            && is_value(value)
        {
            labels.insert(key.to_owned(), value.to_owned());
            continue;
        }
        if !is_value(tag) {
            continue;
        }
        labels.insert(format!("tag/{tag}"), "true".to_owned());
        if is_version(tag) {
            looks_like_version.insert(tag);
        }
        if listed::protocol(tag).is_some() {
            let known = labels.entry("protocol".to_owned());
            known.or_insert_with(|| tag.clone());
        }
    }
    for (key, value) in &service.meta {
        if is_key(key) && is_value(value) {
            labels.insert(key.clone(), value.clone());
        }
    }
    let app = labels.entry("app".to_owned());
    app.or_insert_with(|| name.to_ascii_lowercase());
    // Two of them would be a guess.
    if let Some(version) = looks_like_version.pop_first()
        && looks_like_version.is_empty()
    {
        let known = labels.entry("version".to_owned());
        known.or_insert_with(|| version.clone());
    }
    labels
}

/// Such as `v2` or `v1.4`.
fn is_version(tag: &str) -> bool {
    let number = tag.strip_prefix('v').unwrap_or_default();
    number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// What may be a label without a domain before it; those with one are Kubernetes' and the mesh's.
fn is_key(text: &str) -> bool {
    !text.is_empty() && is_value(text)
}

/// What may be the value of a label.
fn is_value(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn options() -> Options {
        Options::parse("http://127.0.0.1").unwrap()
    }

    /// As Consul 1.21 answers, with what `change` says otherwise.
    fn entry(id: &str, port: u16, change: &[(&str, Value)]) -> Value {
        let mut entry = json!({
            "Node": {
                "ID": "f0f0", "Node": "node-1", "Address": "10.0.0.1", "Datacenter": "dc1",
                "TaggedAddresses": {"lan": "10.0.0.1", "wan": "10.0.0.1"},
                "Meta": {"consul-network-segment": ""}, "CreateIndex": 5, "ModifyIndex": 7,
            },
            "Service": {
                "ID": id, "Service": "Web", "Tags": [], "Address": "", "Meta": null, "Port": port,
                "Weights": {"Passing": 10, "Warning": 2}, "EnableTagOverride": false,
                "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
                "PeerName": "", "CreateIndex": 9, "ModifyIndex": 9,
            },
            "Checks": [
                {"Node": "node-1", "CheckID": "serfHealth", "Status": "passing", "ServiceID": ""},
                {"Node": "node-1", "CheckID": "service:web", "Status": "passing", "ServiceID": id},
            ],
        });
        for (pointer, value) in change {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            entry.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        entry
    }

    fn read(entries: &[Value]) -> Option<Listed> {
        let body = serde_json::to_vec(entries).unwrap();
        service("Web", &body, &options()).unwrap()
    }

    fn one(change: &[(&str, Value)]) -> Member {
        let listed = read(&[entry("web-1", 8_080, change)]).unwrap();
        listed.members.into_values().next().unwrap()
    }

    #[test]
    fn a_service_is_named_as_in_consuls_dns() {
        let listed = read(&[entry("web-1", 8_080, &[])]).unwrap();
        assert_eq!(listed.hosts, ["web.service.consul"]);
        assert_eq!(listed.namespace, "consul");
        assert_eq!(listed.workload, "web");
        let (name, member) = listed.members.first_key_value().unwrap();
        assert_eq!(name, "web-1.node-1.dc1");
        assert_eq!(member.place, Place::Address("10.0.0.1".parse().unwrap()));
        assert_eq!((member.port, member.weight), (8_080, 10));
        assert_eq!(member.locality.region, "dc1");
        assert_eq!(member.labels["app"], "web");
        assert!(!member.mtls);
    }

    #[test]
    fn the_worst_check_counts() {
        let status = |text: &str| ("/Checks/1/Status", json!(text));
        assert_eq!(one(&[]).health, Health::Healthy);
        let warning = one(&[status("warning")]);
        assert_eq!((warning.health, warning.weight), (Health::Healthy, 2));
        assert_eq!(one(&[status("critical")]).health, Health::Unhealthy);
        // The machine is gone, whatever the service says of itself.
        let machine = ("/Checks/0/Status", json!("critical"));
        assert_eq!(one(&[machine]).health, Health::Unhealthy);
        for id in ["_node_maintenance", "_service_maintenance:web-1"] {
            let maintained = [status("critical"), ("/Checks/1/CheckID", json!(id))];
            assert_eq!(one(&maintained).health, Health::Draining, "{id}");
            let broken = ("/Checks/0/Status", json!("critical"));
            let both = [maintained[0].clone(), maintained[1].clone(), broken];
            assert_eq!(one(&both).health, Health::Unhealthy, "{id}");
        }
        let named_alike = [
            status("critical"),
            ("/Checks/1/CheckID", json!("_node_maintenance_window")),
        ];
        assert_eq!(one(&named_alike).health, Health::Unhealthy);
        // Nobody is to be sent where the weight is nothing.
        let nothing = ("/Service/Weights", json!({"Passing": 0, "Warning": 0}));
        assert_eq!(one(&[nothing]).health, Health::Unhealthy);
        let old = one(&[("/Service/Weights", Value::Null)]);
        assert_eq!((old.health, old.weight), (Health::Healthy, 1));
        assert_eq!(one(&[("/Checks", Value::Null)]).health, Health::Healthy);
    }

    #[test]
    fn addresses_of_services_go_before_those_of_machines() {
        let own = one(&[("/Service/Address", json!("10.0.0.9"))]);
        assert_eq!(own.place, Place::Address("10.0.0.9".parse().unwrap()));
        let six = one(&[("/Node/Address", json!("2001:db8::1"))]);
        assert_eq!(six.place, Place::Address("2001:db8::1".parse().unwrap()));
        let named = one(&[("/Service/Address", json!("db.example.com"))]);
        assert_eq!(named.place, Place::Name("db.example.com".to_owned()));
        assert_eq!(
            read(&[entry("web-1", 80, &[("/Node/Address", json!(""))])]),
            None
        );
    }

    #[test]
    fn meta_and_tags_are_labels() {
        let member = one(&[
            (
                "/Service/Tags",
                json!([
                    "primary",
                    "v2",
                    "team=shop",
                    "zone|b",
                    "urlprefix-/web strip=/web",
                    "http"
                ]),
            ),
            (
                "/Service/Meta",
                json!({"team": "cart", "mtls": "istio", "service-account": "web", "note": "a b"}),
            ),
        ]);
        let expected = [
            ("app", "web"),
            ("mtls", "istio"),
            ("protocol", "http"),
            ("service-account", "web"),
            ("tag/http", "true"),
            ("tag/primary", "true"),
            ("tag/v2", "true"),
            ("team", "cart"),
            ("version", "v2"),
            ("zone", "b"),
        ];
        let labels: Vec<(&str, &str)> = member
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(labels, expected);
        assert!(member.mtls);
        assert_eq!(member.account, "web");
        // Two versions are none.
        let two = one(&[("/Service/Tags", json!(["v1", "v2"]))]);
        assert_eq!(two.labels.get("version"), None);
        let said = one(&[
            ("/Service/Tags", json!(["v1"])),
            ("/Service/Meta", json!({"version": "2025-10"})),
        ]);
        assert_eq!(said.labels["version"], "2025-10");
    }

    #[test]
    fn every_port_leads_to_everybody_and_too_many_are_one() {
        let numbers =
            |listed: &Listed| -> Vec<u16> { listed.ports.iter().map(|port| port.number).collect() };
        let two = read(&[entry("a", 8_081, &[]), entry("b", 8_080, &[])]).unwrap();
        assert_eq!(numbers(&two), [8_080, 8_081]);
        assert_eq!(two.ports[0].protocol, None);
        let meta = |value: Value| [("/Service/Meta", value)];
        let many: Vec<Value> = (0..9)
            .map(|n| {
                entry(
                    &format!("w{n}"),
                    20_000 + n,
                    &meta(json!({"protocol": "grpc"})),
                )
            })
            .collect();
        let many = read(&many).unwrap();
        assert_eq!(numbers(&many), [80]);
        assert_eq!(many.ports[0].protocol, Some("GRPC"));
        assert_eq!(many.members.len(), 9);
        let named = [
            entry("a", 8_081, &meta(json!({"service-port": "9090"}))),
            entry("b", 8_080, &[]),
        ];
        assert_eq!(numbers(&read(&named).unwrap()), [9_090]);
    }

    #[test]
    fn what_cannot_be_called_is_left_out() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[entry("a", 0, &[])]), None);
        let proxy = ("/Service/Kind", json!("connect-proxy"));
        assert_eq!(read(&[entry("a", 20_000, &[proxy])]), None);
        assert!(service("web", b"{}", &options()).is_err());
    }
}
