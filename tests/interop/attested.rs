//! A member of the mesh with a good certificate that claims what the certificate does not say: by raw xDS, by
//! curl and by gRPC to the control plane of the real executable. Each is refused by name, and gets nothing.

use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::envoy::service::metrics::v3::metrics_service_client::MetricsServiceClient;
use envoy_types::pb::envoy::service::metrics::v3::{
    StreamMetricsMessage, stream_metrics_message::Identifier,
};
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use hyper_util::rt::TokioIo;
use meshctl::proxy::control_link::{Caller, connect_control};
use meshctl::tls::ca_api::{CREATE_CERTIFICATE, CertificateRequest, CertificateResponse};
use meshctl::tls::material::Pems;
use meshctl::tls::{Material, control_plane_id};
use meshctl::xds::Kind;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::gateway::{certificates, secret};
use crate::mesh::{Mesh, program, service};
use crate::stand::until;

const CART: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
spec:
  replicas: 0
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec: {serviceAccountName: cart, containers: [{name: c, image: c}]}
";

const EDGE: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 8443, name: s, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: pair}}]
";

/// A certificate of the mesh for `account`, as an operator gives it to a program.
pub(crate) fn member(mesh: &Mesh, account: &str) -> (PathBuf, Material) {
    let out = mesh.path().join(format!("member-{account}"));
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
    let text = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let pems = Pems {
        chain: text("cert-chain.pem"),
        key: text("key.pem"),
        roots: text("root-cert.pem"),
    };
    let material = Material::from_pems(&pems).unwrap();
    (out, material)
}

pub(crate) async fn channel(material: &Material) -> Channel {
    let server = control_plane_id("cluster.local");
    let stream = connect_control(Mesh::tls(), &server, Caller::Member(material)).await;
    let mut io = Some(TokioIo::new(stream.unwrap()));
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.take();
        async move { io.ok_or_else(|| std::io::Error::other("used up")) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control-plane");
    endpoint.connect_with_connector(connector).await.unwrap()
}

fn texts(pairs: &[(&str, &str)]) -> Struct {
    let text = |text: &str| Value {
        kind: Some(value::Kind::StringValue(text.to_owned())),
    };
    Struct {
        fields: pairs
            .iter()
            .map(|(key, of)| ((*key).to_owned(), text(of)))
            .collect(),
    }
}

/// What a liar says of itself.
#[derive(Clone, Copy)]
struct Says<'a> {
    id: &'a str,
    metadata: &'a [(&'a str, &'a str)],
    labels: &'a [(&'a str, &'a str)],
}

impl Says<'_> {
    fn node(self) -> Node {
        let mut metadata = texts(self.metadata);
        let labels = Value {
            kind: Some(value::Kind::StructValue(texts(self.labels))),
        };
        metadata.fields.insert("LABELS".to_owned(), labels);
        Node {
            id: self.id.to_owned(),
            metadata: Some(metadata),
            user_agent_name: "meshctl".to_owned(),
            ..Node::default()
        }
    }
}

/// What comes first on a stream that asks for Secrets: names of resources, or why there are none.
async fn asks(material: &Material, says: Says<'_>, delta: bool) -> Result<Vec<String>, Status> {
    let mut client = AggregatedDiscoveryServiceClient::new(channel(material).await);
    let url = Kind::Secret.type_url().to_owned();
    if delta {
        let (requests, outgoing) = tokio::sync::mpsc::channel(1);
        let first = DeltaDiscoveryRequest {
            node: Some(says.node()),
            type_url: url,
            resource_names_subscribe: vec!["*".to_owned()],
            ..Default::default()
        };
        requests.send(first).await.unwrap();
        let outgoing = ReceiverStream::new(outgoing);
        let answers = client.delta_aggregated_resources(outgoing).await?;
        let answer = answers.into_inner().message().await?.unwrap();
        drop(requests);
        return Ok(answer.resources.into_iter().map(|one| one.name).collect());
    }
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let first = DiscoveryRequest {
        node: Some(says.node()),
        type_url: Kind::Listener.type_url().to_owned(),
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let outgoing = ReceiverStream::new(outgoing);
    let answers = client.stream_aggregated_resources(outgoing).await?;
    let answer = answers.into_inner().message().await?.unwrap();
    drop(requests);
    Ok(answer
        .resources
        .into_iter()
        .map(|one| one.type_url)
        .collect())
}

fn mesh_with_cart(mesh: &Mesh) {
    mesh.apply(&service("cart", &[("http", 9080)]));
    mesh.apply(CART);
    let register = [
        "register",
        "cart-1",
        "--service",
        "cart",
        "--service-account",
        "cart",
        "--address",
        "192.0.2.7",
        "--port",
        "9080",
    ];
    mesh.run(&register, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn xds_of_another_is_refused_by_name() {
    let mesh = Mesh::start().await;
    mesh_with_cart(&mesh);
    certificates(mesh.path(), &["edge.example.com"]);
    mesh.apply(&secret(mesh.path(), "pair", "edge.example.com"));
    let (_, thief) = member(&mesh, "thief");
    let own = "sidecar~192.0.2.9~thief-1.default~default.svc.cluster.local";
    let router = "router~192.0.2.9~thief-1.default~default.svc.cluster.local";
    let base: &[(&str, &str)] = &[("NAMESPACE", "default"), ("SERVICE_ACCOUNT", "thief")];
    let says = Says {
        id: own,
        metadata: base,
        labels: &[],
    };
    for delta in [true, false] {
        let honest = asks(&thief, says, delta).await.unwrap();
        assert!(
            !honest.iter().any(|name| name.contains("pair")),
            "{honest:?}"
        );
        let lies: &[(Says<'_>, &str)] = &[
            (
                Says {
                    metadata: &[("NAMESPACE", "bank")],
                    ..says
                },
                "its certificate says spiffe://cluster.local/ns/default/sa/thief",
            ),
            (
                Says {
                    metadata: &[("NAMESPACE", "default"), ("SERVICE_ACCOUNT", "cart")],
                    ..says
                },
                "claims default/cart but its certificate says",
            ),
            (
                Says {
                    id: "sidecar~192.0.2.9~cart-1.bank~bank.svc.cluster.local",
                    ..says
                },
                "its certificate says spiffe://cluster.local/ns/default/sa/thief",
            ),
            (
                Says {
                    id: "sidecar~192.0.2.7~cart-1.default~default.svc.cluster.local",
                    ..says
                },
                "instance cart-1.default is of account cart, not of thief",
            ),
            (
                Says {
                    metadata: &[("NAMESPACE", "default"), ("NAME", "cart-1")],
                    ..says
                },
                "instance cart-1.default is of account cart, not of thief",
            ),
            (
                Says {
                    labels: &[("app", "cart")],
                    ..says
                },
                "service cart.default is run by account cart, not by thief",
            ),
        ];
        for (lie, why) in lies {
            let refused = asks(&thief, *lie, delta).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            assert!(refused.message().contains(why), "{refused}");
        }
    }
    // A gateway of nothing is let in without Secrets; once there is a Gateway that its labels claim, out it goes.
    let claims = Says {
        id: router,
        labels: &[("istio", "edge")],
        ..says
    };
    let early = asks(&thief, claims, true).await.unwrap();
    assert!(!early.iter().any(|name| name.contains("pair")), "{early:?}");
    let mut client = AggregatedDiscoveryServiceClient::new(channel(&thief).await);
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let first = DeltaDiscoveryRequest {
        node: Some(claims.node()),
        type_url: Kind::Secret.type_url().to_owned(),
        ..Default::default()
    };
    requests.send(first).await.unwrap();
    let opened = client.delta_aggregated_resources(ReceiverStream::new(outgoing));
    let mut open = opened.await.unwrap().into_inner();
    mesh.apply(EDGE);
    let ended = loop {
        match open.message().await {
            Ok(Some(answer)) => {
                assert!(!answer.resources.iter().any(|one| one.name.contains("pair")));
            }
            ended => break ended,
        }
    };
    let ended = ended.unwrap_err();
    assert!(
        ended.message().contains("claims Gateway edge.default"),
        "{ended}"
    );
    for delta in [true, false] {
        let refused = asks(&thief, claims, delta).await.unwrap_err();
        assert!(
            refused
                .message()
                .contains("nothing says that account thief serves it"),
            "{refused}"
        );
        assert!(
            refused
                .message()
                .contains("token create --namespace default --gateway edge"),
            "{refused}"
        );
    }
    let said = mesh.said("control-plane");
    assert!(said.contains("claims Gateway edge.default"), "{said}");

    // Who joins with a token for it is served, until that is taken back.
    let (gateway, at) = mesh.gateway("edge", &[8443]).await;
    let url = format!("https://{at}:8443/");
    let args = ["-sko", "/dev/null", "-w", "%{http_code}", &url];
    until("the gateway to speak TLS", 20, || {
        (program("curl", &args).1 == "404").then_some(())
    })
    .await;
    let tokens = mesh.json(&["token", "list"]);
    let token = tokens
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["gateway"] == "edge")
        .unwrap();
    assert_eq!(token["state"], "spent", "{tokens}");
    mesh.run(&["token", "revoke", token["id"].as_str().unwrap()], None);
    until("the gateway to be shut out", 20, || {
        let proxies = mesh.json(&["proxies"]);
        let listed = proxies
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == "edge");
        (!listed).then_some(())
    })
    .await;
    drop(gateway);
}

/// What curl gets of the registry: status and body.
fn registry(dir: &Path, method: &str, path: &str, body: &str) -> String {
    let at = Mesh::tls();
    let file = |name: &str| dir.join(name).display().to_string();
    let connect = format!("localhost:15012:{at}");
    let url = format!("https://localhost:15012/api/v1/registry/instances{path}");
    program(
        "curl",
        &[
            "-s",
            "--http2",
            "-X",
            method,
            "--connect-to",
            &connect,
            "--cacert",
            &file("root-cert.pem"),
            "--cert",
            &file("cert-chain.pem"),
            "--key",
            &file("key.pem"),
            "-H",
            "content-type: application/json",
            "-d",
            body,
            "-w",
            "\n%{http_code}",
            &url,
        ],
    )
    .1
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_takes_nothing_for_another() {
    let mesh = Mesh::start().await;
    mesh_with_cart(&mesh);
    let (thief, _) = member(&mesh, "thief");
    let (cart, _) = member(&mesh, "cart");
    let instance = |name: &str, account: &str, app: &str, namespace: &str| {
        serde_json::json!({"ttlSeconds": 30, "instance": {
            "name": name, "namespace": namespace, "workload": app, "serviceAccount": account,
            "labels": {"app": app}, "address": "192.0.2.66", "health": "healthy",
            "ports": {}, "servicePorts": {},
        }})
        .to_string()
    };
    let denied = |answer: String, why: &str| {
        assert!(answer.ends_with("\n403"), "{answer}");
        assert!(answer.contains(why), "{answer}");
    };
    let post = |body: String| registry(&thief, "POST", "", &body);
    denied(
        post(instance("x", "cart", "cart", "default")),
        "the certificate is for default/thief",
    );
    denied(
        post(instance("x", "thief", "x", "bank")),
        "the certificate is for default/thief",
    );
    denied(
        post(instance("x", "thief", "cart", "default")),
        "is run by account cart, not by thief",
    );
    denied(
        post(instance("cart-1", "thief", "x", "default")),
        "the certificate is for default/thief",
    );
    let beat = "/default/cart-1/heartbeat?health=unhealthy";
    denied(registry(&thief, "PUT", beat, ""), "not for default/cart");
    denied(
        registry(&thief, "DELETE", "/default/cart-1", ""),
        "not for default/cart",
    );
    let listed = mesh.json(&["register", "--list"]);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed[0]["instance"]["health"], "healthy", "{listed}");
    // Its own account may.
    let own = registry(&cart, "DELETE", "/default/cart-1", "");
    assert!(own.ends_with("\n200"), "{own}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_numbers_of_another_are_refused() {
    let mesh = Mesh::start().await;
    mesh_with_cart(&mesh);
    let (_, thief) = member(&mesh, "thief");
    // A request that names another is answered with the caller's own name.
    let script = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null \
        -subj / -addext subjectAltName=URI:spiffe://cluster.local/ns/default/sa/cart 2>/dev/null";
    let csr = program("sh", &["-c", script]).1;
    let mut client = tonic::client::Grpc::new(channel(&thief).await);
    let mut ask = async |wanted: Option<&str>| {
        let mut request = tonic::Request::new(CertificateRequest {
            csr: csr.clone(),
            ..Default::default()
        });
        if let Some(wanted) = wanted {
            request
                .metadata_mut()
                .insert("meshctl-identity", wanted.parse().unwrap());
        }
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<_, CertificateResponse>::default();
        client
            .unary(request, CREATE_CERTIFICATE.parse().unwrap(), codec)
            .await
    };
    let answer = ask(None).await.unwrap().into_inner();
    let leaf = meshctl::tls::material::certificates(&answer.cert_chain[0]).unwrap();
    let named = meshctl::tls::peer_id(&leaf).unwrap().to_string();
    assert_eq!(named, "spiffe://cluster.local/ns/default/sa/thief");
    let cart = "spiffe://cluster.local/ns/default/sa/cart";
    let refused = ask(Some(cart)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused
            .message()
            .contains("/sa/thief, not spiffe://cluster.local/ns/default/sa/cart"),
        "{refused}"
    );

    let mut client = MetricsServiceClient::new(channel(&thief).await);
    for (id, why) in [
        (
            "sidecar~192.0.2.7~cart-1.default~default.svc.cluster.local",
            "is of account cart",
        ),
        (
            "sidecar~192.0.2.7~x.bank~.default~",
            "is not of namespace default",
        ),
    ] {
        let says = Says {
            id,
            metadata: &[],
            labels: &[],
        };
        let message = StreamMetricsMessage {
            identifier: Some(Identifier {
                node: Some(says.node()),
            }),
            ..Default::default()
        };
        let refused = client
            .stream_metrics(tokio_stream::iter([message]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains(why), "{refused}");
    }

    // What was given out and what was refused is in the log, each with its reason.
    let log = mesh.json(&["identity", "audit"]);
    let log = log.as_array().unwrap();
    let event = |event: &str, text: &str| {
        log.iter()
            .any(|one| one["event"] == event && one.to_string().contains(text))
    };
    assert!(event("certificateIssued", "/sa/thief"), "{log:?}");
    assert!(
        event("certificateRefused", "/sa/thief, not spiffe"),
        "{log:?}"
    );
    let serial = meshctl::tls::serial_of(&leaf[0]);
    assert!(event("certificateIssued", &serial), "{serial} {log:?}");
}
