//! Certificates from files: read for a view that names them, and again when they change.
//!
//! Stands between who makes views and who builds tables, which know of texts only. A file that cannot
//! be read any more leaves what it said before in force; one that never could leaves its listener
//! without a certificate, which takes nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::mesh::credential::{CertificateSource, RootsSource};
use crate::mesh::{OwnTls, Secret, View};
use crate::rt::{Published, Reader, Tasks};

/// How often files are looked at (a rename under a mounted Secret is seen as soon).
const LOOK: Duration = Duration::from_secs(1);
/// Larger files are no certificates.
const MOST_BYTES: u64 = 1 << 20;

/// What stands in files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Files {
    Certificate(CertificateSource),
    Roots(RootsSource),
}

/// `views` with the texts of the files that they name.
pub(crate) fn stage(views: Reader<View>, tasks: &Tasks) -> Reader<View> {
    let mut known = BTreeMap::new();
    let first = views.load();
    let files = named(&first);
    look(&files, &mut known);
    let out = Published::new(View::default());
    out.publish(filled(&first, &known));
    let reader = out.reader();
    tasks.spawn("credentials", run(views, out, known));
    reader
}

async fn run(
    mut views: Reader<View>,
    out: Published<View>,
    mut known: BTreeMap<String, Arc<Secret>>,
) {
    let mut view = views.load();
    let mut files = named(&view);
    loop {
        tokio::select! {
            changed = views.changed() => {
                if !changed {
                    break;
                }
                view = views.load();
                files = named(&view);
                known.retain(|name, _| files.iter().any(|files| files.name() == *name));
                known = looked(&files, known).await.0;
                out.publish(filled(&view, &known));
            }
            () = tokio::time::sleep(LOOK), if !files.is_empty() => {
                let (now, news) = looked(&files, known).await;
                known = now;
                if news {
                    tracing::info!("certificates were read again");
                    out.publish(filled(&view, &known));
                }
            }
        }
    }
    // Nothing more comes; what is there stays as long as anybody reads it.
    std::future::pending::<()>().await;
}

/// Reading blocks, so elsewhere.
async fn looked(
    files: &BTreeSet<Files>,
    known: BTreeMap<String, Arc<Secret>>,
) -> (BTreeMap<String, Arc<Secret>>, bool) {
    if files.is_empty() {
        return (known, false);
    }
    let (files, before) = (files.clone(), known.clone());
    let looking = Tasks::blocking(move || {
        let mut known = known;
        let news = look(&files, &mut known);
        (known, news)
    });
    looking.await.unwrap_or((before, false))
}

fn look(files: &BTreeSet<Files>, known: &mut BTreeMap<String, Arc<Secret>>) -> bool {
    let mut news = false;
    for files in files {
        let name = files.name();
        match files.read() {
            Ok(secret) => {
                if known.get(&name).is_none_or(|had| **had != secret) {
                    known.insert(name, Arc::new(secret));
                    news = true;
                }
            }
            Err(error) if known.contains_key(&name) => {
                tracing::debug!(%name, %error, "a certificate cannot be read now; keeping what it was");
            }
            Err(error) => tracing::warn!(%name, %error, "a certificate cannot be read"),
        }
    }
    news
}

impl Files {
    fn name(&self) -> String {
        match self {
            Self::Certificate(source) => source.name(),
            Self::Roots(source) => source.name(),
        }
    }

    fn read(&self) -> io::Result<Secret> {
        match self {
            Self::Certificate(CertificateSource::Files { chain, key, staple }) => {
                Ok(Secret::Certificate {
                    chain: text(chain)?,
                    key: text(key)?,
                    staple: staple.as_deref().map_or(Ok(Vec::new()), bytes)?,
                })
            }
            Self::Roots(RootsSource::File { path, crl }) => Ok(Secret::Roots {
                certificates: text(path)?,
                crl: crl.as_deref().map_or(Ok(String::new()), text)?,
            }),
            Self::Certificate(CertificateSource::Secret(_))
            | Self::Roots(RootsSource::Secret(_)) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn text(path: &str) -> io::Result<String> {
    String::from_utf8(bytes(path)?)
        .map_err(|_| io::Error::other(format!("{path} is not text, and so no PEM")))
}

fn bytes(path: &str) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    if fs::metadata(path).map_err(named)?.len() > MOST_BYTES {
        return Err(io::Error::other(format!(
            "{path} is too large for a certificate"
        )));
    }
    fs::read(path).map_err(named)
}

/// The files that a view names.
fn named(view: &View) -> BTreeSet<Files> {
    let own = view
        .listeners
        .values()
        .flat_map(|listener| listener.chains.iter().chain(&listener.default_chain))
        .filter_map(|chain| chain.tls.as_ref()?.own.as_deref());
    let of = |own: &OwnTls| {
        let certificates = own.certificates.iter().cloned().map(Files::Certificate);
        let roots = own.clients.iter().map(|clients| clients.roots.clone());
        certificates
            .chain(roots.map(Files::Roots))
            .collect::<Vec<_>>()
    };
    own.flat_map(of)
        .filter(|files| {
            !matches!(
                files,
                Files::Certificate(CertificateSource::Secret(_))
                    | Files::Roots(RootsSource::Secret(_))
            )
        })
        .collect()
}

fn filled(view: &Arc<View>, known: &BTreeMap<String, Arc<Secret>>) -> Arc<View> {
    if known.is_empty() {
        return Arc::clone(view);
    }
    let mut filled = View::clone(view);
    let texts = known
        .iter()
        .map(|(name, secret)| (name.clone(), Arc::clone(secret)));
    filled.secrets.extend(texts);
    Arc::new(filled)
}
