//! Reports into text for people: columns, colours, numbers.
//!
//! Owns how things look; computes nothing about the mesh. Every report that the API answers with
//! implements [`Render`] here, one file a part of the API, so that all of them obey `-o` alike.

mod access;
pub(crate) mod analysis;
mod authz;
pub(crate) mod canary;
pub(crate) mod check;
pub(crate) mod config;
mod diff;
mod edges;
mod explain;
mod faults;
pub(crate) mod generic;
pub(crate) mod grid;
pub(crate) mod identity;
pub(crate) mod number;
mod paint;
mod proxies;
pub(crate) mod registry;
pub(crate) mod resources;
pub(crate) mod rollouts;
pub(crate) mod routes;
mod shadow;
pub(crate) mod stats;
pub(crate) mod sarif;
pub(crate) mod tap;
mod traces;
mod wrap;

use serde::Serialize;

use crate::rt::UnixMillis;

pub(crate) use grid::{Cell, Column, Grid};
pub(crate) use paint::{Paint, Tone};

/// What is written on.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Columns; none: as many as it takes.
    pub(crate) width: Option<u16>,
    /// Shows the columns that usually are left out.
    pub(crate) wide: bool,
    pub(crate) paint: Paint,
    /// For ages.
    pub(crate) now_unix_ms: UnixMillis,
}

/// A report that can be shown to people and to programs.
pub(crate) trait Render: Serialize {
    /// For people, with a line end after the last line.
    fn text(&self, page: &Page) -> String;

    /// For `-o name`.
    fn names(&self) -> Vec<String>;

    /// What to say instead of a table without rows.
    fn empty(&self) -> Option<&'static str> {
        None
    }
}

/// Whether the rows come from more than one namespace, so that a column for it is worth its place.
pub(crate) fn mixed<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> bool {
    let mut namespaces = namespaces.into_iter();
    let first = namespaces.next();
    namespaces.any(|namespace| Some(namespace) != first)
}
