//! What an installation asks for besides what people apply: a mesh-wide STRICT, and files.

use std::sync::Arc;

use super::index::Index;
use super::{ControlError, ControlOptions};
use crate::api::resources::{ApplyRequest, SourceText};
use crate::source::files;

/// Applies it.
pub(super) async fn start(
    index: &Arc<Index>,
    options: &ControlOptions,
) -> Result<(), ControlError> {
    if options.strict
        && index
            .objects("PeerAuthentication", None, Some("default"))
            .await
            .is_empty()
    {
        let text = include_str!("../../assets/strict.yaml").to_owned();
        apply(index, vec![("strict.yaml".to_owned(), text)]).await;
    }
    for directory in &options.sources {
        // One that vanishes later leaves the last good configuration; one that never was is a typo.
        let texts = files::read(directory).map_err(|source| ControlError::Source {
            path: directory.clone(),
            source,
        })?;
        apply(index, texts).await;
    }
    Ok(())
}

/// Applies these files, or says why not.
pub(super) async fn apply(index: &Index, texts: Vec<(String, String)>) {
    let sources = texts
        .into_iter()
        .map(|(name, text)| SourceText { name, text })
        .collect();
    let request = ApplyRequest {
        sources,
        namespace: "default".to_owned(),
        dry_run: false,
        force: false,
        who: "files".to_owned(),
    };
    match index.apply(request).await {
        Ok((report, _)) => tracing::info!(revision = report.revision, "applied from files"),
        Err(problem) => {
            for finding in &problem.findings {
                tracing::error!(%finding, "refused");
            }
            tracing::error!(error = %problem.message, "the last good configuration stays");
        }
    }
}
