//! TLS that gateways begin towards services (Gateway API: BackendTLSPolicy).
//!
//! It is for gateways alone: a sidecar carries what its application says, which may be that TLS already,
//! and to peers of the mesh it speaks the mesh's own.

use std::collections::BTreeMap;

use super::Hostname;
use super::origination::Origination;

/// How gateways speak to ports of services that have a policy of their own.
pub type BackendSecurity = BTreeMap<(Hostname, u16), BackendTls>;

/// How gateways speak to one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTls {
    /// So.
    Originate(Box<Origination>),
    /// Not at all: whom to believe cannot be had.
    Broken,
}
