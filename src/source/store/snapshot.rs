//! Snapshots: every durable record in one file, with a hash at the end. A backup is the same.
//!
//! ```text
//! MAGIC 16 | format u32 | manifest length u32, manifest
//! records: tree u8 | key length u32, key | value length u32, value
//! end: 0 u8 | SHA-256 of all before
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};

use super::coding::{finish, length};
use super::engine::Engine;
use super::error::StoreError;
use super::journal::FORMAT;
use super::manifest::{Manifest, Sums};
use super::{MAX_KEY_BYTES, MAX_VALUE_BYTES, Tree, disk};

const MAGIC: &[u8; 16] = b"meshctl-store-1\n";
const BUFFER: usize = 256 << 10;

/// The file of the snapshot of a revision.
pub(super) fn disk_name(dir: &Path, revision: u64) -> PathBuf {
    dir.join(format!("snapshot.{revision:020}"))
}

/// Writes a snapshot beside `path`, reads it back, and only then gives it its name.
pub(super) fn write(path: &Path, engine: &Engine, manifest: &Manifest) -> Result<(), StoreError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = write_and_check(&temporary, engine, manifest)
        .and_then(|()| disk::publish(&temporary, path));
    if written.is_err()
        && let Err(error) = disk::remove(&temporary, false)
    {
        tracing::warn!(%error, "unfinished snapshot stays");
    }
    written
}

fn write_and_check(path: &Path, engine: &Engine, manifest: &Manifest) -> Result<(), StoreError> {
    let file = disk::create_private(path).map_err(|e| StoreError::io("create", path, e))?;
    let mut out = Hashing::new(BufWriter::with_capacity(BUFFER, file));
    write_records(&mut out, engine, manifest).map_err(|fault| match fault {
        Fault::Io(e) => StoreError::io("write", path, e),
        Fault::Store(e) => e,
    })?;
    let io = |e| StoreError::io("write", path, e);
    let hash = finish(out.context);
    let mut buffered = out.inner;
    buffered.write_all(&hash).map_err(io)?;
    let file = buffered.into_inner().map_err(|e| io(e.into_error()))?;
    file.sync_all().map_err(io)?;
    drop(file);
    check(path).map(|_| ())
}

enum Fault {
    Io(io::Error),
    Store(StoreError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn write_records(
    out: &mut Hashing<BufWriter<File>>,
    engine: &Engine,
    manifest: &Manifest,
) -> Result<(), Fault> {
    let encoded = manifest.encode();
    out.put(MAGIC)?;
    out.put(&FORMAT.to_le_bytes())?;
    out.put(&length(encoded.len()))?;
    out.put(&encoded)?;
    engine.each(|tree, key, value| {
        out.put(&[tree.id()])?;
        out.put(&length(key.len()))?;
        out.put(key)?;
        out.put(&length(value.len()))?;
        out.put(value)?;
        Ok::<(), Fault>(())
    })?;
    out.put(&[0])?;
    Ok(())
}

/// Reads a whole snapshot, checks it, and returns what it is a snapshot of.
pub(super) fn check(path: &Path) -> Result<Manifest, StoreError> {
    read(path, |_, _, _| {})
}

/// Reads and checks a snapshot, handing over its records. Nothing handed over counts before it
/// has returned.
pub(super) fn read(
    path: &Path,
    mut visit: impl FnMut(Tree, Vec<u8>, Vec<u8>),
) -> Result<Manifest, StoreError> {
    let file = File::open(path).map_err(|e| StoreError::io("open", path, e))?;
    let bad = |what: &str| StoreError::BadBackup {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let mut input = Hashing::new(BufReader::with_capacity(BUFFER, file));
    let short = |e: io::Error| {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            bad("it ends too early")
        } else {
            StoreError::io("read", path, e)
        }
    };
    if input.array::<16>().map_err(short)? != *MAGIC {
        return Err(bad("it does not start as a meshctl store does"));
    }
    let format = u32::from_le_bytes(input.array().map_err(short)?);
    if format > FORMAT {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            what: "format",
            found: format,
            supported: FORMAT,
        });
    }
    let encoded = input.bytes(64 << 10).map_err(short)?;
    let manifest = Manifest::decode(&encoded).ok_or_else(|| bad("its head does not read back"))?;
    let mut sums = Sums::default();
    loop {
        let [id] = input.array().map_err(short)?;
        if id == 0 {
            break;
        }
        let tree = Tree::from_id(id).ok_or_else(|| bad("a record of an unknown tree"))?;
        let key = input.bytes(MAX_KEY_BYTES).map_err(short)?;
        let value = input.bytes(MAX_VALUE_BYTES).map_err(short)?;
        sums.add(tree, &key, &value);
        visit(tree, key, value);
    }
    let hash = finish(input.context);
    let mut stored = [0; 32];
    input.inner.read_exact(&mut stored).map_err(short)?;
    if stored != hash {
        return Err(bad("its hash is another"));
    }
    if let Some(difference) = manifest.sums.difference(&sums) {
        return Err(bad(&difference));
    }
    if input.inner.read(&mut [0]).map_err(short)? != 0 {
        return Err(bad("something follows its end"));
    }
    Ok(manifest)
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    context: Context,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            context: Context::new(&SHA256),
        }
    }
}

impl<T: Write> Hashing<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.context.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Hashing<T> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.context.update(&bytes);
        Ok(bytes)
    }

    /// A length and the bytes; a length above the limit reads as the end of the file.
    fn bytes(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let len = usize::try_from(u32::from_le_bytes(self.array()?)).unwrap_or(usize::MAX);
        if len > limit {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes)?;
        self.context.update(&bytes);
        Ok(bytes)
    }
}
