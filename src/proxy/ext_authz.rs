//! Whom requests and connections of a chain are asked about, and where among its guards.
//!
//! How a question is put and what follows from its answer is in [`super::http::ask`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mesh::ext_authz::{ExtAuthz, WhenNoted};
use crate::mesh::rbac::Facts;

use super::filter::{Filter, Filters};
use super::rbac::{Denied, Guard, Known};

/// Somebody who is asked.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) config: Arc<ExtAuthz>,
    pub(crate) stats: Stats,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) ok: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) error: AtomicU64,
    pub(crate) failure_mode_allowed: AtomicU64,
    pub(crate) invalid: AtomicU64,
    pub(crate) disabled: AtomicU64,
}

impl Provider {
    pub(crate) fn new(config: &Arc<ExtAuthz>) -> Self {
        Self {
            config: Arc::clone(config),
            stats: Stats::default(),
        }
    }
}

/// A place in a chain where somebody is asked.
#[derive(Debug)]
pub(crate) struct Step {
    /// So many guards judge before.
    before: usize,
    pub(crate) provider: Arc<Provider>,
    /// What must have been noted; none where it is always asked.
    when: Option<(Vec<Arc<Guard>>, WhenNoted)>,
}

impl Step {
    fn holds(&self, facts: &Facts<'_>, known: &Known) -> bool {
        self.when.as_ref().is_none_or(|(guards, when)| {
            let mut guards = guards.iter();
            guards.any(|guard| guard.notes(facts, known, &when.policy))
        })
    }
}

/// The guards among `filters`, and whom they ask. Those that only note what somebody is asked about are no
/// guards of their own.
pub(crate) fn steps(filters: &[Filter]) -> (Vec<Arc<Guard>>, Vec<Step>) {
    let asked = |prefix: &str| {
        let mut prefixes = filters.iter().filter_map(|filter| match filter {
            Filter::ExtAuthz(provider) => Some(provider.config.when.as_ref()?.prefix.as_str()),
            _ => None,
        });
        prefixes.any(|own| own == prefix)
    };
    let (mut guards, mut steps) = (Vec::new(), Vec::new());
    let mut noting: Vec<Arc<Guard>> = Vec::new();
    for filter in filters {
        match filter {
            Filter::Rbac(guard) => {
                let config = &guard.config;
                let notes = config.shadow.is_some() && asked(&config.shadow_prefix);
                if notes {
                    noting.push(Arc::clone(guard));
                }
                if !notes || config.rules.is_some() {
                    guards.push(Arc::clone(guard));
                }
            }
            Filter::ExtAuthz(provider) => steps.push(Step {
                before: guards.len(),
                provider: Arc::clone(provider),
                when: provider.config.when.clone().map(|when| {
                    let own = noting.iter();
                    let own = own.filter(|guard| guard.config.shadow_prefix == when.prefix);
                    (own.cloned().collect(), when)
                }),
            }),
            _ => {}
        }
    }
    (guards, steps)
}

/// Judges a request, or a connection of bytes, as far as somebody is to be asked about it, who is returned.
/// Who was asked already is `last`: what stood before is not judged again.
pub(crate) fn walk(
    filters: &Filters,
    facts: &Facts<'_>,
    known: &Known,
    last: Option<&Arc<Provider>>,
) -> Result<Option<Arc<Provider>>, Denied> {
    let (mut judged, mut asked) = (0, 0);
    if let Some(last) = last {
        // Of another chain than the one that it came by, nobody was asked.
        let mut steps = filters.asks.iter();
        if let Some(at) = steps.position(|step| Arc::ptr_eq(&step.provider, last)) {
            asked = at + 1;
            judged = filters.asks.get(at).map_or(0, |step| step.before);
        }
    }
    let judge = |from: usize, to: usize| {
        let mut guards = filters.guards.get(from..to).unwrap_or_default().iter();
        guards.try_for_each(|guard| guard.judge(facts, known))
    };
    for step in filters.asks.get(asked..).unwrap_or_default() {
        judge(judged, step.before)?;
        judged = step.before;
        if step.holds(facts, known) {
            return Ok(Some(Arc::clone(&step.provider)));
        }
        let disabled = &step.provider.stats.disabled;
        disabled.fetch_add(1, Ordering::Relaxed);
    }
    judge(judged, filters.guards.len())?;
    Ok(None)
}

/// Whether a connection of bytes would pass, without counting anything, when nobody is asked anew: `asked` are
/// those who let it.
pub(crate) fn lets_in(filters: &Filters, facts: &Facts<'_>, asked: &[Arc<Provider>]) -> bool {
    let asks = |step: &Step| {
        let Some((guards, when)) = &step.when else {
            return true;
        };
        let mut guards = guards.iter();
        guards.any(|guard| guard.would_note(facts, &when.policy))
    };
    let was_asked = |step: &Step| {
        let mut asked = asked.iter();
        asked.any(|own| own.config.asks == step.provider.config.asks)
    };
    filters.guards.iter().all(|guard| guard.passes(facts))
        && filters
            .asks
            .iter()
            .all(|step| !asks(step) || was_asked(step))
}
