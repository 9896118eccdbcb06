//! The web page over the API.
//!
//! Owns the page's bundle ([`bundle`]), who may talk to it ([`guard`]) and the listener that serves both ([`mod@serve`]).
//! What the page shows is what the API answers: requests below the API's prefix are handed to whoever started the
//! listener, with nothing of the browser's in them but method, path and body. The bundle's sources are `assets/web`.

pub mod bundle;
pub mod guard;
pub mod serve;

pub use guard::Secret;
pub use serve::{About, Question, Relay, serve};
