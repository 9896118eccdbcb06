//! An Envoy and a gRPC client as members of a running mesh.

use std::collections::BTreeMap;

use meshctl::rt::Tasks;

use crate::authority::{AUTHORITIES, script};
use crate::backend::{Caller, backend};
use crate::envoy::{Introduction, introduced};
use crate::grpc::{Script, server};
use crate::mesh::{App, Mesh, STRICT, service};
use crate::processes::installed;
use crate::stand::until;

/// How an Envoy of account `ops` speaks with the control plane, with a certificate that it is given here.
fn transport(mesh: &Mesh) -> String {
    let out = mesh.path().join("ops");
    let out = out.display();
    let issue = ["identity", "issue", "--service-account", "ops", "--out"];
    mesh.run(&[&issue[..], &[&out.to_string()]].concat(), None);
    format!(
        r#"transport_socket: {{name: envoy.transport_sockets.tls, typed_config: {{
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext,
          common_tls_context: {{
            alpn_protocols: [h2],
            tls_certificates: [{{certificate_chain: {{filename: {out}/cert-chain.pem}}, private_key: {{filename: {out}/key.pem}}}}],
            validation_context: {{
              trusted_ca: {{filename: {out}/root-cert.pem}},
              match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: "{}"}}}}]}}}}}}}}"#,
        meshctl::tls::control_plane_id("cluster.local")
    )
}

/// What it says of itself: metadata and id.
fn claims(address: std::net::IpAddr) -> (String, String) {
    let outbound = std::net::SocketAddr::new(address, 15_001);
    let metadata = format!(
        "{{NAMESPACE: default, SERVICE_ACCOUNT: ops, INTERCEPTION_MODE: NONE, \
          MESHCTL: {{outbound: \"{outbound}\", inbound: \"{address}:15006\"}}}}"
    );
    let id = format!("sidecar~{address}~envoy-1.default~default.svc.cluster.local");
    (metadata, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_with_a_certificate_calls_strict_workloads_by_our_weights() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    let mut sidecars = Vec::new();
    for version in ["v1", "v3"] {
        let app = App {
            service: "reviews",
            version,
            port: 9080,
            at: backend(version, &tasks),
            flags: &[],
        };
        sidecars.push(mesh.sidecar(&app).await);
    }
    mesh.json(&["canary", "set", "reviews", "v1=90", "v3=10"]);

    let transport = transport(&mesh);
    let address = mesh.spare();
    let outbound = std::net::SocketAddr::new(address, 15_001);
    for api in ["DELTA_GRPC", "GRPC"] {
        let (metadata, id) = claims(address);
        let introduction = Introduction {
            api,
            id: &id,
            metadata: &metadata,
            transport: &transport,
        };
        let Some((envoy, dir)) = introduced(Mesh::tls(), introduction) else {
            return;
        };
        let log = || std::fs::read_to_string(dir.path().join("envoy.log")).unwrap_or_default();
        until("Envoy to listen", 30, || {
            std::net::TcpStream::connect(outbound).is_ok().then_some(())
        })
        .await;
        let caller = Caller::new(outbound);
        // It listens before its certificate is there.
        let begun = meshctl::rt::now();
        while caller
            .get("reviews:9080", "/")
            .await
            .map(|(status, _)| status)
            != Ok(200)
        {
            assert!(begun.elapsed().as_secs() < 20, "{}", log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let counts = caller.count("reviews:9080", 3000).await;
        assert_eq!(counts.len(), 2, "{counts:?}\n{}", log());
        assert!((210..=390).contains(&counts["v3"]), "{counts:?}");
        let (_, body) = caller.get("reviews:9080", "/").await.unwrap();
        assert!(
            body.contains("URI=spiffe://cluster.local/ns/default/sa/ops"),
            "{body}"
        );
        let report = mesh.json(&["canary", "set", "reviews", "v1=90", "v3=10"]);
        assert_eq!(report["convergence"]["rejected"], serde_json::json!([]));
        let proxies = mesh.json(&["proxies"]);
        let envoys: Vec<_> = proxies
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["client"] == "envoy")
            .collect();
        assert_eq!(envoys.len(), 1, "{proxies}");
        assert_eq!(envoys[0]["synced"], true, "{proxies}");
        assert_eq!(
            envoys[0]["identity"], "spiffe://cluster.local/ns/default/sa/ops",
            "{proxies}"
        );
        drop(envoy);
        until("Envoy to be gone", 20, || {
            let proxies = mesh.json(&["proxies"]);
            (proxies.as_array()?.len() == 2).then_some(())
        })
        .await;
    }

    // Nobody else's certificate makes it a member of another account.
    let id = format!("sidecar~{address}~envoy-2.default~default.svc.cluster.local");
    let liar = Introduction {
        api: "DELTA_GRPC",
        id: &id,
        metadata: "{NAMESPACE: default, SERVICE_ACCOUNT: reviews-account, INTERCEPTION_MODE: NONE}",
        transport: &transport,
    };
    let (_envoy, _dir) = introduced(Mesh::tls(), liar).unwrap();
    until("the liar to be refused", 20, || {
        mesh.said("control-plane").contains("envoy-2").then_some(())
    })
    .await;
    let proxies = mesh.json(&["proxies"]).to_string();
    assert!(!proxies.contains("envoy-2"), "{proxies}");
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_calls_and_is_believed_below_an_authority_that_is_plugged_in() {
    let tasks = Tasks::new();
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    script(
        mesh.path(),
        &format!(
            "{AUTHORITIES} root root; for one in middle one; do openssl ecparam -name prime256v1 -genkey -noout -out $one.key; done
             below middle root TRUE keyCertSign,cRLSign; below one middle TRUE,pathlen:0 keyCertSign,cRLSign
             put one middle.pem root.pem"
        ),
    );
    let certs = mesh.path().join("cacerts").display().to_string();
    mesh.start_control_plane_with(&["--ca-certs", &certs]).await;
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "reviews",
        version: "v1",
        port: 9080,
        at: backend("v1", &tasks),
        flags: &[],
    };
    let _sidecar = mesh.sidecar(&app).await;
    let (address, transport) = (mesh.spare(), transport(&mesh));
    let (metadata, id) = claims(address);
    let introduction = Introduction {
        api: "DELTA_GRPC",
        id: &id,
        metadata: &metadata,
        transport: &transport,
    };
    let Some((_envoy, dir)) = introduced(Mesh::tls(), introduction) else {
        return;
    };
    let log = || std::fs::read_to_string(dir.path().join("envoy.log")).unwrap_or_default();
    let caller = Caller::new(std::net::SocketAddr::new(address, 15_001));
    let begun = meshctl::rt::now();
    let body = loop {
        match caller.get("reviews:9080", "/").await {
            Ok((200, body)) => break body,
            other => assert!(begun.elapsed().as_secs() < 30, "{other:?} {}", log()),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    // The workload believes Envoy's chain to the root above both authorities, as Envoy does the workload's.
    assert!(
        body.contains("URI=spiffe://cluster.local/ns/default/sa/ops"),
        "{body}"
    );
    drop(mesh);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_client_resolves_services_of_a_running_mesh() {
    let Some(python) = installed("grpc", "bin/python") else {
        return;
    };
    let mesh = Mesh::start().await;
    mesh.apply(&service("echo", &[("grpc", 9090)]));
    let mut servers = Vec::new();
    for (name, version) in [("a", "v1"), ("b", "v2")] {
        let (script, at) = server(&python, name);
        let port = format!("9090={at}");
        let register = ["register", name, "--service", "echo", "--version", version];
        let place = ["--address", "127.0.0.1", "--port", &port];
        mesh.run(&[&register[..], &place].concat(), None);
        servers.push(script);
    }
    let target = "xds:///echo.default:9090";
    let mut client = Script::start(&python, "grpc_client.py", target, Some(Mesh::xds()));
    until("both servers to be found", 20, || {
        (client.calls(20).len() == 2).then_some(())
    })
    .await;
    let counts = client.calls(200);
    assert!(
        counts.values().all(|count| (90..=110).contains(count)),
        "{counts:?}"
    );
    mesh.json(&["canary", "set", "echo", "v1=25", "v2=75"]);
    until("the weights to come", 20, || {
        let counts = client.calls(400);
        (260..=340)
            .contains(counts.get("b").unwrap_or(&0))
            .then_some(())
    })
    .await;
    mesh.run(&["deregister", "a"], None);
    mesh.json(&["canary", "set", "echo", "v1=0", "v2=100"]);
    until("the other to be left", 20, || {
        (client.calls(20) == BTreeMap::from([("b".to_owned(), 20)])).then_some(())
    })
    .await;
    drop(mesh);
}
