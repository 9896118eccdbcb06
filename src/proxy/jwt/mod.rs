//! The tokens of requests: looked at once, before routing, so that routes can go by what they say.
//!
//! Works as Envoy's filter does: [`places`] finds tokens, [`need`] walks what a request needs, and what a
//! good token says goes on with the request ([`Told`]). A refusal is raised where the filter stands in its
//! chain. A signature is checked once for each token while it is remembered ([`cache`]); times and
//! audiences are, each time. Stricter than Envoy in two points: of a parameter or a cookie that stands
//! twice both must be good, and headers that tell claims are taken from every request, also from those
//! that no rule is for.

pub(crate) mod cache;
mod need;
mod places;
mod told;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::jwt::{Keys, Status, Token};
use crate::mesh::claims::Claims;
use crate::mesh::jwt_authn::{JwtAuthn, JwtPlaces, JwtProvider};
use crate::mesh::route::{Match, Request};
use crate::tls::sha256;

use cache::{Cache, Good};
use need::{Look, Need};
use places::Places;
pub(crate) use told::Told;

/// The filter, ready to run.
#[derive(Debug)]
pub(crate) struct Jwt {
    pub(crate) config: Arc<JwtAuthn>,
    /// In the order of their names.
    providers: Vec<Arc<Provider>>,
    rules: Vec<(Match, Need)>,
    /// Headers that nobody else writes, lower case.
    owned: Vec<String>,
    /// Kept while a filter stands in its place, whatever it says.
    pub(crate) stats: Arc<Stats>,
}

/// What the filter counted.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Requests that may pass.
    pub(crate) allowed: AtomicU64,
    /// Requests that are refused, by [`Status::number`].
    pub(crate) denied: [AtomicU64; Status::ALL.len()],
    /// Requests of browsers before others, which nothing is asked of.
    pub(crate) bypassed: AtomicU64,
    /// Tokens that were remembered.
    pub(crate) hits: AtomicU64,
    /// Tokens whose signature was looked at.
    pub(crate) misses: AtomicU64,
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// Somebody whose tokens are taken.
#[derive(Debug)]
struct Provider {
    config: JwtProvider,
    keys: Keys,
    places: Places,
    /// Unlike that of every other provider, and of every version of this one with other keys.
    id: u64,
}

/// The last provider's.
static IDS: AtomicU64 = AtomicU64::new(0);

impl Provider {
    fn new(config: &JwtProvider) -> Self {
        let usual = JwtPlaces::usual();
        Self {
            // Whatever is no set of keys verifies nothing.
            keys: Keys::parse(&config.keys).unwrap_or_default(),
            places: Places::new(if config.from == JwtPlaces::default() {
                &usual
            } else {
                &config.from
            }),
            config: config.clone(),
            id: IDS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Whether a token of `issuer` may be this one's.
    fn issues(&self, issuer: &str) -> bool {
        self.config.issuer.is_empty() || self.config.issuer == issuer
    }

    /// What a good token for one of `audiences` says; none of these is any. In Envoy's order, so that
    /// callers are told the same.
    fn check(
        &self,
        (cache, stats): (&RefCell<Cache>, &Stats),
        (text, now): (&[u8], u64),
        audiences: &[String],
    ) -> Result<Good, Status> {
        let digest = sha256(text);
        if let Some(good) = cache.borrow_mut().find((self.id, digest)) {
            count(&stats.hits);
            self.judge(&good.token, now, audiences)?;
            return Ok(good);
        }
        count(&stats.misses);
        let token = Token::parse(text)?;
        self.judge(&token, now, audiences)?;
        self.keys.verify(&token)?;
        let good = Good {
            claims: Arc::new(self.claims(&token)),
            token: Arc::new(token),
        };
        if text.len() <= cache::MOST {
            cache.borrow_mut().keep((self.id, digest), good.clone());
        }
        Ok(good)
    }

    /// Whether a token that is genuine would be good.
    fn judge(&self, token: &Token, now: u64, audiences: &[String]) -> Result<(), Status> {
        if !self.issues(token.issuer()) {
            return Err(Status::UnknownIssuer);
        }
        token.times.check(now, u64::from(self.config.clock_skew))?;
        let meant = |of: &str| audiences.iter().any(|own| bare(own) == bare(of));
        if !audiences.is_empty() && !token.audiences().any(meant) {
            return Err(Status::AudienceNotAllowed);
        }
        Ok(())
    }

    /// What rules see of a token.
    fn claims(&self, token: &Token) -> Claims {
        let mut payload = token.payload.clone();
        for name in &self.config.spaced_claims {
            if let Some(value) = payload.get_mut(name)
                && let Some(text) = value.as_str()
            {
                let words = text.split(' ').filter(|word| !word.is_empty());
                *value = words.collect::<Vec<&str>>().into();
            }
        }
        Claims::new(payload)
    }
}

/// An audience as Envoy compares it: without `http://`, `https://` and one slash at the end.
fn bare(audience: &str) -> &str {
    let https = audience.strip_prefix("https://");
    let name = https.or_else(|| audience.strip_prefix("http://"));
    let name = name.unwrap_or(audience);
    name.strip_suffix('/').unwrap_or(name)
}

impl Jwt {
    /// Providers of `before` that stay as they are keep what is remembered of their tokens.
    pub(crate) fn new(config: &Arc<JwtAuthn>, before: Option<&Self>) -> Self {
        let kept = |of: &JwtProvider| {
            let mut old = before.iter().flat_map(|before| &before.providers);
            old.find(|old| old.config == *of).map(Arc::clone)
        };
        let providers: Vec<Arc<Provider>> = config
            .providers
            .values()
            .map(|of| kept(of).unwrap_or_else(|| Arc::new(Provider::new(of))))
            .collect();
        let rules = config.rules.iter().map(|rule| {
            let need = Need::new(&rule.requires, &config.providers);
            (rule.matches.clone(), need)
        });
        let mut owned: Vec<String> = providers
            .iter()
            .flat_map(|of| of.config.written_headers())
            .map(str::to_owned)
            .collect();
        owned.sort();
        owned.dedup();
        Self {
            rules: rules.collect(),
            providers,
            owned,
            config: Arc::clone(config),
            stats: before.map_or_else(Arc::default, |before| Arc::clone(&before.stats)),
        }
    }

    /// Looks at the tokens of `request`, at `now` in seconds since the epoch.
    pub(crate) fn look<'t>(
        &'t self,
        cache: &RefCell<Cache>,
        request: &dyn Request,
        now: u64,
    ) -> Told<'t> {
        let mut told = Told::new(&self.owned);
        if self.config.bypass_cors_preflight && is_preflight(request) {
            count(&self.stats.bypassed);
            return told;
        }
        let rule = self.rules.iter().find(|(of, _)| of.holds(request));
        let Some((_, need)) = rule else {
            count(&self.stats.allowed);
            return told;
        };
        let mut look = Look {
            providers: &self.providers,
            request,
            cache: (cache, &self.stats),
            now,
            found: smallvec::SmallVec::new(),
        };
        match look.meets(need) {
            Ok(()) => {
                count(&self.stats.allowed);
                for (provider, good) in look.into_good() {
                    told.tell(provider, &good);
                }
                told.strip(request.path_and_query());
            }
            Err(status) => {
                if let Some(denied) = self.stats.denied.get(status.number()) {
                    count(denied);
                }
                told.refuse(status, request, self.config.strip_failure_response);
            }
        }
        told
    }
}

/// Whether a browser asks before it lets a page call.
fn is_preflight(request: &dyn Request) -> bool {
    let says = |name: &str| {
        let mut some = false;
        request.header(name, &mut |value| {
            some |= !value.is_empty();
            !some
        });
        some
    };
    request.method() == b"OPTIONS" && says("origin") && says("access-control-request-method")
}
