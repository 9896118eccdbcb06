//! Join tokens: who may ask the CA for which first identity, how often, and until when.
//!
//! Owns the book and its rules. The control core keeps the book in its store and commits it before
//! a claim is used, so that a token is never spent twice by a crash; the text of a token is
//! `tls::JoinToken`. Only hashes of secrets are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::mesh::SpiffeId;
use crate::rt::UnixMillis;
use crate::tls::{self, JoinToken, hex, rfc3339};

/// Tokens that a book holds at most, spent and expired ones included.
const MOST_TOKENS: usize = 10_000;
/// Uses that one token may have.
const MOST_USES: u32 = 1000;
/// How long spent and expired tokens stay in the book, so that their use gets a clear answer.
const REMEMBERED: Duration = Duration::from_hours(7 * 24);

/// All join tokens of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenBook {
    tokens: BTreeMap<String, TokenRecord>,
}

/// One token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// SHA-256 of the secret, hexadecimal.
    secret_sha256: String,
    /// The namespace of the identity that it gives.
    pub namespace: String,
    /// The service account of the identity that it gives.
    pub service_account: String,
    /// The one workload that may use it; any of the account when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// The gateway that its account may serve, with the Secrets that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// How often it can still be used.
    pub uses_left: u32,
    /// Not valid from here on, milliseconds since the epoch.
    pub expires_at_ms: UnixMillis,
    /// When it was made, milliseconds since the epoch.
    pub created_at_ms: UnixMillis,
    /// Who made it, for the audit.
    pub created_by: String,
    /// Its uses so far, oldest first.
    #[serde(default)]
    pub uses: Vec<TokenUse>,
}

/// One use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUse {
    /// When, milliseconds since the epoch.
    pub at_ms: UnixMillis,
    /// SHA-256 of the public key that was certified, hexadecimal; empty when unknown.
    #[serde(default)]
    pub key_sha256: String,
}

/// What a new token shall give.
#[derive(Debug, Clone)]
pub struct TokenSpec {
    /// The namespace of the identity.
    pub namespace: String,
    /// The service account of the identity.
    pub service_account: String,
    /// Restricts the token to one workload.
    pub workload: Option<String>,
    /// The gateway that the account may serve.
    pub gateway: Option<String>,
    /// How often it can be used, 1 to 1000.
    pub uses: u32,
    /// How long it is valid.
    pub lifetime: Duration,
    /// Who asks for it, for the audit.
    pub created_by: String,
}

/// What a joiner shows.
#[derive(Debug, Clone)]
pub struct Presented {
    /// The token.
    pub token: JoinToken,
    /// The identity that the joiner expects, when it says so.
    pub wanted: Option<SpiffeId>,
    /// SHA-256 of the public key to be certified. The same key again is the same join repeated,
    /// as after a lost answer, and costs no use.
    pub key_sha256: Option<[u8; 32]>,
}

/// What a token proves. Commit the book before using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The token's id.
    pub token: String,
    /// The proven namespace.
    pub namespace: String,
    /// The proven service account.
    pub service_account: String,
    /// The one workload that may register with it.
    pub workload: Option<String>,
}

impl Claim {
    /// The proven identity in `trust_domain`.
    pub fn id(&self, trust_domain: &str) -> SpiffeId {
        SpiffeId::new(trust_domain, &self.namespace, &self.service_account)
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// No such token, or a wrong secret; which of the two is not told.
    #[error("this join token is not known here")]
    Unknown,
    /// Too late.
    #[error("join token {id} expired at {at}")]
    Expired {
        /// The token's id.
        id: String,
        /// When, RFC 3339.
        at: String,
    },
    /// Used as often as it may be.
    #[error("join token {id} has already been used, last at {at}")]
    Spent {
        /// The token's id.
        id: String,
        /// When, RFC 3339.
        at: String,
    },
    /// For someone else.
    #[error("join token {id} is for {bound}, not for {wanted}")]
    OtherIdentity {
        /// The token's id.
        id: String,
        /// Whom it is for, `NAMESPACE/ACCOUNT`.
        bound: String,
        /// Who came, `NAMESPACE/ACCOUNT`.
        wanted: String,
    },
    /// The token to be made is not allowed.
    #[error("cannot make this join token: {0}")]
    Spec(String),
}

impl TokenError {
    /// What a person can do about it.
    pub fn hint(&self) -> String {
        let words = match self {
            Self::Malformed(_) => "copy the whole token, from mj_ to its last digit",
            Self::Unknown => "it may belong to another mesh; make one with `meshctl token create`",
            Self::Expired { .. } | Self::Spent { .. } => {
                "make a new one with `meshctl token create`"
            }
            Self::OtherIdentity { bound, wanted, .. } => {
                let (namespace, account) = bound.split_once('/').unwrap_or(("default", bound));
                let (other_namespace, other) =
                    wanted.split_once('/').unwrap_or(("default", wanted));
                return format!(
                    "join with --namespace {namespace} --service-account {account}, or make a token by \
                     `meshctl token create --namespace {other_namespace} --service-account {other}`"
                );
            }
            Self::Spec(_) => "see `meshctl token create --help`",
        };
        words.to_owned()
    }
}

impl TokenBook {
    /// Makes a token; the answer holds the only copy of its secret. `root` is the SHA-256 of the
    /// mesh's root certificate.
    pub fn create(
        &mut self,
        spec: TokenSpec,
        root: Option<[u8; 32]>,
        now: UnixMillis,
    ) -> Result<JoinToken, TokenError> {
        let wrong = |why: &str| Err(TokenError::Spec(why.to_owned()));
        let name = SpiffeId::new("x", &spec.namespace, &spec.service_account).to_string();
        if name.parse::<SpiffeId>().is_err() {
            return wrong("namespace and service account must be plain names");
        }
        if spec.namespace == tls::CONTROL_PLANE_NAMESPACE
            && spec.service_account == tls::CONTROL_PLANE_ACCOUNT
        {
            return wrong("nobody can join as the control plane");
        }
        if spec.uses == 0 || spec.uses > MOST_USES {
            return wrong("uses must be 1 to 1000");
        }
        let lifetime = u64::try_from(spec.lifetime.as_millis()).unwrap_or(u64::MAX);
        if lifetime == 0 {
            return wrong("it would expire at once");
        }
        self.prune(now);
        if self.tokens.len() >= MOST_TOKENS {
            return wrong("there are too many tokens; revoke some");
        }
        let token =
            JoinToken::generate(root).map_err(|error| TokenError::Spec(error.to_string()))?;
        let record = TokenRecord {
            secret_sha256: hex(&tls::sha256(&token.secret)),
            namespace: spec.namespace,
            service_account: spec.service_account,
            workload: spec.workload,
            gateway: spec.gateway,
            uses_left: spec.uses,
            expires_at_ms: now.saturating_add(lifetime),
            created_at_ms: now,
            created_by: spec.created_by,
            uses: Vec::new(),
        };
        self.tokens.insert(token.id.clone(), record);
        Ok(token)
    }

    /// Takes one use of the token in `presented`.
    pub fn redeem(&mut self, presented: &str, now: UnixMillis) -> Result<Claim, TokenError> {
        let token: JoinToken = presented
            .parse()
            .map_err(|error: tls::Error| TokenError::Malformed(error.to_string()))?;
        let presented = Presented {
            token,
            wanted: None,
            key_sha256: None,
        };
        self.redeem_for(&presented, now)
    }

    /// As [`TokenBook::redeem`], refusing a token for another identity before it is spent, and
    /// taking no second use from a joiner who repeats itself with the same key.
    pub fn redeem_for(
        &mut self,
        presented: &Presented,
        now: UnixMillis,
    ) -> Result<Claim, TokenError> {
        let id = &presented.token.id;
        let record = self.tokens.get_mut(id).ok_or(TokenError::Unknown)?;
        let shown = hex(&tls::sha256(&presented.token.secret));
        aws_lc_rs::constant_time::verify_slices_are_equal(
            shown.as_bytes(),
            record.secret_sha256.as_bytes(),
        )
        .map_err(|_| TokenError::Unknown)?;
        if now >= record.expires_at_ms {
            return Err(TokenError::Expired {
                id: id.clone(),
                at: rfc3339(record.expires_at_ms),
            });
        }
        if let Some(wanted) = &presented.wanted
            && (wanted.namespace != record.namespace
                || wanted.service_account != record.service_account)
        {
            return Err(TokenError::OtherIdentity {
                id: id.clone(),
                bound: format!("{}/{}", record.namespace, record.service_account),
                wanted: format!("{}/{}", wanted.namespace, wanted.service_account),
            });
        }
        let key = presented
            .key_sha256
            .map(|key| hex(&key))
            .unwrap_or_default();
        let repeated = !key.is_empty() && record.uses.iter().any(|used| used.key_sha256 == key);
        if !repeated {
            record.uses_left =
                record
                    .uses_left
                    .checked_sub(1)
                    .ok_or_else(|| TokenError::Spent {
                        id: id.clone(),
                        at: rfc3339(record.uses.last().map_or(0, |used| used.at_ms)),
                    })?;
            record.uses.push(TokenUse {
                at_ms: now,
                key_sha256: key,
            });
        }
        Ok(Claim {
            token: id.clone(),
            namespace: record.namespace.clone(),
            service_account: record.service_account.clone(),
            workload: record.workload.clone(),
        })
    }

    /// Takes a token out, and with it what it let its account serve; none when there is none of that id.
    pub fn revoke(&mut self, id: &str) -> Option<TokenRecord> {
        self.tokens.remove(id)
    }

    /// The gateways that accounts may serve, by namespace and account.
    pub fn grants(&self) -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut grants: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for record in self.tokens.values() {
            if let Some(gateway) = &record.gateway {
                let of = (record.namespace.clone(), record.service_account.clone());
                grants.entry(of).or_default().insert(gateway.clone());
            }
        }
        grants
    }

    /// Id and record of every token, by id.
    pub fn list(&self) -> impl Iterator<Item = (&str, &TokenRecord)> {
        self.tokens.iter().map(|(id, record)| (id.as_str(), record))
    }

    /// Forgets tokens that have been expired for a week. One with which a gateway joined stays until it is
    /// revoked, since the gateway goes by it.
    pub fn prune(&mut self, now: UnixMillis) {
        let remembered = u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX);
        self.tokens.retain(|_, record| {
            let serves = record.gateway.is_some() && !record.uses.is_empty();
            serves || record.expires_at_ms.saturating_add(remembered) > now
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_800_000_000_000;

    fn spec() -> TokenSpec {
        TokenSpec {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            workload: None,
            gateway: None,
            uses: 1,
            lifetime: Duration::from_hours(1),
            created_by: "test".to_owned(),
        }
    }

    #[test]
    fn a_token_gives_its_identity_once() {
        let mut book = TokenBook::default();
        let token = book.create(spec(), Some([7; 32]), NOW).unwrap();
        let claim = book.redeem(&token.to_string(), NOW + 1).unwrap();
        assert_eq!(
            claim.id("cluster.local").to_string(),
            "spiffe://cluster.local/ns/shop/sa/cart"
        );
        let again = book.redeem(&token.to_string(), NOW + 2).unwrap_err();
        assert!(matches!(again, TokenError::Spent { .. }), "{again}");
        assert!(again.to_string().contains("already been used"));
        assert!(again.hint().contains("token create"));
    }

    #[test]
    fn a_lost_answer_costs_no_second_use_for_the_same_key() {
        let mut book = TokenBook::default();
        let token = book.create(spec(), None, NOW).unwrap();
        let shown = |key| Presented {
            token: token.clone(),
            wanted: None,
            key_sha256: Some(key),
        };
        let first = book.redeem_for(&shown([1; 32]), NOW).unwrap();
        assert_eq!(book.redeem_for(&shown([1; 32]), NOW + 5).unwrap(), first);
        assert!(matches!(
            book.redeem_for(&shown([2; 32]), NOW + 5),
            Err(TokenError::Spent { .. })
        ));
    }

    #[test]
    fn wrong_late_and_foreign_tokens_are_refused_and_not_spent() {
        let mut book = TokenBook::default();
        let token = book.create(spec(), None, NOW).unwrap();
        let before = book.clone();
        let mut forged = token.clone();
        forged.secret[31] ^= 1;
        assert_eq!(
            book.redeem(&forged.to_string(), NOW),
            Err(TokenError::Unknown)
        );
        let unknown = JoinToken::generate(None).unwrap();
        assert_eq!(
            book.redeem(&unknown.to_string(), NOW),
            Err(TokenError::Unknown)
        );
        assert!(matches!(
            book.redeem("mj_", NOW),
            Err(TokenError::Malformed(_))
        ));
        assert!(matches!(
            book.redeem(&token.to_string(), NOW + 3_600_000),
            Err(TokenError::Expired { .. })
        ));
        let other = Presented {
            token: token.clone(),
            wanted: Some(SpiffeId::new("cluster.local", "shop", "admin")),
            key_sha256: None,
        };
        let error = book.redeem_for(&other, NOW).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "join token {} is for shop/cart, not for shop/admin",
                token.id
            )
        );
        assert_eq!(book, before);
        book.redeem(&token.to_string(), NOW).unwrap();
    }

    #[test]
    fn the_stored_book_holds_no_secret() {
        let mut book = TokenBook::default();
        let token = book.create(spec(), None, NOW).unwrap();
        let json = serde_json::to_string(&book).unwrap();
        assert!(!json.contains(&hex(&token.secret)));
        let mut read: TokenBook = serde_json::from_str(&json).unwrap();
        assert_eq!(read, book);
        read.redeem(&token.to_string(), NOW).unwrap();
        read.prune(NOW + 8 * 24 * 3_600_000);
        assert_eq!(read.list().count(), 0);
    }

    #[test]
    fn impossible_tokens_are_not_made() {
        let mut book = TokenBook::default();
        for change in [
            |spec: &mut TokenSpec| spec.uses = 0,
            |spec: &mut TokenSpec| spec.namespace = "a/b".to_owned(),
            |spec: &mut TokenSpec| spec.lifetime = Duration::ZERO,
            |spec: &mut TokenSpec| {
                spec.namespace = tls::CONTROL_PLANE_NAMESPACE.to_owned();
                spec.service_account = tls::CONTROL_PLANE_ACCOUNT.to_owned();
            },
        ] {
            let mut spec = spec();
            change(&mut spec);
            assert!(matches!(
                book.create(spec, None, NOW),
                Err(TokenError::Spec(_))
            ));
        }
    }
}
