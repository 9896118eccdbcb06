//! Why a request goes where it goes: the walk through the rules, then what is done with the request.

use crate::api::routes::{CandidateReport, ExplainReport, Fact, RouteReport};
use crate::mesh::route::explain::RouteTrace;
use crate::mesh::{Health, Origin};

use super::registry::ready;
use super::{Cell, Column, Grid, Page, Render, Tone, number, wrap::wrap};

impl Render for ExplainReport {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let mut text = format!("From    {}\n", self.from);
        if !self.listener.is_empty() {
            text.push_str(&format!("Via     {}\n", self.listener));
        }
        text.push_str(&format!("Table   {}\n", self.table));
        match &self.host {
            Some(host) => text.push_str(&format!("Host    {host}\n")),
            None => text.push_str("Host    none: nothing in this table serves the host\n"),
        }
        if !self.meant.is_empty() {
            let meant = hanging(&self.meant.join(", "), 8, page);
            text.push_str(&format!("Meant?  {}\n", paint.hint(meant)));
        }
        text.push('\n');
        for route in &self.routes {
            rule(route, page, &mut text);
        }
        if !self.left_out.is_empty() {
            text.push_str("Not for this call\n");
            facts(2, &self.left_out, page, &mut text);
        }
        if !self.routes.is_empty() {
            text.push('\n');
        }
        if let Some(outcome) = &self.outcome {
            text.push_str(&format!("Action  {}\n", outcome.action));
        }
        if let Some(answer) = &self.answer {
            let answer = hanging(answer, 8, page);
            text.push_str(&format!("Answer  {}\n", paint.warn(answer)));
        }
        if let Some(sent) = &self.sent {
            text.push_str(&format!(
                "Sent    {} to host {}\n",
                sent.path, sent.authority
            ));
        }
        facts(0, &self.facts, page, &mut text);
        if !self.steps.is_empty() {
            text.push_str("\nIn this order\n");
            facts(2, &self.steps, page, &mut text);
        }
        if let Some(outcome) = &self.outcome {
            backends(self, outcome, page, &mut text);
        }
        sources(self, page, &mut text);
        text
    }

    fn names(&self) -> Vec<String> {
        self.outcome
            .iter()
            .flat_map(|outcome| &outcome.backends)
            .map(|backend| backend.cluster.clone())
            .collect()
    }
}

/// `reviews.yaml:12`, or the object where no line is known.
fn place(origin: &Origin) -> String {
    match &origin.file {
        Some(file) if origin.line > 0 => format!("{file}:{}", origin.line),
        _ if origin.kind.is_empty() => "default".to_owned(),
        _ => {
            let bare = Origin {
                file: None,
                ..origin.clone()
            };
            bare.to_string()
        }
    }
}

fn rule(route: &RouteTrace, page: &Page, text: &mut String) {
    let paint = page.paint;
    let mark = |holds: bool| {
        if holds {
            paint.good("✓ true ")
        } else {
            paint.bad("✗ false")
        }
    };
    let name = if route.name.is_empty() {
        String::new()
    } else {
        format!(" {:?}", route.name)
    };
    let verdict = match (route.matched, route.late) {
        (true, false) => paint.good("matched"),
        (true, true) => paint.faint("matches too, but an earlier rule took it"),
        (false, _) => paint.faint("not matched"),
    };
    text.push_str(&format!(
        "Rule {}{name} ({}): {verdict}\n",
        route.index,
        place(&route.origin)
    ));
    if route.conditions.is_empty() {
        text.push_str(&format!("  {}  matches everything\n", mark(true)));
    }
    for condition in &route.conditions {
        let found = match &condition.found {
            Some(found) => format!("found {found:?}"),
            None => "found nothing".to_owned(),
        };
        let words = hanging(&format!("{}; {found}", condition.text), 11, page);
        text.push_str(&format!("  {}  {words}\n", mark(condition.holds)));
    }
}

/// One fact a line, names in a column of their own.
fn facts(margin: usize, facts: &[Fact], page: &Page, text: &mut String) {
    let named = facts.iter().map(|fact| fact.name.chars().count());
    let column = named.max().unwrap_or_default().max(7);
    for fact in facts {
        let mut name = fact.name.clone();
        if margin == 0
            && let Some(first) = name.get_mut(..1)
        {
            first.make_ascii_uppercase();
        }
        let origin = fact.origin.as_ref().map(place);
        let value = match origin {
            Some(origin) => format!("{} ({origin})", fact.value),
            None => fact.value.clone(),
        };
        let value = hanging(&value, margin + column + 1, page);
        text.push_str(&format!("{:margin$}{name:<column$} {value}\n", ""));
    }
}

/// `words` from column `from` on, wrapped where the page ends.
fn hanging(words: &str, from: usize, page: &Page) -> String {
    let Some(width) = page.width else {
        return words.to_owned();
    };
    let width = usize::from(width).saturating_sub(from).max(20);
    wrap(words, width).replace('\n', &format!("\n{:from$}", ""))
}

fn backends(report: &ExplainReport, outcome: &RouteReport, page: &Page, text: &mut String) {
    if outcome.backends.is_empty() {
        return;
    }
    text.push('\n');
    let mut grid = Grid::new([
        Column::long("BACKEND"),
        Column::number("WEIGHT"),
        Column::number("SHARE"),
        Column::number("MEASURED"),
        Column::text("READY"),
        Column::long("CLUSTER"),
    ]);
    for backend in &outcome.backends {
        let full = match backend.subset.as_str() {
            "" => backend.service.clone(),
            subset => format!("{} {subset}", backend.service),
        };
        grid.row([
            full.into(),
            backend.weight.to_string().into(),
            number::share(backend.share_percent).into(),
            Cell::maybe(backend.measured_percent, number::share),
            ready(backend.ready, backend.endpoints),
            match &backend.invalid {
                Some(reason) => Cell::new(reason.as_str(), Tone::Bad),
                None => backend.cluster.as_str().into(),
            },
        ]);
    }
    text.push_str(&grid.draw(page));
    for (at, backend) in outcome.backends.iter().enumerate() {
        let none = Vec::new();
        let own = report.backends.get(at).unwrap_or(&none);
        let nobody = Vec::new();
        let endpoints = report.endpoints.get(at).unwrap_or(&nobody);
        if own.is_empty() && endpoints.is_empty() {
            continue;
        }
        let full = match backend.subset.as_str() {
            "" => backend.service.clone(),
            subset => format!("{} {subset}", backend.service),
        };
        text.push_str(&format!("\n{}\n", page.paint.strong(full)));
        facts(2, own, page, text);
        if !endpoints.is_empty() {
            text.push_str(&candidates(endpoints, page));
        }
    }
}

fn candidates(endpoints: &[CandidateReport], page: &Page) -> String {
    let mut grid = Grid::new([
        Column::text("  ENDPOINT"),
        Column::long("INSTANCE"),
        Column::text("HEALTH"),
        Column::number("PRIORITY"),
        Column::number("WEIGHT"),
        Column::long("LOCALITY"),
        Column::text("MTLS").when(page.wide),
    ]);
    for candidate in endpoints {
        let endpoint = &candidate.endpoint;
        let (health, tone) = match endpoint.health {
            Health::Healthy => ("healthy", Tone::Good),
            Health::Unhealthy => ("unhealthy", Tone::Bad),
            Health::Degraded => ("degraded", Tone::Warn),
            Health::Draining => ("draining", Tone::Warn),
        };
        grid.row([
            format!("  {}", endpoint.address).into(),
            endpoint.instance.as_str().into(),
            Cell::new(health, tone),
            candidate.priority.to_string().into(),
            endpoint.weight.to_string().into(),
            Cell::or_dash(&candidate.locality),
            if endpoint.mtls { "yes" } else { "no" }.into(),
        ]);
    }
    grid.draw(page)
}

fn sources(report: &ExplainReport, page: &Page, text: &mut String) {
    if report.sources.is_empty() {
        return;
    }
    text.push_str("\nAs written in\n");
    for source in &report.sources {
        let state = match (source.generation, source.revision) {
            (Some(generation), _) => format!("generation {generation}"),
            (None, 0) => "kept in Kubernetes".to_owned(),
            (None, revision) => format!("revision {revision}"),
        };
        let name = match source.namespace.as_str() {
            "" => source.name.clone(),
            namespace => format!("{namespace}/{}", source.name),
        };
        let file = source.file.as_ref();
        let file = file.map_or_else(String::new, |file| format!(" ({file})"));
        let words = format!("{} {name}, {state}{file}", source.kind);
        text.push_str(&format!("  {}\n", hanging(&words, 4, page)));
    }
}
