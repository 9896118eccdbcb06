//! Findings as code scanners read them: SARIF 2.1.0 (OASIS).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::mesh::{Finding, Severity};
use crate::resource::codes;

/// One run with every code that occurs as a rule, and every finding as a result.
pub(crate) fn document(findings: &[Finding]) -> Value {
    let mut rules: Vec<Value> = Vec::new();
    let mut indexes: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        indexes.entry(&finding.code).or_insert_with(|| {
            rules.push(rule(&finding.code, finding.severity));
            rules.len() - 1
        });
    }
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| result(finding, indexes.get(finding.code.as_str()).copied()))
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "meshctl",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "invocations": [{"executionSuccessful": true}],
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

fn rule(code: &str, severity: Severity) -> Value {
    let known = codes::find(code);
    let about = known.map_or_else(|| code.to_owned(), |known| sentence(known.about));
    let help = known.map_or("See the message of the finding.", |known| known.help);
    json!({
        "id": code,
        "name": known.map_or(code, |known| known.name),
        "shortDescription": {"text": about},
        "fullDescription": {"text": format!("{about} {help}")},
        "help": {"text": help},
        "defaultConfiguration": {
            "level": level(known.map_or(severity, |known| known.severity)),
        },
    })
}

fn result(finding: &Finding, rule: Option<usize>) -> Value {
    let mut text = sentence(&finding.message);
    if let Some(hint) = &finding.hint {
        text.push(' ');
        text.push_str(&sentence(hint));
    }
    json!({
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": level(finding.severity),
        "message": {"text": text},
        "locations": [location(finding)],
    })
}

fn location(finding: &Finding) -> Value {
    let origin = &finding.origin;
    let mut location = json!({});
    if let Some(file) = origin.file.as_deref().filter(|file| !file.is_empty()) {
        let mut physical = json!({"artifactLocation": {"uri": uri(file)}});
        if origin.line > 0
            && let Some(physical) = physical.as_object_mut()
        {
            let region = json!({"startLine": origin.line, "startColumn": origin.column.max(1)});
            physical.insert("region".to_owned(), region);
        }
        if let Some(location) = location.as_object_mut() {
            location.insert("physicalLocation".to_owned(), physical);
        }
    }
    let mut name = [&origin.kind, &origin.namespace, &origin.name]
        .into_iter()
        .filter(|part| !part.is_empty())
        .cloned()
        .collect::<Vec<_>>()
        .join("/");
    if !finding.path.is_empty() {
        name.push('#');
        name.push_str(&finding.path);
    }
    if !name.is_empty()
        && let Some(location) = location.as_object_mut()
    {
        let logical = json!([{"fullyQualifiedName": name, "kind": "resource"}]);
        location.insert("logicalLocations".to_owned(), logical);
    }
    location
}

/// A path as a URI reference (RFC 3986): relative as it was typed, else a file's URI.
fn uri(path: &str) -> String {
    let path = match path {
        "<stdin>" => "stdin",
        path => path.strip_prefix("./").unwrap_or(path),
    };
    let mut uri = String::from(if path.starts_with('/') { "file://" } else { "" });
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~') {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// `words` with a capital and a full stop, as SARIF asks of messages.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let mut text: String = letters
        .next()
        .map(|first| first.to_uppercase().collect())
        .unwrap_or_default();
    text.push_str(letters.as_str());
    if !text.ends_with(['.', '!', '?']) {
        text.push('.');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Origin;

    #[test]
    fn paths_are_uri_references() {
        for (path, expected) in [
            ("a/b c.yaml", "a/b%20c.yaml"),
            ("./x.yaml", "x.yaml"),
            ("/etc/ä.yaml", "file:///etc/%C3%A4.yaml"),
            ("<stdin>", "stdin"),
        ] {
            assert_eq!(uri(path), expected);
        }
    }

    #[test]
    fn an_object_of_a_cluster_has_a_logical_place_only() {
        let origin = Origin {
            kind: "VirtualService".to_owned(),
            namespace: "shop".to_owned(),
            name: "reviews".to_owned(),
            ..Origin::default()
        };
        let finding = Finding::new(Severity::Info, "IST0103", &origin, "no proxy").at("spec.hosts");
        let location = location(&finding);
        assert_eq!(location.get("physicalLocation"), None);
        assert_eq!(
            location.pointer("/logicalLocations/0/fullyQualifiedName"),
            Some(&json!("VirtualService/shop/reviews#spec.hosts"))
        );
    }
}
