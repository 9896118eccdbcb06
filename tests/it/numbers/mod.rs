//! The numbers of proxies in a control plane.

mod large;
