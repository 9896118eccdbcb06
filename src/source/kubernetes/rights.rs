//! What an account may do, as the API server judges it: roles, bindings and whatever else it goes by.

use std::fmt;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, ClusterError};

/// Questions at once: they are answered from memory.
const AT_ONCE: usize = 8;
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

/// Something that is done to objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Such as `list`.
    pub verb: String,
    /// Group of the objects; empty for the core.
    pub group: String,
    /// Such as `pods`, or `pods/status`; `*` is all of the group.
    pub resource: String,
    /// The namespace; none is all of them.
    pub namespace: Option<String>,
    /// The only object that is meant.
    pub name: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in {namespace}")?;
        }
        Ok(())
    }
}

impl Right {
    fn attributes(&self) -> Value {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (self.resource.as_str(), None),
        };
        json!({
            "verb": self.verb,
            "group": self.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": self.namespace,
            "name": self.name,
        })
    }
}

/// Whose rights are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// Those of who asks, which everybody may ask.
    Own,
    /// Those of a service account, by namespace and name; who asks must be let.
    Account(&'a str, &'a str),
}

impl Cluster {
    /// Which of `rights` the account does not have, in their order.
    pub async fn lacking(
        &self,
        rights: &[Right],
        whose: Whose<'_>,
    ) -> Result<Vec<Right>, ClusterError> {
        let mut asked = Vec::new();
        for right in rights.iter().cloned() {
            asked.push(async move {
                let allowed = self.allowed(&right, whose).await?;
                Ok((!allowed).then_some(right))
            });
        }
        let answers: Vec<Option<Right>> =
            stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn allowed(&self, right: &Right, whose: Whose<'_>) -> Result<bool, ClusterError> {
        let attributes = right.attributes();
        let (kind, plural, spec) = match whose {
            Whose::Own => (
                "SelfSubjectAccessReview",
                "selfsubjectaccessreviews",
                json!({"resourceAttributes": attributes}),
            ),
            Whose::Account(namespace, name) => (
                "SubjectAccessReview",
                "subjectaccessreviews",
                json!({
                    "user": format!("system:serviceaccount:{namespace}:{name}"),
                    "groups": [
                        "system:serviceaccounts",
                        format!("system:serviceaccounts:{namespace}"),
                        "system:authenticated",
                    ],
                    "resourceAttributes": attributes,
                }),
            ),
        };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let path = format!("{REVIEWS}/{plural}");
        let answer = self
            .ask(Method::POST, &path, "application/json", Some(&review))
            .await?;
        Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
    }
}
