//! Which chain of a listener takes a connection.
//!
//! Envoy's order: port, destination, server name, transport, application protocol. At each step
//! only the most specific chains stay, and there is no way back: a connection whose port is named
//! by some chain never falls to a chain without a port.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use crate::mesh::listener::{
    Chain, ChainAction as Config, ChainMatch, HttpCodec, Listener, ServerTls, TcpOptions, Transport,
};

use crate::mesh::credential::CertificateSource;
use crate::mesh::filter::NetworkFilter;
use crate::mesh::{OwnTls, Secret};
use crate::tls::{self, OwnServer};

use super::super::access_log::LogTable;
use super::super::balance::smooth::Smooth;
use super::super::ext_authz::{self, Provider};
use super::super::filter::{Filter, Filters};
use super::super::rbac::Connection;
use super::super::taken::{judges_alike, proof};
use super::http::HttpTable;

/// The last version that a chain was given. What is below has a meaning of its own in [`ChainTable::proof`].
static VERSIONS: AtomicU64 = AtomicU64::new(ChainTable::TLS);

/// Callers need not prove anything, and may speak plain.
pub(crate) const OPEN: u64 = 0;
/// Callers show a certificate of the mesh.
pub(crate) const MESH: u64 = 1;

/// A caller must complete its handshake within this (Istio's default at gateways).
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A listener, ready to sort its connections.
#[derive(Debug)]
pub(crate) struct ListenerTable {
    /// As the view has it.
    pub(crate) config: Arc<Listener>,
    chains: Vec<ChainTable>,
    /// Indexes of the chains that name a port, by port.
    by_port: BTreeMap<u16, Vec<usize>>,
    /// Indexes of those that name none.
    any_port: Vec<usize>,
    default: Option<ChainTable>,
}

/// A chain with names resolved.
#[derive(Debug)]
pub(crate) struct ChainTable {
    /// Unique in its listener.
    pub(crate) name: Arc<str>,
    matches: ChainMatch,
    /// TLS to terminate.
    pub(crate) tls: Option<ServerTls>,
    /// How, where it is not with the workload's own identity. Without one nobody is taken.
    pub(crate) own: Option<Arc<OwnServer>>,
    /// What happens to the bytes.
    pub(crate) action: ChainAction,
    /// Run over each request.
    pub(crate) filters: Option<Arc<Filters>>,
    /// What judges who may connect, before bytes are carried.
    pub(crate) guards: Option<Arc<Filters>>,
    /// For a TLS handshake.
    pub(crate) handshake_timeout: Duration,
    /// Which version of the chain this is: the same while it is written the same. Never 0.
    pub(crate) version: u64,
    /// What callers must prove: [`OPEN`], [`MESH`], [`ChainTable::TLS`], or a number of its own while what
    /// their certificates must be is written the same.
    pub(crate) proof: u64,
    /// Which version this is of who may do what: the same while proof, guards and filters that judge are.
    pub(crate) rules: u64,
    most: Option<u64>,
    /// Connections now; kept while a chain of this name stays.
    open: Arc<AtomicU64>,
}

/// A connection's place in its chain, given back on drop.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<AtomicU64>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl ChainTable {
    /// Whether a connection of bytes would pass, without counting anything, when nobody is asked anew: `asked`
    /// are those who let it.
    pub(crate) fn lets_in(&self, of: &Connection<'_>, asked: &[Arc<Provider>]) -> bool {
        let guards = self.guards.as_deref();
        guards.is_none_or(|guards| ext_authz::lets_in(guards, &of.facts(), asked))
    }

    /// [`ChainTable::proof`] where callers must speak TLS and show nothing.
    pub(crate) const TLS: u64 = 2;

    /// A place for one more connection; `None` when the chain is full.
    pub(crate) fn enter(&self) -> Option<Place> {
        let Some(most) = self.most else {
            return Some(Place(None));
        };
        if self.open.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Place(Some(Arc::clone(&self.open))));
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// What happens to the bytes, with indexes for clusters; `None` is not in the view.
#[derive(Debug)]
pub(crate) enum ChainAction {
    /// Requests by a route table.
    Http {
        /// Route table; by name, as connections outlive the tables.
        routes: String,
        /// What is spoken.
        codec: HttpCodec,
        /// How it is spoken.
        http: Arc<HttpTable>,
    },
    /// HTTP by a route table, else bytes to a cluster.
    Detect {
        /// Route table; by name, as connections outlive the tables.
        routes: String,
        /// Cluster.
        bytes: Option<usize>,
        /// How those are carried.
        options: TcpOptions,
        /// How HTTP is spoken.
        http: Arc<HttpTable>,
    },
    /// Bytes to one of these clusters.
    Tcp {
        /// Clusters.
        targets: Vec<Option<usize>>,
        /// Over `targets`.
        split: Smooth,
        /// How they are carried.
        options: TcpOptions,
        /// Where they are logged.
        log: Option<Arc<LogTable>>,
    },
}

impl ChainTable {
    fn filters(&self) -> &[Filter] {
        self.filters
            .as_ref()
            .map(|filters| filters.all.as_slice())
            .unwrap_or_default()
    }
}

impl ChainAction {
    /// How HTTP is spoken, where it is.
    pub(crate) fn http(&self) -> Option<&Arc<HttpTable>> {
        match self {
            Self::Http { http, .. } | Self::Detect { http, .. } => Some(http),
            Self::Tcp { .. } => None,
        }
    }

    /// Where what comes is logged; where nothing is said, as the proxy was started with.
    pub(crate) fn log(&self) -> Option<&Arc<LogTable>> {
        match self {
            Self::Http { http, .. } | Self::Detect { http, .. } => http.log.as_ref(),
            Self::Tcp { log, .. } => log.as_ref(),
        }
    }
}

type Secrets = BTreeMap<String, Arc<Secret>>;

/// Whether the texts of `names` are what they were.
fn kept(mut names: impl Iterator<Item = String>, (old, new): (Option<&Secrets>, &Secrets)) -> bool {
    old.is_some_and(|old| names.all(|name| old.get(&name) == new.get(&name)))
}

/// Names of the texts that callers of `chain` are held against.
fn roots(chain: &Chain) -> impl Iterator<Item = String> {
    let own = chain.tls.iter().filter_map(|tls| tls.own.as_deref());
    let asked = own.filter_map(|own| own.clients.as_ref());
    asked.map(|clients| clients.roots.name())
}

/// Names of the texts that callers are shown.
fn shown(own: &OwnTls) -> impl Iterator<Item = String> {
    own.certificates.iter().map(CertificateSource::name)
}

pub(crate) fn next_version() -> u64 {
    VERSIONS.fetch_add(1, Ordering::Relaxed) + 1
}

/// What is known of a connection from its first bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The first bytes are a TLS client hello.
    pub(crate) tls: bool,
    /// The server name in it, lower case.
    pub(crate) server_name: Option<String>,
    /// ALPN names in it, or `http/1.1` or `h2c` as told from plain bytes.
    pub(crate) protocols: Vec<Vec<u8>>,
}

impl ListenerTable {
    /// `before` is the listener of this name until now, and what its credentials were.
    pub(crate) fn build(
        config: &Arc<Listener>,
        (clusters, secrets): (&BTreeMap<String, usize>, &Secrets),
        before: Option<(&Self, &Secrets)>,
    ) -> Self {
        let texts = before.map(|(_, texts)| texts);
        let before = before.map(|(before, _)| before);
        let chain = |chain: &Chain| ChainTable {
            name: chain.name.as_str().into(),
            filters: {
                let old = before.and_then(|before| before.named(&chain.name));
                let kept = old.map(ChainTable::filters).unwrap_or_default();
                Filters::new(&chain.filters, kept)
            },
            guards: {
                let old = before.and_then(|before| before.named(&chain.name));
                let kept = old.and_then(|old| old.guards.as_deref());
                let kept = kept.map_or(&[][..], |kept| &kept.all);
                let guards = chain.guards.iter().map(NetworkFilter::of_requests);
                Filters::new(&guards.collect::<Vec<_>>(), kept)
            },
            version: before
                .and_then(|before| before.written(&chain.name))
                .filter(|(old, _)| *old == chain)
                .map_or_else(next_version, |(_, table)| table.version),
            proof: proof(
                chain,
                before.and_then(|before| before.written(&chain.name)),
                kept(roots(chain), (texts, secrets)),
            ),
            rules: before
                .and_then(|before| before.written(&chain.name))
                .filter(|(old, _)| judges_alike(old, chain))
                .map_or_else(next_version, |(_, table)| table.rules),
            handshake_timeout: chain.limits.handshake_timeout.unwrap_or(HANDSHAKE),
            most: chain.limits.max_connections,
            open: before
                .and_then(|before| before.named(&chain.name))
                .map(|old| Arc::clone(&old.open))
                .unwrap_or_default(),
            matches: chain.matches.clone(),
            tls: chain.tls.clone(),
            own: chain.tls.as_ref().and_then(|tls| {
                let own = tls.own.as_deref()?;
                let old = before.and_then(|before| before.named(&chain.name));
                // Sessions are resumed through it, so it is made anew only when it must be.
                let same = kept(shown(own).chain(roots(chain)), (texts, secrets));
                match old.filter(|old| same && old.tls.as_ref() == Some(tls)) {
                    Some(old) => old.own.clone(),
                    None => {
                        tls::own_server_config(own, &tls.alpn, |name| secrets.get(name).cloned())
                            .inspect_err(|error| {
                                let (listener, chain) = (&config.name, &chain.name);
                                tracing::warn!(%error, listener, chain, "callers cannot be served");
                            })
                            .ok()
                            .map(Arc::new)
                    }
                }
            }),
            action: match &chain.action {
                Config::Http {
                    routes,
                    codec,
                    options,
                } => ChainAction::Http {
                    routes: routes.clone(),
                    codec: *codec,
                    http: Arc::new(HttpTable::new(options)),
                },
                Config::Detect {
                    routes,
                    cluster,
                    tunnel,
                    options,
                } => ChainAction::Detect {
                    routes: routes.clone(),
                    bytes: clusters.get(cluster).copied(),
                    options: TcpOptions {
                        tunnel: tunnel.clone(),
                        ..TcpOptions::default()
                    },
                    http: Arc::new(HttpTable::new(options)),
                },
                Config::Tcp {
                    clusters: targets,
                    options,
                } => {
                    let weights: Vec<u32> = match targets.as_slice() {
                        [_] => vec![1],
                        targets => targets.iter().map(|(_, weight)| *weight).collect(),
                    };
                    ChainAction::Tcp {
                        targets: targets
                            .iter()
                            .map(|(name, _)| clusters.get(name).copied())
                            .collect(),
                        split: Smooth::new(&weights),
                        log: options
                            .access_log
                            .as_deref()
                            .map(|logs| Arc::new(LogTable::new(logs))),
                        options: TcpOptions {
                            access_log: None,
                            ..options.clone()
                        },
                    }
                }
            },
        };
        let mut by_port: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        let mut any_port = Vec::new();
        for (at, chain) in config.chains.iter().enumerate() {
            match chain.matches.port {
                Some(port) => by_port.entry(port).or_default().push(at),
                None => any_port.push(at),
            }
        }
        Self {
            config: Arc::clone(config),
            chains: config.chains.iter().map(chain).collect(),
            by_port,
            any_port,
            default: config.default_chain.as_ref().map(chain),
        }
    }

    /// The filters of all chains.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.chains
            .iter()
            .chain(&self.default)
            .flat_map(ChainTable::filters)
    }

    /// What judges connections of bytes, of all chains.
    pub(crate) fn guards(&self) -> impl Iterator<Item = &Filter> {
        let chains = self.chains.iter().chain(&self.default);
        let guards = chains.filter_map(|chain| chain.guards.as_deref());
        guards.flat_map(|guards| &guards.all)
    }

    /// What all chains ask of callers.
    pub(crate) fn proofs(&self) -> impl Iterator<Item = u64> {
        let chains = self.chains.iter().chain(&self.default);
        chains.map(|chain| chain.proof)
    }

    /// The versions of all chains.
    pub(crate) fn versions(&self) -> impl Iterator<Item = u64> {
        let chains = self.chains.iter().chain(&self.default);
        chains.map(|chain| chain.version)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&ChainTable> {
        self.written(name).map(|(_, table)| table)
    }

    /// A chain as it was written, and what became of it.
    fn written(&self, name: &str) -> Option<(&Chain, &ChainTable)> {
        let chains = self.config.chains.iter().zip(&self.chains);
        let default = self.config.default_chain.iter().zip(&self.default);
        chains.chain(default).find(|(chain, _)| chain.name == name)
    }

    /// The chains that are left when only the meant address is known.
    pub(crate) fn narrow(&self, meant: SocketAddr) -> Candidates<'_> {
        let mut chains: SmallVec<[&ChainTable; 4]> = self
            .by_port
            .get(&meant.port())
            .unwrap_or(&self.any_port)
            .iter()
            .filter_map(|at| self.chains.get(*at))
            .collect();
        keep_best(&mut chains, |matches| {
            if matches.destinations.is_empty() {
                return Some(0);
            }
            matches
                .destinations
                .iter()
                .filter(|network| network.contains(&unmapped(meant.ip())))
                .map(|network| usize::from(network.prefix_len()) + 1)
                .max()
        });
        Candidates {
            chains,
            default: self.default.as_ref(),
        }
    }
}

/// `::ffff:1.2.3.4` is 1.2.3.4 to those who write networks.
fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Chains that a connection may still fall to.
#[derive(Debug)]
pub(crate) struct Candidates<'l> {
    chains: SmallVec<[&'l ChainTable; 4]>,
    default: Option<&'l ChainTable>,
}

impl<'l> Candidates<'l> {
    /// Whether the first bytes are needed to choose.
    /// Whether some of them take TLS to terminate.
    pub(crate) fn take_tls(&self) -> bool {
        self.chains.iter().any(|chain| chain.tls.is_some())
    }

    pub(crate) fn need_hello(&self) -> bool {
        self.chains.iter().any(|chain| {
            let matches = &chain.matches;
            !matches.server_names.is_empty()
                || matches.transport.is_some()
                || !matches.application_protocols.is_empty()
        })
    }

    /// The chain for a connection that began with `hello`.
    pub(crate) fn choose(mut self, hello: &Hello) -> Option<&'l ChainTable> {
        let name = hello.server_name.as_deref().unwrap_or_default();
        keep_best(&mut self.chains, |matches| {
            if matches.server_names.is_empty() {
                return Some(0);
            }
            matches
                .server_names
                .iter()
                .filter_map(|pattern| match pattern.strip_prefix('*') {
                    Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix))
                        .then_some(suffix.len() + 1),
                    None => (pattern.as_str() == name).then_some(usize::MAX),
                })
                .max()
        });
        keep_best(&mut self.chains, |matches| match matches.transport {
            Some(Transport::Tls) => hello.tls.then_some(1),
            Some(Transport::Plain) => (!hello.tls).then_some(1),
            None => Some(0),
        });
        keep_best(&mut self.chains, |matches| {
            if matches.application_protocols.is_empty() {
                return Some(0);
            }
            // The caller's first choice that any chain names wins.
            let wanted = &hello.protocols;
            wanted
                .iter()
                .position(|protocol| {
                    matches
                        .application_protocols
                        .iter()
                        .any(|named| named.as_bytes() == protocol.as_slice())
                })
                .map(|at| wanted.len() - at)
        });
        self.chains.first().copied().or(self.default)
    }
}

/// Keeps the chains for which `score` is highest; `None` never stays.
fn keep_best(
    chains: &mut SmallVec<[&ChainTable; 4]>,
    score: impl Fn(&ChainMatch) -> Option<usize>,
) {
    if chains.is_empty() {
        return;
    }
    let best = chains
        .iter()
        .filter_map(|chain| score(&chain.matches))
        .max();
    chains.retain(|chain| {
        let own = score(&chain.matches);
        own.is_some() && own == best
    });
}
