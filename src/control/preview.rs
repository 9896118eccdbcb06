//! What configuration would mean, and change, if it were applied: the index's checks on objects that
//! it does not keep.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::Problem;
use crate::api::analysis::{AnalysisReport, AnalyzeRequest};
use crate::api::diff::{DiffReport, DiffRequest};
use crate::api::resources::SourceText;
use crate::mesh::{Finding, Node, Severity, World};
use crate::resource::{self, Instances, Objects};

use super::index::{Index, Tolerance, brought, refuse_errors};
use super::report::diff;

/// Configuration before and after a change that is not made.
#[derive(Debug)]
pub struct Preview {
    objects: (Objects, Objects),
    worlds: (Arc<World>, World),
    /// What is wrong after it and was not before.
    findings: Vec<Finding>,
}

impl Preview {
    /// What files that are read `against` others would change, where nothing runs.
    pub fn alone(
        sources: &[SourceText],
        against: &[SourceText],
        namespace: &str,
    ) -> Result<Self, Problem> {
        let read = |sources: &[SourceText]| {
            let texts = sources.iter();
            let texts = texts.map(|source| (source.name.as_str(), source.text.as_str()));
            resource::analyze(texts, namespace, &Objects::new(), Instances::default())
        };
        let (before, after) = (read(against), read(sources));
        refuse_errors(&before.reading, Tolerance::Nothing)?;
        refuse_errors(&after.reading, Tolerance::Nothing)?;
        let known: BTreeSet<Finding> = before.findings().0.into_iter().collect();
        let findings = after.findings().0.into_iter();
        Ok(Self {
            findings: findings.filter(|f| !known.contains(f)).collect(),
            objects: (before.objects, after.objects),
            worlds: (Arc::new(before.world), after.world),
        })
    }

    /// What it would do, to the proxies of `nodes` too; without any, to one of each namespace.
    pub fn report(&self, nodes: &[Node]) -> DiffReport {
        let objects = diff::objects(&self.objects.0, &self.objects.1);
        let (before, after) = &self.worlds;
        let anybody;
        let nodes = if nodes.is_empty() {
            anybody = diff::anybody(after, &objects);
            &anybody
        } else {
            nodes
        };
        let (proxies, unchanged_proxies) = diff::proxies(before, after, nodes);
        DiffReport {
            objects,
            proxies,
            unchanged_proxies,
            refused: self
                .findings
                .iter()
                .any(|finding| finding.severity == Severity::Error),
            findings: self.findings.clone(),
        }
    }
}

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
        let mut analysis = resource::analyze(texts, &request.namespace, &over, instances);
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

    /// The change that `request` asks about. Objects of the cluster are compared with its files, too,
    /// though it is not here that they are changed.
    pub async fn preview(&self, request: &DiffRequest) -> Result<Preview, Problem> {
        let (before, instances, known, back, now) = {
            let state = self.state.lock().await;
            let back = match request.revision {
                Some(revision) => {
                    let edit = self.way_back(&state, revision)?;
                    let mut applied = state.objects.clone();
                    applied.retain(|key, _| !edit.remove.contains(key));
                    let put = edit.put.into_iter();
                    applied.extend(put.map(|object| (object.key(), Arc::new(object))));
                    Some(state.union(&applied))
                }
                None => None,
            };
            let known: BTreeSet<Finding> = state.findings.iter().cloned().collect();
            let before = state.union(&state.objects);
            (before, state.running(), known, back, self.world())
        };
        let (after, mut findings) = if let Some(back) = back {
            (back, Vec::new())
        } else {
            let texts = request.sources.iter();
            let texts = texts.map(|source| (source.name.as_str(), source.text.as_str()));
            let running = instances.clone();
            let read = resource::analyze(texts, &request.namespace, &before, running);
            refuse_errors(&read.reading, Tolerance::Nothing)?;
            (read.objects, read.reading)
        };
        let (world, meaning) = resource::lower(&after, instances);
        findings.extend(meaning.into_iter().filter(|f| !known.contains(f)));
        findings.extend(brought(&now, &world));
        Ok(Preview {
            objects: (before, after),
            worlds: (now, world),
            findings,
        })
    }
}
