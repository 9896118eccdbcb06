//! How a gateway takes a connection: the listener of its port, and the chain by TLS and server name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::api::routes::Fact;
use crate::mesh::credential::CertificateSource;
use crate::mesh::gateway::Bound;
use crate::mesh::listener::Transport;
use crate::mesh::route::explain;
use crate::mesh::world::selects;
use crate::mesh::{Chain, Hostname, Listener, Node, OwnTls, RouteTable, View, World};
use crate::resource::nearest;

use super::hosts::reasons;

/// A connection as its caller makes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialled<'a> {
    pub(super) port: u16,
    pub(super) tls: bool,
    /// The host that is asked for, without port.
    pub(super) host: &'a str,
}

/// The port that is asked for, or that of the scheme.
pub(super) fn port(authority: &str, scheme: &str) -> Result<u16, String> {
    let behind = authority
        .rsplit_once(']')
        .map_or(authority, |(_, rest)| rest);
    match behind.rsplit_once(':') {
        Some((_, port)) => port.parse().map_err(|_| format!("{port:?} is not a port")),
        None if scheme == "https" => Ok(443),
        None => Ok(80),
    }
}

/// The chain that takes the connection, with its listener. `Err` says what becomes of it where none does.
pub(super) fn chain<'v>(
    view: &'v View,
    node: &Node,
    dialled: Dialled<'_>,
) -> Result<(&'v str, &'v Chain), String> {
    let listener = listener(view, node, dialled.port)?;
    let plain = listener.default_chain.as_ref();
    let found = if dialled.tls {
        by_name(listener, dialled.host).or(plain)
    } else {
        let open = |chain: &&Chain| chain.matches.transport != Some(Transport::Tls);
        listener.chains.iter().find(open).or(plain)
    };
    let port = dialled.port;
    found
        .map(|chain| (listener.name.as_str(), chain))
        .ok_or_else(|| {
            if !dialled.tls {
                return format!("the connection is closed: port {port} takes TLS only");
            }
            let chains = listener.chains.iter();
            let names: BTreeSet<&str> = chains
                .flat_map(|chain| chain.matches.server_names.iter().map(String::as_str))
                .collect();
            let names: Vec<&str> = names.into_iter().collect();
            format!(
                "the connection is closed: no server of port {port} is for {}, but for {}",
                dialled.host,
                names.join(", ")
            )
        })
}

fn listener<'v>(view: &'v View, node: &Node, port: u16) -> Result<&'v Listener, String> {
    let told = node.applications.iter().find(|told| told.port == port);
    let at = |listener: &&std::sync::Arc<Listener>| match told {
        Some(told) => listener.bind == told.bind,
        None => node.applications.is_empty() && listener.bind.port() == port,
    };
    if let Some(found) = view.listeners.values().find(at) {
        return Ok(found);
    }
    let port_of = |listener: &Listener| {
        let mut told = node.applications.iter();
        told.find(|told| told.bind == listener.bind)
            .map_or(listener.bind.port(), |told| told.port)
    };
    let ports: BTreeSet<u16> = view.listeners.values().map(|one| port_of(one)).collect();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    Err(if ports.is_empty() {
        "the connection is refused: no Gateway is served here".to_owned()
    } else {
        format!(
            "the connection is refused: no server has port {port}, but {}",
            ports.join(", ")
        )
    })
}

/// Envoy's order: the name itself, then the longest wildcard, then chains for any name.
fn by_name<'l>(listener: &'l Listener, host: &str) -> Option<&'l Chain> {
    let secure = || {
        let chains = listener.chains.iter();
        chains.filter(|chain| chain.matches.transport == Some(Transport::Tls))
    };
    // Callers name hosts, not addresses (RFC 6066, section 3).
    let named = host.parse::<IpAddr>().is_err() && !host.starts_with('[');
    let best = |chain: &&Chain| {
        let names = chain.matches.server_names.iter();
        let fit = names.filter_map(|name| match name.strip_prefix('*') {
            Some(suffix) => host
                .strip_suffix(suffix)
                .filter(|head| !head.is_empty())
                .map(|_| (false, suffix.len())),
            None => (name == host).then_some((true, 0)),
        });
        fit.max()
    };
    let by_name = secure()
        .filter(|_| named)
        .filter_map(|chain| Some((best(&chain)?, chain)))
        .max_by_key(|(fit, _)| *fit);
    by_name
        .map(|(_, chain)| chain)
        .or_else(|| secure().find(|chain| chain.matches.server_names.is_empty()))
}

/// What becomes of TLS at `chain`.
pub(super) fn security(chain: &Chain) -> Fact {
    let words = match &chain.tls {
        None => match chain.matches.application_protocols.as_slice() {
            [] => "goes on as it is, unopened".to_owned(),
            offered => format!(
                "goes on as it is, unopened, where callers offer {}; others are closed",
                offered.join(" or ")
            ),
        },
        Some(tls) => match &tls.own {
            None => "ends here, with the mesh's certificates on both sides".to_owned(),
            Some(own) => shown(own),
        },
    };
    Fact::new("TLS", words, None)
}

fn shown(own: &OwnTls) -> String {
    let certificates = own.certificates.iter().map(|source| match source {
        CertificateSource::Secret(name) => name.as_str(),
        CertificateSource::Files { chain, .. } => chain.as_str(),
    });
    let certificates: Vec<&str> = certificates.collect();
    let callers = match &own.clients {
        None => "",
        Some(_) => "; what callers show is looked at",
    };
    format!("ends here, with {}{callers}", certificates.join(", "))
}

/// What was perhaps meant by a host that a table does not have: one that it has.
pub(super) fn meant(table: &RouteTable, host: &str) -> Vec<String> {
    let domains = || table.hosts.iter().flat_map(|host| &host.domains);
    let near = nearest(host, domains().map(String::as_str));
    near.into_iter().map(str::to_owned).collect()
}

/// Rules for `host`, bound to what `node` serves, that are not for this port or this gateway.
pub(super) fn left_out(world: &World, node: &Node, host: &Hostname, port: u16) -> Vec<Fact> {
    let config = &*world.config;
    let gateways = config.gateways.iter();
    let served = gateways.filter(|(_, gateway)| selects(&gateway.selector, &node.labels));
    let bound = served.flat_map(|(name, _)| config.bound.get(name).into_iter().flatten());
    let covers = |bound: &&std::sync::Arc<Bound>| {
        let mut hosts = bound.hosts.iter();
        hosts.any(|own| own == host || own.covers(host))
    };
    let mut facts: Vec<Fact> = Vec::new();
    for bound in bound.filter(covers) {
        if !bound.export.is_empty() && !bound.export.contains(&node.namespace) {
            let to: Vec<&str> = bound.export.iter().map(String::as_str).collect();
            let words = format!("exported to {} only", to.join(", "));
            facts.push(Fact::new("all rules", words, Some(&bound.origin)));
            continue;
        }
        facts.extend(bound.rules.iter().filter_map(|rule| {
            let reasons = reasons(rule, node, port)?;
            let name = explain::label(&rule.route);
            Some(Fact::new(&name, reasons, Some(&rule.route.origin)))
        }));
    }
    // Two servers of one gateway have the same rules.
    let mut seen = BTreeSet::new();
    facts.retain(|fact| {
        let place = fact.origin.as_ref().map(ToString::to_string);
        seen.insert((fact.name.clone(), fact.value.clone(), place))
    });
    facts
}
