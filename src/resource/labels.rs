//! Kubernetes' selector of labels, with expressions.

use std::collections::BTreeMap;

use super::reader::Value;

/// Conditions on labels, all of which must hold; none holds for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    labels: BTreeMap<String, String>,
    expressions: Vec<Expression>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Expression {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether it holds for `labels`.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        crate::mesh::world::selects(&self.labels, labels)
            && self.expressions.iter().all(|expression| {
                let value = labels.get(&expression.key);
                match &expression.operator {
                    Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                    Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// Reads a selector.
pub(crate) fn label_selector(value: &Value<'_>) -> LabelSelector {
    let fields = value.fields();
    let labels = fields.texts("matchLabels");
    let expressions = fields.list("matchExpressions");
    let expressions = expressions.iter().filter_map(expression).collect();
    fields.finish();
    LabelSelector {
        labels,
        expressions,
    }
}

fn expression(value: &Value<'_>) -> Option<Expression> {
    let fields = value.fields();
    let key = fields.require("key").and_then(|value| value.text());
    let operator = fields.require("operator");
    let values = fields.text_list("values");
    fields.finish();
    let operator = operator?;
    let operator = match (operator.text()?.as_str(), values.is_empty()) {
        ("In", false) => Operator::In(values),
        ("NotIn", false) => Operator::NotIn(values),
        ("Exists", true) => Operator::Exists,
        ("DoesNotExist", true) => Operator::DoesNotExist,
        _ => {
            operator.error_hint(
                "no such condition",
                "In and NotIn with values, Exists or DoesNotExist without",
            );
            return None;
        }
    };
    Some(Expression {
        key: key?,
        operator,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_conditions_beside_labels() {
        let one = |key: &str, operator| LabelSelector {
            labels: BTreeMap::new(),
            expressions: vec![Expression {
                key: key.to_owned(),
                operator,
            }],
        };
        let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
        let values = |value: &str| vec![value.to_owned()];
        for (selector, expected) in [
            (LabelSelector::default(), true),
            (one("env", Operator::In(values("prod"))), true),
            (one("env", Operator::In(values("test"))), false),
            (one("other", Operator::In(values("prod"))), false),
            (one("env", Operator::NotIn(values("prod"))), false),
            (one("other", Operator::NotIn(values("prod"))), true),
            (one("env", Operator::Exists), true),
            (one("env", Operator::DoesNotExist), false),
        ] {
            assert_eq!(selector.holds(&labels), expected, "{selector:?}");
        }
    }
}
