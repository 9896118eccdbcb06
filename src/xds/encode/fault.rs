//! Faults that are injected.

use super::super::pb::{duration, fault as pb_fault, fault_delay};
use super::route::header_match;
use super::route_policy::fraction;
use crate::mesh::Client;
use crate::mesh::filter::{AbortWith, Fault};

pub(super) fn encode(from: &Fault, client: Client) -> pb_fault::HttpFault {
    use pb_fault::fault_abort::ErrorType;
    pb_fault::HttpFault {
        delay: from.delay.map(|delay| fault_delay::FaultDelay {
            percentage: Some(fraction(delay.share)),
            fault_delay_secifier: duration(delay.time)
                .map(fault_delay::fault_delay::FaultDelaySecifier::FixedDelay),
        }),
        abort: from.abort.map(|abort| pb_fault::FaultAbort {
            percentage: Some(fraction(abort.share)),
            error_type: Some(match abort.with {
                AbortWith::Http(status) => ErrorType::HttpStatus(u32::from(status)),
                AbortWith::Grpc(status) => ErrorType::GrpcStatus(u32::from(status)),
            }),
            ..Default::default()
        }),
        upstream_cluster: from.cluster.clone(),
        headers: from
            .headers
            .iter()
            .map(|header| header_match(header, client))
            .collect(),
        ..Default::default()
    }
}
