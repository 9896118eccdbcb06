//! The roots that the control plane says are believed, and those that were before.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::mesh::{Secret, View};
use crate::rt::Reader;
use crate::rt::disk::write_private;
use crate::tls::material::{certificate_pem, certificates};
use crate::tls::{self, Revoked};
use crate::xds::encode::ROOTS;

use super::identity::MOST_ROOTS;

/// Roots that were believed, so that a pin of one of them still says which mesh a stored identity is of.
const FORMER: &str = "former-roots.pem";
/// Of so many rotations, the last.
const MOST_FORMER: usize = 64;

/// Roots, and what of them is revoked, as PEM.
pub(super) type Texts = (Arc<str>, Arc<str>);
/// What is told.
pub(super) type Told = watch::Receiver<Option<Texts>>;
/// What is believed, and what is not any more.
pub(super) type Believed = (Vec<CertificateDer<'static>>, Revoked);

fn read((roots, revoked): &Texts) -> Result<Believed, tls::Error> {
    Ok((certificates(roots)?, Revoked::from_pem(revoked)?))
}

/// Tells `to` the roots of each view that has some.
pub(super) async fn follow(mut views: Reader<View>, to: watch::Sender<Option<Texts>>) {
    loop {
        let view = views.load();
        if let Some(Secret::Roots { certificates, crl }) = view.secrets.get(ROOTS).map(|s| &**s) {
            to.send_if_modified(|told| {
                let texts = Some((certificates.as_str().into(), crl.as_str().into()));
                let news = *told != texts;
                *told = texts;
                news
            });
        }
        if !views.changed().await {
            return;
        }
    }
}

/// Waits until roots are told that were not told before. What cannot be read is reported and left.
pub(super) async fn told(roots: &mut Option<Told>) -> Believed {
    let Some(told) = roots else {
        return std::future::pending().await;
    };
    loop {
        if told.changed().await.is_err() {
            return std::future::pending().await;
        }
        let text = told.borrow_and_update().clone();
        match text.as_ref().map(read) {
            Some(Ok(believed)) if believed.0.len() <= MOST_ROOTS => return believed,
            Some(Ok((roots, _))) => {
                tracing::warn!(roots = roots.len(), "more roots than are believed at once");
            }
            Some(Err(error)) => tracing::warn!(%error, "the mesh's roots cannot be read"),
            None => {}
        }
    }
}

/// What was told last.
pub(super) fn latest(roots: Option<&Told>) -> Option<Believed> {
    let told = roots?.borrow().clone()?;
    read(&told).ok()
}

/// Roots that were believed once.
pub(super) fn former(dir: &Path) -> Vec<CertificateDer<'static>> {
    let text = std::fs::read_to_string(dir.join(FORMER)).unwrap_or_default();
    certificates(&text).unwrap_or_default()
}

/// Takes note of those of `before` that are not among `after`.
pub(super) fn remember(
    dir: &Path,
    before: &[CertificateDer<'static>],
    after: &[CertificateDer<'static>],
) -> Result<(), tls::Error> {
    let mut all = former(dir);
    let known = all.len();
    for root in before {
        if !after.contains(root) && !all.contains(root) {
            all.push(root.clone());
        }
    }
    if all.len() == known {
        return Ok(());
    }
    let last = all.get(all.len().saturating_sub(MOST_FORMER)..);
    let text: String = last
        .unwrap_or_default()
        .iter()
        .map(certificate_pem)
        .collect();
    let path = dir.join(FORMER);
    write_private(&path, text.as_bytes())
        .map_err(|source| tls::material::disk_error("write", &path, source))
}
