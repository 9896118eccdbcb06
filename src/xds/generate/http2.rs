//! How HTTP/2 is spoken.

use std::time::Duration;

use proptest::option;
use proptest::prelude::*;

use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::http2::{Http2Limits, Http2Options, Keepalive};

pub(super) fn options() -> impl Strategy<Value = Http2Options> {
    let window = || option::of(65_535..0x8000_0000_u32);
    let time = || (1..100_000_u64).prop_map(Duration::from_millis);
    let keepalive =
        (time(), time()).prop_map(|(interval, timeout)| Keepalive { interval, timeout });
    let limits = any::<[Option<u32>; 6]>().prop_map(|[a, b, c, d, e, f]| Http2Limits {
        max_outbound_control_frames: a,
        max_consecutive_inbound_frames_with_empty_payload: b,
        max_inbound_priority_frames_per_stream: c,
        max_inbound_window_update_frames_per_data_frame_sent: d,
        stream_reset_burst: e,
        stream_reset_rate: f,
    });
    (
        option::of(1..0x8000_0000_u32),
        (window(), window()),
        any::<Option<u32>>(),
        option::of(keepalive),
        limits,
    )
        .prop_map(
            |(streams, (stream, connection), table, keepalive, limits)| Http2Options {
                max_concurrent_streams: streams,
                initial_stream_window_size: stream,
                initial_connection_window_size: connection,
                hpack_table_size: table,
                connection_keepalive: keepalive,
                limits,
            },
        )
}

/// What is spoken to endpoints; where it is never HTTP/2, nothing is said about that.
pub(super) fn upstream() -> impl Strategy<Value = (UpstreamProtocol, Http2Options)> {
    let spoken = prop_oneof![
        Just(UpstreamProtocol::Http2),
        Just(UpstreamProtocol::Downstream),
        Just(UpstreamProtocol::Negotiated),
    ];
    prop_oneof![
        Just((UpstreamProtocol::Http1, Http2Options::default())),
        (
            spoken,
            prop_oneof![Just(Http2Options::default()), options()]
        ),
    ]
}
