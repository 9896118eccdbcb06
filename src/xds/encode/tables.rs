//! Route tables as resources, of which only hosts are encoded that are routed in another way.
//!
//! A message is its fields one after the other, so the bytes of a table are those of its hosts, with
//! what else it says before and behind them, and a host is exchanged where it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};

use super::super::canonical;
use super::super::pb::route::RouteConfiguration;
use super::super::snapshot::Resource;
use super::route::{self, Around};
use crate::mesh::view::Rerouted;
use crate::mesh::{Client, Route, RouteTable, VirtualHost};

/// Encoded tables by name.
pub type Tables = BTreeMap<String, Arc<Table>>;

/// What a table came to.
#[derive(Debug)]
pub struct Table {
    /// What is sent.
    pub resource: Resource,
    /// Clusters that requests are routed to, and by how many hosts.
    pub(super) leads: Arc<BTreeMap<String, u32>>,
    /// Where in the bytes hosts begin, and where each of them ends.
    ends: Vec<usize>,
    /// Whether something is said for all routes at once.
    joined: bool,
}

/// The tables `of` a client as resources.
pub fn tables(of: &BTreeMap<String, Arc<RouteTable>>, client: Client) -> Tables {
    let made = of.iter();
    made.map(|(name, table)| (name.clone(), Arc::new(Table::new(table, client))))
        .collect()
}

impl Table {
    fn new(table: &RouteTable, client: Client) -> Self {
        let mut around = Around::of(table);
        let mut bytes = encoded(&route::head(table));
        let mut ends = vec![bytes.len()];
        let mut leads = BTreeMap::new();
        for (at, host) in table.hosts.iter().enumerate() {
            let hosts = around.encode(at, host, client).into_iter().collect();
            bytes.extend(one(hosts));
            ends.push(bytes.len());
            count(&mut leads, &host.routes, true);
        }
        bytes.extend(encoded(&around.tail(table, client)));
        Self {
            resource: Resource::new(bytes),
            leads: Arc::new(leads),
            ends,
            joined: around.is_joined(),
        }
    }

    /// The same with other routes of some hosts. `None` where that is not all that changes.
    #[must_use]
    pub fn rerouted(&self, hosts: &[Rerouted], client: Client) -> Option<Self> {
        if self.joined || hosts.iter().any(|host| route::may_join(&host.is)) {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.resource.bytes.len() + 1024);
        let mut ends = Vec::with_capacity(self.ends.len());
        let mut leads = Arc::clone(&self.leads);
        let begin = *self.ends.first()?;
        bytes.extend_from_slice(self.resource.bytes.get(..begin)?);
        ends.push(begin);
        let by_name: BTreeMap<&[u8], &Rerouted> = hosts
            .iter()
            .map(|host| (host.name.as_bytes(), host))
            .collect();
        let mut left = by_name.len();
        for bounds in self.ends.windows(2) {
            let &[from, to] = bounds else { return None };
            let own = self.resource.bytes.get(from..to)?;
            match name_of(own).and_then(|name| by_name.get(name)) {
                None => bytes.extend_from_slice(own),
                Some(host) => {
                    left -= 1;
                    let had = RouteConfiguration::decode(own).ok()?;
                    let made = VirtualHost {
                        name: host.name.clone(),
                        domains: had.virtual_hosts.into_iter().next()?.domains,
                        routes: host.is.clone(),
                        ..VirtualHost::default()
                    };
                    let alone = RouteTable::default();
                    let made = Around::of(&alone).encode(0, &made, client);
                    bytes.extend(one(vec![made?]));
                    if led(&host.was) != led(&host.is) {
                        let leads = Arc::make_mut(&mut leads);
                        count(leads, &host.was, false);
                        count(leads, &host.is, true);
                    }
                }
            }
            ends.push(bytes.len());
        }
        if left > 0 {
            return None;
        }
        bytes.extend_from_slice(self.resource.bytes.get(*self.ends.last()?..)?);
        Some(Self {
            resource: Resource::new(bytes),
            leads,
            ends,
            joined: false,
        })
    }
}

fn encoded(part: &RouteConfiguration) -> Vec<u8> {
    canonical::encode(part, &canonical::ROUTE)
}

/// Hosts as a part of a table.
fn one(hosts: Vec<super::super::pb::route::VirtualHost>) -> Vec<u8> {
    encoded(&RouteConfiguration {
        virtual_hosts: hosts,
        ..RouteConfiguration::default()
    })
}

/// The name of an encoded host, which is what it begins with.
fn name_of(mut host: &[u8]) -> Option<&[u8]> {
    let mut enter = |tag: u32| {
        let (found, wire) = decode_key(&mut host).ok()?;
        let length = decode_varint(&mut host).ok()?;
        let name = wire == WireType::LengthDelimited && found == tag;
        name.then_some(usize::try_from(length).ok()?)
    };
    enter(2)?;
    let length = enter(1)?;
    host.get(..length)
}

/// The clusters that `routes` lead to.
fn led(routes: &[Route]) -> BTreeSet<&String> {
    routes.iter().flat_map(route::leads_to).collect()
}

/// One host more that leads where `routes` do, or one less.
fn count(leads: &mut BTreeMap<String, u32>, routes: &[Route], more: bool) {
    for cluster in led(routes) {
        if more {
            *leads.entry(cluster.clone()).or_default() += 1;
        } else if let Some(hosts) = leads.get_mut(cluster) {
            *hosts -= 1;
            if *hosts == 0 {
                leads.remove(cluster);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::xds::generate;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn a_table_with_hosts_exchanged_is_the_table_encoded_anew(
            one in generate::table(),
            other in generate::table(),
            which in any::<u8>(),
        ) {
            let mut table = one;
            for (at, host) in table.hosts.iter_mut().enumerate() {
                host.name = format!("host-{at}");
                // What is said about tries stays as it is for hosts of the mesh.
                host.attempts = crate::mesh::route::AttemptHeaders::default();
                host.domains = vec![format!("{at}.example")];
            }
            let mut new = table.clone();
            let mut rerouted = Vec::new();
            let theirs = other.hosts.into_iter().enumerate();
            for (at, their) in theirs.filter(|(at, _)| which >> at & 1 == 1) {
                if let Some(host) = new.hosts.get_mut(at) {
                    let was = std::mem::replace(&mut host.routes, their.routes.clone());
                    rerouted.push(Rerouted { name: host.name.clone(), was, is: their.routes });
                }
            }
            for client in [Client::Meshctl, Client::Envoy] {
                let before = Table::new(&table, client);
                let expected = Table::new(&new, client);
                let Some(made) = before.rerouted(&rerouted, client) else {
                    let mut all = rerouted.iter();
                    prop_assert!(before.joined || all.any(|host| route::may_join(&host.is)));
                    continue;
                };
                prop_assert_eq!(&made.resource, &expected.resource);
                prop_assert_eq!(&made.leads, &expected.leads);
                prop_assert_eq!(&made.ends, &expected.ends);
            }
            let stranger = Rerouted { name: "host-9".to_owned(), was: Vec::new(), is: Vec::new() };
            let before = Table::new(&table, Client::Meshctl);
            prop_assert!(before.rerouted(&[stranger], Client::Meshctl).is_none());
        }
    }
}
