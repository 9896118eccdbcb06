//! Faults that are injected.

use std::time::Duration;

use super::super::pb::{fault as pb_fault, fault_delay};
use super::fields::Fields;
use super::route::header_match;
use super::route_fields::HEADER;
use super::route_policy::share;
use super::{Fault, duration_or};
use crate::mesh::filter::{self, Abort, AbortWith, Delay};
use crate::mesh::route::Share;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&FAULT, &DELAY, &ABORT];

const FAULT: Fields = Fields {
    message: "HTTPFault",
    understood: &[
        (1, "delay"),
        (2, "abort"),
        (3, "upstream_cluster"),
        (4, "headers"),
    ],
    // Keys of Envoy's runtime, which there is not.
    tuning: &[
        (8, "delay_percent_runtime"),
        (9, "abort_percent_runtime"),
        (10, "delay_duration_runtime"),
        (11, "abort_http_status_runtime"),
        (12, "max_active_faults_runtime"),
        (13, "response_rate_limit_percent_runtime"),
        (14, "abort_grpc_status_runtime"),
        (15, "disable_downstream_cluster_stats"),
        (16, "filter_metadata"),
    ],
    refused: &[
        (5, "downstream_nodes"),
        (6, "max_active_faults"),
        (7, "response_rate_limit"),
    ],
};
const DELAY: Fields = Fields {
    message: "FaultDelay",
    understood: &[(3, "fixed_delay"), (4, "percentage")],
    tuning: &[],
    refused: &[(5, "header_delay")],
};
const ABORT: Fields = Fields {
    message: "FaultAbort",
    understood: &[(2, "http_status"), (3, "percentage"), (5, "grpc_status")],
    tuning: &[],
    refused: &[(4, "header_abort"), (6, "response_body")],
};

/// A fault that is injected.
pub(super) fn decode(
    from: &pb_fault::HttpFault,
    ignored: &mut Vec<String>,
) -> Result<filter::Fault, Fault> {
    FAULT.audit(from, ignored)?;
    let mut headers = Vec::with_capacity(from.headers.len());
    for header in &from.headers {
        HEADER.audit(header, ignored)?;
        header_match(header, &mut headers, ignored)?;
    }
    Ok(filter::Fault {
        delay: from
            .delay
            .as_ref()
            .map(|from| delay(from, ignored))
            .transpose()?,
        abort: from
            .abort
            .as_ref()
            .map(|from| abort(from, ignored))
            .transpose()?,
        cluster: from.upstream_cluster.clone(),
        headers,
    })
}

fn delay(from: &fault_delay::FaultDelay, ignored: &mut Vec<String>) -> Result<Delay, Fault> {
    use fault_delay::fault_delay::FaultDelaySecifier as Specifier;
    DELAY.audit(from, ignored)?;
    let Some(Specifier::FixedDelay(time)) = &from.fault_delay_secifier else {
        return Err(Fault::Unsupported {
            message: DELAY.message,
            field: "header_delay".to_owned(),
        });
    };
    Ok(Delay {
        time: duration_or("fixed_delay", Some(time), Duration::ZERO)?,
        share: from.percentage.map_or(Share::NONE, share),
    })
}

fn abort(from: &pb_fault::FaultAbort, ignored: &mut Vec<String>) -> Result<Abort, Fault> {
    use pb_fault::fault_abort::ErrorType;
    ABORT.audit(from, ignored)?;
    let with = match from.error_type {
        Some(ErrorType::HttpStatus(status)) => u16::try_from(status)
            .ok()
            .filter(|status| (200..600).contains(status))
            .map(AbortWith::Http),
        Some(ErrorType::GrpcStatus(status)) => u8::try_from(status).ok().map(AbortWith::Grpc),
        Some(ErrorType::HeaderAbort(_)) | None => {
            return Err(Fault::Unsupported {
                message: ABORT.message,
                field: "header_abort".to_owned(),
            });
        }
    };
    Ok(Abort {
        with: with
            .ok_or_else(|| Fault::Invalid("the status of an abort is no status".to_owned()))?,
        share: from.percentage.map_or(Share::NONE, share),
    })
}
