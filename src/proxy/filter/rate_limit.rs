//! Local rate limits: token buckets for all requests of a filter, and for requests with values.

use std::borrow::Cow;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::mesh::filter::{LocalRateLimit as Config, RateLimitAction, RateLimitRule, TokenBucket};
use crate::mesh::route::Share;
use crate::telemetry::Flag;

use super::bucket::{Bucket, Drawn};
use super::{Asked, Passed, Refusal};

/// A local rate limit.
#[derive(Debug)]
pub(crate) struct RateLimit {
    pub(crate) config: Arc<Config>,
    buckets: Arc<Buckets>,
    pub(crate) stats: Stats,
}

/// Envoy's counters.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Requests that were looked at.
    pub(crate) enabled: AtomicU64,
    /// Requests that were refused.
    pub(crate) enforced: AtomicU64,
    /// Requests without a token, refused or not.
    pub(crate) rate_limited: AtomicU64,
    /// Requests with a token.
    pub(crate) ok: AtomicU64,
}

/// The buckets of a filter, or of one connection.
#[derive(Debug)]
pub(crate) struct Buckets {
    default: Option<Bucket>,
    /// In the order of the descriptors.
    descriptors: Vec<Place>,
}

#[derive(Debug)]
enum Place {
    One(Bucket),
    /// One for each combination of values.
    Each(Dynamic),
}

/// Buckets by value, found without a lock. The one that was not used for longest goes when there are
/// too many.
#[derive(Debug)]
struct Dynamic {
    config: TokenBucket,
    most: usize,
    /// In the order of their hashes.
    known: ArcSwap<Vec<Arc<Known>>>,
    hashes: foldhash::fast::RandomState,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    values: Vec<Vec<u8>>,
    bucket: Bucket,
    used: AtomicU64,
}

type Entry<'r> = (&'r str, Cow<'r, [u8]>);
type Descriptor<'r> = SmallVec<[Entry<'r>; 4]>;

impl Buckets {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            default: config.bucket.as_ref().map(|bucket| Bucket::new(bucket, 0)),
            descriptors: config
                .descriptors
                .iter()
                .map(|limit| {
                    if limit.entries.iter().any(|(_, value)| value.is_empty()) {
                        Place::Each(Dynamic {
                            config: limit.bucket,
                            most: usize::try_from(config.max_dynamic.max(1)).unwrap_or(1),
                            known: ArcSwap::default(),
                            hashes: foldhash::fast::RandomState::default(),
                        })
                    } else {
                        Place::One(Bucket::new(&limit.bucket, 0))
                    }
                })
                .collect(),
        }
    }
}

impl Dynamic {
    fn draw(&self, descriptor: &Descriptor<'_>, now: u64) -> Drawn {
        let hash = self.hashes.hash_one(descriptor);
        if let Some(known) = find(&self.known.load(), hash, descriptor) {
            known.used.store(now, Ordering::Relaxed);
            return known.bucket.draw(now);
        }
        let made = Arc::new(Known {
            hash,
            values: descriptor.iter().map(|(_, value)| value.to_vec()).collect(),
            bucket: Bucket::new(&self.config, now),
            used: AtomicU64::new(now),
        });
        self.known.rcu(|known| {
            let mut known = Vec::clone(known);
            if find(&known, hash, descriptor).is_none() {
                if known.len() >= self.most {
                    let oldest = known
                        .iter()
                        .enumerate()
                        .min_by_key(|(_, known)| known.used.load(Ordering::Relaxed))
                        .map_or(0, |(at, _)| at);
                    known.remove(oldest);
                }
                let at = known.partition_point(|other| other.hash < hash);
                known.insert(at, Arc::clone(&made));
            }
            known
        });
        // Another worker may have been first with the same values: its bucket counts.
        match find(&self.known.load(), hash, descriptor) {
            Some(known) => known.bucket.draw(now),
            None => made.bucket.draw(now),
        }
    }
}

/// The bucket for the values of `descriptor`.
fn find<'k>(
    known: &'k [Arc<Known>],
    hash: u64,
    descriptor: &Descriptor<'_>,
) -> Option<&'k Arc<Known>> {
    let from = known.partition_point(|other| other.hash < hash);
    let alike = known.get(from..).unwrap_or_default().iter();
    alike.take_while(|other| other.hash == hash).find(|other| {
        let values = other.values.iter().zip(descriptor);
        values
            .into_iter()
            .all(|(kept, (_, value))| **kept == **value)
    })
}

/// Whether a request is among `share`.
fn takes(share: Share) -> bool {
    share.parts >= share.of || (share.parts > 0 && share.takes(fastrand::u32(..)))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl RateLimit {
    pub(super) fn new(config: &Arc<Config>) -> Self {
        Self {
            buckets: Arc::new(Buckets::new(config)),
            config: Arc::clone(config),
            stats: Stats::default(),
        }
    }

    /// Whether it does something of its own accord, and is not only the place of those of routes.
    pub(crate) fn acts(&self) -> bool {
        self.config.enabled != Share::NONE
            && (self.config.bucket.is_some() || !self.config.descriptors.is_empty())
    }

    pub(super) fn run(
        self: &Arc<Self>,
        asked: &Asked<'_>,
        passed: &mut Passed,
    ) -> Result<(), Box<Refusal>> {
        if !takes(self.config.enabled) {
            return Ok(());
        }
        count(&self.stats.enabled);
        let now = u64::try_from(asked.since.as_millis()).unwrap_or(u64::MAX);
        let drawn = if self.config.per_connection {
            self.draw(&asked.own.buckets(self), asked, now)
        } else {
            self.draw(&self.buckets, asked, now)
        };
        let Some(refused) = drawn else {
            count(&self.stats.ok);
            return Ok(());
        };
        count(&self.stats.rate_limited);
        if !takes(self.config.enforced) {
            passed
                .headers
                .extend_from_slice(&self.config.request_headers);
            return Ok(());
        }
        count(&self.stats.enforced);
        Err(Box::new(self.refuse(refused)))
    }

    /// Takes tokens; the bucket that has none, if there is one.
    fn draw(&self, buckets: &Buckets, asked: &Asked<'_>, now: u64) -> Option<Drawn> {
        let mut matched = false;
        if !self.config.descriptors.is_empty() {
            let rules = match self.config.rules.as_slice() {
                [] => asked.rules,
                own => own,
            };
            for rule in rules.iter().filter(|rule| rule.stage == self.config.stage) {
                let Some(descriptor) = describe(rule, asked) else {
                    continue;
                };
                let Some(place) = self.place(buckets, &descriptor) else {
                    continue;
                };
                matched = true;
                let drawn = match place {
                    Place::One(bucket) => bucket.draw(now),
                    Place::Each(dynamic) => dynamic.draw(&descriptor, now),
                };
                if !drawn.allowed {
                    return Some(drawn);
                }
            }
        }
        if matched && !self.config.always_default {
            return None;
        }
        let drawn = buckets.default.as_ref()?.draw(now);
        (!drawn.allowed).then_some(drawn)
    }

    /// The first place whose entries are those of `descriptor`, all of them and in order.
    fn place<'b>(&self, buckets: &'b Buckets, descriptor: &Descriptor<'_>) -> Option<&'b Place> {
        self.config
            .descriptors
            .iter()
            .zip(&buckets.descriptors)
            .find(|(limit, _)| {
                limit.entries.len() == descriptor.len()
                    && limit
                        .entries
                        .iter()
                        .zip(descriptor)
                        .all(|((key, wanted), (own, value))| {
                            key == own && (wanted.is_empty() || wanted.as_bytes() == &**value)
                        })
            })
            .map(|(_, place)| place)
    }

    fn refuse(&self, drawn: Drawn) -> Refusal {
        let config = &self.config;
        // At least one second, and never too early.
        let seconds = drawn.next.div_ceil(1000).max(1).to_string();
        let mut headers = vec![("x-envoy-ratelimited".to_owned(), "true".to_owned())];
        headers.extend_from_slice(&config.response_headers);
        let has = |headers: &[(String, String)], name: &str| {
            headers
                .iter()
                .any(|(own, _)| own.eq_ignore_ascii_case(name))
        };
        if config.retry_after && config.status == 429 && !has(&headers, "retry-after") {
            headers.push(("retry-after".to_owned(), seconds.clone()));
        }
        if config.rate_limit_headers {
            headers.extend([
                ("x-ratelimit-limit".to_owned(), drawn.limit.to_string()),
                ("x-ratelimit-remaining".to_owned(), "0".to_owned()),
                ("x-ratelimit-reset".to_owned(), seconds),
            ]);
        }
        Refusal {
            status: config.status,
            flag: Flag::Rl,
            details: "local_rate_limited",
            body: "local_rate_limited",
            grpc_status: if config.resource_exhausted { 8 } else { 14 },
            headers,
        }
    }
}

/// The values of a request by `rule`; `None` when an action finds nothing.
fn describe<'r>(rule: &'r RateLimitRule, asked: &Asked<'r>) -> Option<Descriptor<'r>> {
    let mut entries = Descriptor::new();
    for action in &rule.actions {
        let entry: Entry<'r> = match action {
            RateLimitAction::DestinationCluster => (
                "destination_cluster",
                Cow::Borrowed(asked.cluster.as_bytes()),
            ),
            RateLimitAction::RequestHeader {
                header,
                key,
                skip_if_absent,
            } => {
                let mut found = None;
                asked.request.header(header, &mut |value| {
                    found = Some(value.to_vec());
                    false
                });
                match found {
                    Some(value) => (key, Cow::Owned(value)),
                    None if *skip_if_absent => continue,
                    None => return None,
                }
            }
            RateLimitAction::RemoteAddress => (
                "remote_address",
                owned(&asked.remote.to_canonical().to_string()),
            ),
            RateLimitAction::SourcePrincipal => (
                "source_principal",
                Cow::Borrowed(asked.principal?.as_bytes()),
            ),
            RateLimitAction::SourceNamespace => (
                "source_namespace",
                Cow::Borrowed(namespace(asked.principal?)?.as_bytes()),
            ),
            RateLimitAction::MaskedRemoteAddress { v4, v6 } => {
                let address = asked.remote.to_canonical();
                let bits = match address {
                    IpAddr::V4(_) => *v4,
                    IpAddr::V6(_) => *v6,
                };
                let network = IpNet::new(address, bits).ok()?.trunc();
                ("masked_remote_address", owned(&network.to_string()))
            }
            RateLimitAction::GenericKey { key, value } => (key, Cow::Borrowed(value.as_bytes())),
            RateLimitAction::HeaderValueMatch {
                key,
                value,
                expect,
                headers,
            } => {
                let holds = headers.iter().all(|header| header.holds(asked.request));
                if holds != *expect {
                    return None;
                }
                (key, Cow::Borrowed(value.as_bytes()))
            }
        };
        entries.push(entry);
    }
    // An empty descriptor describes nothing.
    (!entries.is_empty()).then_some(entries)
}

/// The namespace in the name of a workload: the fifth part of it.
fn namespace(principal: &str) -> Option<&str> {
    principal.split('/').nth(4)
}

fn owned(text: &str) -> Cow<'static, [u8]> {
    Cow::Owned(text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::mesh::filter::DescriptorLimit;
    use crate::mesh::route::Request;

    use super::super::{Filter, Own, run};
    use super::*;

    struct Ask(&'static str);

    impl Request for Ask {
        fn method(&self) -> &[u8] {
            b"GET"
        }
        fn authority(&self) -> &[u8] {
            b"a"
        }
        fn scheme(&self) -> &[u8] {
            b"http"
        }
        fn path_and_query(&self) -> &[u8] {
            b"/"
        }
        fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
            if name == "x-user" && !self.0.is_empty() {
                visit(self.0.as_bytes());
            }
        }
    }

    fn tokens(max_tokens: u32) -> TokenBucket {
        TokenBucket {
            max_tokens,
            tokens_per_fill: max_tokens,
            fill_interval: Duration::from_secs(10),
        }
    }

    fn config() -> Config {
        Config {
            enabled: Share::default(),
            enforced: Share::default(),
            ..Config::default()
        }
    }

    fn filter(config: Config) -> Filter {
        Filter::LocalRateLimit(Arc::new(RateLimit::new(&Arc::new(config))))
    }

    fn ask(filter: &Filter, user: &'static str, remote: [u8; 4], millis: u64) -> Result<(), u16> {
        ask_on(filter, &Own::default(), user, remote, millis)
    }

    fn ask_on(
        filter: &Filter,
        own: &Own,
        user: &'static str,
        remote: [u8; 4],
        millis: u64,
    ) -> Result<(), u16> {
        let asked = Asked {
            request: &Ask(user),
            remote: remote.into(),
            principal: None,
            denied: None,
            cluster: "c",
            rules: &[],
            own,
            since: Duration::from_millis(millis),
            now: crate::rt::now(),
        };
        let mut delay = Duration::ZERO;
        run(std::slice::from_ref(filter), &[], &asked, &mut delay)
            .map(|_| ())
            .map_err(|refused| refused.status)
    }

    #[test]
    fn without_tokens_requests_are_refused_until_the_next_fill() {
        let filter = filter(Config {
            bucket: Some(tokens(2)),
            ..config()
        });
        let ask = |millis| ask(&filter, "", [1, 1, 1, 1], millis);
        assert_eq!([ask(0), ask(0), ask(9_999)], [Ok(()), Ok(()), Err(429)]);
        assert_eq!(ask(10_000), Ok(()));
    }

    #[test]
    fn nothing_is_refused_where_that_is_not_enforced() {
        let filter = filter(Config {
            bucket: Some(tokens(0)),
            enforced: Share::NONE,
            ..config()
        });
        assert_eq!(ask(&filter, "", [1, 1, 1, 1], 0), Ok(()));
        let Filter::LocalRateLimit(limit) = &filter else {
            panic!("not a rate limit");
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = &limit.stats;
        assert_eq!((read(&stats.rate_limited), read(&stats.enforced)), (1, 0));
    }

    #[test]
    fn each_value_of_a_wildcard_has_its_bucket_and_the_unused_go_first() {
        let filter = filter(Config {
            descriptors: vec![DescriptorLimit {
                entries: vec![("remote_address".to_owned(), String::new())],
                bucket: tokens(1),
            }],
            rules: vec![RateLimitRule {
                stage: 0,
                actions: vec![RateLimitAction::RemoteAddress],
            }],
            max_dynamic: 2,
            ..config()
        });
        let ask = |last, millis| ask(&filter, "", [10, 0, 0, last], millis);
        assert_eq!([ask(1, 1), ask(1, 2)], [Ok(()), Err(429)]);
        assert_eq!([ask(2, 3), ask(1, 4)], [Ok(()), Err(429)]);
        // A third takes the place of the second, which was not used for longest.
        assert_eq!([ask(3, 5), ask(1, 6)], [Ok(()), Err(429)]);
        assert_eq!(ask(2, 7), Ok(()));
    }

    #[test]
    fn descriptors_match_whole_and_the_default_is_for_all() {
        let limit = |entries: &[(&str, &str)], tokens_| DescriptorLimit {
            entries: entries
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            bucket: tokens(tokens_),
        };
        let rule = |actions| RateLimitRule { stage: 0, actions };
        let user = || RateLimitAction::RequestHeader {
            header: "x-user".to_owned(),
            key: "user".to_owned(),
            skip_if_absent: false,
        };
        let paid = |always_default| {
            filter(Config {
                bucket: Some(tokens(3)),
                descriptors: vec![limit(&[("user", "ann")], 1), limit(&[("user", "bob")], 9)],
                rules: vec![rule(vec![user()])],
                always_default,
                ..config()
            })
        };
        let ask = |filter: &Filter, user| ask(filter, user, [1, 1, 1, 1], 0);
        let filter = paid(true);
        assert_eq!(
            [ask(&filter, "ann"), ask(&filter, "ann")],
            [Ok(()), Err(429)]
        );
        // One of the three is gone by ann's first; her second never came so far.
        let bob: Vec<_> = (0..3).map(|_| ask(&filter, "bob")).collect();
        assert_eq!(bob, [Ok(()), Ok(()), Err(429)]);
        let filter = paid(false);
        assert!((0..9).all(|_| ask(&filter, "bob").is_ok()));
        assert_eq!(ask(&filter, "bob"), Err(429));
        // Nobody's descriptor: the default.
        let others: Vec<_> = (0..4).map(|_| ask(&filter, "eve")).collect();
        assert_eq!(others, [Ok(()), Ok(()), Ok(()), Err(429)]);
        assert_eq!(ask(&filter, ""), Err(429));
    }

    #[test]
    fn connections_may_have_their_own() {
        let filter = filter(Config {
            bucket: Some(tokens(1)),
            per_connection: true,
            ..config()
        });
        let (one, other) = (Own::default(), Own::default());
        let ask = |own| ask_on(&filter, own, "", [1, 1, 1, 1], 0);
        assert_eq!(
            [ask(&one), ask(&one), ask(&other)],
            [Ok(()), Err(429), Ok(())]
        );
    }
}
