//! Outlier detection and health checks.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{duration, operations, positive, socket, text, text_match};
use crate::mesh::health_check::{
    Check, CheckPolicy, EndpointCheck, GrpcCheck, HealthCheck, HttpCheck, Method, StatusRange,
    TcpCheck,
};
use crate::mesh::outlier::{FailurePercentage, OutlierDetection, ResponseTime, SuccessRate};
use crate::mesh::route::{HeaderOperations, TextMatch};

/// A count and its enforcement; off has one form.
fn rule() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![Just((0, 100)), (1..=u32::MAX, 0..=100_u32), Just((5, 100)),]
}

pub(super) fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let rate = (0..=100_u32, 0..=100_u32, any::<[u32; 3]>()).prop_map(
        |(enforcing, enforcing_local_origin, [minimum_hosts, request_volume, stdev_factor])| {
            SuccessRate {
                enforcing,
                enforcing_local_origin,
                minimum_hosts,
                request_volume,
                stdev_factor,
            }
        },
    );
    let failed = (0..=100_u32, 0..=100_u32, any::<[u32; 3]>()).prop_map(
        |(enforcing, enforcing_local_origin, [threshold, minimum_hosts, request_volume])| {
            FailurePercentage {
                enforcing,
                enforcing_local_origin,
                threshold,
                minimum_hosts,
                request_volume,
            }
        },
    );
    let slow = (duration(), duration(), any::<u32>(), 0..=100_u32).prop_map(
        |(threshold, window, request_volume, enforcing)| ResponseTime {
            threshold,
            window,
            request_volume,
            enforcing,
        },
    );
    let times = (duration(), duration(), option::of(duration()), duration());
    (
        (rule(), rule(), rule()),
        any::<[bool; 3]>(),
        prop_oneof![Just(SuccessRate::default()), rate],
        prop_oneof![Just(FailurePercentage::default()), failed],
        option::of(slow),
        times,
        0..=100_u32,
    )
        .prop_map(
            |(
                (answers, gateway, local),
                [
                    split_external_local_origin_errors,
                    always_eject_one_host,
                    uneject_on_health_check,
                ],
                mut success_rate,
                mut failure_percentage,
                response_time,
                (interval, base_ejection, longer, max_ejection_jitter),
                max_ejection_percent,
            )| {
                let usual = OutlierDetection::default();
                let local = if split_external_local_origin_errors {
                    local
                } else {
                    success_rate.enforcing_local_origin = 0;
                    failure_percentage.enforcing_local_origin = 0;
                    (
                        usual.consecutive_local_origin,
                        usual.enforcing_consecutive_local_origin,
                    )
                };
                OutlierDetection {
                    consecutive_5xx: answers.0,
                    enforcing_consecutive_5xx: answers.1,
                    consecutive_gateway: gateway.0,
                    enforcing_consecutive_gateway: gateway.1,
                    split_external_local_origin_errors,
                    consecutive_local_origin: local.0,
                    enforcing_consecutive_local_origin: local.1,
                    success_rate,
                    failure_percentage,
                    response_time,
                    interval,
                    base_ejection,
                    max_ejection: longer.map(|longer| base_ejection + longer),
                    max_ejection_jitter,
                    max_ejection_percent,
                    always_eject_one_host,
                    uneject_on_health_check,
                }
            },
        )
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..5)
}

fn statuses() -> impl Strategy<Value = Vec<StatusRange>> {
    vec(
        (100..600_u16, 1..100_u16).prop_map(|(start, more)| StatusRange {
            start,
            end: (start + more).min(600),
        }),
        0..3,
    )
}

fn over_http() -> impl Strategy<Value = Check> {
    let named = text_match().prop_filter("needs a text", |text| *text != TextMatch::Present);
    let method = select(vec![
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Options,
        Method::Trace,
        Method::Patch,
    ]);
    (
        (text(), text(), method),
        prop_oneof![Just(Vec::new()), payload()],
        vec(payload(), 0..3),
        option::of(any::<u64>()),
        operations(),
        (statuses(), statuses()),
        any::<bool>(),
        option::of(named),
    )
        .prop_map(
            |(
                (host, path, method),
                send,
                receive,
                response_buffer_size,
                headers,
                (expected_statuses, retriable_statuses),
                http2,
                service_name,
            )| {
                Check::Http(Box::new(HttpCheck {
                    host,
                    path,
                    method,
                    send,
                    receive,
                    response_buffer_size,
                    headers,
                    expected_statuses,
                    retriable_statuses,
                    http2,
                    service_name,
                }))
            },
        )
}

fn what() -> impl Strategy<Value = Check> {
    let metadata = btree_map("[a-z]{1,5}", text(), 0..2).prop_map(|set| HeaderOperations {
        set,
        ..HeaderOperations::default()
    });
    let grpc = (text(), text(), metadata).prop_map(|(service_name, authority, metadata)| {
        Check::Grpc(GrpcCheck {
            service_name,
            authority,
            metadata,
        })
    });
    let tcp = (
        prop_oneof![Just(Vec::new()), payload()],
        vec(payload(), 0..3),
    )
        .prop_map(|(send, receive)| Check::Tcp(TcpCheck { send, receive }));
    prop_oneof![over_http(), grpc, tcp]
}

pub(super) fn check() -> impl Strategy<Value = HealthCheck> {
    let policy = any::<[bool; 5]>().prop_map(|[a, b, c, d, e]| CheckPolicy {
        ignore_health_on_host_removal: a,
        ignore_new_hosts_until_first_hc: b,
        close_connections_on_failure: c,
        always_log_failures: d,
        always_log_success: e,
    });
    (
        what(),
        (positive(), positive(), duration(), duration(), any::<u32>()),
        any::<[u32; 2]>(),
        prop_oneof![Just(HealthCheck::NO_TRAFFIC), duration()],
        [
            option::of(duration()),
            option::of(duration()),
            option::of(duration()),
            option::of(duration()),
        ],
        any::<bool>(),
        option::of(any::<u16>()),
        policy,
    )
        .prop_map(
            |(
                check,
                (timeout, interval, initial_jitter, interval_jitter, interval_jitter_percent),
                [unhealthy_threshold, healthy_threshold],
                no_traffic_interval,
                [
                    no_traffic_healthy_interval,
                    unhealthy_interval,
                    unhealthy_edge_interval,
                    healthy_edge_interval,
                ],
                reuse_connection,
                alt_port,
                policy,
            )| HealthCheck {
                check,
                timeout,
                interval,
                initial_jitter,
                interval_jitter,
                interval_jitter_percent,
                unhealthy_threshold,
                healthy_threshold,
                no_traffic_interval,
                no_traffic_healthy_interval,
                unhealthy_interval,
                unhealthy_edge_interval,
                healthy_edge_interval,
                reuse_connection,
                alt_port,
                policy,
            },
        )
}

/// What differs for one endpoint.
pub(super) fn endpoint() -> impl Strategy<Value = Option<Box<EndpointCheck>>> {
    let address = socket().prop_filter("needs a port", |address| address.port() != 0);
    (any::<bool>(), option::of(address), text()).prop_map(|(disabled, address, hostname)| {
        let found = EndpointCheck {
            disabled,
            address,
            hostname,
        };
        (found != EndpointCheck::default()).then(|| Box::new(found))
    })
}
