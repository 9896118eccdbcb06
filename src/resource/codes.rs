//! Codes of findings: Istio's where one fits, else ours. Stable, because scripts and
//! suppressions name them.

/// The text is no YAML or JSON.
pub const SYNTAX: &str = "MSH0001";
/// No mesh and no cluster has this kind.
pub const UNKNOWN_KIND: &str = "MSH0002";
/// A known kind, field or value that changes routing or security and is not honoured.
pub const NOT_HONOURED: &str = "MSH0003";
/// A known kind, field or value that is left out without harm.
pub const IGNORED: &str = "MSH0004";
/// One object is written twice.
pub const DUPLICATE: &str = "MSH0005";
/// Two services claim one address.
pub const ADDRESS_CONFLICT: &str = "MSH0006";
/// Weights do not sum to 100.
pub const WEIGHT_SUM: &str = "MSH0007";
/// A rule names a host that is no service of the mesh.
pub const UNKNOWN_ROUTE_HOST: &str = "MSH0008";
/// Two objects say what stands behind one host.
pub const HOST_CONFLICT: &str = "MSH0009";
/// An old form that is read in its modern meaning.
pub const DEPRECATED: &str = "IST0002";
/// A reference to something that does not exist.
pub const MISSING_REFERENCE: &str = "IST0101";
/// Not what the kind's schema says.
pub const SCHEMA: &str = "IST0106";
/// Two Sidecars for all workloads of a namespace.
pub const SEVERAL_SIDECARS: &str = "IST0111";
/// Two VirtualServices for one host.
pub const DUPLICATE_HOST: &str = "IST0109";
/// A destination without a port, on a service with several.
pub const PORT_NEEDED: &str = "IST0112";
/// A condition that no request fulfils which gets to it.
pub const INEFFECTIVE_MATCH: &str = "IST0131";
/// TLS to a service whose policy does not say whom it believes.
pub const UNVERIFIED_DESTINATION: &str = "IST0128";
/// As [`UNVERIFIED_DESTINATION`], for a port of it.
pub const UNVERIFIED_PORT: &str = "IST0129";
/// A rule for a host that its gateway does not serve.
pub const GATEWAY_NOT_FOUND: &str = "IST0132";
/// Of two rules for one host the later has no effect.
pub const SCHEMA_WARNING: &str = "IST0133";
/// Two containers on one port.
pub const PORT_CONFLICT: &str = "IST0137";
/// A DestinationRule for a host that is no service.
pub const UNKNOWN_DESTINATION_HOST: &str = "IST0174";
