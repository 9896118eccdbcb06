//! A request to a small mesh, and what is said of it.

use super::*;
use crate::resource::{Instances, collect, lower, parse};

const MESH: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp-db, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: ratings, namespace: shop}
spec: {selector: {app: ratings}, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - {name: other-port, match: [{port: 80}], route: [{destination: {host: reviews, port: {number: 9080}}}]}
  - {name: others, match: [{sourceLabels: {app: page}, sourceNamespace: shop}], directResponse: {status: 403}}
  - name: rest
    match: [{method: {exact: GET}, queryParams: {q: {exact: x}}, headers: {end-user: {prefix: j}}}]
    route: [{destination: {host: reviews, port: {number: 9080}}}]
    headers: {request: {set: {x: edited}, remove: [x-y]}}
    rewrite: {uri: /v2}
    timeout: 3s
";

fn explain(url: &str, headers: &[(&str, &str)]) -> ExplainReport {
    let (objects, findings) = parse(MESH, "mesh.yaml", "default");
    assert_eq!(findings, []);
    let (world, _) = lower(&collect(objects).0, Instances::default());
    let node = super::super::caller(&world, "", "default").unwrap();
    let request = ExplainRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        from: String::new(),
        gateway: String::new(),
        namespace: "default".to_owned(),
    };
    explain_request(&world, &node, &request, &Measured::new()).unwrap()
}

fn lines(facts: &[Fact]) -> Vec<String> {
    facts
        .iter()
        .map(|fact| {
            let line = fact.origin.as_ref().map_or(0, |origin| origin.line);
            format!("{}: {} at {line}", fact.name, fact.value)
        })
        .collect()
}

#[test]
fn every_condition_says_what_it_found_and_every_fact_its_line() {
    let report = explain(
        "http://reviews:9080/a/../b?q=x&q=y",
        &[("End-User", "jason"), ("end-user", "other")],
    );
    let conditions: Vec<(bool, Option<&str>)> = report.routes[0]
        .conditions
        .iter()
        .map(|condition| (condition.holds, condition.found.as_deref()))
        .collect();
    assert_eq!(
        conditions,
        [
            (true, Some("/b")),
            (true, Some("GET")),
            (true, Some("jason,other")),
            (true, Some("x,y")),
        ]
    );
    assert_eq!(report.routes[0].origin.line, 19);
    assert_eq!(
        lines(&report.left_out),
        [
            "other-port: for port 80 at 17",
            "others: for callers in namespace shop and for callers with app=page at 18",
        ]
    );
    assert_eq!(
        lines(&report.steps),
        [
            "request headers: removes x-y, sets x: edited at 19",
            "path: /b?q=x&q=y → /v2b?q=x&q=y at 19",
        ]
    );
    assert_eq!(
        report.sent.as_ref().map(|sent| sent.path.as_str()),
        Some("/v2b?q=x&q=y"),
    );
    assert!(lines(&report.facts).contains(&"timeout: 3s for the whole request at 19".to_owned()));
    assert_eq!(report.status, Some(503), "nobody runs");
    let none = explain("http://reviews:9080/", &[]);
    assert_eq!((none.status, none.outcome), (Some(404), None));
}

#[test]
fn a_host_that_nobody_has_is_told_with_what_becomes_of_it() {
    let typo = explain("http://reveiws:9080/", &[]);
    assert!(typo.answer.unwrap().contains("passed on to the address"));
    assert_eq!(typo.meant, ["reviews.default"]);
    let elsewhere = explain("http://ratings:9080/", &[]);
    assert_eq!(elsewhere.meant, ["ratings.shop"]);
    let port = explain("http://reviews:9081/", &[]);
    assert_eq!(port.table, "9081");
    assert!(
        port.answer
            .unwrap()
            .contains("no service of the mesh has port 9081")
    );
    assert_eq!(
        port.meant,
        ["reviews.default has no port 9081, but 9080, 5432"]
    );
    let bytes = explain("http://reviews:5432/", &[]);
    let words = bytes.answer.unwrap();
    assert!(words.contains("carries bytes"), "{words}");
    let odd = explain("http://reviews:9080/a%00", &[]);
    assert!(odd.answer.unwrap().starts_with("400"));
}

const EDGE: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com'], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: shop, protocol: HTTPS}, hosts: [shop.example.com], tls: {mode: SIMPLE, credentialName: shop}}
  - {port: {number: 443, name: rest, protocol: HTTPS}, hosts: ['*.example.com'], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 8443, name: raw, protocol: TLS}, hosts: [raw.example.com], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com, other.example.com]
  gateways: [edge]
  http:
  - {name: old-port, match: [{port: 8080}], route: [{destination: {host: reviews, port: {number: 9080}}}]}
  - {name: all, route: [{destination: {host: reviews, port: {number: 9080}}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: raw}
spec:
  hosts: [raw.example.com]
  gateways: [edge]
  tls: [{match: [{sniHosts: [raw.example.com]}], route: [{destination: {host: reviews, port: {number: 5432}}}]}]
";

#[test]
fn a_gateway_is_walked_by_port_server_name_host_and_rule() {
    let (mut objects, mut findings) = parse(MESH, "mesh.yaml", "default");
    let (more, found) = parse(EDGE, "edge.yaml", "default");
    objects.extend(more);
    findings.extend(found);
    assert_eq!(findings, []);
    let (world, _) = lower(&collect(objects).0, Instances::default());
    let node = super::super::gateway(&world, Vec::new(), "edge", "default").unwrap();
    let walk = |url: &str| {
        let request = ExplainRequest {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            from: String::new(),
            gateway: "edge".to_owned(),
            namespace: "default".to_owned(),
        };
        explain_request(&world, &node, &request, &Measured::new()).unwrap()
    };
    let shop = walk("https://shop.example.com/x");
    assert_eq!(shop.table, "https.443.shop.edge.default");
    assert!(
        shop.listener.ends_with("chain 443.shop.edge.default"),
        "{}",
        shop.listener
    );
    assert_eq!(shop.host.as_deref(), Some("shop.example.com:443"));
    assert_eq!(shop.outcome.unwrap().backends[0].service, "reviews.default");
    assert_eq!(lines(&shop.left_out), ["old-port: for port 8080 at 19"]);
    assert!(
        shop.facts[0].value.starts_with("ends here, with"),
        "{:?}",
        shop.facts[0]
    );
    // The narrower name has the connection, the wider one the rest of them.
    let other = walk("https://other.example.com/");
    assert_eq!(other.table, "https.443.rest.edge.default");
    let moved = walk("http://shop.example.com/x");
    assert_eq!(moved.status, Some(301));
    assert_eq!(
        moved.location.as_deref(),
        Some("https://shop.example.com/x")
    );
    let raw = walk("https://raw.example.com:8443/");
    assert!(
        raw.answer
            .unwrap()
            .contains("outbound|5432||reviews.default")
    );
    let nobody = walk("https://shop.example.org/").answer.unwrap();
    assert!(
        nobody.contains("no server of port 443 is for shop.example.org"),
        "{nobody}"
    );
    let clear = walk("http://raw.example.com:8443/").answer.unwrap();
    assert!(clear.ends_with("port 8443 takes TLS only"), "{clear}");
    let port = walk("http://shop.example.com:81/").answer.unwrap();
    assert!(
        port.ends_with("no server has port 81, but 80, 443, 8443"),
        "{port}"
    );
    assert!(super::super::gateway(&world, Vec::new(), "ghost", "default").is_none());
    // The list of all that it does.
    let listed = super::super::routes::gateway_routes(&world, &node, &Measured::new());
    let lines: Vec<String> = listed
        .iter()
        .map(|route| {
            let to = route.backends.first().map(|to| to.cluster.as_str());
            let (service, port, action) = (&route.service, route.port, &route.action);
            assert_eq!(route.gateway, "edge.default");
            format!("{service}:{port} {action} {}", to.unwrap_or("-"))
        })
        .collect();
    let to = "outbound|9080||reviews.default.svc.cluster.local";
    let wanted = [
        format!("shop.example.com:443 forward {to}"),
        format!("other.example.com:443 forward {to}"),
        "raw.example.com:8443 carry outbound|5432||reviews.default.svc.cluster.local".to_owned(),
    ];
    for line in wanted {
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    assert!(
        lines.iter().any(|line| line.contains(":80 redirect 301")),
        "{lines:#?}"
    );
    // Whoever is connected has labels and ports of its own.
    let connected = Node {
        name: "edge-1".to_owned(),
        ..node.clone()
    };
    let found = super::super::gateway(&world, vec![connected], "edge", "default");
    assert_eq!(found.unwrap().name, "edge-1");
}
