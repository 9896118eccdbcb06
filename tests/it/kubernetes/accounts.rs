//! Proxies that join with the token of their service account: the real binaries, and a fake API server that
//! judges the tokens.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::*;

/// A proxy of account `cart` in namespace `shop`.
pub(super) struct Pod {
    home: PathBuf,
    process: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Pod {
    /// Joins `mesh`, whose TLS port is at `address`, with `token`.
    fn start(mesh: &Mesh, address: &str, name: &str, token: &str) -> Self {
        let root = mesh.home.join("control/ca/root-cert.pem");
        Self::believing(&root, address, mesh.home.with_file_name(name), token)
    }

    /// Joins the mesh of `root` from `home` with `token`, as a pod does with what is mounted there.
    pub(super) fn believing(root: &Path, address: &str, home: PathBuf, token: &str) -> Self {
        std::fs::create_dir_all(&home).unwrap();
        let file = home.join("istio-token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let args = [
            "proxy",
            "--namespace=shop",
            "--service=cart",
            "--service-account=cart",
            "--name=cart-7d4",
            "--app=127.0.0.1:1",
            "--inbound-port=0",
            "--outbound-port=0",
            "--admin-port=0",
            "--workers=1",
        ];
        let process = command(&home, Path::new("/dev/null"), &args)
            .arg(format!("--control-plane={address}"))
            .arg(format!("--join-file={}", file.display()))
            .arg(format!("--root-cert={}", root.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self { home, process }
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("log")).unwrap()
    }

    pub(super) fn certificate(&self) -> Option<String> {
        let all = walk(&self.home);
        let found = all.iter().find(|path| path.ends_with("identity.pem"))?;
        std::fs::read_to_string(found).ok()
    }

    /// Waits until `done` of it.
    async fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) {
        let deadline = meshctl::rt::now() + PATIENCE;
        while !done(self) {
            assert!(
                meshctl::rt::now() < deadline,
                "waited in vain for {what}: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn until_joined(&mut self) {
        self.until("a certificate", |pod| pod.certificate().is_some())
            .await;
    }

    /// Waits until it has given up, for what it said.
    pub(super) async fn until_refused(&mut self) -> String {
        self.until("its end", |pod| pod.process.try_wait().unwrap().is_some())
            .await;
        assert!(!self.process.wait().unwrap().success());
        assert_eq!(self.certificate(), None);
        self.log()
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(walk(&path));
        } else {
            all.push(path);
        }
    }
    all
}

/// What an API server says of a good token for these audiences.
fn good(account: &str, audiences: &[&str]) -> Value {
    json!({
        "authenticated": true,
        "audiences": audiences,
        "user": {
            "username": format!("system:serviceaccount:shop:{account}"),
            "uid": "1",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/pod-name": [format!("{account}-7d4")]},
        },
    })
}

async fn tls_address(mesh: &Mesh) -> String {
    let status = mesh
        .until("its version", "/version", |(status, _)| *status == 200)
        .await;
    status["tlsAddress"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_by_its_service_account() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    let address = tls_address(&mesh).await;
    fake.say_of("eyJ0.Z29vZA.c2ln", good("cart", &["istio-ca"]));
    let mut pod = Pod::start(&mesh, &address, "good", "eyJ0.Z29vZA.c2ln");
    pod.until_joined().await;
    let asked = fake.reviewed();
    assert_eq!(
        asked,
        [("eyJ0.Z29vZA.c2ln".to_owned(), json!(["istio-ca"]))]
    );
    let audit = mesh.json(&["identity", "audit", "-o", "json"]);
    let text = audit.to_string();
    assert!(
        text.contains("service account shop/cart, pod cart-7d4"),
        "{text}"
    );
    assert!(
        text.contains("spiffe://cluster.local/ns/shop/sa/cart"),
        "{text}"
    );
    for told in [text, mesh.log(), pod.log()] {
        assert!(!told.contains("Z29vZA"), "a token is told: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_proves_its_own_account_to_us_and_nothing_else() {
    let fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    let address = tls_address(&mesh).await;
    fake.say_of("e.other.e", good("checkout", &["istio-ca"]));
    fake.say_of("e.vault.e", good("cart", &["vault"]));
    fake.say_of("e.none.e", good("cart", &[]));
    let mut user = good("cart", &["istio-ca"]);
    user["user"] =
        json!({"username": "system:serviceaccount:shop:cart", "groups": ["system:authenticated"]});
    fake.say_of("e.user.e", user);
    let mut unsure = good("cart", &["istio-ca"]);
    unsure["authenticated"] = json!(false);
    unsure["error"] = json!("token has expired");
    fake.say_of("e.expired.e", unsure);
    for (token, why) in [
        (
            "e.other.e",
            "the caller is spiffe://cluster.local/ns/shop/sa/checkout",
        ),
        ("e.vault.e", "not for \"istio-ca\""),
        ("e.none.e", "not for \"istio-ca\""),
        ("e.user.e", "not of a service account"),
        ("e.expired.e", "token has expired"),
        ("e.unknown.e", "invalid bearer token"),
        ("e.b.c.d", "it is not a JWT"),
    ] {
        let mut pod = Pod::start(&mesh, &address, token, token);
        let said = pod.until_refused().await;
        assert!(said.contains(why), "{token}: {said}");
    }
    assert!(fake.reviewed().iter().all(|(token, _)| token != "e.b.c.d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_can_judge_a_token_its_pod_waits() {
    let mut fake = Fake::start();
    bookinfo(&fake);
    let mesh = Mesh::ready(&fake).await;
    let address = tls_address(&mesh).await;
    fake.say_of("e.good.e", good("cart", &["istio-ca"]));
    fake.kill().await;
    let mut pod = Pod::start(&mesh, &address, "waits", "e.good.e");
    pod.until("its wait", |pod| {
        pod.log().contains("the API server cannot be asked")
    })
    .await;
    assert_eq!(pod.certificate(), None);
    fake.forbid("tokenreviews");
    fake.revive();
    pod.until("the refusal", |pod| {
        pod.log()
            .contains("does not let the control plane create tokenreviews")
    })
    .await;
    assert_eq!(pod.certificate(), None);
    fake.permit("tokenreviews");
    pod.until_joined().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_such_tokens_prove_nothing() {
    let fake = Fake::start();
    let mesh = Mesh::alone(&fake);
    let address = tls_address(&mesh).await;
    let mut pod = Pod::start(&mesh, &address, "alone", "e.good.e");
    let said = pod.until_refused().await;
    assert!(said.contains("--source kubernetes"), "{said}");
    assert_eq!(fake.reviewed(), []);
}
