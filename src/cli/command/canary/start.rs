//! `canary start`: what was typed, as what is wanted.

use std::path::PathBuf;
use std::time::Duration;

use crate::api::rollouts::{Rollout, Start};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{parse, settings};
use crate::mesh::rollout::{
    Hook, HookKind, Metric, NoData, Of, SERIES_WORDS, Shadow, Spec, Stage, Strategy,
};
use crate::mesh::shadow::{Comparison, JsonPath};

/// Give a new version more and more requests, and judge it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl canary start reviews --to v3
  meshctl canary start reviews --to v3 --steps 1,5,25,50,100 --interval 30s \\
      --min-success-rate 99 --max-p99 300ms --max-failures 3
  meshctl canary start reviews --to v3 --mirror --gate promotion --watch
  meshctl canary start reviews --to v3 --header x-tester=yes      A/B
  meshctl canary start reviews --to v3 --blue-green --header x-preview=yes
  meshctl canary start reviews --to v3 --strategy shadow --max-different 1 \\
      --diff-ignore '$.servedBy' --diff-ignore '$..id'

A bound that is broken is proven by an exact test, so that a few unlucky
requests stop nothing; so is being worse than the stable version. Until there
are --min-requests a step goes on. What is neither good nor bad within
--patience ends Inconclusive: the stable version gets everything back then,
as after a rollback.")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag that is there or not"
)]
pub(super) struct Args {
    /// NAME or NAME.NAMESPACE
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The new version
    #[arg(long, value_name = "VERSION")]
    to: String,
    /// The version that serves; found by itself where there is one
    #[arg(long, value_name = "VERSION")]
    from: Option<String>,
    /// Percent that each step adds [default: 10]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    step: Option<u32>,
    /// Percent of each step
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        conflicts_with = "step"
    )]
    steps: Vec<u32>,
    /// How often is looked
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse::duration)]
    interval: Duration,
    /// How long a step lasts at least [default: an interval]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    bake: Option<Duration>,
    /// Least share of requests that do not fail, in percent
    #[arg(long, value_name = "PERCENT", default_value = "99")]
    min_success_rate: f64,
    /// Most that the median may be
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_p50: Option<Duration>,
    /// Most that the 95th percentile may be
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_p95: Option<Duration>,
    /// Most that the 99th percentile may be
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    max_p99: Option<Duration>,
    /// Least requests a second that it must get
    #[arg(long, value_name = "N")]
    min_rps: Option<f64>,
    /// Most of a series in percent of requests: retries, 4xx, 404
    #[arg(long, value_name = "NAME=PERCENT", value_parser = rate)]
    max_rate: Vec<(String, f64)>,
    /// What must not be worse than the stable version, or none
    #[arg(
        long,
        value_name = "METRICS",
        value_delimiter = ',',
        default_value = "success-rate,p99"
    )]
    compare: Vec<String>,
    /// Requests to the new version that a look needs
    #[arg(long, value_name = "N", default_value = "100")]
    min_requests: u64,
    /// What is done where they do not come
    #[arg(long, value_name = "wait|pause|fail|pass", default_value = "wait", value_parser = no_data)]
    on_no_data: NoData,
    /// How long a step may go on without a verdict [default: 10 intervals]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    patience: Option<Duration>,
    /// How long the whole may last
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    deadline: Option<Duration>,
    /// Failed checks that roll back; certain ones need no second
    #[arg(long, value_name = "N", default_value = "2")]
    max_failures: u32,
    /// How it gets requests; found out from the other flags
    #[arg(long, value_name = "weight|ab|blue-green|mirror|shadow", value_parser = way)]
    strategy: Option<Way>,
    /// A first step in which it gets copies of requests
    #[arg(long)]
    mirror: bool,
    /// Of how many requests it gets copies [default: 100]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    mirror_percent: Option<u32>,
    /// Most answers to copies that may differ [default: 1]
    #[arg(long, value_name = "PERCENT")]
    max_different: Option<f64>,
    /// Comparisons that a look needs [default: 100]
    #[arg(long, value_name = "N")]
    min_compared: Option<u64>,
    /// A header that is compared besides status and body
    #[arg(long, value_name = "NAME")]
    diff_header: Vec<String>,
    /// A place in JSON that may differ, such as $.items[*].id
    #[arg(long, value_name = "PATH")]
    diff_ignore: Vec<JsonPath>,
    /// Compare no bodies
    #[arg(long)]
    diff_no_body: bool,
    /// Requests with this header go to it from the start
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::key_value)]
    header: Vec<(String, String)>,
    /// Requests with this cookie go to it from the start
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::key_value)]
    cookie: Vec<(String, String)>,
    /// A preview for the header or cookie, then everybody at once
    #[arg(long, conflicts_with_all = ["step", "steps"])]
    blue_green: bool,
    /// A cookie by which callers stay with the version they got
    #[arg(long, value_name = "NAME")]
    affinity_cookie: Option<String>,
    /// Wait for `resume` before this percentage, or `promotion`
    #[arg(long, value_name = "PERCENT|promotion")]
    gate: Vec<String>,
    /// Ask this URL (Flagger's types and payload); may be repeated
    #[arg(long, value_name = "TYPE=URL", value_parser = webhook)]
    webhook: Vec<(HookKind, String)>,
    /// Who issues the certificates of https webhooks, as PEM
    #[arg(long, value_name = "FILE", requires = "webhook")]
    webhook_ca: Option<PathBuf>,
    /// Watch it until it is over
    #[arg(long)]
    watch: bool,
}

fn rate(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("{text:?} is not NAME=PERCENT, such as retries=5");
    let (name, percent) = parse::key_value(text).map_err(|_| wrong())?;
    let percent = percent.parse().map_err(|_| wrong())?;
    if Of::parse(&format!("rate:{name}")).is_none() {
        return Err(format!("there is no series {name:?}: {SERIES_WORDS}"));
    }
    Ok((name, percent))
}

/// How the canary gets requests, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Weight,
    Ab,
    BlueGreen,
    Mirror,
    Shadow,
}

fn way(text: &str) -> Result<Way, String> {
    match text {
        "weight" => Ok(Way::Weight),
        "ab" => Ok(Way::Ab),
        "blue-green" => Ok(Way::BlueGreen),
        "mirror" => Ok(Way::Mirror),
        "shadow" => Ok(Way::Shadow),
        _ => Err(format!(
            "{text:?} is none of weight, ab, blue-green, mirror, shadow"
        )),
    }
}

fn no_data(text: &str) -> Result<NoData, String> {
    match text {
        "wait" => Ok(NoData::Wait),
        "pause" => Ok(NoData::Pause),
        "fail" => Ok(NoData::Fail),
        "pass" => Ok(NoData::Pass),
        _ => Err(format!("{text:?} is none of wait, pause, fail, pass")),
    }
}

fn webhook(text: &str) -> Result<(HookKind, String), String> {
    let kinds: Vec<&str> = HookKind::ALL.iter().map(|(name, _)| *name).collect();
    let wrong = || format!("{text:?} is not TYPE=URL with one of {}", kinds.join(", "));
    let (kind, url) = text.split_once('=').ok_or_else(wrong)?;
    let kind = HookKind::ALL.iter().find(|(name, _)| *name == kind);
    let (_, kind) = kind.ok_or_else(wrong)?;
    Ok((*kind, url.to_owned()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the arguments mean.
fn spec(args: &Args) -> Result<Spec, CliError> {
    let mut matches = Vec::new();
    for (kind, pairs) in [("header", &args.header), ("cookie", &args.cookie)] {
        matches.extend(
            pairs
                .iter()
                .map(|(name, value)| format!("{kind}:{name}={value}")),
        );
    }
    let way = way_of(args, &matches)?;
    let shadow = shadow(args, way)?;
    let ca = match &args.webhook_ca {
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
            CliError::usage(format!("cannot read {}: {error}", file.display()))
        })?),
        None => None,
    };
    let plain = |weight: u32| Stage {
        weight,
        ..Stage::default()
    };
    let given = match (args.steps.as_slice(), args.step) {
        ([], None) => None,
        ([], Some(size)) => Some(Spec::by_size(size)),
        (list, _) => Some(list.iter().copied().map(plain).collect()),
    };
    let (strategy, usual) = match way {
        Way::Weight | Way::Mirror => (Strategy::Weight, Spec::by_size(10)),
        Way::Ab => (Strategy::AbTest, vec![plain(0)]),
        Way::BlueGreen => (Strategy::BlueGreen, vec![plain(0), plain(100)]),
        Way::Shadow => (Strategy::Shadow, vec![plain(100)]),
    };
    let mut steps = given.unwrap_or(usual);
    if args.mirror || shadow.is_some() || way == Way::Mirror {
        steps.insert(
            0,
            Stage {
                mirror: true,
                ..Stage::default()
            },
        );
    }
    let mut gate_promotion = false;
    for gate in &args.gate {
        if gate == "promotion" {
            gate_promotion = true;
            continue;
        }
        let weight: Option<u32> = gate.parse().ok();
        let stage = steps
            .iter_mut()
            .find(|stage| Some(stage.weight) == weight && !stage.mirror);
        let Some(stage) = stage else {
            return Err(CliError::usage(format!(
                "no step is of {gate} %, and a gate is before one or before promotion"
            )));
        };
        stage.gate = true;
    }
    Ok(Spec {
        stable: args.from.clone().unwrap_or_default(),
        canary: args.to.clone(),
        strategy,
        steps,
        interval_ms: millis(args.interval),
        bake_ms: args.bake.map_or(0, millis),
        patience_ms: args.patience.map_or(0, millis),
        deadline_ms: args.deadline.map(millis),
        metrics: metrics(args)?,
        min_requests: args.min_requests,
        on_no_data: args.on_no_data,
        max_failures: args.max_failures,
        hooks: args
            .webhook
            .iter()
            .map(|(kind, url)| Hook {
                name: kind.name().to_owned(),
                kind: *kind,
                url: url.clone(),
                timeout_ms: 10_000,
                retries: 0,
                metadata: std::collections::BTreeMap::new(),
                ca: ca.clone().filter(|_| url.starts_with("https://")),
            })
            .collect(),
        gate_promotion,
        matches,
        affinity: args.affinity_cookie.clone(),
        mirror_percent: args.mirror_percent,
        shadow,
    })
}

/// How it gets requests, by what was said and what else was given.
fn way_of(args: &Args, matches: &[String]) -> Result<Way, CliError> {
    let steps = !args.steps.is_empty() || args.step.is_some();
    let way = match args.strategy {
        Some(way) if args.blue_green && way != Way::BlueGreen => {
            return Err(CliError::usage(
                "--blue-green is --strategy blue-green, and another strategy is given",
            ));
        }
        Some(way) => way,
        None if args.blue_green => Way::BlueGreen,
        None if !matches.is_empty() && !steps => Way::Ab,
        None => Way::Weight,
    };
    if matches.is_empty() && way == Way::BlueGreen {
        return Err(CliError::usage(
            "a preview is for somebody: give --header NAME=VALUE or --cookie NAME=VALUE",
        ));
    }
    if matches.is_empty() && way == Way::Ab {
        return Err(CliError::usage(
            "A/B is for somebody: give --header NAME=VALUE or --cookie NAME=VALUE",
        ));
    }
    if steps && matches!(way, Way::Ab | Way::BlueGreen) {
        return Err(CliError::usage(
            "the steps of A/B and blue/green are given: leave out --step and --steps",
        ));
    }
    Ok(way)
}

/// How answers to copies are judged; none where they are not compared.
fn shadow(args: &Args, way: Way) -> Result<Option<Shadow>, CliError> {
    let said = args.max_different.is_some()
        || args.min_compared.is_some()
        || !args.diff_header.is_empty()
        || !args.diff_ignore.is_empty()
        || args.diff_no_body;
    if !said && way != Way::Shadow {
        return Ok(None);
    }
    if way != Way::Shadow && way != Way::Mirror && !args.mirror {
        return Err(CliError::usage(
            "answers are compared where requests are copied: --strategy shadow, or --mirror",
        ));
    }
    let usual = Shadow::default();
    Ok(Some(Shadow {
        max_different_percent: args.max_different.unwrap_or(usual.max_different_percent),
        min_compared: args.min_compared.unwrap_or(usual.min_compared),
        compare: Comparison {
            headers: args
                .diff_header
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            ignore: args.diff_ignore.clone(),
            body: !args.diff_no_body,
            ..Comparison::default()
        },
    }))
}

fn metrics(args: &Args) -> Result<Vec<Metric>, CliError> {
    let mut all = vec![Metric {
        metric: Of::Success,
        bound: Some(args.min_success_rate),
        compare: false,
    }];
    for (thousandths, bound) in [
        (500, args.max_p50),
        (950, args.max_p95),
        (990, args.max_p99),
    ] {
        all.extend(bound.map(|bound| Metric {
            metric: Of::Quantile(thousandths),
            bound: Some(bound.as_secs_f64() * 1_000.0),
            compare: false,
        }));
    }
    all.extend(args.min_rps.map(|bound| Metric {
        metric: Of::PerSecond,
        bound: Some(bound),
        compare: false,
    }));
    for (name, percent) in &args.max_rate {
        all.push(Metric {
            metric: Of::Rate(name.clone()),
            bound: Some(*percent),
            compare: false,
        });
    }
    for name in args.compare.iter().filter(|name| *name != "none") {
        let Some(of) = Of::parse(name) else {
            return Err(CliError::usage(format!(
                "{name:?} is nothing to compare: success-rate, p50, p95, p99, rate:NAME, or none"
            )));
        };
        match all.iter_mut().find(|metric| metric.metric == of) {
            Some(known) => known.compare = true,
            None => all.push(Metric {
                metric: of,
                bound: None,
                compare: true,
            }),
        }
    }
    Ok(all)
}

pub(super) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let (service, namespace) = parse::qualified(&args.service, cx.settings.namespace());
    let spec = spec(&args)?;
    // Which version serves is found out by whom it is told.
    let whole = Spec {
        stable: if spec.stable.is_empty() {
            "\u{0}".to_owned()
        } else {
            spec.stable.clone()
        },
        ..spec.clone()
    };
    if let Err((message, hint)) = whole.check() {
        return Err(CliError::Usage {
            message,
            hint: Some(hint.to_owned()),
        });
    }
    let request = Start {
        spec,
        who: settings::who(),
    };
    let begun: Rollout = cx
        .client
        .post(&path(&["rollouts", &namespace, &service], &[]), &request)
        .await?;
    if args.watch {
        return super::watch::watch(cx, &namespace, &service, None).await;
    }
    cx.out.report(&begun)?;
    cx.out.note(&format!(
        "Follow it with `meshctl canary watch {service}{}`",
        if namespace == "default" {
            String::new()
        } else {
            format!(".{namespace}")
        }
    ));
    Ok(Exit::Ok)
}
