//! Where names are: those of a view are asked for again and again, and their addresses put into it.
//!
//! Stands between who makes views and who builds tables from them, which know of addresses only. A view
//! with names that were never asked for is held back until they are answered, for a time. What was
//! known of a name stays while nobody can say otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::mesh::dns::{Family, Lookup, Names};
use crate::mesh::{ClusterKind, View};
use crate::rt::backoff::Backoff;
use crate::rt::{self, Published, Reader, Tasks};

/// How long a view waits for names that were never answered (Envoy waits as long as one question takes).
const PATIENCE: Duration = Duration::from_secs(5);
/// Lives shorter than this are no reason to ask more often than `refresh` says.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

type Question = (String, Lookup);
/// The addresses; nothing when nobody could say.
type Answer = Option<Vec<IpAddr>>;

/// A name that is asked for as long as this lives.
struct Asked {
    _asking: DropGuard,
    /// Somebody answered, or could not.
    answered: bool,
    addresses: Vec<IpAddr>,
}

/// `views` with addresses for their names. `servers` are asked, or else those of the machine.
pub(crate) fn stage(views: Reader<View>, servers: Vec<SocketAddr>, tasks: &Tasks) -> Reader<View> {
    let first = views.load();
    let out = Published::new(View::default());
    if names(&first).next().is_none() {
        out.publish(first);
    }
    let reader = out.reader();
    tasks.spawn("names", run(views, out, servers));
    reader
}

/// The clusters of names.
fn names(view: &View) -> impl Iterator<Item = (&String, &Names)> {
    view.clusters
        .iter()
        .filter_map(|(name, cluster)| match &cluster.kind {
            ClusterKind::Dns(names) => Some((name, &**names)),
            _ => None,
        })
}

fn questions(view: &View) -> BTreeSet<Question> {
    names(view)
        .flat_map(|(_, names)| {
            let hosts = names.targets.iter().map(|target| &target.host);
            hosts.map(|host| (host.clone(), names.lookup))
        })
        .filter(|(host, _)| host.parse::<IpAddr>().is_err())
        .collect()
}

async fn run(mut views: Reader<View>, out: Published<View>, servers: Vec<SocketAddr>) {
    let (tell, mut told) = mpsc::channel::<(Question, Answer)>(64);
    let mut asked: BTreeMap<Question, Asked> = BTreeMap::new();
    let mut view = views.load();
    let mut go_on = true;
    // What is out there already differs.
    let mut news = names(&view).next().is_some();
    let mut waits_until = rt::now() + PATIENCE;
    follow(&view, &mut asked, &servers, &tell);
    loop {
        let unanswered = asked.values().any(|asked| !asked.answered);
        if news && !(unanswered && rt::now() < waits_until) {
            news = false;
            out.publish(filled(&view, &asked));
        }
        tokio::select! {
            changed = views.changed(), if go_on => {
                go_on = changed;
                if changed {
                    view = views.load();
                    news = true;
                    waits_until = rt::now() + PATIENCE;
                    follow(&view, &mut asked, &servers, &tell);
                }
            }
            // `tell` is here too, so there is always another.
            Some((question, answer)) = told.recv() => {
                if let Some(asked) = asked.get_mut(&question) {
                    news |= !asked.answered;
                    asked.answered = true;
                    if let Some(mut addresses) = answer {
                        // Their order means nothing where servers turn them around.
                        addresses.sort_by_key(|address| !prefers(question.1.family, *address));
                        news |= !same(&asked.addresses, &addresses);
                        asked.addresses = addresses;
                    }
                }
            }
            () = tokio::time::sleep_until(waits_until), if news => {}
        }
    }
}

/// Whether `address` comes first where both families are wanted (RFC 6724 puts IPv6 first).
fn prefers(family: Family, address: IpAddr) -> bool {
    match family {
        Family::V4Preferred | Family::V4Only => address.is_ipv4(),
        Family::Auto | Family::V6Only | Family::All => address.is_ipv6(),
    }
}

fn same(one: &[IpAddr], other: &[IpAddr]) -> bool {
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    set(one) == set(other)
}

/// Asks for what `view` names, and for nothing else any more.
fn follow(
    view: &View,
    asked: &mut BTreeMap<Question, Asked>,
    servers: &[SocketAddr],
    tell: &mpsc::Sender<(Question, Answer)>,
) {
    let wanted = questions(view);
    asked.retain(|question, _| wanted.contains(question));
    for question in wanted {
        asked.entry(question.clone()).or_insert_with(|| {
            let tasks = Tasks::new();
            tasks.spawn("name", ask(question, servers.to_vec(), tell.clone()));
            Asked {
                _asking: tasks.token().drop_guard(),
                answered: false,
                addresses: Vec::new(),
            }
        });
    }
}

/// `view` with the endpoints that its names stand for.
fn filled(view: &Arc<View>, asked: &BTreeMap<Question, Asked>) -> Arc<View> {
    let mut filled: Option<View> = None;
    for (cluster, names) in names(view) {
        let of = |host: &str| {
            let asked = asked.get(&(host.to_owned(), names.lookup));
            asked.map_or(&[][..], |asked| &asked.addresses)
        };
        let view = filled.get_or_insert_with(|| View::clone(view));
        let placed = names.placed(of);
        view.endpoints.insert(cluster.clone(), Arc::new(placed));
    }
    filled.map_or_else(|| Arc::clone(view), Arc::new)
}

/// Asks for one name for ever.
async fn ask(
    (host, lookup): Question,
    servers: Vec<SocketAddr>,
    tell: mpsc::Sender<(Question, Answer)>,
) {
    let (base, longest) = lookup.failed.unwrap_or((lookup.refresh, lookup.refresh));
    let mut backoff = Backoff::new(base, longest);
    let mut resolver = None;
    loop {
        let (answer, life) = answer(&mut resolver, &host, lookup.family, &servers).await;
        let pause = if answer.is_none() {
            backoff.next(fastrand::f64())
        } else {
            backoff.reset();
            life.filter(|life| lookup.respect_ttl && *life >= SHORTEST_LIFE)
                .unwrap_or(lookup.refresh)
        };
        if tell.send(((host.clone(), lookup), answer)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause + lookup.jitter.mul_f64(fastrand::f64())).await;
    }
}

/// Asks for a name once. Beside the answer: how long it holds.
async fn answer(
    resolver: &mut Option<TokioResolver>,
    host: &str,
    family: Family,
    servers: &[SocketAddr],
) -> (Answer, Option<Duration>) {
    let found = match resolver {
        Some(resolver) => resolver.lookup_ip(host).await,
        None => match build(family, servers) {
            Ok(built) => resolver.insert(built).lookup_ip(host).await,
            Err(error) => Err(error),
        },
    };
    match found {
        Ok(found) => {
            let until = Instant::from_std(found.valid_until());
            let life = until.saturating_duration_since(rt::now());
            (Some(found.iter().collect()), Some(life))
        }
        // The name is known not to be, or to have no address.
        Err(error) if error.is_no_records_found() => (Some(Vec::new()), None),
        Err(error) => {
            tracing::warn!(host, %error, "name is not answered; what was known of it stays");
            (None, None)
        }
    }
}

fn build(family: Family, servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if servers.is_empty() {
        Resolver::builder(provider)?
    } else {
        let servers = servers.iter().map(|server| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Resolver::builder_with_config(config, provider)
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.ip_strategy = match family {
        Family::Auto => LookupIpStrategy::Ipv6thenIpv4,
        Family::V4Only => LookupIpStrategy::Ipv4Only,
        Family::V6Only => LookupIpStrategy::Ipv6Only,
        Family::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        Family::All => LookupIpStrategy::Ipv6AndIpv4,
    };
    // How often it is asked is said by the cluster.
    options.cache_size = 0;
    builder.build()
}
