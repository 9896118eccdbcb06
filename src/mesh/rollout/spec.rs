//! What is wanted of a rollout.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::mesh::shadow::Comparison;

/// How the canary gets requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// A growing share.
    #[default]
    Weight,
    /// Those that meet a condition, and then everybody.
    AbTest,
    /// A preview for those that ask for it, and then everybody.
    BlueGreen,
    /// Copies, whose answers are held against those that callers get, and then everybody.
    Shadow,
}

impl Strategy {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::AbTest => "abTest",
            Self::BlueGreen => "blueGreen",
            Self::Shadow => "shadow",
        }
    }
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stage {
    /// Share of the canary, in percent.
    pub weight: u32,
    /// The canary gets a copy of each request, and its answers are thrown away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub mirror: bool,
    /// Somebody must say `resume` before it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gate: bool,
}

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Of {
    /// Requests that did not fail, in percent: `success-rate`.
    Success,
    /// A quantile of their duration, in milliseconds, by thousandths: `p50`, `p99`, `p99.9`.
    Quantile(u16),
    /// Events of a series in percent of requests: `rate:retries`, `rate:4xx`, `rate:404`, `rate:grpc-14`.
    Rate(String),
    /// Requests of the canary a second: `requests-per-second`.
    PerSecond,
}

/// Series whose rate can be judged, besides classes of answers, single statuses, and those of gRPC.
pub const SERIES: [&str; 4] = ["failures", "retries", "timeouts", "overflows"];
/// The rest of them, for people.
pub const SERIES_WORDS: &str = "failures, retries, timeouts, overflows, a class such as 4xx, a status such as 404, or one of gRPC such as grpc-14";

/// Whether there is such a series. 200, and 0 of gRPC, are not counted apart.
fn is_series(name: &str) -> bool {
    let status = |low: u16, high: u16, text: &str| {
        let number = text
            .parse()
            .ok()
            .filter(|number| (low..=high).contains(number));
        number.is_some_and(|number| number != 200 && text.len() == number.to_string().len())
    };
    SERIES.contains(&name)
        || matches!(name, "1xx" | "2xx" | "3xx" | "4xx" | "5xx" | "none")
        || status(100, 599, name)
        || name
            .strip_prefix("grpc-")
            .is_some_and(|text| status(1, 16, text))
}

impl Of {
    /// Reads its name.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "success-rate" {
            return Some(Self::Success);
        }
        if text == "requests-per-second" {
            return Some(Self::PerSecond);
        }
        if let Some(name) = text.strip_prefix("rate:") {
            return is_series(name).then(|| Self::Rate(name.to_owned()));
        }
        let number = text.strip_prefix('p')?;
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        let whole: u16 = whole
            .parse()
            .ok()
            .filter(|whole| (1..100).contains(whole))?;
        let tenth: u16 = tenth.parse().ok().filter(|tenth| *tenth < 10)?;
        Some(Self::Quantile(whole * 10 + tenth))
    }

    /// Whether more is better.
    pub const fn is_floor(&self) -> bool {
        matches!(self, Self::Success | Self::PerSecond)
    }

    /// `%`, `ms` or `/s`.
    pub const fn unit(&self) -> &'static str {
        match self {
            Self::Quantile(_) => "ms",
            Self::Success | Self::Rate(_) => "%",
            Self::PerSecond => "/s",
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("success-rate"),
            Self::Quantile(thousandths) if thousandths % 10 == 0 => {
                write!(f, "p{}", thousandths / 10)
            }
            Self::Quantile(thousandths) => write!(f, "p{}.{}", thousandths / 10, thousandths % 10),
            Self::Rate(name) => write!(f, "rate:{name}"),
            Self::PerSecond => f.write_str("requests-per-second"),
        }
    }
}

impl Serialize for Of {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Of {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is no metric: success-rate, p50, p95, p99, requests-per-second, or rate: of {SERIES_WORDS}"
            ))
        })
    }
}

/// One thing that is judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// What.
    pub metric: Of,
    /// The least (of `success-rate`) or the most (of all others) that is good; none has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
    /// Whether the canary must not be worse than the stable version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compare: bool,
}

/// How answers to copies are judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Shadow {
    /// Most of the compared answers that may differ, in percent.
    pub max_different_percent: f64,
    /// Comparisons that a look needs.
    pub min_compared: u64,
    /// What is compared.
    pub compare: Comparison,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            max_different_percent: 1.0,
            min_compared: 100,
            compare: Comparison::default(),
        }
    }
}

/// What is done where too few requests reach the canary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NoData {
    /// Waits for [`Spec::patience_ms`], then ends without a verdict.
    #[default]
    Wait,
    /// Asks a person, after that time.
    Pause,
    /// Counts as a failed check.
    Fail,
    /// Counts as a good one.
    Pass,
}

/// When a webhook is asked (Flagger's types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// Before anything.
    ConfirmRollout,
    /// Before the first step; a no is a failed check.
    PreRollout,
    /// With every look; a no is a failed check.
    Rollout,
    /// Before every further step.
    ConfirmTrafficIncrease,
    /// Before promotion.
    ConfirmPromotion,
    /// After the end; its answer changes nothing.
    PostRollout,
    /// With every look; a yes rolls back.
    Rollback,
    /// Is told what happens.
    Event,
}

impl HookKind {
    /// Every kind with Flagger's name for it.
    pub const ALL: [(&'static str, Self); 8] = [
        ("confirm-rollout", Self::ConfirmRollout),
        ("pre-rollout", Self::PreRollout),
        ("rollout", Self::Rollout),
        ("confirm-traffic-increase", Self::ConfirmTrafficIncrease),
        ("confirm-promotion", Self::ConfirmPromotion),
        ("post-rollout", Self::PostRollout),
        ("rollback", Self::Rollback),
        ("event", Self::Event),
    ];

    /// Flagger's name for it.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// For messages.
    pub name: String,
    /// When it is asked.
    #[serde(rename = "type")]
    pub kind: HookKind,
    /// `http://…` or `https://…`; a status of 2xx is a yes.
    pub url: String,
    /// How long one try may take.
    #[serde(default = "hook_timeout")]
    pub timeout_ms: u64,
    /// Tries after the first.
    #[serde(default)]
    pub retries: u32,
    /// Sent with the question.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Who issues its certificate, as PEM; none is who the machine of the control plane believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Flagger's default.
const fn hook_timeout() -> u64 {
    10_000
}

/// What is wanted of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// The version that serves.
    pub stable: String,
    /// The version that is tried.
    pub canary: String,
    /// How it gets requests.
    pub strategy: Strategy,
    /// In this order.
    pub steps: Vec<Stage>,
    /// How often is looked.
    pub interval_ms: u64,
    /// How long a step lasts at least; 0 is an interval.
    pub bake_ms: u64,
    /// How long a step may go on without a verdict; 0 is ten intervals, but a minute at least.
    pub patience_ms: u64,
    /// How long the run may last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What is judged.
    pub metrics: Vec<Metric>,
    /// Requests to the canary that a look needs.
    pub min_requests: u64,
    /// What is done with fewer.
    pub on_no_data: NoData,
    /// Failed checks that roll back.
    pub max_failures: u32,
    /// Webhooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Somebody must say `resume` before promotion.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub gate_promotion: bool,
    /// Requests that go to the canary from the start: `header:NAME=VALUE`, `cookie:NAME=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<String>,
    /// The cookie that keeps callers with the version that they got first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Of how many requests the canary gets copies in a mirrored step, in percent; none is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_percent: Option<u32>,
    /// How answers to those copies are judged beside what came of the copies themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            stable: String::new(),
            canary: String::new(),
            strategy: Strategy::Weight,
            steps: Self::by_size(10),
            interval_ms: 30_000,
            bake_ms: 0,
            patience_ms: 0,
            deadline_ms: None,
            metrics: vec![
                Metric {
                    metric: Of::Success,
                    bound: Some(99.0),
                    compare: true,
                },
                Metric {
                    metric: Of::Quantile(990),
                    bound: None,
                    compare: true,
                },
            ],
            min_requests: 100,
            on_no_data: NoData::Wait,
            max_failures: 2,
            hooks: Vec::new(),
            gate_promotion: false,
            matches: Vec::new(),
            affinity: None,
            mirror_percent: None,
            shadow: None,
        }
    }
}

/// The shortest interval: shorter ones would look at nothing, since proxies count once a second.
const SHORTEST_MS: u64 = 1_000;
/// The longest time that may be asked for: thirty days.
const LONGEST_MS: u64 = 30 * 24 * 3_600_000;

impl Spec {
    /// Steps of `size` percent up to 100.
    pub fn by_size(size: u32) -> Vec<Stage> {
        let size = size.clamp(1, 100);
        let mut weights: Vec<u32> = (1..=100_u32)
            .map(|n| n * size)
            .take_while(|w| *w < 100)
            .collect();
        weights.push(100);
        weights
            .into_iter()
            .map(|weight| Stage {
                weight,
                ..Stage::default()
            })
            .collect()
    }

    /// How long a step lasts at least.
    pub fn bake(&self) -> u64 {
        self.bake_ms.max(self.interval_ms)
    }

    /// How long a step may go on without a verdict.
    pub fn patience(&self) -> u64 {
        match self.patience_ms {
            0 => self.interval_ms.saturating_mul(10).max(60_000),
            given => given,
        }
        .max(self.interval_ms)
    }

    /// What makes no sense, and how to mend it.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        if self.canary.is_empty() || self.stable.is_empty() {
            return Err((
                "a rollout goes from one version to another".to_owned(),
                "say which: --to v2",
            ));
        }
        if self.canary == self.stable {
            return Err((
                format!("{} serves already", self.canary),
                "choose another version, such as --to v2",
            ));
        }
        if self.steps.is_empty() || self.steps.len() > 100 {
            return Err((
                format!("{} steps are none that can be gone", self.steps.len()),
                "1 to 100 steps, such as --steps 1,5,25,50,100",
            ));
        }
        let mut last = 0;
        for stage in &self.steps {
            if stage.weight > 100 || stage.weight < last {
                return Err((
                    format!("step {} is not above step {last}", stage.weight),
                    "shares grow from step to step and end at 100 at most: --steps 1,5,25,50,100",
                ));
            }
            if stage.weight == 0 && !stage.mirror && self.matches.is_empty() {
                return Err((
                    "a step of 0 % gives the canary nothing to be judged by".to_owned(),
                    "begin with 1, mirror to it, or send somebody there by --header",
                ));
            }
            last = stage.weight;
        }
        if !(SHORTEST_MS..=LONGEST_MS).contains(&self.interval_ms) {
            return Err((
                format!("an interval of {} ms is out of bounds", self.interval_ms),
                "1s at least, since proxies report once a second, and 30 days at most",
            ));
        }
        for given in [
            self.bake_ms,
            self.patience_ms,
            self.deadline_ms.unwrap_or(0),
        ] {
            if given > LONGEST_MS {
                return Err((format!("{given} ms is too long"), "30 days at most"));
            }
        }
        if self.max_failures == 0 || self.min_requests == 0 {
            return Err((
                "a look needs a request, and a rollback a failed check".to_owned(),
                "give numbers above 0",
            ));
        }
        if self.metrics.is_empty() {
            return Err((
                "nothing is judged".to_owned(),
                "give a bound, such as --min-success-rate 99",
            ));
        }
        for metric in &self.metrics {
            let sane = match (&metric.metric, metric.bound) {
                (Of::PerSecond, _) if metric.compare => false,
                (_, None) => metric.compare,
                (Of::Quantile(_) | Of::PerSecond, Some(bound)) => bound.is_finite() && bound > 0.0,
                (Of::Success | Of::Rate(_), Some(bound)) => (0.0..=100.0).contains(&bound),
            };
            if !sane {
                return Err((
                    format!("the bound of {} makes no sense", metric.metric),
                    "a share is 0 to 100 %, a duration or a number of requests is above 0, and without a bound it is compared; requests a second are not",
                ));
            }
        }
        self.check_copies()?;
        for hook in &self.hooks {
            let secure = hook.url.starts_with("https://");
            if hook.ca.is_some() && !secure {
                return Err((
                    format!(
                        "webhook {} has an authority and is not asked by TLS",
                        hook.name
                    ),
                    "write https:// before its host",
                ));
            }
            if !secure && !hook.url.starts_with("http://") {
                return Err((
                    format!(
                        "webhook {} is at {:?}, which is no http:// or https:// URL",
                        hook.name, hook.url
                    ),
                    "write it with its scheme, such as https://gate.example.com/check",
                ));
            }
            if !(1..=300_000).contains(&hook.timeout_ms) || hook.retries > 10 {
                return Err((
                    format!("webhook {} may take too long", hook.name),
                    "a timeout of 5 minutes and 10 retries at most",
                ));
            }
        }
        Ok(())
    }

    /// The same of what is asked about copies.
    fn check_copies(&self) -> Result<(), (String, &'static str)> {
        let mirrors = self.steps.iter().any(|stage| stage.mirror);
        if let Some(percent) = self.mirror_percent {
            if !(1..=100).contains(&percent) {
                return Err((
                    format!("copies of {percent} % of the requests make no sense"),
                    "1 to 100, such as --mirror-percent 20",
                ));
            }
            if !mirrors {
                return Err((
                    "no step gets copies of requests".to_owned(),
                    "add --mirror, or leave out how many are mirrored",
                ));
            }
        }
        let Some(shadow) = &self.shadow else {
            return match self.strategy {
                Strategy::Shadow => Err((
                    "it is not said how answers to copies are judged".to_owned(),
                    "give a bound, such as --max-different 1",
                )),
                _ => Ok(()),
            };
        };
        if !mirrors {
            return Err((
                "no step gets copies whose answers could be compared".to_owned(),
                "choose --strategy shadow, or add --mirror",
            ));
        }
        if !(0.0..=100.0).contains(&shadow.max_different_percent) {
            return Err((
                format!(
                    "{} % of answers cannot differ",
                    shadow.max_different_percent
                ),
                "0 to 100, such as --max-different 1",
            ));
        }
        if shadow.min_compared == 0 {
            return Err((
                "a look needs answers that are compared".to_owned(),
                "give a number above 0, such as --min-compared 100",
            ));
        }
        Ok(())
    }
}
