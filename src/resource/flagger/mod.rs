//! Flagger's kind, read as far as it says what a rollout of this mesh can do.
//!
//! Flagger makes a second Deployment and three Services and moves pods between them. Here versions are told apart by
//! their label, and nothing is made: the target's pods are the canary as long as another version serves.

mod canary;

pub(super) use canary::canary;
