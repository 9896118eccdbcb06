//! How HTTP/2 is spoken with a peer, on either side. The fields are Envoy's `Http2ProtocolOptions`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is absent is the proxy's own default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2Options {
    /// Streams of a caller at once (default 1000), or towards an endpoint on one connection
    /// (default 512), where its own limit is not lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_streams: Option<u32>,
    /// Bytes of a stream that may be under way before they are passed on, 65535 to 2^31 - 1.
    /// Default 256 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_stream_window_size: Option<u32>,
    /// The same of all streams of a connection together. Default 4 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_connection_window_size: Option<u32>,
    /// Bytes of the table that the peer may compress heads with. Default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hpack_table_size: Option<u32>,
    /// Asks now and then whether the peer is still there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_keepalive: Option<Keepalive>,
    /// How much a peer may do that costs the proxy and gives nobody anything.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Http2Limits,
}

/// PING, and how long its answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    /// Between two of them.
    pub interval: Duration,
    /// For the answer; then the connection is closed.
    pub timeout: Duration,
}

/// Beyond these a connection is ended with GOAWAY. What is absent is the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2Limits {
    /// Answers of the protocol that the peer does not read. Envoy's default is 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_outbound_control_frames: Option<u32>,
    /// Frames in a row that carry and end nothing. Envoy's default is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_consecutive_inbound_frames_with_empty_payload: Option<u32>,
    /// PRIORITY for each stream that was opened. Envoy's default is 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_inbound_priority_frames_per_stream: Option<u32>,
    /// WINDOW_UPDATE for each frame of data that was sent. Envoy's default is 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_inbound_window_update_frames_per_data_frame_sent: Option<u32>,
    /// Streams that a peer may cancel at once. Default 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_reset_burst: Option<u32>,
    /// And each second after that. nghttp2's default is 33.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_reset_rate: Option<u32>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
