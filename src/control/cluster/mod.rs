//! A control plane that runs in the cluster that it follows: replicas of it share an authority, one of them
//! writes what the cluster is to hold, and the API server asks them about pods and configuration.
//!
//! Owns what is kept in the cluster beside people's objects: the Secret with the authority, the Lease of who
//! writes, the roots in every namespace, and the authority by which our webhooks are believed.

mod amiss;
mod authority;
pub(in crate::control) mod canaries;
mod denied;
mod events;
mod gateways;
mod leader;
mod operators;
pub(in crate::control) mod peers;
pub mod rights;
mod roots;
mod standing;
mod status;
mod webhook;
mod write;

pub(super) use operators::Operators;
pub(super) use standing::outside;
pub(super) use status::Told;
pub(super) use write::Changed;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::trust::CaOptions;
use super::{Control, ControlError, ControlOptions, serve_api};
use authority::Shared;

use crate::inject::InjectConfig;
use crate::install::{NAME, Settings, of_revision};
use crate::rt::Tasks;
use crate::source::kubernetes::cluster::Cluster;

/// Who says it, in events.
const CONTROLLER: &str = "meshctl.dev/control-plane";

/// Which installation a control plane belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Its namespace.
    pub namespace: String,
    /// Its revision.
    pub revision: String,
    /// The name of this replica: its pod's.
    pub replica: String,
    /// Where the API server asks its webhooks.
    pub webhooks: SocketAddr,
    /// Where the API is served to who comes by port-forward: on the pod's loopback.
    pub api: SocketAddr,
    /// What is put beside applications.
    pub injection: InjectConfig,
    /// What the installation was told.
    pub settings: Settings,
}

impl Membership {
    /// The Service by which it is reached.
    fn service(&self) -> String {
        of_revision(NAME, &self.revision)
    }

    /// Names by which others reach it.
    pub(super) fn names(&self) -> Vec<String> {
        let (service, namespace) = (self.service(), &self.namespace);
        vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]
    }
}

/// A replica that has the authority and is about to serve.
pub(super) struct Member {
    pub(super) membership: Membership,
    /// The authority that replicas share.
    pub(super) ca: CaOptions,
    shared: Shared,
    pub(super) cluster: Cluster,
    webhooks: TcpListener,
    api: TcpListener,
    operators: Operators,
}

impl Member {
    /// Joins the other replicas, where `options` say that there may be some. Waits for an API server that does
    /// not answer: without the authority nobody can be served.
    pub(super) async fn join(options: &ControlOptions) -> Result<Option<Self>, ControlError> {
        let (Some(membership), Some(access)) = (&options.membership, &options.kubernetes) else {
            return Ok(None);
        };
        let address = membership.webhooks;
        let (webhooks, _) = super::listen(address.ip(), address.port(), "--webhook-port")?;
        let inside = membership.api;
        let (api, inside) = super::listen(inside.ip(), inside.port(), "--forward-port")?;
        let cluster = Cluster::new(access).await?;
        let operators = Operators::new(access, membership).await?;
        let mut membership = membership.clone();
        membership.api = inside;
        let shared = Shared::new(
            &options.home,
            &options.trust_domain,
            &membership,
            &options.ca,
        );
        // A signer elsewhere signs for all replicas; then there is nothing to share.
        let ca = match &options.ca.signer {
            Some(_) => options.ca.clone(),
            None => shared.prepare(&cluster, &options.wall).await?,
        };
        // Without its version pods get what every version has.
        membership.injection.kubernetes = match cluster.version().await {
            Ok(version) => major_minor(&version),
            Err(error) => {
                tracing::warn!(%error, "the API server did not tell its version");
                None
            }
        };
        Ok(Some(Self {
            membership,
            ca,
            shared,
            cluster,
            webhooks,
            api,
            operators,
        }))
    }

    /// Begins what is done in the cluster; ends with `tasks`, and then another replica writes.
    pub(super) async fn begin(
        self,
        control: &Arc<Control>,
        tasks: &Tasks,
    ) -> Result<Seat, ControlError> {
        let Self {
            membership,
            shared,
            cluster,
            webhooks,
            api,
            operators,
            ..
        } = self;
        webhook::serve(control, &membership, webhooks, tasks).await?;
        let (at, names) = (membership.api, membership.names());
        serve_api::serve_inside(control, api, (at, names), operators, tasks).await?;
        if control.trust.plugged() {
            shared.follow(cluster.clone(), tasks);
        }
        let leads = leader::start(&cluster, &membership, control.wall.clone(), tasks);
        let standings = gateways::start(control, &cluster, &membership, leads.clone(), tasks);
        status::start(control, &cluster, (leads.clone(), standings), tasks);
        events::start(control, &cluster, &membership, leads.clone(), tasks);
        write::end_faults(control, leads.clone(), tasks);
        canaries::start(control, leads.clone(), tasks);
        roots::start(control, &cluster, &membership, leads, tasks);
        Ok(Seat {
            cluster,
            membership,
        })
    }
}

/// 1 and 33 of `v1.33.1-gke.100`.
fn major_minor(version: &str) -> Option<(u16, u16)> {
    let (major, rest) = version.strip_prefix('v')?.split_once('.')?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    let minor = rest.get(..end.unwrap_or(rest.len()))?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A place among replicas, to be left at the end.
pub(super) struct Seat {
    cluster: Cluster,
    membership: Membership,
}

impl Seat {
    /// Lets another replica write at once.
    pub(super) async fn leave(self) {
        leader::resign(&self.cluster, &self.membership).await;
    }
}
