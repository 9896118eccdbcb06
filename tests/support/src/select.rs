//! Label and field selectors.

use serde_json::Value;

use crate::status::{Answer, Refusal};

/// What a list or watch is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Select {
    labels: Vec<Label>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
enum Label {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

#[derive(Debug, Clone)]
struct Field {
    path: String,
    value: String,
    equal: bool,
}

impl Select {
    /// From the two query parameters.
    pub fn parse(labels: &str, fields: &str) -> Answer<Self> {
        let fields = fields.split(',').filter(|f| !f.trim().is_empty());
        Ok(Self {
            labels: split(labels)
                .into_iter()
                .map(|term| label(&term))
                .collect::<Answer<_>>()?,
            fields: fields.map(field).collect::<Answer<_>>()?,
        })
    }

    /// From a `LabelSelector` object; an empty one takes all.
    pub fn of_object(selector: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let mut labels: Vec<Label> = selector["matchLabels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| Label::In(k.clone(), vec![text(v)]))
            .collect();
        for term in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let key = text(&term["key"]);
            let values = term["values"]
                .as_array()
                .map(|a| a.iter().map(text).collect())
                .unwrap_or_default();
            labels.push(match term["operator"].as_str().unwrap_or_default() {
                "In" => Label::In(key, values),
                "NotIn" => Label::NotIn(key, values),
                "Exists" => Label::Exists(key),
                _ => Label::Missing(key),
            });
        }
        Self {
            labels,
            fields: Vec::new(),
        }
    }

    /// Whether an object is meant.
    pub fn takes(&self, object: &Value) -> bool {
        self.takes_labels(&object["metadata"]["labels"])
            && self.fields.iter().all(|f| {
                let found = at(object, &f.path);
                (found == f.value) == f.equal
            })
    }

    /// Whether labels alone are meant.
    pub fn takes_labels(&self, labels: &Value) -> bool {
        self.labels.iter().all(|term| match term {
            Label::In(key, values) => labels[key.as_str()]
                .as_str()
                .is_some_and(|v| values.iter().any(|w| w == v)),
            Label::NotIn(key, values) => labels[key.as_str()]
                .as_str()
                .is_none_or(|v| values.iter().all(|w| w != v)),
            Label::Exists(key) => !labels[key.as_str()].is_null(),
            Label::Missing(key) => labels[key.as_str()].is_null(),
        })
    }

    /// Refuses fields that the kind cannot be selected by.
    pub fn check(&self, kind: &str) -> Answer<()> {
        for field in &self.fields {
            let known = matches!(field.path.as_str(), "metadata.name" | "metadata.namespace")
                || matches!(
                    (kind, field.path.as_str()),
                    (
                        "Pod",
                        "spec.nodeName"
                            | "spec.serviceAccountName"
                            | "spec.schedulerName"
                            | "spec.restartPolicy"
                            | "spec.hostNetwork"
                            | "status.phase"
                            | "status.podIP"
                            | "status.nominatedNodeName"
                    ) | ("Secret", "type")
                        | ("Namespace", "status.phase")
                        | ("Node", "spec.unschedulable")
                        | ("Service", "spec.clusterIP" | "spec.type")
                        | ("Job", "status.successful")
                        | ("CertificateSigningRequest", "spec.signerName")
                )
                || (kind == "Event"
                    && (field.path.starts_with("involvedObject.")
                        || field.path.starts_with("regarding.")
                        || matches!(
                            field.path.as_str(),
                            "reason" | "type" | "source" | "reportingComponent"
                        )));
            if !known {
                return Err(Refusal::bad(format!(
                    "field label not supported: {}",
                    field.path
                )));
            }
        }
        Ok(())
    }
}

fn at(object: &Value, path: &str) -> String {
    let found = path.split('.').fold(object, |v, part| &v[part]);
    match found {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn field(term: &str) -> Answer<Field> {
    let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = term.split_once("==") {
        (path, value, true)
    } else if let Some((path, value)) = term.split_once('=') {
        (path, value, true)
    } else {
        return Err(Refusal::bad(format!(
            "invalid field selector: \"{term}\"; can't understand it"
        )));
    };
    Ok(Field {
        path: path.trim().to_owned(),
        value: value.trim().to_owned(),
        equal,
    })
}

/// At commas outside parentheses.
fn split(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut depth = 0_i32;
    for c in text.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = terms.last_mut() {
            last.push(c);
        }
    }
    terms.retain(|t| !t.trim().is_empty());
    terms
}

fn label(term: &str) -> Answer<Label> {
    let term = term.trim();
    let values = |text: &str| -> Vec<String> {
        text.trim()
            .trim_start_matches('(')
            .trim_end_matches(')')
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect()
    };
    let parsed = if let Some(key) = term.strip_prefix('!') {
        Label::Missing(key.trim().to_owned())
    } else if let Some((key, rest)) = term.split_once(" notin ") {
        Label::NotIn(key.trim().to_owned(), values(rest))
    } else if let Some((key, rest)) = term.split_once(" in ") {
        Label::In(key.trim().to_owned(), values(rest))
    } else if let Some((key, value)) = term.split_once("!=") {
        Label::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()])
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        Label::In(key.trim().to_owned(), vec![value.trim().to_owned()])
    } else {
        Label::Exists(term.to_owned())
    };
    let key = match &parsed {
        Label::In(k, _) | Label::NotIn(k, _) | Label::Exists(k) | Label::Missing(k) => k,
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(Refusal::bad(format!(
            "unable to parse requirement: \"{term}\" is no label selector"
        )));
    }
    Ok(parsed)
}
