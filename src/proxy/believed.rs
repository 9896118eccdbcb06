//! The roots that the control plane says are believed, and those that were before.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::mesh::{Secret, View};
use crate::rt::Reader;
use crate::rt::disk::write_private;
use crate::tls;
use crate::tls::material::{certificate_pem, certificates};
use crate::xds::encode::ROOTS;

use super::identity::MOST_ROOTS;

/// Roots that were believed, so that a pin of one of them still says which mesh a stored identity is of.
const FORMER: &str = "former-roots.pem";
/// Of so many rotations, the last.
const MOST_FORMER: usize = 64;

/// What is told, as PEM.
pub(super) type Told = watch::Receiver<Option<Arc<str>>>;

/// Tells `to` the roots of each view that has some.
pub(super) async fn follow(mut views: Reader<View>, to: watch::Sender<Option<Arc<str>>>) {
    loop {
        let view = views.load();
        if let Some(Secret::Roots { certificates, .. }) = view.secrets.get(ROOTS).map(|s| &**s) {
            to.send_if_modified(|told| {
                let news = told.as_deref() != Some(certificates);
                if news {
                    *told = Some(certificates.as_str().into());
                }
                news
            });
        }
        if !views.changed().await {
            return;
        }
    }
}

/// Waits until roots are told that were not told before. What cannot be read is reported and left.
pub(super) async fn told(roots: &mut Option<Told>) -> Vec<CertificateDer<'static>> {
    let Some(told) = roots else {
        return std::future::pending().await;
    };
    loop {
        if told.changed().await.is_err() {
            return std::future::pending().await;
        }
        let text = told.borrow_and_update().clone();
        match text.as_deref().map(certificates) {
            Some(Ok(roots)) if roots.len() <= MOST_ROOTS => return roots,
            Some(Ok(roots)) => {
                tracing::warn!(roots = roots.len(), "more roots than are believed at once");
            }
            Some(Err(error)) => tracing::warn!(%error, "the mesh's roots cannot be read"),
            None => {}
        }
    }
}

/// What was told last.
pub(super) fn latest(roots: Option<&Told>) -> Option<Vec<CertificateDer<'static>>> {
    let told = roots?.borrow().clone()?;
    certificates(&told).ok()
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
