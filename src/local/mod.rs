//! Pods without Kubernetes: processes, namespaces, and the sample application.

pub mod app;
