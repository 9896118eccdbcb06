//! What configuration would mean, and change, if it were applied: the index's checks on objects that
//! it does not keep.

use std::sync::Arc;

use crate::api::analysis::{AnalysisReport, AnalyzeRequest};
use crate::mesh::Finding;
use crate::resource;

use super::index::Index;

impl Index {
    /// Every finding about `request`'s files over what runs, the cluster's objects among it.
    pub async fn analyze(&self, request: &AnalyzeRequest) -> AnalysisReport {
        let (over, instances, followed) = {
            let state = self.state.lock().await;
            let followed: Vec<Finding> = state.followed.findings().cloned().collect();
            (state.union(&state.objects), state.running(), followed)
        };
        let texts = request.sources.iter();
        let texts = texts.map(|source| (source.name.as_str(), source.text.as_str()));
        let mut analysis = resource::analyze(texts, &request.namespace, &over, Arc::new(instances));
        // What is wrong with an object that a file replaces is the file's to say.
        let replaced = |finding: &Finding| {
            let origin = &finding.origin;
            analysis.read.keys().any(|key| {
                key.kind == origin.kind
                    && key.namespace == origin.namespace
                    && key.name == origin.name
            })
        };
        let followed: Vec<Finding> = followed.into_iter().filter(|f| !replaced(f)).collect();
        analysis.reading.extend(followed);
        let (findings, suppressed) = analysis.findings();
        AnalysisReport {
            findings,
            suppressed,
            files: request.sources.len(),
            objects: analysis.objects.len(),
        }
    }
}
