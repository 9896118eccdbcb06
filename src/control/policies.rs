//! What an installation asks for besides what people apply: a mesh-wide STRICT, and files.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::index::{Edit, Index, Tolerance, refuse_errors};
use super::{ControlError, ControlOptions};
use crate::api::Problem;
use crate::api::resources::ApplyReport;
use crate::resource::{self, Key, Object};
use crate::source::files::{self, Texts, Watched};

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
        let texts = [("strict.yaml".to_owned(), text)].into();
        said(index.put_texts(texts, None).await);
    }
    for directory in &options.sources {
        // One that vanishes later leaves the last good configuration; one that never was is a typo.
        let texts = files::read(directory).map_err(|source| ControlError::Source {
            path: directory.clone(),
            source,
        })?;
        apply(index, directory, texts).await;
    }
    Ok(())
}

/// Applies what `directory` holds, or says why not. Objects of files that it holds no more go.
pub(super) async fn apply(index: &Index, directory: &Path, texts: Texts) {
    said(index.put_texts(texts, Some(directory)).await);
}

fn said(result: Result<ApplyReport, Problem>) {
    match result {
        Ok(report) => tracing::info!(revision = report.revision, "applied from files"),
        Err(problem) => {
            for finding in &problem.findings {
                tracing::error!(%finding, "refused");
            }
            tracing::error!(error = %problem.message, "the last good configuration stays");
        }
    }
}

impl Index {
    /// Applies `texts`, all of them or none. They are all that `directory` holds, so what was read from
    /// another file of it is removed.
    async fn put_texts(
        &self,
        texts: Texts,
        directory: Option<&Path>,
    ) -> Result<ApplyReport, Problem> {
        let mut put = Vec::new();
        let mut findings = Vec::new();
        for (name, text) in &texts {
            let (objects, found) = resource::parse(text, name, "default");
            put.extend(objects);
            findings.extend(found);
        }
        let (_, doubles) = resource::collect(put.clone());
        findings.extend(doubles);
        // A file may be half written, so nothing is removed by one that cannot be read.
        refuse_errors(&findings, Tolerance::Nothing)?;
        let warming = self.warm_keys(&put).await;
        let changed = {
            let mut state = self.state.lock().await;
            let there: BTreeSet<Key> = put.iter().map(Object::key).collect();
            let gone = state.objects.iter().filter(|(key, object)| {
                let file = object.origin.file.as_deref().unwrap_or_default();
                directory.is_some_and(|directory| Watched::holds(directory, file))
                    && !there.contains(*key)
            });
            let remove: Vec<Key> = gone.map(|(key, _)| key.clone()).collect();
            let edit = Edit {
                // What is left without its target fails closed, as after `meshctl delete`.
                tolerance: if remove.is_empty() {
                    Tolerance::Nothing
                } else {
                    Tolerance::References
                },
                put,
                remove,
                who: "files".to_owned(),
                what: "apply".to_owned(),
                dry_run: false,
            };
            self.change_in(&mut state, edit).await
        };
        self.warmed(warming).await;
        changed.map(|(report, _)| report)
    }
}
