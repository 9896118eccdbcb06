//! What one proxy is to know: Istio's Sidecar.
//!
//! A workload has at most one: one that names its labels, else its namespace's, else the root's. Without
//! any, it knows everything that is exported to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::destinations::ROOTS;
use super::world::{OutboundPolicy, selects};
use super::{Hostname, Node, Origin, Protocol};

/// What the proxies of some workloads know, and where they take calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sidecar {
    /// Where it was written.
    pub namespace: String,
    /// Labels of its workloads; none: all of the namespace, or of the mesh.
    pub selector: BTreeMap<String, String>,
    /// What is known; none: everything.
    pub egress: Vec<Egress>,
    /// Where calls are taken; none: wherever services and the application say.
    pub ingress: Vec<Ingress>,
    /// What happens to calls to hosts that are not known; `None` is as in the mesh.
    pub outbound: Option<OutboundPolicy>,
    /// The object.
    pub origin: Origin,
}

/// Hosts that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// At this port only, for which it speaks alone; else at all others.
    pub port: Option<u16>,
    /// Which.
    pub hosts: Vec<EgressHost>,
}

/// Some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// They are not known, whatever the others say.
    pub excluded: bool,
    /// Where they are written.
    pub space: Space,
    /// What they are called; may be a wildcard.
    pub host: Hostname,
}

/// Some namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Space {
    /// All.
    Any,
    /// That of the caller.
    Own,
    /// This.
    Named(String),
}

/// A port that calls are taken at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// As callers know it.
    pub port: u16,
    /// Its name; may be empty.
    pub name: String,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the application takes them; `None` is the same port.
    pub endpoint: Option<IngressEndpoint>,
}

/// Where the application listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngressEndpoint {
    /// At this loopback address.
    Loopback(SocketAddr),
    /// At the workload's own address.
    Own(u16),
}

/// The one that is for `node`, and its place among `all`, which are in order of age.
pub fn of<'a>(all: &'a [Arc<Sidecar>], node: &Node) -> Option<(usize, &'a Arc<Sidecar>)> {
    let here = || {
        let numbered = all.iter().enumerate();
        numbered.filter(|(_, sidecar)| sidecar.namespace == node.namespace)
    };
    let chosen = here().find(|(_, sidecar)| {
        !sidecar.selector.is_empty() && selects(&sidecar.selector, &node.labels)
    });
    chosen
        .or_else(|| here().find(|(_, sidecar)| sidecar.selector.is_empty()))
        .or_else(|| {
            let mut numbered = all.iter().enumerate();
            numbered.find(|(_, sidecar)| {
                sidecar.selector.is_empty() && ROOTS.contains(&sidecar.namespace.as_str())
            })
        })
}

impl Sidecar {
    /// Whether workloads in `own` know `host` of namespace `owner` at `port`.
    pub fn knows(&self, own: &str, port: u16, (owner, host): (&str, &Hostname)) -> bool {
        if self.egress.is_empty() {
            return true;
        }
        let alone = self.egress.iter().any(|egress| egress.port == Some(port));
        let wanted = alone.then_some(port);
        let mut speaking = self.egress.iter().filter(|egress| egress.port == wanted);
        speaking.any(|egress| egress.knows(own, owner, host))
    }

    /// As [`Sidecar::knows`], at any port.
    pub fn knows_at_all(&self, own: &str, owner: &str, host: &Hostname) -> bool {
        let mut all = self.egress.iter();
        self.egress.is_empty() || all.any(|egress| egress.knows(own, owner, host))
    }
}

impl Egress {
    fn knows(&self, own: &str, owner: &str, host: &Hostname) -> bool {
        let named = |excluded: bool| {
            let mut hosts = self
                .hosts
                .iter()
                .filter(|wanted| wanted.excluded == excluded);
            hosts.any(|wanted| wanted.holds(own, owner, host))
        };
        named(false) && !named(true)
    }
}

impl EgressHost {
    fn holds(&self, own: &str, owner: &str, host: &Hostname) -> bool {
        let there = match &self.space {
            Space::Any => true,
            Space::Own => owner == own,
            Space::Named(named) => named == owner,
        };
        // A wildcard service is known by each of its names.
        let part = !self.excluded && host.covers(&self.host);
        there && (self.host.covers(host) || part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(port: Option<u16>, hosts: &[(bool, &str, &str)]) -> Egress {
        let hosts = hosts.iter().map(|(excluded, space, host)| EgressHost {
            excluded: *excluded,
            space: match *space {
                "*" => Space::Any,
                "." => Space::Own,
                named => Space::Named(named.to_owned()),
            },
            host: host.parse().unwrap(),
        });
        Egress {
            port,
            hosts: hosts.collect(),
        }
    }

    #[test]
    fn hosts_are_known_by_namespace_name_and_port() {
        let sidecar = Sidecar {
            egress: vec![
                egress(Some(9000), &[(false, "two", "*")]),
                egress(
                    None,
                    &[
                        (false, ".", "*"),
                        (false, "*", "*.example.com"),
                        (true, "*", "x.example.com"),
                    ],
                ),
            ],
            ..Sidecar::default()
        };
        let knows = |port: u16, owner: &str, host: &str| {
            sidecar.knows("one", port, (owner, &host.parse().unwrap()))
        };
        assert!(knows(80, "one", "a.one") && !knows(80, "two", "a.two"));
        assert!(knows(9000, "two", "a.two") && !knows(9000, "one", "a.one"));
        assert!(knows(80, "three", "a.example.com") && !knows(80, "three", "x.example.com"));
        assert!(knows(80, "three", "*.example.com") && !knows(80, "three", "*.org"));
        assert!(sidecar.knows_at_all("one", "two", &"a.two".parse().unwrap()));
        assert!(Sidecar::default().knows("one", 80, ("two", &"a.two".parse().unwrap())));
    }
}
