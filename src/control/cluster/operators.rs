//! Who asks the API from outside, by a token of one of two service accounts that nothing runs as.
//!
//! People prove themselves to their API server, which gives those of whom its RBAC says so a token of
//! `meshctl-viewer` or `meshctl-operator` (TokenRequest), for our audience and ten minutes. So the cluster decides
//! who may what here, and there is no list of ours beside its own. Tokens are judged by the API server (TokenReview);
//! a verdict is remembered for moments only, so that an account that is deleted is soon nobody.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Membership;
use crate::api::access::Role;
use crate::api::{Problem, Reason};
use crate::install::{API_AUDIENCE, OPERATOR, VIEWER, of_revision};
use crate::rt::now;
use crate::source::kubernetes::Access;
use crate::source::kubernetes::KubernetesError;
use crate::source::kubernetes::review::{ReviewError, Reviewer};
use crate::tls::sha256;

/// How long a verdict is believed.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Verdicts that are remembered; all are forgotten when there are more.
const MOST: usize = 1_000;

type Verdict = Result<(String, Role), (Reason, String)>;

/// Judges tokens of the two accounts.
#[derive(Debug)]
pub(in crate::control) struct Operators {
    reviewer: Reviewer,
    namespace: String,
    accounts: [(String, Role); 2],
    /// By the token's hash.
    verdicts: Mutex<BTreeMap<[u8; 32], (Instant, Verdict)>>,
}

impl Operators {
    /// Of the installation that a control plane belongs to.
    pub(super) async fn new(
        access: &Access,
        membership: &Membership,
    ) -> Result<Self, KubernetesError> {
        let named = |name: &str| of_revision(name, &membership.revision);
        Ok(Self {
            reviewer: Reviewer::new(access).await?,
            namespace: membership.namespace.clone(),
            accounts: [
                (named(VIEWER), Role::Viewer),
                (named(OPERATOR), Role::Operator),
            ],
            verdicts: Mutex::default(),
        })
    }

    /// Who shows `token`, and as what.
    pub(in crate::control) async fn judge(&self, token: &str) -> Result<(String, Role), Problem> {
        let hash = sha256(token.as_bytes());
        let verdict = match self.remembered(&hash) {
            Some(verdict) => verdict,
            None => self.ask(hash, token).await?,
        };
        verdict.map_err(|(reason, message)| {
            Problem::new(reason, message).hint(format!(
                "meshctl asks the API server for a token of {}/{} or {}; nothing else is taken here",
                self.namespace, self.accounts[0].0, self.accounts[1].0
            ))
        })
    }

    fn remembered(&self, hash: &[u8; 32]) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, verdict) = verdicts.get(hash)?;
        (now().saturating_duration_since(*at) < REMEMBERED).then(|| verdict.clone())
    }

    async fn ask(&self, hash: [u8; 32], token: &str) -> Result<Verdict, Problem> {
        let verdict = match self.reviewer.review_for(token, API_AUDIENCE).await {
            Ok(account) => {
                let known = self
                    .accounts
                    .iter()
                    .find(|(name, _)| account.namespace == self.namespace && account.name == *name);
                match known {
                    Some((name, role)) => Ok((format!("{}/{name}", self.namespace), *role)),
                    None => Err((
                        Reason::Denied,
                        format!(
                            "service account {}/{} may not use the API",
                            account.namespace, account.name
                        ),
                    )),
                }
            }
            Err(error @ ReviewError::Refused(_)) => {
                Err((Reason::Unauthenticated, error.to_string()))
            }
            // Not remembered: the next may be answered.
            Err(error) => return Err(Problem::new(Reason::Unknown, error.to_string())),
        };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if verdicts.len() >= MOST {
            verdicts.clear();
        }
        verdicts.insert(hash, (now(), verdict.clone()));
        Ok(verdict)
    }
}
