//! TLS that servers of gateways end.

use crate::mesh::Node;
use crate::mesh::credential::{CertificateSource, OwnTls, RootsSource, Secret};
use crate::mesh::gateway::{Server, ServerSecurity};
use crate::mesh::listener::ServerTls;

/// ALPN of requests from outside.
const HTTP_ALPN: [&str; 2] = ["h2", "http/1.1"];
/// ALPN of requests from sidecars.
const MESH_ALPN: [&str; 4] = ["istio-h2", "istio-http/1.1", "h2", "http/1.1"];

/// How a server ends TLS; `http`: for requests.
pub(super) fn terminated(
    security: &ServerSecurity,
    node: &Node,
    (server, http): (&Server, bool),
) -> ServerTls {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match security {
        ServerSecurity::Mesh => ServerTls {
            alpn: names(if http { &MESH_ALPN } else { &["istio"] }),
            own: None,
        },
        ServerSecurity::Own(own) => ServerTls {
            alpn: names(if http { &HTTP_ALPN } else { &[] }),
            own: Some(match server.attached {
                // Its Secrets are named by their namespace.
                Some(_) => own.clone(),
                None => Box::new(placed(own, &node.namespace)),
            }),
        },
    }
}

/// Names of Secrets are those of the proxy's namespace (Istio's rule), whoever wrote the Gateway.
fn placed(own: &OwnTls, namespace: &str) -> OwnTls {
    let mut own = own.clone();
    for source in &mut own.certificates {
        if let CertificateSource::Secret(name) = source {
            *name = Secret::name_of(namespace, name);
        }
    }
    if let Some(clients) = &mut own.clients
        && let RootsSource::Secret(name) = &mut clients.roots
    {
        *name = Secret::roots_of(namespace, name);
    }
    own
}
