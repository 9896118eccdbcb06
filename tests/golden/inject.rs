//! The injector.
