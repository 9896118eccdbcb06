//! The data path between real sockets.

mod admin;
mod answers;
mod balance;
mod checked;
mod choice;
mod corpus;
mod detection;
mod faults;
mod http1;
mod http2;
mod http2_connect;
mod http2_safety;
mod introduced;
mod lifecycle;
mod mtls;
mod mutations;
mod options;
mod outlier;
mod reader;
mod resilience;
mod retries;
mod sni;
mod strict;
mod support;
mod tcp;
mod timeouts;
