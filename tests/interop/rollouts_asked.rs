//! Webhooks of canaries over TLS: every kind is asked, with Flagger's payload, of a server that is believed; and of no
//! other.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::processes::Process;
use crate::rollouts::Shop;
use crate::stand::until;

/// An authority, and a certificate of its for `localhost`.
fn certificates(dir: &Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 \
            -subj /CN=hooks -keyout ca.key -out ca.pem -addext basicConstraints=critical,CA:TRUE \
            -addext keyUsage=critical,keyCertSign
        openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=receiver \
            -keyout key.pem -out leaf.csr
        printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n' > leaf.ext
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 8 \
            -extfile leaf.ext -out leaf.pem";
    let made = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

fn heard(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const KINDS: [&str; 8] = [
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "post-rollout",
    "rollback/no",
    "event",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_webhook_is_asked_over_tls_of_who_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let (port, log) = (cluster::ports::free(), dir.path().join("log"));
    let receiver = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/webhook.py"))
        .arg(port.to_string())
        .args(["leaf.pem", "key.pem"])
        .arg(&log)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let _receiver = Process(receiver);
    let shop = Shop::open().await;
    let load = shop.load();
    let hooks: Vec<String> = KINDS
        .iter()
        .map(|path| {
            let kind = path.trim_end_matches("/no");
            format!("{kind}=https://localhost:{port}/{path}")
        })
        .collect();
    let mut flags = vec![
        "--steps",
        "20,100",
        "--interval",
        "1s",
        "--min-requests",
        "10",
        "--compare",
        "none",
    ];
    for hook in &hooks {
        flags.extend(["--webhook", hook]);
    }

    // Of a server that nobody vouches for nothing is asked.
    shop.start(&flags);
    let waiting = until("the webhook to be refused", 30, || {
        let status = shop.status();
        let reason = status["reason"].as_str().unwrap();
        reason.contains("is not believed").then_some(status)
    })
    .await;
    assert_eq!(waiting["phase"], "Waiting", "{waiting}");
    let reason = waiting["reason"].as_str().unwrap();
    assert!(
        reason.contains("not issued by a root that is trusted"),
        "{reason}"
    );
    assert!(heard(&log).is_empty(), "{:?}", heard(&log));
    shop.mesh.json(&["canary", "abort", "shop"]);

    let authority = dir.path().join("ca.pem");
    flags.extend(["--webhook-ca", authority.to_str().unwrap()]);
    shop.start(&flags);
    shop.until("Succeeded").await;
    let all = until("the last webhook", 20, || {
        let all = heard(&log);
        let over = all.iter().any(|one| one["path"] == "/post-rollout");
        over.then_some(all)
    })
    .await;
    let asked: BTreeSet<&str> = all
        .iter()
        .map(|one| one["path"].as_str().unwrap().trim_start_matches('/'))
        .collect();
    assert_eq!(asked, KINDS.into_iter().collect::<BTreeSet<_>>());
    for one in &all {
        let payload = &one["payload"];
        assert_eq!(one["host"], format!("localhost:{port}"));
        assert_eq!(one["type"], "application/json");
        assert_eq!(
            (&payload["name"], &payload["namespace"]),
            (&json!("shop"), &json!("default")),
            "{one}"
        );
        let text = ["phase", "checksum"].map(|key| payload[key].as_str().unwrap().len());
        assert!(text.iter().all(|length| *length > 0), "{one}");
        assert!(payload["metadata"].is_object(), "{one}");
    }
    let event = all.iter().rfind(|one| one["path"] == "/event").unwrap();
    assert!(
        event["payload"]["metadata"]["eventMessage"].is_string(),
        "{event}"
    );
    let last = all
        .iter()
        .find(|one| one["path"] == "/post-rollout")
        .unwrap();
    assert_eq!(last["payload"]["phase"], "Succeeded", "{last}");
    // The name must be right, too: the certificate is for localhost.
    shop.mesh.json(&["canary", "undo", "shop"]);
    let other = format!("confirm-rollout=https://127.0.0.1:{port}/confirm-rollout");
    let flags = [
        "--webhook",
        &other,
        "--webhook-ca",
        authority.to_str().unwrap(),
    ];
    shop.start(&flags);
    until("the name to be refused", 30, || {
        let status = shop.status();
        let reason = status["reason"].as_str().unwrap();
        reason.contains("127.0.0.1 is not believed").then_some(())
    })
    .await;
    load.stop().await;
    shop.close().await;
}
