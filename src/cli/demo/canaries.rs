//! Two canaries: a version that is good gets everything, and one that fails goes back by itself.

use crate::api::canary::{CanaryReport, CanarySet};
use crate::api::rollouts::{Rollout, Start};
use crate::cli::error::CliError;
use crate::mesh::rollout::{Metric, Of, Phase, Spec};

use super::report::Figure;
use super::stage::Stage;
use super::{NAMESPACE, ratio};
use crate::cli::load::{self, Plan};

/// Has the versions that are good share what is asked from now on: the bad one is there for its canary only.
pub(super) async fn good_ones_serve(stage: &Stage) -> Result<(), CliError> {
    let files = ["destination-rule-reviews.yaml", "reviews-route.yaml"];
    stage.apply(&files, NAMESPACE).await.map(drop)
}

async fn set(stage: &Stage, weights: &[(&str, u32)]) -> Result<(), CliError> {
    let request = CanarySet {
        weights: weights
            .iter()
            .map(|(version, weight)| ((*version).to_owned(), *weight))
            .collect(),
        matches: Vec::new(),
        who: "demo".to_owned(),
    };
    let path = format!("/canaries/{NAMESPACE}/reviews");
    let _: CanaryReport = stage.client().post(&path, &request).await?;
    Ok(())
}

/// Both, one after the other, under load.
pub(super) async fn run(stage: &Stage, through: &Plan) -> Result<Vec<Figure>, CliError> {
    set(stage, &[("v1", 100)]).await?;
    let running = load::start(through.clone());
    let good = canary(stage, "v1", "v3", &[5, 25, 50, 100]).await;
    let tally = running.stop().await;
    let good = good?;
    let passed = good.phase == Phase::Succeeded && good.weight == 100;
    let running = load::start(through.clone());
    let bad = canary(stage, "v3", "v4", &[20, 50, 100]).await;
    running.stop().await;
    let bad = bad?;
    let after = load::burst(through, 300).await;
    let back = after.versions.get("v3").copied().unwrap_or(0);
    Ok(vec![
        Figure {
            name: "canaryPromoted",
            what: "A good version goes 5, 25, 50, 100 % by itself, and not one request fails"
                .to_owned(),
            found: format!(
                "{} in {:.1} s, {} requests, {} failed {}",
                good.phase.name(),
                seconds(&good),
                tally.requests,
                tally.failed,
                tally.why()
            ),
            value: Some(ratio(tally.failed, 1)),
            good: passed && tally.failed == 0 && tally.requests > 0,
        },
        Figure {
            name: "canaryRolledBack",
            what: "A version that fails one request in ten goes back by itself".to_owned(),
            found: format!(
                "{} at {} % after {:.1} s: {}; then v3 answers {back} of {}",
                bad.phase.name(),
                bad.steps
                    .get(bad.step.saturating_sub(1))
                    .map_or(0, |step| step.weight),
                seconds(&bad),
                bad.reason,
                after.requests
            ),
            value: Some(seconds(&bad)),
            good: bad.phase == Phase::RolledBack && after.failed == 0 && back == after.requests,
        },
    ])
}

fn seconds(rollout: &Rollout) -> f64 {
    let end = rollout.ended_unix_ms.unwrap_or(rollout.updated_unix_ms);
    let took = end.saturating_sub(rollout.started_unix_ms);
    std::time::Duration::from_millis(took).as_secs_f64()
}

/// Begins one and waits for its end.
async fn canary(
    stage: &Stage,
    stable: &str,
    canary: &str,
    steps: &[u32],
) -> Result<Rollout, CliError> {
    let path = format!("/rollouts/{NAMESPACE}/reviews");
    let request = Start {
        spec: Spec {
            stable: stable.to_owned(),
            canary: canary.to_owned(),
            steps: steps
                .iter()
                .map(|weight| crate::mesh::rollout::Stage {
                    weight: *weight,
                    ..Default::default()
                })
                .collect(),
            // Short, as the demo is; min_requests keep it from judging by a few.
            interval_ms: 1_000,
            min_requests: 30,
            metrics: vec![Metric {
                metric: Of::Success,
                bound: Some(99.0),
                compare: true,
            }],
            ..Spec::default()
        },
        who: "demo".to_owned(),
    };
    let _: Rollout = stage.client().post(&path, &request).await?;
    stage
        .eventually(async || {
            let rollout: Rollout = stage.client().get(&path).await?;
            Ok((rollout.phase.is_end() && rollout.applied).then_some(rollout))
        })
        .await
}
