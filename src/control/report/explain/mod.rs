//! Why a request goes where it goes: the listener's chain, the rules one by one, what is done to the
//! request, and who may get it, each with the object that says so.

mod edge;
mod hosts;
mod words;

use std::net::IpAddr;
use std::sync::Arc;

use crate::api::routes::{ExplainReport, ExplainRequest, Fact, SentReport};
use crate::mesh::filter::HttpFilter;
use crate::mesh::path::normalise;
use crate::mesh::route::{
    Action, Forward, HeaderOperations, Respond, Retry, explain, location, rewritten,
};
use crate::mesh::{
    Chain, ChainAction, Cluster, HttpOptions, Node, NodeKind, Origin, Request, Route, Router,
    Service, View, World,
};

use hosts::{left_out, meant};
use words::{backend_facts, candidates, others, retry, worded};

use super::find_service;
use super::routes::{Measured, describe};

/// A request as `explain` was asked about it.
struct Asked {
    method: String,
    authority: String,
    scheme: String,
    target: String,
    headers: Vec<(String, String)>,
}

impl Request for Asked {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn path_and_query(&self) -> &[u8] {
        self.target.as_bytes()
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (key, value) in &self.headers {
            if key == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
}

/// Walks the tables of `node` with the request that was asked about. `Err` says what is wrong with it.
pub fn explain_request(
    world: &World,
    node: &Node,
    request: &ExplainRequest,
    measured: &Measured,
) -> Result<ExplainReport, String> {
    let (scheme, rest) = request
        .url
        .split_once("://")
        .unwrap_or(("http", request.url.as_str()));
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(at).unwrap_or((rest, ""));
    if authority.is_empty() {
        return Err(format!("{:?} names no host", request.url));
    }
    // Hosts are found without case, but conditions on them see what the caller sent.
    let lowered = authority.to_ascii_lowercase();
    let gateway = node.kind == NodeKind::Gateway;
    // A gateway knows hosts, not services.
    let service = find_service(world, &lowered, &request.namespace).filter(|_| !gateway);
    let port = if gateway {
        edge::port(&lowered, scheme)?
    } else {
        port(&lowered, service)?
    };
    let mut asked = Asked {
        method: request.method.to_ascii_uppercase(),
        authority: authority.to_owned(),
        scheme: scheme.to_owned(),
        target: match target {
            "" => "/".to_owned(),
            target if target.starts_with('/') => target.to_owned(),
            target => format!("/{target}"),
        },
        headers: request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
    };
    let view = world.view(node);
    let mut report = ExplainReport {
        from: format!("{}.{}", node.name, node.namespace),
        table: port.to_string(),
        ..ExplainReport::default()
    };
    let bare = host_of(&lowered);
    let taken_by = if gateway {
        let dialled = edge::Dialled {
            port,
            tls: scheme == "https",
            host: bare,
        };
        edge::chain(&view, node, dialled)
    } else {
        chain(&view, node, port, service)
            .ok_or_else(|| "the connection is closed: no listener takes it".to_owned())
    };
    let (listener, chain) = match taken_by {
        Ok(found) => found,
        Err(answer) => {
            report.answer = Some(answer);
            return Ok(report);
        }
    };
    report.listener = format!("{listener}, chain {}", chain.name);
    if gateway && scheme == "https" {
        report.facts.push(edge::security(chain));
        let closed = chain.tls.is_none() && !matches!(chain.action, ChainAction::Tcp { .. });
        if closed {
            let words = "the connection is closed: this port takes requests in the clear only";
            report.answer = Some(words.to_owned());
            return Ok(report);
        }
    }
    let (table, options) = match &chain.action {
        ChainAction::Http {
            routes, options, ..
        }
        | ChainAction::Detect {
            routes, options, ..
        } => (routes, options),
        ChainAction::Tcp { clusters, options } => {
            let through = options.tunnel.as_deref();
            report.answer = Some(bytes((clusters, through), port, service));
            if !gateway {
                report.meant = meant(world, &lowered, port, &request.namespace);
            }
            return Ok(report);
        }
    };
    report.table.clone_from(table);
    if let Err(answer) = spell(&mut asked, options) {
        report.answer = Some(answer);
        return Ok(report);
    }
    let Some(table) = view.routes.get(table) else {
        report.status = Some(404);
        report.answer = Some("404 (NR route_not_found): the table is not there".to_owned());
        return Ok(report);
    };
    let router = Router::new(table);
    let trace = explain::explain(&router, &asked);
    report.host = trace.host;
    report.routes = trace.routes;
    let called = service
        .map(|service| service.host.clone())
        .or_else(|| bare.parse().ok());
    if let Some(host) = &called {
        report.left_out = if gateway {
            edge::left_out(world, node, host, port)
        } else {
            left_out(world, node, host, port)
        };
    }
    if let Some(service) = service {
        report.facts.push(Fact::new(
            "service",
            service.host.to_string(),
            Some(&service.origin),
        ));
    }
    let Some(found) = router.find(&asked) else {
        report.status = Some(404);
        report.answer = Some(match report.host {
            Some(_) => "404 (NR route_not_found): no rule matches".to_owned(),
            None if gateway => {
                "404 (NR route_not_found): the gateway serves no such host here".to_owned()
            }
            None => "404 (NR route_not_found): no service has this host".to_owned(),
        });
        report.meant = if gateway {
            edge::meant(table, bare)
        } else {
            meant(world, &lowered, port, &request.namespace)
        };
        return Ok(report);
    };
    let host = found.host.name.split(':').next().unwrap_or_default();
    let called =
        find_service(world, host, &request.namespace).map_or_else(|| host.to_owned(), super::short);
    let outcome = describe(
        &view,
        &called,
        port,
        (found.route_index, found.route),
        measured,
    );
    taken(&mut report, &asked, (chain, found.route), &view);
    for injected in world.config.faults.values() {
        let (name, detail) = worded(&HttpFilter::Fault(Arc::clone(&injected.fault)));
        let mut steps = report.steps.iter_mut();
        let own = steps.find(|step| step.name == name && step.value == detail);
        if let Some(step) = own {
            let until = until(injected.until_unix_ms);
            step.value = format!("{detail}, until {until}");
            step.origin = Some(injected.origin.clone());
        }
    }
    if !gateway && found.host.domains.iter().any(|domain| domain == "*") {
        report.meant = meant(world, &lowered, port, &request.namespace);
    }
    for backend in &outcome.backends {
        report
            .backends
            .push(backend_facts((world, node), &view, backend, found.route));
        report.endpoints.push(candidates(&view, backend, port));
    }
    report.outcome = Some(outcome);
    Ok(report)
}

/// A host without its port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() && !authority.ends_with(']') => host,
        _ => authority,
    }
}

/// A time for people.
fn until(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| "its end".to_owned(), |at| at.to_string())
}

/// The port that is asked for, or the one that a person means who says none.
fn port(authority: &str, service: Option<&Service>) -> Result<u16, String> {
    let behind = authority
        .rsplit_once(']')
        .map_or(authority, |(_, rest)| rest);
    if let Some((_, port)) = behind.rsplit_once(':') {
        return port.parse().map_err(|_| format!("{port:?} is not a port"));
    }
    let only = service.and_then(|service| match service.ports.as_slice() {
        [only] => Some(only.port),
        ports => ports.iter().find(|port| port.port == 80).map(|p| p.port),
    });
    Ok(only.unwrap_or(80))
}

/// The chain that takes the connection: Envoy's order, the port before the address.
fn chain<'v>(
    view: &'v View,
    node: &Node,
    port: u16,
    service: Option<&Service>,
) -> Option<(&'v str, &'v Chain)> {
    let listener = view
        .listeners
        .values()
        .find(|listener| listener.name == "virtualOutbound")?;
    let named = |chain| Some((listener.name.as_str(), chain));
    if !node.transparent {
        return named(listener.default_chain.as_ref()?);
    }
    let of_port = || {
        listener.chains.iter().filter(|chain| {
            let matches = &chain.matches;
            matches.port == Some(port) && matches.server_names.is_empty()
        })
    };
    let addresses: &[IpAddr] = service.map_or(&[], |service| &service.addresses);
    let at_address = of_port().find(|chain| {
        let destinations = &chain.matches.destinations;
        destinations
            .iter()
            .any(|net| addresses.iter().any(|address| net.contains(address)))
    });
    let anywhere = || of_port().find(|chain| chain.matches.destinations.is_empty());
    named(
        at_address
            .or_else(anywhere)
            .or(listener.default_chain.as_ref())?,
    )
}

/// What becomes of a connection that carries no requests.
fn bytes(
    (clusters, tunnel): (&[(String, u32)], Option<&str>),
    port: u16,
    service: Option<&Service>,
) -> String {
    let names: Vec<&str> = clusters.iter().map(|(name, _)| name.as_str()).collect();
    match names.as_slice() {
        [Cluster::PASSTHROUGH] => format!(
            "no service of the mesh has port {port}: the connection is passed on to the address that the caller means ({})",
            Cluster::PASSTHROUGH
        ),
        [Cluster::BLACK_HOLE] => format!(
            "no service of the mesh has port {port}, and calls outside it are not allowed: the connection is closed ({})",
            Cluster::BLACK_HOLE
        ),
        names => {
            let of = service.map_or_else(String::new, |service| {
                format!(" of {}", super::short(service))
            });
            let tunnel = tunnel.map_or_else(String::new, |to| {
                format!(", which is asked for a tunnel to {to}")
            });
            format!(
                "port {port}{of} carries bytes, so no rule for requests counts: the connection goes to {}{tunnel}",
                names.join(", ")
            )
        }
    }
}

/// Spells the target as the proxy does before it judges. `Err` is the answer where it goes no further.
fn spell(asked: &mut Asked, options: &HttpOptions) -> Result<(), String> {
    use crate::mesh::path::BadPath;
    match normalise(asked.target.as_bytes(), options.path) {
        Ok(path) => {
            let path = String::from_utf8_lossy(&path).into_owned();
            asked.target = path;
            Ok(())
        }
        Err(BadPath::Refused) => Err("400: the path has no one meaning".to_owned()),
        Err(BadPath::Elsewhere(path)) => Err(format!(
            "307: the caller is sent to {}",
            String::from_utf8_lossy(&path)
        )),
    }
}

/// What the rule that matched does with the request.
fn taken(report: &mut ExplainReport, asked: &Asked, (chain, route): (&Chain, &Route), view: &View) {
    let origin = Some(&route.origin);
    // What says nothing itself is a place for what routes say.
    for filter in chain.filters.iter().filter(|filter| !filter.is_place()) {
        let (name, detail) = worded(filter);
        report.steps.push(Fact::new(&name, detail, None));
    }
    match &route.action {
        Action::Forward(forward) => {
            forwarded(report, asked, (route, forward), view);
        }
        Action::Redirect(redirect) => {
            let to = location(
                redirect,
                &route.matches.path,
                (
                    &asked.scheme,
                    asked.authority.as_bytes(),
                    asked.target.as_bytes(),
                ),
            );
            report.status = Some(redirect.status);
            report.answer = Some(format!(
                "{} by the proxy itself: the caller is sent to {to}",
                redirect.status
            ));
            report.location = Some(to);
        }
        Action::Respond(Respond { status, body }) => {
            report.status = Some(*status);
            report.answer = Some(if body.is_empty() {
                format!("{status} by the proxy itself")
            } else {
                format!("{status} by the proxy itself: {body:?}")
            });
        }
    }
    edits(report, "answer", &route.headers.response, origin);
}

fn forwarded(
    report: &mut ExplainReport,
    asked: &Asked,
    (route, forward): (&Route, &Forward),
    view: &View,
) {
    let origin = Some(&route.origin);
    for filter in &forward.filters {
        let (name, detail) = worded(filter);
        report.steps.push(Fact::new(&name, detail, origin));
    }
    for (name, value) in others(forward) {
        report.steps.push(Fact::new(&name, value, origin));
    }
    let from_header = edits(report, "request", &route.headers.request, origin);
    let mut sent = SentReport {
        authority: asked.authority.clone(),
        path: asked.target.clone(),
    };
    if let Some(rewrite) = &forward.rewrite.path {
        let path = rewritten(rewrite, &route.matches.path, asked.target.as_bytes());
        sent.path = String::from_utf8_lossy(&path).into_owned();
        let words = format!("{} → {}", asked.target, sent.path);
        report.steps.push(Fact::new("path", words, origin));
    }
    if let Some(authority) = from_header.or_else(|| forward.rewrite.authority.clone()) {
        let words = format!("{} → {authority}", asked.authority);
        report.steps.push(Fact::new("host", words, origin));
        sent.authority = authority;
    }
    for mirror in &forward.mirrors {
        let words = format!(
            "{} of {} requests to {}",
            mirror.share.parts, mirror.share.of, mirror.cluster
        );
        report.steps.push(Fact::new("copied", words, origin));
    }
    report.sent = Some(sent);
    let timeout = match forward.timeout {
        Some(timeout) => format!("{timeout:?} for the whole request"),
        None => "no limit".to_owned(),
    };
    report.facts.push(Fact::new("timeout", timeout, origin));
    let retries = forward.retry.as_ref();
    // A default is nobody's words.
    let wrote = origin.filter(|_| forward.retry != Some(Retry::default()));
    report
        .facts
        .push(Fact::new("retries", retry(retries), wrote));
    report.answer = match forward.clusters.as_slice() {
        [] => Some("503 (NC cluster_not_found): the rule has no destination".to_owned()),
        [only] if only.cluster == Cluster::PASSTHROUGH => {
            let captured = view.listeners.values().any(|listener| listener.transparent);
            let to = if captured {
                "the address that the caller means".to_owned()
            } else {
                format!("whatever address {} has", asked.authority)
            };
            Some(format!(
                "no service has this host: the request is passed on to {to} ({})",
                Cluster::PASSTHROUGH
            ))
        }
        clusters
            if clusters
                .iter()
                .all(|each| !view.clusters.contains_key(&each.cluster)) =>
        {
            Some("503 (NC cluster_not_found): the destination does not exist".to_owned())
        }
        _ => None,
    };
    let nobody = forward.clusters.iter().all(|each| {
        let assigned = view.endpoints.get(&each.cluster);
        let discovered = view
            .clusters
            .get(&each.cluster)
            .is_some_and(|cluster| cluster.kind == crate::mesh::ClusterKind::Discovered);
        discovered && assigned.is_none_or(|assigned| assigned.endpoints.is_empty())
    });
    if report.answer.is_none() && nobody {
        report.answer = Some("503 (UH no_healthy_upstream): nobody stands behind it".to_owned());
    }
    if report
        .answer
        .as_ref()
        .is_some_and(|answer| answer.starts_with("503"))
    {
        report.status = Some(503);
    }
}

/// Edits of a header block, in the order in which they are made; gives the host that they set.
fn edits(
    report: &mut ExplainReport,
    what: &str,
    edits: &HeaderOperations,
    origin: Option<&Origin>,
) -> Option<String> {
    let mut words: Vec<String> = edits
        .remove
        .iter()
        .map(|name| format!("removes {name}"))
        .collect();
    words.extend(
        edits
            .set
            .iter()
            .map(|(name, value)| format!("sets {name}: {value}")),
    );
    words.extend(
        edits
            .add
            .iter()
            .map(|(name, value)| format!("adds {name}: {value}")),
    );
    words.extend(
        edits
            .add_if_absent
            .iter()
            .map(|(name, value)| format!("adds {name}: {value} where there is none")),
    );
    if !words.is_empty() {
        let name = format!("{what} headers");
        report
            .steps
            .push(Fact::new(&name, words.join(", "), origin));
    }
    let host = |names: [&str; 2]| names.iter().find_map(|name| edits.set.get(*name).cloned());
    host([":authority", "host"])
}

/// Every object that a report names.
pub fn named(report: &ExplainReport) -> Vec<&Origin> {
    let facts = report
        .facts
        .iter()
        .chain(&report.steps)
        .chain(&report.left_out)
        .chain(report.backends.iter().flatten());
    let rules = report.routes.iter().map(|route| &route.origin);
    facts
        .filter_map(|fact| fact.origin.as_ref())
        .chain(rules)
        .filter(|origin| !origin.kind.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
