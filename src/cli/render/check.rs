//! Health of an installation.

use crate::api::check::{Check, CheckReport, CheckStatus};

use super::{Page, Render};

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
                text.push_str(&format!("  {mark} {}\n", check.text));
                if !check.detail.is_empty() {
                    text.push_str(&format!("      {}\n", check.detail));
                }
                if let Some(hint) = &check.hint {
                    text.push_str(&format!("      {} {hint}\n", paint.hint("hint:")));
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
