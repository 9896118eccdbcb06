//! What happens to a request between its route and its endpoint.
//!
//! A chain's filters run in order, while the head is borrowed from the read buffer; a route may
//! bring its own configuration for one of them. A filter lets a request pass, perhaps with a
//! [`Permit`] that is given back when the request ends, or refuses it. The set is closed by what
//! configuration can say, so a filter is a variant, not an object; an empty list costs one branch.

pub(crate) mod bucket;
pub(crate) mod compress;
pub(crate) mod cors;
pub(crate) mod fault;
pub(crate) mod gradient;
pub(crate) mod rate_limit;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::mesh::filter::{Compressor, Cors, HttpFilter, RateLimitRule};
use crate::mesh::route::Request;
use crate::mesh::session::StatefulSession;
use crate::telemetry::Flag;

use super::ext_authz::{self, Provider, Step};
use super::jwt::Jwt;
use super::rbac::{Guard, Known};
use compress::Compressing;
use cors::Granted;
use fault::Fault;
use gradient::Gradient;
use rate_limit::{Buckets, RateLimit};

/// A filter, ready to run.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    LocalRateLimit(Arc<RateLimit>),
    AdaptiveConcurrency(Arc<Adaptive>),
    Fault(Arc<Fault>),
    Cors(Arc<Cors>),
    Compressor(Arc<Compressor>),
    GrpcWeb,
    /// Looked at before routing; refuses here.
    JwtAuthn(Arc<Jwt>),
    /// Judged before routing; see [`Filters::guards`].
    Rbac(Arc<Guard>),
    /// Asked before routing; see [`Filters::asks`].
    ExtAuthz(Arc<Provider>),
}

/// The filters of a chain, in order.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each asked for by name"
)]
pub(crate) struct Filters {
    pub(crate) all: Vec<Filter>,
    /// One of them does something of its own accord; else only routes give them anything to do.
    acts: bool,
    /// Browsers may speak gRPC here.
    pub(crate) grpc_web: bool,
    /// How tokens are looked at; none where they are not.
    pub(crate) jwt: Option<Arc<Jwt>>,
    /// Who may do what, in order.
    pub(crate) guards: Vec<Arc<Guard>>,
    /// Whom else requests are asked about, in order.
    pub(crate) asks: Vec<Step>,
    /// There is a guard, or somebody to ask.
    pub(crate) judges: bool,
    /// A term looks at whoever began, which trusted proxies tell.
    pub(crate) looks_behind: bool,
    /// Somebody is told of the caller's certificate.
    pub(crate) tells_certificate: bool,
    /// How sessions are kept where routes do not say; none where they are not kept at all.
    pub(crate) session: Option<Arc<StatefulSession>>,
}

impl Filters {
    /// Those of `before` whose configuration stays go on with what they count. `None` without any.
    pub(crate) fn new(configs: &[HttpFilter], before: &[Filter]) -> Option<Arc<Self>> {
        let all = prepare(configs, before);
        let acts = all.iter().any(|filter| match filter {
            Filter::LocalRateLimit(limit) => limit.acts(),
            Filter::AdaptiveConcurrency(_) | Filter::JwtAuthn(_) => true,
            Filter::Fault(fault) => fault.acts(),
            Filter::Compressor(compressor) => compressor.enabled,
            Filter::Cors(_) | Filter::GrpcWeb | Filter::Rbac(_) | Filter::ExtAuthz(_) => false,
        });
        let grpc_web = all.iter().any(|filter| matches!(filter, Filter::GrpcWeb));
        let jwt = all.iter().find_map(|filter| match filter {
            Filter::JwtAuthn(jwt) => Some(Arc::clone(jwt)),
            _ => None,
        });
        let (guards, asks) = ext_authz::steps(&all);
        let told = |filter: &Filter| match filter {
            Filter::Rbac(guard) => guard.looks_behind,
            _ => false,
        };
        let looks_behind = all.iter().any(told);
        let mut askers = asks.iter();
        let filters = Self {
            all,
            acts,
            grpc_web,
            jwt,
            judges: !guards.is_empty() || !asks.is_empty(),
            looks_behind,
            tells_certificate: askers.any(|step| step.provider.config.peer_certificate),
            guards,
            asks,
            session: configs.iter().find_map(|config| match config {
                HttpFilter::StatefulSession(how) => Some(Arc::clone(how)),
                _ => None,
            }),
        };
        (!configs.is_empty()).then(|| Arc::new(filters))
    }

    /// Whether there is anything to do for a route with these filters of its own.
    pub(crate) fn act(&self, overrides: &[Filter]) -> bool {
        self.acts || !overrides.is_empty()
    }
}

/// A concurrency limit and its configuration.
#[derive(Debug)]
pub(crate) struct Adaptive {
    pub(crate) config: crate::mesh::filter::AdaptiveConcurrency,
    pub(crate) gradient: Gradient,
}

/// Makes filters ready; those of `before` whose configuration stays go on with what they count.
pub(crate) fn prepare(configs: &[HttpFilter], before: &[Filter]) -> Vec<Filter> {
    configs
        .iter()
        .filter_map(|config| {
            let old = before.iter().find(|old| match (old, config) {
                (Filter::LocalRateLimit(old), HttpFilter::LocalRateLimit(config)) => {
                    old.config == *config
                }
                (Filter::AdaptiveConcurrency(old), HttpFilter::AdaptiveConcurrency(config)) => {
                    old.config == *config
                }
                (Filter::Fault(old), HttpFilter::Fault(config)) => old.config == *config,
                (Filter::JwtAuthn(old), HttpFilter::JwtAuthn(config)) => old.config == *config,
                (Filter::Rbac(old), HttpFilter::Rbac(config)) => old.config == *config,
                (Filter::ExtAuthz(old), HttpFilter::ExtAuthz(config)) => old.config == *config,
                _ => false,
            });
            Some(match (old, config) {
                // Nothing is run: the choice of an endpoint goes by it.
                (_, HttpFilter::StatefulSession(_)) => return None,
                (Some(old), _) => old.clone(),
                (None, HttpFilter::LocalRateLimit(config)) => {
                    Filter::LocalRateLimit(Arc::new(RateLimit::new(config)))
                }
                (None, HttpFilter::AdaptiveConcurrency(config)) => {
                    Filter::AdaptiveConcurrency(Arc::new(Adaptive {
                        gradient: Gradient::new(config, 0),
                        config: config.clone(),
                    }))
                }
                (None, HttpFilter::Cors(config)) => Filter::Cors(Arc::clone(config)),
                (None, HttpFilter::Compressor(config)) => Filter::Compressor(Arc::clone(config)),
                (None, HttpFilter::GrpcWeb) => Filter::GrpcWeb,
                (None, HttpFilter::JwtAuthn(config)) => {
                    let old = before.iter().find_map(|old| match old {
                        Filter::JwtAuthn(old) => Some(&**old),
                        _ => None,
                    });
                    Filter::JwtAuthn(Arc::new(Jwt::new(config, old)))
                }
                (None, HttpFilter::Rbac(config)) => Filter::Rbac(Arc::new(Guard::new(config))),
                (None, HttpFilter::ExtAuthz(config)) => {
                    Filter::ExtAuthz(Arc::new(Provider::new(config)))
                }
                (None, HttpFilter::Fault(config)) => Filter::Fault(Arc::new(Fault::new(config))),
            })
        })
        .collect()
}

impl Filter {
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// A request as filters see it.
pub(crate) struct Asked<'r> {
    /// Knows what a verified token says, too.
    pub(crate) request: &'r dyn Request,
    /// Who calls.
    pub(crate) remote: IpAddr,
    /// Who that proved to be.
    pub(crate) principal: Option<&'r str>,
    /// Why its tokens are not taken.
    pub(crate) denied: Option<&'r Refusal>,
    /// The cluster that its route leads to.
    pub(crate) cluster: &'r str,
    /// The route's own rules for descriptors.
    pub(crate) rules: &'r [RateLimitRule],
    /// What its connection has of its own.
    pub(crate) own: &'r Own,
    /// Since the proxy began.
    pub(crate) since: Duration,
    pub(crate) now: Instant,
}

/// What a connection has of its own: buckets of filters that limit each connection, and what its guards know.
#[derive(Debug, Default)]
pub(crate) struct Own {
    buckets: OnceCell<Box<RefCell<OwnBuckets>>>,
    /// Which policies can hold for it.
    pub(crate) known: Known,
}

type OwnBuckets = Vec<(Arc<RateLimit>, Arc<Buckets>)>;

impl Own {
    /// The connection's buckets of `filter`.
    fn buckets(&self, filter: &Arc<RateLimit>) -> Arc<Buckets> {
        let mut all = self.buckets.get_or_init(Box::default).borrow_mut();
        if let Some((_, buckets)) = all.iter().find(|(own, _)| Arc::ptr_eq(own, filter)) {
            return Arc::clone(buckets);
        }
        let buckets = Arc::new(Buckets::new(&filter.config));
        all.push((Arc::clone(filter), Arc::clone(&buckets)));
        buckets
    }
}

/// What a filter answers in the place of the application, mostly a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) flag: Flag,
    /// Envoy's `response_code_details`.
    pub(crate) details: &'static str,
    pub(crate) body: &'static str,
    pub(crate) grpc_status: u8,
    /// Fields of the answer.
    pub(crate) headers: Vec<(String, String)>,
}

/// What a request has from the filters that let it pass.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    permits: SmallVec<[Permit; 1]>,
    /// Added to the request.
    pub(crate) headers: Vec<(String, String)>,
    /// A page of another origin gets the answer.
    pub(crate) granted: Option<Box<Granted>>,
    /// Its answer may be compressed.
    pub(crate) compressing: Option<Box<Compressing>>,
}

impl Passed {
    /// The request was answered to the end.
    pub(crate) fn answered(&self) {
        for permit in &self.permits {
            permit.answered.set(true);
        }
    }
}

/// A place under a concurrency limit; how long it was held counts when there was an answer.
#[derive(Debug)]
struct Permit {
    adaptive: Arc<Adaptive>,
    begun: Instant,
    /// Since the proxy began.
    since: Duration,
    answered: Cell<bool>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let gradient = &self.adaptive.gradient;
        if !self.answered.get() {
            return gradient.gone();
        }
        let took = self.begun.elapsed();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(0);
        gradient.done(micros(took), micros(self.since + took), fastrand::f64());
    }
}

/// Runs `filters` over a request; `overrides` are the route's own. Whether it passes or not, it is
/// to be held back for as long as `delay` says then.
pub(crate) fn run(
    filters: &[Filter],
    overrides: &[Filter],
    asked: &Asked<'_>,
    delay: &mut Duration,
) -> Result<Option<Passed>, Box<Refusal>> {
    let mut passed = Passed::default();
    for filter in filters {
        let own = overrides.iter().find(|own| own.is_like(filter));
        let ran = match own.unwrap_or(filter) {
            Filter::LocalRateLimit(limit) => limit.run(asked, &mut passed),
            Filter::AdaptiveConcurrency(adaptive) => adaptive.run(asked, &mut passed, *delay),
            Filter::Fault(fault) => fault.run(asked, delay, || fastrand::u32(..)),
            Filter::Cors(policy) => cors::run(policy, asked, &mut passed),
            Filter::Compressor(how) => {
                // A route says whether; how, only the chain does.
                if let (Filter::Compressor(policy), true) = (filter, how.enabled) {
                    let compressing = Compressing::new(policy, asked.request);
                    passed.compressing = Some(Box::new(compressing));
                }
                Ok(())
            }
            Filter::GrpcWeb | Filter::Rbac(_) | Filter::ExtAuthz(_) => Ok(()),
            Filter::JwtAuthn(_) => match asked.denied {
                Some(refusal) => Err(Box::new(refusal.clone())),
                None => Ok(()),
            },
        };
        if let Err(mut refusal) = ran {
            // Pages may read why they are refused.
            if let Some(granted) = &passed.granted {
                granted.each(|name, value| {
                    refusal.headers.push((name.to_owned(), value.to_owned()));
                });
            }
            return Err(refusal);
        }
    }
    let empty = passed.permits.is_empty()
        && passed.headers.is_empty()
        && passed.granted.is_none()
        && passed.compressing.is_none();
    Ok((!empty).then_some(passed))
}

impl Adaptive {
    /// What was held back before counts as not begun yet.
    fn run(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        passed: &mut Passed,
        delay: Duration,
    ) -> Result<(), Box<Refusal>> {
        if !self.config.enabled {
            return Ok(());
        }
        if self.gradient.enter() {
            passed.permits.push(Permit {
                adaptive: Arc::clone(self),
                begun: asked.now + delay,
                since: asked.since + delay,
                answered: Cell::new(false),
            });
            return Ok(());
        }
        Err(Box::new(Refusal {
            status: self.config.status,
            flag: Flag::Uo,
            details: "reached_concurrency_limit",
            body: "reached concurrency limit",
            grpc_status: 14,
            headers: Vec::new(),
        }))
    }
}
