//! `localityLbSetting` of a DestinationRule or of the mesh.

use crate::mesh::locality::{Distribute, LocalityPattern, LocalitySetting};
use crate::resource::codes;
use crate::resource::reader::Value;

pub(super) fn setting(value: &Value<'_>) -> LocalitySetting {
    let fields = value.fields();
    let setting = LocalitySetting {
        disabled: fields.boolean("enabled") == Some(false),
        distribute: distribute(&fields.list("distribute")),
        failover: fields
            .list("failover")
            .iter()
            .filter_map(failover)
            .collect(),
        priority: fields
            .list("failoverPriority")
            .iter()
            .filter_map(priority)
            .collect(),
    };
    fields.finish();
    let fails_over = !setting.failover.is_empty() || !setting.priority.is_empty();
    if fails_over && !setting.distribute.is_empty() {
        value.error_hint(
            "calls are distributed, or they fail over",
            "remove distribute, or failover and failoverPriority",
        );
    }
    setting
}

fn distribute(values: &[Value<'_>]) -> Vec<Distribute> {
    let mut found: Vec<Distribute> = Vec::new();
    for value in values {
        let fields = value.fields();
        let from = fields.require("from").and_then(|value| {
            let text = value.text()?;
            pattern(&value, &text)
        });
        let to = fields.require("to").map(|value| shares(&value));
        fields.finish();
        let (Some(from), Some(to)) = (from, to) else {
            continue;
        };
        if found.iter().any(|other| other.from.overlaps(&from)) {
            value.error_hint(
                "callers of this place have shares already",
                "name places that do not overlap",
            );
        }
        found.push(Distribute { from, to });
    }
    found
}

fn shares(value: &Value<'_>) -> Vec<(LocalityPattern, u32)> {
    let mut shares: Vec<(LocalityPattern, u32)> = Vec::new();
    for (name, value) in value.entries() {
        let Some(pattern) = pattern(&value, name) else {
            continue;
        };
        if shares.iter().any(|(other, _)| other.overlaps(&pattern)) {
            value.error_hint(
                format!("another of these places overlaps with {name}"),
                "name places that do not overlap",
            );
        }
        let share = value.integer(1, 100).and_then(|n| u32::try_from(n).ok());
        shares.extend(share.map(|share| (pattern, share)));
    }
    let sum: u32 = shares.iter().map(|(_, share)| share).sum();
    if sum != 100 {
        value.error(format!("the shares come to {sum}, and not to 100"));
    }
    shares
}

fn pattern(value: &Value<'_>, text: &str) -> Option<LocalityPattern> {
    let found = LocalityPattern::parse(text);
    if found.is_none() {
        value.error_hint(
            format!("{text:?} is no place"),
            "region/zone/subzone, such as us-east/us-east-1a or us-east/*",
        );
    }
    found
}

fn failover(value: &Value<'_>) -> Option<(String, String)> {
    let fields = value.fields();
    let region = |name| {
        let value = fields.require(name)?;
        let text = value.text()?;
        if text.is_empty() || text.contains(['/', '*']) {
            value.error_hint(format!("{text:?} is no region"), "such as us-east");
            return None;
        }
        Some(text)
    };
    let (from, to) = (region("from"), region("to"));
    fields.finish();
    if from.is_some() && from == to {
        value.error("a region fails over to another than itself");
    }
    Some((from?, to?))
}

fn priority(value: &Value<'_>) -> Option<(String, Option<String>)> {
    let text = value.text()?;
    let (label, own) = match text.split_once('=') {
        Some((label, own)) => (label, Some(own.to_owned())),
        None => (text.as_str(), None),
    };
    if label == "kubernetes.io/hostname" && own.is_none() {
        value.warn(
            codes::IGNORED,
            "meshctl does not know yet which machine an endpoint runs on, so this label tells nothing apart",
            "remove it",
        );
    }
    if label.is_empty() {
        value.error_hint("a label is missing", "such as topology.kubernetes.io/zone");
        return None;
    }
    Some((label.to_owned(), own))
}
