//! Adds the sidecar to a pod template, and takes it out again.
