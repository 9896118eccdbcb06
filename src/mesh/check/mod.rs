//! Analyses over a whole world: one file a question, each answering with findings.
//!
//! They look at what is meant and what runs together, which reading one object cannot. Codes are
//! Istio's where its analysis asks the same.

mod endpoints;
mod ports;
mod shadowed;
mod sidecars;

pub(crate) use shadowed::covers;

use super::{Finding, World};

/// Every analysis; findings in the order of files and lines.
pub fn run(world: &World) -> Vec<Finding> {
    let mut findings = Vec::new();
    endpoints::check(world, &mut findings);
    ports::check(world, &mut findings);
    shadowed::check(world, &mut findings);
    sidecars::check(world, &mut findings);
    findings.sort_by(|a, b| {
        let place = |f: &Finding| (f.origin.file.clone(), f.origin.line, f.origin.column);
        place(a).cmp(&place(b)).then_with(|| a.cmp(b))
    });
    findings.dedup();
    findings
}
