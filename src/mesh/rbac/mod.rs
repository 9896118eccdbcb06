//! Who may do what: role-based access control as Envoy has it (`envoy.filters.http.rbac` and
//! `envoy.filters.network.rbac`), with terms over a connection and, where there is one, its request.
//!
//! What people write ([`super::authorization`]) is compiled to this; [`judge`] says what follows.

mod judge;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use judge::{Facts, Reading, Verdict, holds};
pub use template::{PathTemplate, TemplateError};

use super::listener::is_default;
use super::route::{ClaimMatch, HeaderMatch, TextMatch};

/// Rules that are kept to, and rules whose outcome is only counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rbac {
    /// Kept to; none lets everything pass.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Option<Arc<Rules>>,
    /// Only counted (a dry run).
    #[serde(skip_serializing_if = "is_default")]
    pub shadow: Option<Arc<Rules>>,
    /// Before the names of what is counted.
    #[serde(skip_serializing_if = "is_default")]
    pub stat_prefix: String,
    /// The same for `shadow`.
    #[serde(skip_serializing_if = "is_default")]
    pub shadow_prefix: String,
}

/// Policies of one action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// What follows when one of them holds.
    pub action: Action,
    /// By name.
    pub policies: BTreeMap<String, Entry>,
}

/// What follows from rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Only what a policy holds for passes.
    #[default]
    Allow,
    /// What a policy holds for does not pass.
    Deny,
    /// Everything passes; what a policy holds for is noted.
    Log,
}

/// Holds when one of `permissions` and one of `principals` hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// What is done.
    pub permissions: Vec<Term>,
    /// Who does it.
    pub principals: Vec<Term>,
}

/// A condition on a connection and its request. Conditions on requests do not hold for bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Term {
    /// Holds always.
    Any,
    /// Holds when all do.
    All(Vec<Term>),
    /// Holds when one does.
    OneOf(Vec<Term>),
    /// Holds when that does not.
    Not(Box<Term>),
    /// A header, or `:method`, `:scheme`.
    Header(HeaderMatch),
    /// The host that is asked for, whatever its case, with or without its port.
    Host(TextMatch),
    /// The path without its query.
    Path(TextMatch),
    /// The same, by segments.
    Template(PathTemplate),
    /// What a verified token says.
    Claim(ClaimMatch),
    /// The address that the caller meant. Only in permissions.
    To(IpNet),
    /// The port that the caller meant is one from the first to the second. Only in permissions.
    ToPorts(u16, u16),
    /// The TLS server name; empty where there is none. Only in permissions.
    ServerName(TextMatch),
    /// The caller's proven identity; [`TextMatch::Present`] is any. Only in principals.
    Caller(TextMatch),
    /// The address of whoever connected. Only in principals.
    From(IpNet),
    /// The address of whoever began, as trusted proxies tell it. Only in principals.
    Behind(IpNet),
}

impl Term {
    /// Whether it is about requests, and so never holds for bytes.
    pub fn is_of_requests(&self) -> bool {
        match self {
            Self::Header(_)
            | Self::Host(_)
            | Self::Path(_)
            | Self::Template(_)
            | Self::Claim(_) => true,
            Self::All(terms) | Self::OneOf(terms) => terms.iter().any(Self::is_of_requests),
            Self::Not(term) => term.is_of_requests(),
            Self::Any
            | Self::To(_)
            | Self::ToPorts(..)
            | Self::ServerName(_)
            | Self::Caller(_)
            | Self::From(_)
            | Self::Behind(_) => false,
        }
    }
}
