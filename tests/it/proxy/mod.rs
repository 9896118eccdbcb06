//! The data path between real sockets.

mod admin;
mod balance;
mod checked;
mod choice;
mod http1;
mod http2;
mod http2_safety;
mod introduced;
mod lifecycle;
mod mtls;
mod outlier;
mod resilience;
mod retries;
mod sni;
mod timeouts;
mod support;
mod tcp;
