//! Linkerd's kinds and annotations, as far as they are honoured: what routes and balances. Who may call
//! whom is refused, as everywhere.

mod condition;
mod ports;
mod service_profile;

pub use service_profile::{DestinationOverride, ProfileRoute, ServiceProfile};

pub(super) use condition::within_target;
pub(super) use ports::{PortRange, port_ranges};
pub(super) use service_profile::service_profile;
