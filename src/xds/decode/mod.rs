//! Messages to views.
//!
//! Accepts more than we encode, because another control plane may be at the other end, and names
//! what it cannot represent: what changes security or routing is a [`Rejected`] and the rest of the
//! snapshot still applies; what only tunes is listed in [`Decoded::ignored`].

mod balancing;
mod access_log;
mod cluster;
mod dns;
mod endpoint;
mod ext_authz;
mod compressor;
mod cors;
mod fault;
mod filter;
mod fields;
mod hash;
mod health;
mod http;
mod http2;
mod jwt_authn;
mod rbac;
mod limits;
mod listener;
mod log_service;
mod origination;
mod route;
mod route_fields;
mod route_policy;
mod server_tls;
mod session;
mod sockets;
mod mtls;
pub mod support;
mod tracing;

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use serde::Serialize;
use thiserror::Error;

use super::pb;
use super::snapshot::{Kind, Snapshot};
use crate::mesh::{Assignment, Cluster, Listener, RouteTable, View};

/// A view, and what could not become part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decoded {
    /// What was understood.
    pub view: View,
    /// Resources that were refused.
    pub rejected: Vec<Rejected>,
    /// Fields without effect here that only tune.
    pub ignored: Vec<Ignored>,
}

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Its type.
    pub type_url: String,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A field that has no effect.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ignored {
    /// Type of the resource that it was found in.
    pub type_url: String,
    /// Name of that resource.
    pub name: String,
    /// Message and field.
    pub field: String,
}

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// The bytes are not the message they claim to be.
    #[error("not a {message}: {reason}")]
    Malformed {
        /// The message.
        message: &'static str,
        /// The parser's complaint.
        reason: String,
    },
    /// A field that changes security or routing, and is not implemented.
    #[error("{message} field `{field}` is not supported")]
    Unsupported {
        /// The message.
        message: &'static str,
        /// The field.
        field: String,
    },
    /// A value that nothing can be done with.
    #[error("{0}")]
    Invalid(String),
}

/// One resource, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A cluster, and where its endpoints are.
    Cluster(Arc<Cluster>, Members),
    /// Endpoints.
    Endpoints(Arc<Assignment>),
    /// A listener, and route tables that stood in it.
    Listener(Arc<Listener>, Vec<Arc<RouteTable>>),
    /// A route table.
    Route(Arc<RouteTable>),
    /// The text of a credential.
    Secret(Arc<crate::mesh::Secret>),
    /// A secret that nothing here names.
    OtherSecret,
}

/// Where the endpoints of a cluster are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// In the cluster itself, or chosen by the caller.
    Own,
    /// In an assignment of this name.
    Named(String),
    /// In the cluster, with more than addresses.
    Inline(Arc<Assignment>),
}

/// Decodes a resource by itself. What is ignored is appended to `ignored` as `Message.field`.
pub fn item(
    kind: Kind,
    name: &str,
    bytes: &[u8],
    ignored: &mut Vec<String>,
) -> Result<Item, Fault> {
    let same = |found: &str| {
        if found == name {
            Ok(())
        } else {
            Err(Fault::Invalid(format!("is named {found:?} inside")))
        }
    };
    match kind {
        Kind::Cluster => {
            let message: pb::cluster::Cluster = parse("Cluster", bytes)?;
            same(&message.name)?;
            let (cluster, members) = cluster::decode(&message, ignored)?;
            Ok(Item::Cluster(Arc::new(cluster), members))
        }
        Kind::Endpoint => {
            let message: pb::endpoint::ClusterLoadAssignment =
                parse("ClusterLoadAssignment", bytes)?;
            same(&message.cluster_name)?;
            endpoint::decode(message, ignored).map(|a| Item::Endpoints(Arc::new(a)))
        }
        Kind::Listener => {
            let message: pb::listener::Listener = parse("Listener", bytes)?;
            same(&message.name)?;
            let (listener, tables) = listener::decode(&message, ignored)?;
            Ok(Item::Listener(Arc::new(listener), tables))
        }
        Kind::Route => {
            let message: pb::route::RouteConfiguration = parse("RouteConfiguration", bytes)?;
            same(&message.name)?;
            route::decode(&message, ignored).map(|table| Item::Route(Arc::new(table)))
        }
        Kind::Secret => {
            let message: pb::sockets::Secret = parse("Secret", bytes)?;
            same(&message.name)?;
            let text = server_tls::text(message)?;
            Ok(text.map_or(Item::OtherSecret, |text| Item::Secret(Arc::new(text))))
        }
    }
}

/// Puts items together. An assignment that no cluster names is kept under its own name.
pub fn assemble<'a>(items: impl IntoIterator<Item = (&'a str, &'a Item)>) -> View {
    let mut view = View::default();
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut assignments = Vec::new();
    for (name, item) in items {
        match item {
            Item::Cluster(cluster, members) => {
                view.clusters.insert(name.to_owned(), Arc::clone(cluster));
                match members {
                    Members::Own => {}
                    Members::Named(assignment) => {
                        named.entry(assignment).or_default().push(name);
                    }
                    Members::Inline(assignment) => {
                        view.endpoints
                            .insert(name.to_owned(), Arc::clone(assignment));
                    }
                }
            }
            Item::Endpoints(assignment) => assignments.push((name, assignment)),
            Item::Listener(listener, tables) => {
                view.listeners.insert(name.to_owned(), Arc::clone(listener));
                for table in tables {
                    view.routes.insert(table.name.clone(), Arc::clone(table));
                }
            }
            Item::Route(table) => {
                view.routes.insert(name.to_owned(), Arc::clone(table));
            }
            Item::Secret(secret) => {
                view.secrets.insert(name.to_owned(), Arc::clone(secret));
            }
            Item::OtherSecret => {}
        }
    }
    for (name, assignment) in assignments {
        match named.get(name) {
            Some(clusters) => {
                for cluster in clusters {
                    view.endpoints
                        .insert((*cluster).to_owned(), Arc::clone(assignment));
                }
            }
            None => {
                view.endpoints
                    .insert(name.to_owned(), Arc::clone(assignment));
            }
        }
    }
    view
}

/// Everything in `snapshot` that is understood, and what is not.
pub fn decode(snapshot: &Snapshot) -> Decoded {
    let mut decoded = Decoded::default();
    let mut items: Vec<(&str, Item)> = Vec::new();
    for kind in Kind::ALL {
        for (name, resource) in snapshot.of(kind) {
            let mut ignored = Vec::new();
            match item(kind, name, &resource.bytes, &mut ignored) {
                Ok(item) => items.push((name, item)),
                Err(fault) => decoded.rejected.push(Rejected {
                    type_url: kind.type_url().to_owned(),
                    name: name.to_string(),
                    reason: fault.to_string(),
                }),
            }
            ignored.sort();
            ignored.dedup();
            decoded
                .ignored
                .extend(ignored.into_iter().map(|field| Ignored {
                    type_url: kind.type_url().to_owned(),
                    name: name.to_string(),
                    field,
                }));
        }
    }
    decoded.view = assemble(items.iter().map(|(name, item)| (*name, item)));
    decoded
}

fn parse<M: Message + Default>(message: &'static str, bytes: &[u8]) -> Result<M, Fault> {
    M::decode(bytes).map_err(|error| Fault::Malformed {
        message,
        reason: error.to_string(),
    })
}

/// The configuration in an `Any`.
fn unpack<M: Message + Default + prost::Name>(any: &pb::Any) -> Result<M, Fault> {
    parse(M::NAME, &any.value)
}

/// The duration, or `default` when there is none.
fn duration_or(
    field: &str,
    from: Option<&pb::PbDuration>,
    default: std::time::Duration,
) -> Result<std::time::Duration, Fault> {
    from.map_or(Ok(default), |from| {
        pb::to_duration(from)
            .ok_or_else(|| Fault::Invalid(format!("{field} is not a duration of at least zero")))
    })
}

#[cfg(test)]
mod tests;
