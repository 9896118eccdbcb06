//! What each client is served of a world, made of what it was served of the last.
//!
//! Pieces of views are the same for many proxies and outlive most changes, and so do their encodings:
//! where one endpoint changed, one resource is encoded, for everybody at once. What is kept here is
//! kept for that only; [`encode()`] of the world's view says what must come out, and a test holds that
//! it does, over random changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::mesh::view::{Base, Common, Outlook, Pieces};
use crate::mesh::world::Config;
use crate::mesh::{Client, Instance, Node, View, World};
use crate::xds::encode::{Encoded, Led, Tables, sheet, tables};
use crate::xds::snapshot::Sheet;
use crate::xds::{Snapshot, encode};

/// What a client is to have of a world, all of it made anew.
type Whole = dyn Fn(&World, &Node) -> View + Send + Sync;

/// Makes what clients are served.
#[derive(Default)]
pub struct Views {
    /// In place of the world's own view.
    whole: Option<Box<Whole>>,
    /// What was made of the last world.
    last: Mutex<Option<(World, Arc<Common>)>>,
    /// What calls are routed by, of one configuration.
    tables: Mutex<Known>,
    encoded: Mutex<BTreeMap<Made, Weak<Encoded>>>,
    /// Sets of names, each once.
    names: Mutex<Vec<Weak<BTreeSet<String>>>>,
}

/// What an encoding was made of: its place among a client's, where in memory the scope and the names
/// are, which it keeps there, and for whom.
type Made = (usize, usize, usize, Client);

#[derive(Debug, Default)]
struct Known {
    /// Held, so that no other is where it was.
    of: Option<Arc<Config>>,
    by_outlook: BTreeMap<(Outlook, Client), Weak<Routed>>,
    /// Of the configuration before.
    last: BTreeMap<(Outlook, Client), Arc<Routed>>,
}

/// What calls are routed by, encoded.
#[derive(Debug, Default)]
struct Routed {
    sheet: Arc<Sheet>,
    /// What the next is made from.
    base: Option<Base>,
    tables: Tables,
    led: Led,
    clusters: BTreeSet<String>,
    /// Clusters of others that no route leads to.
    bytes_only: Arc<BTreeSet<String>>,
}

/// What nobody else has, encoded.
#[derive(Debug)]
struct Own {
    sheet: Arc<Sheet>,
    led: Led,
    clusters: BTreeSet<String>,
    /// Those of them that no route leads to.
    bytes_only: BTreeSet<String>,
}

/// What one client was served, and what it was made of.
#[derive(Debug, Clone)]
pub struct Served {
    config: Arc<Config>,
    /// The client's own.
    instance: Option<Arc<Instance>>,
    own: Arc<Own>,
    routed: Arc<Routed>,
    bytes_only: Arc<BTreeSet<String>>,
    scopes: Vec<Arc<Encoded>>,
}

impl fmt::Debug for Views {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").finish_non_exhaustive()
    }
}

impl Views {
    /// Serves what `view` gives.
    pub fn by(view: impl Fn(&World, &Node) -> View + Send + Sync + 'static) -> Self {
        Self {
            whole: Some(Box::new(view)),
            ..Self::default()
        }
    }

    /// What `node` is to have of `world`. `last` is what it was served before and becomes what it is
    /// served now. Credentials are only for who `proved` its name.
    pub fn serve(
        &self,
        world: &World,
        node: &Node,
        proved: bool,
        last: &mut Option<Served>,
    ) -> Snapshot {
        let whole = |mut view: View| {
            if !proved {
                view.secrets.clear();
            }
            encode(&view, node)
        };
        if let Some(view) = &self.whole {
            return whole(view(world, node));
        }
        let common = self.common(world);
        // What is told to gRPC libraries is put together in other ways, as is what a gateway shows or
        // believes alone.
        if node.client == Client::Grpc || world.is_whole(node) {
            return whole(world.view_with(&common, node));
        }
        let served = self.pieces(world, &common, (node, proved), last.take());
        let encoded = served.scopes.iter().map(|made| Arc::clone(&made.sheet));
        let own = [
            Arc::clone(&served.own.sheet),
            Arc::clone(&served.routed.sheet),
        ];
        let sheets = own.into_iter().chain(encoded).collect();
        *last = Some(served);
        Snapshot::new(sheets)
    }

    fn pieces(
        &self,
        world: &World,
        common: &Common,
        (node, proved): (&Node, bool),
        last: Option<Served>,
    ) -> Served {
        let pieces = world.pieces(common, node);
        let key = (node.namespace.clone(), node.name.clone());
        let instance = world.instances.get(&key).cloned();
        let here = |last: &Served| {
            last.instance.as_ref().map(Arc::as_ptr) == instance.as_ref().map(Arc::as_ptr)
        };
        let as_before = |last: &Served| Arc::ptr_eq(&last.config, &world.config) && here(last);
        let (mut served, before) = match last {
            Some(last) if as_before(&last) => {
                let before = last.scopes.clone();
                (last, before)
            }
            last => {
                let routed = self.routed(&world.config, common, &pieces, node.client);
                let stays = |last: &&Served| here(last) && pieces.keeps_own(common, &last.config);
                let own = last.as_ref().filter(stays);
                let own = own.map(|last| Arc::clone(&last.own));
                let own = own.filter(|own| own.bytes_only == own.carried(&routed));
                let own = own.unwrap_or_else(|| {
                    let mut own = pieces.own(common);
                    if !proved {
                        own.secrets.clear();
                    }
                    Arc::new(Own::new(&own, &routed, node.client))
                });
                let served = Served {
                    config: Arc::clone(&world.config),
                    instance,
                    bytes_only: self.bytes_only(&routed, &own),
                    own,
                    routed,
                    scopes: Vec::new(),
                };
                let before = last.map(|last| last.scopes).unwrap_or_default();
                (served, before)
            }
        };
        let scopes = pieces.scopes.into_iter().enumerate();
        served.scopes = scopes
            .map(|(at, scope)| {
                // Nothing under this lock is left half made; who comes meanwhile waits rather than
                // make the same.
                let mut encoded = lock(&self.encoded);
                let names = &served.bytes_only;
                let places = (Arc::as_ptr(&scope).addr(), Arc::as_ptr(names).addr());
                let made: Made = (at, places.0, places.1, node.client);
                if let Some(found) = encoded.get(&made).and_then(Weak::upgrade) {
                    return found;
                }
                encoded.retain(|_, made| made.strong_count() > 0);
                let similar = || {
                    let mut others = encoded.iter();
                    let (_, other) = others.find(|((place, _, _, client), _)| {
                        (*place, *client) == (at, node.client)
                    })?;
                    other.upgrade()
                };
                let new = match before.get(at).cloned().or_else(similar) {
                    Some(before) => before.next(scope, Arc::clone(names), node.client),
                    None => Encoded::new(scope, Arc::clone(names), node.client),
                };
                let new = Arc::new(new);
                encoded.insert(made, Arc::downgrade(&new));
                new
            })
            .collect();
        served
    }

    /// What calls are routed by, made once for all that have the same outlook.
    fn routed(
        &self,
        config: &Arc<Config>,
        common: &Common,
        pieces: &Pieces<'_>,
        client: Client,
    ) -> Arc<Routed> {
        let Some(outlook) = pieces.outlook(common) else {
            return Arc::new(Routed {
                bytes_only: self.named(BTreeSet::new()),
                ..Routed::default()
            });
        };
        let key = (outlook, client);
        let mut known = lock(&self.tables);
        let same = |of: &Arc<Config>| Arc::ptr_eq(of, config);
        if !known.of.as_ref().is_some_and(same) {
            let last = std::mem::take(&mut known.by_outlook).into_iter();
            let last = last.filter_map(|(key, routed)| Some((key, routed.upgrade()?)));
            *known = Known {
                of: Some(Arc::clone(config)),
                by_outlook: BTreeMap::new(),
                last: last.collect(),
            };
        }
        if let Some(found) = known.by_outlook.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let last = known.last.remove(&key);
        let (view, made, base) = tabled(pieces, common, client, last.as_deref());
        let led = Led::by(&view, &made);
        let clusters: BTreeSet<String> = view.clusters.keys().cloned().collect();
        let own = bytes_only(&led, &Led::default());
        let routed = Arc::new(Routed {
            sheet: Arc::new(sheet(&view, &made, client, &own)),
            base,
            tables: made,
            bytes_only: self.named(own.difference(&clusters).cloned().collect()),
            led,
            clusters,
        });
        known
            .by_outlook
            .retain(|_, routed| routed.strong_count() > 0);
        known.by_outlook.insert(key, Arc::downgrade(&routed));
        routed
    }

    /// Shared clusters that no route leads to, be it one of the client's own.
    fn bytes_only(&self, routed: &Routed, own: &Own) -> Arc<BTreeSet<String>> {
        let mine = |name: &String| own.clusters.contains(name) || routed.clusters.contains(name);
        let same = own.led.bytes.iter().all(mine)
            && own.led.avoids(&routed.bytes_only)
            && own.clusters.is_disjoint(&routed.bytes_only);
        if same {
            return Arc::clone(&routed.bytes_only);
        }
        let mut names = bytes_only(&routed.led, &own.led);
        names.retain(|name| !mine(name));
        self.named(names)
    }

    /// The set with these names that is there already, so that where it is tells what is in it.
    fn named(&self, names: BTreeSet<String>) -> Arc<BTreeSet<String>> {
        let mut all = lock(&self.names);
        all.retain(|known| known.strong_count() > 0);
        if let Some(known) = all
            .iter()
            .filter_map(Weak::upgrade)
            .find(|own| **own == names)
        {
            return known;
        }
        let names = Arc::new(names);
        all.push(Arc::downgrade(&names));
        names
    }

    fn common(&self, world: &World) -> Arc<Common> {
        // A half-made one never gets in; who comes meanwhile waits rather than make the same.
        let mut last = lock(&self.last);
        let common = match &*last {
            Some((of, common))
                if Arc::ptr_eq(&of.config, &world.config) && of.instances.is(&world.instances) =>
            {
                return Arc::clone(common);
            }
            Some((of, common)) => Arc::new(common.next(of, world)),
            None => Arc::new(world.common()),
        };
        *last = Some((world.clone(), Arc::clone(&common)));
        common
    }
}

impl Own {
    fn new(view: &View, routed: &Routed, client: Client) -> Self {
        let made = tables(&view.routes, client);
        let mut own = Self {
            sheet: Arc::default(),
            led: Led::by(view, &made),
            clusters: view.clusters.keys().cloned().collect(),
            bytes_only: BTreeSet::new(),
        };
        own.bytes_only = own.carried(routed);
        own.sheet = Arc::new(sheet(view, &made, client, &own.bytes_only));
        own
    }

    /// Its clusters that bytes are carried to, and no request is routed to.
    fn carried(&self, routed: &Routed) -> BTreeSet<String> {
        let mut names = bytes_only(&routed.led, &self.led);
        names.retain(|name| self.clusters.contains(name));
        names
    }
}

/// What calls are routed by, and its tables as resources, made of the `last` where these hold.
fn tabled(
    pieces: &Pieces<'_>,
    common: &Common,
    client: Client,
    last: Option<&Routed>,
) -> (View, Tables, Option<Base>) {
    let base = last.and_then(|last| last.base.as_ref());
    let Some(routing) = pieces.outbound(common, base) else {
        return (View::default(), Tables::new(), None);
    };
    let mut made = tables(&routing.view.routes, client);
    for (name, hosts) in &routing.kept {
        let had = last.and_then(|last| last.tables.get(name));
        let table = had.and_then(|had| match hosts.as_slice() {
            [] => Some(Arc::clone(had)),
            hosts => had.rerouted(hosts, client).map(Arc::new),
        });
        let Some(table) = table else {
            return tabled(pieces, common, client, None);
        };
        made.insert(name.clone(), table);
    }
    (routing.view, made, Some(routing.base))
}

/// Clusters that bytes are carried to, and no request is routed to, by either.
fn bytes_only(one: &Led, other: &Led) -> BTreeSet<String> {
    let all = one.bytes.union(&other.bytes);
    all.filter(|name| !one.routes_to(name) && !other.routes_to(name))
        .cloned()
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
