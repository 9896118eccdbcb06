//! Behaviour from outside: real sockets, real files, real processes.

mod capture;
mod identity;
mod local;
mod store;
