//! A canary of which two replicas of the control plane have half the numbers each: it is judged by all of them, by none
//! while one is silent, and each request counts once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use serde_json::{Value, json};

use super::failover::{SHOP, Sidecar, proxies_of, put};
use super::installed::{Replica, Stand};
use super::seen::{SYSTEM, address, apply, run_pod, slice, slice_of};

/// A version of `cart`: who asks for it is answered 500.
fn version(name: &'static str, tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let at = listener.local_addr().unwrap();
    let answer = move |headers: http::HeaderMap| async move {
        let status = if headers.contains_key("x-fail") && name == "v2" {
            http::StatusCode::INTERNAL_SERVER_ERROR
        } else {
            http::StatusCode::OK
        };
        (status, name)
    };
    let router = axum::Router::new().fallback(axum::routing::get(answer));
    tasks.spawn("version", async move {
        drop(axum::serve(listener, router).await);
    });
    at
}

/// Calls `cart` so often; how often each version answered.
async fn call(sidecar: &Sidecar, count: usize, fail: bool) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    let io = connect(sidecar.outbound, ConnectOptions::default())
        .await
        .unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(io))
            .await
            .unwrap();
    let tasks = Tasks::new();
    tasks.spawn("caller", async move {
        // The sender says why a call failed.
        let _ended = connection.await.is_ok();
    });
    for _ in 0..count {
        let mut request = http::Request::get("/").header("host", "cart.shop");
        if fail {
            request = request.header("x-fail", "yes");
        }
        let request = request.body(Full::default()).unwrap();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let who = String::from_utf8(body.to_vec()).unwrap();
        *seen.entry(who).or_default() += 1;
    }
    seen
}

/// Two replicas, each reached at its pod's address by the same port, as in a cluster.
async fn start() -> (Stand, [Replica; 2]) {
    let stand = Stand::start().await;
    // Nothing here is at the address of the webhooks' Service.
    stand.install(&["--set", "validator=false", "--set", "injector=false"]);
    let tls = cluster::ports::free();
    let replicas = ["one", "two"].map(|name| {
        let labels = json!({"app": "meshctl", "istio.io/rev": "default"});
        run_pod(&stand, SYSTEM, name, &labels, "meshctl");
        let ports = [cluster::ports::free(), cluster::ports::free(), tls];
        Replica::start_with(&stand, name, ports, &["--listen", &address(name)])
    });
    // By which each of them knows the other.
    slice_of(
        &stand,
        (SYSTEM, "meshctl"),
        ("grpc-tls", tls),
        &["one", "two"],
    );
    for replica in &replicas {
        stand
            .until("a replica to serve", || {
                let log = std::fs::read_to_string(&replica.log).ok()?;
                log.contains("proxies are served").then_some(())
            })
            .await;
    }
    stand
        .until("the mesh's root", || {
            stand.object("configmaps", SYSTEM, "meshctl-ca-root-cert")
        })
        .await;
    stand.until("somebody to write", || stand.holder()).await;
    (stand, replicas)
}

const CANARY: &str = r#"{
    "apiVersion": "policy.meshctl.dev/v1alpha1",
    "kind": "Canary",
    "metadata": {"name": "cart", "namespace": "shop"},
    "spec": {
        "service": "cart", "from": "v1", "to": "v2", "steps": [50, 100],
        "interval": "1s", "bake": "1h", "minRequests": 1, "maxFailures": 1, "patience": "2h",
        "metrics": [{"name": "success-rate", "min": 99}]
    }
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_judged_by_what_the_proxies_of_all_replicas_tell() {
    let (stand, [one, two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let tasks = Tasks::new();
    let plane = |name: &str| format!("{}:{}", address(name), one.tls);
    let both = format!("{},{}", plane("one"), plane("two"));
    let _carts = [
        Sidecar::of_version(
            (&stand, &both),
            "cart",
            "cart-1",
            ("v1", version("v1", &tasks)),
        ),
        Sidecar::of_version(
            (&stand, &both),
            "cart",
            "cart-2",
            ("v2", version("v2", &tasks)),
        ),
    ];
    slice(&stand, &["cart-1", "cart-2"]);
    // Who writes hears of one caller only.
    let (leader, follower) = match stand.holder().as_deref() {
        Some("one") => ("one", "two"),
        _ => ("two", "one"),
    };
    let frozen = if follower == "two" { &two } else { &one };
    let nowhere = version("v0", &tasks);
    let near = Sidecar::start((&stand, &plane(leader)), "web", "web-p", nowhere);
    let far = Sidecar::start((&stand, &plane(follower)), "web", "web-q", nowhere);
    for (replica, name, at) in [
        (leader, "web-p", near.outbound),
        (follower, "web-q", far.outbound),
    ] {
        let began = meshctl::rt::now();
        // One that has a stream need not have been sent anything yet.
        while !proxies_of(&stand, replica).await.contains(name)
            || connect(at, ConnectOptions::default()).await.is_err()
        {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{name} at {replica}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    put(
        &stand.cluster,
        "canaries.policy.meshctl.dev",
        serde_json::from_str(CANARY).unwrap(),
    );
    let status = || {
        let canary = stand.object("canaries.policy.meshctl.dev", "shop", "cart")?;
        Some(canary["status"].clone())
    };
    let state = || Some(status()?["run"]["state"].clone());
    let counting = || {
        let state = state()?;
        let ready = state["applied"] == true && state["window"]["base"].is_object();
        ready.then_some(state)
    };
    let begun = stand.until("the first window", counting).await;
    assert_eq!(begun["window"]["by"], json!(["one", "two"]), "{begun}");
    // Every request is counted once, wherever its caller's numbers went.
    let mut sent = call(&near, 300, false).await;
    for (who, count) in call(&far, 500, false).await {
        *sent.entry(who).or_default() += count;
    }
    let counted = || {
        let pooled = state()?["pooled"].clone();
        let requests = |side: &str| pooled[side]["requests"].as_u64();
        let all = requests("stable")? + requests("canary")?;
        (all >= 800).then_some((requests("stable")?, requests("canary")?))
    };
    let counted = stand.until("800 requests to be counted", counted).await;
    assert_eq!(counted, (sent["v1"], sent["v2"]), "{sent:?}");

    // Half of the numbers are no numbers.
    frozen.freeze(true);
    stand
        .until("the step to wait", || {
            let reason = status()?["reason"].as_str()?.to_owned();
            let words = format!("replica {follower} of the control plane did not tell");
            (reason.contains(&words) && reason.ends_with("the step waits")).then_some(())
        })
        .await;
    assert_eq!(status().unwrap()["phase"], "Progressing");
    frozen.freeze(false);
    stand
        .until("the step to go on", || {
            let reason = status()?["reason"].as_str()?.to_owned();
            (!reason.contains("the step waits")).then_some(())
        })
        .await;

    // What only the other replica hears of rolls back.
    let seen = call(&near, 200, false).await;
    assert!(seen["v2"] > 50, "{seen:?}");
    call(&far, 200, true).await;
    let over = stand
        .until("the canary to be over", || {
            let status = status()?;
            (status["phase"] == "RolledBack").then_some(status)
        })
        .await;
    let reason = over["reason"].as_str().unwrap();
    assert!(reason.starts_with("success-rate is"), "{reason}");
    let log = std::fs::read_to_string(&frozen.log).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    drop((near, far));
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_tell_nobody_but_each_other() {
    let (stand, [one, two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let at: SocketAddr = format!("{}:{}", address("one"), one.tls).parse().unwrap();
    // With no certificate: as whoever reaches the port could.
    let asked = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--http2", "--insecure"])
        .arg(format!(
            "https://{at}/api/v1/replica/observed?service=cart.shop&since=0"
        ))
        .output()
        .await
        .unwrap();
    let said: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
    assert!(
        said.to_string()
            .contains("only replicas of the control plane"),
        "{said} {}",
        String::from_utf8_lossy(&asked.stderr)
    );
    drop(two);
}
