//! Gateways: where callers from outside (or on their way there) are taken, and for which hosts.
//!
//! A gateway is a description; the proxies that carry its labels serve it. What is routed there is
//! bound to it by name, see [`Bound`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::ocsp::Unusable;
use super::sidecar::Space;
use super::world::{Rule, StreamRule, selects};
use super::{Hostname, Origin, OwnTls, Secret};
use std::sync::Arc;

/// `(namespace, name)` of a gateway.
pub type GatewayName = (String, String);

/// Where some proxies take callers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gateway {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels of the proxies that serve it; none: all gateway proxies.
    pub selector: BTreeMap<String, String>,
    /// Only proxies of its own namespace serve it (Gateway API).
    pub local: bool,
    /// Namespace and name of the Secret that backends are shown where a policy says that they are spoken
    /// to in TLS (Gateway API).
    pub client_certificate: Option<(String, String)>,
    /// In order; of two that claim one host at one port the first has it.
    pub servers: Vec<Server>,
    /// The object.
    pub origin: Origin,
}

/// One port of a gateway, for some hosts.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Such as `https`.
    pub name: String,
    /// The port.
    pub port: u16,
    /// The address that is listened on; that of the proxy when absent.
    pub bind: Option<IpAddr>,
    /// What is spoken.
    pub serves: Serves,
    /// Pages in browsers may call gRPC here.
    pub grpc_web: bool,
    /// For whom.
    pub hosts: Vec<ServerHost>,
    /// What is routed here, where that was said of this server; else what is bound to the gateway.
    pub attached: Option<Attached>,
    /// Where it was written.
    pub origin: Origin,
}

/// Routes that are attached to one server (a listener of the Gateway API).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attached {
    /// For requests, by host and in order; what is for a wider host stands behind. Of servers that
    /// share a port a request is for the one with the narrowest host, whatever is attached to others.
    pub hosts: BTreeMap<Hostname, Vec<Rule>>,
    /// For bytes, in order.
    pub streams: Vec<StreamRule>,
}

/// What is spoken at a port, and what happens to TLS.
#[derive(Debug, Clone, PartialEq)]
pub enum Serves {
    /// Requests in the clear.
    Http {
        /// Every caller is sent to `https`.
        redirect: bool,
    },
    /// Requests in TLS that ends here.
    Https(ServerSecurity),
    /// Bytes in TLS that ends here.
    Tls(ServerSecurity),
    /// TLS that goes on as it is, by its server name.
    Passthrough,
    /// mTLS of the mesh that goes on as it is, to the service, port and subset that its server name says
    /// (`AUTO_PASSTHROUGH`). Nothing is bound to it: its hosts say which services may be reached.
    MeshPassthrough,
    /// Bytes.
    Tcp,
}

/// With what TLS ends.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerSecurity {
    /// The mesh's certificates, on both sides (`ISTIO_MUTUAL`).
    Mesh,
    /// Certificates of its own. Secrets in it are names in the namespace of the proxy.
    Own(Box<OwnTls>),
}

/// Hosts that a server is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHost {
    /// Namespaces whose rules may be bound here.
    pub space: Space,
    /// The host; may be a wildcard.
    pub host: Hostname,
}

/// The rules of one object, bound to a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// Where they were written.
    pub namespace: String,
    /// For these hosts.
    pub hosts: Vec<Hostname>,
    /// In order.
    pub rules: Vec<Rule>,
    /// For bytes, in order.
    pub streams: Vec<StreamRule>,
    /// Namespaces whose gateways see them; empty is all.
    pub export: BTreeSet<String>,
    /// The object.
    pub origin: Origin,
}

/// The texts of a Secret that gateways can use.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Credential {
    /// Certificate and key.
    pub certificate: Option<Arc<Secret>>,
    /// Whom to believe.
    pub roots: Option<Arc<Secret>>,
    /// Why its OCSP response is left out.
    pub unstapled: Option<Unusable>,
}

impl Serves {
    /// Whether what is routed there is bound to it.
    pub fn is_routed(&self) -> bool {
        *self != Self::MeshPassthrough
    }
}

impl Gateway {
    /// Whether a proxy of `namespace` with `labels` serves it.
    pub fn is_served_by(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        (!self.local || self.namespace == namespace) && selects(&self.selector, labels)
    }
}

impl Server {
    /// Whether a name that `host` stands for may be meant for it.
    fn covers(&self, host: &Hostname) -> Option<&Hostname> {
        let hosts = self.hosts.iter().map(|of| &of.host);
        hosts
            .filter(|of| of.covers(host) || *of == host)
            .max_by_key(|of| of.as_str().len())
    }

    /// Whether of `all` servers of a port this is the one for `host`: the first of those with the
    /// narrowest host.
    pub fn owns<'a>(
        &self,
        host: &Hostname,
        mut all: impl Iterator<Item = &'a Self> + Clone,
    ) -> bool {
        let width = |server: &Self| server.covers(host).map(|of| of.as_str().len());
        let narrowest = all.clone().filter_map(width).max();
        narrowest.is_some()
            && all
                .find(|server| width(server) == narrowest)
                .is_some_and(|owner| std::ptr::eq(owner, self))
    }
}

impl ServerHost {
    /// The hosts that rules for `host` of namespace `of` get from a server of a gateway in namespace
    /// `own`: the narrower of both.
    pub fn meets(&self, host: &Hostname, of: &str, own: &str) -> Option<Hostname> {
        let space = match &self.space {
            Space::Any => true,
            Space::Own => of == own,
            Space::Named(name) => of == name,
        };
        if !space {
            None
        } else if self.host == *host || self.host.covers(host) {
            Some(host.clone())
        } else if host.covers(&self.host) {
            Some(self.host.clone())
        } else {
            None
        }
    }
}
