//! Where a try goes.

use crate::mesh::ClusterKind;

use super::super::super::balance;
use super::super::super::connect::{self, Target};
use super::super::super::tables::ClusterTable;
use super::super::respond::Failure;
use super::tries::Calling;

impl<'c> Calling<'c> {
    pub(super) async fn target(&self) -> Result<Target<'c>, Failure> {
        let call = self.call;
        if self.cluster.config.kind == ClusterKind::OriginalDestination {
            let authority = &call.chosen.authority;
            let address = Box::pin(connect::meant(
                call.worker,
                call.live,
                call.conn.meant,
                authority,
            ))
            .await?;
            return Ok(Target {
                address,
                entry: None,
            });
        }
        pick(self.cluster, &self.refused)
    }
}

/// Draws an endpoint of a cluster that has its own.
pub(crate) fn pick<'t>(cluster: &'t ClusterTable, refused: &[u64]) -> Result<Target<'t>, Failure> {
    let set = &cluster.endpoints;
    let balancer = cluster.config.load_balancer;
    let entry = balance::pick(set, balancer, refused)
        // Every endpoint was tried: start over rather than give up.
        .or_else(|| match refused {
            [] => None,
            _ => balance::pick(set, balancer, &[]),
        })
        .ok_or(Failure::NoEndpoint)?;
    Ok(Target {
        address: entry.endpoint.address,
        entry: Some(entry),
    })
}
