//! What is to be said of an object: the conditions of its status, and where in it a fault is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::resource::gateway_api::{ParentRef, RouteKind};
use crate::resource::object::Key;

/// A condition of a status, in the API's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::resource) struct Condition {
    /// Its type.
    pub(in crate::resource) kind: &'static str,
    /// Whether it holds.
    pub(in crate::resource) holds: bool,
    /// The API's reason.
    pub(in crate::resource) reason: &'static str,
    /// For people.
    pub(in crate::resource) message: String,
}

impl Condition {
    pub(super) fn new(
        kind: &'static str,
        fault: Option<(&'static str, String)>,
        ok: &'static str,
    ) -> Self {
        match fault {
            None => Self {
                kind,
                holds: true,
                reason: ok,
                message: String::new(),
            },
            Some((reason, message)) => Self {
                kind,
                holds: false,
                reason,
                message,
            },
        }
    }
}

/// What is said of every object of the API that is served here.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::resource) struct Verdicts {
    /// By key.
    pub(in crate::resource) of: BTreeMap<Key, Verdict>,
}

/// What is said of one object.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::resource) enum Verdict {
    /// Of a GatewayClass.
    Class(Vec<Condition>),
    /// Of a Gateway.
    Gateway(GatewayVerdict),
    /// Of a route, for each of its parents that is served here.
    Route(Vec<ParentVerdict>),
    /// Of a policy, for each Gateway that it has an effect on.
    Policy(Vec<ParentVerdict>),
}

/// What is said of a Gateway.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::resource) struct GatewayVerdict {
    /// Of the whole.
    pub(in crate::resource) conditions: Vec<Condition>,
    /// Of the proxies that serve it.
    pub(in crate::resource) addresses: Vec<IpAddr>,
    /// In the order of its listeners.
    pub(in crate::resource) listeners: Vec<ListenerVerdict>,
}

/// What is said of a listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::resource) struct ListenerVerdict {
    /// Its name.
    pub(in crate::resource) name: String,
    /// Kinds of routes that it takes.
    pub(in crate::resource) kinds: Vec<RouteKind>,
    /// Routes that are attached to it.
    pub(in crate::resource) attached: usize,
    /// In the order in which they are told.
    pub(in crate::resource) conditions: Vec<Condition>,
}

/// What is said of a route for one of its parents.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::resource) struct ParentVerdict {
    /// As the route names it.
    pub(in crate::resource) parent: ParentRef,
    /// Who says so.
    pub(in crate::resource) controller: String,
    /// In the order in which they are told.
    pub(in crate::resource) conditions: Vec<Condition>,
}
