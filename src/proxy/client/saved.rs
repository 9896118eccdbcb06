//! The last good configuration on disk, so that a proxy can start while the control plane is away.
//!
//! The file is written beside its final name, synced and renamed, and carries a hash: a proxy
//! starts from all of it or from nothing, and never from half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::digest;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as Saved};
use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use tracing::{info, warn};

use crate::xds::{Kind, Resource, Snapshot};

/// Its name in the proxy's directory.
pub const FILE: &str = "config.bin";
/// Begins the file; the digit is the version of its format.
const MAGIC: &[u8] = b"meshctl-config-1";
/// Length of the hash that follows.
const HASH: usize = 32;
/// A larger file is not ours.
const MOST_BYTES: u64 = 512 << 20;

/// Saves `snapshot` in `dir`; when it returns, the file outlives a power cut.
pub fn save(dir: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let body = encode(snapshot);
    let partial = dir.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(MAGIC)?;
    file.write_all(digest::digest(&digest::SHA256, &body).as_ref())?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&partial, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

/// What was saved in `dir`. A file that is damaged is set aside and said; then, and when there is
/// none, the proxy starts from nothing.
pub fn load(dir: &Path) -> Snapshot {
    let path = dir.join(FILE);
    let bytes = match read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Snapshot::default(),
        Err(error) => {
            warn!(%error, path = %path.display(), "cannot read the saved configuration");
            return Snapshot::default();
        }
    };
    if let Some(snapshot) = decode(&bytes) {
        info!(path = %path.display(), "starting from the saved configuration");
        return snapshot;
    }
    let aside = dir.join(format!("{FILE}.damaged"));
    let moved = fs::rename(&path, &aside).is_ok();
    warn!(
        path = %path.display(), moved,
        "the saved configuration is damaged; starting without it"
    );
    Snapshot::default()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MOST_BYTES {
        return Err(io::Error::other("is larger than 512 MiB"));
    }
    fs::read(path)
}

/// One message for each kind, with its length before it.
fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut body = Vec::new();
    for kind in Kind::ALL {
        let message = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            resources: snapshot
                .of(kind)
                .map(|(name, resource)| Saved {
                    name: name.to_string(),
                    version: resource.version.to_string(),
                    resource: Some(Any {
                        type_url: kind.type_url().to_owned(),
                        value: resource.bytes.to_vec(),
                    }),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        body.extend_from_slice(&message.encode_length_delimited_to_vec());
    }
    body
}

fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (hash, mut body) = rest.split_at_checked(HASH)?;
    if digest::digest(&digest::SHA256, body).as_ref() != hash {
        return None;
    }
    let mut snapshot = Snapshot::default();
    while !body.is_empty() {
        let message = DeltaDiscoveryResponse::decode_length_delimited(&mut body).ok()?;
        let kind = Kind::of(&message.type_url)?;
        for saved in message.resources {
            let resource = Resource {
                version: saved.version.into(),
                bytes: saved.resource?.value.into(),
            };
            snapshot.put(kind, saved.name, resource);
        }
    }
    Some(snapshot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.insert(Kind::Cluster, "c", "cluster");
        snapshot.insert(Kind::Route, "r", "route");
        snapshot
    }

    #[test]
    fn what_is_saved_is_loaded_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), Snapshot::default());
        save(dir.path(), &snapshot()).unwrap();
        save(dir.path(), &snapshot()).unwrap();
        assert_eq!(load(dir.path()), snapshot());
        let mode = fs::metadata(dir.path().join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &snapshot()).unwrap();
        let good = fs::read(dir.path().join(FILE)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "byte {at}");
            assert_eq!(decode(&good[..at]), None, "cut at {at}");
        }
        fs::write(dir.path().join(FILE), &good[1..]).unwrap();
        assert_eq!(load(dir.path()), Snapshot::default());
        assert!(dir.path().join("config.bin.damaged").exists());
    }
}
