//! Where configuration and services come from besides what people apply here: which of it is followed,
//! and that proxies are served only once all of it is known.

use std::sync::Arc;

use tokio::sync::watch;

use super::index::Index;
use super::{Control, ControlError, ControlOptions, follow};
use crate::rt::{Tasks, Wall};
use crate::source::kubernetes::{self, review::Reviewer};
use crate::source::{State, consul, dns};

/// A catalogue of services outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Catalogue {
    /// A Consul.
    Consul(consul::Options),
    /// A name.
    Dns(dns::Options),
}

impl Control {
    /// Each source, and whether it answers.
    pub(super) fn sources(&self) -> Vec<(String, bool)> {
        let cluster = self.kubernetes.as_ref().map(|status| {
            let status = status.borrow();
            let name = format!("Kubernetes ({})", status.cluster);
            (name, status.complete() && status.away().is_none())
        });
        let catalogues = self.catalogues.iter().map(|state| {
            let state = state.borrow();
            (state.name.clone(), state.complete && state.away.is_none())
        });
        cluster.into_iter().chain(catalogues).collect()
    }
}

/// How things stand with each.
pub(super) struct Followed {
    pub(super) kubernetes: Option<watch::Receiver<kubernetes::Status>>,
    /// Who is asked about tokens of the cluster.
    pub(super) reviewer: Option<Arc<Reviewer>>,
    pub(super) catalogues: Vec<watch::Receiver<State>>,
    /// Whether every source has said all there is.
    pub(super) complete: watch::Receiver<bool>,
}

/// Begins to follow all of them; ends with `tasks`.
pub(super) async fn follow(
    options: &ControlOptions,
    index: &Arc<Index>,
    wall: &Wall,
    tasks: &Tasks,
) -> Result<Followed, ControlError> {
    let mut known = Vec::new();
    let mut take_in = |name: &str, batches, named| {
        let (tell, told) = watch::channel(false);
        known.push(told);
        let run = follow::run(Arc::clone(index), name.to_owned(), batches, (tell, named));
        tasks.spawn("follow", run);
    };
    let (mut status, mut reviewer) = (None, None);
    if let Some(access) = &options.kubernetes {
        reviewer = Some(Arc::new(Reviewer::new(access).await?));
        let followed = kubernetes::follow(access, wall, tasks).await?;
        status = Some(followed.status);
        let named = Some((followed.named, tasks.clone()));
        take_in("Kubernetes", followed.batches, named);
    }
    let mut catalogues = Vec::new();
    for catalogue in &options.catalogues {
        let followed = match catalogue {
            Catalogue::Consul(options) => consul::follow(options, wall, tasks),
            Catalogue::Dns(options) => dns::follow(options, wall, tasks),
        };
        let name = followed.state.borrow().name.clone();
        take_in(&name, followed.batches, None);
        catalogues.push(followed.state);
    }
    Ok(Followed {
        kubernetes: status,
        reviewer,
        catalogues,
        complete: follow::all(known, tasks),
    })
}
