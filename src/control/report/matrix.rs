//! Who may call whom, for all at once.

use std::collections::BTreeSet;

use super::authz::{CheckError, check};
use crate::api::authz::{AuthzCell, AuthzCheck, AuthzMatrix, AuthzReport, Verdict};
use crate::mesh::World;

/// Calls that are judged at most; each costs some microseconds a policy.
const MOST: usize = 10_000;

/// Every workload that runs, and somebody without an identity, against every service that an instance stands behind.
/// Fails where `path` is refused whoever asks for it.
pub fn matrix(world: &World, method: &str, path: &str) -> Result<AuthzMatrix, CheckError> {
    let workloads = world.instances.values();
    let workloads: BTreeSet<String> = workloads
        .filter(|instance| !instance.workload.is_empty())
        .map(|instance| format!("{}.{}", instance.workload, instance.namespace))
        .collect();
    let callers: Vec<String> = workloads.into_iter().chain([String::new()]).collect();
    let services: BTreeSet<String> = world
        .config
        .services
        .values()
        .filter(|service| !service.selector.is_empty())
        .map(|service| format!("{}.{}", service.name, service.namespace))
        .collect();
    let mut told = AuthzMatrix {
        method: method.to_ascii_uppercase(),
        path: path.to_owned(),
        ..AuthzMatrix::default()
    };
    'services: for to in services {
        for from in &callers {
            if told.cells.len() >= MOST {
                told.left_out += callers.len();
                continue 'services;
            }
            let asked = AuthzCheck {
                from: from.clone(),
                to: to.clone(),
                method: told.method.clone(),
                path: path.to_owned(),
                ..AuthzCheck::default()
            };
            match check(world, &asked) {
                Ok(report) => told.cells.push(cell(from, &to, report)),
                Err(error @ CheckError::Invalid(_)) => return Err(error),
                // Nobody stands behind it, or it has no port.
                Err(CheckError::NoInstance(_) | CheckError::NoPort { .. }) => continue 'services,
                // The caller ended meanwhile.
                Err(CheckError::NoTarget(_) | CheckError::NoCaller(_)) => {}
            }
        }
        told.services.push(to);
    }
    told.callers = callers;
    Ok(told)
}

fn cell(from: &str, to: &str, report: AuthzReport) -> AuthzCell {
    let trace = report.trace;
    AuthzCell {
        from: from.to_owned(),
        to: to.to_owned(),
        verdict: match (trace.allowed, trace.asks.is_empty()) {
            (false, _) => Verdict::Denied,
            (true, true) => Verdict::Allowed,
            (true, false) => Verdict::Asked,
        },
        audited: trace
            .policies
            .iter()
            .any(|policy| policy.action == "AUDIT" && policy.holds),
        because: trace.because,
        policies: trace
            .policies
            .iter()
            .map(|policy| format!("{} {}", policy.action, policy.policy))
            .collect(),
    }
}
