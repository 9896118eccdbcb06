//! Answers to mirrored calls, compared: one planted change in a thousand answers is found and named, and callers do not
//! feel that somebody looks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;
use serde_json::{Value, json};

use crate::backend::Caller;
use crate::mesh::{App, Mesh, service};
use crate::stand::until;

/// Of so many answers of the copy one has another price.
const ONE_IN: u64 = 1_000;

/// A page about tea. Every answer has a number of its own and the name of who served it, as pages do.
fn shop(version: &'static str, plants: bool, tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, count) = (tasks.clone(), Arc::new(AtomicU64::new(0)));
    tasks.spawn("shop", async move {
        while let Ok((io, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            connections.spawn("connection", async move {
                let answer = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let price = if plants && number % ONE_IN == 500 { 11 } else { 10 };
                    let page = json!({
                        "servedBy": version,
                        "items": [
                            {"id": number, "name": "tea", "price": {"amount": price, "currency": "EUR"}},
                            {"id": number + 1, "name": "cup", "price": {"amount": 3, "currency": "EUR"}},
                        ],
                    });
                    async move {
                        let body = http_body_util::Full::new(bytes::Bytes::from(page.to_string()));
                        let answer = hyper::Response::builder()
                            .header("content-type", "application/json")
                            .header("x-version", version);
                        Ok::<_, std::convert::Infallible>(answer.body(body).unwrap())
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(io), answer)
                    .await;
                let _ended = served.is_ok();
            });
        }
    });
    address
}

const MIRRORED: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop, namespace: default}
spec:
  host: shop
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop]
  http:
  - route:
    - destination: {host: shop, subset: v1}
    mirror: {host: shop, subset: v2}
";

const COMPARED: &str = "\
apiVersion: policy.meshctl.dev/v1alpha1
kind: ShadowDiff
metadata: {name: shop, namespace: default}
spec:
  service: shop
  headers: [content-type]
  ignore: [$.servedBy, '$.items[*].id']
";

/// Calls, one after the other; how long the slowest in a hundred took at least, in milliseconds.
async fn call(caller: &Caller, count: usize) -> f64 {
    let mut took = Vec::new();
    for _ in 0..count {
        let since = meshctl::rt::now();
        let (status, _) = caller.get("shop:9080", "/").await.unwrap();
        took.push(since.elapsed().as_secs_f64() * 1_000.0);
        assert_eq!(status, 200);
    }
    took.sort_by(f64::total_cmp);
    took[count * 99 / 100]
}

fn row(mesh: &Mesh) -> Option<Value> {
    let report = mesh.json(&["shadow", "shop"]);
    report["services"].as_array().unwrap().first().cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_field_in_a_thousand_answers_is_named() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = |service, version, at| App {
        service,
        version,
        port: 9080,
        at,
        flags: &[],
    };
    let (v1, v2) = (shop("v1", false, &tasks), shop("v2", true, &tasks));
    let _v1 = mesh.sidecar(&app("shop", "v1", v1)).await;
    let _v2 = mesh.sidecar(&app("shop", "v2", v2)).await;
    let client = mesh.sidecar(&app("client", "v1", v1)).await;
    let caller = Caller::new(client.outbound());
    mesh.apply(MIRRORED);
    mesh.settled().await;
    // Mirrored in both cases, so that what is added is the comparison's.
    let mut without = vec![call(&caller, 500).await];
    mesh.apply(COMPARED);
    mesh.settled().await;
    let mut with = vec![call(&caller, 1_000).await, call(&caller, 1_000).await];
    let found = until("comparisons to be told", 30, || {
        row(&mesh).filter(|row| {
            row["compared"].as_u64().unwrap() + row["skipped"].as_u64().unwrap() == 2_000
        })
    })
    .await;
    assert!(found["compared"].as_u64().unwrap() >= 1_990, "{found}");
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{found}");
    assert_eq!(differences[0]["at"], "$.items[*].price.amount", "{found}");
    assert_eq!(
        (&differences[0]["part"], &differences[0]["count"]),
        (&json!("body"), &json!(2)),
        "{found}"
    );
    assert_eq!(
        (&found["different"], &found["unanswered"]),
        (&json!(2), &json!(0)),
        "{found}"
    );
    let text = mesh.run(&["shadow", "shop"], None);
    assert!(text.contains("$.items[*].price.amount"), "{text}");
    assert_eq!(
        mesh.try_run(&["shadow", "shop", "--fail"], None)
            .status
            .code(),
        Some(1)
    );

    // What comparing adds to a caller, by medians of turns, as machines are noisy.
    mesh.run(&["delete", "ShadowDiff", "shop"], None);
    mesh.settled().await;
    for _ in 0..2 {
        without.push(call(&caller, 500).await);
    }
    mesh.apply(COMPARED);
    mesh.settled().await;
    with.push(call(&caller, 500).await);
    let middle = |turns: &mut Vec<f64>| {
        turns.sort_by(f64::total_cmp);
        turns[turns.len() / 2]
    };
    let (without, with) = (middle(&mut without), middle(&mut with));
    eprintln!("p99 of callers: {without:.2} ms mirrored, {with:.2} ms compared as well");
    assert!(
        with <= without * 2.0 + Duration::from_millis(10).as_secs_f64() * 1_000.0,
        "{without} and {with} ms"
    );
    drop(mesh);
    tasks.end().await;
}
