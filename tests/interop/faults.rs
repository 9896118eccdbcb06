//! Faults that are injected into a mesh of real processes, and their end.

use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, service};
use crate::stand::until;

/// A rule of somebody's own, which stays as it is.
const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - timeout: 5s
    route: [{destination: {host: shop}}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_taken_survives_a_restart_and_ends_by_itself() {
    let tasks = Tasks::new();
    let mut mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    mesh.apply(RULE);
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let sidecar = mesh.sidecar(&app).await;
    let caller = Caller::new(sidecar.outbound());
    assert_eq!(caller.count("shop:9080", 3).await["shop"], 3);
    let written = mesh.json(&["get", "vs", "shop"]);

    let told = mesh.json(&["fault", "inject", "shop", "--abort", "418", "--for", "8s"]);
    assert_eq!(told["convergence"]["acknowledged"], 1, "{told}");
    let begun = meshctl::rt::now();
    // Every proxy has it when the command says so.
    assert_eq!(caller.count("shop:9080", 3).await["418"], 3);
    let list = mesh.json(&["fault", "list"]);
    assert_eq!(list[0]["service"], "shop.default");
    assert_eq!(list[0]["abort"], "418");
    // It is told wherever somebody may look for it, and what was written is as it was.
    let routes = mesh.run(&["routes", "shop"], None);
    assert!(routes.contains("418"), "{routes}");
    let explained = mesh.run(&["routes", "--explain", "GET", "http://shop:9080/"], None);
    assert!(explained.contains("FaultInjection"), "{explained}");
    assert!(mesh.run(&["history"], None).contains("fault inject shop"));
    assert_eq!(mesh.json(&["get", "vs", "shop"]), written);

    mesh.kill_control_plane();
    mesh.start_control_plane().await;
    assert_eq!(mesh.json(&["fault", "list"])[0]["service"], "shop.default");
    assert_eq!(caller.count("shop:9080", 1).await["418"], 1);

    until("the fault to end", 20, || {
        let list = mesh.json(&["fault", "list"]);
        list.as_array().unwrap().is_empty().then_some(())
    })
    .await;
    assert!(begun.elapsed().as_secs() >= 6, "{:?}", begun.elapsed());
    assert!(mesh.run(&["history"], None).contains("fault ended"));
    mesh.settled().await;
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(10);
    while caller.count("shop:9080", 1).await.contains_key("418") {
        assert!(meshctl::rt::now() < deadline, "it did not end at the proxy");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(mesh.json(&["get", "vs", "shop"]), written);

    // One that is cleared ends at once, and is no news the second time.
    mesh.run(
        &["fault", "inject", "shop", "--delay", "1h", "--for", "1h"],
        None,
    );
    mesh.run(&["fault", "clear", "shop"], None);
    assert_eq!(caller.count("shop:9080", 2).await["shop"], 2);
    let again = mesh.try_run(&["fault", "clear", "shop"], None);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    drop(mesh);
    tasks.end().await;
}
