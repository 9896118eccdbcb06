//! Encoded resources by kind and name, with versions that are hashes of their content.
//!
//! What clients have is mostly the same, so a snapshot is a pile of sheets, and most of them are shared
//! between clients, and between what a client had and what it is to have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::mesh::shared_map::SharedMap;

/// A kind of resource, in the order in which changes are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
}

impl Kind {
    /// In push order.
    pub const ALL: [Self; 5] = [
        Self::Cluster,
        Self::Endpoint,
        Self::Listener,
        Self::Route,
        Self::Secret,
    ];

    fn place(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Endpoint => 1,
            Self::Listener => 2,
            Self::Route => 3,
            Self::Secret => 4,
        }
    }

    /// The type URL.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// By type URL, whatever its prefix.
    pub fn of(type_url: &str) -> Option<Self> {
        let name = type_url.rsplit('/').next();
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url().rsplit('/').next() == name)
    }

    /// `CDS`, `EDS`, `LDS`, `RDS`, `SDS`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "CDS",
            Self::Endpoint => "EDS",
            Self::Listener => "LDS",
            Self::Route => "RDS",
            Self::Secret => "SDS",
        }
    }

    /// Whether a client that names nothing gets everything, and absence means deletion.
    pub fn wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

/// One encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Hash of `bytes` (hex), so that equal content is never sent twice, across restarts too.
    pub version: Arc<str>,
    /// The encoded message, without `Any`.
    pub bytes: Bytes,
}

impl Resource {
    /// A resource whose version is the hash of `bytes`.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            version: hash(&bytes).into(),
            bytes,
        }
    }
}

/// Half of SHA-256, in hex: long enough that no two contents meet, short enough for logs.
pub(crate) fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .take(16)
        .fold(String::with_capacity(32), |mut hex, byte| {
            // Writing to a `String` cannot fail.
            let _infallible = write!(hex, "{byte:02x}").is_ok();
            hex
        })
}

/// The name of a resource. Whoever remembers it shares it with the snapshot.
pub type Name = Arc<str>;

/// Some resources, by kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sheet {
    kinds: [SharedMap<Name, Resource>; Kind::ALL.len()],
}

impl Sheet {
    /// Adds or replaces a resource.
    pub fn insert(&mut self, kind: Kind, name: impl Into<Name>, resource: Resource) {
        if let Some(of) = self.kinds.get_mut(kind.place()) {
            of.insert(name.into(), resource);
        }
    }

    /// Takes a resource out.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        if let Some(of) = self.kinds.get_mut(kind.place()) {
            of.remove(name);
        }
    }

    /// The resource of that kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.kinds.get(kind.place())?.get(name)
    }

    /// `name` as it stands in here.
    pub fn name(&self, kind: Kind, name: &str) -> Option<&Name> {
        self.kinds.get(kind.place())?.key(name)
    }

    /// All of one kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Resource)> {
        let of = self.kinds.get(kind.place());
        of.into_iter().flat_map(SharedMap::iter)
    }

    fn changed<'a>(&'a self, before: &'a Self, kind: Kind, into: &mut BTreeSet<Name>) {
        let (Some(new), Some(old)) = (self.kinds.get(kind.place()), before.kinds.get(kind.place()))
        else {
            return;
        };
        let changed = new.changed(old, |a, b| a.version == b.version);
        into.extend(changed.into_iter().cloned());
    }
}

/// Everything that one client may ask for.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Of resources of one name that of the first sheet counts.
    sheets: Vec<Arc<Sheet>>,
}

impl Snapshot {
    /// What is on `sheets`; of resources of one name that of the first counts.
    pub fn new(sheets: Vec<Arc<Sheet>>) -> Self {
        Self { sheets }
    }

    /// Adds what is on `sheet`, below all that is there.
    pub fn add(&mut self, sheet: Arc<Sheet>) {
        self.sheets.push(sheet);
    }

    /// Adds or replaces a resource.
    pub fn insert(&mut self, kind: Kind, name: impl Into<Name>, bytes: impl Into<Bytes>) {
        self.put(kind, name, Resource::new(bytes));
    }

    /// Adds or replaces a resource whose version is known.
    pub fn put(&mut self, kind: Kind, name: impl Into<Name>, resource: Resource) {
        if self.sheets.is_empty() {
            self.sheets.push(Arc::default());
        }
        if let Some(first) = self.sheets.first_mut() {
            Arc::make_mut(first).insert(kind, name, resource);
        }
    }

    /// The resource of that kind and name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Resource> {
        self.sheets.iter().find_map(|sheet| sheet.get(kind, name))
    }

    /// `name` as it stands in here.
    pub fn name(&self, kind: Kind, name: &str) -> Option<&Name> {
        self.sheets.iter().find_map(|sheet| sheet.name(kind, name))
    }

    /// All of one kind, each name once; by name within a sheet.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Resource)> {
        let numbered = self.sheets.iter().enumerate();
        numbered.flat_map(move |(at, sheet)| {
            let above = self.sheets.get(..at).unwrap_or_default();
            sheet.of(kind).filter(move |(name, _)| {
                let hides = |sheet: &Arc<Sheet>| sheet.get(kind, name).is_some();
                !above.iter().any(hides)
            })
        })
    }

    /// The names of one kind that may stand for something else than in `before`: all that do, and
    /// few that do not. Sheets that both have are not looked into.
    pub fn changed(&self, before: &Self, kind: Kind) -> BTreeSet<Name> {
        let nothing = Arc::<Sheet>::default();
        let mut changed = BTreeSet::new();
        for at in 0..self.sheets.len().max(before.sheets.len()) {
            let new = self.sheets.get(at).unwrap_or(&nothing);
            let old = before.sheets.get(at).unwrap_or(&nothing);
            if !Arc::ptr_eq(new, old) {
                new.changed(old, kind, &mut changed);
            }
        }
        changed
    }

    fn flat(&self, kind: Kind) -> BTreeMap<&Name, &Resource> {
        self.of(kind).collect()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        let mut kinds = Kind::ALL.into_iter();
        kinds.all(|kind| self.flat(kind) == other.flat(kind))
    }
}

impl Eq for Snapshot {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_urls_are_compared_after_the_last_slash() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.type_url()), Some(kind));
            let name = kind.type_url().rsplit('/').next().unwrap();
            assert_eq!(Kind::of(&format!("other.example/x/{name}")), Some(kind));
        }
        assert_eq!(Kind::of("type.googleapis.com/envoy.Other"), None);
    }

    #[test]
    fn versions_are_hashes_of_content() {
        assert_eq!(Resource::new("a"), Resource::new("a"));
        assert_ne!(Resource::new("a").version, Resource::new("b").version);
        assert_eq!(
            &*Resource::new("abc").version,
            "ba7816bf8f01cfea414140de5dae2223"
        );
    }

    #[test]
    fn of_one_name_the_first_sheet_counts_and_what_is_shared_does_not_differ() {
        let sheet = |entries: &[(&str, &'static str)]| {
            let mut sheet = Sheet::default();
            for (name, text) in entries {
                sheet.insert(Kind::Cluster, *name, Resource::new(*text));
            }
            Arc::new(sheet)
        };
        let shared = sheet(&[("a", "1"), ("b", "1"), ("c", "1")]);
        let before = Snapshot::new(vec![sheet(&[("b", "2")]), Arc::clone(&shared)]);
        let texts: Vec<_> = before
            .of(Kind::Cluster)
            .map(|(_, r)| r.bytes.clone())
            .collect();
        assert_eq!(texts, ["2", "1", "1"]);
        let after = Snapshot::new(vec![sheet(&[("b", "3"), ("d", "1")]), shared]);
        let changed = after.changed(&before, Kind::Cluster);
        assert!(changed.iter().map(|name| &**name).eq(["b", "d"]));
        assert!(after.changed(&before, Kind::Route).is_empty());
        assert_ne!(before, after);
        assert_eq!(
            before,
            Snapshot::new(vec![sheet(&[("a", "1"), ("b", "2"), ("c", "1")])])
        );
    }
}
