//! The audit log: what became of certificates, join tokens and the root, a JSON object a line.
//!
//! Owns the files. What was given out is on the disk before anybody has it: [`Audit::append`] returns after
//! fsync. Refusals are kept apart and not waited for, so that a stranger who asks again and again neither
//! pushes out what matters nor keeps the disk busy. Both kinds are bounded: full files are renamed, the
//! oldest one goes.
//!
//! Where it cannot be written, nothing is given out: a full disk stops certificates and tokens, not traffic. A
//! file that was taken away is made anew, with a word in the log of the process.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::ca::{Caller, Outcome, Record};
use crate::api::identity::{AuditEntry, AuditEvent};
use crate::rt::UnixMillis;
use crate::rt::disk::{private_dir, sync_dir};

/// Bytes of one file of what was given out; about 50,000 certificates.
const GIVEN_BYTES: u64 = 16 << 20;
/// Full files of that beside the one that grows.
const GIVEN_FILES: u32 = 7;
/// The same of refusals.
const REFUSED_BYTES: u64 = 4 << 20;
const REFUSED_FILES: u32 = 1;
/// Longer texts are cut: what a stranger sends must not fill a file by itself.
const LONGEST_TEXT: usize = 512;

/// The log of one mesh.
#[derive(Debug)]
pub struct Audit {
    logs: Mutex<Logs>,
}

#[derive(Debug)]
struct Logs {
    given: Log,
    refused: Log,
}

/// One growing file with the full ones before it.
#[derive(Debug)]
struct Log {
    dir: PathBuf,
    name: &'static str,
    most: u64,
    kept: u32,
    file: File,
    size: u64,
    /// The last line may be half a line.
    torn: bool,
}

impl Audit {
    /// Opens the log in `dir`, which is made when it is missing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        private_dir(dir)?;
        let logs = Logs {
            given: Log::open(dir, "audit", GIVEN_BYTES, GIVEN_FILES)?,
            refused: Log::open(dir, "refused", REFUSED_BYTES, REFUSED_FILES)?,
        };
        sync_dir(dir)?;
        Ok(Self {
            logs: Mutex::new(logs),
        })
    }

    /// Adds `entries`; those of what was given out are durable when it returns. Blocks on the disk.
    pub fn append(&self, entries: &[AuditEntry]) -> io::Result<()> {
        let (refused, given): (Vec<_>, Vec<_>) =
            entries.iter().partition(|entry| entry.event.refused());
        // What a failed write leaves behind is marked, so a panic leaves nothing that is not known.
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if !refused.is_empty() {
            logs.refused.append(&lines(&refused)?, false)?;
        }
        if !given.is_empty() {
            logs.given.append(&lines(&given)?, true)?;
        }
        Ok(())
    }

    /// The newest `most` entries not older than `since`, oldest first. Blocks on the disk.
    pub fn read(&self, since: UnixMillis, most: usize) -> io::Result<Vec<AuditEntry>> {
        let files: Vec<Vec<PathBuf>> = {
            let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            vec![logs.given.paths(), logs.refused.paths()]
        };
        let mut all = Vec::new();
        for log in files {
            let mut last = VecDeque::new();
            for path in log {
                let file = match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    file => file?,
                };
                for line in BufReader::new(file).split(b'\n') {
                    // A crash may have left half a line.
                    let Ok(entry) = serde_json::from_slice::<AuditEntry>(&line?) else {
                        continue;
                    };
                    if entry.at_unix_ms >= since {
                        if last.len() == most {
                            last.pop_front();
                        }
                        last.push_back(entry);
                    }
                }
            }
            all.extend(last);
        }
        all.sort_by_key(|entry| entry.at_unix_ms);
        let surplus = all.len().saturating_sub(most);
        all.drain(..surplus);
        Ok(all)
    }
}

fn lines(entries: &[&AuditEntry]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut entry = (*entry).clone();
        for text in [&mut entry.identity, &mut entry.by, &mut entry.detail] {
            if text.len() > LONGEST_TEXT {
                let end = text.floor_char_boundary(LONGEST_TEXT);
                text.truncate(end);
                text.push('…');
            }
        }
        serde_json::to_writer(&mut bytes, &entry)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

impl Log {
    fn open(dir: &Path, name: &'static str, most: u64, kept: u32) -> io::Result<Self> {
        let file = file_of(&dir.join(format!("{name}.jsonl")))?;
        let size = file.metadata()?.len();
        Ok(Self {
            dir: dir.to_owned(),
            name,
            most,
            kept,
            file,
            size,
            torn: size > 0,
        })
    }

    fn append(&mut self, lines: &[u8], durable: bool) -> io::Result<()> {
        self.find()?;
        let more = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(more) > self.most {
            self.turn()?;
        }
        let mut bytes = Vec::with_capacity(lines.len() + 1);
        if self.torn {
            // An empty line is no entry; half a line before this one would spoil it.
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(lines);
        self.torn = true;
        self.file.write_all(&bytes)?;
        if durable {
            self.file.sync_data()?;
        }
        self.torn = false;
        self.size = self.size.saturating_add(more);
        Ok(())
    }

    /// Makes the file anew where it was taken away: what goes into one without a name is lost.
    fn find(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let there = fs::metadata(self.path(0));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
            return Ok(());
        }
        tracing::error!(path = %self.path(0).display(), "the audit log was taken away; beginning a new one");
        private_dir(&self.dir)?;
        self.file = file_of(&self.path(0))?;
        sync_dir(&self.dir)?;
        self.size = self.file.metadata()?.len();
        self.torn = self.size > 0;
        Ok(())
    }

    /// Begins a new file.
    fn turn(&mut self) -> io::Result<()> {
        for number in (0..self.kept).rev() {
            match fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = file_of(&self.path(0))?;
        sync_dir(&self.dir)?;
        self.size = self.file.metadata()?.len();
        self.torn = self.size > 0;
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        let name = self.name;
        self.dir.join(match number {
            0 => format!("{name}.jsonl"),
            number => format!("{name}.{number}.jsonl"),
        })
    }

    /// All files, the oldest first.
    fn paths(&self) -> Vec<PathBuf> {
        (0..=self.kept).rev().map(|n| self.path(n)).collect()
    }
}

fn file_of(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// What the log says of a decision of the certificate service.
pub(super) fn entries(record: Record) -> Vec<AuditEntry> {
    let (token, by) = match record.caller {
        Caller::Token(id) => (id, "token".to_owned()),
        Caller::Certificate(id) => (String::new(), id.to_string()),
        Caller::ServiceAccount(account, pod) => {
            let pod = pod.map(|pod| format!(", pod {pod}")).unwrap_or_default();
            (String::new(), format!("service account {account}{pod}"))
        }
        Caller::Nobody => (String::new(), String::new()),
    };
    let entry = |event| AuditEntry {
        token: token.clone(),
        by: by.clone(),
        ..AuditEntry::new(record.at_ms, event)
    };
    match record.outcome {
        Outcome::Issued {
            id,
            serial,
            not_after_ms,
            signer,
        } => {
            let used = (!token.is_empty()).then(|| AuditEntry {
                identity: id.to_string(),
                ..entry(AuditEvent::TokenUsed)
            });
            let issued = AuditEntry {
                identity: id.to_string(),
                serial,
                detail: signer
                    .map(|signer| format!("signed by {signer}"))
                    .unwrap_or_default(),
                expires_unix_ms: not_after_ms,
                ..entry(AuditEvent::CertificateIssued)
            };
            used.into_iter().chain([issued]).collect()
        }
        Outcome::Refused { reason } => {
            let event = if token.is_empty() {
                AuditEvent::CertificateRefused
            } else {
                AuditEvent::TokenRefused
            };
            vec![AuditEntry {
                detail: reason,
                ..entry(event)
            }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: UnixMillis, event: AuditEvent) -> AuditEntry {
        AuditEntry {
            identity: format!("spiffe://cluster.local/ns/shop/sa/s{at}"),
            ..AuditEntry::new(at, event)
        }
    }

    fn times(audit: &Audit, since: UnixMillis, most: usize) -> Vec<UnixMillis> {
        let all = audit.read(since, most).unwrap();
        all.iter().map(|entry| entry.at_unix_ms).collect()
    }

    #[test]
    fn entries_outlive_a_restart_and_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        let issued = |at| entry(at, AuditEvent::CertificateIssued);
        audit.append(&[issued(1), issued(2)]).unwrap();
        audit.append(&[entry(3, AuditEvent::TokenRefused)]).unwrap();
        drop(audit);
        let path = dir.path().join("audit.jsonl");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"atUnixMs\":9,\"ev");
        fs::write(&path, text).unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        audit.append(&[issued(4)]).unwrap();
        assert_eq!(times(&audit, 0, 100), [1, 2, 3, 4]);
        assert_eq!(times(&audit, 3, 100), [3, 4]);
        assert_eq!(times(&audit, 0, 2), [3, 4]);
        assert_eq!(audit.read(4, 1).unwrap(), [issued(4)]);
    }

    #[test]
    fn the_log_is_bounded_and_strangers_push_out_nothing_but_strangers() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::open(dir.path()).unwrap();
        audit
            .append(&[entry(1, AuditEvent::CertificateIssued)])
            .unwrap();
        let mut refused = entry(2, AuditEvent::CertificateRefused);
        refused.detail = "x".repeat(1 << 20);
        for _ in 0..20_000 {
            audit.append(std::slice::from_ref(&refused)).unwrap();
        }
        let of = |name: &str| fs::metadata(dir.path().join(name)).map(|file| file.len());
        assert!(of("refused.jsonl").unwrap() <= REFUSED_BYTES);
        assert!(of("refused.1.jsonl").unwrap() <= REFUSED_BYTES);
        assert!(of("refused.2.jsonl").is_err());
        assert_eq!(times(&audit, 0, usize::MAX).first(), Some(&1));
    }
}
