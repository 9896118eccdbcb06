//! TrafficSplit.

use crate::resource::reader::{Fields, Value};
use crate::resource::tree::Node;

/// A TrafficSplit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrafficSplit {
    /// The service whose calls are split, as written.
    pub service: String,
    /// In order.
    pub backends: Vec<SplitBackend>,
    /// Names of the HTTPRouteGroups whose requests are split; none is every call.
    pub groups: Vec<String>,
}

/// A service and its share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitBackend {
    /// As written.
    pub service: String,
    /// Share of the sum.
    pub weight: u32,
}

pub(in crate::resource) fn traffic_split(fields: &Fields<'_>) -> TrafficSplit {
    let Some(spec) = fields.require("spec") else {
        return TrafficSplit::default();
    };
    let spec = spec.fields();
    let service = spec.require("service").and_then(|value| value.text());
    let written = spec.list("backends");
    let mut backends = Vec::new();
    let mut sum: u64 = 0;
    let mut failed = false;
    for value in &written {
        let fields = value.fields();
        let service = fields.require("service").and_then(|value| value.text());
        let weight = fields.require("weight").and_then(|value| quantity(&value));
        fields.finish();
        failed |= weight.is_none();
        sum += u64::from(weight.unwrap_or_default());
        if let (Some(service), Some(weight)) = (service, weight) {
            backends.push(SplitBackend { service, weight });
        }
    }
    if !failed && sum == 0 {
        spec.value.error_hint(
            "no backend has a weight, so calls could go nowhere",
            "backends: [{service: shop-v1, weight: 90}, {service: shop-v2, weight: 10}]",
        );
    } else if sum > u64::from(u32::MAX) {
        spec.value.error_hint(
            "the weights are too large together",
            "let the weights sum to 100",
        );
    }
    in_units(backends.iter_mut().map(|backend| &mut backend.weight));
    let mut groups = Vec::new();
    for value in spec.list("matches") {
        let fields = value.fields();
        if let Some(group) = fields.get("apiGroup") {
            let known = group.text().is_none_or(|name| name == "specs.smi-spec.io");
            if !known {
                group.refuse(
                    "requests are told apart by kinds of specs.smi-spec.io only",
                    "apiGroup: specs.smi-spec.io",
                );
            }
        }
        let kind = fields.require("kind");
        let name = fields.require("name").and_then(|value| value.text());
        fields.finish();
        match kind.as_ref().and_then(Value::text).as_deref() {
            Some("HTTPRouteGroup") => groups.extend(name),
            Some(other) => {
                let at = kind.as_ref().unwrap_or(&value);
                at.refuse(
                    format!("requests of a {other} cannot be split"),
                    "kind: HTTPRouteGroup",
                );
            }
            None => {}
        }
    }
    spec.finish();
    TrafficSplit {
        service: service.unwrap_or_default(),
        backends,
        groups,
    }
}

/// Weights in thousandths as whole numbers, where they are such: nobody counts in thousandths.
pub(in crate::resource) fn in_units<'a>(weights: impl Iterator<Item = &'a mut u32>) {
    let weights: Vec<&mut u32> = weights.collect();
    if weights.iter().all(|weight| weight.is_multiple_of(1000)) {
        for weight in weights {
            *weight /= 1000;
        }
    }
}

/// A weight in thousandths: a number, or a quantity of Kubernetes such as `900m`, `1` or `1.5k`.
pub(in crate::resource) fn quantity(value: &Value<'_>) -> Option<u32> {
    let text = match &value.tree.node {
        Node::Text(text) => text.clone(),
        Node::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let scales = [("m", 1_u64), ("k", 1_000_000), ("M", 1_000_000_000)];
    let found = scales
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
    let (digits, scale) = found.unwrap_or((&text, 1000));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 9;
    let read = || {
        if !plain(whole) || !plain(part) || (whole.is_empty() && part.is_empty()) {
            return None;
        }
        let number = |text: &str| {
            if text.is_empty() {
                Some(0)
            } else {
                text.parse::<u64>().ok()
            }
        };
        let tenths = 10_u64.checked_pow(u32::try_from(part.len()).ok()?)?;
        let sum = number(whole)?
            .checked_mul(scale)?
            .checked_add(number(part)?.checked_mul(scale)? / tenths)?;
        u32::try_from(sum).ok()
    };
    let weight = read();
    if weight.is_none() {
        value.error_hint(
            format!("expected a weight, found {}", value.tree.node.describe()),
            "a whole number such as 90, or a quantity such as 900m",
        );
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Origin;
    use crate::resource::reader::Report;
    use crate::resource::tree::Tree;

    #[test]
    fn weights_are_quantities() {
        let report = Report::new(Origin::default());
        for (text, weight) in [
            ("900m", Some(900)),
            ("1", Some(1000)),
            ("'90'", Some(90_000)),
            ("0.5", Some(500)),
            ("1.5k", Some(1_500_000)),
            ("0", Some(0)),
            ("-1", None),
            ("1x", None),
            (".", None),
            ("[]", None),
            ("99999999", None),
        ] {
            let tree = Tree::read(text, 1).unwrap();
            assert_eq!(quantity(&Value::root(&tree, &report)), weight, "{text}");
        }
    }
}
