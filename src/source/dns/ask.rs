//! One question for a name, and what its answers come to.
//!
//! That a name is not there, or has no such record, is an answer. What a server cannot say (SERVFAIL,
//! nothing at all) is not: then what was known last stays, for each name that was asked on the way.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};

use super::{Options, Records};

/// For an answer, of each try.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Where somebody serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// The lowest serves.
    pub(super) priority: u16,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) weight: u16,
}

/// What is known now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) targets: Vec<Target>,
    /// For how long, as far as the answers say.
    pub(super) holds: Option<Duration>,
    /// Part of it is what was known before, for this reason.
    pub(super) stale: Option<String>,
}

/// Records of one name and type, and how long they hold.
type Records1 = (Vec<RData>, Option<Duration>);

/// Asks for one name, and remembers what it heard.
pub(super) struct Ask {
    options: Options,
    resolver: Option<TokioResolver>,
    known: BTreeMap<(Name, RecordType), Vec<RData>>,
}

impl Ask {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            resolver: None,
            known: BTreeMap::new(),
        }
    }

    /// Asks once. The error is why nothing at all is known.
    pub(super) async fn once(&mut self) -> Result<Found, String> {
        let mut name = Name::from_utf8(&self.options.name).map_err(|error| error.to_string())?;
        // As it is written: no domain of this machine belongs behind it.
        name.set_fqdn(true);
        let mut found = Found {
            targets: Vec::new(),
            holds: None,
            stale: None,
        };
        match self.options.records {
            Records::Addresses => {
                let port = self.options.port;
                for address in self.addresses(&name, &mut found).await? {
                    found.targets.push(Target {
                        priority: 0,
                        address,
                        port,
                        weight: 0,
                    });
                }
            }
            Records::Targets => {
                let records = self.records(&name, RecordType::SRV, &mut found).await?;
                let mut failed = None;
                for record in &records {
                    let RData::SRV(srv) = record else { continue };
                    // The root means: decidedly not here (RFC 2782).
                    if srv.target.is_root() {
                        continue;
                    }
                    match self.addresses(&srv.target, &mut found).await {
                        Ok(addresses) => {
                            let targets = addresses.into_iter().map(|address| Target {
                                priority: srv.priority,
                                address,
                                port: srv.port,
                                weight: srv.weight,
                            });
                            found.targets.extend(targets);
                        }
                        Err(reason) => failed = Some(reason),
                    }
                }
                if let Some(reason) = failed {
                    if found.targets.is_empty() {
                        return Err(reason);
                    }
                    found.stale = Some(reason);
                }
            }
        }
        found.targets.sort();
        found.targets.dedup();
        Ok(found)
    }

    /// The addresses of `name`. Those of IPv4 where it has any: the others are the same machines again.
    async fn addresses(&mut self, name: &Name, found: &mut Found) -> Result<Vec<IpAddr>, String> {
        let mut records = self.records(name, RecordType::A, found).await?;
        if records.is_empty() {
            records = self.records(name, RecordType::AAAA, found).await?;
        }
        let addresses = records.iter().filter_map(|record| match record {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        });
        Ok(addresses.collect())
    }

    /// The records of `name`, or the ones that it had when nobody can say.
    async fn records(
        &mut self,
        name: &Name,
        kind: RecordType,
        found: &mut Found,
    ) -> Result<Vec<RData>, String> {
        let key = (name.clone(), kind);
        match self.look_up(name, kind).await {
            Ok((records, holds)) => {
                if let Some(holds) = holds {
                    found.holds = Some(found.holds.map_or(holds, |known| known.min(holds)));
                }
                self.known.insert(key, records.clone());
                Ok(records)
            }
            Err(reason) => {
                let reason = format!("{name} {kind}: {reason}");
                let known = self
                    .known
                    .get(&key)
                    .cloned()
                    .ok_or_else(|| reason.clone())?;
                found.stale = Some(reason);
                Ok(known)
            }
        }
    }

    async fn look_up(&mut self, name: &Name, kind: RecordType) -> Result<Records1, String> {
        let answer = match &self.resolver {
            Some(resolver) => resolver.lookup(name.clone(), kind).await,
            None => match build(&self.options) {
                Ok(built) => self.resolver.insert(built).lookup(name.clone(), kind).await,
                Err(error) => Err(error),
            },
        };
        match answer {
            Ok(answer) => {
                // On the way there may be CNAMEs, whose lives count, too.
                let lives = answer.answers().iter().map(|record| record.ttl);
                let life = lives.min().unwrap_or_default();
                let records = answer.answers().iter();
                let records = records.filter(|record| record.record_type() == kind);
                Ok((
                    records.map(|record| record.data.clone()).collect(),
                    Some(Duration::from_secs(life.into())),
                ))
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                let life = nothing.negative_ttl;
                let life = life.map(|seconds| Duration::from_secs(seconds.into()));
                Ok((Vec::new(), life))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

fn build(options: &Options) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if options.servers.is_empty() {
        Resolver::builder(provider)?
    } else {
        let servers = options.servers.iter().map(|server| {
            let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Resolver::builder_with_config(config, provider)
    };
    let resolver_options = builder.options_mut();
    // How long answers hold is kept here.
    resolver_options.cache_size = 0;
    // It is asked again anyway, and until then `check` would not say that nobody answers.
    (resolver_options.timeout, resolver_options.attempts) = (TIMEOUT, 2);
    builder.build()
}
