//! Pods that join with what the cluster itself made for them: the roots in their namespace and a token by
//! TokenRequest, judged by the API server's TokenReview for the account that was installed.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::accounts::Pod;
use super::super::command;
use super::{Replica, Stand};

impl Stand {
    /// curl to the API server as its administrator.
    pub(in super::super) fn curl(&self, method: &str, path: &str, body: &Value) -> Value {
        let media = match method {
            "PATCH" => "application/apply-patch+yaml",
            _ => "application/json",
        };
        let config = std::fs::read_to_string(&self.admin).unwrap();
        let keep = |key: &str| -> PathBuf {
            let found = config
                .lines()
                .find_map(|line| line.trim().strip_prefix(key));
            let bytes = STANDARD.decode(found.unwrap().trim()).unwrap();
            let file = self.dir.path().join(key.trim_end_matches(':'));
            std::fs::write(&file, bytes).unwrap();
            file
        };
        let output = Command::new("curl")
            .args(["-sS", "--fail-with-body", "-X", method, "--cacert"])
            .arg(keep("certificate-authority-data:"))
            .arg("--cert")
            .arg(keep("client-certificate-data:"))
            .arg("--key")
            .arg(keep("client-key-data:"))
            .args([
                "-H",
                &format!("content-type: {media}"),
                "-d",
                &body.to_string(),
            ])
            .arg(format!("https://{}{path}", self.cluster.address()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A token for `account` of namespace shop, as the kubelet asks for one.
    pub(in super::super) fn requested(
        &self,
        account: &str,
        audience: &str,
        pod: Option<&Value>,
    ) -> String {
        let path = format!("/api/v1/namespaces/shop/serviceaccounts/{account}/token");
        let mut spec = json!({"audiences": [audience], "expirationSeconds": 900});
        if let Some(pod) = pod {
            let meta = &pod["metadata"];
            spec["boundObjectRef"] = json!({
                "kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"],
            });
        }
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let made = self.curl("POST", &path, &review);
        made["status"]["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_with_the_token_and_the_roots_of_its_cluster_alone() {
    let stand = Stand::start().await;
    stand.install(&[]);
    let of = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let named = |name: &str| of("ServiceAccount", name);
    stand.curl("POST", "/api/v1/namespaces", &of("Namespace", "shop"));
    let accounts = "/api/v1/namespaces/shop/serviceaccounts";
    stand.curl("POST", accounts, &named("cart"));
    stand.curl("POST", accounts, &named("checkout"));
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "cart-7d4", "labels": {"app": "cart"}},
        "spec": {"serviceAccountName": "cart", "containers": [{"name": "c", "image": "c"}]},
    });
    let pod = stand.curl("POST", "/api/v1/namespaces/shop/pods", &pod);
    let replica = Replica::start(&stand, "one");
    let roots = stand
        .until("the roots of the namespace", || {
            let found = stand.object("configmaps", "shop", "meshctl-ca-root-cert")?;
            Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
        })
        .await;
    let root = stand.dir.path().join("root-cert.pem");
    std::fs::write(&root, roots).unwrap();
    let home = stand.dir.path().join("one");
    let ours = |args: &[&str]| -> Value {
        let output = command(&home, &stand.admin, args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let address = format!("127.0.0.1:{}", replica.tls);
    let join = |name: &str, token: &str| {
        Pod::believing(&root, &address, stand.dir.path().join(name), token)
    };

    let good = stand.requested("cart", "istio-ca", Some(&pod));
    let mut joined = join("good", &good);
    joined.until_joined().await;
    let of_another = stand.requested("checkout", "istio-ca", None);
    let for_another = stand.requested("cart", "vault", None);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let claims = head.split_once('.').unwrap().1;
    let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
    let unsigned = format!("eyJhbGciOiJub25lIn0.{claims}.e");
    for (name, token, why) in [
        (
            "other",
            &of_another,
            "the caller is spiffe://cluster.local/ns/shop/sa/checkout",
        ),
        (
            "vault",
            &for_another,
            "the service account token is refused",
        ),
        ("forged", &forged, "the service account token is refused"),
        (
            "unsigned",
            &unsigned,
            "the service account token is refused",
        ),
    ] {
        let said = join(name, token).until_refused().await;
        assert!(said.contains(why), "{name}: {said}");
    }
    // One whose account is gone proves nothing, whatever it says of itself; nor does one that has ended.
    stand.curl(
        "DELETE",
        &format!("{accounts}/cart"),
        &json!({"apiVersion": "v1", "kind": "DeleteOptions"}),
    );
    let said = join("gone", &good).until_refused().await;
    assert!(
        said.contains("the service account token is refused"),
        "{said}"
    );
    stand.curl("POST", accounts, &named("cart"));
    let said = join("namesake", &good).until_refused().await;
    assert!(
        said.contains("the service account token is refused"),
        "{said}"
    );
    let late = stand.requested("cart", "istio-ca", None);
    join("fresh", &late).until_joined().await;
    stand.cluster.advance(1_000);
    let said = join("ended", &late).until_refused().await;
    assert!(
        said.contains("the service account token is refused"),
        "{said}"
    );

    let log = ours(&["identity", "audit", "--context", "default", "-o", "json"]);
    let log = log.as_array().unwrap().iter();
    let by = |event: &str| {
        let of = log.clone().filter(|one| one["event"] == event);
        of.map(|one| one["by"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let issued = by("certificateIssued");
    let first = "service account shop/cart, pod cart-7d4".to_owned();
    assert!(issued.contains(&first), "{issued:?}");
    assert!(
        issued
            .iter()
            .all(|by| by.starts_with("service account shop/cart")),
        "{issued:?}"
    );
    let told = std::fs::read_to_string(&replica.log).unwrap() + &joined.log();
    for token in [&good, &late] {
        assert!(!told.contains(token.rsplit('.').next().unwrap()), "{told}");
    }
    replica.end();
}
