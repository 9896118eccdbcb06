//! Outlier detection and active health checks.

use std::time::Duration;

use super::super::pb::{
    CodecClientType, Int64Range, UInt64Value, bool_value, cluster, core, duration, u32_value,
};
use super::super::structs::{nested, number, object, span};
use super::{headers, route};
use crate::mesh::Client;
use crate::mesh::health_check::{
    Check, EndpointCheck, GrpcCheck, HealthCheck, HttpCheck, Method, StatusRange, TcpCheck,
};
use crate::mesh::outlier::{FailurePercentage, OutlierDetection, ResponseTime, SuccessRate};

/// What is left at its default is not written, so that Envoy's defaults need not be known twice.
pub(super) fn outlier(from: &OutlierDetection, client: Client) -> cluster::OutlierDetection {
    let percent = |share: u32| match client {
        Client::Meshctl => share,
        Client::Envoy | Client::Grpc => share.min(100),
    };
    // Envoy has "off" as a share of enforcement, and a zero only where it is written.
    let enforced = |count: u32, share: u32| u32_value(if count == 0 { 0 } else { percent(share) });
    let count = |count: u32| (count > 0).then_some(count).and_then(u32_value);
    let other = |value: u32, default: u32| (value != default).then(|| u32_value(value)).flatten();
    let wait = |wait: Duration| match client {
        Client::Meshctl => duration(wait),
        Client::Envoy | Client::Grpc => duration(wait.max(Duration::from_millis(1))),
    };
    let rate = &from.success_rate;
    let usual_rate = SuccessRate::default();
    let failed = &from.failure_percentage;
    let usual_failed = FailurePercentage::default();
    let split = from.split_external_local_origin_errors;
    cluster::OutlierDetection {
        consecutive_5xx: count(from.consecutive_5xx),
        enforcing_consecutive_5xx: enforced(from.consecutive_5xx, from.enforcing_consecutive_5xx),
        consecutive_gateway_failure: count(from.consecutive_gateway),
        enforcing_consecutive_gateway_failure: enforced(
            from.consecutive_gateway,
            from.enforcing_consecutive_gateway,
        ),
        split_external_local_origin_errors: split,
        consecutive_local_origin_failure: count(from.consecutive_local_origin).filter(|_| split),
        enforcing_consecutive_local_origin_failure: enforced(
            from.consecutive_local_origin,
            from.enforcing_consecutive_local_origin,
        )
        .filter(|_| split),
        // Envoy would eject by success rate too, unless told not to.
        enforcing_success_rate: u32_value(percent(rate.enforcing)),
        enforcing_local_origin_success_rate: u32_value(percent(rate.enforcing_local_origin))
            .filter(|_| split),
        success_rate_minimum_hosts: other(rate.minimum_hosts, usual_rate.minimum_hosts),
        success_rate_request_volume: other(rate.request_volume, usual_rate.request_volume),
        success_rate_stdev_factor: other(rate.stdev_factor, usual_rate.stdev_factor),
        failure_percentage_threshold: other(percent(failed.threshold), usual_failed.threshold),
        enforcing_failure_percentage: other(percent(failed.enforcing), 0),
        enforcing_failure_percentage_local_origin: other(percent(failed.enforcing_local_origin), 0)
            .filter(|_| split),
        failure_percentage_minimum_hosts: other(failed.minimum_hosts, usual_failed.minimum_hosts),
        failure_percentage_request_volume: other(
            failed.request_volume,
            usual_failed.request_volume,
        ),
        interval: wait(from.interval),
        base_ejection_time: wait(from.base_ejection),
        max_ejection_time: from
            .max_ejection
            .and_then(|longest| wait(longest.max(from.base_ejection))),
        max_ejection_time_jitter: duration(from.max_ejection_jitter)
            .filter(|_| !from.max_ejection_jitter.is_zero()),
        max_ejection_percent: u32_value(percent(from.max_ejection_percent)),
        always_eject_one_host: bool_value(true).filter(|_| from.always_eject_one_host),
        successful_active_health_check_uneject_host: bool_value(false)
            .filter(|_| !from.uneject_on_health_check),
        ..Default::default()
    }
}

/// Only ours know it, so it is metadata.
pub(super) fn response_time(
    from: &OutlierDetection,
) -> Option<(&'static str, super::super::pb::Value)> {
    let ResponseTime {
        threshold,
        window,
        request_volume,
        enforcing,
    } = from.response_time.as_ref()?;
    Some((
        super::super::structs::RESPONSE_TIME,
        nested(object([
            ("threshold", span(*threshold)),
            ("window", span(*window)),
            ("requestVolume", number(*request_volume)),
            ("enforcing", number(*enforcing)),
        ])),
    ))
}

pub(super) fn check(from: &HealthCheck, client: Client) -> core::HealthCheck {
    let wait = |wait: Duration| match client {
        Client::Meshctl => duration(wait),
        Client::Envoy | Client::Grpc => duration(wait.max(Duration::from_millis(1))),
    };
    let some = |wait: Duration| duration(wait).filter(|_| !wait.is_zero());
    core::HealthCheck {
        timeout: wait(from.timeout),
        interval: wait(from.interval),
        initial_jitter: some(from.initial_jitter),
        interval_jitter: some(from.interval_jitter),
        interval_jitter_percent: from.interval_jitter_percent,
        unhealthy_threshold: u32_value(from.unhealthy_threshold),
        healthy_threshold: u32_value(from.healthy_threshold),
        no_traffic_interval: wait(from.no_traffic_interval)
            .filter(|_| from.no_traffic_interval != HealthCheck::NO_TRAFFIC),
        no_traffic_healthy_interval: from.no_traffic_healthy_interval.and_then(wait),
        unhealthy_interval: from.unhealthy_interval.and_then(wait),
        unhealthy_edge_interval: from.unhealthy_edge_interval.and_then(wait),
        healthy_edge_interval: from.healthy_edge_interval.and_then(wait),
        reuse_connection: bool_value(false).filter(|_| !from.reuse_connection),
        alt_port: from.alt_port.and_then(|port| u32_value(u32::from(port))),
        always_log_health_check_failures: from.policy.always_log_failures,
        always_log_health_check_success: from.policy.always_log_success,
        health_checker: Some(match &from.check {
            Check::Http(http) => {
                core::health_check::HealthChecker::HttpHealthCheck(over_http(http, client))
            }
            Check::Grpc(grpc) => {
                core::health_check::HealthChecker::GrpcHealthCheck(over_grpc(grpc, client))
            }
            Check::Tcp(tcp) => core::health_check::HealthChecker::TcpHealthCheck(over_tcp(tcp)),
        }),
        ..Default::default()
    }
}

fn over_http(from: &HttpCheck, client: Client) -> core::health_check::HttpHealthCheck {
    use core::RequestMethod as Pb;
    core::health_check::HttpHealthCheck {
        host: from.host.clone(),
        path: match client {
            // Envoy refuses an empty one.
            Client::Envoy | Client::Grpc if from.path.is_empty() => "/".to_owned(),
            Client::Meshctl | Client::Envoy | Client::Grpc => from.path.clone(),
        },
        send: payload(&from.send),
        receive: payloads(&from.receive),
        response_buffer_size: from.response_buffer_size.map(|value| UInt64Value { value }),
        request_headers_to_add: headers::additions(&from.headers, client),
        request_headers_to_remove: headers::removals(&from.headers, client),
        expected_statuses: ranges(&from.expected_statuses),
        retriable_statuses: ranges(&from.retriable_statuses),
        codec_client_type: if from.http2 {
            CodecClientType::Http2
        } else {
            CodecClientType::Http1
        }
        .into(),
        service_name_matcher: from
            .service_name
            .as_ref()
            .and_then(|name| route::text_match(name, client)),
        method: match from.method {
            Method::Get => Pb::MethodUnspecified,
            Method::Head => Pb::Head,
            Method::Post => Pb::Post,
            Method::Put => Pb::Put,
            Method::Delete => Pb::Delete,
            Method::Options => Pb::Options,
            Method::Trace => Pb::Trace,
            Method::Patch => Pb::Patch,
        }
        .into(),
    }
}

fn over_grpc(from: &GrpcCheck, client: Client) -> core::health_check::GrpcHealthCheck {
    core::health_check::GrpcHealthCheck {
        service_name: from.service_name.clone(),
        authority: from.authority.clone(),
        initial_metadata: headers::additions(&from.metadata, client),
    }
}

fn over_tcp(from: &TcpCheck) -> core::health_check::TcpHealthCheck {
    core::health_check::TcpHealthCheck {
        send: payload(&from.send),
        receive: payloads(&from.receive),
        ..Default::default()
    }
}

fn payload(bytes: &[u8]) -> Option<core::health_check::Payload> {
    (!bytes.is_empty()).then(|| core::health_check::Payload {
        payload: Some(core::health_check::payload::Payload::Binary(bytes.to_vec())),
    })
}

fn payloads(all: &[Vec<u8>]) -> Vec<core::health_check::Payload> {
    all.iter().filter_map(|bytes| payload(bytes)).collect()
}

fn ranges(from: &[StatusRange]) -> Vec<Int64Range> {
    from.iter()
        .map(|range| Int64Range {
            start: i64::from(range.start),
            end: i64::from(range.end),
        })
        .collect()
}

pub(super) fn endpoint(
    from: &EndpointCheck,
) -> super::super::pb::endpoint::endpoint::HealthCheckConfig {
    super::super::pb::endpoint::endpoint::HealthCheckConfig {
        // The whole address stands in `address`, with its port.
        port_value: 0,
        hostname: from.hostname.clone(),
        address: from.address.map(super::super::pb::address),
        disable_active_health_check: from.disabled,
    }
}
