//! Who may call whom: the judgement of a call, and policies for what was called.

use crate::api::authz::{AuthzReport, AuthzSuggestion};
use crate::mesh::authorization::explain::PolicyTrace;

use super::{Page, Render};

impl Render for AuthzReport {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let who = if self.principal.is_empty() {
            "nobody the mesh knows"
        } else {
            &self.principal
        };
        let mut text = format!("Caller    {who}\n");
        text.push_str(&format!(
            "Called    {}, port {}\n",
            self.workload, self.port
        ));
        text.push_str(&format!("mTLS      {}\n", self.mtls));
        if self.bytes {
            text.push_str("Judged    as bytes: nothing of requests is looked at\n");
        } else {
            text.push_str(&format!("Path      {}\n", self.path));
        }
        text.push('\n');
        for of in &self.trace.policies {
            policy(of, page, &mut text);
        }
        if !self.trace.policies.is_empty() {
            text.push('\n');
        }
        let because = &self.trace.because;
        text.push_str(&if self.trace.allowed {
            format!("{}: {because}\n", paint.good("Allowed"))
        } else {
            format!("{}: {because}\n", paint.bad("Refused"))
        });
        text
    }

    fn names(&self) -> Vec<String> {
        let held = self.trace.policies.iter().filter(|policy| policy.holds);
        held.map(|policy| policy.policy.clone()).collect()
    }
}

fn policy(of: &PolicyTrace, page: &Page, text: &mut String) {
    let paint = page.paint;
    let mark = |holds: bool| {
        if holds {
            paint.good("✓ true ")
        } else {
            paint.bad("✗ false")
        }
    };
    let dry = if of.dry_run { ", only counted" } else { "" };
    let asks = match of.asks.as_str() {
        "" => String::new(),
        asks => format!(", asks {asks}"),
    };
    let verdict = if of.holds {
        paint.good("holds")
    } else {
        paint.faint("does not hold")
    };
    text.push_str(&format!(
        "{} {}{dry}{asks}: {verdict}\n",
        of.action, of.policy
    ));
    if of.rules.is_empty() {
        text.push_str("  no rules: it holds for nobody\n");
    }
    for (index, rule) in of.rules.iter().enumerate() {
        let verdict = if rule.holds { "holds" } else { "does not hold" };
        text.push_str(&format!("  Rule {index}: {verdict}\n"));
        if rule.conditions.is_empty() {
            text.push_str(&format!("    {}  holds for everything\n", mark(true)));
        }
        for condition in &rule.conditions {
            text.push_str(&format!(
                "    {}  {}: {}\n",
                mark(condition.holds),
                condition.at,
                condition.text
            ));
        }
    }
}

impl Render for AuthzSuggestion {
    fn text(&self, _page: &Page) -> String {
        let documents = self
            .policies
            .iter()
            .map(|policy| serde_saphyr::to_string(policy).unwrap_or_else(|_| policy.to_string()));
        let mut text = documents.collect::<Vec<_>>().join("---\n");
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let metadata = self.policies.iter().map(|policy| &policy["metadata"]);
        metadata
            .filter_map(|of| {
                Some(format!(
                    "{}.{}",
                    of["name"].as_str()?,
                    of["namespace"].as_str()?
                ))
            })
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.policies
            .is_empty()
            .then_some("Nothing was called by anybody whom a policy can name")
    }
}
