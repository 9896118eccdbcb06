//! Whether the account of a control plane may do what this release does.

use crate::install::{Profile, Settings, permissions};
use crate::source::kubernetes::cluster::{Cluster, ClusterError};
use crate::source::kubernetes::rights::{Right, Whose};

/// What the control plane of `revision` in `namespace` does and may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    /// All that it does.
    pub of: usize,
    /// What of it is not allowed.
    pub rights: Vec<Right>,
}

impl Lacking {
    /// What is not allowed, in words: verbs of the same objects together.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<(Right, String)> = Vec::new();
        for right in &self.rights {
            let bare = Right {
                verb: String::new(),
                ..right.clone()
            };
            match words.iter_mut().find(|(known, _)| *known == bare) {
                Some((_, verbs)) => {
                    verbs.push('/');
                    verbs.push_str(&right.verb);
                }
                None => words.push((bare, right.verb.clone())),
            }
        }
        let told = words
            .into_iter()
            .map(|(right, verb)| Right { verb, ..right }.to_string());
        told.collect()
    }
}

/// Asks the API server about each right of the control plane.
pub async fn lacking(
    cluster: &Cluster,
    (namespace, revision): (&str, &str),
    whose: Whose<'_>,
) -> Result<Lacking, ClusterError> {
    let mut settings = Settings::new(Profile::Default);
    revision.clone_into(&mut settings.revision);
    namespace.clone_into(&mut settings.namespace);
    let rights: Vec<Right> = permissions(&settings)
        .into_iter()
        .map(|permission| Right {
            verb: permission.verb.to_owned(),
            group: permission.group.to_owned(),
            resource: permission.resource.to_owned(),
            namespace: permission.namespace,
            name: permission.name,
        })
        .collect();
    Ok(Lacking {
        of: rights.len(),
        rights: cluster.lacking(&rights, whose).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_of_the_same_objects_are_told_together() {
        let right = |verb: &str, group: &str, resource: &str, namespace: Option<&str>| Right {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: None,
        };
        let lacking = Lacking {
            of: 9,
            rights: vec![
                right("list", "", "pods", None),
                right("watch", "", "pods", None),
                right("update", "networking.istio.io", "*/status", None),
                right("list", "", "pods", Some("a")),
            ],
        };
        assert_eq!(
            lacking.words(),
            [
                "list/watch pods",
                "update */status.networking.istio.io",
                "list pods in a"
            ]
        );
    }
}
