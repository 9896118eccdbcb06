//! What each fuzz target does with its bytes: one function a target.
//!
//! The functions are shared by the fuzz crate, which looks for new inputs, and by the test crate
//! beside this file, which runs the seeds and some thousand variations of them with every `cargo
//! test`. An input that a fuzzer finds becomes a file under `seeds/`, and so a regression test.
//! Each function panics when something that must hold for every input does not.

#[path = "api.rs"]
mod asked;
#[path = "hello.rs"]
mod hello;
#[path = "http1.rs"]
mod http1;
#[path = "tokens.rs"]
mod signed;

use std::sync::Arc;

#[allow(unused_imports, reason = "a fuzz target calls one function only")]
pub(crate) use asked::api;
#[allow(unused_imports, reason = "a fuzz target calls one function only")]
pub(crate) use hello::hellos;
#[allow(unused_imports, reason = "a fuzz target calls one function only")]
pub(crate) use http1::{chunked, paths, requests, responses};
use meshctl::mesh::check;
use meshctl::mesh::node::Application;
use meshctl::mesh::route::explain::explain;
use meshctl::mesh::route::router::without_port;
use meshctl::mesh::route::{
    Action, Forward, HeaderEdits, HeaderMatch, Match, PathMatch, Pattern, QueryMatch, Request,
    Route, RouteTable, Router, TextMatch, VirtualHost,
};
use meshctl::mesh::{Client, Hostname, Locality, Node, NodeKind, Origin, SpiffeId};
use meshctl::net::proxy_protocol::{self, Parsed};
use meshctl::resource::{Instances, collect, lower, parse};
use meshctl::tls::issuer::request_key;
use meshctl::tls::material::{certificate_pem, certificates, validity};
use meshctl::tls::{AccessToken, JoinToken, Material, peer_id};
use meshctl::xds::{Kind, Snapshot, decode, encode};
use rustls_pki_types::CertificateDer;
#[allow(unused_imports, reason = "a fuzz target calls one function only")]
pub(crate) use signed::tokens;

/// A target: its name, which is also its directory under `seeds/`, and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
#[allow(dead_code, reason = "a fuzz target calls one function only")]
pub(crate) const TARGETS: &[Target] = &[
    ("names", names),
    ("hosts", hosts),
    ("routes", routes),
    ("peers", peers),
    ("manifests", manifests),
    ("xds", xds),
    ("requests", requests),
    ("responses", responses),
    ("chunked", chunked),
    ("paths", paths),
    ("introductions", introductions),
    ("hellos", hellos),
    ("tokens", tokens),
    ("api", api),
];

/// Names that are accepted are written as they are read: nothing is lost, nothing is added.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text, "a SPIFFE id is compared byte by byte");
    }
    if let Ok(host) = text.parse::<Hostname>() {
        let written = host.to_string();
        assert_eq!(written.parse().as_ref(), Ok(&host));
        assert_eq!(written, written.to_ascii_lowercase());
        assert!(written.len() <= 253);
        if let Some((name, namespace)) = host.kubernetes() {
            assert_eq!(Hostname::service(name, namespace), host);
        }
    }
}

/// First line: an authority. Other lines: domains, a virtual host each. The index must find what
/// looking at the domains one by one finds.
pub(crate) fn hosts(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let authority = lines.next().unwrap_or_default();
    let domains: Vec<String> = lines
        .take(32)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let name = without_port(authority);
    assert!(authority.starts_with(name), "a port is at the end");

    for ignore_port in [true, false] {
        let router = Router::new(&Arc::new(RouteTable {
            name: String::new(),
            ignore_port,
            hosts: domains
                .iter()
                .map(|domain| host(vec![domain.clone()], Vec::new()))
                .collect(),
        }));
        let found = router.host(authority);
        assert_eq!(found, router.host(&authority.to_ascii_uppercase()));
        let walked = host_by_walking(&domains, authority, ignore_port);
        assert_eq!(found, walked, "{domains:?}");
    }
}

/// Istio's and Envoy's order: the exact name, the longest wildcard, `*`.
fn host_by_walking(domains: &[String], authority: &[u8], ignore_port: bool) -> Option<usize> {
    // The longest host that is looked at; no DNS name is longer, so only `*` takes more.
    const LONGEST: usize = 264;
    let any = domains.iter().position(|domain| domain == "*");
    if authority.len() > LONGEST {
        return any;
    }
    let domains: Vec<Vec<u8>> = domains
        .iter()
        .map(|domain| domain.to_ascii_lowercase().into_bytes())
        .collect();
    let authority = authority.to_ascii_lowercase();
    let name = if ignore_port {
        without_port(&authority)
    } else {
        &authority
    };
    // A domain that begins with `*` is a wildcard, so a host of that very text is not found by it.
    let exact = |wanted: &[u8]| {
        domains
            .iter()
            .position(|domain| !domain.starts_with(b"*") && domain == wanted)
    };
    let suffix = || {
        let mut best: Option<(usize, usize)> = None;
        for (index, domain) in domains.iter().enumerate() {
            let Some(suffix) = domain.strip_prefix(b"*") else {
                continue;
            };
            let longer = best.is_none_or(|(length, _)| suffix.len() > length);
            if !suffix.is_empty() && name.len() > suffix.len() && name.ends_with(suffix) && longer {
                best = Some((suffix.len(), index));
            }
        }
        best.map(|(_, index)| index)
    };
    exact(&authority)
        .or_else(|| exact(name))
        .or_else(suffix)
        .or(any)
}

/// Lines: path and query, a pattern for the path, a text for paths and values, the names and values
/// of up to eight headers. The proxy and the explanation must go the same way.
pub(crate) fn routes(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (path, pattern, text) = (line(), line(), line());
    let text = String::from_utf8_lossy(text).into_owned();
    let mut headers = Vec::new();
    for _ in 0..8 {
        let (name, value) = (line(), line());
        if name.is_empty() {
            break;
        }
        headers.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value));
    }
    let request = Lines { path, headers };

    let mut values = vec![
        TextMatch::Exact(text.clone()),
        TextMatch::Prefix(text.clone()),
        TextMatch::Suffix(text.clone()),
        TextMatch::Present,
    ];
    let mut paths = vec![
        PathMatch::Exact(text.clone()),
        PathMatch::Segments(text.clone()),
        PathMatch::Prefix(text.clone()),
    ];
    if let Ok(pattern) = std::str::from_utf8(pattern)
        .map_err(drop)
        .and_then(|source| Pattern::new(source).map_err(|error| assert!(!error.reason.is_empty())))
    {
        if pattern.matches(path) {
            assert_ne!(
                pattern.replace_all(path, "x\\0"),
                path,
                "a pattern that matches the whole text matches in it"
            );
        }
        values.push(TextMatch::Regex(pattern.clone()));
        paths.push(PathMatch::Regex(pattern));
    }

    let mut routes = Vec::new();
    for (name, _) in &request.headers {
        for value in &values {
            let [plain, inverted] = [false, true].map(|invert| HeaderMatch {
                name: name.clone(),
                value: value.clone(),
                invert,
            });
            assert_ne!(plain.holds(&request), inverted.holds(&request));
            let matches = Match {
                headers: vec![plain],
                path: PathMatch::Exact(text.clone()),
                ..Match::default()
            };
            routes.push(route(matches));
        }
    }
    for value in values {
        let name = text.clone();
        routes.push(route(Match {
            query: vec![QueryMatch { name, value }],
            path: PathMatch::Segments(text.clone()),
            ..Match::default()
        }));
    }
    for path in paths {
        for ignore_case in [false, true] {
            routes.push(route(Match {
                path: path.clone(),
                ignore_case,
                ..Match::default()
            }));
        }
    }

    // Each route alone, then all in order.
    for single in &routes {
        agree(vec![single.clone()], &request);
    }
    agree(routes, &request);
}

fn agree(routes: Vec<Route>, request: &Lines<'_>) {
    let router = Router::new(&Arc::new(RouteTable {
        name: String::new(),
        ignore_port: true,
        hosts: vec![host(vec!["*".to_owned()], routes)],
    }));
    let found = router.find(request).map(|found| found.route_index);
    let trace = explain(&router, request);
    let explained = trace.taken().map(|route| route.index);
    assert_eq!(found, explained, "{trace:?}");
}

struct Lines<'a> {
    path: &'a [u8],
    headers: Vec<(String, &'a [u8])>,
}

impl Request for Lines<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn authority(&self) -> &[u8] {
        b"reviews:9080"
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn path_and_query(&self) -> &[u8] {
        self.path
    }
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (key, value) in &self.headers {
            if key == name && !visit(value) {
                return;
            }
        }
    }
}

fn host(domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: String::new(),
        domains,
        routes,
        ..VirtualHost::default()
    }
}

fn route(matches: Match) -> Route {
    Route {
        name: String::new(),
        matches,
        action: Action::Forward(Forward::default()),
        headers: HeaderEdits::default(),
        origin: Origin::default(),
    }
}

/// What a stranger sends when a connection begins: a certificate (DER), a chain or a request (PEM),
/// a join token.
pub(crate) fn peers(data: &[u8]) {
    certificate(&CertificateDer::from(data.to_vec()));
    // No private key is in the seeds, so this only looks for panics.
    drop(Material::from_pem(data));
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(chain) = certificates(text) {
        assert!(!chain.is_empty());
        let written: String = chain.iter().map(certificate_pem).collect();
        assert_eq!(certificates(&written).ok().as_ref(), Some(&chain));
        chain.iter().for_each(certificate);
    }
    // Its answer is a hash: nothing to compare with.
    drop(request_key(text));
    if let Ok(token) = text.parse::<JoinToken>() {
        let written = token.to_string();
        assert_eq!(written, text.trim().to_ascii_lowercase());
        let again = written.parse::<JoinToken>().ok();
        assert_eq!(again.map(|again| again.secret), Some(token.secret));
        assert!(
            text.parse::<AccessToken>().is_err(),
            "a token is of one kind"
        );
    }
    if let Ok(token) = text.parse::<AccessToken>() {
        let written = token.to_string();
        assert_eq!(written, text.trim().to_ascii_lowercase());
        assert_eq!(written.parse().ok(), Some(token));
    }
}

fn certificate(leaf: &CertificateDer<'_>) {
    let chain = std::slice::from_ref(leaf);
    if let Some(id) = peer_id(chain) {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok((begin, end)) = validity(leaf) {
        assert!(begin < u64::MAX && end < u64::MAX);
    }
}

/// Manifests, all the way: objects, world, views, messages, and back to the same views.
pub(crate) fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (objects, findings) = parse(text, "fuzz.yaml", "default");
    let (objects, twice) = collect(objects);
    let (world, meant) = lower(&objects, Instances::default());
    // YAML ends a line at a carriage return too.
    let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap_or(u32::MAX);
    for finding in findings.iter().chain(&twice).chain(&meant) {
        let line = finding.origin.line;
        assert!((1..=lines).contains(&line), "{finding} of {lines} lines");
    }
    drop(check::run(&world));
    for node in [sidecar(false), sidecar(true), gateway()] {
        let view = world.view(&node);
        let snapshot = encode(&view, &node);
        assert_eq!(
            snapshot,
            encode(&view, &node),
            "equal bytes for equal views"
        );
        let decoded = decode(&snapshot);
        assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
        assert_eq!(decoded.view, view, "what is sent is what is run");
    }
}

/// What a sidecar is sent for manifests.
#[allow(dead_code, reason = "for the test crate only")]
pub(crate) fn snapshot_of(text: &str) -> Snapshot {
    let (objects, _) = collect(parse(text, "seed.yaml", "default").0);
    let (world, _) = lower(&objects, Instances::default());
    let node = sidecar(true);
    encode(&world.view(&node), &node)
}

/// The gateway that manifests choose by the usual label.
fn gateway() -> Node {
    Node {
        kind: NodeKind::Gateway,
        labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(),
        applications: Vec::new(),
        ..sidecar(false)
    }
}

fn sidecar(transparent: bool) -> Node {
    let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 7], port));
    Node {
        id: "sidecar~127.0.0.7~reviews-v1-0.default~default.svc.cluster.local".to_owned(),
        client: Client::Meshctl,
        kind: NodeKind::Sidecar,
        name: "reviews-v1-0".to_owned(),
        namespace: "default".to_owned(),
        service_account: "reviews".to_owned(),
        workload: "reviews-v1".to_owned(),
        labels: [("app", "reviews"), ("version", "v1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        locality: Locality::default(),
        address: at(0).ip(),
        outbound: at(15001),
        inbound: at(15006),
        transparent,
        applications: vec![Application {
            port: 9080,
            name: String::new(),
            bind: at(9080),
            address: at(19080),
            protocol: meshctl::mesh::Protocol::Auto,
        }],
    }
}

/// A resource as a control plane might send it: a byte for the kind, a name, a line feed, the
/// message. It is understood or refused by name, and the same way every time.
pub(crate) fn xds(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let Some(kind) = Kind::ALL.get(usize::from(*kind) % Kind::ALL.len()) else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == b'\n');
    let (name, message) = rest.split_at(end.unwrap_or(0));
    let name = String::from_utf8_lossy(name).into_owned();
    let message = message.strip_prefix(b"\n").unwrap_or(message);
    let mut snapshot = Snapshot::default();
    snapshot.insert(*kind, name.clone(), message.to_vec());
    let decoded = decode(&snapshot);
    assert_eq!(decoded, decode(&snapshot));
    assert!(decoded.rejected.len() <= 1);
    for rejected in &decoded.rejected {
        assert_eq!(rejected.name, name);
        assert!(!rejected.reason.is_empty());
    }
}

/// The first bytes of a connection that begins with a PROXY header: the verdict does not change with
/// more bytes, and what is understood can be said again.
pub(crate) fn introductions(data: &[u8]) {
    let verdict = proxy_protocol::parse(data);
    let mut seen = Parsed::Partial;
    for end in 0..=data.len().min(256) {
        let now = proxy_protocol::parse(&data[..end]);
        if seen != Parsed::Partial {
            assert_eq!(now, seen, "a verdict stands");
        }
        seen = now;
    }
    if data.len() <= 256 {
        assert_eq!(seen, verdict);
    }
    let Parsed::Header(header) = verdict else {
        return;
    };
    assert!(header.length > 0);
    let again = proxy_protocol::write(header.version, header.addresses);
    let Parsed::Header(read) = proxy_protocol::parse(&again) else {
        panic!("{again:?} is not read again");
    };
    assert_eq!(read.length, again.len());
    let plain = |addresses: Option<proxy_protocol::Addresses>| {
        addresses.map(|a| {
            let one = |at: std::net::SocketAddr| (at.ip().to_canonical(), at.port());
            (one(a.source), one(a.destination))
        })
    };
    assert_eq!(plain(read.addresses), plain(header.addresses));
}
