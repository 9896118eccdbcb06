//! Ingresses served by a gateway of real processes, to curl.

use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::gateway::{Outside, certificates, secret};
use crate::mesh::{App, Mesh, STRICT, service};
use crate::stand::until;

const INGRESSES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: edge}
spec: {controller: meshctl.dev/ingress-controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: edge
  tls: [{hosts: [shop.example.com], secretName: shop-certificate}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: shop, port: {name: http}}}}
      - {path: /admin, pathType: Prefix, backend: {service: {name: admin, port: {number: 9081}}}}
      - {path: /admin, pathType: Exact, backend: {service: {name: shop, port: {number: 9080}}}}
      - {path: /admin/shop, pathType: Prefix, backend: {service: {name: shop, port: {number: 9080}}}}
  - host: "*.example.org"
    http:
      paths:
      - {path: /any, pathType: Prefix, backend: {service: {name: shop, port: {number: 9080}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: elsewhere
  annotations: {kubernetes.io/ingress.class: nginx}
spec:
  rules:
  - host: nginx.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 9080}}}}
"#;

const DEFAULT: &str = r"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: rest}
spec:
  ingressClassName: edge
  defaultBackend: {service: {name: admin, port: {number: 9081}}}
";

#[tokio::test(flavor = "multi_thread")]
async fn callers_from_outside_come_in_by_ingresses() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    certificates(dir, &["shop.example.com"]);
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(&service("admin", &[("http", 9081)]));
    mesh.apply(STRICT);
    let mut sidecars = Vec::new();
    for (name, port) in [("shop", 9080), ("admin", 9081)] {
        let app = App {
            service: name,
            version: "v1",
            port,
            at: backend(name, &tasks),
            flags: &[],
        };
        sidecars.push(mesh.sidecar(&app).await);
    }
    mesh.apply(&secret(dir, "shop-certificate", "shop.example.com"));
    mesh.apply(INGRESSES);
    let listens = ["80=18080", "443=18443"];
    let (_process, address) = mesh.gateway("ingressgateway", &listens).await;
    let outside = Outside {
        dir,
        gateway: address,
    };
    mesh.settled().await;
    let asked = |host: &str, path: &str| outside.get(&format!("http://{host}:18080{path}"), &[]).1;
    until("the first answer", 20, || {
        let answer = asked("shop.example.com", "/");
        answer.starts_with("shop /").then_some(())
    })
    .await;

    for (host, path, answer) in [
        // Whole elements, the longest first, and of those the exact one.
        ("shop.example.com", "/admin", "shop /admin"),
        ("shop.example.com", "/admin/", "admin /admin/"),
        ("shop.example.com", "/admin/x?y=1", "admin /admin/x"),
        ("shop.example.com", "/administrator", "shop /administrator"),
        ("shop.example.com", "/admin/shop/1", "shop /admin/shop/1"),
        (
            "shop.example.com",
            "/admin/shopping",
            "admin /admin/shopping",
        ),
        // One label, and no more.
        ("a.example.org", "/any/1", "shop /any/1"),
        ("A.Example.org", "/any", "shop /any"),
    ] {
        let said = asked(host, path);
        assert!(said.starts_with(answer), "{host}{path}: {said}");
    }
    for (host, path) in [
        ("a.example.org", "/other"),
        ("a.b.example.org", "/any"),
        ("example.org", "/any"),
        ("nginx.example.com", "/"),
        ("other.example.com", "/"),
    ] {
        let said = asked(host, path);
        assert!(said.contains("\n404 "), "{host}{path}: {said}");
    }

    // By server name, with the certificate of the Secret.
    let (served, said) = outside.get("https://shop.example.com:18443/admin/", &[]);
    assert!(served && said.starts_with("admin /admin/"), "{said}");
    assert!(said.contains("\n200 2"), "HTTP/2 is agreed on: {said}");
    let (served, said) = outside.get("https://a.example.org:18443/any", &["--insecure"]);
    assert!(!served, "{said}");

    // What no rule takes, of whatever host.
    mesh.apply(DEFAULT);
    mesh.settled().await;
    until("the default backend", 20, || {
        asked("other.example.com", "/z")
            .starts_with("admin /z")
            .then_some(())
    })
    .await;
    for (host, path) in [("a.example.org", "/other"), ("a.b.example.org", "/any")] {
        let said = asked(host, path);
        assert!(said.starts_with("admin /"), "{host}{path}: {said}");
    }
    drop(mesh);
    tasks.end().await;
}
