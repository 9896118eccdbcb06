//! What openssl makes of our servers and certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meshctl::net::{BindOptions, bind};
use meshctl::tls::{self, peer_id, server_config};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::process::Command;

use super::*;

/// Runs openssl and gives success and everything it printed.
async fn openssl(dir: &Path, args: &[&str]) -> (bool, String) {
    let run = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(20), run)
        .await
        .unwrap()
        .expect("openssl is installed");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// The three files that openssl wants, for `name`.
fn write_pems(dir: &Path, name: &str, material: &Material) {
    let pems = material.to_pems();
    fs::write(dir.join(format!("{name}.crt")), pems.chain).unwrap();
    fs::write(dir.join(format!("{name}.key")), pems.key).unwrap();
    fs::write(dir.join(format!("{name}-root.crt")), pems.roots).unwrap();
}

/// Greets every caller that gets through the handshake, until it is dropped.
fn greeter(config: Arc<rustls::ServerConfig>) -> (SocketAddr, meshctl::rt::Tasks) {
    let listener = bind(([127, 0, 0, 1], 0).into(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = meshctl::rt::Tasks::new();
    tasks.spawn("greeter", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            if let Ok(mut io) = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await {
                io.write_all(b"welcome to the mesh\n").await.unwrap();
                drop(io.shutdown().await);
            }
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn s_client_gets_in_with_a_certificate_of_the_mesh_only() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    let reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    write_pems(
        dir.path(),
        "cart",
        &ca.issue_pair(&id("cart"), HOUR, now()).unwrap(),
    );
    let stranger = authority().issue_pair(&id("cart"), HOUR, now()).unwrap();
    write_pems(dir.path(), "stranger", &stranger);
    let old = ca.issue_pair(&id("cart"), Duration::from_mins(1), now() - 600_000);
    write_pems(dir.path(), "expired", &old.unwrap());
    let (address, tasks) = greeter(server_config(&reviews, &["h2"]).unwrap());
    let address = address.to_string();
    for version in ["-tls1_3", "-tls1_2"] {
        let base = [
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            "cart-root.crt",
            "-connect",
            &address,
            version,
        ];
        let with = |name: &'static str| {
            let mut args: Vec<String> = base.iter().map(ToString::to_string).collect();
            args.extend([
                "-cert".to_owned(),
                format!("{name}.crt"),
                "-key".to_owned(),
                format!("{name}.key"),
            ]);
            args
        };
        let run = async |args: Vec<String>| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            openssl(dir.path(), &args).await.1
        };
        let good = run(with("cart")).await;
        assert!(good.contains("welcome to the mesh"), "{version}: {good}");
        for bad in ["stranger", "expired"] {
            let text = run(with(bad)).await;
            assert!(!text.contains("welcome"), "{version} {bad}: {text}");
            assert!(text.contains("alert"), "{version} {bad}: {text}");
        }
        let nobody = openssl(dir.path(), &base).await.1;
        assert!(!nobody.contains("welcome"), "{version}: {nobody}");
    }
    let (_, old) = openssl(dir.path(), &["s_client", "-connect", &address, "-tls1_1"]).await;
    assert!(!old.contains("welcome"), "{old}");
    tasks.end().await;
}

#[tokio::test]
async fn aes_128_is_agreed_on_whatever_the_caller_prefers_and_others_if_it_has_no_such() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    let reviews = ca.issue_pair(&id("reviews"), HOUR, now()).unwrap();
    let cart = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    write_pems(dir.path(), "cart", &cart);
    let (address, tasks) = greeter(server_config(&reviews, &["h2"]).unwrap());
    let address = address.to_string();
    let base = "s_client -brief -CAfile cart-root.crt -cert cart.crt -key cart.key -connect";
    for (offer, agreed) in [
        ("-tls1_3", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (
            "-ciphersuites TLS_AES_256_GCM_SHA384",
            "TLS_AES_256_GCM_SHA384",
        ),
        (
            "-ciphersuites TLS_CHACHA20_POLY1305_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
    ] {
        let mut args: Vec<&str> = base.split(' ').collect();
        args.push(&address);
        args.extend(offer.split(' '));
        let text = openssl(dir.path(), &args).await.1;
        assert!(
            text.contains(&format!("Ciphersuite: {agreed}")),
            "{offer}: {text}"
        );
    }
    tasks.end().await;
}

#[tokio::test]
async fn openssl_verifies_issued_chains_for_both_purposes() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    write_pems(
        dir.path(),
        "cart",
        &ca.issue_pair(&id("cart"), HOUR, now()).unwrap(),
    );
    let server = ca.issue_server(&["localhost"], &[[127, 0, 0, 1].into()], HOUR, now());
    write_pems(dir.path(), "control", &server.unwrap());
    for (name, purpose) in [
        ("cart", "sslserver"),
        ("cart", "sslclient"),
        ("control", "sslserver"),
    ] {
        let (root, leaf) = (format!("{name}-root.crt"), format!("{name}.crt"));
        let args = [
            "verify",
            "-x509_strict",
            "-CAfile",
            &root,
            "-purpose",
            purpose,
            &leaf,
        ];
        let (ok, text) = openssl(dir.path(), &args).await;
        assert!(ok, "{name} {purpose}: {text}");
    }
    let args = [
        "verify",
        "-CAfile",
        "control-root.crt",
        "-verify_hostname",
        "localhost",
    ];
    assert!(
        openssl(dir.path(), &[&args[..], &["control.crt"]].concat())
            .await
            .0
    );
    let (_, text) = openssl(dir.path(), &["x509", "-in", "cart.crt", "-noout", "-text"]).await;
    assert!(
        text.contains("URI:spiffe://cluster.local/ns/shop/sa/cart"),
        "{text}"
    );
    assert!(text.contains("CA:FALSE"), "{text}");
    let args = [
        "x509",
        "-in",
        "cart-root.crt",
        "-noout",
        "-fingerprint",
        "-sha256",
    ];
    let (_, text) = openssl(dir.path(), &args).await;
    assert!(
        text.replace(':', "")
            .to_lowercase()
            .contains(&ca.root_fingerprint()),
        "{text}"
    );
}

#[tokio::test]
async fn a_request_of_openssl_with_foreign_names_yields_the_proven_name_only() {
    let ca = authority();
    let dir = tempfile::tempdir().unwrap();
    for key in ["ec:", "rsa:2048", "ed25519"] {
        let mut args = vec![
            "req",
            "-new",
            "-nodes",
            "-keyout",
            "new.key",
            "-out",
            "new.csr",
            "-subj",
            "/O=system:masters/CN=admin",
            "-addext",
            "subjectAltName=URI:spiffe://cluster.local/ns/kube-system/sa/admin,DNS:evil.example",
            "-newkey",
        ];
        match key {
            "ec:" => args.extend(["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]),
            key => args.push(key),
        }
        let (ok, text) = openssl(dir.path(), &args).await;
        assert!(ok, "{text}");
        let csr = fs::read_to_string(dir.path().join("new.csr")).unwrap();
        let issued = ca.sign(&csr, &id("cart"), HOUR, now()).unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.chain_pem[0].as_bytes()).unwrap();
        assert_eq!(peer_id(&[leaf]), Some(id("cart")));
        fs::write(dir.path().join("new.crt"), issued.chain_pem.concat()).unwrap();
        fs::write(dir.path().join("root.crt"), ca.root_pem()).unwrap();
        let (_, text) = openssl(dir.path(), &["x509", "-in", "new.crt", "-noout", "-text"]).await;
        assert!(!text.contains("admin") && !text.contains("evil"), "{text}");
        let (ok, text) = openssl(dir.path(), &["verify", "-CAfile", "root.crt", "new.crt"]).await;
        assert!(ok, "{text}");
    }
}

#[tokio::test]
async fn an_authority_made_by_openssl_can_be_brought_along() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-subj",
        "/O=Example/CN=Root",
        "-days",
        "30",
    ];
    let (ok, text) = openssl(dir.path(), &args).await;
    assert!(ok, "{text}");
    let read = |name: &str| fs::read_to_string(PathBuf::from(dir.path()).join(name)).unwrap();
    let ca = tls::Authority::from_pem("cluster.local", &read("ca.crt"), &read("ca.key")).unwrap();
    let material = ca.issue_pair(&id("cart"), HOUR, now()).unwrap();
    material.check(now()).unwrap();
    write_pems(dir.path(), "cart", &material);
    let (ok, text) = openssl(dir.path(), &["verify", "-CAfile", "ca.crt", "cart.crt"]).await;
    assert!(ok, "{text}");
}
