//! Where two documents differ, field by field.

use serde_json::Value;

use crate::api::diff::FieldDiff;

/// Longest product of two lists that are aligned; longer ones are compared place by place.
const MOST_CELLS: usize = 250_000;

/// The fields in which `after` differs from `before`, in the order of `after`. Items of lists are
/// aligned: one that is put in front changes nothing of those behind it.
pub(super) fn fields(before: &Value, after: &Value) -> Vec<FieldDiff> {
    let mut found = Vec::new();
    walk(String::new(), before, after, &mut found);
    found
}

fn walk(path: String, before: &Value, after: &Value, found: &mut Vec<FieldDiff>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, old) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                found.push(removed(join(&path, key), old));
            }
            for (key, new) in new {
                match old.get(key) {
                    Some(old) => walk(join(&path, key), old, new, found),
                    None => found.push(added(join(&path, key), new)),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) => lists(&path, old, new, found),
        _ => found.push(FieldDiff {
            path,
            before: Some(before.clone()),
            after: Some(after.clone()),
        }),
    }
}

fn added(path: String, value: &Value) -> FieldDiff {
    FieldDiff {
        path,
        before: None,
        after: Some(value.clone()),
    }
}

fn removed(path: String, value: &Value) -> FieldDiff {
    FieldDiff {
        path,
        before: Some(value.clone()),
        after: None,
    }
}

fn join(path: &str, key: &str) -> String {
    if key.contains(['.', '/', '[']) {
        format!("{path}[{key:?}]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Equal items are told apart from the rest. Between two of them, what went and what came are taken
/// for one item that changed: all in order where there are as many, else those with the same keys.
fn lists(path: &str, old: &[Value], new: &[Value], found: &mut Vec<FieldDiff>) {
    let (mut from, mut to) = (0, 0);
    let ends = (old.len(), new.len());
    for (next_old, next_new) in aligned(old, new).into_iter().chain([ends]) {
        let gap = (
            old.get(from..next_old).unwrap_or_default(),
            new.get(to..next_new).unwrap_or_default(),
        );
        let pairs = if gap.0.len() == gap.1.len() {
            (0..gap.0.len()).map(|at| (at, at)).collect()
        } else {
            let shapes = |items: &[Value]| items.iter().map(shape).collect::<Vec<_>>();
            aligned(&shapes(gap.0), &shapes(gap.1))
        };
        for (at, before) in gap.0.iter().enumerate() {
            if !pairs.iter().any(|(old, _)| *old == at) {
                found.push(removed(format!("{path}[{}]", from + at), before));
            }
        }
        for (at, after) in gap.1.iter().enumerate() {
            let path = format!("{path}[{}]", to + at);
            let old = pairs.iter().find(|(_, new)| *new == at);
            match old.and_then(|(old, _)| gap.0.get(*old)) {
                Some(before) => walk(path, before, after, found),
                None => found.push(added(path, after)),
            }
        }
        (from, to) = (next_old + 1, next_new + 1);
    }
}

/// The keys of an object; other values are all of one shape.
fn shape(value: &Value) -> Vec<String> {
    value
        .as_object()
        .map(|object| object.keys().cloned().collect())
        .unwrap_or_default()
}

/// Indexes of equal items, of as many as can be paired in order (longest common subsequence).
pub(super) fn aligned<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    let same = |pair: &(&T, &T)| pair.0 == pair.1;
    let head = old.iter().zip(new).take_while(same).count();
    let (old_rest, new_rest) = (
        old.get(head..).unwrap_or_default(),
        new.get(head..).unwrap_or_default(),
    );
    let tail = old_rest
        .iter()
        .rev()
        .zip(new_rest.iter().rev())
        .take_while(same)
        .count();
    let (old_middle, new_middle) = (
        old_rest.get(..old_rest.len() - tail).unwrap_or_default(),
        new_rest.get(..new_rest.len() - tail).unwrap_or_default(),
    );
    let mut pairs: Vec<(usize, usize)> = (0..head).map(|at| (at, at)).collect();
    pairs.extend(
        common(old_middle, new_middle)
            .into_iter()
            .map(|(from, to)| (from + head, to + head)),
    );
    let ends = (old.len() - tail, new.len() - tail);
    pairs.extend((0..tail).map(|at| (ends.0 + at, ends.1 + at)));
    pairs
}

fn common<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    let width = new.len() + 1;
    if (old.len() + 1).saturating_mul(width) > MOST_CELLS {
        let pairs = old.iter().zip(new).enumerate();
        return pairs
            .filter(|(_, (old, new))| old == new)
            .map(|(at, _)| (at, at))
            .collect();
    }
    // Longest from each pair of places to the ends.
    let mut lengths = vec![0_u32; (old.len() + 1) * width];
    let at = |lengths: &[u32], i: usize, j: usize| lengths.get(i * width + j).copied().unwrap_or(0);
    for (i, left) in old.iter().enumerate().rev() {
        for (j, right) in new.iter().enumerate().rev() {
            let best = if left == right {
                at(&lengths, i + 1, j + 1) + 1
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut pairs = Vec::new();
    while let (Some(left), Some(right)) = (old.get(i), new.get(j)) {
        if left == right {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn told(before: &Value, after: &Value) -> Vec<String> {
        let text = |value: &Option<Value>| {
            let value = value.as_ref();
            value.map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        fields(before, after)
            .iter()
            .map(|field| {
                let (before, after) = (text(&field.before), text(&field.after));
                format!("{}: {before} {after}", field.path)
            })
            .collect()
    }

    #[test]
    fn fields_are_named_by_their_path() {
        let before = json!({"a": 1, "b": {"c": [1, 2]}, "x.y/z": "old", "gone": true});
        let after = json!({"a": 1, "b": {"c": [1, 3]}, "x.y/z": "new", "came": null});
        assert_eq!(
            told(&before, &after),
            [
                "gone: true -",
                "b.c[1]: 2 3",
                "[\"x.y/z\"]: \"old\" \"new\"",
                "came: - null"
            ]
        );
    }

    #[test]
    fn an_item_in_front_moves_nothing() {
        let rule = |name: &str, weight: u32| json!({"name": name, "weight": weight});
        let before = json!([rule("a", 90), rule("b", 10)]);
        let after = json!([rule("new", 1), rule("a", 90), rule("b", 20)]);
        assert_eq!(
            told(&before, &after),
            [
                "[0]: - {\"name\":\"new\",\"weight\":1}",
                "[2].weight: 10 20"
            ]
        );
        let gone = json!([rule("b", 10)]);
        assert_eq!(
            told(&before, &gone),
            ["[0]: {\"name\":\"a\",\"weight\":90} -"]
        );
    }

    proptest! {
        #[test]
        fn alignment_pairs_equal_items_in_order(
            old in proptest::collection::vec(0_u8..4, 0..12),
            new in proptest::collection::vec(0_u8..4, 0..12),
        ) {
            let pairs = aligned(&old, &new);
            for (from, to) in &pairs {
                prop_assert_eq!(old[*from], new[*to]);
            }
            for two in pairs.windows(2) {
                prop_assert!(two[0].0 < two[1].0 && two[0].1 < two[1].1);
            }
            let (old, new) = (json!(old), json!(new));
            prop_assert_eq!(fields(&old, &new).is_empty(), old == new);
        }
    }
}
