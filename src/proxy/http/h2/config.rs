//! How a connection is spoken, from what is configured and what is not.

use std::time::Duration;

use crate::mesh::http2::Http2Options;

use super::super::super::tables::http::HttpTable;
use super::block::Limits;
use super::client::MAX_STREAMS;
use super::guard::{GuardLimits, PATIENCE};
use super::session::Role;

/// What we tell the peer, and what we expect of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Config {
    /// Streams at once: of a caller, or towards an endpoint. Envoy's `max_concurrent_streams`.
    pub(crate) max_streams: u32,
    /// What one stream may have under way before it is passed on.
    pub(crate) stream_window: u32,
    /// What all streams of a connection may; well above one stream's, or one that stalls blocks all.
    pub(crate) connection_window: u32,
    /// Bytes of the table that the peer compresses heads with.
    pub(crate) table_size: u32,
    /// Whether extended CONNECT is offered (RFC 8441).
    pub(crate) connect: bool,
    pub(crate) limits: GuardLimits,
    /// Data that the peer does not take for this long ends its stream. Envoy's
    /// `stream_idle_timeout`, 5 min.
    pub(crate) stall: Duration,
    /// A connection without streams is closed after this long.
    pub(crate) idle: Option<Duration>,
    /// A head and every frame but DATA must be complete within this.
    pub(crate) patience: Option<Duration>,
    /// What is taken of a head.
    pub(crate) head: Limits,
    /// A server says goodbye after this many streams; 0 is never.
    pub(crate) max_requests: u32,
    /// And after this long.
    pub(crate) max_age: Option<Duration>,
    /// The longest time between its two goodbyes.
    pub(crate) drain: Duration,
    /// PING this often, and how long its answer may take. Envoy's `connection_keepalive`.
    pub(crate) keepalive: Option<(Duration, Duration)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 1000,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            table_size: 4096,
            connect: true,
            limits: GuardLimits::default(),
            stall: Duration::from_mins(5),
            idle: Some(Duration::from_hours(1)),
            patience: Some(PATIENCE),
            head: Limits::default(),
            max_requests: 0,
            max_age: None,
            drain: Duration::from_secs(1),
            keepalive: None,
        }
    }
}

impl Config {
    /// What `options` say, with the defaults of our side.
    pub(crate) fn new(role: Role, options: &Http2Options) -> Self {
        let own = Self::default();
        let limits = &options.limits;
        let guard = own.limits;
        Self {
            max_streams: options.max_concurrent_streams.unwrap_or(match role {
                Role::Client => MAX_STREAMS,
                Role::Server => own.max_streams,
            }),
            stream_window: options
                .initial_stream_window_size
                .unwrap_or(own.stream_window),
            connection_window: options
                .initial_connection_window_size
                .unwrap_or(own.connection_window),
            // More would be memory that callers fill.
            table_size: options
                .hpack_table_size
                .unwrap_or(own.table_size)
                .min(MAX_TABLE),
            keepalive: options
                .connection_keepalive
                .map(|keepalive| (keepalive.interval, keepalive.timeout)),
            limits: GuardLimits {
                empty: limits
                    .max_consecutive_inbound_frames_with_empty_payload
                    .unwrap_or(guard.empty),
                priority_per_stream: limits
                    .max_inbound_priority_frames_per_stream
                    .unwrap_or(guard.priority_per_stream),
                windows_per_data: limits
                    .max_inbound_window_update_frames_per_data_frame_sent
                    .unwrap_or(guard.windows_per_data),
                unread: limits.max_outbound_control_frames.unwrap_or(guard.unread),
                resets: (
                    limits.stream_reset_burst.unwrap_or(guard.resets.0),
                    limits.stream_reset_rate.unwrap_or(guard.resets.1),
                ),
            },
            ..own
        }
    }

    /// What a chain says about its callers.
    pub(crate) fn of(http: &HttpTable) -> Self {
        let options = &http.options;
        let timeouts = &options.timeouts;
        Self {
            idle: timeouts.idle,
            patience: timeouts.request_headers,
            stall: timeouts.stream_idle.unwrap_or(Self::default().stall),
            head: Limits {
                size: http.max_head,
                count: http.max_fields,
            },
            max_requests: options.limits.max_requests_per_connection,
            max_age: timeouts.max_connection,
            drain: timeouts.drain,
            ..Self::new(Role::Server, &options.http2)
        }
    }
}

/// The largest table that callers may compress heads with.
const MAX_TABLE: u32 = 64 * 1024;
