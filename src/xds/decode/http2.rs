//! How HTTP/2 is spoken.

use std::time::Duration;

use super::super::pb::core;
use super::fields::Fields;
use super::{Fault, duration_or};
use crate::mesh::http2::{Http2Limits, Http2Options, Keepalive};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&HTTP2, &KEEPALIVE];

const HTTP2: Fields = Fields {
    message: "Http2ProtocolOptions",
    understood: &[
        (1, "hpack_table_size"),
        (2, "max_concurrent_streams"),
        (3, "initial_stream_window_size"),
        (4, "initial_connection_window_size"),
        (8, "max_outbound_control_frames"),
        (9, "max_consecutive_inbound_frames_with_empty_payload"),
        (10, "max_inbound_priority_frames_per_stream"),
        (11, "max_inbound_window_update_frames_per_data_frame_sent"),
        (15, "connection_keepalive"),
        (21, "stream_reset_burst"),
        (22, "stream_reset_rate"),
    ],
    tuning: &[
        // Always there; what may be asked for by it is for `upgrade_configs` to say.
        (5, "allow_connect"),
        // Frames wait with their streams: output is bounded in bytes.
        (7, "max_outbound_frames"),
        // A broken message never ends more than its stream.
        (12, "stream_error_on_invalid_http_messaging"),
        (14, "override_stream_error_on_invalid_http_message"),
        (16, "use_oghttp2_codec"),
        (17, "max_metadata_size"),
        (18, "enable_huffman_encoding"),
        (19, "max_header_field_size_kb"),
    ],
    refused: &[
        (6, "allow_metadata"),
        (13, "custom_settings_parameters"),
        (20, "disallow_obs_text"),
    ],
};
const KEEPALIVE: Fields = Fields {
    message: "KeepaliveSettings",
    understood: &[(1, "interval"), (2, "timeout")],
    tuning: &[(3, "interval_jitter"), (4, "connection_idle_interval")],
    refused: &[],
};

pub(super) fn options(
    from: Option<&core::Http2ProtocolOptions>,
    ignored: &mut Vec<String>,
) -> Result<Http2Options, Fault> {
    let Some(from) = from else {
        return Ok(Http2Options::default());
    };
    HTTP2.audit(from, ignored)?;
    let within = |name: &str, value: Option<u32>, least: u32| match value {
        Some(value) if value < least || value > 0x7fff_ffff => Err(Fault::Invalid(format!(
            "{name} is not between {least} and 2147483647"
        ))),
        value => Ok(value),
    };
    let most = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let keepalive = from.connection_keepalive.as_ref();
    Ok(Http2Options {
        max_concurrent_streams: within(
            "max_concurrent_streams",
            from.max_concurrent_streams.map(|value| value.value),
            1,
        )?,
        initial_stream_window_size: within(
            "initial_stream_window_size",
            from.initial_stream_window_size.map(|value| value.value),
            65_535,
        )?,
        initial_connection_window_size: within(
            "initial_connection_window_size",
            from.initial_connection_window_size.map(|value| value.value),
            65_535,
        )?,
        hpack_table_size: from.hpack_table_size.map(|value| value.value),
        connection_keepalive: match keepalive {
            None => None,
            Some(from) => alive(from, ignored)?,
        },
        limits: Http2Limits {
            max_outbound_control_frames: from.max_outbound_control_frames.map(|v| v.value),
            max_consecutive_inbound_frames_with_empty_payload: from
                .max_consecutive_inbound_frames_with_empty_payload
                .map(|value| value.value),
            max_inbound_priority_frames_per_stream: from
                .max_inbound_priority_frames_per_stream
                .map(|value| value.value),
            max_inbound_window_update_frames_per_data_frame_sent: from
                .max_inbound_window_update_frames_per_data_frame_sent
                .map(|value| value.value),
            stream_reset_burst: from.stream_reset_burst.map(|value| most(value.value)),
            stream_reset_rate: from.stream_reset_rate.map(|value| most(value.value)),
        },
    })
}

/// Without an interval nothing is asked; the answer has no default time.
fn alive(
    from: &core::KeepaliveSettings,
    ignored: &mut Vec<String>,
) -> Result<Option<Keepalive>, Fault> {
    KEEPALIVE.audit(from, ignored)?;
    let time = |name, value| duration_or(name, value, Duration::ZERO);
    let interval = time("interval", from.interval.as_ref())?;
    let timeout = time("timeout", from.timeout.as_ref())?;
    if timeout.is_zero() {
        return Err(Fault::Invalid(
            "connection_keepalive.timeout is required".to_owned(),
        ));
    }
    Ok((!interval.is_zero()).then_some(Keepalive { interval, timeout }))
}

#[cfg(test)]
mod tests {
    use super::super::super::pb::{PbDuration, UInt32Value};
    use super::*;

    fn read(from: &core::Http2ProtocolOptions) -> Result<Http2Options, Fault> {
        options(Some(from), &mut Vec::new())
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            core::Http2ProtocolOptions {
                initial_stream_window_size: Some(UInt32Value { value: 1000 }),
                ..Default::default()
            },
            core::Http2ProtocolOptions {
                initial_connection_window_size: Some(UInt32Value { value: u32::MAX }),
                ..Default::default()
            },
            core::Http2ProtocolOptions {
                max_concurrent_streams: Some(UInt32Value { value: 0 }),
                ..Default::default()
            },
            core::Http2ProtocolOptions {
                allow_metadata: true,
                ..Default::default()
            },
            core::Http2ProtocolOptions {
                connection_keepalive: Some(core::KeepaliveSettings {
                    interval: Some(PbDuration {
                        seconds: 1,
                        nanos: 0,
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            },
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
        let nothing = core::Http2ProtocolOptions::default();
        assert_eq!(read(&nothing), Ok(Http2Options::default()));
    }
}
