//! Which authority signs: every kind of key, one that is plugged in below a root of somebody else, and keys under
//! a passphrase, as openssl makes and judges them. And join tokens over a crash.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use hyper_util::rt::TokioIo;
use meshctl::mesh::SpiffeId;
use meshctl::proxy::control_link::{Caller, connect_control};
use meshctl::rt::Tasks;
use meshctl::tls::ca_api::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use meshctl::tls::{JoinToken, Pin, Request, control_plane_id};
use tonic::{Code, Status};

use crate::backend::{Caller as Calling, backend};
use crate::mesh::{App, Mesh, STRICT, program, service};
use crate::stand::until;

/// A script of openssl in `dir`, which must succeed.
pub(crate) fn script(dir: &Path, text: &str) {
    let text = format!("set -e; cd {}; {text}", dir.display());
    let made = Command::new("sh").args(["-c", &text]).output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Has a certificate made, and openssl verify it against the root alone. Where its files are.
fn issued(mesh: &Mesh, account: &str) -> std::path::PathBuf {
    let out = mesh.path().join(format!("issued-{account}"));
    let to = out.display().to_string();
    let args = [
        "identity",
        "issue",
        "--service-account",
        account,
        "--out",
        &to,
    ];
    mesh.run(&args, None);
    let at = |name: &str| out.join(name).display().to_string();
    let (root, chain) = (at("root-cert.pem"), at("cert-chain.pem"));
    let args = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-CAfile",
        &root,
        "-untrusted",
        &chain,
        &chain,
    ];
    let (good, said) = program("openssl", &args);
    assert!(good, "{said}");
    out
}

/// What openssl sees at the control plane's port under `root`.
fn greeted(root: &Path) -> String {
    let (root, at) = (root.display().to_string(), Mesh::tls().to_string());
    let args = [
        "s_client",
        "-brief",
        "-verify_return_error",
        "-CAfile",
        &root,
        "-connect",
        &at,
    ];
    program("openssl", &args).1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_key_signs_what_openssl_believes() {
    let (name, kind) = ("ecdsa-p256", "id-ecPublicKey");
    let all = [
        (name, kind),
        ("ecdsa-p384", "secp384r1"),
        ("rsa2048", "(2048 bit)"),
        ("rsa4096", "(4096 bit)"),
        ("ed25519", "ED25519"),
    ];
    for (name, shown) in all {
        let mut mesh = Mesh::new();
        mesh.run(
            &["install", "-q", "--set", &format!("caKeyType={name}")],
            None,
        );
        mesh.start_control_plane().await;
        let root = issued(&mesh, "ops").join("root-cert.pem");
        let text = ["x509", "-in", root.to_str().unwrap(), "-noout", "-text"];
        let text = program("openssl", &text).1;
        assert!(text.contains(shown), "{name}: {text}");
        assert!(text.contains("CA:TRUE"), "{text}");
        let said = greeted(&root);
        assert!(said.contains("Verification: OK"), "{name}: {said}");
    }
    // What is asked for later is for the next root.
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    mesh.start_control_plane_with(&["--ca-key-type", "rsa2048"])
        .await;
    mesh.run(&["identity", "rotate-root"], None);
    let root = issued(&mesh, "ops").join("root-cert.pem");
    let text = ["x509", "-in", root.to_str().unwrap(), "-noout", "-text"];
    assert!(program("openssl", &text).1.contains("(2048 bit)"));
}

/// `NAME.key` and `NAME.pem` for authorities: `root`, and `one` and `two` below it.
pub(crate) const AUTHORITIES: &str = r#"
root() { openssl ecparam -name secp384r1 -genkey -noout -out $1.key
  openssl req -x509 -new -key $1.key -subj /O=elsewhere/CN=$1 -days 9 -out $1.pem \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign; }
below() { openssl req -new -key $1.key -subj /O=elsewhere/CN=$1 -out $1.csr
  printf "basicConstraints=critical,CA:$3\nkeyUsage=critical,$4\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n" > $1.ext
  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 8 -extfile $1.ext -out $1.pem; }
put() { mkdir -p cacerts; cp $1.pem cacerts/ca-cert.pem; cp $1.key cacerts/ca-key.pem
  cat $1.pem $2 > cacerts/cert-chain.pem; cat $3 > cacerts/root-cert.pem; }
"#;

/// Runs a control plane that is to end by itself.
fn refused(mesh: &Mesh, flags: &[&str]) -> String {
    let Output { status, stderr, .. } = mesh.try_run(&[&["control-plane"], flags].concat(), None);
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_below_another_root_is_plugged_in_and_followed() {
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    let dir = mesh.path().to_owned();
    let run = |text: &str| script(&dir, &format!("{AUTHORITIES}{text}"));
    let certs = dir.join("cacerts").display().to_string();
    let flags = ["--ca-certs", &certs];
    // What does not fit is told at the start.
    run("root root; root other; openssl ecparam -name prime256v1 -genkey -noout -out one.key
        openssl genrsa -traditional -out two.key 2048; openssl ecparam -name prime256v1 -genkey -noout -out leaf.key
        below one root TRUE,pathlen:0 keyCertSign,cRLSign; put one /dev/null root.pem; cp two.key cacerts/ca-key.pem");
    assert!(refused(&mesh, &flags).contains("the private key belongs to another one"));
    run("put one /dev/null other.pem");
    let said = refused(&mesh, &flags);
    assert!(
        said.contains(
            "cert-chain.pem does not lead from ca-cert.pem to a certificate of root-cert.pem"
        ),
        "{said}"
    );
    run("below leaf root FALSE digitalSignature; put leaf /dev/null root.pem");
    assert!(refused(&mesh, &flags).contains("it is not a CA certificate"));
    run("below leaf root TRUE cRLSign; put leaf /dev/null root.pem");
    assert!(refused(&mesh, &flags).contains("does not allow it to sign certificates"));
    run("below leaf one TRUE keyCertSign,cRLSign; put leaf one.pem root.pem");
    let said = refused(&mesh, &flags);
    assert!(
        said.contains("what it issues is not believed under root-cert.pem"),
        "{said}"
    );

    // The key of the first is SEC 1, that of the second PKCS #1; the second stands two below the root.
    run("openssl pkcs8 -topk8 -nocrypt -in other.key -out middle.key; put one /dev/null root.pem");
    mesh.start_control_plane_with(&flags).await;
    let first = issued(&mesh, "ops");
    assert!(greeted(&dir.join("root.pem")).contains("Verification: OK"));
    let chain = std::fs::read_to_string(first.join("cert-chain.pem")).unwrap();
    assert_eq!(
        chain.matches("BEGIN CERTIFICATE").count(),
        2,
        "the leaf and what signed it"
    );
    let denied = mesh.try_run(&["identity", "rotate-root"], None);
    let denied = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(denied.contains("its root is not replaced here"), "{denied}");

    // Traffic goes on while another authority, then another root takes over.
    let tasks = Tasks::new();
    mesh.apply(&service("reviews", &[("http", 9080)]));
    mesh.apply(STRICT);
    let app = App {
        service: "reviews",
        version: "v1",
        port: 9080,
        at: backend("v1", &tasks),
        flags: &[],
    };
    let callee = mesh.sidecar(&app).await;
    let app = App {
        service: "caller",
        version: "v1",
        port: 9080,
        at: backend("c", &tasks),
        flags: &[],
    };
    let caller = mesh.sidecar(&app).await;
    let calling = Calling::new(caller.outbound());
    let works = async || {
        let (status, body) = calling.get("reviews:9080", "/").await.unwrap();
        assert_eq!(status, 200, "{body}");
    };
    until("the first call", 20, || {
        std::net::TcpStream::connect(callee.inbound(9080))
            .is_ok()
            .then_some(())
    })
    .await;
    works().await;
    run("root next; below middle next TRUE keyCertSign,cRLSign; below two middle TRUE keyCertSign,cRLSign
        cp one.pem a; put one /dev/null 'root.pem next.pem'");
    let fingerprints = || {
        mesh.json(&["identity", "rotate-root", "--status"])["roots"]
            .as_array()
            .unwrap()
            .len()
    };
    until("both roots to be believed", 20, || {
        (fingerprints() == 2).then_some(())
    })
    .await;
    works().await;
    run("put two middle.pem 'root.pem next.pem'");
    until("the next authority to sign", 20, || {
        let args = ["identity", "issue", "--service-account", "late"];
        let chain = mesh.json(&args)["chainPem"].as_str().unwrap().to_owned();
        (chain.matches("BEGIN CERTIFICATE").count() == 3).then_some(())
    })
    .await;
    issued(&mesh, "below");
    let said = greeted(&dir.join("next.pem"));
    assert!(said.contains("Verification: OK"), "{said}");
    works().await;
    // Half of it, or rubbish, changes nothing.
    run("echo nonsense > cacerts/ca-cert.pem");
    until("a word of it in the log", 20, || {
        mesh.said("control-plane")
            .contains("is not taken; the last good one signs")
            .then_some(())
    })
    .await;
    issued(&mesh, "after");
    works().await;
    let log = mesh.json(&["identity", "audit"]).to_string();
    assert!(log.contains("another authority was plugged in"), "{log}");
    drop((caller, callee));
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_under_a_passphrase_open_with_it_alone() {
    let mut mesh = Mesh::new();
    let dir = mesh.path().to_owned();
    std::fs::write(dir.join("phrase"), "correct horse\n").unwrap();
    std::fs::write(dir.join("wrong"), "battery staple\n").unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let set = format!("caPassphraseFile={}", file("phrase"));
    mesh.run(&["install", "-q", "--set", &set], None);
    let key = mesh.home().join("control/ca/ca-key.pem");
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(
        text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
        "{text}"
    );
    let pass = format!("file:{}", file("phrase"));
    let args = [
        "pkey",
        "-in",
        key.to_str().unwrap(),
        "-passin",
        &pass,
        "-noout",
        "-check",
    ];
    let (good, said) = program("openssl", &args);
    assert!(good && said.contains("Key is valid"), "{said}");
    let said = refused(&mesh, &["--ca-passphrase-file", &file("wrong")]);
    assert!(
        said.contains("the passphrase is not the one that it was sealed with"),
        "{said}"
    );
    mesh.start_control_plane().await;
    issued(&mesh, "ops");
    mesh.run(&["identity", "rotate-root"], None);
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(
        text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
        "the next root's too"
    );
    mesh.kill_control_plane();

    // One that openssl made and sealed; and in the environment instead of a file.
    script(&dir, &format!("{AUTHORITIES} root root; openssl ecparam -name prime256v1 -genkey -noout -out one.key
        below one root TRUE keyCertSign,cRLSign; put one /dev/null root.pem
        openssl pkcs8 -topk8 -v2 aes-256-cbc -in one.key -passout file:phrase -out cacerts/ca-key.pem"));
    let certs = file("cacerts");
    let said = refused(
        &mesh,
        &["--ca-certs", &certs, "--ca-passphrase-file", &file("wrong")],
    );
    assert!(
        said.contains("ca-key.pem") && said.contains("passphrase"),
        "{said}"
    );
    mesh.start_control_plane_with(&["--ca-certs", &certs]).await;
    issued(&mesh, "plugged");
    mesh.kill_control_plane();
    let plain = Mesh::new();
    plain.run(&["install", "-q"], None);
    let key = plain.home().join("control/ca/ca-key.pem");
    assert!(
        std::fs::read_to_string(&key)
            .unwrap()
            .starts_with("-----BEGIN PRIVATE KEY")
    );
    let again = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .arg("--home")
        .arg(plain.home())
        .args(["install", "-q"])
        .env("MESHCTL_CA_PASSPHRASE", "correct horse")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(again.status.success(), "{again:?}");
    assert!(
        std::fs::read_to_string(&key).unwrap().contains("ENCRYPTED"),
        "it is sealed from then on"
    );
    let said = refused(&plain, &[]);
    assert!(
        said.contains("--ca-passphrase-file or MESHCTL_CA_PASSPHRASE"),
        "{said}"
    );
}

/// Shows a join token to the certificate service, with a new key.
pub(crate) async fn join(token: &str) -> Result<CertificateResponse, Status> {
    let parsed: JoinToken = token.parse().unwrap();
    let pin = Pin::Fingerprint(parsed.root.unwrap());
    let server = control_plane_id("cluster.local");
    // Whatever a kill leaves of a connection is no certificate.
    let cut = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
    let stream = connect_control(Mesh::tls(), &server, Caller::Newcomer(&pin)).await;
    let mut io = Some(TokioIo::new(stream.map_err(|error| cut(&error))?));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.take();
        async move { io.ok_or_else(|| std::io::Error::other("used up")) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control-plane");
    let channel = endpoint.connect_with_connector(connector).await;
    let mut client = tonic::client::Grpc::new(channel.map_err(|error| cut(&error))?);
    client.ready().await.map_err(|error| cut(&error))?;
    let own = Request::new(&SpiffeId::new("cluster.local", "default", "cart")).unwrap();
    let mut request = tonic::Request::new(CertificateRequest {
        csr: own.pem().to_owned(),
        ..Default::default()
    });
    let shown = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", shown);
    let codec = tonic_prost::ProstCodec::default();
    let answer = client
        .unary(request, CREATE_CERTIFICATE.parse().unwrap(), codec)
        .await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_counted_use_of_a_token_is_given_out_once_over_crashes() {
    let mut mesh = Mesh::start().await;
    let made = mesh.json(&[
        "token",
        "create",
        "--service-account",
        "cart",
        "--uses",
        "4",
    ]);
    let (token, id) = (
        made["token"].as_str().unwrap(),
        made["id"].as_str().unwrap(),
    );
    let secret = token.split('_').nth(2).unwrap();
    let mut given = 0;
    for round in 0..5 {
        // Killed while joins are under way: what nobody was told of may be lost, but is never given twice.
        let kill = async {
            // Not waited for: the point is to hit another moment of the joins each time.
            tokio::time::sleep(std::time::Duration::from_millis(7 * round)).await;
            mesh.kill_control_plane();
        };
        let (one, other, ()) = tokio::join!(join(token), join(token), kill);
        given += usize::from(one.is_ok()) + usize::from(other.is_ok());
        mesh.start_control_plane().await;
        let listed = mesh.json(&["token", "list"]);
        let entry = &listed[0];
        assert!(!listed.to_string().contains(secret), "no secret is listed");
        let number = |key: &str| usize::try_from(entry[key].as_u64().unwrap()).unwrap();
        let used = number("used");
        assert_eq!(number("usesLeft"), 4 - used, "{entry}");
        assert!(given <= used, "{given} of {used} in round {round}");
    }
    while join(token).await.is_ok() {
        given += 1;
    }
    assert!(given <= 4, "{given} certificates of four uses");
    assert_eq!(mesh.json(&["token", "list"])[0]["state"], "spent");
    let refused = join(token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Every certificate that anybody was given is in the log, which outlived it all.
    let log = mesh.json(&["identity", "audit"]);
    let log = log.as_array().unwrap();
    let count = |event: &str| {
        log.iter()
            .filter(|one| one["event"] == event && one["token"] == id)
            .count()
    };
    assert!(count("certificateIssued") >= given, "{log:?}");
    assert!(
        count("tokenRefused") >= 1 && count("tokenCreated") == 1,
        "{log:?}"
    );
    assert!(!serde_json::to_string(&log).unwrap().contains(secret));
    // And nothing on the disk holds the secret.
    let home = mesh.home().display().to_string();
    let (found, said) = program("grep", &["-r", "-l", secret, &home]);
    assert!(!found, "{said}");

    let other = mesh.json(&["token", "create", "--service-account", "cart"]);
    mesh.run(&["token", "revoke", other["id"].as_str().unwrap()], None);
    let refused = join(other["token"].as_str().unwrap()).await.unwrap_err();
    assert!(refused.message().contains("not known here"), "{refused}");
    let twice = mesh.try_run(&["token", "revoke", other["id"].as_str().unwrap()], None);
    assert_eq!(twice.status.code(), Some(1));
}
