//! Analyses over a whole world: one file a question, each answering with findings.
//!
//! They look at what is meant and what runs together, which reading one object cannot. Codes are
//! Istio's where its analysis asks the same.

mod authorization;
mod endpoints;
mod ports;
mod providers;
mod shadowed;
mod sidecars;
mod tokens;

pub(crate) use shadowed::covers;

use std::collections::BTreeSet;

use super::{Finding, World};

/// The findings of `world` that `before` does not have. Where only some services differ, the others are
/// not looked at.
pub fn brought(before: &World, world: &World) -> BTreeSet<Finding> {
    let same = before.instances.is(&world.instances);
    let touched = if same {
        world.config.touched(&before.config)
    } else {
        None
    };
    let all = |world: &World| -> BTreeSet<Finding> { run(world).into_iter().collect() };
    let Some(touched) = touched else {
        return &all(world) - &all(before);
    };
    let sidecars = world.config.sidecars != before.config.sidecars;
    let some = |world: &World| -> BTreeSet<Finding> {
        let mut findings = Vec::new();
        let own = touched.iter();
        let own = own.filter_map(|host| world.config.services.get(host));
        endpoints::check(world, own, &mut findings);
        // Of ports and addresses each may be in the way of any other.
        if !touched.is_empty() {
            ports::check(world, &mut findings);
        }
        shadowed::check(world, &mut findings);
        tokens::check(world, &mut findings);
        authorization::check(world, &mut findings);
        providers::check(world, &mut findings);
        if sidecars {
            sidecars::check(world, &mut findings);
        }
        findings.into_iter().collect()
    };
    &some(world) - &some(before)
}

/// Every analysis; findings in the order of files and lines.
pub fn run(world: &World) -> Vec<Finding> {
    let mut findings = Vec::new();
    endpoints::check(world, world.config.services.values(), &mut findings);
    ports::check(world, &mut findings);
    shadowed::check(world, &mut findings);
    sidecars::check(world, &mut findings);
    tokens::check(world, &mut findings);
    authorization::check(world, &mut findings);
    providers::check(world, &mut findings);
    findings.sort_by(|a, b| {
        let place = |f: &Finding| (f.origin.file.clone(), f.origin.line, f.origin.column);
        place(a).cmp(&place(b)).then_with(|| a.cmp(b))
    });
    findings.dedup();
    findings
}
