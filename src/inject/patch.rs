//! What changed between two values, as a JSON patch (RFC 6902): what an admission webhook answers.

use serde::Serialize;
use serde_json::Value;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Puts a value where there is none, or before the item of a list.
    Add {
        /// JSON pointer.
        path: String,
        /// The value.
        value: Value,
    },
    /// Takes a value away.
    Remove {
        /// JSON pointer.
        path: String,
    },
    /// Puts another value in place.
    Replace {
        /// JSON pointer.
        path: String,
        /// The value.
        value: Value,
    },
}

/// The steps from `before` to `after`, in the order of their fields. What is the same is not touched; of a
/// list only the part that differs is. None when both are equal.
pub fn json_patch(before: &Value, after: &Value) -> Vec<Operation> {
    let mut steps = Vec::new();
    between(String::new(), before, after, &mut steps);
    steps
}

fn between(path: String, before: &Value, after: &Value, steps: &mut Vec<Operation>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                steps.push(Operation::Remove {
                    path: below(&path, key),
                });
            }
            for (key, value) in new {
                match old.get(key) {
                    Some(was) => between(below(&path, key), was, value, steps),
                    None => steps.push(Operation::Add {
                        path: below(&path, key),
                        value: value.clone(),
                    }),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => lists(&path, old, new, steps),
        _ => steps.push(Operation::Replace {
            path,
            value: after.clone(),
        }),
    }
}

/// By name where items have one, as lists of containers do: items that stay are changed where they are,
/// others go and come around them. Lists whose items change their order are replaced.
fn lists(path: &str, old: &[Value], new: &[Value], steps: &mut Vec<Operation>) {
    let stays = |item: &Value, others: &[Value]| others.iter().any(|other| same(item, other));
    let kept_old: Vec<&Value> = old.iter().filter(|item| stays(item, new)).collect();
    let kept_new: Vec<&Value> = new.iter().filter(|item| stays(item, old)).collect();
    let aligned =
        kept_old.len() == kept_new.len() && kept_old.iter().zip(&kept_new).all(|(a, b)| same(a, b));
    if !aligned {
        steps.push(Operation::Replace {
            path: path.to_owned(),
            value: Value::Array(new.to_vec()),
        });
        return;
    }
    // From the end, so that the places of those before stay what they are.
    for (at, _) in old
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, item)| !stays(item, new))
    {
        steps.push(Operation::Remove {
            path: format!("{path}/{at}"),
        });
    }
    let mut kept = kept_old.into_iter();
    for (at, item) in new.iter().enumerate() {
        if stays(item, old) {
            if let Some(was) = kept.next() {
                between(format!("{path}/{at}"), was, item, steps);
            }
        } else {
            steps.push(Operation::Add {
                path: format!("{path}/{at}"),
                value: item.clone(),
            });
        }
    }
}

/// Whether two items of lists are the same one.
fn same(a: &Value, b: &Value) -> bool {
    match (a.get("name"), b.get("name")) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}
