//! Calls as they happen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One call, a line of `GET /tap`. An empty line says only that the tap is still open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Call {
    /// When it began.
    pub at_unix_ms: u64,
    /// Calling workload, `name.namespace`; where that is not known, its address.
    pub source: String,
    /// The workload that answered, `name.namespace`; where that is not known, its address, and empty where none was
    /// reached.
    pub destination: String,
    /// The service that was called, `name.namespace`; empty where no route leads to one.
    pub service: String,
    /// Version of the workload that answered.
    pub version: String,
    /// Method.
    pub method: String,
    /// Host that was asked for.
    pub authority: String,
    /// Path; with its query only where an operator asks for that.
    pub path: String,
    /// Status; 0 where the caller went away before there was one.
    pub status: u16,
    /// `grpc-status`, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// Envoy's response flags; empty where nothing went wrong in a proxy.
    pub flags: String,
    /// From the first to the last byte, in milliseconds.
    pub duration_ms: f64,
    /// Body bytes from the caller.
    pub request_bytes: u64,
    /// Body bytes to the caller.
    pub response_bytes: u64,
    /// `http` or `grpc`.
    pub protocol: String,
    /// Caller and answerer have proven to each other who they are.
    pub mtls: bool,
    /// The route that was taken.
    pub route: String,
    /// `x-request-id`.
    pub request_id: String,
    /// The trace that it is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Fields of the request that were asked for by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}
