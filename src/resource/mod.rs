//! Objects that people write, and the world that they mean.
//!
//! Owns reading (`parse`: text → objects, every mistake with file, line, column and how to mend it)
//! and meaning (`lower`: objects → world, broken references kept in the world as routes that fail
//! closed). One file a kind under `kube`, `istio`, `gateway_api`, `policy`, `smi` and `linkerd`;
//! what Kubernetes says of its pods becomes instances in `running`. Leaves to others where texts come from
//! (`source`), what is asked of a whole world (`mesh::check`, which `analysis` puts beside the rest), and everything that touches a disk.

mod analysis;
mod catalogue;
pub mod codes;
pub mod document;
mod duration;
mod flagger;
pub mod gateway_api;
pub mod istio;
pub mod json;
pub mod kube;
mod labels;
pub mod linkerd;
mod lower;
pub mod names;
mod object;
mod parse;
pub mod policy;
mod reader;
mod running;
mod status;
pub mod smi;
mod suggest;
mod tree;

pub use analysis::{Analysis, analyze};
pub use lower::{CONTROLLER, Instances, lower, mesh_config, named, served_ingresses};
pub use names::{kind_named, kinds, namespaced};
pub use object::{Key, Kind, Metadata, Object, Objects};
pub use parse::{collect, from_cluster, from_store, from_value, parse};
#[cfg(test)]
pub(crate) use reader::asked;
pub use running::{INSTANCE, Moved, Running};
pub use status::{FEATURES as GATEWAY_FEATURES, Statuses, has_status};
pub(crate) use suggest::nearest;
