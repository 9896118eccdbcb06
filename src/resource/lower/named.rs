//! Which Secrets and ConfigMaps gateways name, so that these are read and no others.

use std::collections::BTreeSet;

use super::gateway_api;
use crate::mesh::gateway::{Gateway, ServerSecurity, Serves};
use crate::mesh::origination::Origination;
use crate::mesh::world::World;
use crate::mesh::{Instance, Secret};
use crate::resource::object::{Key, Objects};

/// Labels of workloads that are gateways: Istio's, and that of the Gateway API.
const GATEWAY_LABELS: [&str; 2] = ["istio", gateway_api::GATEWAY_NAME];
/// Never read for a gateway, wherever they are: keys of authorities, ours and Istio's.
const AUTHORITIES: [&str; 3] = ["cacerts", "istio-ca-secret", "meshctl-ca"];

/// Everything with certificates, keys or roots that `objects`, of which `world` was made, let gateways and
/// workloads have: Secrets of the namespaces where the gateways run (Istio, Ingress), and what Gateways of the
/// Gateway API name beside them or where a ReferenceGrant lets them.
pub fn named(objects: &Objects, world: &World) -> BTreeSet<Key> {
    let config = &*world.config;
    let is_gateway = |instance: &Instance| {
        GATEWAY_LABELS
            .iter()
            .any(|of| instance.labels.contains_key(*of))
    };
    let running = || world.instances.values().filter(|one| is_gateway(one));
    let mut found = Found::default();
    for gateway in config.gateways.values() {
        let names = shown(gateway);
        if names.is_empty() {
            continue;
        }
        let serving = running().filter(|one| gateway.is_served_by(&one.namespace, &one.labels));
        for namespace in serving
            .map(|one| one.namespace.as_str())
            .collect::<BTreeSet<_>>()
        {
            found.secrets(namespace, &names);
        }
    }
    let rules = config.destinations.credentialed();
    let everywhere: BTreeSet<&str> = if rules.is_empty() {
        BTreeSet::new()
    } else {
        running().map(|one| one.namespace.as_str()).collect()
    };
    for rule in rules {
        let prefix = Secret::name_of_own("");
        let texts = rule.originations().flat_map(Origination::secrets);
        let mut names: Vec<String> = texts
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        let beside = names.iter().filter_map(|name| name.strip_suffix("-cacert"));
        let beside: Vec<String> = beside.map(str::to_owned).collect();
        names.extend(beside);
        if rule.selector.is_empty() {
            for namespace in &everywhere {
                found.secrets(namespace, &names);
            }
        } else {
            found.secrets(&rule.namespace, &names);
        }
    }
    gateway_api::named(objects, &mut |kind, namespace, name| {
        found.add(kind, namespace, name);
    });
    found.0
}

#[derive(Default)]
struct Found(BTreeSet<Key>);

impl Found {
    fn secrets(&mut self, namespace: &str, names: &[String]) {
        for name in names {
            self.add("Secret", namespace, name);
        }
    }

    fn add(&mut self, kind: &str, namespace: &str, name: &str) {
        if kind == "Secret" && AUTHORITIES.contains(&name) {
            return;
        }
        self.0.insert(Key {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }
}

/// Names of the Secrets that a gateway shows or holds callers against; roots may be beside under a name of their
/// own (Istio's `-cacert`).
fn shown(gateway: &Gateway) -> Vec<String> {
    let mut names = Vec::new();
    for server in &gateway.servers {
        let (Serves::Https(ServerSecurity::Own(own)) | Serves::Tls(ServerSecurity::Own(own))) =
            &server.serves
        else {
            continue;
        };
        names.extend(own.secrets().map(str::to_owned));
        if let Some(clients) = &own.clients
            && let crate::mesh::credential::RootsSource::Secret(name) = &clients.roots
        {
            names.push(format!("{name}-cacert"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::mesh::{Health, Locality};
    use crate::resource;

    fn instance(namespace: &str, labels: &[(&str, &str)]) -> ((String, String), Arc<Instance>) {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let instance = Instance {
            name: "gw".to_owned(),
            namespace: namespace.to_owned(),
            workload: "gw".to_owned(),
            service_account: "gw".to_owned(),
            labels: labels.iter().map(own).collect::<BTreeMap<_, _>>(),
            locality: Locality::default(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            also_at: Vec::new(),
            ports: BTreeMap::new(),
            port_names: BTreeMap::new(),
            service_ports: BTreeMap::new(),
            weight: 1,
            health: Health::Healthy,
            mtls: false,
        };
        ((namespace.to_owned(), "gw".to_owned()), Arc::new(instance))
    }

    fn of(text: &str, running: Vec<((String, String), Arc<Instance>)>) -> Vec<String> {
        let (objects, findings) = resource::parse(text, "test.yaml", "shop");
        assert!(findings.is_empty(), "{findings:?}");
        let (objects, _) = resource::collect(objects);
        let (world, _) = resource::lower(&objects, running.into_iter().collect());
        named(&objects, &world)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_istio_gateways_secret_is_of_where_its_proxies_run() {
        let text = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: MUTUAL, credentialName: web}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, namespace: shop}
spec: {ingressClassName: meshctl, tls: [{secretName: old}], defaultBackend: {service: {name: a, port: {number: 80}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: stolen, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 444, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: cacerts}}
";
        assert_eq!(of(text, Vec::new()), [""; 0]);
        let running = vec![
            instance("edge", &[("istio", "ingressgateway")]),
            instance("shop", &[("istio", "egressgateway")]),
            instance("default", &[("app", "web")]),
        ];
        // Of its own namespace none, and keys of authorities never.
        assert_eq!(
            of(text, running),
            [
                "Secret edge/old",
                "Secret edge/web",
                "Secret edge/web-cacert"
            ]
        );
    }

    #[test]
    fn a_listener_names_secrets_beside_it_and_elsewhere_where_it_is_let() {
        let text = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec:
  gatewayClassName: meshctl
  listeners:
  - {name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: own}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.example, tls: {certificateRefs: [{name: lent, namespace: certs}]}}
  - {name: c, port: 443, protocol: HTTPS, hostname: c.example, tls: {certificateRefs: [{name: kept, namespace: certs}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop}
spec:
  gatewayClassName: other
  listeners:
  - {name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: others}]}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: lend, namespace: certs}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}]
  to: [{group: '', kind: Secret, name: lent}]
";
        assert_eq!(
            of(text, Vec::new()),
            ["Secret certs/lent", "Secret shop/own"]
        );
    }
}
