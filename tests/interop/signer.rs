//! An outside signer: another control plane signs for one that keeps no key, goes away and comes back.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use meshctl::rt::Tasks;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, STRICT, service};
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
    let tasks = Tasks::new();
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
