//! Hosts that the mesh does not run, called through a sidecar.

use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, STRICT, service};

/// A host by name and one by address, with routes of their own.
fn entries(named: u16, fixed: u16) -> String {
    format!(
        r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named}}
spec:
  hosts: [named.example.com]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: localhost, ports: {{http: {named}}}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: fixed}}
spec:
  hosts: [fixed.example.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {fixed}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: named}}
spec:
  hosts: [named.example.com]
  http:
  - match: [{{uri: {{prefix: /moved}}}}]
    route: [{{destination: {{host: fixed.example.com}}}}]
  - route: [{{destination: {{host: named.example.com}}}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_outside_are_called_by_name_and_by_address() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(STRICT);
    let (named, fixed) = (backend("named", &tasks), backend("fixed", &tasks));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    mesh.apply(&entries(named.port(), fixed.port()));
    mesh.settled().await;
    let caller = Caller::new(sidecar.outbound());
    let ask = async |host: &str, path: &str| {
        let (status, body) = caller.get(host, path).await.unwrap();
        let body = body.trim().to_owned();
        (status, body)
    };
    for _ in 0..3 {
        // A certificate of the mesh is nobody's business outside.
        assert_eq!(
            ask("named.example.com", "/").await,
            (200, "named /".to_owned())
        );
        assert_eq!(
            ask("fixed.example.com:80", "/").await,
            (200, "fixed /".to_owned())
        );
        assert_eq!(
            ask("named.example.com", "/moved").await,
            (200, "fixed /moved".to_owned())
        );
    }
    // Lists call them by their own names, and count them to the namespace of their entry.
    let routes = mesh.run(&["routes", "named.example.com"], None);
    assert!(routes.contains("fixed.example.com"), "{routes}");
    let stats = |namespace: &str| mesh.run(&["stats", "-n", namespace], None);
    crate::stand::until("numbers", 20, || {
        stats("default").contains("fixed.example.com").then_some(())
    })
    .await;
    assert!(!stats("other").contains("example.com"));
    drop(mesh);
    tasks.end().await;
}
