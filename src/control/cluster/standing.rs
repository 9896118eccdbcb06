//! How proxies and addresses of Gateways stand, as their statuses tell it. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::install::deployed::Asked;

/// Of the Gateways that are given proxies, by namespace and name; nothing while it is not known.
pub(super) type Standings = Option<BTreeMap<(String, String), Standing>>;

/// How one stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Why it has no proxies.
    pub(super) refused: Option<String>,
    /// Proxies that are ready, and how many there are to be.
    ready: u64,
    wanted: u64,
    /// Where it is reached: type and value.
    addresses: Vec<(&'static str, String)>,
    /// One that it asks for and does not have.
    unusable: Option<String>,
    service: String,
}

impl Standing {
    pub(super) fn refused(why: String) -> Self {
        Self {
            refused: Some(why),
            ..Self::default()
        }
    }

    /// Takes in its Deployment, as it is now. What is said of an earlier generation does not count.
    pub(super) fn proxies(&mut self, deployment: Option<&Value>) {
        let number = |pointer: &str| {
            let found = deployment.and_then(|object| object.pointer(pointer)?.as_u64());
            found.unwrap_or_default()
        };
        self.wanted = number("/spec/replicas");
        let current = number("/status/observedGeneration") >= number("/metadata/generation");
        self.ready = if current {
            number("/status/readyReplicas")
        } else {
            0
        };
    }

    /// Whether all of its proxies are.
    pub(super) fn is_ready(&self) -> bool {
        self.wanted > 0 && self.ready >= self.wanted
    }

    /// Takes in its Service, as it is now.
    pub(super) fn reached(&mut self, service: Option<&Value>, asked: &Asked) {
        self.service.clone_from(&asked.service);
        self.addresses = match service {
            Some(service) if asked.service == "LoadBalancer" => outside(service),
            Some(service) => inside(service),
            None => Vec::new(),
        };
        let has = |wanted: &String| self.addresses.iter().any(|(_, own)| own == wanted);
        let mut wanted = asked.addresses.iter().map(ToString::to_string);
        let missing = wanted.find(|wanted| !has(wanted));
        self.unusable = missing.filter(|_| !self.addresses.is_empty());
    }

    /// Why it is not programmed: reason and message.
    fn fault(&self) -> Option<(&'static str, String)> {
        if let Some(why) = &self.refused {
            return Some(("Invalid", why.clone()));
        }
        if self.ready == 0 {
            let message = format!("none of {} proxies is ready yet", self.wanted);
            return Some(("Pending", message));
        }
        if self.addresses.is_empty() {
            let message = format!("its Service of type {} has no address yet", self.service);
            return Some(("AddressNotAssigned", message));
        }
        let unusable = self.unusable.as_ref()?;
        let message = format!("the cluster did not give it address {unusable}");
        Some(("AddressNotUsable", message))
    }

    /// Says so in the `status` of the Gateway. What is wrong with the Gateway itself stays the first to be said.
    pub(super) fn tell(&self, status: &mut Value) {
        let addresses = self.addresses.iter();
        let addresses: Vec<Value> = addresses
            .map(|(kind, value)| json!({"type": kind, "value": value}))
            .collect();
        if let Some(fields) = status.as_object_mut() {
            fields.insert("addresses".to_owned(), addresses.into());
        }
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten() {
            if condition["type"] != "Programmed" {
                continue;
            }
            if condition["status"] == "False" && condition["reason"] == "Invalid" {
                continue;
            }
            let (holds, reason, message) = match self.fault() {
                Some((reason, message)) => ("False", reason, message),
                None => ("True", "Programmed", String::new()),
            };
            condition["status"] = holds.into();
            condition["reason"] = reason.into();
            condition["message"] = message.into();
        }
    }
}

/// Addresses that a load balancer gave.
pub(in crate::control) fn outside(service: &Value) -> Vec<(&'static str, String)> {
    let given = service.pointer("/status/loadBalancer/ingress");
    let given = given.and_then(Value::as_array).into_iter().flatten();
    let text = |one: &Value, field: &str| one.get(field)?.as_str().map(str::to_owned);
    given
        .filter_map(|one| {
            let ip = text(one, "ip").map(|ip| ("IPAddress", ip));
            ip.or_else(|| Some(("Hostname", text(one, "hostname")?)))
        })
        .collect()
}

/// Those that it has in the cluster.
fn inside(service: &Value) -> Vec<(&'static str, String)> {
    let all = service
        .pointer("/spec/clusterIPs")
        .and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(Value::as_str);
    let some = all.filter(|ip| !matches!(*ip, "" | "None"));
    some.map(|ip| ("IPAddress", ip.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(reason: &str) -> Value {
        json!({"addresses": [{"type": "IPAddress", "value": "10.0.0.1"}], "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted"},
            {"type": "Programmed", "status": "False", "reason": reason, "message": "before"},
        ]})
    }

    fn told(standing: &Standing) -> (Value, Value) {
        let mut status = status("AddressNotAssigned");
        standing.tell(&mut status);
        let addresses = status["addresses"].clone();
        (status["conditions"][1]["reason"].clone(), addresses)
    }

    #[test]
    fn a_gateway_is_programmed_once_a_proxy_is_ready_and_an_address_there() {
        let asked = Asked {
            service: "LoadBalancer".to_owned(),
            addresses: vec![[192, 0, 2, 7].into()],
            ..Asked::default()
        };
        let mut standing = Standing::default();
        assert_eq!(told(&standing), (json!("Pending"), json!([])));
        let deployment = |seen: u64, ready: u64| {
            json!({
                "metadata": {"generation": 2}, "spec": {"replicas": 2},
                "status": {"observedGeneration": seen, "readyReplicas": ready},
            })
        };
        // That is said of what was before.
        standing.proxies(Some(&deployment(1, 2)));
        assert!(!standing.is_ready());
        standing.proxies(Some(&deployment(2, 1)));
        assert!(!standing.is_ready());
        standing.reached(Some(&json!({"status": {"loadBalancer": {}}})), &asked);
        assert_eq!(told(&standing), (json!("AddressNotAssigned"), json!([])));
        let given = |ip: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
        standing.reached(Some(&given("192.0.2.8")), &asked);
        assert_eq!(told(&standing).0, "AddressNotUsable");
        standing.reached(Some(&given("192.0.2.7")), &asked);
        let address = json!([{"type": "IPAddress", "value": "192.0.2.7"}]);
        assert_eq!(told(&standing), (json!("Programmed"), address));
    }

    #[test]
    fn what_is_wrong_with_the_gateway_itself_is_said_first() {
        let mut status = status("Invalid");
        Standing::refused("somebody has that name".to_owned()).tell(&mut status);
        assert_eq!(status["conditions"][1]["message"], "before");
    }

    #[test]
    fn a_service_without_a_load_balancer_is_reached_in_the_cluster() {
        let asked = Asked {
            service: "ClusterIP".to_owned(),
            ..Asked::default()
        };
        let mut standing = Standing::default();
        let service = json!({"spec": {"clusterIPs": ["10.96.0.1", "fd00::1"]}});
        standing.reached(Some(&service), &asked);
        assert_eq!(told(&standing).1[1]["value"], "fd00::1");
    }
}
