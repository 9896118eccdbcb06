//! A signer that misbehaves, as a Python program with grpcio and openssl beside the real executable: nothing of what it
//! must not answer gets to anybody, all of it is told to who reads the audit log, and what runs goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::{Struct, Value as Wire, value};
use futures_util::future::join_all;
use meshctl::rt::{Tasks, now};
use meshctl::xds::Kind;
use prost::Message as _;
use serde_json::Value;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::attested::{channel, member};
use crate::authority::join;
use crate::backend::{Caller, backend};
use crate::grpc::Script;
use crate::mesh::{App, Mesh, STRICT, Sidecar, program, service};
use crate::processes::installed;
use crate::stand::until;

/// Looks like a token of a cluster: three parts, each long enough to be a secret.
const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0LXNlY3JldA.c2lnbmF0dXJlLXNpZ25hdHVyZQ";

/// The signer, and a mesh whose control plane has it sign.
struct Signed {
    signer: Script,
    at: SocketAddr,
    dir: PathBuf,
    mesh: Mesh,
}

impl Signed {
    async fn start() -> Option<Self> {
        let python = installed("grpc", "bin/python")?;
        let mesh = Mesh::new();
        let dir = mesh.path().join("signer");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("token"), format!("{TOKEN}\n")).unwrap();
        let mut signer = Script::start(&python, "signer.py", dir.to_str().unwrap(), None);
        let port: u16 = signer.line().parse().unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        signer.told(&format!("token {TOKEN}"));
        let settings = [
            format!("caSigner={at}"),
            format!("caSignerRoot={}", dir.join("root.pem").display()),
            format!("caSignerToken={}", dir.join("token").display()),
            "caSignerName=signer.test".to_owned(),
        ];
        let settings = settings.iter().flat_map(|one| ["--set", one]);
        let args: Vec<&str> = ["install", "-q"].into_iter().chain(settings).collect();
        mesh.run(&args, None);
        assert!(!mesh.home().join("control/ca/ca-key.pem").exists());
        let mut signed = Self {
            signer,
            at,
            dir,
            mesh,
        };
        signed.mesh.start_control_plane().await;
        Some(signed)
    }

    fn is(&mut self, mode: &str) {
        assert_eq!(self.signer.told(mode), "ok");
    }

    fn counts(&mut self) -> Value {
        serde_json::from_str(&self.signer.told("counts")).unwrap()
    }

    /// How often it signed for `account`.
    fn signed(&mut self, account: &str) -> usize {
        let id = format!("spiffe://cluster.local/ns/default/sa/{account}");
        let counts = self.counts();
        let signed = counts["signed"].as_array().unwrap().iter();
        signed.filter(|one| **one == id.as_str()).count()
    }

    fn refused(&self) -> Vec<Value> {
        let log = self.mesh.json(&["identity", "audit"]);
        let log = log.as_array().unwrap().iter();
        log.filter(|one| one["event"].as_str().unwrap().ends_with("Refused"))
            .cloned()
            .collect()
    }

    /// Two workloads that refuse plaintext, and a caller through the first one's sidecar.
    async fn shop(&self, flags: &[&str], tasks: &Tasks) -> (Sidecar, Sidecar, Caller) {
        self.mesh.apply(&service("reviews", &[("http", 9080)]));
        self.mesh.apply(STRICT);
        let app = |service, at| App {
            service,
            version: "v1",
            port: 9080,
            at,
            flags,
        };
        let callee = app("reviews", backend("v1", tasks));
        let callee = self.mesh.sidecar(&callee).await;
        let caller = app("caller", backend("c", tasks));
        let caller = self.mesh.sidecar(&caller).await;
        let calling = Caller::new(caller.outbound());
        until("the first call", 20, || {
            std::net::TcpStream::connect(callee.inbound(9080))
                .is_ok()
                .then_some(())
        })
        .await;
        works(&calling).await;
        (callee, caller, calling)
    }

    /// A token for many joins.
    fn joiners(&self) -> String {
        let args = ["token", "create", "-q", "--service-account", "cart"];
        let token = self
            .mesh
            .run(&[&args[..], &["--uses", "500"]].concat(), None);
        token.trim().to_owned()
    }

    /// Waits until certificates are given out again.
    async fn recovers(&self, token: &str) {
        let deadline = now() + Duration::from_secs(40);
        while let Err(refused) = join(token).await {
            assert!(now() < deadline, "{refused}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Requests to the signer by what came of them, of the page of metrics.
fn requests() -> BTreeMap<String, u64> {
    let url = format!("http://{}:15014/metrics", Mesh::tls().ip());
    let (good, page) = program("curl", &["-sS", "--fail", &url]);
    assert!(good, "{page}");
    let lines = page.lines();
    let lines = lines.filter_map(|line| line.strip_prefix("meshctl_signer_requests_total{"));
    lines
        .filter_map(|line| {
            let (labels, number) = line.split_once("} ")?;
            let result = labels.split('"').nth(1)?;
            Some((result.to_owned(), number.parse().ok()?))
        })
        .collect()
}

async fn works(calling: &Caller) {
    let (status, body) = calling.get("reviews:9080", "/").await.unwrap();
    assert_eq!(status, 200, "{body}");
}

/// What the signer does, what it is counted as, and a word of the reason in the audit log.
const MISDEEDS: &[(&str, &str, &str)] = &[
    ("other-key", "unfit", "for another key"),
    ("other-identity", "unfit", "sa/somebody-else"),
    ("control-plane", "unfit", "sa/meshctl"),
    ("no-identity", "unfit", "signer.test"),
    ("twice", "unfit", "more than once"),
    ("extra-uri", "unfit", "sa/somebody-else"),
    ("extra-dns", "unfit", "meshctl.meshctl-system.svc"),
    ("extra-ip", "unfit", "was asked for"),
    ("ca", "unfit", "an authority's"),
    ("may-sign", "unfit", "lets it sign certificates"),
    ("any-purpose", "unfit", "other purposes than TLS"),
    ("server-only", "unfit", "not for servers and clients both"),
    ("expired", "unfit", "which is not now"),
    ("not-yet", "unfit", "which is not now"),
    ("too-long", "unfit", "longer than was asked"),
    ("empty", "unfit", "has no certificate"),
    ("garbage", "unfit", "cannot be read"),
    ("no-pem", "unfit", ""),
    ("foreign", "unfit", "does not lead to a root"),
    ("another-first", "unfit", "for another key"),
    ("many", "unfit", "more than 10 certificates"),
    ("huge", "refused", "65536"),
    ("unauthenticated", "refused", "is unknown"),
    ("exhausted", "away", "too many requests"),
    ("crash", "away", "a bug of the signer"),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_signer_must_not_answer_gets_to_anybody() {
    let Some(mut signed) = Signed::start().await else {
        return;
    };
    let tasks = Tasks::new();
    let shop = signed.shop(&[], &tasks).await;
    let token = signed.joiners();
    let told_at = signed.at.port().to_string();
    let issue = ["identity", "issue", "--service-account", "late"];
    for (mode, counted, why) in MISDEEDS {
        let (before, told) = (requests(), signed.refused().len());
        signed.is(mode);
        let refused = join(&token).await.unwrap_err();
        let code = match *counted {
            "away" => Code::Unavailable,
            _ => Code::Internal,
        };
        assert_eq!(refused.code(), code, "{mode}: {refused}");
        // Callers are told nothing of the signer.
        let message = refused.message();
        assert!(
            !message.contains(&told_at) && (why.is_empty() || !message.contains(why)),
            "{mode}: {message}"
        );
        let operator = signed.mesh.try_run(&issue, None);
        let said = String::from_utf8_lossy(&operator.stderr).into_owned();
        assert!(
            !operator.status.success() && said.contains(why),
            "{mode}: {said}"
        );
        assert!(operator.stdout.is_empty(), "{mode}: {operator:?}");
        // Refused things are written without being waited for.
        until("the audit log", 20, || {
            (signed.refused().len() >= told + 2).then_some(())
        })
        .await;
        for entry in &signed.refused()[told..] {
            let detail = entry["detail"].as_str().unwrap();
            assert!(detail.contains(why), "{mode}: {entry}");
            assert!(detail.contains(&told_at), "{mode}: {entry}");
            assert!(!detail.contains(char::is_control), "{mode}: {entry}");
        }
        let after = requests();
        let number = |all: &BTreeMap<String, u64>| all.get(*counted).copied().unwrap_or(0);
        assert!(
            number(&after) >= number(&before) + 2,
            "{mode}: {before:?}, then {after:?}"
        );
        assert_eq!(after["issued"], before["issued"], "{mode}");
        works(&shop.2).await;
        if *counted == "away" {
            signed.is("good");
            signed.recovers(&token).await;
        }
    }

    // A control plane that starts meanwhile serves with what it has, and the workloads with what they have.
    signed.is("other-identity");
    signed.mesh.kill_control_plane();
    signed.mesh.start_control_plane().await;
    assert_eq!(join(&token).await.unwrap_err().code(), Code::Internal);
    works(&shop.2).await;
    signed.is("good");
    signed.recovers(&token).await;
    works(&shop.2).await;

    // What it was shown is nowhere, though it said it back.
    let log = signed.mesh.json(&["identity", "audit"]).to_string();
    let home = signed.mesh.home().display().to_string();
    for part in TOKEN.split('.') {
        assert!(!log.contains(part), "{log}");
        assert!(!signed.mesh.said("control-plane").contains(part));
        let (found, said) = program("grep", &["-r", "-l", part, &home]);
        assert!(!found, "{said}");
    }
    drop(shop);
    tasks.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_through_a_signer_whose_token_changes() {
    let Some(mut signed) = Signed::start().await else {
        return;
    };
    let tasks = Tasks::new();
    let shop = signed.shop(&["--certificate-ttl", "12s"], &tasks).await;
    let (began, mut calls) = (now(), 0);
    let renewed = async |signed: &mut Signed, times: usize, calls: &mut usize| loop {
        works(&shop.2).await;
        *calls += 1;
        let all = ["reviews-account", "caller-account"].map(|account| signed.signed(account));
        tokio::time::sleep(Duration::from_millis(20)).await;
        if all.iter().all(|count| *count >= times) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{all:?}");
    };
    renewed(&mut signed, 2, &mut calls).await;
    // Another token from now on: what is shown next is what is in the file next.
    let next = TOKEN.replace("c2VjcmV0", "bmV4dHNl");
    signed.is(&format!("token {next}"));
    let token = signed.joiners();
    assert_eq!(join(&token).await.unwrap_err().code(), Code::Internal);
    std::fs::write(signed.dir.join("token"), &next).unwrap();
    signed.recovers(&token).await;
    renewed(&mut signed, 4, &mut calls).await;
    // Until more than two lives have passed, nobody is without a good one.
    while began.elapsed() < Duration::from_secs(26) {
        renewed(&mut signed, 4, &mut calls).await;
    }
    assert!(calls > 100, "{calls}");
    let log = signed.mesh.json(&["identity", "audit"]);
    let log = log.as_array().unwrap().iter();
    let id = "spiffe://cluster.local/ns/default/sa/reviews-account";
    let by_certificate = log.filter(|one| {
        one["event"] == "certificateIssued"
            && one["by"] == id
            && one["detail"] == format!("signed by {}", signed.at)
    });
    assert!(by_certificate.count() >= 3);
    drop(shop);
    tasks.end().await;
}

/// A signer that takes calls and answers none keeps nobody waiting for more than one call's time.
#[tokio::test(flavor = "multi_thread")]
async fn many_callers_are_told_at_once_while_the_signer_is_away() {
    let Some(mut signed) = Signed::start().await else {
        return;
    };
    let tasks = Tasks::new();
    let shop = signed.shop(&[], &tasks).await;
    let token = signed.joiners();
    signed.is("silent");
    let asked = |signed: &mut Signed| signed.counts()["asked"].as_u64().unwrap();
    let before = asked(&mut signed);
    let storm = async |callers: usize| -> Vec<Duration> {
        let one = async || {
            let began = now();
            let refused = join(&token).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unavailable, "{refused}");
            began.elapsed()
        };
        join_all((0..callers).map(|_| one())).await
    };
    // A call has 8 s, waiting for a place included: 60 callers and 16 places are no queue.
    let took = storm(60).await;
    assert!(
        took.iter().all(|took| *took < Duration::from_secs(14)),
        "{took:?}"
    );
    assert!(asked(&mut signed) - before <= 16, "one for each place");
    // From now on one looks whether it is back, and the others are told.
    let before = asked(&mut signed);
    let mut took = storm(60).await;
    took.sort();
    assert!(took[50] < Duration::from_secs(4), "{took:?}");
    assert!(
        asked(&mut signed) - before <= 4,
        "those who look are few: {took:?}"
    );
    works(&shop.2).await;
    let check = signed.mesh.try_run(&["check"], None);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(said.contains("the signer answers"), "{said}");
    signed.is("good");
    signed.recovers(&token).await;
    drop(shop);
    tasks.end().await;
}

/// A client of Envoy's kind, which asks for its certificate and key by SDS.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_come_through_the_signer_and_refusals_are_asked_again_ever_later() {
    let Some(mut signed) = Signed::start().await else {
        return;
    };
    let (_, shown) = member(&signed.mesh, "edge");
    let once = signed.signed("edge");
    signed.is("other-identity");
    let mut client = AggregatedDiscoveryServiceClient::new(channel(&shown).await);
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    let text = |text: &str| Wire {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    };
    let metadata = [("NAMESPACE", "default"), ("SERVICE_ACCOUNT", "edge")];
    let first = DeltaDiscoveryRequest {
        node: Some(Node {
            id: "sidecar~192.0.2.9~edge-1.default~default.svc.cluster.local".to_owned(),
            metadata: Some(Struct {
                fields: metadata
                    .map(|(key, of)| (key.to_owned(), text(of)))
                    .into_iter()
                    .collect(),
            }),
            user_agent_name: "envoy".to_owned(),
            ..Node::default()
        }),
        type_url: Kind::Secret.type_url().to_owned(),
        resource_names_subscribe: vec!["default".to_owned(), "ROOTCA".to_owned()],
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let opened = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
    let mut answers = opened.await.unwrap().into_inner();
    // Asked in the first five seconds: at 0, 1, 3 or so, and not every second.
    let refusals = |signed: &Signed| {
        let refused = signed.refused();
        let of_edge = refused.iter().filter(|one| {
            let by = one["identity"].as_str().unwrap_or_default();
            by.ends_with("/sa/edge") && one["detail"].as_str().unwrap().contains("somebody-else")
        });
        of_edge.count()
    };
    let begin = now();
    until("three refusals", 30, || {
        (refusals(&signed) >= 3).then_some(())
    })
    .await;
    let third = begin.elapsed();
    until("a fourth", 30, || (refusals(&signed) >= 4).then_some(())).await;
    // The fourth comes at least two seconds after the third, as each looks are a second apart.
    assert!(begin.elapsed() > third + Duration::from_millis(1_500));
    // What the signer is shown changes: that may have been why, so nobody waits any longer.
    signed.is("good");
    std::fs::write(signed.dir.join("token"), TOKEN).unwrap();
    let changed = now();
    // What was said before is that there is nothing.
    let mut said = Vec::new();
    let pair = loop {
        let answer = answers.message().await.unwrap().unwrap();
        said.push(changed.elapsed());
        requests
            .send(DeltaDiscoveryRequest {
                type_url: answer.type_url.clone(),
                response_nonce: answer.nonce.clone(),
                ..Default::default()
            })
            .await
            .unwrap();
        let pair = answer
            .resources
            .into_iter()
            .find(|one| one.name == "default");
        if let Some(pair) = pair {
            break pair.resource.unwrap();
        }
    };
    assert!(changed.elapsed() < Duration::from_secs(10), "{said:?}");
    // The first good one after the refusals is what came.
    assert_eq!(signed.signed("edge"), once + 1 + refusals(&signed));
    let pair = Secret::decode(pair.value.as_slice()).unwrap();
    let Some(secret::Type::TlsCertificate(pair)) = pair.r#type else {
        panic!("{:?}", pair.name);
    };
    let bytes = |source: Option<envoy_types::pb::envoy::config::core::v3::DataSource>| {
        use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
        match source.unwrap().specifier.unwrap() {
            Specifier::InlineBytes(bytes) => bytes,
            Specifier::InlineString(text) => text.into_bytes(),
            other => panic!("{other:?}"),
        }
    };
    let file = |name: &str| signed.dir.join(name).display().to_string();
    std::fs::write(file("sds.pem"), bytes(pair.certificate_chain)).unwrap();
    std::fs::write(file("sds.key"), bytes(pair.private_key)).unwrap();
    let (good, said) = program(
        "openssl",
        &["verify", "-CAfile", &file("root.pem"), &file("sds.pem")],
    );
    assert!(good, "{said}");
    let shown = |args: &[&str]| program("openssl", args).1;
    let names = [
        "x509",
        "-in",
        &file("sds.pem"),
        "-noout",
        "-ext",
        "subjectAltName",
    ];
    let names = shown(&names);
    assert!(
        names.contains("URI:spiffe://cluster.local/ns/default/sa/edge"),
        "{names}"
    );
    let of_certificate = shown(&["x509", "-in", &file("sds.pem"), "-noout", "-pubkey"]);
    let of_key = shown(&["pkey", "-in", &file("sds.key"), "-pubout"]);
    assert_eq!(of_certificate, of_key);
}
