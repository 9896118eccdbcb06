//! `trafficPolicy.loadBalancer` of a DestinationRule.

use std::time::Duration;

use super::locality;
use crate::mesh::LoadBalancer;
use crate::mesh::balancing::{Balancing, RingHash, SlowStart};
use crate::mesh::route::{HashCookie, HashOf, HashPolicy};
use crate::mesh::world::LoadBalancing;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// Envoy refuses larger tables.
const LARGEST_TABLE: u32 = 5_000_011;

#[derive(Clone, Copy, PartialEq)]
enum Simple {
    Policy(LoadBalancer),
    Passthrough,
}

pub(super) fn load_balancer(value: &Value<'_>) -> Option<LoadBalancing> {
    let fields = value.fields();
    fields.ignore(
        "zoneAwareLbSetting",
        "localityLbSetting is honoured: its distribute, failover and failoverPriority",
    );
    let locality = fields
        .get("localityLbSetting")
        .map(|value| locality::setting(&value));
    let simple = fields.get("simple").and_then(|value| simple(&value));
    let hashed = fields
        .get("consistentHash")
        .map(|value| consistent_hash(&value));
    let slow_start = slow_start(&fields);
    fields.finish();
    let mut found = match (hashed, simple) {
        (Some(_), Some(_)) => {
            value.error_hint(
                "both \"simple\" and \"consistentHash\" choose the endpoint",
                "remove one of them",
            );
            return None;
        }
        (Some(hashed), None) => hashed,
        (None, Some(Simple::Passthrough)) => LoadBalancing {
            passthrough: true,
            ..LoadBalancing::default()
        },
        (None, Some(Simple::Policy(policy))) => LoadBalancing {
            policy,
            ..LoadBalancing::default()
        },
        // Istio's default with a slow start or localities is still its default policy.
        (None, None) if slow_start.is_some() || locality.is_some() => LoadBalancing::default(),
        (None, None) => return None,
    };
    found.locality = locality;
    if let Some(slow) = slow_start {
        if matches!(
            found.policy,
            LoadBalancer::RoundRobin | LoadBalancer::LeastRequest
        ) && !found.passthrough
        {
            found.balancing.slow_start = Some(slow);
        } else {
            value.warn(
                codes::IGNORED,
                "a warm-up is for ROUND_ROBIN and LEAST_REQUEST only and has no effect here",
                "remove it, or choose one of these",
            );
        }
    }
    Some(found)
}

fn simple(value: &Value<'_>) -> Option<Simple> {
    let found = value.choice(&[
        ("UNSPECIFIED", Simple::Policy(LoadBalancer::LeastRequest)),
        ("LEAST_REQUEST", Simple::Policy(LoadBalancer::LeastRequest)),
        ("LEAST_CONN", Simple::Policy(LoadBalancer::LeastRequest)),
        ("ROUND_ROBIN", Simple::Policy(LoadBalancer::RoundRobin)),
        ("RANDOM", Simple::Policy(LoadBalancer::Random)),
        ("PASSTHROUGH", Simple::Passthrough),
    ]);
    if value.tree.text() == Some("LEAST_CONN") {
        value.warn(
            codes::DEPRECATED,
            "LEAST_CONN is LEAST_REQUEST today",
            "write simple: LEAST_REQUEST",
        );
    }
    found
}

fn consistent_hash(value: &Value<'_>) -> LoadBalancing {
    let fields = value.fields();
    let mut keys: Vec<HashOf> = Vec::new();
    if let Some(name) = fields.text("httpHeaderName") {
        keys.push(HashOf::Header {
            name: name.to_ascii_lowercase(),
            rewrite: None,
        });
    }
    if let Some(value) = fields.get("httpCookie") {
        keys.push(HashOf::Cookie(cookie(&value)));
    }
    if fields.boolean("useSourceIp") == Some(true) {
        keys.push(HashOf::SourceIp);
    }
    if let Some(name) = fields.text("httpQueryParameterName") {
        keys.push(HashOf::Query(name));
    }
    if keys.len() != 1 {
        value.error_hint(
            "expected one thing to hash",
            "one of httpHeaderName, httpCookie, useSourceIp: true and httpQueryParameterName",
        );
    }
    let mut found = LoadBalancing {
        policy: LoadBalancer::RingHash,
        hash: keys.into_iter().map(HashPolicy::of).collect(),
        ..LoadBalancing::default()
    };
    let most = u32::try_from(RingHash::LARGEST).unwrap_or(u32::MAX);
    if let Some(size) = fields.get("minimumRingSize") {
        size.warn(
            codes::DEPRECATED,
            "minimumRingSize is ringHash.minimumRingSize today",
            "write ringHash: {minimumRingSize: …}",
        );
        found.balancing.ring.min_size = size.count(most).map_or(1024, u64::from);
    }
    if let Some(value) = fields.get("ringHash") {
        let fields = value.fields();
        if let Some(size) = fields.count("minimumRingSize", most) {
            found.balancing.ring.min_size = size.into();
        }
        fields.finish();
    }
    if let Some(value) = fields.get("maglev") {
        let fields = value.fields();
        found.policy = LoadBalancer::Maglev;
        found.balancing.ring = RingHash::default();
        if let Some(value) = fields.get("tableSize")
            && let Some(size) = value.count(LARGEST_TABLE)
        {
            if !Balancing::is_table_size(size) {
                value.error_hint(
                    format!("{size} is not a prime"),
                    "65537 is the default; 5000011 is the largest",
                );
            }
            found.balancing.table_size = size;
        }
        fields.finish();
    }
    fields.finish();
    found
}

fn cookie(value: &Value<'_>) -> HashCookie {
    let fields = value.fields();
    let cookie = HashCookie {
        name: fields
            .require("name")
            .and_then(|value| value.text())
            .unwrap_or_default(),
        ttl: fields.duration("ttl"),
        path: fields.text("path").unwrap_or_default(),
        attributes: fields
            .list("attributes")
            .iter()
            .map(|value| {
                let fields = value.fields();
                let name = fields.require("name").and_then(|value| value.text());
                let found = fields.text("value").unwrap_or_default();
                fields.finish();
                (name.unwrap_or_default(), found)
            })
            .collect(),
    };
    fields.finish();
    cookie
}

/// `warmup`, or the older `warmupDurationSecs`.
fn slow_start(fields: &Fields<'_>) -> Option<SlowStart> {
    let of = |window: Duration| SlowStart {
        window,
        aggression: 1000,
        min_weight_percent: 10,
    };
    let older = fields.duration("warmupDurationSecs").map(of);
    let Some(value) = fields.get("warmup") else {
        return older;
    };
    let fields = value.fields();
    let window = fields
        .require("duration")
        .and_then(|value| value.duration());
    let percent = fields.count("minimumPercent", 100);
    let aggression = fields
        .get("aggression")
        .and_then(|value| value.thousandths());
    fields.finish();
    let mut slow = of(window?);
    slow.min_weight_percent = percent.unwrap_or(slow.min_weight_percent);
    slow.aggression = aggression.unwrap_or(slow.aggression);
    Some(slow)
}
