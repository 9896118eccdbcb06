//! The authority's files, and the steps in which its root is replaced.
//!
//! | files in the directory | phase | who signs | who is believed |
//! |---|---|---|---|
//! | `root-cert.pem`, `ca-key.pem` | steady | it | it |
//! | and `next-root-cert.pem`, `next-ca-key.pem` | introduced | the first | both |
//! | `root-cert.pem`, `ca-key.pem`, `old-root-cert.pem`, `old-crl.pem` | replaced | the new one | both |
//!
//! So the files say where a replacement stands, and each step can be taken again after a crash. The old
//! key is gone once the new one signs, so what is revoked after that of what it signed stands in no list; those
//! certificates end with the rotation.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::identity::RotationPhase;
use crate::rt::UnixMillis;
use crate::rt::disk::{private_dir, sync_dir, write_private};
use crate::tls::{self, Authority, KeyType, Passphrase, Plugged};

use zeroize::Zeroizing;

use super::signer::SignerOptions;
use super::trust::TrustError;

/// The signing certificate, with what leads to its root, and its key.
const CURRENT: (&str, &str) = ("root-cert.pem", "ca-key.pem");
const NEXT: (&str, &str) = ("next-root-cert.pem", "next-ca-key.pem");
const OLD: &str = "old-root-cert.pem";
/// What the old key signed last.
const OLD_LIST: &str = "old-crl.pem";

/// What the directory holds.
#[derive(Debug)]
pub(super) struct Held {
    /// It signs, and names the other root that is believed.
    pub(super) authority: Authority,
    /// Signs for the other root.
    other: Other,
    /// How far a replacement has come.
    pub(super) phase: RotationPhase,
}

#[derive(Debug)]
enum Other {
    None,
    Next(Box<Authority>),
    /// The last list of a root whose key is gone, or those of an outside signer.
    Old(String),
}

impl Held {
    /// Lists of what is revoked (serial number and since when), one for each root, as PEM.
    pub(super) fn lists(
        &self,
        revoked: &[(String, UnixMillis)],
        number: u64,
        now: UnixMillis,
    ) -> Result<String, tls::Error> {
        let list = |authority: &Authority| authority.revocation_list(revoked, number, now);
        let own = if self.authority.is_elsewhere() {
            String::new()
        } else {
            list(&self.authority)?
        };
        Ok(own
            + &match &self.other {
                Other::None => String::new(),
                Other::Next(next) => list(next)?,
                Other::Old(list) => list.clone(),
            })
    }
}

/// How the authority is kept, and which one it is.
#[derive(Debug, Clone, Default)]
pub struct CaOptions {
    /// Of keys that are made here.
    pub key_type: KeyType,
    /// The signing key is under it on the disk.
    pub passphrase: Option<Passphrase>,
    /// A directory with `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` and `root-cert.pem` that signs in place of
    /// an own root.
    pub plugged: Option<PathBuf>,
    /// Signs in place of any key here.
    pub signer: Option<SignerOptions>,
    /// Accounts (namespace and name) that may have certificates signed for anybody: control planes whose signer this
    /// one is.
    pub trusted: Vec<(String, String)>,
}

/// A directory with an authority in it.
#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
    trust_domain: String,
    options: CaOptions,
}

impl Files {
    pub(super) fn new(dir: &Path, trust_domain: &str, options: &CaOptions) -> Self {
        Self {
            dir: options.plugged.as_deref().unwrap_or(dir).to_owned(),
            trust_domain: trust_domain.to_owned(),
            options: options.clone(),
        }
    }

    /// Whether the authority is kept by others.
    pub(super) fn plugged(&self) -> bool {
        self.options.plugged.is_some() || self.options.signer.is_some()
    }

    /// Whether an outside signer has the key.
    pub(super) fn external(&self) -> bool {
        self.options.signer.is_some()
    }

    /// What was plugged in, as it is now.
    pub(super) fn texts(&self) -> Result<Plugged, TrustError> {
        if let Some(signer) = &self.options.signer {
            return Ok(Plugged {
                certificate: String::new(),
                key: String::new(),
                chain: match &signer.lists {
                    Some(lists) => read(lists)?,
                    None => String::new(),
                },
                roots: read(&signer.roots)?,
            });
        }
        let chain = match self.text("cert-chain.pem") {
            // A root that signs itself needs none.
            Err(TrustError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                String::new()
            }
            chain => chain?,
        };
        Ok(Plugged {
            certificate: self.text("ca-cert.pem")?,
            key: self.text("ca-key.pem")?,
            chain,
            roots: self.text("root-cert.pem")?,
        })
    }

    /// The authority that is there; one that is made where there is none.
    pub(super) fn open(&self, now: UnixMillis) -> Result<Held, TrustError> {
        if let Some(signer) = &self.options.signer {
            let of = |path: &Path, error: tls::Error| TrustError::Authority {
                path: path.to_owned(),
                source: Box::new(error),
            };
            let texts = self.texts()?;
            let roots = tls::material::certificates(&texts.roots);
            let authority = roots.and_then(|roots| Authority::elsewhere(&self.trust_domain, roots));
            if let Some(path) = &signer.lists {
                tls::Revoked::from_pem(&texts.chain).map_err(|error| of(path, error))?;
            }
            return Ok(Held {
                authority: authority.map_err(|error| of(&signer.roots, error))?,
                other: Other::Old(texts.chain.clone()),
                phase: RotationPhase::Steady,
            });
        }
        if self.plugged() {
            let passphrase = self.options.passphrase.as_ref();
            let authority = self.texts()?.authority(&self.trust_domain, passphrase, now);
            return Ok(Held {
                authority: authority.map_err(|error| self.wrong(error))?,
                other: Other::None,
                phase: RotationPhase::Steady,
            });
        }
        private_dir(&self.dir).map_err(|error| self.failed("", error))?;
        if !self.has(CURRENT.1) {
            self.make(CURRENT, now)?;
        }
        if self.has(OLD) {
            self.promote()?;
        }
        let current = self.read(CURRENT)?;
        if self.has(OLD) {
            let old = tls::material::certificates(&self.text(OLD)?);
            return Ok(Held {
                authority: current.believing(old.map_err(|error| self.wrong(error))?),
                other: Other::Old(self.text(OLD_LIST)?),
                phase: RotationPhase::Replaced,
            });
        }
        if self.has(NEXT.1) {
            let next = self.read(NEXT)?;
            return Ok(Held {
                authority: current.believing(vec![next.root().clone()]),
                other: Other::Next(Box::new(next)),
                phase: RotationPhase::Introduced,
            });
        }
        Ok(Held {
            authority: current,
            other: Other::None,
            phase: RotationPhase::Steady,
        })
    }

    /// Makes the next root, which is believed from now on.
    pub(super) fn introduce(&self, now: UnixMillis) -> Result<(), TrustError> {
        self.make(NEXT, now)
    }

    /// Has the next root sign. The old one signs a last list of what is revoked.
    pub(super) fn replace(
        &self,
        revoked: &[(String, UnixMillis)],
        number: u64,
        now: UnixMillis,
    ) -> Result<(), TrustError> {
        let current = self.read(CURRENT)?;
        let list = current.revocation_list(revoked, number, now);
        let list = list.map_err(|error| self.wrong(error))?;
        write_private(&self.dir.join(OLD_LIST), list.as_bytes())
            .map_err(|error| self.failed(OLD_LIST, error))?;
        let old = current.root_pem();
        // From here on `open` finishes what a crash leaves undone.
        write_private(&self.dir.join(OLD), old.as_bytes())
            .map_err(|error| self.failed(OLD, error))?;
        self.promote()
    }

    /// Believes the old root no more.
    pub(super) fn finish(&self) -> Result<(), TrustError> {
        self.remove(OLD)?;
        self.remove(OLD_LIST)
    }

    /// Forgets the next root, which has signed nothing yet.
    pub(super) fn abandon(&self) -> Result<(), TrustError> {
        self.remove(NEXT.1)?;
        self.remove(NEXT.0)
    }

    /// Puts the next root in the current one's place, as far as that was not done.
    fn promote(&self) -> Result<(), TrustError> {
        for (next, current) in [(NEXT.0, CURRENT.0), (NEXT.1, CURRENT.1)] {
            if self.has(next) {
                fs::rename(self.dir.join(next), self.dir.join(current))
                    .and_then(|()| sync_dir(&self.dir))
                    .map_err(|error| self.failed(next, error))?;
            }
        }
        Ok(())
    }

    fn make(&self, (certificate, key): (&str, &str), now: UnixMillis) -> Result<(), TrustError> {
        let made = Authority::generate_with(&self.trust_domain, self.options.key_type, now);
        let made = made.map_err(|e| self.wrong(e))?;
        let (chain_pem, key_pem) = match &self.options.passphrase {
            None => made.to_pem(),
            Some(passphrase) => made.to_sealed_pem(passphrase).map_err(|e| self.wrong(e))?,
        };
        let key_pem = Zeroizing::new(key_pem);
        // The key is written last: it is what says that the two are there.
        for (name, text) in [(certificate, &chain_pem), (key, &*key_pem)] {
            write_private(&self.dir.join(name), text.as_bytes())
                .map_err(|error| self.failed(name, error))?;
        }
        Ok(())
    }

    fn read(&self, (certificate, key): (&str, &str)) -> Result<Authority, TrustError> {
        let text = Zeroizing::new(self.text(key)?);
        let passphrase = self.options.passphrase.as_ref();
        let read = Authority::from_sealed_pem(
            &self.trust_domain,
            &self.text(certificate)?,
            &text,
            passphrase,
        );
        let read = read.map_err(|error| self.wrong(error))?;
        if let Some(passphrase) = passphrase
            && !tls::is_sealed(&text)
        {
            // It was made before there was a passphrase.
            let (_, sealed) = read.to_sealed_pem(passphrase).map_err(|e| self.wrong(e))?;
            write_private(&self.dir.join(key), sealed.as_bytes())
                .map_err(|error| self.failed(key, error))?;
        }
        Ok(read)
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn text(&self, name: &str) -> Result<String, TrustError> {
        fs::read_to_string(self.dir.join(name)).map_err(|error| self.failed(name, error))
    }

    fn remove(&self, name: &str) -> Result<(), TrustError> {
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed(name, error));
            }
            _ => {}
        }
        sync_dir(&self.dir).map_err(|error| self.failed(name, error))
    }

    fn failed(&self, name: &str, source: io::Error) -> TrustError {
        TrustError::File {
            path: self.dir.join(name),
            source,
        }
    }

    fn wrong(&self, error: tls::Error) -> TrustError {
        TrustError::Authority {
            path: self.dir.clone(),
            source: Box::new(error),
        }
    }
}

fn read(path: &Path) -> Result<String, TrustError> {
    fs::read_to_string(path).map_err(|source| TrustError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;

    fn prints(held: &Held) -> (RotationPhase, Vec<String>) {
        let roots = held.authority.roots();
        (held.phase, roots.iter().map(tls::fingerprint).collect())
    }

    #[test]
    fn a_root_is_introduced_then_signs_then_is_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "cluster.local", &CaOptions::default());
        let (_, first) = prints(&files.open(NOW).unwrap());
        files.introduce(NOW).unwrap();
        let (phase, both) = prints(&files.open(NOW).unwrap());
        assert_eq!((phase, &both[0]), (RotationPhase::Introduced, &first[0]));
        files.replace(&[], 1, NOW).unwrap();
        let (phase, after) = prints(&files.open(NOW).unwrap());
        assert_eq!(phase, RotationPhase::Replaced);
        assert_eq!(after, [both[1].clone(), both[0].clone()]);
        files.finish().unwrap();
        let steady = (RotationPhase::Steady, vec![both[1].clone()]);
        assert_eq!(prints(&files.open(NOW).unwrap()), steady);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_crash_left_half_done_is_finished_and_what_was_begun_can_be_abandoned() {
        for renamed in 0..=2 {
            let dir = tempfile::tempdir().unwrap();
            let files = Files::new(dir.path(), "cluster.local", &CaOptions::default());
            files.open(NOW).unwrap();
            files.introduce(NOW).unwrap();
            let (_, both) = prints(&files.open(NOW).unwrap());
            let at = |name| dir.path().join(name);
            fs::copy(at(CURRENT.0), at(OLD)).unwrap();
            fs::write(at(OLD_LIST), "").unwrap();
            for (next, current) in [(NEXT.0, CURRENT.0), (NEXT.1, CURRENT.1)]
                .iter()
                .take(renamed)
            {
                fs::rename(at(next), at(current)).unwrap();
            }
            let (phase, after) = prints(&files.open(NOW).unwrap());
            assert_eq!(phase, RotationPhase::Replaced, "{renamed}");
            assert_eq!(after, [both[1].clone(), both[0].clone()]);
        }
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path(), "cluster.local", &CaOptions::default());
        let before = prints(&files.open(NOW).unwrap());
        files.introduce(NOW).unwrap();
        files.abandon().unwrap();
        assert_eq!(prints(&files.open(NOW).unwrap()), before);
    }
}
