//! Findings about configuration, and the codes that they carry.

use crate::api::analysis::{AnalysisReport, CodeReport};
use crate::mesh::Severity;

use super::resources::{finding, object_name};
use super::{Cell, Column, Grid, Page, Render, Tone};

impl Render for AnalysisReport {
    fn text(&self, page: &Page) -> String {
        self.findings
            .iter()
            .map(|each| finding(each, page.paint) + "\n")
            .collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .findings
            .iter()
            .map(|finding| object_name(&finding.origin.kind, &finding.origin.name))
            .filter(|name| name != "/")
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn empty(&self) -> Option<&'static str> {
        self.findings.is_empty().then_some("No problems found")
    }
}

/// `2 errors, 1 warning in 12 objects, 3 of 2 files; 1 suppressed`.
pub(crate) fn counted(report: &AnalysisReport) -> String {
    let many = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    };
    let of = |severity| {
        let all = report.findings.iter();
        all.filter(|finding| finding.severity == severity).count()
    };
    let counts: Vec<String> = [
        (of(Severity::Error), "error"),
        (of(Severity::Warning), "warning"),
        (of(Severity::Info), "note"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, noun)| many(count, noun))
    .collect();
    let mut text = if counts.is_empty() {
        "nothing".to_owned()
    } else {
        counts.join(", ")
    };
    text.push_str(&format!(" in {}", many(report.objects, "object")));
    if report.files > 0 {
        text.push_str(&format!(" and {}", many(report.files, "file")));
    }
    if report.suppressed > 0 {
        text.push_str(&format!("; {} suppressed", report.suppressed));
    }
    text
}

impl Render for Vec<CodeReport> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text("CODE"),
            Column::text("LEVEL"),
            Column::long("ABOUT"),
            Column::text("NAME").when(page.wide),
            Column::long("HELP").when(page.wide),
            Column::text("FORCED").when(page.wide),
        ]);
        for row in self {
            let (level, tone) = match row.severity {
                Severity::Error => ("error", Tone::Bad),
                Severity::Warning => ("warning", Tone::Warn),
                Severity::Info => ("info", Tone::Plain),
            };
            grid.row([
                row.code.as_str().into(),
                Cell::new(level, tone),
                row.about.as_str().into(),
                row.name.as_str().into(),
                row.help.as_str().into(),
                if row.forced { "yes" } else { "no" }.into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.code.clone()).collect()
    }
}
