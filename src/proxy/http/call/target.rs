//! Where a try goes.

use crate::mesh::{ClusterKind, LoadBalancer};
use crate::rt;

use super::super::super::balance::{self, Wish};
use super::super::super::connect::{self, Target};
use super::super::super::context::Worker;
use super::super::super::tables::ClusterTable;
use super::super::respond::Failure;
use super::tries::Calling;

impl<'c> Calling<'c> {
    pub(super) async fn target(&self) -> Result<Target<'c>, Failure> {
        let call = self.call;
        if self.cluster.config.kind == ClusterKind::OriginalDestination {
            let authority = call.chosen.authority();
            return Box::pin(connect::meant(
                call.worker,
                call.live,
                call.conn.meant,
                authority,
            ))
            .await
            .map(|target| self.for_this(target));
        }
        // Another try goes where it can (Envoy).
        if let Some(session) = call.chosen.session().filter(|_| self.ended.retries == 0)
            && let Some(entry) = session.endpoint(&self.cluster.endpoints)
        {
            return Ok(self.for_this(Target::endpoint(entry)));
        }
        let wish = Wish {
            refused: &self.refused,
            hash: call.chosen.hashed().and_then(|hashed| hashed.hash),
            ..Wish::default()
        };
        pick(self.cluster, wish, call.worker).map(|target| self.for_this(target))
    }

    /// `target`, with what its connection is made for.
    fn for_this(&self, target: Target<'c>) -> Target<'c> {
        let call = self.call;
        target
            .on_behalf(self.cluster, call.conn)
            .asked_for(self.cluster, || call.chosen.head.authority())
    }
}

/// Draws an endpoint of a cluster that has its own.
pub(crate) fn pick<'t>(
    cluster: &'t ClusterTable,
    wish: Wish<'_>,
    worker: &Worker,
) -> Result<Target<'t>, Failure> {
    let set = &cluster.endpoints;
    let mut wish = wish;
    // Both cost something and hardly any policy goes by them.
    if set.config.load_balancer == LoadBalancer::PeakEwma {
        wish.now = worker.shared.millis(rt::now());
    }
    if set.config.balancing.balance_factor > 0 {
        wish.active = cluster.counters.requests();
    }
    let entry = balance::pick(set, wish)
        // Every endpoint was tried: start over rather than give up.
        .or_else(|| match wish.refused {
            [] => None,
            _ => balance::pick(
                set,
                Wish {
                    refused: &[],
                    ..wish
                },
            ),
        })
        .ok_or(Failure::NoEndpoint)?;
    Ok(Target::endpoint(entry))
}
