//! The data path between real sockets.

mod admin;
mod balance;
mod checked;
mod choice;
mod faults;
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
mod support;
mod tcp;
mod timeouts;
