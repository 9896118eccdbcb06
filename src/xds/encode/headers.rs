//! Header edits.

use crate::mesh::Client;
use crate::mesh::route::{HeaderEdits, HeaderOperations};

use super::super::pb::core;

/// What Envoy's routes, virtual hosts and weighted clusters have in common.
#[derive(Default)]
pub(super) struct Edits {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    /// Envoy refuses to set `host` as a header: it is a rewrite there.
    pub(super) host: Option<String>,
}

pub(super) fn encode(edits: &HeaderEdits, client: Client) -> Edits {
    let host = edits
        .request
        .set
        .iter()
        .find(|(name, _)| is_host(name))
        .map(|(_, value)| value.clone())
        .filter(|_| client == Client::Envoy);
    Edits {
        request_add: additions(&edits.request, client),
        request_remove: removals(&edits.request, client),
        response_add: additions(&edits.response, client),
        response_remove: removals(&edits.response, client),
        host,
    }
}

fn is_host(name: &str) -> bool {
    matches!(name, "host" | ":authority")
}

/// Envoy's rule: `host` and pseudo-headers are not edited.
fn allowed(name: &str, client: Client) -> bool {
    client != Client::Envoy || !(is_host(name) || name.starts_with(':') || name.is_empty())
}

pub(super) fn removals(operations: &HeaderOperations, client: Client) -> Vec<String> {
    operations
        .remove
        .iter()
        .filter(|name| allowed(name, client))
        .cloned()
        .collect()
}

pub(super) fn additions(
    operations: &HeaderOperations,
    client: Client,
) -> Vec<core::HeaderValueOption> {
    use core::header_value_option::HeaderAppendAction as Action;
    let option = |(name, value): (&String, &String), action: Action| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.clone(),
            value: match client {
                Client::Envoy => literal_percent(value),
                Client::Meshctl | Client::Grpc => value.clone(),
            },
            ..Default::default()
        }),
        append_action: action.into(),
        keep_empty_value: value.is_empty(),
        ..Default::default()
    };
    operations
        .set
        .iter()
        .map(|entry| (entry, Action::OverwriteIfExistsOrAdd))
        .chain(
            operations
                .add
                .iter()
                .map(|entry| (entry, Action::AppendIfExistsOrAdd)),
        )
        .chain(
            operations
                .add_if_absent
                .iter()
                .map(|entry| (entry, Action::AddIfAbsent)),
        )
        .filter(|((name, _), _)| allowed(name, client))
        .map(|(entry, action)| option(entry, action))
        .collect()
}

/// Envoy reads header values as formats and refuses what is none, so a lone percent sign is doubled;
/// pairs stay, because Istio's users write Envoy's operators on purpose.
fn literal_percent(value: &str) -> String {
    if value.matches('%').count().is_multiple_of(2) {
        value.to_owned()
    } else {
        value.replace('%', "%%")
    }
}
