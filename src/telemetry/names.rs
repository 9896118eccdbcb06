//! The one table of metric names, units and buckets (Istio's standard metrics).

/// What a metric's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with a sum.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Full name; counters end in `_total`.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// What the value means.
    pub kind: Kind,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        help,
        kind: Kind::Counter,
    }
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        help,
        kind: Kind::Histogram,
    }
}

/// A gauge of the proxy itself.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        help,
        kind: Kind::Gauge,
    }
}

/// Requests, by response code and flags.
pub const REQUESTS: Metric = counter("istio_requests_total", "Requests handled.");
/// From the first byte of the request to the last of the response.
pub const REQUEST_DURATION: Metric = histogram(
    "istio_request_duration_milliseconds",
    "Duration of requests in milliseconds.",
);
/// Head and body.
pub const REQUEST_BYTES: Metric = histogram(
    "istio_request_bytes",
    "Size of requests in bytes, head and body.",
);
/// Head and body.
pub const RESPONSE_BYTES: Metric = histogram(
    "istio_response_bytes",
    "Size of responses in bytes, head and body.",
);
/// Bytes that a TCP caller was sent.
pub const TCP_SENT: Metric = counter(
    "istio_tcp_sent_bytes_total",
    "Bytes sent to callers over TCP connections.",
);
/// Bytes that a TCP caller sent.
pub const TCP_RECEIVED: Metric = counter(
    "istio_tcp_received_bytes_total",
    "Bytes received from callers over TCP connections.",
);
/// TCP connections that began.
pub const TCP_OPENED: Metric = counter(
    "istio_tcp_connections_opened_total",
    "TCP connections opened.",
);
/// TCP connections that ended.
pub const TCP_CLOSED: Metric = counter(
    "istio_tcp_connections_closed_total",
    "TCP connections closed.",
);
/// Tries after the first, by how the request ended.
pub const RETRIES: Metric = counter("meshctl_retries_total", "Tries after the first.");
/// Connections that began, by what protects them.
pub const EDGE_OPENED: Metric = counter(
    "meshctl_edge_connections_opened_total",
    "Connections opened, by what protects them.",
);
/// Connections that ended, by what protects them.
pub const EDGE_CLOSED: Metric = counter(
    "meshctl_edge_connections_closed_total",
    "Connections closed, by what protects them.",
);
/// Requests on such connections; from the caller's side, tries.
pub const EDGE_REQUESTS: Metric = counter(
    "meshctl_edge_requests_total",
    "Requests, by what protects the connection that they were on.",
);
/// Bytes from callers over connections that carry bytes.
pub const EDGE_RECEIVED: Metric = counter(
    "meshctl_edge_received_bytes_total",
    "Bytes received from callers over TCP connections, by what protects these.",
);
/// Bytes to callers over connections that carry bytes.
pub const EDGE_SENT: Metric = counter(
    "meshctl_edge_sent_bytes_total",
    "Bytes sent to callers over TCP connections, by what protects these.",
);
/// Answers to copies of requests, by what came of comparing them with those that callers got.
pub const SHADOW_COMPARED: Metric = counter(
    "meshctl_shadow_compared_total",
    "Answers to copies of requests that were held against those that callers got.",
);
/// Differences between them, by what differs and where.
pub const SHADOW_DIFFERENCES: Metric = counter(
    "meshctl_shadow_differences_total",
    "Differences between answers to copies of requests and those that callers got.",
);
/// Since when an endpoint is left out that a proxy has ejected, by cluster, endpoint and reason.
pub const EJECTED_SINCE: Metric = gauge(
    "meshctl_outlier_ejected_timestamp_seconds",
    "When an endpoint was ejected that still is, since the epoch.",
);
/// Until when; the same labels.
pub const EJECTED_UNTIL: Metric = gauge(
    "meshctl_outlier_ejected_until_timestamp_seconds",
    "When an endpoint that is ejected may be called again, since the epoch.",
);
/// Events that were counted under `unknown`, because there were too many label sets.
pub const OVERFLOW: Metric = counter(
    "meshctl_metrics_overflow_total",
    "Events counted under unknown because there were too many label sets.",
);

/// Label sets, by kind, that a worker asked for when there were too many: they are counted under `unknown`.
pub const FOLDED: Metric = counter(
    "meshctl_metrics_folded_label_sets_total",
    "Label sets of a worker counted under unknown because there were too many.",
);

/// HTTP/2 connections that were ended over what the peer did, by side and by what it was.
pub const HTTP2_ENDED: Metric = counter(
    "meshctl_http2_connections_ended_total",
    "HTTP/2 connections ended over a fault of the peer.",
);

/// Upper bounds of histograms, in thousandths of their unit (ms or bytes): Envoy's defaults.
pub const BOUNDS_MILLI: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Upper bounds of the latencies that proxies tell the control plane, in microseconds: preferred numbers of ISO 3
/// (R20) from 0.05 ms to 10 s, so that neighbours differ by at most 14.3 percent, and coarser ones above. All of
/// [`BOUNDS_MILLI`] are among them, so what `/metrics` says is the same counts put together.
pub const LATENCY_MICROS: [u64; 123] = [
    50,
    56,
    63,
    71,
    80,
    90,
    100,
    112,
    125,
    140,
    160,
    180,
    200,
    224,
    250,
    280,
    315,
    355,
    400,
    450,
    500,
    560,
    630,
    710,
    800,
    900,
    1_000,
    1_120,
    1_250,
    1_400,
    1_600,
    1_800,
    2_000,
    2_240,
    2_500,
    2_800,
    3_150,
    3_550,
    4_000,
    4_500,
    5_000,
    5_600,
    6_300,
    7_100,
    8_000,
    9_000,
    10_000,
    11_200,
    12_500,
    14_000,
    16_000,
    18_000,
    20_000,
    22_400,
    25_000,
    28_000,
    31_500,
    35_500,
    40_000,
    45_000,
    50_000,
    56_000,
    63_000,
    71_000,
    80_000,
    90_000,
    100_000,
    112_000,
    125_000,
    140_000,
    160_000,
    180_000,
    200_000,
    224_000,
    250_000,
    280_000,
    315_000,
    355_000,
    400_000,
    450_000,
    500_000,
    560_000,
    630_000,
    710_000,
    800_000,
    900_000,
    1_000_000,
    1_120_000,
    1_250_000,
    1_400_000,
    1_600_000,
    1_800_000,
    2_000_000,
    2_240_000,
    2_500_000,
    2_800_000,
    3_150_000,
    3_550_000,
    4_000_000,
    4_500_000,
    5_000_000,
    5_600_000,
    6_300_000,
    7_100_000,
    8_000_000,
    9_000_000,
    10_000_000,
    12_500_000,
    15_000_000,
    20_000_000,
    25_000_000,
    30_000_000,
    40_000_000,
    50_000_000,
    60_000_000,
    90_000_000,
    120_000_000,
    180_000_000,
    240_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Label of request metrics beyond Istio's: the route that the caller's proxy took.
pub const ROUTE: &str = "route_name";

/// Label names of every standard metric, in the order of `event`'s values.
pub const LABELS: [&str; 21] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "connection_security_policy",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_buckets_are_ours_put_together_and_ours_are_narrow() {
        assert!(LATENCY_MICROS.is_sorted());
        assert!(
            BOUNDS_MILLI
                .iter()
                .all(|bound| LATENCY_MICROS.contains(bound))
        );
        for pair in LATENCY_MICROS.windows(2) {
            if let [lower, upper] = pair
                && *upper <= 10_000_000
            {
                assert!(upper * 1_000 <= lower * 1_143, "{lower} {upper}");
            }
        }
    }
}
