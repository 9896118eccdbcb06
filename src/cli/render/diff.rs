//! What a change does, as lines that come (`+`), go (`-`) or change (`~`).

use serde_json::Value;

use crate::api::diff::{
    DiffReport, FieldDiff, ObjectDiff, PartDiff, ProxyDiff, RevisionReport, RouteDiff,
};
use crate::api::resources::Outcome;
use crate::api::routes::{BackendReport, RouteReport};

use super::resources::{object_name, outcome};
use super::{Page, Paint, Render, number};

/// Longest value that is printed in its line.
const MOST_LETTERS: usize = 400;

impl Render for DiffReport {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let mut text: String = self
            .objects
            .iter()
            .map(|each| object(each, paint))
            .collect();
        for proxy in &self.proxies {
            text.push('\n');
            text.push_str(&proxy_text(proxy, paint));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let objects = self.objects.iter();
        objects
            .map(|object| object_name(&object.kind, &object.name))
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        (self.objects.is_empty() && self.proxies.is_empty()).then_some("Nothing would change")
    }
}

impl Render for Vec<RevisionReport> {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let mut text = String::new();
        for (at, revision) in self.iter().enumerate() {
            if at > 0 {
                text.push('\n');
            }
            let entry = &revision.entry;
            let who = if entry.who.is_empty() {
                "unknown"
            } else {
                &entry.who
            };
            text.push_str(&format!(
                "{} {} ({} ago) by {who}: {}\n",
                paint.strong(format!("revision {}", entry.revision)),
                number::moment(entry.at_unix_ms),
                number::age(entry.at_unix_ms, page.now_unix_ms),
                entry.what,
            ));
            for change in &revision.changes {
                for line in object(change, paint).lines() {
                    text.push_str(&format!("  {line}\n"));
                }
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let revisions = self.iter();
        revisions
            .map(|revision| revision.entry.revision.to_string())
            .collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("No changes yet")
    }
}

fn sign(of: Outcome, paint: Paint) -> String {
    match of {
        Outcome::Created => paint.good("+"),
        Outcome::Deleted => paint.bad("-"),
        Outcome::Configured | Outcome::Unchanged => paint.warn("~"),
    }
}

fn object(change: &ObjectDiff, paint: Paint) -> String {
    let place = if change.namespace.is_empty() {
        String::new()
    } else {
        format!(" in {}", change.namespace)
    };
    let mut text = format!(
        "{} {}{place} {}\n",
        sign(change.outcome, paint),
        paint.strong(object_name(&change.kind, &change.name)),
        outcome(change.outcome),
    );
    for field in &change.fields {
        text.push_str(&field_text(field, "  ", paint));
    }
    text
}

fn field_text(field: &FieldDiff, margin: &str, paint: Paint) -> String {
    match (&field.before, &field.after) {
        (Some(before), Some(after)) if is_short(before) && is_short(after) => format!(
            "{margin}{} {}: {} → {}\n",
            paint.warn("~"),
            field.path,
            short(before),
            short(after)
        ),
        (before, after) => {
            let mut text = String::new();
            if let Some(before) = before {
                text.push_str(&block(&paint.bad("-"), margin, &field.path, before));
            }
            if let Some(after) = after {
                text.push_str(&block(&paint.good("+"), margin, &field.path, after));
            }
            text
        }
    }
}

fn is_short(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => !text.contains('\n'),
        _ => true,
    }
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() > MOST_LETTERS {
        text.chars().take(MOST_LETTERS).chain(['…']).collect()
    } else {
        text
    }
}

/// A value that comes or goes, as YAML below its path.
fn block(sign: &str, margin: &str, path: &str, value: &Value) -> String {
    if is_short(value) {
        return format!("{margin}{sign} {path}: {}\n", short(value));
    }
    let mut text = format!("{margin}{sign} {path}:\n");
    let yaml = serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string());
    for line in yaml.lines() {
        text.push_str(&format!("{margin}{sign}   {line}\n"));
    }
    text
}

fn proxy_text(change: &ProxyDiff, paint: Paint) -> String {
    let names = change.proxies.join(", ");
    let mut text = match change.proxies.len() {
        1 => format!("{}\n", paint.strong(format!("proxy {names}"))),
        many => format!("{} {names}\n", paint.strong(format!("{many} proxies:"))),
    };
    if !change.routes.is_empty() {
        text.push_str("  routes\n");
        for route in &change.routes {
            text.push_str(&route_text(route, paint));
        }
    }
    for (title, parts) in [
        ("listeners", &change.listeners),
        ("clusters", &change.clusters),
        ("endpoints", &change.endpoints),
    ] {
        if parts.is_empty() {
            continue;
        }
        text.push_str(&format!("  {title}\n"));
        for part in parts {
            text.push_str(&part_text(part, paint));
        }
    }
    text
}

fn part_text(part: &PartDiff, paint: Paint) -> String {
    let mut text = format!("    {} {}\n", sign(part.outcome, paint), part.name);
    for field in &part.fields {
        text.push_str(&field_text(field, "      ", paint));
    }
    text
}

fn route_text(route: &RouteDiff, paint: Paint) -> String {
    let either = route.after.as_ref().or(route.before.as_ref());
    let Some(either) = either else {
        return String::new();
    };
    let conditions = if either.matches.is_empty() {
        "everything".to_owned()
    } else {
        either.matches.join(" and ")
    };
    let mut text = format!(
        "    {} {} {conditions}\n",
        sign(route.outcome, paint),
        route.host
    );
    let (before, after) = (route.before.as_ref(), route.after.as_ref());
    let actions = [before, after].map(|route| route.map(|route| route.action.as_str()));
    match actions {
        [Some(before), Some(after)] if before != after => {
            text.push_str(&format!("        {before} → {after}\n"));
        }
        [_, Some(action)] | [Some(action), _] if action != "forward" => {
            text.push_str(&format!("        {action}\n"));
        }
        _ => {}
    }
    for line in shares(before, after) {
        text.push_str(&format!("        {line}\n"));
    }
    // Weights are told above as shares.
    let rest = route.fields.iter().filter(|field| {
        let clusters = field.path.starts_with("action.forward.clusters");
        !clusters || field.path.contains(".headers")
    });
    for field in rest {
        text.push_str(&field_text(field, "        ", paint));
    }
    text
}

/// `reviews.default v1 90.0% → 50.0%`, for each backend before or after.
fn shares(before: Option<&RouteReport>, after: Option<&RouteReport>) -> Vec<String> {
    let backends = |route: Option<&RouteReport>| -> Vec<BackendReport> {
        route.map_or_else(Vec::new, |route| route.backends.clone())
    };
    let (old, new) = (backends(before), backends(after));
    let mut names: Vec<&str> = Vec::new();
    for backend in new.iter().chain(&old) {
        if !names.contains(&backend.cluster.as_str()) {
            names.push(&backend.cluster);
        }
    }
    let of = |backends: &[BackendReport], name: &str| -> Option<f64> {
        let same = backends.iter().filter(|backend| backend.cluster == name);
        let shares: Vec<f64> = same.map(|backend| backend.share_percent).collect();
        (!shares.is_empty()).then(|| shares.iter().sum())
    };
    let label = |name: &str| {
        let backend = new.iter().chain(&old).find(|each| each.cluster == name);
        backend.map_or_else(
            || name.to_owned(),
            |backend| match backend.subset.as_str() {
                "" => backend.service.clone(),
                subset => format!("{} {subset}", backend.service),
            },
        )
    };
    names
        .iter()
        .map(|name| {
            let told = |share: Option<f64>| share.map_or_else(|| "none".to_owned(), number::share);
            let pair = (of(&old, name), of(&new, name));
            let label = label(name);
            if before.is_none() || after.is_none() || pair.0 == pair.1 {
                format!("{label} {}", told(pair.1.or(pair.0)))
            } else {
                format!("{label} {} → {}", told(pair.0), told(pair.1))
            }
        })
        .collect()
}
