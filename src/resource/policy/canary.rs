//! Canary: a rollout of a service to another version, which the control plane runs.

use std::time::Duration;

use base64::Engine as _;

use super::Canary;
use super::shadow::{comparison, write};
use crate::mesh::rollout::{
    Hook, HookKind, Metric, NoData, Of, SERIES_WORDS, Shadow, Spec, Stage, Strategy,
};
use crate::resource::reader::{Fields, Value};

const NO_DATA: [(&str, NoData); 4] = [
    ("Wait", NoData::Wait),
    ("Pause", NoData::Pause),
    ("Fail", NoData::Fail),
    ("Pass", NoData::Pass),
];

/// In milliseconds.
pub(in crate::resource) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(in crate::resource) fn canary(fields: &Fields<'_>) -> Canary {
    let mut canary = Canary::default();
    let Some(value) = fields.require("spec") else {
        return canary;
    };
    let fields = value.fields();
    canary.service = fields
        .require("service")
        .and_then(|value| value.text())
        .unwrap_or_default();
    let mut spec = Spec {
        canary: fields
            .require("to")
            .and_then(|value| value.text())
            .unwrap_or_default(),
        stable: fields.text("from").unwrap_or_default(),
        ..Spec::default()
    };
    canary.suspended = fields.boolean("suspend").unwrap_or_default();
    conditions(&fields, &mut spec);
    spec.affinity = fields.text("affinityCookie");
    steps(&fields, &mut spec);
    let time = |name: &'static str, of: &mut u64| {
        if let Some(time) = fields.duration(name) {
            *of = millis(time);
        }
    };
    time("interval", &mut spec.interval_ms);
    time("bake", &mut spec.bake_ms);
    time("patience", &mut spec.patience_ms);
    let mut deadline = 0;
    time("deadline", &mut deadline);
    spec.deadline_ms = (deadline > 0).then_some(deadline);
    if let Some(count) = fields.count("minRequests", u32::MAX) {
        spec.min_requests = u64::from(count);
    }
    if let Some(count) = fields.count("maxFailures", u32::MAX) {
        spec.max_failures = count;
    }
    if let Some(found) = fields
        .get("onNoData")
        .and_then(|value| value.choice(&NO_DATA))
    {
        spec.on_no_data = found;
    }
    if let Some(list) = fields.get("metrics") {
        spec.metrics = list.list().iter().filter_map(metric).collect();
    }
    spec.hooks = fields.list("webhooks").iter().filter_map(hook).collect();
    fields.finish();
    finish(&value, &mut canary, spec);
    canary
}

/// Says what makes no sense together, where the parts do.
pub(in crate::resource) fn finish(value: &Value<'_>, canary: &mut Canary, spec: Spec) {
    // What is found out when it begins need not stand there.
    let whole = Spec {
        stable: if spec.stable.is_empty() {
            "\u{0}".to_owned()
        } else {
            spec.stable.clone()
        },
        canary: if spec.canary.is_empty() && !canary.workload.is_empty() {
            "\u{1}".to_owned()
        } else {
            spec.canary.clone()
        },
        ..spec.clone()
    };
    if let Err((message, hint)) = whole.check() {
        value.error_hint(message, hint);
    }
    canary.spec = spec;
}

/// Who goes to the canary from the start.
fn conditions(fields: &Fields<'_>, spec: &mut Spec) {
    for (name, kind) in [("headers", "header"), ("cookies", "cookie")] {
        let all = fields.texts(name);
        let conditions = all
            .iter()
            .map(|(name, value)| format!("{kind}:{name}={value}"));
        spec.matches.extend(conditions);
    }
}

fn steps(fields: &Fields<'_>, spec: &mut Spec) {
    const STRATEGIES: [(&str, Strategy); 4] = [
        ("Weight", Strategy::Weight),
        ("AbTest", Strategy::AbTest),
        ("BlueGreen", Strategy::BlueGreen),
        ("Shadow", Strategy::Shadow),
    ];
    let plain = |weight: u32| Stage {
        weight,
        ..Stage::default()
    };
    let strategy = fields
        .get("strategy")
        .and_then(|value| value.choice(&STRATEGIES));
    spec.strategy = strategy.unwrap_or_default();
    let size = fields
        .get("stepWeight")
        .and_then(|value| value.integer(1, 100));
    let size = size.and_then(|size| u32::try_from(size).ok());
    let list = fields.get("steps").map(|value| {
        let all = value.list();
        let all = all.iter().filter_map(|one| one.integer(0, 100));
        all.filter_map(|one| u32::try_from(one).ok())
            .map(plain)
            .collect()
    });
    spec.steps = match (list, size, spec.strategy) {
        (Some(list), _, _) => list,
        (None, Some(size), _) => Spec::by_size(size),
        (None, None, Strategy::Weight) => Spec::by_size(10),
        (None, None, Strategy::AbTest) => vec![plain(0)],
        (None, None, Strategy::BlueGreen) => vec![plain(0), plain(100)],
        (None, None, Strategy::Shadow) => vec![plain(100)],
    };
    let given = fields.get("shadow");
    if given.is_some() || spec.strategy == Strategy::Shadow {
        spec.shadow = Some(given.map_or_else(Shadow::default, |value| shadow(&value)));
    }
    let percent = fields
        .get("mirrorPercent")
        .and_then(|value| value.integer(1, 100));
    spec.mirror_percent = percent.and_then(|percent| u32::try_from(percent).ok());
    // Answers that are compared are those to copies.
    if fields.boolean("mirror").unwrap_or_default() || spec.shadow.is_some() {
        spec.steps.insert(
            0,
            Stage {
                mirror: true,
                ..Stage::default()
            },
        );
    }
    for gate in fields.list("gates") {
        let weight = gate
            .integer(0, 100)
            .and_then(|weight| u32::try_from(weight).ok());
        let mut steps = spec.steps.iter_mut();
        match steps.find(|stage| Some(stage.weight) == weight && !stage.mirror) {
            Some(stage) => stage.gate = true,
            None => gate.warn(
                crate::resource::codes::IGNORED,
                "no step has this weight, so there is no gate",
                "a gate stands before one of the steps; gatePromotion is one before promotion",
            ),
        }
    }
    spec.gate_promotion = fields.boolean("gatePromotion").unwrap_or_default();
}

fn shadow(value: &Value<'_>) -> Shadow {
    let fields = value.fields();
    let mut shadow = Shadow::default();
    if let Some(most) = fields.get("maxDifferent") {
        match most.number() {
            Some(most) => shadow.max_different_percent = most,
            None => most.error("expected a number"),
        }
    }
    if let Some(least) = fields.count("minCompared", u32::MAX) {
        shadow.min_compared = u64::from(least);
    }
    shadow.compare = comparison(&fields);
    fields.finish();
    shadow
}

fn metric(value: &Value<'_>) -> Option<Metric> {
    let fields = value.fields();
    let name = fields.require("name");
    let text = name.as_ref().and_then(Value::text);
    let number = |name: &'static str| {
        let value = fields.get(name)?;
        let read = value.number();
        if read.is_none() {
            value.error("expected a number");
        }
        read.map(|read| (value, read))
    };
    let (min, max) = (number("min"), number("max"));
    let compare = fields.boolean("compare").unwrap_or_default();
    fields.finish();
    let of = Of::parse(&text?);
    let Some(of) = of else {
        if let Some(name) = name {
            name.error_hint(
                "this is no metric",
                format!(
                    "success-rate, p50, p95, p99, requests-per-second, or rate: of {SERIES_WORDS}"
                ),
            );
        }
        return None;
    };
    let (bound, wrong) = if of.is_floor() {
        (min, max)
    } else {
        (max, min)
    };
    if let Some((value, _)) = wrong {
        let other = if of.is_floor() { "min" } else { "max" };
        value.error_hint(format!("{of} has no such bound"), format!("write {other}"));
    }
    Some(Metric {
        metric: of,
        bound: bound.map(|(_, number)| number),
        compare,
    })
}

fn hook(value: &Value<'_>) -> Option<Hook> {
    let fields = value.fields();
    let kind = fields
        .require("type")
        .and_then(|value| value.choice(&HookKind::ALL));
    let url = fields.require("url").and_then(|value| value.text());
    let hook = Hook {
        name: fields.text("name").unwrap_or_default(),
        kind: kind.unwrap_or(HookKind::Event),
        url: url.unwrap_or_default(),
        timeout_ms: fields.duration("timeout").map_or(10_000, millis),
        retries: fields.count("retries", 10).unwrap_or_default(),
        metadata: fields.texts("metadata"),
        ca: fields.get("caBundle").and_then(|value| authority(&value)),
    };
    fields.finish();
    kind.map(|kind| Hook {
        name: if hook.name.is_empty() {
            kind.name().to_owned()
        } else {
            hook.name.clone()
        },
        ..hook
    })
}

/// Certificates as PEM, which may be written in base64, as other kinds have it.
pub(in crate::resource) fn authority(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let base64 = base64::engine::general_purpose::STANDARD;
    let decoded = base64.decode(text.split_whitespace().collect::<String>());
    let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pem = [Some(text), decoded].into_iter().flatten();
    let pem = pem
        .into_iter()
        .find(|text| text.contains("-----BEGIN CERTIFICATE-----"));
    if pem.is_none() {
        value.error_hint(
            "there is no certificate in it",
            "certificates as PEM, or that in base64",
        );
    }
    pem
}

/// The object that asks for a rollout of a Service.
pub fn canary_object(namespace: &str, service: &str, spec: &Spec) -> serde_json::Value {
    use serde_json::{Map, Value as Json, json};
    let mut written = Map::new();
    let mut say = |field: &str, value: Json| written.insert(field.to_owned(), value);
    let ms = |millis: u64| json!(format!("{millis}ms"));
    say("service", json!(service));
    say("to", json!(spec.canary));
    if !spec.stable.is_empty() {
        say("from", json!(spec.stable));
    }
    let strategy = match spec.strategy {
        Strategy::Weight => "Weight",
        Strategy::AbTest => "AbTest",
        Strategy::BlueGreen => "BlueGreen",
        Strategy::Shadow => "Shadow",
    };
    say("strategy", json!(strategy));
    let plain = spec.steps.iter().filter(|stage| !stage.mirror);
    let weights: Vec<u32> = plain.clone().map(|stage| stage.weight).collect();
    if !weights.is_empty() {
        say("steps", json!(weights));
    }
    if spec.steps.iter().any(|stage| stage.mirror) {
        say("mirror", json!(true));
    }
    if let Some(percent) = spec.mirror_percent {
        say("mirrorPercent", json!(percent));
    }
    if let Some(shadow) = &spec.shadow {
        let mut fields = write(&shadow.compare);
        let most = shadow.max_different_percent;
        fields.insert("maxDifferent".to_owned(), json!(most));
        fields.insert("minCompared".to_owned(), json!(shadow.min_compared));
        say("shadow", Json::Object(fields));
    }
    let gates: Vec<u32> = plain
        .filter(|stage| stage.gate)
        .map(|stage| stage.weight)
        .collect();
    if !gates.is_empty() {
        say("gates", json!(gates));
    }
    if spec.gate_promotion {
        say("gatePromotion", json!(true));
    }
    for (field, kind) in [("headers", "header:"), ("cookies", "cookie:")] {
        let pairs: Map<String, Json> = spec
            .matches
            .iter()
            .filter_map(|condition| condition.strip_prefix(kind)?.split_once('='))
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        if !pairs.is_empty() {
            say(field, Json::Object(pairs));
        }
    }
    if let Some(cookie) = &spec.affinity {
        say("affinityCookie", json!(cookie));
    }
    say("interval", ms(spec.interval_ms));
    for (field, millis) in [
        ("bake", spec.bake_ms),
        ("patience", spec.patience_ms),
        ("deadline", spec.deadline_ms.unwrap_or(0)),
    ] {
        if millis > 0 {
            say(field, ms(millis));
        }
    }
    say("minRequests", json!(spec.min_requests));
    say("maxFailures", json!(spec.max_failures));
    let no_data = match spec.on_no_data {
        NoData::Wait => "Wait",
        NoData::Pause => "Pause",
        NoData::Fail => "Fail",
        NoData::Pass => "Pass",
    };
    say("onNoData", json!(no_data));
    let metrics: Vec<Json> = spec
        .metrics
        .iter()
        .map(|metric| {
            let mut written =
                json!({ "name": metric.metric.to_string(), "compare": metric.compare });
            if let (Some(bound), Some(fields)) = (metric.bound, written.as_object_mut()) {
                let side = if metric.metric.is_floor() {
                    "min"
                } else {
                    "max"
                };
                fields.insert(side.to_owned(), json!(bound));
            }
            written
        })
        .collect();
    say("metrics", json!(metrics));
    let hooks: Vec<Json> = spec
        .hooks
        .iter()
        .map(|hook| {
            let mut written = json!({
                "name": hook.name,
                "type": hook.kind.name(),
                "url": hook.url,
                "timeout": format!("{}ms", hook.timeout_ms),
                "retries": hook.retries,
                "metadata": hook.metadata,
            });
            if let (Some(ca), Some(fields)) = (&hook.ca, written.as_object_mut()) {
                fields.insert("caBundle".to_owned(), json!(ca));
            }
            written
        })
        .collect();
    if !hooks.is_empty() {
        say("webhooks", json!(hooks));
    }
    json!({
        "apiVersion": "policy.meshctl.dev/v1alpha1",
        "kind": "Canary",
        "metadata": { "name": service, "namespace": namespace },
        "spec": written,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::shadow::Comparison;
    use crate::resource::{Kind, from_value};

    #[test]
    fn what_is_written_is_what_is_read() {
        let mut spec = Spec {
            stable: "v1".to_owned(),
            canary: "v2".to_owned(),
            deadline_ms: Some(60_000),
            bake_ms: 5_000,
            patience_ms: 90_000,
            gate_promotion: true,
            on_no_data: NoData::Pause,
            matches: vec![
                "header:x-tester=yes".to_owned(),
                "cookie:group=b".to_owned(),
            ],
            affinity: Some("side".to_owned()),
            mirror_percent: Some(20),
            shadow: Some(Shadow {
                max_different_percent: 0.5,
                min_compared: 7,
                compare: Comparison {
                    headers: vec!["content-type".to_owned()],
                    ignore: vec!["$..id".parse().unwrap()],
                    body_limit: 1_024,
                    ..Comparison::default()
                },
            }),
            ..Spec::default()
        };
        spec.steps[3].gate = true;
        spec.steps.insert(
            0,
            Stage {
                mirror: true,
                ..Stage::default()
            },
        );
        spec.metrics.push(Metric {
            metric: Of::Rate("retries".to_owned()),
            bound: Some(2.5),
            compare: false,
        });
        spec.hooks.push(Hook {
            name: "gate".to_owned(),
            kind: HookKind::ConfirmPromotion,
            url: "https://gate.shop/check".to_owned(),
            ca: Some("-----BEGIN CERTIFICATE-----\n".to_owned()),
            timeout_ms: 1_500,
            retries: 2,
            metadata: [("team".to_owned(), "shop".to_owned())].into(),
        });
        let object = canary_object("shop", "cart", &spec);
        let (object, findings) = from_value(&object, "x");
        assert!(findings.is_empty(), "{findings:?}");
        let Kind::Canary(read) = object.unwrap().body else {
            panic!("it is a Canary");
        };
        assert_eq!((read.service.as_str(), &read.spec), ("cart", &spec));
    }
}
