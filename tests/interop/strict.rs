//! Callers from outside the mesh: curl and openssl before a workload that is STRICT.

use std::fs;
use std::path::Path;

use meshctl::rt::Tasks;
use meshctl::tls::{Authority, Material};

use crate::backend::backend;
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::stand::until;

/// Calls `/` of `address` by hand with openssl, and gives all that was said.
fn s_client(address: &str, dir: &Path, caller: Option<&str>) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    // openssl ends when its input does, so the answer is awaited by the shell's sleep.
    let certificate = caller
        .map(|caller| {
            format!(
                "-cert {} -key {}",
                file(&format!("{caller}/cert-chain.pem")),
                file(&format!("{caller}/key.pem"))
            )
        })
        .unwrap_or_default();
    let script = format!(
        "(printf 'GET / HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n'; sleep 1) \
         | openssl s_client -connect {address} -CAfile {} -verify_return_error -quiet \
           -alpn istio-http/1.1 {certificate}",
        file("ops/root-cert.pem")
    );
    program("sh", &["-c", &script]).1
}

fn keep(dir: &Path, name: &str, material: &Material) {
    let pems = material.to_pems();
    fs::create_dir(dir.join(name)).unwrap();
    fs::write(dir.join(name).join("cert-chain.pem"), pems.chain).unwrap();
    fs::write(dir.join(name).join("key.pem"), pems.key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_workload_answers_members_only() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let address = web.inbound(9080).to_string();
    let url = format!("http://{address}/");
    let curl = |more: &[&str]| {
        let args = [&["-sS", "-m", "10", "-i"], more].concat();
        program("curl", &args)
    };

    // Permissive at first.
    let (good, said) = curl(&[&url]);
    assert!(good && said.contains("web /"), "{said}");
    mesh.apply(STRICT);
    until("plaintext to be refused", 10, || {
        (!curl(&[&url]).0).then_some(())
    })
    .await;
    let (_, said) = curl(&[&url]);
    assert!(!said.contains("HTTP/1.1"), "{said}");

    let dir = mesh.path().to_owned();
    let out = dir.join("ops");
    let issue = |ttl: &str, out: &Path| {
        let out = out.display().to_string();
        let args = ["identity", "issue", "--service-account", "ops"];
        mesh.run(&[&args[..], &["--ttl", ttl, "--out", &out]].concat(), None);
    };
    issue("1h", &out);
    let now = u64::try_from(
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_millis(),
    )
    .unwrap();
    let ops = "spiffe://cluster.local/ns/default/sa/ops".parse().unwrap();
    let foreign = Authority::generate("cluster.local", now).unwrap();
    let hour = std::time::Duration::from_hours(1);
    keep(
        &dir,
        "foreign",
        &foreign.issue_pair(&ops, hour, now).unwrap(),
    );

    let said = s_client(&address, &dir, Some("ops"));
    assert!(said.contains("web /"), "{said}");
    // The caller is named to the application by what was proven.
    assert!(
        said.contains("URI=spiffe://cluster.local/ns/default/sa/ops"),
        "{said}"
    );
    for caller in [None, Some("foreign")] {
        let said = s_client(&address, &dir, caller);
        assert!(!said.contains("HTTP/1.1 "), "{caller:?}: {said}");
        assert!(said.contains("alert"), "{caller:?}: {said}");
    }

    // curl with TLS: the certificate names an identity, no host, hence `-k` for the server.
    let secure = format!("https://{address}/");
    let file = |who: &str, name: &str| dir.join(who).join(name).display().to_string();
    let with = |who: &str| {
        let (certificate, key) = (file(who, "cert-chain.pem"), file(who, "key.pem"));
        curl(&["-k", "--cert", &certificate, "--key", &key, &secure])
    };
    let (good, said) = with("ops");
    assert!(good && said.contains("web /"), "{said}");
    for refused in [with("foreign"), curl(&["-k", &secure])] {
        assert!(!refused.0 && !refused.1.contains("web /"), "{refused:?}");
    }

    // A member's certificate is good until it ends.
    let brief = dir.join("brief");
    issue("2s", &brief);
    assert!(with("brief").0);
    until("the certificate to end", 10, || {
        (!with("brief").0).then_some(())
    })
    .await;
    drop(mesh);
    tasks.end().await;
}
