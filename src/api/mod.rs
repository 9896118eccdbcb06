//! What the control plane and the proxies answer: one struct per report, serialised as it stands.

pub mod local;
