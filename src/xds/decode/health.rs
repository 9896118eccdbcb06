//! Outlier detection and active health checks.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::pb::{
    BoolValue, CodecClientType, Int64Range, PbDuration, UInt32Value, cluster, core, endpoint,
    to_address,
};
use super::super::structs::{MESHCTL, RESPONSE_TIME, as_number, as_object, as_span, part};
use super::fields::Fields;
use super::{Fault, duration_or, route};
use crate::mesh::health_check::{
    Check, CheckPolicy, EndpointCheck, GrpcCheck, HealthCheck, HttpCheck, Method, StatusRange,
    TcpCheck,
};
use crate::mesh::outlier::{FailurePercentage, OutlierDetection, ResponseTime, SuccessRate};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&OUTLIER, &CHECK, &HTTP, &GRPC, &TCP, &ENDPOINT];

const OUTLIER: Fields = Fields {
    message: "OutlierDetection",
    understood: &[
        (1, "consecutive_5xx"),
        (2, "interval"),
        (3, "base_ejection_time"),
        (4, "max_ejection_percent"),
        (5, "enforcing_consecutive_5xx"),
        (6, "enforcing_success_rate"),
        (7, "success_rate_minimum_hosts"),
        (8, "success_rate_request_volume"),
        (9, "success_rate_stdev_factor"),
        (10, "consecutive_gateway_failure"),
        (11, "enforcing_consecutive_gateway_failure"),
        (12, "split_external_local_origin_errors"),
        (13, "consecutive_local_origin_failure"),
        (14, "enforcing_consecutive_local_origin_failure"),
        (15, "enforcing_local_origin_success_rate"),
        (16, "failure_percentage_threshold"),
        (17, "enforcing_failure_percentage"),
        (18, "enforcing_failure_percentage_local_origin"),
        (19, "failure_percentage_minimum_hosts"),
        (20, "failure_percentage_request_volume"),
        (21, "max_ejection_time"),
        (22, "max_ejection_time_jitter"),
        (23, "successful_active_health_check_uneject_host"),
        (25, "always_eject_one_host"),
    ],
    tuning: &[(26, "detect_degraded_hosts")],
    refused: &[(24, "monitors")],
};
const CHECK: Fields = Fields {
    message: "HealthCheck",
    understood: &[
        (1, "timeout"),
        (2, "interval"),
        (3, "interval_jitter"),
        (4, "unhealthy_threshold"),
        (5, "healthy_threshold"),
        (6, "alt_port"),
        (7, "reuse_connection"),
        (8, "http_health_check"),
        (9, "tcp_health_check"),
        (11, "grpc_health_check"),
        (12, "no_traffic_interval"),
        (14, "unhealthy_interval"),
        (15, "unhealthy_edge_interval"),
        (16, "healthy_edge_interval"),
        (18, "interval_jitter_percent"),
        (19, "always_log_health_check_failures"),
        (20, "initial_jitter"),
        (24, "no_traffic_healthy_interval"),
        (26, "always_log_health_check_success"),
    ],
    tuning: &[
        (17, "event_log_path"),
        (22, "event_service"),
        (25, "event_logger"),
    ],
    refused: &[
        (13, "custom_health_check"),
        (21, "tls_options"),
        (23, "transport_socket_match_criteria"),
    ],
};
const HTTP: Fields = Fields {
    message: "HttpHealthCheck",
    understood: &[
        (1, "host"),
        (2, "path"),
        (3, "send"),
        (4, "receive"),
        (6, "request_headers_to_add"),
        (8, "request_headers_to_remove"),
        (9, "expected_statuses"),
        (10, "codec_client_type"),
        (11, "service_name_matcher"),
        (12, "retriable_statuses"),
        (13, "method"),
        (14, "response_buffer_size"),
    ],
    tuning: &[],
    refused: &[],
};
const TCP: Fields = Fields {
    message: "TcpHealthCheck",
    understood: &[(1, "send"), (2, "receive")],
    tuning: &[],
    refused: &[(3, "proxy_protocol_config")],
};
const GRPC: Fields = Fields {
    message: "GrpcHealthCheck",
    understood: &[
        (1, "service_name"),
        (2, "authority"),
        (3, "initial_metadata"),
    ],
    tuning: &[],
    refused: &[],
};
const ENDPOINT: Fields = Fields {
    message: "HealthCheckConfig",
    understood: &[
        (1, "port_value"),
        (2, "hostname"),
        (3, "address"),
        (4, "disable_active_health_check"),
    ],
    tuning: &[],
    refused: &[],
};

fn value(value: Option<UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

fn flag(value: Option<BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A count with its share of enforcement. A share of 0 with no count is "off", as is a count of 0.
fn rule(
    count: Option<UInt32Value>,
    share: Option<UInt32Value>,
    (usual_count, usual_share): (u32, u32),
) -> (u32, u32) {
    match (count.map(|count| count.value), value(share, usual_share)) {
        (Some(0), _) | (None, 0) => (0, 100),
        (count, share) => (count.unwrap_or(usual_count), share),
    }
}

/// What is absent is Envoy's default.
pub(super) fn outlier(
    from: &cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<Option<OutlierDetection>, Fault> {
    let metadata = part(from.metadata.as_ref(), MESHCTL);
    let Some(from) = &from.outlier_detection else {
        return Ok(None);
    };
    OUTLIER.audit(from, ignored)?;
    let usual = OutlierDetection::default();
    let (consecutive_5xx, enforcing_consecutive_5xx) = rule(
        from.consecutive_5xx,
        from.enforcing_consecutive_5xx,
        (5, 100),
    );
    let (consecutive_gateway, enforcing_consecutive_gateway) = rule(
        from.consecutive_gateway_failure,
        from.enforcing_consecutive_gateway_failure,
        (5, 0),
    );
    let split = from.split_external_local_origin_errors;
    let (consecutive_local_origin, enforcing_consecutive_local_origin) = if split {
        rule(
            from.consecutive_local_origin_failure,
            from.enforcing_consecutive_local_origin_failure,
            (5, 100),
        )
    } else {
        (
            usual.consecutive_local_origin,
            usual.enforcing_consecutive_local_origin,
        )
    };
    let rate = SuccessRate::default();
    let failed = FailurePercentage::default();
    let base_ejection = duration_or(
        "base_ejection_time",
        from.base_ejection_time.as_ref(),
        usual.base_ejection,
    )?;
    let max_ejection = optional("max_ejection_time", from.max_ejection_time.as_ref())?;
    if max_ejection.is_some_and(|longest| longest < base_ejection) {
        return Err(Fault::Invalid(
            "max_ejection_time is less than base_ejection_time".to_owned(),
        ));
    }
    Ok(Some(OutlierDetection {
        consecutive_5xx,
        enforcing_consecutive_5xx,
        consecutive_gateway,
        enforcing_consecutive_gateway,
        split_external_local_origin_errors: split,
        consecutive_local_origin,
        enforcing_consecutive_local_origin,
        success_rate: SuccessRate {
            enforcing: value(from.enforcing_success_rate, 100),
            enforcing_local_origin: if split {
                value(from.enforcing_local_origin_success_rate, 100)
            } else {
                0
            },
            minimum_hosts: value(from.success_rate_minimum_hosts, rate.minimum_hosts),
            request_volume: value(from.success_rate_request_volume, rate.request_volume),
            stdev_factor: value(from.success_rate_stdev_factor, rate.stdev_factor),
        },
        failure_percentage: FailurePercentage {
            enforcing: value(from.enforcing_failure_percentage, 0),
            enforcing_local_origin: if split {
                value(from.enforcing_failure_percentage_local_origin, 0)
            } else {
                0
            },
            threshold: value(from.failure_percentage_threshold, failed.threshold),
            minimum_hosts: value(from.failure_percentage_minimum_hosts, failed.minimum_hosts),
            request_volume: value(
                from.failure_percentage_request_volume,
                failed.request_volume,
            ),
        },
        response_time: metadata
            .and_then(|fields| as_object(fields, RESPONSE_TIME))
            .map(|fields| {
                let usual = ResponseTime::default();
                ResponseTime {
                    threshold: as_span(fields, "threshold").unwrap_or(usual.threshold),
                    window: as_span(fields, "window").unwrap_or(usual.window),
                    request_volume: as_number(fields, "requestVolume")
                        .unwrap_or(usual.request_volume),
                    enforcing: as_number(fields, "enforcing").unwrap_or(usual.enforcing),
                }
            }),
        interval: duration_or("interval", from.interval.as_ref(), usual.interval)?,
        base_ejection,
        max_ejection,
        max_ejection_jitter: duration_or(
            "max_ejection_time_jitter",
            from.max_ejection_time_jitter.as_ref(),
            Duration::ZERO,
        )?,
        max_ejection_percent: value(from.max_ejection_percent, 10),
        always_eject_one_host: flag(from.always_eject_one_host, false),
        uneject_on_health_check: flag(from.successful_active_health_check_uneject_host, true),
    }))
}

fn optional(field: &str, from: Option<&PbDuration>) -> Result<Option<Duration>, Fault> {
    from.map(|from| duration_or(field, Some(from), Duration::ZERO))
        .transpose()
}

fn required<T>(field: &str, from: Option<T>) -> Result<T, Fault> {
    from.ok_or_else(|| Fault::Invalid(format!("a health check needs {field}")))
}

/// The one check that Envoy allows a cluster.
pub(super) fn check(
    from: &cluster::Cluster,
    ignored: &mut Vec<String>,
) -> Result<Option<HealthCheck>, Fault> {
    let cluster = from;
    let from = match from.health_checks.as_slice() {
        [] => return Ok(None),
        [only] => only,
        _ => {
            return Err(Fault::Unsupported {
                message: "Cluster",
                field: "health_checks with more than one".to_owned(),
            });
        }
    };
    CHECK.audit(from, ignored)?;
    let time = |field: &str, from: Option<&PbDuration>| match optional(field, from)? {
        Some(time) if !time.is_zero() => Ok(time),
        _ => Err(Fault::Invalid(format!("a health check needs {field}"))),
    };
    let or_none = |field: &str, from: &Option<PbDuration>| optional(field, from.as_ref());
    let or_zero =
        |field: &str, from: &Option<PbDuration>| duration_or(field, from.as_ref(), Duration::ZERO);
    Ok(Some(HealthCheck {
        check: match required("a health_checker", from.health_checker.as_ref())? {
            core::health_check::HealthChecker::HttpHealthCheck(http) => {
                Check::Http(Box::new(over_http(http, ignored)?))
            }
            core::health_check::HealthChecker::GrpcHealthCheck(grpc) => {
                GRPC.audit(grpc, ignored)?;
                Check::Grpc(GrpcCheck {
                    service_name: grpc.service_name.clone(),
                    authority: grpc.authority.clone(),
                    metadata: route::operations(&grpc.initial_metadata, &[])?,
                })
            }
            core::health_check::HealthChecker::TcpHealthCheck(tcp) => {
                TCP.audit(tcp, ignored)?;
                Check::Tcp(TcpCheck {
                    send: tcp.send.as_ref().map_or(Ok(Vec::new()), payload)?,
                    receive: tcp.receive.iter().map(payload).collect::<Result<_, _>>()?,
                })
            }
            core::health_check::HealthChecker::CustomHealthCheck(custom) => {
                return Err(Fault::Unsupported {
                    message: "HealthCheck",
                    field: format!("custom_health_check {:?}", custom.name),
                });
            }
        },
        timeout: time("timeout", from.timeout.as_ref())?,
        interval: time("interval", from.interval.as_ref())?,
        initial_jitter: or_zero("initial_jitter", &from.initial_jitter)?,
        interval_jitter: or_zero("interval_jitter", &from.interval_jitter)?,
        interval_jitter_percent: from.interval_jitter_percent,
        unhealthy_threshold: required("unhealthy_threshold", from.unhealthy_threshold)?.value,
        healthy_threshold: required("healthy_threshold", from.healthy_threshold)?.value,
        no_traffic_interval: duration_or(
            "no_traffic_interval",
            from.no_traffic_interval.as_ref(),
            HealthCheck::NO_TRAFFIC,
        )?,
        no_traffic_healthy_interval: or_none(
            "no_traffic_healthy_interval",
            &from.no_traffic_healthy_interval,
        )?,
        unhealthy_interval: or_none("unhealthy_interval", &from.unhealthy_interval)?,
        unhealthy_edge_interval: or_none("unhealthy_edge_interval", &from.unhealthy_edge_interval)?,
        healthy_edge_interval: or_none("healthy_edge_interval", &from.healthy_edge_interval)?,
        reuse_connection: flag(from.reuse_connection, true),
        alt_port: from
            .alt_port
            .map(|port| u16::try_from(port.value))
            .transpose()
            .map_err(|_| Fault::Invalid("alt_port is not a port".to_owned()))?,
        policy: CheckPolicy {
            ignore_health_on_host_removal: cluster.ignore_health_on_host_removal,
            ignore_new_hosts_until_first_hc: cluster
                .common_lb_config
                .as_ref()
                .is_some_and(|common| common.ignore_new_hosts_until_first_hc),
            close_connections_on_failure: cluster.close_connections_on_host_health_failure,
            always_log_failures: from.always_log_health_check_failures,
            always_log_success: from.always_log_health_check_success,
        },
    }))
}

fn over_http(
    from: &core::health_check::HttpHealthCheck,
    ignored: &mut Vec<String>,
) -> Result<HttpCheck, Fault> {
    use core::RequestMethod as Pb;
    HTTP.audit(from, ignored)?;
    let http2 = match CodecClientType::try_from(from.codec_client_type) {
        Ok(CodecClientType::Http1) => false,
        Ok(CodecClientType::Http2) => true,
        _ => {
            return Err(Fault::Unsupported {
                message: "HttpHealthCheck",
                field: "codec_client_type HTTP3".to_owned(),
            });
        }
    };
    let method = match Pb::try_from(from.method) {
        Ok(Pb::MethodUnspecified | Pb::Get) => Method::Get,
        Ok(Pb::Head) => Method::Head,
        Ok(Pb::Post) => Method::Post,
        Ok(Pb::Put) => Method::Put,
        Ok(Pb::Delete) => Method::Delete,
        Ok(Pb::Options) => Method::Options,
        Ok(Pb::Trace) => Method::Trace,
        Ok(Pb::Patch) => Method::Patch,
        Ok(Pb::Connect) | Err(_) => {
            return Err(Fault::Invalid(
                "a health check cannot use this method".to_owned(),
            ));
        }
    };
    Ok(HttpCheck {
        host: from.host.clone(),
        path: from.path.clone(),
        method,
        send: from.send.as_ref().map_or(Ok(Vec::new()), payload)?,
        receive: from.receive.iter().map(payload).collect::<Result<_, _>>()?,
        response_buffer_size: from.response_buffer_size.as_ref().map(|size| size.value),
        headers: route::operations(
            &from.request_headers_to_add,
            &from.request_headers_to_remove,
        )?,
        expected_statuses: ranges(&from.expected_statuses)?,
        retriable_statuses: ranges(&from.retriable_statuses)?,
        http2,
        service_name: from
            .service_name_matcher
            .as_ref()
            .map(|matcher| route::text(matcher, ignored))
            .transpose()?,
    })
}

/// Text is hexadecimal.
fn payload(from: &core::health_check::Payload) -> Result<Vec<u8>, Fault> {
    let bytes = match &from.payload {
        Some(core::health_check::payload::Payload::Binary(bytes)) => bytes.clone(),
        Some(core::health_check::payload::Payload::Text(text)) => {
            hex(text).ok_or_else(|| Fault::Invalid(format!("{text:?} is not hexadecimal")))?
        }
        None => Vec::new(),
    };
    if bytes.is_empty() {
        return Err(Fault::Invalid("a payload is empty".to_owned()));
    }
    Ok(bytes)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

fn ranges(from: &[Int64Range]) -> Result<Vec<StatusRange>, Fault> {
    let status = |bound: i64| {
        u16::try_from(bound)
            .ok()
            .filter(|b| (100..=600).contains(b))
    };
    from.iter()
        .map(|range| match (status(range.start), status(range.end)) {
            (Some(start), Some(end)) if start < end => Ok(StatusRange { start, end }),
            _ => Err(Fault::Invalid(format!(
                "{}..{} is not a range of statuses from 100 to before 600",
                range.start, range.end
            ))),
        })
        .collect()
}

/// What is different when the endpoint at `own` is checked; nothing is `None`.
pub(super) fn endpoint(
    from: Option<&endpoint::endpoint::HealthCheckConfig>,
    own: SocketAddr,
    ignored: &mut Vec<String>,
) -> Result<Option<Box<EndpointCheck>>, Fault> {
    let Some(from) = from else { return Ok(None) };
    ENDPOINT.audit(from, ignored)?;
    let mut address = match &from.address {
        None => None,
        Some(at) => Some(to_address(Some(at)).ok_or_else(|| {
            Fault::Invalid("address of a health_check_config is not an IP address".to_owned())
        })?),
    };
    if let Some(address) = address.as_mut().filter(|address| address.port() == 0) {
        address.set_port(own.port());
    }
    if from.port_value != 0 {
        let port = u16::try_from(from.port_value)
            .map_err(|_| Fault::Invalid("port_value is not a port".to_owned()))?;
        address.get_or_insert(own).set_port(port);
    }
    let found = EndpointCheck {
        disabled: from.disable_active_health_check,
        address,
        hostname: from.hostname.clone(),
    };
    Ok((found != EndpointCheck::default()).then(|| Box::new(found)))
}
