//! The certificate that webhooks are served with: it ends, it is renewed, and it is of whom the API server believes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::super::seen;
use super::*;

const LINE: &str = "the webhook shows what meshctl-injector believes";

/// A root, and authorities under it.
struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// The Secret with an authority that lasts so long.
    fn secret(&self, lasts: Duration) -> Value {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "middle");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.not_after = (meshctl::rt::Wall::System.now() + lasts).into();
        let middle = params.signed_by(&key, &self.0).unwrap();
        let data = |text: String| STANDARD.encode(text);
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "cacerts", "namespace": SYSTEM},
            "data": {
                "ca-cert.pem": data(middle.pem()),
                "ca-key.pem": data(key.serialize_pem()),
                "cert-chain.pem": data(middle.pem() + &self.0.pem()),
                "root-cert.pem": data(self.0.pem()),
            },
        })
    }
}

/// The same line as the replica itself has it.
async fn own_line(stand: &Stand, replica: &str) -> Option<(String, String)> {
    let (_, report) = ask(&stand.dir.path().join(replica), "/check").await;
    let sections = report["sections"].as_array()?.iter();
    let mut checks = sections
        .filter_map(|one| one["checks"].as_array())
        .flatten();
    let found = checks.find(|one| one["text"] == LINE)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("detail")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ended_is_named_and_renewed_as_soon_as_it_can_be() {
    let root = Root::new();
    let (stand, api) = unguarded().await;
    // An authority that ends soon, and then has ended: nobody can renew anything.
    api.create(&root.secret(Duration::from_secs(20)))
        .await
        .unwrap();
    let one = Replica::start(&stand, "one");
    until("a certificate that ends soon", 15, async || {
        let (status, detail) = own_line(&stand, "one").await?;
        (status == "warning" && detail.contains("was not renewed")).then_some(())
    })
    .await;
    until("its end", 30, async || {
        let (status, detail) = own_line(&stand, "one").await?;
        (status == "failed" && detail.contains("ended at")).then_some(())
    })
    .await;
    // The next authority is taken without a restart.
    let patch = json!({"data": root.secret(Duration::from_hours(48))["data"]});
    let secret = which("Secret", Some(SYSTEM), "cacerts");
    api.patch(&secret, &patch).await.unwrap();
    until("its renewal", 60, async || {
        let (status, detail) = own_line(&stand, "one").await?;
        (status == "ok" && detail.contains("its certificate ends at")).then_some(())
    })
    .await;
    assert!(!log(&one).contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_another_root_is_named_and_put_right() {
    let (stand, _replicas) = seen::start().await;
    let api = admin(&stand).await;
    let hooks = which("MutatingWebhookConfiguration", None, "meshctl-injector");
    let mut found = api.get(&hooks).await.unwrap().unwrap();
    let good = found["webhooks"][0]["clientConfig"]["caBundle"].clone();
    let other = STANDARD.encode(Root::new().0.pem());
    for hook in found["webhooks"].as_array_mut().unwrap() {
        hook["clientConfig"]["caBundle"] = json!(other);
    }
    api.replace(&found).await.unwrap();
    let (status, detail) = line(&stand, LINE).unwrap();
    assert_eq!(status, "failed", "{detail}");
    assert!(
        detail.contains("an authority that the bundle there does not have"),
        "{detail}"
    );
    until("the bundle to be put right", 60, async || {
        let found = api.get(&hooks).await.unwrap().unwrap();
        (found["webhooks"][0]["clientConfig"]["caBundle"] == good).then_some(())
    })
    .await;
    let (status, detail) = line(&stand, LINE).unwrap();
    assert_eq!(status, "ok", "{detail}");
}
