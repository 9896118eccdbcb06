//! Endpoints that are names: which, and how the proxy finds out where they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::endpoint::{Assignment, Endpoint};

/// Names instead of addresses, which are asked for again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Names {
    /// All addresses of a name are one endpoint, whose connections go to the first that answers
    /// (Envoy: `LOGICAL_DNS`). Otherwise each is an endpoint (`STRICT_DNS`).
    pub logical: bool,
    /// How names are asked for.
    pub lookup: Lookup,
    /// The names.
    pub targets: Vec<Target>,
    /// What is said of the endpoints together; it has none itself.
    #[serde(default)]
    pub rest: Assignment,
}

/// An endpoint that is a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// A name, or an address as text.
    pub host: String,
    /// Everything else; of its address only the port counts (see [`Target::NOWHERE`]).
    pub endpoint: Endpoint,
}

/// How often a name is asked for, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// Which addresses are wanted.
    pub family: Family,
    /// From one answer to the next question. Default 5 s (Envoy).
    pub refresh: Duration,
    /// After a failure: the first pause and the longest, each twice the one before. `refresh` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<(Duration, Duration)>,
    /// An answer's time to live counts instead of `refresh`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub respect_ttl: bool,
    /// Up to so much is added to each pause.
    #[serde(default, skip_serializing_if = "Duration::is_zero")]
    pub jitter: Duration,
}

impl Default for Lookup {
    fn default() -> Self {
        Self {
            family: Family::default(),
            refresh: Duration::from_secs(5),
            failed: None,
            respect_ttl: false,
            jitter: Duration::ZERO,
        }
    }
}

/// Which addresses of a name count (Envoy: `dns_lookup_family`).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// IPv6, or IPv4 if there are none.
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, or IPv6 if there are none.
    V4Preferred,
    /// Both.
    All,
}

impl Target {
    /// The address of an endpoint whose place is not known.
    pub const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    /// An endpoint that is nothing but a name and a port.
    pub fn at(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            endpoint: Endpoint::at(SocketAddr::new(Self::NOWHERE, port)),
        }
    }

    /// The endpoint at `addresses`, of which those behind the first are tried where that does not answer.
    fn placed(&self, addresses: &[IpAddr]) -> Option<Endpoint> {
        let (first, others) = addresses.split_first()?;
        let mut endpoint = self.endpoint.clone();
        let port = endpoint.address.port();
        endpoint.address.set_ip(*first);
        endpoint.additional = others
            .iter()
            .map(|other| SocketAddr::new(*other, port))
            .collect();
        let check = endpoint.health_check.as_mut();
        if let Some(checked) = check.and_then(|check| check.address.as_mut())
            && checked.ip() == Self::NOWHERE
        {
            checked.set_ip(*first);
        }
        Some(endpoint)
    }
}

impl Names {
    /// The endpoints, where `of` knows the addresses of a host.
    pub fn placed<'a>(&self, of: impl Fn(&str) -> &'a [IpAddr]) -> Assignment {
        let mut endpoints = Vec::new();
        for target in &self.targets {
            let literal = target.host.parse().map(|address: IpAddr| [address]);
            let addresses = literal
                .as_ref()
                .map_or_else(|_| of(&target.host), |address| &address[..]);
            if self.logical {
                endpoints.extend(target.placed(addresses));
            } else {
                let each = addresses
                    .iter()
                    .map(|address| target.placed(std::slice::from_ref(address)));
                endpoints.extend(each.flatten());
            }
        }
        Assignment {
            endpoints: Assignment::new(endpoints).endpoints,
            ..self.rest.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::health_check::EndpointCheck;
    use super::*;

    fn names(logical: bool, targets: Vec<Target>) -> Names {
        Names {
            logical,
            lookup: Lookup::default(),
            targets,
            rest: Assignment {
                overprovisioning: 200,
                ..Assignment::default()
            },
        }
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shown(assignment: &Assignment) -> Vec<String> {
        let endpoints = assignment.endpoints.iter();
        endpoints
            .map(|endpoint| format!("{} {:?}", endpoint.address, endpoint.additional))
            .collect()
    }

    #[test]
    fn each_address_is_an_endpoint_or_all_are_one() {
        let known = addresses(&["10.0.0.2", "10.0.0.1", "fd00::1"]);
        let of = |host: &str| match host {
            "a.example" => &known[..],
            _ => &[],
        };
        let targets = || {
            let all = ["a.example", "b.example", "192.0.2.7"];
            all.map(|host| Target::at(host, 80)).to_vec()
        };
        let strict = names(false, targets()).placed(of);
        assert_eq!(
            shown(&strict),
            [
                "10.0.0.1:80 []",
                "10.0.0.2:80 []",
                "192.0.2.7:80 []",
                "[fd00::1]:80 []"
            ]
        );
        assert_eq!(strict.overprovisioning, 200);
        let logical = names(true, targets()).placed(of);
        assert_eq!(
            shown(&logical),
            ["10.0.0.2:80 [10.0.0.1:80, [fd00::1]:80]", "192.0.2.7:80 []"]
        );
    }

    #[test]
    fn a_check_goes_where_the_name_is() {
        let mut target = Target::at("a.example", 80);
        let mut checked = |address: &str| {
            target.endpoint.health_check = Some(Box::new(EndpointCheck {
                address: Some(address.parse().unwrap()),
                ..EndpointCheck::default()
            }));
            let known = addresses(&["10.0.0.1"]);
            let placed = names(false, vec![target.clone()]).placed(|_| &known);
            placed.endpoints[0].health_check.clone().unwrap().address
        };
        assert_eq!(checked("0.0.0.0:81"), Some(([10, 0, 0, 1], 81).into()));
        assert_eq!(checked("10.9.9.9:81"), Some(([10, 9, 9, 9], 81).into()));
    }
}
