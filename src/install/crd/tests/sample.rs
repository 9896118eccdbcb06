//! Objects that a schema allows, by chance.

use super::judge::pattern;
use serde_json::{Map, Value, json};

/// Texts of which one fits wherever a text is asked for.
const TEXTS: [&str; 14] = [
    "a",
    "x-b",
    "shop",
    "shop.example.com",
    "*.example.com",
    "10.0.0.0/8",
    "192.0.2.1",
    "https://shop.example.com/keys",
    "/cart",
    "5s",
    "HTTP",
    "503",
    "gzip",
    "example.com/controller",
];

/// An object as `schema` allows it.
pub(super) fn sample(schema: &Value, chance: &mut fastrand::Rng) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[chance.usize(..words.len())].clone();
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, chance),
        Some("array") => list(schema, chance),
        Some("boolean") => chance.bool().into(),
        Some("string") if schema["format"] == json!("date-time") => "2030-01-31T12:00:00Z".into(),
        Some("string") => string(schema, chance).into(),
        Some("number") => json!(fit(schema, [0, 1, 20, 100][chance.usize(..4)])),
        Some("integer") => json!(fit(schema, [0, 1, 3, 80, 503, 8080][chance.usize(..6)])),
        _ if schema["x-kubernetes-int-or-string"] == json!(true) && chance.bool() => json!(80),
        _ => "80".into(),
    }
}

fn fit(schema: &Value, number: i64) -> i64 {
    let least = schema["minimum"].as_i64().unwrap_or(i64::MIN);
    let most = schema["maximum"].as_i64().unwrap_or(i64::MAX);
    number.max(least).min(most)
}

fn string(schema: &Value, chance: &mut fastrand::Rng) -> &'static str {
    let pattern = schema["pattern"].as_str().map(pattern);
    let limit = |key: &str| schema[key].as_u64();
    let fits = |text: &&str| {
        let length = u64::try_from(text.len()).unwrap();
        pattern
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(text))
            && limit("minLength").is_none_or(|least| length >= least)
            && limit("maxLength").is_none_or(|most| length <= most)
    };
    let texts: Vec<&str> = TEXTS.into_iter().filter(fits).collect();
    texts[chance.usize(..texts.len())]
}

fn list(schema: &Value, chance: &mut fastrand::Rng) -> Value {
    let keys = schema["x-kubernetes-list-map-keys"].as_array();
    let set = schema["x-kubernetes-list-type"] == json!("set");
    let least = schema["minItems"].as_u64().unwrap_or(0).max(1);
    let most = schema["maxItems"].as_u64().unwrap_or(2).min(2);
    let mut items: Vec<Value> = Vec::new();
    for _ in 0..chance.u64(least..=most.max(least)) {
        let item = sample(&schema["items"], chance);
        let same = |other: &Value| match keys {
            Some(keys) => keys.iter().all(|key| {
                let key = key.as_str().unwrap();
                other[key] == item[key]
            }),
            None => set && *other == item,
        };
        if !items.iter().any(same) {
            items.push(item);
        }
    }
    items.into()
}

fn object(schema: &Value, chance: &mut fastrand::Rng) -> Value {
    let mut fields = Map::new();
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if required.contains(&json!(name)) || chance.u8(..10) < 6 {
            fields.insert(name.clone(), sample(schema, chance));
        }
    }
    if schema["additionalProperties"].is_object() {
        for key in ["a", "8080"] {
            fields.insert(
                key.to_owned(),
                sample(&schema["additionalProperties"], chance),
            );
        }
    }
    let own = [schema.clone()];
    let rules = schema["allOf"]
        .as_array()
        .map_or(own.as_slice(), Vec::as_slice);
    for rule in rules {
        one_of_each(schema, rule, &mut fields, chance);
    }
    for rule in rules {
        for pair in rule["not"]["anyOf"].as_array().into_iter().flatten() {
            let names = pair["required"].as_array().unwrap();
            let there = |name: &Value| fields.contains_key(name.as_str().unwrap());
            if names.iter().all(there) {
                let gone = names[chance.usize(..names.len())].as_str().unwrap();
                fields.remove(gone);
            }
        }
    }
    fields.into()
}

/// Chooses among what a rule has to choose from.
fn one_of_each(
    schema: &Value,
    rule: &Value,
    fields: &mut Map<String, Value>,
    chance: &mut fastrand::Rng,
) {
    let Some(cases) = rule["anyOf"].as_array() else {
        return;
    };
    let case = &cases[chance.usize(..cases.len())];
    let own = case["required"][0].as_str().unwrap();
    if let Some(told) = case["properties"].as_object() {
        for (field, said) in told {
            fields.insert(field.clone(), said["enum"][0].clone());
        }
        for other in cases {
            fields.remove(other["required"][0].as_str().unwrap());
        }
    } else if cases
        .iter()
        .any(|case| fields.contains_key(case["required"][0].as_str().unwrap()))
    {
        return;
    }
    fields.insert(own.to_owned(), sample(&schema["properties"][own], chance));
}
