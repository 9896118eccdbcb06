//! How HTTP/2 is spoken.

use super::super::pb::{UInt64Value, core, duration, u32_value};
use crate::mesh::http2::{Http2Options, Keepalive};

/// Nothing is said of what is left to the proxy.
pub(super) fn options(from: &Http2Options) -> core::Http2ProtocolOptions {
    let number = |value: Option<u32>| value.and_then(u32_value);
    let long = |value: Option<u32>| {
        value.map(|value| UInt64Value {
            value: u64::from(value),
        })
    };
    let limits = &from.limits;
    core::Http2ProtocolOptions {
        hpack_table_size: number(from.hpack_table_size),
        max_concurrent_streams: number(from.max_concurrent_streams),
        initial_stream_window_size: number(from.initial_stream_window_size),
        initial_connection_window_size: number(from.initial_connection_window_size),
        connection_keepalive: from.connection_keepalive.map(keepalive),
        max_outbound_control_frames: number(limits.max_outbound_control_frames),
        max_consecutive_inbound_frames_with_empty_payload: number(
            limits.max_consecutive_inbound_frames_with_empty_payload,
        ),
        max_inbound_priority_frames_per_stream: number(
            limits.max_inbound_priority_frames_per_stream,
        ),
        max_inbound_window_update_frames_per_data_frame_sent: number(
            limits.max_inbound_window_update_frames_per_data_frame_sent,
        ),
        stream_reset_burst: long(limits.stream_reset_burst),
        stream_reset_rate: long(limits.stream_reset_rate),
        ..Default::default()
    }
}

fn keepalive(from: Keepalive) -> core::KeepaliveSettings {
    core::KeepaliveSettings {
        interval: duration(from.interval),
        timeout: duration(from.timeout),
        ..Default::default()
    }
}
