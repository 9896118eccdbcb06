//! What is put into a cluster so that a mesh runs there.
//!
//! Owns the objects of an installation: settings in, objects out. Pure: nothing here talks to an API
//! server, so the same settings give the same objects. Leaves to others who applies them and how
//! they are kept (`source::kubernetes`).

pub mod crd;
