//! The plain model of a mesh: services, workloads, routes, policies, and the view of one proxy.
