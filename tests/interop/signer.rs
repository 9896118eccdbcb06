//! An outside signer: another control plane signs for one that keeps no key, goes away and comes back.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use envoy_types::pb::google::protobuf::{Struct, Value, value};
use meshctl::rt::Tasks;
use meshctl::tls::Material;
use meshctl::tls::ca_api::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use tonic::{Code, Status};

use crate::attested::{channel, member};
use crate::authority::script;
use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::processes::Process;
use crate::stand::until;

const PROGRAM: &str = env!("CARGO_BIN_EXE_meshctl");

/// A control plane in `home` that signs for account `ra` of namespace `signers`.
async fn signer(home: &Path, at: IpAddr, flags: &[&str]) -> Process {
    let log = std::fs::File::create(home.with_extension("log")).unwrap();
    let child = Command::new(PROGRAM)
        .arg("--home")
        .arg(home)
        .args(["control-plane", "--listen", &at.to_string()])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let ready = SocketAddr::new(at, 15_080);
    until("the signer", 20, || {
        std::net::TcpStream::connect(ready).is_ok().then_some(())
    })
    .await;
    Process(child)
}

fn of(home: &Path, args: &[&str]) -> String {
    let made = Command::new(PROGRAM)
        .arg("--home")
        .arg(home)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(made.status.success(), "{args:?}: {made:?}");
    String::from_utf8(made.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_control_plane_signs_for_one_that_keeps_no_key() {
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    // What the installation made is not needed.
    let key = mesh.home().join("control/ca/ca-key.pem");
    std::fs::remove_file(&key).unwrap();
    let (home, at) = (mesh.path().join("signer"), mesh.spare());
    of(&home, &["install", "-q"]);
    let trusting = ["--ca-trusted-account", "signers/ra"];
    let running = signer(&home, at, &trusting).await;
    let out = mesh.path().join("shown").display().to_string();
    let account = ["identity", "issue", "-n", "signers", "--service-account"];
    of(&home, &[&account[..], &["ra", "--out", &out]].concat());
    let other = mesh.path().join("other").display().to_string();
    of(
        &home,
        &[&account[..], &["nobody", "--out", &other]].concat(),
    );
    let place = SocketAddr::new(at, 15_012).to_string();
    let flags = |shown: &str| -> Vec<String> {
        let file = |name: &str| format!("{shown}/{name}");
        [
            "--ca-signer",
            &place,
            "--ca-signer-root",
            &file("root-cert.pem"),
            "--ca-signer-cert",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([
            file("cert-chain.pem"),
            "--ca-signer-key".to_owned(),
            file("key.pem"),
        ])
        .chain([
            "--ca-signer-name".to_owned(),
            "spiffe://cluster.local/ns/meshctl-system/sa/meshctl".to_owned(),
        ])
        .collect()
    };
    // An account that the signer does not trust gets nothing for others.
    let untrusted = flags(&other);
    let untrusted: Vec<&str> = untrusted.iter().map(String::as_str).collect();
    let denied = mesh.try_run(&[&["control-plane"], &untrusted[..]].concat(), None);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(
        !denied.status.success() && said.contains("is not honoured for"),
        "{said}"
    );
    assert!(said.contains("--ca-trusted-account"), "{said}");

    let flags = flags(&out);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    mesh.start_control_plane_with(&flags).await;
    // Its certificate has the names of a control plane, for clients that go by those.
    for name in ["meshctl.meshctl-system.svc", "localhost"] {
        let said = program(
            "openssl",
            &[
                "s_client",
                "-brief",
                "-verify_return_error",
                "-CAfile",
                &format!("{out}/root-cert.pem"),
                "-verify_hostname",
                name,
                "-connect",
                &Mesh::tls().to_string(),
            ],
        );
        assert!(said.1.contains("Verification: OK"), "{name}: {}", said.1);
    }
    let tasks = Tasks::new();
    // Joiners, whose first contact goes by the fingerprint of the signer's root and by the control plane's identity.
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = |service, version, at| App {
        service,
        version,
        port: 9080,
        at,
        flags: &[],
    };
    let callee = mesh
        .sidecar(&app("reviews", "v1", backend("v1", &tasks)))
        .await;
    let caller = mesh
        .sidecar(&app("caller", "v1", backend("c", &tasks)))
        .await;
    let calling = Caller::new(caller.outbound());
    until("the first call", 20, || {
        std::net::TcpStream::connect(callee.inbound(9080))
            .is_ok()
            .then_some(())
    })
    .await;
    let works = async || {
        let (status, body) = calling.get("reviews:9080", "/").await.unwrap();
        assert_eq!(status, 200, "{body}");
    };
    works().await;
    // Both logs say so, and the serial numbers are the same.
    let log = mesh.json(&["identity", "audit"]);
    let entry = log.as_array().unwrap().iter().find(|entry| {
        entry["identity"] == "spiffe://cluster.local/ns/default/sa/reviews-account"
            && entry["serial"].is_string()
    });
    let entry = entry.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(entry["detail"], format!("signed by {place}"));
    let theirs = of(&home, &["identity", "audit", "-o", "json"]);
    assert!(
        theirs.contains(entry["serial"].as_str().unwrap()),
        "{theirs}"
    );
    assert!(
        theirs.contains("spiffe://cluster.local/ns/signers/sa/ra"),
        "{theirs}"
    );
    // No key of an authority has come to be here, and what needs one says so.
    assert!(!key.exists(), "{}", key.display());
    for (args, hint) in [
        (&["identity", "rotate-root"][..], "--ca-signer-root"),
        (&["identity", "revoke", "0a0b"], "--ca-signer-crl"),
    ] {
        let denied = mesh.try_run(args, None);
        let said = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(!denied.status.success() && said.contains(hint), "{said}");
    }

    // The signer is gone: what runs goes on, also after a start without it; new ones are told at once.
    drop(running);
    works().await;
    let issue = ["identity", "issue", "--service-account", "late"];
    let late = mesh.try_run(&issue, None);
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    assert!(
        !late.status.success() && said.contains("does not answer"),
        "{said}"
    );
    mesh.kill_control_plane();
    mesh.start_control_plane_with(&flags).await;
    works().await;
    let check = mesh.try_run(&["check"], None);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("the signer answers"), "{said}");
    assert!(!check.status.success(), "{said}");
    let _running = signer(&home, at, &trusting).await;
    until("the signer to be asked again", 30, || {
        mesh.try_run(&issue, None).status.success().then_some(())
    })
    .await;
    works().await;
    drop((caller, callee));
    tasks.end().await;
}

/// Asks the certificate service to certify the key of `csr`, for another where that is said.
async fn ask(shown: &Material, csr: &str, other: Option<&str>) -> Result<String, Status> {
    let mut client = tonic::client::Grpc::new(channel(shown).await);
    client.ready().await.unwrap();
    let text = |text: &str| Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    };
    let wish = other.map(|other| ("ImpersonatedIdentity".to_owned(), text(other)));
    let request = CertificateRequest {
        csr: csr.to_owned(),
        metadata: Some(Struct {
            fields: wish.into_iter().collect(),
        }),
        ..Default::default()
    };
    let path = CREATE_CERTIFICATE.parse().unwrap();
    let codec = tonic_prost::ProstCodec::default();
    let answer = client
        .unary(tonic::Request::new(request), path, codec)
        .await;
    let answer: CertificateResponse = answer?.into_inner();
    Ok(answer.cert_chain[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_signed_for_a_control_plane_and_its_own_alone() {
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    let trusting = ["--ca-trusted-account", "default/ra"];
    mesh.start_control_plane_with(&trusting).await;
    script(
        mesh.path(),
        "openssl ecparam -name prime256v1 -genkey -noout -out ra.key
        openssl req -new -key ra.key -subj /O=ra -out ra.csr -addext 'subjectAltName=\
URI:spiffe://cluster.local/ns/bank/sa/vault,DNS:evil.example,DNS:web.default.svc,DNS:meshctl.bank.svc,\
DNS:meshctl-a.b.default.svc,DNS:meshctl-.default.svc,DNS:xmeshctl.default.svc,DNS:*.default.svc,\
DNS:meshctl-*.default.svc,DNS:localhost,DNS:meshctl.meshctl-system.svc,DNS:istiod.istio-system.svc,\
DNS:meshctl.default.svc,DNS:meshctl-canary-1.default.svc,IP:127.0.0.1,IP:::1,IP:192.0.2.1'",
    );
    let csr = std::fs::read_to_string(mesh.path().join("ra.csr")).unwrap();
    let named = |leaf: String| -> Vec<String> {
        let file = mesh.path().join("leaf.pem");
        std::fs::write(&file, leaf).unwrap();
        let args = ["x509", "-noout", "-ext", "subjectAltName", "-in"];
        let args = [&args[..], &[file.to_str().unwrap()]].concat();
        let said = program("openssl", &args).1;
        let names = said.lines().nth(1).unwrap().split(", ");
        let mut names: Vec<_> = names.map(|name| name.trim().to_owned()).collect();
        names.sort();
        names
    };
    let (_, ra) = member(&mesh, "ra");
    let control = "spiffe://cluster.local/ns/meshctl-system/sa/meshctl";
    assert_eq!(
        named(ask(&ra, &csr, Some(control)).await.unwrap()),
        [
            "DNS:istiod.istio-system.svc",
            "DNS:localhost",
            "DNS:meshctl-canary-1.default.svc",
            "DNS:meshctl.default.svc",
            "DNS:meshctl.meshctl-system.svc",
            "IP Address:0:0:0:0:0:0:0:1",
            "IP Address:127.0.0.1",
            &format!("URI:{control}"),
        ]
    );
    // Nobody else has a name but the one that was proven.
    let cart = "spiffe://cluster.local/ns/default/sa/cart";
    let given = named(ask(&ra, &csr, Some(cart)).await.unwrap());
    assert_eq!(given, [format!("URI:{cart}")]);
    let given = named(ask(&ra, &csr, None).await.unwrap());
    assert_eq!(given, ["URI:spiffe://cluster.local/ns/default/sa/ra"]);
    let (_, other) = member(&mesh, "nobody");
    for wanted in [control, cart] {
        let refused = ask(&other, &csr, Some(wanted)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
}
