//! What each client is served of a world, made of what it was served of the last.
//!
//! Pieces of views are the same for many proxies and outlive most changes, and so do their encodings:
//! where one endpoint changed, one resource is encoded, for everybody at once. What is kept here is
//! kept for that only; [`encode()`] of the world's view says what must come out, and a test holds that
//! it does, over random changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::mesh::view::{Common, Outlook, Pieces};
use crate::mesh::world::Config;
use crate::mesh::{Client, Instance, Node, View, World};
use crate::xds::encode::{Encoded, Led, sheet};
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
    tables: Mutex<Tables>,
    encoded: Mutex<BTreeMap<Made, Weak<Encoded>>>,
    /// Sets of names, each once.
    names: Mutex<Vec<Weak<BTreeSet<String>>>>,
}

/// What an encoding was made of: its place among a client's, where in memory the scope and the names
/// are, which it keeps there, and for whom.
type Made = (usize, usize, usize, Client);

#[derive(Debug, Default)]
struct Tables {
    /// Held, so that no other is where it was.
    of: Option<Arc<Config>>,
    by_outlook: BTreeMap<(Outlook, Client), Weak<Routed>>,
}

/// What calls are routed by, encoded.
#[derive(Debug, Default)]
struct Routed {
    sheet: Arc<Sheet>,
    led: Led,
    clusters: BTreeSet<String>,
    /// Clusters of others that no route leads to.
    bytes_only: Arc<BTreeSet<String>>,
}

/// What one client was served, and what it was made of.
#[derive(Debug, Clone)]
pub struct Served {
    config: Arc<Config>,
    /// The client's own.
    instance: Option<Arc<Instance>>,
    own: Arc<Sheet>,
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
        // What is told to gRPC libraries is put together in other ways, as is what policies for TLS change.
        if node.client == Client::Grpc || world.secures(node) {
            return whole(world.view_with(&common, node));
        }
        let served = self.pieces(world, &common, (node, proved), last.take());
        let encoded = served.scopes.iter().map(|made| Arc::clone(&made.sheet));
        let own = [Arc::clone(&served.own), Arc::clone(&served.routed.sheet)];
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
        let as_before = |last: &Served| {
            Arc::ptr_eq(&last.config, &world.config)
                && last.instance.as_ref().map(Arc::as_ptr) == instance.as_ref().map(Arc::as_ptr)
        };
        let (mut served, before) = match last {
            Some(last) if as_before(&last) => {
                let before = last.scopes.clone();
                (last, before)
            }
            last => {
                let before = last.map(|last| last.scopes).unwrap_or_default();
                let routed = self.routed(&world.config, common, &pieces, node.client);
                let mut own = pieces.own();
                if !proved {
                    own.secrets.clear();
                }
                let led = Led::by(&own);
                let served = Served {
                    config: Arc::clone(&world.config),
                    instance,
                    bytes_only: self.bytes_only(&routed, &own, &led),
                    own: Arc::new(sheet(&own, node.client, &bytes_only(&routed.led, &led))),
                    routed,
                    scopes: Vec::new(),
                };
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
        let mut tables = lock(&self.tables);
        let same = |of: &Arc<Config>| Arc::ptr_eq(of, config);
        if !tables.of.as_ref().is_some_and(same) {
            *tables = Tables {
                of: Some(Arc::clone(config)),
                by_outlook: BTreeMap::new(),
            };
        }
        if let Some(found) = tables.by_outlook.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let view = pieces.outbound(common);
        let led = Led::by(&view);
        let clusters: BTreeSet<String> = view.clusters.keys().cloned().collect();
        let own = bytes_only(&led, &Led::default());
        let routed = Arc::new(Routed {
            sheet: Arc::new(sheet(&view, client, &own)),
            bytes_only: self.named(own.difference(&clusters).cloned().collect()),
            led,
            clusters,
        });
        tables
            .by_outlook
            .retain(|_, routed| routed.strong_count() > 0);
        tables.by_outlook.insert(key, Arc::downgrade(&routed));
        routed
    }

    /// Shared clusters that no route leads to, be it one of the client's own.
    fn bytes_only(&self, routed: &Routed, own: &View, led: &Led) -> Arc<BTreeSet<String>> {
        let mine =
            |name: &String| own.clusters.contains_key(name) || routed.clusters.contains(name);
        let same = led.bytes.iter().all(mine)
            && led.requests.is_disjoint(&routed.bytes_only)
            && own
                .clusters
                .keys()
                .all(|name| !routed.bytes_only.contains(name));
        if same {
            return Arc::clone(&routed.bytes_only);
        }
        let mut names = bytes_only(&routed.led, led);
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

/// Clusters that bytes are carried to, and no request is routed to, by either.
fn bytes_only(one: &Led, other: &Led) -> BTreeSet<String> {
    let all = one.bytes.union(&other.bytes);
    all.filter(|name| !one.requests.contains(*name) && !other.requests.contains(*name))
        .cloned()
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
