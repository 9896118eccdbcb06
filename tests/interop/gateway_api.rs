//! A Gateway of the Gateway API by real processes: routes of its listeners, and what its status says.

use meshctl::rt::Tasks;
use serde_json::Value;

use crate::backend::backend;
use crate::mesh::{App, Mesh, STRICT, program, service};

const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: meshctl
  listeners:
  - {name: any, port: 18085, protocol: HTTP}
  - {name: example, port: 18085, protocol: HTTP, hostname: '*.example.com'}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge, sectionName: example}]
  hostnames: [shop.example.com]
  rules:
  - matches: [{path: {value: /old}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    backendRefs: [{name: shop, port: 9080}]
  - matches: [{path: {value: /away}}]
    filters:
    - {type: RequestRedirect, requestRedirect: {hostname: away.example.com}}
  - matches: [{path: {value: /nowhere}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: shop, port: 9080}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: rest}
spec:
  parentRefs: [{name: edge, sectionName: any}]
  rules:
  - name: all
    sessionPersistence: {type: Header, header: {name: X-Session}}
    backendRefs: [{name: shop, port: 9080}]
";

const POLICIES: &str = r"
apiVersion: policy.meshctl.dev/v1alpha1
kind: HeaderPolicy
metadata: {name: edge}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]
  response: {set: {x-of: gateway, x-edge: 'yes'}}
---
apiVersion: policy.meshctl.dev/v1alpha1
kind: HeaderPolicy
metadata: {name: rest}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: rest, sectionName: all}]
  response: {set: {x-of: route}}
";

fn condition<'a>(of: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let conditions = of["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|one| one["type"] == kind).unwrap();
    let text = |field: &str| found[field].as_str().unwrap();
    (text("status"), text("reason"))
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_served_by_the_listeners_that_they_are_attached_to() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let _sidecar = mesh.sidecar(&app).await;
    // What is broken is refused, unless it is known to come.
    let refused = mesh.try_run(&["apply", "-f", "-"], Some(GATEWAY));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("missing"),
        "{said}"
    );
    mesh.run(&["apply", "--force", "-f", "-"], Some(GATEWAY));
    let (_process, gateway) = mesh.gateway("edge", &[18085]).await;
    let get = |host: &str, path: &str| {
        let to = format!("::{gateway}:");
        let url = format!("http://{host}:18085{path}");
        let write = "\n%{http_code} %{redirect_url}";
        let args = ["-sS", "-m", "10", "--connect-to", &to, "-w", write, &url];
        program("curl", &args).1
    };
    let old = get("shop.example.com", "/old/1");
    assert!(
        old.starts_with("shop /new/1") && old.contains("\n200"),
        "{old}"
    );
    let exact = get("shop.example.com", "/exact");
    assert!(exact.contains("\n200"), "{exact}");
    for (host, path) in [
        ("shop.example.com", "/exact/not"),
        ("shop.example.com", "/older"),
        // The listener for `*.example.com` has it, and no route.
        ("other.example.com", "/"),
    ] {
        let missed = get(host, path);
        assert!(missed.contains("\n404"), "{host}{path}: {missed}");
    }
    let away = get("shop.example.com", "/away/1");
    assert!(
        away.contains("\n302 http://away.example.com:18085/away/1"),
        "{away}"
    );
    let nowhere = get("shop.example.com", "/nowhere");
    assert!(nowhere.contains("\n500"), "{nowhere}");
    let rest = get("example.org", "/x");
    assert!(rest.starts_with("shop /x"), "{rest}");

    // What is said of the route goes before what is said of the Gateway, and both add up.
    mesh.apply(POLICIES);
    mesh.settled().await;
    let head = |host: &str, path: &str| {
        let to = format!("::{gateway}:");
        let url = format!("http://{host}:18085{path}");
        program("curl", &["-sSi", "-m", "10", "--connect-to", &to, &url]).1
    };
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(20);
    let answered = loop {
        let answered = head("example.org", "/x");
        if answered.contains("x-of: route") {
            break answered;
        }
        assert!(meshctl::rt::now() < deadline, "{answered}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    assert!(answered.contains("x-edge: yes"), "{answered}");
    assert!(answered.contains("x-session: "), "{answered}");
    let other = head("shop.example.com", "/exact");
    assert!(other.contains("x-of: gateway"), "{other}");
    assert!(!other.contains("x-session"), "{other}");

    let kind = "gateways.gateway.networking.k8s.io";
    let told = mesh.json(&["get", kind, "edge"]);
    let status = &told[0]["object"]["status"];
    assert_eq!(condition(status, "Accepted"), ("True", "Accepted"));
    assert_eq!(condition(status, "Programmed"), ("True", "Programmed"));
    let attached = status["listeners"].as_array().unwrap().iter();
    let attached: Vec<u64> = attached
        .map(|listener| listener["attachedRoutes"].as_u64().unwrap())
        .collect();
    assert_eq!(attached, [1, 1]);
    let told = mesh.json(&["get", "httproutes", "shop"]);
    let parent = &told[0]["object"]["status"]["parents"][0];
    assert_eq!(condition(parent, "Accepted"), ("True", "Accepted"));
    let refs = condition(parent, "ResolvedRefs");
    assert_eq!(refs, ("False", "BackendNotFound"));
    let generation = &told[0]["object"]["metadata"]["generation"];
    assert_eq!(parent["conditions"][0]["observedGeneration"], *generation);
}
