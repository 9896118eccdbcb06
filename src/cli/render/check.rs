//! Health of an installation.

use crate::api::check::{Check, CheckReport, CheckStatus};

use super::{Page, Render, wrap::wrap};

/// `text`, broken where the page ends, all lines behind a margin.
fn indented(text: &str, margin: usize, page: &Page) -> String {
    let Some(width) = page.width else {
        return text.to_owned();
    };
    let width = usize::from(width).saturating_sub(margin).max(20);
    wrap(text, width).replace('\n', &format!("\n{:margin$}", ""))
}

impl Render for CheckReport {
    fn text(&self, page: &Page) -> String {
        let paint = page.paint;
        let mut text = String::new();
        for section in self
            .sections
            .iter()
            .filter(|section| !section.checks.is_empty())
        {
            text.push_str(&format!("{}\n", paint.strong(&section.name)));
            for check in &section.checks {
                let mark = match check.status {
                    CheckStatus::Ok => paint.good("√"),
                    CheckStatus::Warning => paint.warn("‼"),
                    CheckStatus::Failed => paint.bad("×"),
                };
                let told = indented(&check.text, 4, page);
                text.push_str(&format!("  {mark} {told}\n"));
                if !check.detail.is_empty() {
                    let told = indented(&check.detail, 6, page);
                    text.push_str(&format!("      {told}\n"));
                }
                if let Some(hint) = &check.hint {
                    let told = indented(hint, 12, page);
                    text.push_str(&format!("      {} {told}\n", paint.hint("hint:")));
                }
            }
            text.push('\n');
        }
        let count = |status| {
            self.sections
                .iter()
                .flat_map(|section| &section.checks)
                .filter(|check| check.status == status)
                .count()
        };
        let (failed, warnings) = (count(CheckStatus::Failed), count(CheckStatus::Warning));
        let verdict = match (failed, warnings) {
            (0, 0) => paint.good("√ everything is as it should be"),
            (0, _) => paint.warn(format!("‼ works, with {warnings} to look at")),
            _ => paint.bad(format!("× {failed} failed")),
        };
        text.push_str(&format!("{verdict}\n"));
        text
    }

    fn names(&self) -> Vec<String> {
        self.sections
            .iter()
            .flat_map(|section| &section.checks)
            .filter(|check| check.status != CheckStatus::Ok)
            .map(|check: &Check| check.text.clone())
            .collect()
    }
}
