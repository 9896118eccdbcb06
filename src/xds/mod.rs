//! The wire between control plane and proxies: views to Envoy messages and back, and the subscription protocol.
