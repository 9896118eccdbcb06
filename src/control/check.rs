//! What the control plane knows about its own health.

mod numbers;
mod webhooks;

use std::time::Duration;

use crate::api::check::{Check, CheckReport, CheckSection, CheckStatus};
use crate::mesh::Severity;
use crate::rt::{Tasks, now};
use crate::source::State;
use crate::source::kubernetes::cluster::Cluster;
use crate::source::kubernetes::rights::Whose;
use crate::source::kubernetes::{Standing, Status};

use super::Control;
use super::cluster::Membership;
use super::cluster::rights::lacking;
use super::index::analyses;

/// A certificate authority with less than this left is a warning: 30 days.
const ROOT_ENDS_SOON_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// An API server that takes longer for a small answer is slow.
const LATE: Duration = Duration::from_secs(1);
/// And so long it is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Findings that are told one by one.
const MOST_FINDINGS: usize = 20;

/// Looks at store, authority, configuration and proxies.
pub async fn run(control: &Control) -> CheckReport {
    let mut sections = vec![
        section("store", store(control).await),
        section("identity", identity(control).await),
        section("configuration", configuration(control).await),
        section("proxies", proxies(control)),
        section("numbers", numbers::all(control)),
    ];
    let now = control.wall.millis();
    let mut sources = Vec::new();
    if let Some(seen) = &control.kubernetes {
        let seen = seen.borrow().clone();
        sources.push(kubernetes(&seen, now));
        sources.extend(unread(&seen));
    }
    if let Some(cluster) = &control.cluster {
        // Together: one that does not answer is waited for once.
        let member = async {
            let membership = control.membership.as_ref()?;
            let (rights, shown) = tokio::join!(
                rights(cluster, membership),
                webhooks::shown(control, cluster, membership),
            );
            Some((rights, shown))
        };
        let (answers, member) = tokio::join!(answers(cluster), member);
        sources.push(answers);
        if let Some((rights, shown)) = member {
            sources.push(rights);
            sources.extend(shown);
        }
    }
    for seen in &control.catalogues {
        sources.push(catalogue(&seen.borrow().clone(), now));
    }
    if !sources.is_empty() {
        sections.insert(2, section("sources", sources));
    }
    CheckReport { sections }
}

fn section(name: &str, checks: Vec<Check>) -> CheckSection {
    CheckSection {
        name: name.to_owned(),
        checks,
    }
}

fn check(text: &str, status: CheckStatus, detail: impl Into<String>, hint: &str) -> Check {
    Check {
        text: text.to_owned(),
        status,
        detail: detail.into(),
        hint: (status != CheckStatus::Ok && !hint.is_empty()).then(|| hint.to_owned()),
    }
}

async fn store(control: &Control) -> Vec<Check> {
    let store = control.index.store().clone();
    let writable = match store.read_only() {
        None => check("the store takes writes", CheckStatus::Ok, "", ""),
        Some(error) => check(
            "the store takes writes",
            CheckStatus::Failed,
            error.to_string(),
            error.hint().unwrap_or_default(),
        ),
    };
    let sound = match Tasks::blocking(move || store.verify()).await {
        Some(Ok(report)) if report.is_sound() => check(
            "the store holds what it acknowledged",
            CheckStatus::Ok,
            "",
            "",
        ),
        Some(Ok(report)) => check(
            "the store holds what it acknowledged",
            CheckStatus::Failed,
            report.faults.join("; "),
            "restart the control plane: it repairs its store from journal and snapshot",
        ),
        Some(Err(error)) => check(
            "the store holds what it acknowledged",
            CheckStatus::Failed,
            error.to_string(),
            error.hint().unwrap_or_default(),
        ),
        None => check(
            "the store holds what it acknowledged",
            CheckStatus::Failed,
            "the check itself failed",
            "",
        ),
    };
    let repaired = match &control.opened.repaired {
        None => check(
            "the store was whole when it was opened",
            CheckStatus::Ok,
            "",
            "",
        ),
        Some(repair) => check(
            "the store was whole when it was opened",
            CheckStatus::Warning,
            repair.to_string(),
            "look at the disk; the damaged files are kept beside the store",
        ),
    };
    vec![writable, sound, repaired]
}

async fn identity(control: &Control) -> Vec<Check> {
    let ends = control.trust.authority().not_after();
    let now = control.wall.millis();
    let text = "the mesh's root certificate is valid";
    let days = ends.saturating_sub(now) / (24 * 3_600 * 1_000);
    let mut checks = vec![if ends <= now {
        check(text, CheckStatus::Failed, "it has ended", "rotate the root")
    } else if ends - now < ROOT_ENDS_SOON_MS {
        check(
            text,
            CheckStatus::Warning,
            format!("it ends in {days} days"),
            "rotate the root",
        )
    } else {
        check(text, CheckStatus::Ok, format!("for {days} days"), "")
    }];
    if let Some(signer) = control.trust.signer() {
        let text = format!("the signer answers ({})", signer.name());
        checks.push(match signer.reach().await {
            Ok(()) => check(&text, CheckStatus::Ok, "", ""),
            Err(reason) => check(
                &text,
                CheckStatus::Failed,
                format!("{reason}; certificates that are in use stay good until they end"),
                "see whether the signer runs, and whether --ca-signer-root, --ca-signer-name and what it is shown are right",
            ),
        });
    }
    checks
}

async fn configuration(control: &Control) -> Vec<Check> {
    let mut findings = control.index.findings().await;
    findings.extend(analyses(&control.index.world()));
    findings.retain(|finding| finding.severity != Severity::Info);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let mut checks: Vec<Check> = findings
        .iter()
        .take(MOST_FINDINGS)
        .map(|finding| Check {
            text: finding.message.clone(),
            status: match finding.severity {
                Severity::Error => CheckStatus::Failed,
                Severity::Warning | Severity::Info => CheckStatus::Warning,
            },
            detail: format!("{} [{}]", finding.origin, finding.code),
            hint: finding.hint.clone(),
        })
        .collect();
    if checks.is_empty() {
        checks.push(check(
            "the configuration can be honoured",
            CheckStatus::Ok,
            "",
            "",
        ));
    } else if findings.len() > MOST_FINDINGS {
        let more = format!("{} findings more", findings.len() - MOST_FINDINGS);
        checks.push(check(&more, CheckStatus::Warning, "", ""));
    }
    for (source, reason, had) in control.index.missing_keys().await {
        let text = format!("the keys of a token issuer can be fetched ({source})");
        let (status, effect) = if had {
            (
                CheckStatus::Warning,
                "the last good ones stay in force for a grace",
            )
        } else {
            (CheckStatus::Failed, "none of its tokens is good")
        };
        let hint = "see whether this machine can reach the issuer, or write the keys into jwks";
        checks.push(check(&text, status, format!("{reason}; {effect}"), hint));
    }
    checks
}

fn kubernetes(status: &Status, now_unix_ms: u64) -> Check {
    let text = format!("Kubernetes is followed ({})", status.cluster);
    if let Some((kind, reason, since_unix_ms)) = status.away() {
        let seconds = now_unix_ms.saturating_sub(since_unix_ms) / 1_000;
        // Without the first lists nothing is served; after them the last good world is.
        let (state, effect) = if status.complete() {
            (CheckStatus::Warning, "what is known stays in force")
        } else {
            (CheckStatus::Failed, "proxies are not served yet")
        };
        let mut detail = format!("no answer for {kind} for {seconds} s: {reason}; {effect}");
        let forbidden: Vec<&str> = status.forbidden().collect();
        if !forbidden.is_empty() {
            detail.push_str("; this account may not list and watch ");
            detail.push_str(&forbidden.join(", "));
            return check(&text, state, detail, RESTORE);
        }
        let hint = "see whether the API server runs and whether this account may list and watch";
        return check(&text, state, detail, hint);
    }
    if !status.complete() {
        let waiting: Vec<&str> = status
            .kinds
            .iter()
            .filter(|kind| !kind.listed)
            .map(|kind| kind.kind)
            .collect();
        let detail = format!("the first list of {} is not there yet", waiting.join(", "));
        return check(&text, CheckStatus::Failed, detail, "wait a moment");
    }
    let counts: Vec<String> = status
        .kinds
        .iter()
        .map(|kind| match &kind.standing {
            Standing::Missing(reason) | Standing::Unread(reason) => reason.clone(),
            _ => format!("{} {}", kind.objects, kind.kind),
        })
        .collect();
    check(&text, CheckStatus::Ok, counts.join(", "), "")
}

/// Kinds that a newer release defined.
fn unread(status: &Status) -> Option<Check> {
    let unread: Vec<&str> = status.unread().collect();
    let detail = format!(
        "{}; what was known of them stays in force",
        unread.join("; ")
    );
    let hint = "`meshctl upgrade` to the release that reads them, or serve the older version again";
    (!unread.is_empty()).then(|| {
        let text = "every kind is served in a version that is read here";
        check(text, CheckStatus::Warning, detail, hint)
    })
}

/// How rights are mended.
const RESTORE: &str = "`meshctl install --target kubernetes` again restores the account, its roles and their bindings";

/// Whether the API server lets this replica do what it does.
async fn rights(cluster: &Cluster, membership: &Membership) -> Check {
    let text = "its account may do what this release does";
    let at = (membership.namespace.as_str(), membership.revision.as_str());
    let asked = tokio::time::timeout(PATIENCE, lacking(cluster, at, Whose::Own)).await;
    match asked {
        Ok(Ok(lacking)) if lacking.rights.is_empty() => check(text, CheckStatus::Ok, "", ""),
        Ok(Ok(lacking)) => {
            let detail = format!("it may not {}", lacking.words().join("; "));
            check(text, CheckStatus::Failed, detail, RESTORE)
        }
        Ok(Err(error)) => {
            let detail = format!("not known: {error}");
            check(text, CheckStatus::Warning, detail, RESTORE)
        }
        Err(_) => {
            let detail = format!("not known: no answer in {} s", PATIENCE.as_secs());
            check(
                text,
                CheckStatus::Warning,
                detail,
                "see whether the API server is busy",
            )
        }
    }
}

/// Whether the API server answers what the control plane asks, and how soon.
async fn answers(cluster: &Cluster) -> Check {
    let text = format!("the API server answers in time ({})", cluster.name());
    let asked = now();
    let answer = tokio::time::timeout(PATIENCE, cluster.version()).await;
    let hint =
        "see whether the API server is busy, and how `kubectl get --raw /readyz?verbose` answers";
    let effect = "what is known stays in force, and changes and statuses come late";
    let took = asked.elapsed();
    match answer {
        Ok(Ok(_)) if took < LATE => check(&text, CheckStatus::Ok, "", ""),
        Ok(Ok(_)) => {
            let detail = format!("it took {:.1} s; {effect}", took.as_secs_f64());
            check(&text, CheckStatus::Warning, detail, hint)
        }
        Ok(Err(error)) => check(
            &text,
            CheckStatus::Warning,
            format!("{error}; {effect}"),
            hint,
        ),
        Err(_) => {
            let detail = format!("no answer in {} s; {effect}", PATIENCE.as_secs());
            check(&text, CheckStatus::Warning, detail, hint)
        }
    }
}

fn catalogue(state: &State, now_unix_ms: u64) -> Check {
    let text = format!("{} is followed", state.name);
    if let Some(away) = &state.away {
        let seconds = now_unix_ms.saturating_sub(away.since_unix_ms) / 1_000;
        let (status, effect) = if state.complete {
            (CheckStatus::Warning, "what is known stays in force")
        } else {
            (CheckStatus::Failed, "proxies are not served yet")
        };
        let detail = format!("for {seconds} s: {}; {effect}", away.reason);
        return check(&text, status, detail, away.hint);
    }
    if !state.complete {
        let detail = "it has not said all there is yet";
        return check(&text, CheckStatus::Failed, detail, "wait a moment");
    }
    let (services, instances) = (state.services, state.instances);
    let known = format!("{services} services, {instances} instances");
    if state.warnings.is_empty() {
        return check(&text, CheckStatus::Ok, known, "");
    }
    let detail = format!("{known}; {}", state.warnings.join("; "));
    let hint = "give the token what it lacks, or the services other names; what is left out cannot be called";
    check(&text, CheckStatus::Warning, detail, hint)
}

fn proxies(control: &Control) -> Vec<Check> {
    let status = control.hub.status();
    let rejected: Vec<String> = status
        .iter()
        .filter_map(|proxy| {
            let reason = proxy.rejected()?;
            Some(format!("{}: {reason}", proxy.name))
        })
        .collect();
    vec![check(
        "every proxy runs what it was sent",
        if rejected.is_empty() {
            CheckStatus::Ok
        } else {
            CheckStatus::Failed
        },
        if rejected.is_empty() {
            format!("{} connected", status.len())
        } else {
            rejected.join("; ")
        },
        "see `meshctl proxies NAME`",
    )]
}
