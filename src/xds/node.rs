//! How a client introduces itself, in Istio's form with ours under `MESHCTL`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

use super::pb::{core, locality, to_locality};
use super::structs::{
    as_bool, as_list, as_number, as_object, as_struct, as_text, boolean, list, nested, number,
    object, text,
};
use crate::mesh::node::Application;
use crate::mesh::{Client, Node, NodeKind, Protocol};

/// What our proxy calls itself in `user_agent_name`.
pub const USER_AGENT: &str = "meshctl";

/// Why an introduction is not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NodeError {
    /// The first request must carry the node.
    #[error("the first request carries no node")]
    Missing,
    /// Neither the id nor metadata say where it belongs.
    #[error(
        "node {0:?} names no namespace: its id is not TYPE~IP~NAME.NAMESPACE~DOMAIN and it has no NAMESPACE in its metadata"
    )]
    Namespace(String),
}

/// `node` as the first request of a stream carries it.
pub fn node_to_proto(node: &Node) -> core::Node {
    let labels = object(node.labels.iter().map(|(key, value)| (key, text(value))));
    let applications = node
        .applications
        .iter()
        .map(|application| {
            nested(object([
                ("port", number(u32::from(application.port))),
                ("name", text(&application.name)),
                ("bind", text(application.bind.to_string())),
                ("address", text(application.address.to_string())),
                ("protocol", text(protocol_name(application.protocol))),
            ]))
        })
        .collect();
    let ours = object([
        ("outbound", text(node.outbound.to_string())),
        ("inbound", text(node.inbound.to_string())),
        ("transparent", boolean(node.transparent)),
        ("applications", list(applications)),
    ]);
    core::Node {
        id: node.id.clone(),
        cluster: format!("{}.{}", node.workload, node.namespace),
        metadata: Some(object([
            ("NAME", text(&node.name)),
            ("NAMESPACE", text(&node.namespace)),
            ("SERVICE_ACCOUNT", text(&node.service_account)),
            ("WORKLOAD_NAME", text(&node.workload)),
            ("LABELS", nested(labels)),
            ("INSTANCE_IPS", text(node.address.to_string())),
            ("MESHCTL", nested(ours)),
        ])),
        locality: Some(locality(&node.locality)),
        user_agent_name: match node.client {
            Client::Meshctl => USER_AGENT,
            Client::Envoy => "envoy",
            Client::Grpc => "gRPC",
        }
        .to_owned(),
        user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
            env!("CARGO_PKG_VERSION").to_owned(),
        )),
        ..Default::default()
    }
}

/// The version of the client's program, as it says: ours in one text, Envoy's as three numbers.
pub fn version_of(node: &core::Node) -> String {
    match &node.user_agent_version_type {
        Some(core::node::UserAgentVersionType::UserAgentVersion(text)) => text.clone(),
        Some(core::node::UserAgentVersionType::UserAgentBuildVersion(build)) => {
            build.version.as_ref().map_or_else(String::new, |number| {
                format!(
                    "{}.{}.{}",
                    number.major_number, number.minor_number, number.patch
                )
            })
        }
        None => String::new(),
    }
}

/// Who tells numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Teller {
    /// Its node's id.
    pub node: String,
    /// When it began to count, in milliseconds since the epoch; 0 when it does not say.
    pub started_unix_ms: u64,
    /// Whether it has told somebody of what it counted.
    pub told: bool,
}

/// Adds to an introduction what is said before numbers.
pub fn tell(node: &mut core::Node, started_unix_ms: u64, told: bool) {
    let metadata = node.metadata.get_or_insert_default();
    let counts = object([
        // As text: a number of this kind is a float.
        ("started", text(started_unix_ms.to_string())),
        ("told", boolean(told)),
    ]);
    metadata.fields.insert("COUNTS".to_owned(), nested(counts));
}

/// Reads what [`tell`] added, where something was.
pub fn teller(node: &core::Node) -> Teller {
    let counts = node
        .metadata
        .as_ref()
        .and_then(|metadata| as_object(metadata, "COUNTS"));
    let started = counts.and_then(|counts| as_text(counts, "started"));
    Teller {
        node: node.id.clone(),
        started_unix_ms: started.and_then(|text| text.parse().ok()).unwrap_or(0),
        told: counts.and_then(|counts| as_bool(counts, "told")) == Some(true),
    }
}

/// Istio's node id.
pub fn node_id(kind: NodeKind, address: IpAddr, name: &str, namespace: &str) -> String {
    let kind = match kind {
        NodeKind::Sidecar => "sidecar",
        NodeKind::Gateway => "router",
    };
    format!("{kind}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local")
}

/// The client that introduces itself as `node`. What it says is a claim: hold namespace and
/// account against its certificate.
pub fn node_from_proto(node: Option<&core::Node>) -> Result<Node, NodeError> {
    let node = node.ok_or(NodeError::Missing)?;
    let empty = super::pb::Struct::default();
    let metadata = node.metadata.as_ref().unwrap_or(&empty);
    let ours = as_object(metadata, "MESHCTL").unwrap_or(&empty);
    // TYPE~IP~NAME.NAMESPACE~DOMAIN
    let mut parts = node.id.split('~');
    let kind = match parts.next() {
        Some("router" | "gateway") => NodeKind::Gateway,
        _ => NodeKind::Sidecar,
    };
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let address = parts.next().and_then(|ip| ip.parse().ok());
    let (name, from_id) = parts
        .next()
        .and_then(|pod| pod.rsplit_once('.'))
        .unwrap_or_default();
    let namespace = as_text(metadata, "NAMESPACE")
        .filter(|namespace| !namespace.is_empty())
        .or_else(|| (!from_id.is_empty()).then(|| from_id.to_owned()));
    let client = if node.user_agent_name == USER_AGENT {
        Client::Meshctl
    } else if node
        .user_agent_name
        .to_ascii_lowercase()
        .starts_with("grpc")
    {
        Client::Grpc
    } else {
        Client::Envoy
    };
    let namespace = match (namespace, client) {
        (Some(namespace), _) => namespace,
        // Bootstrap files of gRPC programs seldom say more than an id.
        (None, Client::Grpc) => "default".to_owned(),
        (None, Client::Envoy | Client::Meshctl) => {
            return Err(NodeError::Namespace(node.id.clone()));
        }
    };
    let name = as_text(metadata, "NAME")
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| if name.is_empty() { &node.id } else { name }.to_owned());
    let socket = |key: &str, port: u16| {
        as_text(ours, key)
            .and_then(|text| text.parse::<SocketAddr>().ok())
            .unwrap_or(SocketAddr::new(unspecified, port))
    };
    Ok(Node {
        id: node.id.clone(),
        client,
        kind,
        workload: as_text(metadata, "WORKLOAD_NAME").unwrap_or_else(|| {
            node.cluster
                .split('.')
                .next()
                .filter(|cluster| !cluster.is_empty())
                .unwrap_or(&name)
                .to_owned()
        }),
        service_account: as_text(metadata, "SERVICE_ACCOUNT")
            .filter(|account| !account.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
        labels: as_object(metadata, "LABELS")
            .map(labels)
            .unwrap_or_default(),
        locality: to_locality(node.locality.clone()),
        address: address.unwrap_or(unspecified),
        outbound: socket("outbound", 15001),
        inbound: socket("inbound", 15006),
        // Istio's sidecars are redirected to unless they say otherwise.
        transparent: as_bool(ours, "transparent").unwrap_or_else(|| {
            as_text(metadata, "INTERCEPTION_MODE").is_none_or(|mode| mode != "NONE")
        }),
        applications: as_list(ours, "applications")
            .unwrap_or_default()
            .iter()
            .filter_map(as_struct)
            .filter_map(application)
            .collect(),
        name,
        namespace,
    })
}

/// What a client says about who it is; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Namespace, from metadata or the id.
    pub namespace: Option<String>,
    /// Namespace that the id names, where it has Istio's form.
    pub id_namespace: Option<String>,
    /// Service account, from metadata.
    pub service_account: Option<String>,
}

/// What `node` claims, to be held against a certificate.
pub fn claims(node: Option<&core::Node>) -> Claims {
    let Some(node) = node else {
        return Claims::default();
    };
    let said = |key: &str| {
        node.metadata
            .as_ref()
            .and_then(|metadata| as_text(metadata, key))
            .filter(|text| !text.is_empty())
    };
    let id_namespace = id_namespace(&node.id).map(str::to_owned);
    Claims {
        namespace: said("NAMESPACE").or_else(|| id_namespace.clone()),
        id_namespace,
        service_account: said("SERVICE_ACCOUNT"),
    }
}

/// The namespace in `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
pub fn id_namespace(id: &str) -> Option<&str> {
    Some(id_name(id)?.1)
}

/// Name and namespace in `TYPE~IP~NAME.NAMESPACE~DOMAIN`.
pub fn id_name(id: &str) -> Option<(&str, &str)> {
    id.split('~').nth(2)?.rsplit_once('.')
}

fn labels(fields: &super::pb::Struct) -> BTreeMap<String, String> {
    fields
        .fields
        .keys()
        .filter_map(|key| Some((key.clone(), as_text(fields, key)?)))
        .collect()
}

const PROTOCOLS: [(Protocol, &str); 8] = [
    (Protocol::Auto, "auto"),
    (Protocol::Http, "http"),
    (Protocol::Http2, "http2"),
    (Protocol::Grpc, "grpc"),
    (Protocol::GrpcWeb, "grpc-web"),
    (Protocol::Tls, "tls"),
    (Protocol::Tcp, "tcp"),
    (Protocol::Udp, "udp"),
];

fn protocol_name(protocol: Protocol) -> &'static str {
    PROTOCOLS
        .iter()
        .find(|(known, _)| *known == protocol)
        .map_or("auto", |(_, name)| name)
}

fn application(fields: &super::pb::Struct) -> Option<Application> {
    Some(Application {
        port: u16::try_from(as_number(fields, "port")?).ok()?,
        name: as_text(fields, "name").unwrap_or_default(),
        bind: as_text(fields, "bind")?.parse().ok()?,
        address: as_text(fields, "address")?.parse().ok()?,
        protocol: as_text(fields, "protocol")
            .and_then(|name| PROTOCOLS.iter().find(|(_, known)| *known == name))
            .map(|(protocol, _)| *protocol)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_numbers_says_since_when() {
        let mut node = core::Node {
            id: "sidecar~10.0.0.1~a.b~c".to_owned(),
            ..core::Node::default()
        };
        let mut expected = Teller {
            node: node.id.clone(),
            ..Teller::default()
        };
        assert_eq!(teller(&node), expected);
        tell(&mut node, 1_800_000_000_123, true);
        (expected.started_unix_ms, expected.told) = (1_800_000_000_123, true);
        assert_eq!(teller(&node), expected);
    }
    use crate::xds::generate;

    #[test]
    fn our_own_nodes_round_trip() {
        for client in [Client::Meshctl, Client::Envoy, Client::Grpc] {
            let node = generate::node(client);
            assert_eq!(node_from_proto(Some(&node_to_proto(&node))), Ok(node));
        }
    }

    #[test]
    fn an_id_alone_suffices_for_envoy_and_nothing_for_nobody() {
        let mut proto = core::Node {
            id: "sidecar~10.0.0.7~web-1.prod~prod.svc.cluster.local".to_owned(),
            user_agent_name: "envoy".to_owned(),
            ..Default::default()
        };
        let node = node_from_proto(Some(&proto)).unwrap();
        assert_eq!(
            (node.name.as_str(), node.namespace.as_str()),
            ("web-1", "prod")
        );
        assert_eq!(node.address, IpAddr::from([10, 0, 0, 7]));
        assert!(node.transparent);
        proto.id = "something".to_owned();
        assert!(matches!(
            node_from_proto(Some(&proto)),
            Err(NodeError::Namespace(_))
        ));
        proto.user_agent_name = "gRPC C-core linux Python".to_owned();
        assert_eq!(node_from_proto(Some(&proto)).unwrap().namespace, "default");
        assert_eq!(node_from_proto(None), Err(NodeError::Missing));
    }
}
