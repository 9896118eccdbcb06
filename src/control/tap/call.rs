//! A call out of Envoy's message.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::data::accesslog::v3 as accesslog;

use crate::api::tap::Call;
use crate::mesh::{Node, World};

use super::Asked;

/// The call that the proxy of `node` tells of. Its own end of it is what `node` has proven, whatever is said.
pub(super) fn call(
    entry: accesslog::HttpAccessLogEntry,
    node: &Node,
    world: &World,
    asked: &Asked,
) -> Call {
    let common = entry.common_properties.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let tag = |name: &str| common.custom_tags.get(name).map_or("", String::as_str);
    let named = |workload: &str, namespace: &str| match (workload, namespace) {
        ("", _) => String::new(),
        (workload, "") => workload.to_owned(),
        (workload, namespace) => format!("{workload}.{namespace}"),
    };
    let own = named(&node.workload, &node.namespace);
    let caller = named(tag("source_workload"), tag("source_workload_namespace"));
    let answerer = named(
        tag("destination_workload"),
        tag("destination_workload_namespace"),
    );
    let known = |name: String, at: Option<&core::Address>| {
        if name.is_empty() { address(at) } else { name }
    };
    let inbound = tag("reporter") == "destination";
    let (source, destination, version) = if inbound {
        let key = (node.namespace.clone(), node.name.clone());
        let instance = world.instances.get(&key);
        let version = instance.map(|instance| instance.canonical_revision().to_owned());
        let from = common.downstream_remote_address.as_ref();
        (known(caller, from), own, version.unwrap_or_default())
    } else {
        let to = common.upstream_remote_address.as_ref();
        let version = tag("destination_version").to_owned();
        (own, known(answerer, to), version)
    };
    let path = if asked.query {
        request.path.clone()
    } else {
        let path = request.path.split(['?', '#']).next();
        path.unwrap_or_default().to_owned()
    };
    let duration = common.duration.as_ref().and_then(|time| {
        let nanos = u32::try_from(time.nanos).ok()?;
        Some(Duration::new(u64::try_from(time.seconds).ok()?, nanos))
    });
    let headers: BTreeMap<String, String> = request.request_headers.into_iter().collect();
    let method = match tag("request_method") {
        "" => core::RequestMethod::try_from(request.request_method)
            .unwrap_or_default()
            .as_str_name(),
        method => method,
    };
    let trace_id = trace(&headers);
    Call {
        at_unix_ms: common.start_time.map_or(0, |at| {
            let millis = at.seconds.saturating_mul(1_000) + i64::from(at.nanos / 1_000_000);
            u64::try_from(millis).unwrap_or(0)
        }),
        source,
        destination,
        service: named(
            tag("destination_service_name"),
            tag("destination_service_namespace"),
        ),
        version,
        method: method.to_owned(),
        authority: request.authority,
        path,
        status: response
            .response_code
            .map_or(0, |code| u16::try_from(code.value).unwrap_or(0)),
        grpc_status: response
            .response_trailers
            .get("grpc-status")
            .and_then(|status| status.parse().ok()),
        flags: common
            .response_flags
            .as_ref()
            .map_or_else(String::new, flags),
        duration_ms: duration.unwrap_or_default().as_secs_f64() * 1_000.0,
        request_bytes: request.request_body_bytes,
        response_bytes: response.response_body_bytes,
        protocol: match tag("request_protocol") {
            "grpc" => "grpc".to_owned(),
            _ => "http".to_owned(),
        },
        mtls: tag("connection_security_policy") == "mutual_tls",
        route: common.route_name.clone(),
        request_id: request.request_id,
        trace_id,
        headers: headers
            .into_iter()
            .filter(|(name, _)| asked.show.contains(name))
            .collect(),
    }
}

fn address(at: Option<&core::Address>) -> String {
    match at.and_then(|at| at.address.as_ref()) {
        Some(core::address::Address::SocketAddress(at)) => at.address.clone(),
        _ => String::new(),
    }
}

/// The trace of a call, from W3C's field or from Zipkin's.
fn trace(headers: &BTreeMap<String, String>) -> Option<String> {
    let is_id =
        |id: &&str| matches!(id.len(), 16 | 32) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ours = headers.get("traceparent");
    let ours = ours.and_then(|value| value.split('-').nth(1)).filter(is_id);
    let zipkin = headers
        .get("x-b3-traceid")
        .map(String::as_str)
        .filter(is_id);
    ours.or(zipkin).map(str::to_owned)
}

/// Envoy's letters for what went wrong.
fn flags(flags: &accesslog::ResponseFlags) -> String {
    let all = [
        ("UH", flags.no_healthy_upstream),
        ("UT", flags.upstream_request_timeout),
        ("LR", flags.local_reset),
        ("UR", flags.upstream_remote_reset),
        ("UF", flags.upstream_connection_failure),
        ("UC", flags.upstream_connection_termination),
        ("UO", flags.upstream_overflow),
        ("NR", flags.no_route_found),
        ("DI", flags.delay_injected),
        ("FI", flags.fault_injected),
        ("RL", flags.rate_limited),
        ("UAEX", flags.unauthorized_details.is_some()),
        ("RLSE", flags.rate_limit_service_error),
        ("DC", flags.downstream_connection_termination),
        ("URX", flags.upstream_retry_limit_exceeded),
        ("SI", flags.stream_idle_timeout),
        ("DPE", flags.downstream_protocol_error),
        ("UMSDR", flags.upstream_max_stream_duration_reached),
        ("DT", flags.duration_timeout),
        ("UPE", flags.upstream_protocol_error),
        ("NC", flags.no_cluster_found),
        ("OM", flags.overload_manager),
        ("DF", flags.dns_resolution_failure),
        ("DR", flags.downstream_remote_reset),
    ];
    let raised = all.iter().filter(|(_, raised)| *raised);
    raised.map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::super::report::caller;
    use super::*;

    fn entry() -> accesslog::HttpAccessLogEntry {
        let tags = [
            ("reporter", "source"),
            ("source_workload", "somebody-else"),
            ("source_workload_namespace", "prod"),
            ("destination_workload", "reviews-v1"),
            ("destination_workload_namespace", "default"),
        ];
        let headers = [
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
            ("authorization", "Bearer secret"),
            ("x-user", "anna"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        accesslog::HttpAccessLogEntry {
            common_properties: Some(accesslog::AccessLogCommon {
                custom_tags: tags.map(owned).into_iter().collect(),
                ..accesslog::AccessLogCommon::default()
            }),
            request: Some(accesslog::HttpRequestProperties {
                path: "/reviews/1?token=secret".to_owned(),
                request_headers: headers.map(owned).into_iter().collect(),
                ..accesslog::HttpRequestProperties::default()
            }),
            ..accesslog::HttpAccessLogEntry::default()
        }
    }

    fn told(asked: &Asked) -> Call {
        let node = Node {
            workload: "productpage-v1".to_owned(),
            ..caller(&World::default(), "", "default").unwrap()
        };
        call(entry(), &node, &World::default(), asked)
    }

    #[test]
    fn a_proxy_speaks_for_its_own_workload_whatever_it_says() {
        let call = told(&Asked::default());
        assert_eq!(call.source, "productpage-v1.default");
        assert_eq!(call.destination, "reviews-v1.default");
    }

    #[test]
    fn queries_and_fields_are_not_shown_unless_asked_for() {
        let call = told(&Asked::default());
        assert!(!serde_json::to_string(&call).unwrap().contains("secret"));
        assert_eq!(call.path, "/reviews/1");
        assert_eq!(
            call.trace_id.as_deref(),
            Some("0af7651916cd43dd8448eb211c80319c")
        );
        let call = told(&Asked {
            show: vec!["x-user".to_owned()],
            query: true,
            ..Asked::default()
        });
        assert_eq!(call.path, "/reviews/1?token=secret");
        assert_eq!(call.headers.len(), 1);
        assert_eq!(call.headers["x-user"], "anna");
    }
}
