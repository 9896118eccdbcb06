//! `routes --explain` against the proxy itself: random rules and random requests, the whole way from
//! manifests through xDS to sockets, and what came of each compared with what was said before.
//!
//! `EXPLAIN_PAIRS` is how many pairs of configuration and request are tried, `EXPLAIN_SEED` where
//! they begin.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshctl::api::routes::{ExplainReport, ExplainRequest};
use meshctl::control::report::explain::explain_request;
use meshctl::control::report::routes::Measured;
use meshctl::mesh::listener::Direction;
use meshctl::mesh::node::Application;
use meshctl::mesh::{
    ChainAction, Client, Health, HttpOptions, Instance, Locality, Node, NodeKind, Protocol, View,
    World,
};
use meshctl::resource::{collect, lower, parse};
use meshctl::rt::Tasks;
use meshctl::xds::{decode, encode};

use super::support::*;

/// Pairs that are tried unless the environment says otherwise.
const PAIRS: u64 = 400;
/// Requests for each configuration.
const REQUESTS: u64 = 20;
/// The port of the tables that connections by port meet.
const PORT: u16 = 80;

/// Chance from a seed, which is all it takes to see something again.
struct Dice(fastrand::Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0.u64(..sides)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.usize(..of.len())]
    }

    /// True once in `of` times.
    fn now_and_then(&mut self, of: u64) -> bool {
        self.roll(of) == 0
    }
}

/// Two services of two ports with two versions each; nothing runs as `v3`.
const SERVICES: &str = "\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80, targetPort: 8080}, {name: http-alt, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: two}
spec: {selector: {app: none}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

const PATHS: [&str; 10] = [
    "/", "/a", "/a/", "/a/b", "/A/b", "/b", "/ab", "/a/1", "/b/c/d", "/x.y",
];

/// One condition of each kind, or several.
fn matching(dice: &mut Dice) -> String {
    let mut parts = Vec::new();
    if dice.now_and_then(2) {
        let path = dice.one(&PATHS);
        parts.push(match dice.roll(4) {
            0 => format!("uri: {{exact: {path}}}"),
            1 => format!(
                "uri: {{regex: \"{}\"}}",
                dice.one(&["/a.*", "/[ab]/.*", "/.", ".*y"])
            ),
            _ => format!("uri: {{prefix: {path}}}"),
        });
        if dice.now_and_then(3) {
            parts.push("ignoreUriCase: true".to_owned());
        }
    }
    let text = |dice: &mut Dice| match dice.roll(4) {
        0 => "{exact: one}".to_owned(),
        1 => "{prefix: o}".to_owned(),
        2 => "{regex: \"o.*|two\"}".to_owned(),
        _ => "{}".to_owned(),
    };
    if dice.now_and_then(3) {
        parts.push(format!("headers: {{x-h: {}}}", text(dice)));
    }
    if dice.now_and_then(5) {
        parts.push(format!("withoutHeaders: {{x-w: {}}}", text(dice)));
    }
    if dice.now_and_then(4) {
        let value = dice.one(&["{exact: one}", "{prefix: o}", "{regex: \"o.*\"}"]);
        parts.push(format!("queryParams: {{q: {value}}}"));
    }
    if dice.now_and_then(4) {
        let value = dice.one(&["{exact: GET}", "{exact: POST}", "{regex: GET|PUT}"]);
        parts.push(format!("method: {value}"));
    }
    if dice.now_and_then(6) {
        let value = dice.one(&["{exact: a}", "{prefix: a}", "{exact: \"a:80\"}"]);
        parts.push(format!("authority: {value}"));
    }
    if dice.now_and_then(6) {
        parts.push(format!("port: {}", dice.one(&["80", "8080"])));
    }
    if dice.now_and_then(8) {
        parts.push(format!(
            "scheme: {{exact: {}}}",
            dice.one(&["http", "https"])
        ));
    }
    if dice.now_and_then(8) {
        parts.push(
            dice.one(&["sourceLabels: {app: caller}", "sourceNamespace: two"])
                .to_owned(),
        );
    }
    format!("{{{}}}", parts.join(", "))
}

/// What a rule does.
fn action(dice: &mut Dice, host: &str) -> String {
    match dice.roll(8) {
        0 => {
            let mut parts = Vec::new();
            if dice.now_and_then(2) {
                parts.push(format!("uri: {}", dice.one(&["/moved", "/a/moved"])));
            }
            if dice.now_and_then(2) {
                parts.push("authority: other.example.com".to_owned());
            }
            match dice.roll(4) {
                0 => parts.push("port: 8443".to_owned()),
                1 => parts.push("derivePort: FROM_REQUEST_PORT".to_owned()),
                2 => parts.push("derivePort: FROM_PROTOCOL_DEFAULT".to_owned()),
                _ => {}
            }
            if dice.now_and_then(3) {
                parts.push("scheme: https".to_owned());
            }
            parts.push(format!(
                "redirectCode: {}",
                dice.one(&["301", "302", "303", "307", "308"])
            ));
            return format!("redirect: {{{}}}", parts.join(", "));
        }
        1 => {
            let status = dice.one(&["200", "403", "503"]);
            return format!("directResponse: {{status: {status}, body: {{string: said}}}}");
        }
        _ => {}
    }
    let to = |dice: &mut Dice, subset: &str| {
        let other = if dice.now_and_then(5) { "b" } else { host };
        let subset = if subset.is_empty() {
            String::new()
        } else {
            format!(", subset: {subset}")
        };
        format!("destination: {{host: {other}{subset}, port: {{number: 80}}}}")
    };
    let mut text = match dice.roll(6) {
        0 | 1 => format!("route: [{{{}}}]", to(dice, "")),
        2 => format!("route: [{{{}}}]", to(dice, "v3")),
        split => {
            let weights = [(100, 0), (0, 100), (30, 70)][usize::try_from(split - 3).unwrap()];
            let (v1, v2) = (to(dice, "v1"), to(dice, "v2"));
            format!(
                "route: [{{{v1}, weight: {}}}, {{{v2}, weight: {}}}]",
                weights.0, weights.1
            )
        }
    };
    if dice.now_and_then(3) {
        let rewrite = dice.one(&[
            "uri: /new",
            "uri: /",
            "authority: inner.example.com",
            "uri: /n/, authority: inner",
            "uriRegexRewrite: {match: \"/(a|b)\", rewrite: \"/r-\\\\1\"}",
        ]);
        write!(text, ", rewrite: {{{rewrite}}}").unwrap();
    }
    if dice.now_and_then(3) {
        text.push_str(", retries: {attempts: 0}");
    }
    if dice.now_and_then(4) {
        text.push_str(", timeout: 15s");
    }
    text
}

/// What a gateway serves: at one port everything, at another some hosts.
fn gateway(dice: &mut Dice) -> String {
    let some = dice.one(&["shop.example.com", "'*.example.com'", "b.example.com"]);
    let moved = if dice.now_and_then(2) {
        "\n  - {port: {number: 80, name: moved, protocol: HTTP}, hosts: [moved.example.com], tls: {httpsRedirect: true}}"
    } else {
        ""
    };
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  \
         selector: {{istio: edge}}\n  servers:{moved}\n  \
         - {{port: {{number: 80, name: all, protocol: HTTP}}, hosts: ['*']}}\n  \
         - {{port: {{number: 8080, name: some, protocol: HTTP}}, hosts: [marker.test, {some}]}}\n"
    )
}

/// Rules for some hosts, of the mesh or of a gateway; `number` is what the marker says.
fn manifests(dice: &mut Dice, number: u64, edge: bool) -> String {
    let mut text = SERVICES.to_owned();
    let (hosts, bound) = if edge {
        text.push_str(&gateway(dice));
        let hosts = ["shop.example.com", "b.example.com", "\"*.example.com\""];
        (hosts, "\n  gateways: [edge]")
    } else {
        (["a", "b", "\"*.example.com\""], "")
    };
    for host in ["a", "b"] {
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\n\
             spec: {{host: {host}, trafficPolicy: {{loadBalancer: {{simple: {}}}}}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}, {{name: v3, labels: {{version: v3}}}}]}}\n",
            dice.one(&["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"])
        )
        .unwrap();
    }
    for (host, names) in ["a", "b", "a"].into_iter().zip(hosts) {
        if dice.now_and_then(3) {
            continue;
        }
        let name = names.replace(['"', '*'], "");
        let name = name.trim_start_matches('.');
        write!(
            text,
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: [{names}]{bound}\n  http:\n"
        )
        .unwrap();
        for rule in 0..=dice.roll(4) {
            let matches: Vec<String> = (0..dice.roll(3)).map(|_| matching(dice)).collect();
            let matches = if matches.is_empty() {
                String::new()
            } else {
                format!("match: [{}], ", matches.join(", "))
            };
            let edits = if dice.now_and_then(3) {
                ", headers: {request: {set: {x-set: edited}, remove: [x-w]}}"
            } else {
                ""
            };
            let action = action(dice, host);
            let edits = if action.starts_with("route") {
                edits
            } else {
                ""
            };
            writeln!(text, "  - {{name: r{rule}, {matches}{action}{edits}}}").unwrap();
        }
    }
    write!(
        text,
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: marker}}\n\
         spec:\n  hosts: [marker.test]{bound}\n  http: [{{directResponse: {{status: 200, body: {{string: \"marker {number}.\"}}}}}}]\n"
    )
    .unwrap();
    text
}

/// A request, as a caller writes it.
struct Asked {
    method: &'static str,
    host: String,
    target: String,
    headers: Vec<(&'static str, &'static str)>,
}

fn request(dice: &mut Dice) -> Asked {
    let host = dice.one(&[
        "a",
        "a",
        "a:80",
        "A",
        "a.default",
        "a.default.svc.cluster.local:80",
        "b",
        "b:80",
        "a.two",
        "x.example.com",
        "ghost",
        "a:8080",
        "a:9",
    ]);
    let mut target = dice.one(&PATHS).to_owned();
    if dice.now_and_then(5) {
        let odd = dice.one(&[
            "/a/../b",
            "/a/./b",
            "/%61/b",
            "//a",
            "/a%2Fb",
            "/a\\b",
            "/b/%2e%2e/a",
        ]);
        odd.clone_into(&mut target);
    }
    if dice.now_and_then(2) {
        target.push_str(dice.one(&["?q=one", "?p=1&q=one", "?q=two", "?q", "?"]));
    }
    let mut headers = Vec::new();
    for name in ["x-h", "x-w"] {
        if dice.now_and_then(2) {
            headers.push((name, dice.one(&["one", "two", "other", ""])));
        }
        if dice.now_and_then(8) {
            headers.push((name, "one"));
        }
    }
    Asked {
        method: dice.one(&["GET", "GET", "POST", "PUT", "DELETE"]),
        host: host.to_owned(),
        target,
        headers,
    }
}

/// What came of it.
#[derive(Debug)]
struct Answered {
    status: u16,
    location: Option<String>,
    /// First line and host of what the backend got.
    backend: Option<(String, String, String)>,
    body: String,
}

/// A connection to the proxy, which is one of its workers.
struct Line {
    to: SocketAddr,
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    /// Ends with the line.
    _tasks: Tasks,
}

impl Line {
    async fn open(to: SocketAddr) -> Self {
        let tasks = Tasks::new();
        let io = TokioIo::new(connect(to).await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tasks.spawn("caller", async move {
            let _ended = connection.await;
        });
        Self {
            to,
            sender,
            _tasks: tasks,
        }
    }

    /// Asks until the worker at the other end has the view that says `marker`.
    async fn until(&mut self, marker: &str) {
        let ask = Asked {
            method: "GET",
            host: "marker.test".to_owned(),
            target: "/".to_owned(),
            headers: Vec::new(),
        };
        let deadline = meshctl::rt::now() + DEADLINE;
        loop {
            if self.sender.ready().await.is_err() {
                *self = Self::open(self.to).await;
            }
            if self.send(&ask).await.body == marker {
                return;
            }
            assert!(meshctl::rt::now() < deadline, "no {marker:?} in time");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Sends one request; where the connection has ended, another to a worker that has the view.
    async fn ask(&mut self, asked: &Asked, marker: &str) -> Answered {
        if self.sender.ready().await.is_err() {
            self.until(marker).await;
        }
        self.send(asked).await
    }

    async fn send(&mut self, asked: &Asked) -> Answered {
        let mut request = hyper::Request::builder()
            .method(asked.method)
            .uri(&asked.target)
            .header("host", &asked.host);
        for (name, value) in &asked.headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let answer = tokio::time::timeout(DEADLINE, self.sender.send_request(request));
        answered(answer.await.expect("no answer in time").unwrap()).await
    }
}

async fn answered(answer: hyper::Response<hyper::body::Incoming>) -> Answered {
    let status = answer.status().as_u16();
    let header = |name: &str| {
        let value = answer.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let (location, app) = (header("location"), header("x-app"));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let backend = app.map(|app| {
        let line = body.lines().next().unwrap_or_default();
        let target = line.rsplit(' ').next().unwrap_or_default().to_owned();
        let host = body.lines().find_map(|line| line.strip_prefix("host: "));
        (app, target, host.unwrap_or_default().to_owned())
    });
    Answered {
        status,
        location,
        backend,
        body,
    }
}

/// Compares what was said with what came. `Err` says what differs.
fn compare(report: &ExplainReport, answered: &Answered) -> Result<(), String> {
    if let Some(status) = report.status {
        if answered.status != status {
            return Err(format!("status {status} was said"));
        }
        if report.location != answered.location {
            return Err(format!("location {:?} was said", report.location));
        }
        return match &answered.backend {
            Some(_) => Err("a backend was asked".to_owned()),
            None => Ok(()),
        };
    }
    let Some(outcome) = &report.outcome else {
        return Err(format!("nothing definite was said: {:?}", report.answer));
    };
    let mut instances = Vec::new();
    let mut nobody = false;
    for (backend, endpoints) in outcome.backends.iter().zip(&report.endpoints) {
        if backend.weight == 0 {
            return Err("a backend without weight was named".to_owned());
        }
        nobody |= endpoints.is_empty();
        instances.extend(endpoints.iter().map(|each| each.endpoint.instance.clone()));
    }
    let Some((app, target, host)) = &answered.backend else {
        return if nobody && answered.status == 503 {
            Ok(())
        } else {
            Err("a backend's answer was said".to_owned())
        };
    };
    if !instances.contains(app) {
        return Err(format!("one of {instances:?} was said"));
    }
    let sent = report.sent.as_ref().ok_or("nothing was said to be sent")?;
    if *target != sent.path || !host.eq_ignore_ascii_case(&sent.authority) {
        return Err(format!("{sent:?} was said"));
    }
    Ok(())
}

/// Where everything runs.
struct Stand {
    apps: Vec<(App, String, &'static str)>,
    node: Node,
    /// Of a proxy that is asked openly, and of one that takes the connections of a port. A connection
    /// keeps the chain that it was sorted into, so one proxy is not both.
    binds: [SocketAddr; 2],
}

impl Stand {
    fn new() -> Self {
        let apps = [("a", "v1"), ("a", "v2"), ("b", "v1"), ("b", "v2")];
        let apps = apps.map(|(app, version)| {
            let name = format!("{app}-{version}");
            (App::start(&name), name, version)
        });
        let binds = [free(), free()];
        let node = Node {
            id: "sidecar~127.0.0.1~caller.default~default.svc.cluster.local".to_owned(),
            client: Client::Meshctl,
            kind: NodeKind::Sidecar,
            name: "caller".to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            workload: "caller".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "caller".to_owned())]),
            locality: Locality::default(),
            address: [127, 0, 0, 1].into(),
            outbound: binds[0],
            inbound: free(),
            transparent: false,
            applications: Vec::new(),
        };
        Self {
            apps: apps.into(),
            node,
            binds,
        }
    }

    fn world(&self, text: &str) -> World {
        let (objects, mut findings) = parse(text, "x.yaml", "default");
        let (objects, twice) = collect(objects);
        findings.extend(twice);
        let instances = self.apps.iter().map(|(app, name, version)| {
            let service = name.split('-').next().unwrap();
            let instance = Instance {
                name: name.clone(),
                namespace: "default".to_owned(),
                workload: name.clone(),
                service_account: "default".to_owned(),
                labels: [("app", service), ("version", version)]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                locality: Locality::default(),
                address: [127, 0, 0, 1].into(),
                also_at: Vec::new(),
                ports: BTreeMap::from([(8080, app.address)]),
                port_names: BTreeMap::new(),
                service_ports: BTreeMap::new(),
                weight: 1,
                health: Health::Healthy,
                mtls: false,
            };
            (("default".to_owned(), name.clone()), Arc::new(instance))
        });
        let (world, meant) = lower(&objects, instances.collect());
        findings.extend(meant);
        let wrong = findings
            .iter()
            .find(|finding| finding.severity == meshctl::mesh::Severity::Error);
        assert_eq!(
            wrong, None,
            "the generator writes what is honoured:\n{text}"
        );
        world
    }
}

/// What the proxy gets: through the wire, and listening where a test can connect.
fn view(world: &World, node: &Node) -> View {
    let view = world.view(node);
    let decoded = decode(&encode(&view, node));
    assert!(decoded.rejected.is_empty(), "{:?}", decoded.rejected);
    let mut view = decoded.view;
    view.listeners.remove("virtualInbound");
    if node.transparent {
        // Nothing redirects connections here, so the table of one port is served by itself.
        let action = ChainAction::Http {
            routes: PORT.to_string(),
            codec: meshctl::mesh::listener::HttpCodec::Auto,
            options: Arc::new(HttpOptions::default()),
        };
        let listener = Views::default()
            .listener(
                "virtualOutbound",
                node.outbound,
                Direction::Outbound,
                action,
            )
            .0
            .listeners;
        view.listeners = listener;
    }
    view
}

fn variable(name: &str, default: u64) -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test is asked for more by its environment"
    )]
    let set = std::env::var(name).ok();
    set.map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_explained_is_what_happens() {
    let pairs = variable("EXPLAIN_PAIRS", PAIRS);
    let begin = variable("EXPLAIN_SEED", 1);
    let mut stand = Stand::new();
    let mut proxies: [Option<Proxy>; 2] = [None, None];
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tried = 0;
    for seed in begin.. {
        if tried >= pairs {
            break;
        }
        let mut dice = Dice::new(seed);
        let text = manifests(&mut dice, seed, false);
        stand.node.transparent = dice.now_and_then(2);
        let mode = usize::from(stand.node.transparent);
        stand.node.outbound = stand.binds[mode];
        let world = stand.world(&text);
        let view = view(&world, &stand.node);
        let proxy = &mut proxies[mode];
        match proxy {
            Some(running) => running.views.publish(view),
            None => *proxy = Some(Proxy::start(view).await),
        }
        let marker = format!("marker {seed}.");
        let mut line = Line::open(stand.node.outbound).await;
        line.until(&marker).await;
        for _ in 0..REQUESTS.min(pairs - tried) {
            let asked = request(&mut dice);
            // Through a port there is one port only, and nothing says where else a caller wanted to go.
            if stand.node.transparent && ["a:8080", "a:9", "ghost"].contains(&asked.host.as_str()) {
                continue;
            }
            tried += 1;
            let explain = ExplainRequest {
                method: asked.method.to_owned(),
                url: format!("http://{}{}", asked.host, asked.target),
                headers: asked
                    .headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                from: String::new(),
                gateway: String::new(),
                namespace: "default".to_owned(),
            };
            let report = explain_request(&world, &stand.node, &explain, &Measured::new()).unwrap();
            let answered = line.ask(&asked, &marker).await;
            if let Err(difference) = compare(&report, &answered) {
                panic!(
                    "EXPLAIN_SEED={seed}: {difference}\n{} {} {:?} {:?} transparent: {}\ncame: {answered:?}\nsaid: {}\n{text}",
                    asked.method,
                    asked.host,
                    asked.target,
                    asked.headers,
                    stand.node.transparent,
                    serde_json::to_string_pretty(&report).unwrap()
                );
            }
            let kind = match (report.status, &answered.backend) {
                (_, Some(_)) => "forwarded",
                (Some(300..400), _) => "redirected",
                (Some(404), _) => "not found",
                (Some(503), _) | (None, None) => "nobody there",
                (Some(_), None) => "answered",
            };
            *outcomes.entry(kind).or_default() += 1;
        }
    }
    #[expect(
        clippy::print_stdout,
        reason = "how much was tried is what a long run is for"
    )]
    {
        println!("{tried} pairs from seed {begin}: {outcomes:?}");
    }
    // A generator that only makes 404s would prove nothing.
    if pairs >= PAIRS {
        for kind in ["forwarded", "redirected", "answered", "nobody there"] {
            assert!(
                outcomes.get(kind).is_some_and(|count| count * 50 >= pairs),
                "too few are {kind}: {outcomes:?}"
            );
        }
    }
    for proxy in proxies.into_iter().flatten() {
        proxy.stop().await.unwrap();
    }
}

/// The same at a gateway: callers from outside, at a port for everything and one for some hosts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_explained_of_a_gateway_is_what_happens() {
    let pairs = variable("EXPLAIN_PAIRS", PAIRS);
    let begin = variable("EXPLAIN_SEED", 1);
    let mut stand = Stand::new();
    let at = [(80, free()), (8080, free())];
    let applications = at.map(|(port, bind)| Application {
        port,
        name: String::new(),
        bind,
        address: bind,
        protocol: Protocol::Auto,
    });
    stand.node = Node {
        kind: NodeKind::Gateway,
        labels: BTreeMap::from([("istio".to_owned(), "edge".to_owned())]),
        applications: applications.into(),
        ..stand.node
    };
    let mut proxy: Option<Proxy> = None;
    let mut seen: BTreeMap<u16, u64> = BTreeMap::new();
    let mut tried = 0;
    for seed in begin.. {
        if tried >= pairs {
            break;
        }
        let mut dice = Dice::new(seed);
        let text = manifests(&mut dice, seed, true);
        let world = stand.world(&text);
        let view = view(&world, &stand.node);
        match &proxy {
            Some(running) => running.views.publish(view),
            None => proxy = Some(Proxy::start(view).await),
        }
        let marker = format!("marker {seed}.");
        for (port, bind) in at {
            let mut line = Line::open(bind).await;
            line.until(&marker).await;
            for _ in 0..REQUESTS / 2 {
                tried += 1;
                let host = dice.one(&[
                    "shop.example.com",
                    "Shop.Example.com",
                    "b.example.com",
                    "x.example.com",
                    "moved.example.com",
                    "a.default.svc.cluster.local",
                    "ghost",
                ]);
                // Callers name every port but that of their scheme.
                let host = match port {
                    80 => host.to_owned(),
                    _ => format!("{host}:{port}"),
                };
                let asked = Asked {
                    host,
                    ..request(&mut dice)
                };
                let headers = asked.headers.iter();
                let explain = ExplainRequest {
                    method: asked.method.to_owned(),
                    url: format!("http://{}{}", asked.host, asked.target),
                    headers: headers
                        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                        .collect(),
                    from: String::new(),
                    gateway: "edge".to_owned(),
                    namespace: "default".to_owned(),
                };
                let report =
                    explain_request(&world, &stand.node, &explain, &Measured::new()).unwrap();
                let answered = line.ask(&asked, &marker).await;
                *seen.entry(answered.status).or_default() += 1;
                if let Err(difference) = compare(&report, &answered) {
                    panic!(
                        "EXPLAIN_SEED={seed}: {difference}\n{} {} {:?} {:?}\ncame: {answered:?}\nsaid: {}\n{text}",
                        asked.method,
                        asked.host,
                        asked.target,
                        asked.headers,
                        serde_json::to_string_pretty(&report).unwrap()
                    );
                }
            }
        }
    }
    assert!(
        seen.contains_key(&200) && seen.contains_key(&404),
        "{seen:?}"
    );
}
