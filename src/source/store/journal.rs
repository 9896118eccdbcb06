//! The journal: what was committed, outside sled, each record holding the hash of the one before.
//!
//! ```text
//! header   MAGIC 16 | format u32 | manifest length u32, manifest | SHA-256 of all before
//! record   MAGIC 8 | length u32 | hash of the record before 32 | body | SHA-256 of all before
//! body     manifest length u32, manifest | count u32 | writes: tree u8, kind u8, key, value
//! ```
//!
//! One record is one group of commits, and the next is written only when this one is on the disk.
//! So a bad record with a good one behind it is damage, and a bad record at the end is what a
//! crash leaves of a commit that nobody was told about.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::coding::{Cursor, Hash, length, put_bytes, sha256};
use super::error::{StoreError, is_full};
use super::manifest::Manifest;
use super::{Tree, Write, disk};

const HEADER: &[u8; 16] = b"meshctl-journal\n";
const RECORD: &[u8; 8] = b"\x8fMeshRec";
/// The format of journals and snapshots.
pub(super) const FORMAT: u32 = 1;
/// Start of a record up to its body.
const RECORD_HEAD: usize = 8 + 4 + 32;
const HASH: usize = 32;

/// A journal open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    pub(super) len: u64,
    pub(super) records: u64,
}

/// Why a record was not appended.
#[derive(Debug)]
pub(super) enum AppendFault {
    /// No space; the journal is as before.
    Full(io::Error),
    /// Something else: what is on the disk is not known.
    Unknown(StoreError),
}

impl Journal {
    /// A new journal that continues from `base`.
    pub(super) fn create(dir: &Path, base: &Manifest) -> Result<Self, StoreError> {
        let path = disk_name(dir, base.revision);
        let temporary = path.with_extension("tmp");
        let header = encode_header(base);
        let io = |what, e| StoreError::io(what, &path, e);
        let mut file = disk::create_private(&temporary).map_err(|e| io("create", e))?;
        file.write_all(&header)
            .and_then(|()| file.sync_all())
            .map_err(|e| io("write", e))?;
        disk::publish(&temporary, &path)?;
        Self::append_to(&path, u64::try_from(header.len()).unwrap_or(u64::MAX), 0)
    }

    /// Continues a journal behind its last good record; what lies behind is cut off.
    pub(super) fn append_to(path: &Path, len: u64, records: u64) -> Result<Self, StoreError> {
        let io = |what, e| StoreError::io(what, path, e);
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .map_err(|e| io("open", e))?;
        if file.metadata().map_err(|e| io("read", e))?.len() != len {
            file.set_len(len).map_err(|e| io("cut", e))?;
        }
        // Also for a process that died between write and sync: what was read is then on the disk.
        file.sync_all().map_err(|e| io("sync", e))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            records,
        })
    }

    /// Appends one record and waits until it would survive a power cut.
    pub(super) fn append(&mut self, record: &[u8]) -> Result<(), AppendFault> {
        if let Err(error) = self.file.write_all(record) {
            // Half a record reads as none, so after cutting it off the write was not done.
            return Err(match self.file.set_len(self.len) {
                Ok(()) if is_full(&error) => AppendFault::Full(error),
                _ => AppendFault::Unknown(super::engine::unknown(
                    "append to the journal",
                    Some(error),
                )),
            });
        }
        if let Err(error) = self.file.sync_data() {
            // After a failed sync the cache may show what the disk does not have. Cut it off, so
            // that reopening does not take it for durable.
            if let Err(cut) = self.file.set_len(self.len) {
                tracing::warn!(%cut, path = %self.path.display(), "journal keeps a doubtful record");
            }
            return Err(AppendFault::Unknown(super::engine::unknown(
                "sync the journal",
                Some(error),
            )));
        }
        self.len += u64::try_from(record.len()).unwrap_or(u64::MAX);
        self.records += 1;
        Ok(())
    }
}

/// The file of the journal that starts at a revision.
pub(super) fn disk_name(dir: &Path, revision: u64) -> PathBuf {
    dir.join(format!("journal.{revision:020}"))
}

fn encode_header(base: &Manifest) -> Vec<u8> {
    let mut out = HEADER.to_vec();
    out.extend_from_slice(&FORMAT.to_le_bytes());
    put_bytes(&mut out, &base.encode());
    let hash = sha256(&[&out]);
    out.extend_from_slice(&hash);
    out
}

/// One record, and the manifest with the hash that the record gave it.
pub(super) fn encode_record<'a>(
    prev: &Hash,
    mut manifest: Manifest,
    writes: impl ExactSizeIterator<Item = &'a Write>,
) -> (Vec<u8>, Manifest) {
    // The record's own hash cannot be inside it.
    manifest.chain = [0; 32];
    let mut body = Vec::new();
    put_bytes(&mut body, &manifest.encode());
    body.extend_from_slice(&length(writes.len()));
    for write in writes {
        body.push(write.tree.id());
        body.push(u8::from(write.value.is_some()));
        put_bytes(&mut body, &write.key);
        if let Some(value) = &write.value {
            put_bytes(&mut body, value);
        }
    }
    let mut out = Vec::with_capacity(RECORD_HEAD + body.len() + HASH);
    out.extend_from_slice(RECORD);
    out.extend_from_slice(&length(body.len()));
    out.extend_from_slice(prev);
    out.extend_from_slice(&body);
    let hash = sha256(&[&out]);
    out.extend_from_slice(&hash);
    manifest.chain = hash;
    (out, manifest)
}

fn decode_body(body: &[u8], chain: Hash) -> Option<(Manifest, Vec<Write>)> {
    let mut cursor = Cursor::new(body);
    let mut manifest = Manifest::decode(cursor.bytes()?)?;
    manifest.chain = chain;
    let count = cursor.u32()?;
    let mut writes = Vec::new();
    for _ in 0..count {
        let tree = Tree::from_id(cursor.u8()?)?;
        let kind = cursor.u8()?;
        let key = cursor.bytes()?.to_vec();
        let value = match kind {
            0 => None,
            1 => Some(cursor.bytes()?.to_vec()),
            _ => return None,
        };
        writes.push(Write { tree, key, value });
    }
    cursor.is_empty().then_some((manifest, writes))
}

/// One record as read back, without its writes.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where it starts in the file.
    offset: usize,
    pub(super) prev: Hash,
    /// The store after it.
    pub(super) manifest: Manifest,
}

/// A stretch of a journal that does not read.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    pub(super) offset: usize,
    pub(super) what: String,
    /// Good records behind it; empty at a torn end.
    pub(super) after: Vec<Entry>,
}

/// A journal as read back.
pub(super) struct Scan {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
    /// Where it continues from; `None` when the header is damaged.
    pub(super) base: Option<Manifest>,
    /// Good records from the start.
    pub(super) entries: Vec<Entry>,
    /// Length of header and good records.
    pub(super) good_len: usize,
    pub(super) damage: Option<Damage>,
}

impl Scan {
    /// Reads a journal and says where it stops being good.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let bytes = fs::read(path).map_err(|e| StoreError::io("read", path, e))?;
        let header = decode_header(&bytes);
        if let Some(Header::Newer(found)) = header {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                what: "format",
                found,
                supported: FORMAT,
            });
        }
        let (base, mut at) = match header {
            Some(Header::Good(base, at)) => (Some(base), at),
            _ => (None, 0),
        };
        let mut entries = Vec::new();
        let mut damage = None;
        let mut chain = base.as_ref().map(|base| base.chain);
        while at < bytes.len() || base.is_none() {
            let found = read_record(&bytes, at);
            match (found, chain) {
                (Some((entry, next)), Some(prev)) if entry.prev == prev => {
                    chain = Some(entry.manifest.chain);
                    entries.push(entry);
                    at = next;
                }
                (found, chain) => {
                    let what = match (chain, found) {
                        (None, _) => "the header does not read back",
                        (_, Some(_)) => "a record does not follow from the one before",
                        (_, None) => "a record does not read back",
                    };
                    damage = Some(Damage {
                        offset: at,
                        what: what.to_owned(),
                        after: search(&bytes, at),
                    });
                    break;
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            base,
            entries,
            good_len: at,
            damage,
        })
    }

    /// Bytes behind the last good record.
    pub(super) fn torn_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.good_len)
    }

    /// The last point that the good part leads to.
    pub(super) fn head(&self) -> Option<&Manifest> {
        self.entries
            .last()
            .map(|entry| &entry.manifest)
            .or(self.base.as_ref())
    }

    /// The point before the last record.
    pub(super) fn before_head(&self) -> Option<&Manifest> {
        match self.entries.len() {
            0 => None,
            1 => self.base.as_ref(),
            n => self.entries.get(n - 2).map(|entry| &entry.manifest),
        }
    }

    /// The writes of a record.
    pub(super) fn writes(&self, entry: &Entry) -> Option<Vec<Write>> {
        let mut cursor = Cursor::new(self.bytes.get(entry.offset..)?);
        cursor.take(RECORD.len())?;
        let len = usize::try_from(cursor.u32()?).ok()?;
        cursor.hash()?;
        decode_body(cursor.take(len)?, entry.manifest.chain).map(|(_, writes)| writes)
    }
}

enum Header {
    Good(Manifest, usize),
    Newer(u32),
}

fn decode_header(bytes: &[u8]) -> Option<Header> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(HEADER.len())? != HEADER {
        return None;
    }
    let format = cursor.u32()?;
    let manifest = cursor.bytes()?;
    let len = HEADER.len() + 4 + 4 + manifest.len();
    if cursor.hash()? != sha256(&[bytes.get(..len)?]) {
        return None;
    }
    if format > FORMAT {
        return Some(Header::Newer(format));
    }
    Some(Header::Good(Manifest::decode(manifest)?, len + HASH))
}

/// The record at an offset, if its own hash holds, and where the next one starts.
fn read_record(bytes: &[u8], offset: usize) -> Option<(Entry, usize)> {
    let mut cursor = Cursor::new(bytes.get(offset..)?);
    if cursor.take(RECORD.len())? != RECORD {
        return None;
    }
    let len = usize::try_from(cursor.u32()?).ok()?;
    let prev = cursor.hash()?;
    let body = cursor.take(len)?;
    let hash = cursor.hash()?;
    let hashed = RECORD_HEAD + len;
    if sha256(&[bytes.get(offset..offset + hashed)?]) != hash {
        return None;
    }
    let (manifest, _) = decode_body(body, hash)?;
    let entry = Entry {
        offset,
        prev,
        manifest,
    };
    Some((entry, offset + hashed + HASH))
}

/// Good records anywhere behind a bad place.
fn search(bytes: &[u8], from: usize) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut at = from;
    while let Some(window) = bytes.get(at..at + RECORD.len()) {
        if window == RECORD
            && let Some((entry, next)) = read_record(bytes, at)
        {
            found.push(entry);
            at = next;
        } else {
            at += 1;
        }
    }
    found
}
