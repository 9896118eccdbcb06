//! TLS that the proxy begins towards servers outside the mesh, from files that may change.
//!
//! Files are looked at when a connection is made, at most once a second, so nothing watches those of
//! clusters that nobody calls. What cannot be read stops the connection; what was good before is used
//! for a while longer, because the files of a pair are not replaced in one moment.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use crate::mesh::origination::{Asks, Named, Origination, Pem, Roots, Shown};
use crate::mesh::route::router::without_port;
use crate::mesh::{Cluster, Secret};
use crate::tls::outside::{Anchors, Believes, SYSTEM_ROOTS, outside_config};

use super::tls::Speak;

/// Files are looked at no more often.
const LOOK: Duration = Duration::from_secs(1);
/// For so long what was good is used in place of what cannot be read.
const GRACE: Duration = Duration::from_secs(10);
/// Larger files are no certificates.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// The texts of the secrets that a cluster names, as far as they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    shown: Option<Arc<Secret>>,
    roots: Option<Arc<Secret>>,
}

impl Texts {
    /// Those that `how` names of `secrets`; `None` where it names none.
    pub(crate) fn of(how: &Origination, secrets: &BTreeMap<String, Arc<Secret>>) -> Option<Self> {
        how.secrets().next()?;
        let text = |name: &str| secrets.get(name).cloned();
        Some(Self {
            shown: how.secret().and_then(text),
            roots: how.roots_secret().and_then(text),
        })
    }
}

/// What a cluster's connections are secured with.
#[derive(Debug)]
pub(crate) struct Originator {
    how: Origination,
    /// Where it names secrets of the view.
    texts: Option<Texts>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    /// Of each file; `None` of one that is not there.
    stamps: Vec<Option<Stamp>>,
    /// Made for what is spoken; `Err` says what is wrong with the files.
    made: Option<Result<Made, String>>,
    /// Since when the files cannot be used.
    bad: Option<Instant>,
}

type Made = BTreeMap<Speak, Arc<ClientConfig>>;

/// What changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let found = fs::metadata(path).ok()?;
        Some(Self {
            modified: found.modified().ok(),
            length: found.len(),
            inode: found.ino(),
        })
    }
}

impl Originator {
    /// As `how` says, with the texts of the secrets that it names.
    pub(crate) fn new(how: &Origination, texts: Option<Texts>) -> Arc<Self> {
        Arc::new(Self {
            how: how.clone(),
            texts,
            state: Mutex::default(),
        })
    }

    /// What a connection that is to speak `speak` is made with, and whom it asks for: `requested` is
    /// the authority of the request that it is for.
    pub(crate) fn secure(
        &self,
        cluster: &Cluster,
        (requested, address): (Option<&[u8]>, IpAddr),
        speak: Speak,
        now: Instant,
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
        let name = self.name(cluster, requested, address)?;
        Ok((self.client(speak, now)?, name))
    }

    /// An address is never sent, so it stands for no name at all.
    fn name(
        &self,
        cluster: &Cluster,
        requested: Option<&[u8]>,
        address: IpAddr,
    ) -> Result<ServerName<'static>, String> {
        let nobody = || ServerName::IpAddress(address.into());
        let host = match &self.how.asks {
            Asks::Name(name) if name.is_empty() => return Ok(nobody()),
            Asks::Name(name) => name.as_str(),
            Asks::Requested => {
                let requested = requested.map(without_port);
                let requested = requested.and_then(|host| std::str::from_utf8(host).ok());
                let service = cluster.service.as_ref().map(|own| own.host.as_str());
                let known = requested.or(service.filter(|host| !host.starts_with('*')));
                let strict = self
                    .how
                    .verify
                    .as_ref()
                    .is_some_and(|verify| verify.names == Named::Asked);
                match known {
                    Some(host) => host.trim_matches(['[', ']']),
                    None if strict => {
                        return Err("nothing says whom the certificate should name".to_owned());
                    }
                    None => return Ok(nobody()),
                }
            }
        };
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no server name"))
    }

    fn client(&self, speak: Speak, now: Instant) -> Result<Arc<ClientConfig>, String> {
        // Nothing under this lock leaves the state half changed.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK);
        if due {
            state.looked = Some(now);
            self.look(&mut state, now);
        }
        match &state.made {
            Some(Ok(made)) => made
                .get(&speak)
                .map(Arc::clone)
                .ok_or_else(|| "nothing was made for this protocol".to_owned()),
            Some(Err(error)) => Err(error.clone()),
            None => Err("its files were not read yet".to_owned()),
        }
    }

    fn look(&self, state: &mut State, now: Instant) {
        let stamps: Vec<_> = self.files().iter().map(|path| Stamp::of(path)).collect();
        if state.made.is_some() && stamps == state.stamps && state.bad.is_none() {
            return;
        }
        state.stamps = stamps;
        match self.make() {
            Ok(made) => {
                state.made = Some(Ok(made));
                state.bad = None;
            }
            Err(error) => {
                if state.bad.is_none() {
                    tracing::warn!(%error, "cannot secure connections to servers outside the mesh");
                }
                let since = *state.bad.get_or_insert(now);
                let spared = now.saturating_duration_since(since) < GRACE;
                if !(spared && matches!(state.made, Some(Ok(_)))) {
                    state.made = Some(Err(error));
                }
            }
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let texts = self.how.texts().filter_map(|text| match text {
            Pem::File(path) => Some(PathBuf::from(path)),
            Pem::Inline(_) => None,
        });
        let system = self
            .how
            .verify
            .as_ref()
            .filter(|verify| verify.roots == Roots::System)
            .and_then(|_| system_file(&SYSTEM_ROOTS));
        texts.chain(system).collect()
    }

    fn make(&self) -> Result<Made, String> {
        let verify = self.how.verify.as_ref();
        let texts = self.texts.as_ref();
        let given = texts.and_then(|texts| texts.roots.as_deref());
        let anchors = verify
            .map(|verify| anchors(&verify.roots, given))
            .transpose()?;
        let revoked = verify.and_then(|verify| verify.revoked.as_ref());
        let mut revoked = revoked.map(|list| text(list, "caCrl")).transpose()?;
        if let Some(Secret::Roots { crl, .. }) = given.filter(|_| verify.is_some())
            && !crl.is_empty()
        {
            revoked.get_or_insert_default().push_str(crl);
        }
        let shown = texts.and_then(|texts| texts.shown.as_deref());
        let pair = match (&self.how.certificate, shown) {
            (None, _) => None,
            (Some(Shown::Pair(pair)), _) => {
                let chain = text(&pair.chain, "client certificate")?;
                Some((chain, text(&pair.key, "private key")?))
            }
            (Some(Shown::Secret(_)), Some(Secret::Certificate { chain, key, .. })) => {
                Some((chain.clone(), key.clone()))
            }
            (Some(Shown::Secret(name)), _) => {
                return Err(format!("there is no credential {name} to show"));
            }
        };
        let shows = pair.as_ref();
        let shows = shows.map(|(chain, key)| (chain.as_str(), key.as_str()));
        [Speak::Http1, Speak::Http2, Speak::Http, Speak::Bytes]
            .into_iter()
            .map(|speak| {
                let believes = verify
                    .zip(anchors.clone())
                    .map(|(verify, anchors)| Believes {
                        anchors,
                        revoked: revoked.clone(),
                        names: verify.names.clone(),
                    });
                outside_config(believes, shows, speak.alpn_outside())
                    .map(|config| (speak, config))
                    .map_err(|error| self.about(&error))
            })
            .collect()
    }

    /// Whether it was made with these.
    pub(crate) fn has(&self, texts: Option<&Texts>) -> bool {
        self.texts.as_ref() == texts
    }

    /// Which of the files an error may be of, as several are read together.
    fn about(&self, error: &crate::tls::Error) -> String {
        let files: Vec<String> = self
            .how
            .texts()
            .filter_map(|text| match text {
                Pem::File(path) => Some(path.clone()),
                Pem::Inline(_) => None,
            })
            .collect();
        let reason = crate::rt::chain(error);
        if files.is_empty() {
            return reason;
        }
        format!("{reason} ({})", files.join(", "))
    }
}

/// What tells connections for `name` from others to the same endpoint; a secret goes into it, so nobody
/// can find two names that agree.
pub(crate) fn fingerprint(name: &[u8], caller: Option<u64>) -> u64 {
    static SECRET: OnceLock<RandomState> = OnceLock::new();
    SECRET
        .get_or_init(RandomState::new)
        .hash_one((name, caller))
}

fn text(from: &Pem, what: &str) -> Result<String, String> {
    match from {
        Pem::Inline(text) => Ok(text.clone()),
        Pem::File(path) => read(Path::new(path)).map_err(|error| format!("{what}: {error}")),
    }
}

fn read(path: &Path) -> Result<String, String> {
    let told = |error: std::io::Error| format!("{}: {error}", path.display());
    if fs::metadata(path).map_err(told)?.len() > MOST_BYTES {
        return Err(format!("{} is too large", path.display()));
    }
    fs::read_to_string(path).map_err(told)
}

fn anchors(roots: &Roots, secret: Option<&Secret>) -> Result<Anchors, String> {
    let told = |error: &crate::tls::Error| crate::rt::chain(error);
    let given = match (roots, secret) {
        (Roots::System, _) => return system(&SYSTEM_ROOTS),
        (Roots::Given(given), _) => given,
        (Roots::Secret(name), Some(Secret::Roots { certificates, .. })) => {
            return Anchors::read(certificates)
                .map_err(|error| format!("{name}: {}", told(&error)));
        }
        (Roots::Secret(name), _) => {
            return Err(format!(
                "there is no credential {name} to hold servers against"
            ));
        }
    };
    let named = match given {
        Pem::File(path) => path.as_str(),
        Pem::Inline(_) => "roots",
    };
    Anchors::read(&text(given, "roots")?).map_err(|error| format!("{named}: {}", told(&error)))
}

fn system_file(among: &[&str]) -> Option<PathBuf> {
    let mut paths = among.iter().map(PathBuf::from);
    paths.find(|path| path.exists())
}

/// The machine's roots, which all clusters share.
fn system(among: &[&str]) -> Result<Anchors, String> {
    type Read = Option<(PathBuf, Option<Stamp>, Anchors)>;
    static KEPT: Mutex<Read> = Mutex::new(None);
    let path = system_file(among)
        .ok_or_else(|| format!("this machine has no roots: {}", among.join(", ")))?;
    let stamp = Stamp::of(&path);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, at, anchors)) = &*kept
        && (of, at) == (&path, &stamp)
    {
        return Ok(anchors.clone());
    }
    let anchors = Anchors::read_some(&read(&path)?)
        .map_err(|error| format!("{}: {}", path.display(), crate::rt::chain(&error)))?;
    *kept = Some((path, stamp, anchors.clone()));
    Ok(anchors)
}
