//! Documents as plain JSON values, for those who edit them rather than read them.

use serde_json::Value;

use super::codes;
use super::tree::Tree;
use crate::mesh::{Finding, Origin, Severity};

/// Reads one document, whose first line is `line` of `file`.
pub fn read(text: &str, file: &str, line: u32) -> Result<Value, Box<Finding>> {
    Tree::read(text, line)
        .map(|tree| tree.to_json())
        .map_err(|error| {
            let origin = Origin {
                file: Some(file.into()),
                line: error.place.line.max(line),
                column: error.place.column.max(1),
                ..Origin::default()
            };
            Box::new(Finding::new(
                Severity::Error,
                codes::SYNTAX,
                &origin,
                error.message,
            ))
        })
}

/// Sets a field of `object`; what is no object stays as it is.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Value::Object(fields) = object {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Writes `value` as YAML that reads as `value` again, its keys in their order.
pub fn write(value: &Value) -> String {
    let written = serde_saphyr::to_string(value).unwrap_or_default();
    // Whatever a writer of YAML gets wrong must not reach a cluster: JSON is YAML too.
    if Tree::read(&written, 1).is_ok_and(|tree| tree.to_json() == *value) {
        written
    } else {
        json(value)
    }
}

/// Writes `value` as JSON for people.
pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\n]{0,12}".prop_map(Value::from),
            proptest::sample::select(vec![
                "yes",
                "null",
                "~",
                "1.0",
                "0644",
                "- a",
                "a: b",
                "#",
                "'",
                "\"",
                "---",
                "\t",
                "",
                " ",
                "1e3",
                "0x1f",
                "2001-01-01",
                "{}",
                "*a",
                "&a",
                "!t",
                "%x",
                "@x",
                "`",
                "line\n\nline\n",
                "end\n\n",
                " lead\nx",
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z.#:/ -]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(value in values()) {
            let text = write(&json!({"document": value}));
            let again = read(&text, "x", 1).unwrap();
            prop_assert_eq!(again, json!({"document": value}), "{}", text);
        }
    }

    #[test]
    fn ordinary_documents_are_written_as_yaml() {
        let value = json!({"b": ["x", {"c": "yes"}], "a": {"d": "1.0", "e": 1}, "f": "one\ntwo\n"});
        assert_eq!(
            write(&value),
            "b:\n- x\n- c: \"yes\"\na:\n  d: \"1.0\"\n  e: 1\nf: |\n  one\n  two\n"
        );
    }
}
