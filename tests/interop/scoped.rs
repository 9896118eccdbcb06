//! What depends on who calls: where, whom it knows, and workloads that nobody started.

use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, STRICT, service};

fn rule(policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: shop}}
spec: {{host: shop, trafficPolicy: {policy}}}
"
    )
}

fn written(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: vm-1}}
spec: {{address: 127.0.0.1, labels: {{app: vm}}, ports: {{http: {port}}}}}
"
    )
}

const SIDECAR: &str = "
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: caller}
spec:
  workloadSelector: {labels: {app: caller}}
  egress: [{hosts: [./vm.default.svc.cluster.local]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
";

#[tokio::test(flavor = "multi_thread")]
async fn callers_prefer_what_is_near_and_know_what_their_sidecar_says() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(STRICT);
    for name in ["shop", "vm"] {
        mesh.apply(&service(name, &[("http", 9080)]));
    }
    let near: &[&str] = &["--locality", "r1/z1"];
    let far: &[&str] = &["--locality", "r2/z2"];
    let app = |service, version, name, flags| App {
        service,
        version,
        port: 9080,
        at: backend(name, &tasks),
        flags,
    };
    let first = mesh.sidecar(&app("shop", "v1", "near", near)).await;
    let _second = mesh.sidecar(&app("shop", "v2", "far", far)).await;
    let calling = app("caller", "v1", "caller", &["--locality", "r1/z9"]);
    let sidecar = mesh.sidecar(&calling).await;
    mesh.settled().await;
    let caller = Caller::new(sidecar.outbound());
    let both = caller.count("shop:9080", 20).await;
    assert!(
        both.contains_key("near") && both.contains_key("far"),
        "{both:?}"
    );
    mesh.apply(&rule(
        "{loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {distribute: [{from: r1/*, to: {r1: 20, r2/z2: 80}}]}}}",
    ));
    mesh.settled().await;
    let shared = caller.count("shop:9080", 100).await;
    // Each worker keeps to the shares exactly, and begins elsewhere in its round.
    assert!((19..=21).contains(&shared["near"]), "{shared:?}");
    assert_eq!(shared["near"] + shared["far"], 100);
    mesh.apply(&rule("{outlierDetection: {consecutive5xxErrors: 1}}"));
    mesh.settled().await;
    let preferred = caller.count("shop:9080", 20).await;
    assert_eq!(preferred.get("near"), Some(&20), "{preferred:?}");
    // Until what is near is gone.
    drop(first);
    let deadline = meshctl::rt::now() + std::time::Duration::from_secs(20);
    while caller.count("shop:9080", 5).await.get("far") != Some(&5) {
        assert!(meshctl::rt::now() < deadline, "it never failed over");
    }
    // Nobody started this one.
    mesh.apply(&written(backend("vm", &tasks).port()));
    mesh.settled().await;
    assert_eq!(caller.count("vm:9080", 3).await.get("vm"), Some(&3));
    mesh.apply(SIDECAR);
    mesh.settled().await;
    let known = caller.count("vm:9080", 3).await;
    assert_eq!(known.get("vm"), Some(&3), "{known:?}");
    assert_eq!(caller.count("shop:9080", 3).await.get("502"), Some(&3));
    mesh.run(&["delete", "sidecar", "caller"], None);
    mesh.settled().await;
    assert_eq!(caller.count("shop:9080", 3).await.get("far"), Some(&3));
    drop(mesh);
    tasks.end().await;
}
