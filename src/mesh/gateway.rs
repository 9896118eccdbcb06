//! Gateways: where callers from outside (or on their way there) are taken, and for which hosts.
//!
//! A gateway is a description; the proxies that carry its labels serve it. What is routed there is
//! bound to it by name, see [`Bound`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::sidecar::Space;
use super::world::{Rule, StreamRule};
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
    /// Where it was written.
    pub origin: Origin,
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
