//! The demo: the whole mesh on real processes, measured, and gone again.
//!
//! Owns the story and its figures. Everything is done through the commands and the API that a user
//! has; the mesh lives in a throw-away home, in namespace `prod`.

mod canaries;
mod outside;
mod report;
mod stage;
mod window;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::api::canary::{CanaryReport, CanarySet};
use crate::api::identity::{IdentityReport, IdentityRequest};
use crate::api::stats::StatsReport;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::load::{self, Plan, Tally};
use crate::cli::progress::Progress;
use crate::cli::throwaway::interrupted;
use crate::rt::{Tasks, now};

use report::{DemoReport, Figure, interval};
use stage::Stage;

/// Where the shop runs, as the split that users bring is for it.
const NAMESPACE: &str = "prod";
/// Requests for the measured split.
const REQUESTS: u64 = 10_000;
/// Times that the weights are changed under load.
const SHIFTS: u32 = 20;

/// Runs all of it and prints what was measured; false when a figure is off.
pub(crate) async fn run(
    cx: &Context,
    limit: Duration,
    port: Option<u16>,
) -> Result<bool, CliError> {
    let begun = now();
    let listener = port.map(window::claim).transpose()?;
    let mut stage = Stage::new()?;
    let window = Tasks::new();
    let story = tell(cx, &mut stage, listener.map(|listener| (listener, &window)));
    let result = tokio::select! {
        told = tokio::time::timeout(limit, story) => told.unwrap_or_else(|_| {
            Err(CliError::Timeout { what: "the demo".to_owned(), after: limit })
        }),
        () = interrupted() => Err(CliError::failed("interrupted")),
    };
    window.end().await;
    let step = Progress::new(&cx.out).step("Clean up");
    let cleaned = stage.clear().await;
    match &cleaned {
        Ok(()) => step.done("no process, no file left"),
        Err(_) => step.failed(),
    }
    let mut steps = result?;
    cleaned?;
    steps.push(Figure {
        name: "cleanup",
        what: "Everything that was started is gone".to_owned(),
        found: "no process and no file is left".to_owned(),
        value: None,
        good: true,
    });
    let report = DemoReport {
        passed: steps.iter().all(|figure| figure.good),
        steps,
        seconds: begun.elapsed().as_secs_f64(),
    };
    cx.out.report(&report)?;
    Ok(report.passed)
}

async fn tell(
    cx: &Context,
    stage: &mut Stage,
    window: Option<(TcpListener, &Tasks)>,
) -> Result<Vec<Figure>, CliError> {
    let progress = Progress::new(&cx.out);
    let mut figures = Vec::new();

    let step = progress.step("Start a mesh: control plane, seven pods, a sidecar each");
    let begun = now();
    stage.start(NAMESPACE).await?;
    let pods = stage.pods().await?;
    step.done(&format!(
        "{} pods in {:.1} s",
        pods.len(),
        begun.elapsed().as_secs_f64()
    ));
    canaries::good_ones_serve(stage).await?;
    if let Some((listener, tasks)) = window {
        window::open(listener, stage.application("productpage").await?, tasks);
    }
    let productpage = stage.pod("productpage").await?;
    let reviews = stage.pod("reviews").await?;
    let through = Plan {
        to: SocketAddr::new(productpage, 15001),
        target: "http://reviews:9080/reviews/0".to_owned(),
        host: "reviews:9080".to_owned(),
        connections: 8,
    };

    let step = progress.step("Encrypt: who may call whom, and how");
    figures.extend(encryption(cx, stage, &through, SocketAddr::new(reviews, 9080)).await?);
    step.done("");

    let step = progress.step(format!("Split: {REQUESTS} requests at 90/10"));
    figures.push(split(stage, &through).await?);
    step.done("");

    let step = progress.step(format!("Shift: {SHIFTS} changes of weight under load"));
    figures.extend(shift(stage, &through).await?);
    step.done("");

    let step = progress.step("Canaries: a good version goes on, a bad one goes back");
    figures.extend(canaries::run(stage, &through).await?);
    step.done("");

    let step = progress.step("Break: kill the control plane and a backend");
    figures.extend(break_things(stage, &through).await?);
    step.done("");

    let step = progress.step("Cost: two sidecars with mTLS against a direct call");
    figures.push(cost(stage, &through).await?);
    step.done("");
    Ok(figures)
}

async fn encryption(
    cx: &Context,
    stage: &Stage,
    through: &Plan,
    reviews: SocketAddr,
) -> Result<Vec<Figure>, CliError> {
    let mut figures = Vec::new();
    let before = outside::plaintext_answered(reviews, "/reviews/0").await;
    stage.apply(&["strict-mtls.yaml"], NAMESPACE).await?;
    let after = outside::plaintext_answered(reviews, "/reviews/0").await;
    figures.push(Figure {
        name: "plaintextRefused",
        what: "Plaintext from outside the mesh is refused under STRICT".to_owned(),
        found: format!(
            "before: {}; after: {}",
            if before { "answered" } else { "refused" },
            if after { "answered" } else { "refused" }
        ),
        value: None,
        good: before && !after,
    });
    let identity: IdentityReport = stage
        .client()
        .post(
            "/identities",
            &IdentityRequest {
                namespace: NAMESPACE.to_owned(),
                service_account: "bookinfo-productpage".to_owned(),
                ttl_seconds: 3_600,
            },
        )
        .await?;
    let member = outside::member(&identity).map_err(CliError::failed)?;
    let forger = outside::forger(&identity, &cx.wall).map_err(CliError::failed)?;
    let good = outside::tls_call(reviews, &member, "/reviews/0").await;
    let bad = outside::tls_call(reviews, &forger, "/reviews/0").await;
    figures.push(Figure {
        name: "foreignCertificateRefused",
        what: "A certificate of the mesh is let in, the same name from another authority is not"
            .to_owned(),
        found: match (&good, &bad) {
            (Ok(seen), Err(reason)) => {
                format!(
                    "member: {} over {}; forger: {reason}",
                    seen.peer, seen.protocol
                )
            }
            (Ok(_), Ok(_)) => "the forger was let in".to_owned(),
            (Err(reason), _) => format!("the member was refused: {reason}"),
        },
        value: None,
        good: good.is_ok() && bad.is_err(),
    });
    let tally = load::burst(through, 500).await;
    let share = stage
        .eventually(async || {
            let report: StatsReport = stage
                .client()
                .get("/stats?window=60&service=reviews&namespace=prod")
                .await?;
            let row = report.rows.first();
            Ok(row
                .filter(|row| row.requests >= 500)
                .and_then(|row| row.mtls_percent))
        })
        .await?;
    figures.push(Figure {
        name: "mtlsPercent",
        what: "Calls between services are mutual TLS, as the called sidecars report".to_owned(),
        found: format!(
            "{share:.1} % of {} calls to reviews, {} failed {}",
            tally.requests,
            tally.failed,
            tally.why()
        ),
        value: Some(share),
        good: tally.failed == 0 && share >= 99.0,
    });
    Ok(figures)
}

async fn split(stage: &Stage, through: &Plan) -> Result<Figure, CliError> {
    stage
        .apply(
            &["destination-rule-reviews.yaml", "reviews-route.yaml"],
            NAMESPACE,
        )
        .await?;
    let tally = load::burst(through, REQUESTS).await;
    let second = tally.versions.get("v2").copied().unwrap_or(0);
    let (low, high) = interval(second, tally.requests);
    let share = 100.0 * ratio(second, tally.requests);
    Ok(Figure {
        name: "split",
        what: "A 90/10 split sends one request in ten to v2".to_owned(),
        found: format!(
            "{share:.2} % of {} (95 % interval {low:.2} to {high:.2}); {} failed {}",
            tally.requests,
            tally.failed,
            tally.why()
        ),
        value: Some(share),
        good: tally.failed == 0 && (share - 10.0).abs() <= 1.0,
    })
}

async fn shift(stage: &Stage, through: &Plan) -> Result<Vec<Figure>, CliError> {
    let running = load::start(through.clone());
    let mut medians = Vec::new();
    let mut acknowledged = true;
    for round in 1..=SHIFTS {
        let third = round * 100 / SHIFTS;
        let report: CanaryReport = stage
            .client()
            .post(
                &format!("/canaries/{NAMESPACE}/reviews"),
                &CanarySet {
                    weights: vec![("v1".to_owned(), 100 - third), ("v3".to_owned(), third)],
                    matches: Vec::new(),
                    who: "demo".to_owned(),
                },
            )
            .await?;
        acknowledged &= report.convergence.acknowledged == report.convergence.proxies;
        medians.push(report.convergence.median_ms);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let during = running.stop().await;
    let after = load::burst(through, 500).await;
    medians.sort_by(f64::total_cmp);
    let median = medians.get(medians.len() / 2).copied().unwrap_or(f64::MAX);
    let third = after.versions.get("v3").copied().unwrap_or(0);
    Ok(vec![
        Figure {
            name: "shiftFailures",
            what: format!("Not one request fails while the weights change {SHIFTS} times"),
            found: format!(
                "{} requests, {} failed {}; then v3 answers {third} of {}",
                during.requests,
                during.failed,
                during.why(),
                after.requests
            ),
            value: Some(ratio(during.failed, 1)),
            good: during.failed == 0 && during.requests > 0 && third == after.requests,
        },
        Figure {
            name: "shiftAcknowledgedMs",
            what: "Every sidecar acknowledges a change within 200 ms".to_owned(),
            found: format!("median {median:.1} ms"),
            value: Some(median),
            good: acknowledged && median < 200.0,
        },
    ])
}

async fn break_things(stage: &Stage, through: &Plan) -> Result<Vec<Figure>, CliError> {
    let mut figures = Vec::new();
    let running = load::start(through.clone());
    stage.kill_control_plane().await?;
    let away = now();
    stage.control_plane_back().await?;
    let away = away.elapsed();
    let tally = running.stop().await;
    figures.push(Figure {
        name: "controlPlaneKilled",
        what: "Users notice nothing when the control plane is killed".to_owned(),
        found: format!(
            "{} requests, {} failed {}; it was back after {:.1} s",
            tally.requests,
            tally.failed,
            tally.why(),
            away.as_secs_f64()
        ),
        value: Some(ratio(tally.failed, 1)),
        good: tally.failed == 0 && tally.requests > 0,
    });
    // Two versions share the load, so that one is left when the other is killed.
    let _: CanaryReport = stage
        .client()
        .post(
            &format!("/canaries/{NAMESPACE}/reviews"),
            &CanarySet {
                weights: vec![("v1".to_owned(), 50), ("v3".to_owned(), 50)],
                matches: Vec::new(),
                who: "demo".to_owned(),
            },
        )
        .await?;
    let running = load::start(through.clone());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let killed = now();
    stage.kill_application("reviews-v3").await?;
    let back = killed.elapsed();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tally = running.stop().await;
    let after = load::burst(through, 300).await;
    let share = 100.0 * ratio(tally.failed, tally.requests);
    figures.push(Figure {
        name: "backendKilled",
        what: "A killed backend is restarted, and answers again".to_owned(),
        found: format!(
            "{} of {} requests failed meanwhile ({share:.2} %) {}; back after {:.1} s, then {} of {} failed",
            tally.failed,
            tally.requests,
            tally.why(),
            back.as_secs_f64(),
            after.failed,
            after.requests
        ),
        value: Some(share),
        good: after.failed == 0 && after.requests > 0,
    });
    Ok(figures)
}

async fn cost(stage: &Stage, through: &Plan) -> Result<Figure, CliError> {
    let direct = Plan {
        to: stage.application("details").await?,
        target: "/details/0".to_owned(),
        host: "details:9080".to_owned(),
        connections: 1,
    };
    let meshed = Plan {
        target: "http://details:9080/details/0".to_owned(),
        host: "details:9080".to_owned(),
        connections: 1,
        ..through.clone()
    };
    let (mut plain, mut mesh) = (Tally::default(), Tally::default());
    // In turns, so that a busy moment of the machine falls on both.
    for _ in 0..4 {
        for (plan, sum) in [(&direct, &mut plain), (&meshed, &mut mesh)] {
            let tally = load::burst(plan, 500).await;
            sum.merge(tally);
        }
    }
    let (before, after) = (plain.percentile_ms(50), mesh.percentile_ms(50));
    Ok(Figure {
        name: "overheadMs",
        what: "What the mesh adds to a call: two sidecars, mutual TLS, one connection".to_owned(),
        found: format!(
            "p50 {before:.2} ms direct, {after:.2} ms through the mesh (+{:.2} ms); p99 {:.2} and {:.2} ms",
            after - before,
            plain.percentile_ms(99),
            mesh.percentile_ms(99)
        ),
        value: Some(after - before),
        good: plain.failed == 0 && mesh.failed == 0,
    })
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a share is an estimate"
)]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}
