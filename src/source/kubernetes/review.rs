//! Whether a token is one of the cluster's service accounts: TokenReview.
//!
//! The API server judges the token; nothing of it is read here. Held against the audience, so that a token
//! which an application was given for another service proves nothing to us.

use std::fmt;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::sync::Semaphore;

use super::{Access, KubernetesError, configuration};

/// Whom tokens must be made for: Istio's name for its CA, which its pods' projected tokens carry.
pub const AUDIENCE: &str = "istio-ca";
/// Longer ones are not passed on. A projected token has about 1,200 bytes.
const MOST_BYTES: usize = 16 * 1024;
/// Tokens that are being judged at once; strangers must not use up the API server.
const MOST_AT_ONCE: usize = 16;
/// How long one judgement may take, its wait for others included.
const PATIENCE: Duration = Duration::from_secs(8);

/// The service account that a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pod that the token is bound to, where it is bound to one.
    pub pod: Option<String>,
}

/// Why a token proves nothing.
#[derive(Debug, Error)]
pub enum ReviewError {
    /// The API server does not take it, or it is not of a service account, or not for us.
    #[error("the service account token is refused: {0}")]
    Refused(String),
    /// The API server could not be asked; the caller may try again.
    #[error("the API server cannot be asked about a service account token: {0}")]
    Away(String),
    /// The API server does not let us ask.
    #[error(
        "the API server does not let the control plane create tokenreviews.authentication.k8s.io: {0}"
    )]
    Forbidden(String),
}

/// Asks an API server about tokens.
pub struct Reviewer {
    client: Client,
    places: Semaphore,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reviewer { .. }")
    }
}

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    authenticated: bool,
    audiences: Vec<String>,
    error: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    groups: Vec<String>,
    extra: std::collections::BTreeMap<String, Vec<String>>,
}

impl Reviewer {
    /// For the cluster of `access`. Nothing is asked yet.
    pub async fn new(access: &Access) -> Result<Self, KubernetesError> {
        let (mut config, cluster) = configuration(access).await?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(|error| KubernetesError::Credentials {
            cluster,
            source: Box::new(error),
        })?;
        Ok(Self {
            client,
            places: Semaphore::new(MOST_AT_ONCE),
        })
    }

    /// The service account that `token` proves to our CA.
    pub async fn review(&self, token: &str) -> Result<ServiceAccount, ReviewError> {
        self.review_for(token, AUDIENCE).await
    }

    /// The service account that `token` proves to `audience`.
    pub async fn review_for(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<ServiceAccount, ReviewError> {
        if !resembles_jwt(token) {
            return Err(ReviewError::Refused("it is not a JWT".to_owned()));
        }
        let asked = async {
            // Closed never.
            let _place = self.places.acquire().await;
            let asked = request(token, audience);
            self.client.request::<Review>(asked).await
        };
        let review = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(review)) => review,
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                return Err(ReviewError::Forbidden(status.message));
            }
            Ok(Err(error)) => return Err(ReviewError::Away(crate::rt::chain(&error))),
            Err(_) => return Err(ReviewError::Away("no answer in 8 s".to_owned())),
        };
        proven(review.status, audience).map_err(ReviewError::Refused)
    }
}

/// Three parts of base64url: what is anything else is not passed on.
fn resembles_jwt(token: &str) -> bool {
    let plain = |part: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !part.is_empty() && part.bytes().all(legal)
    };
    token.len() <= MOST_BYTES && token.split('.').count() == 3 && token.split('.').all(plain)
}

fn request(token: &str, audience: &str) -> http::Request<Vec<u8>> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    });
    let mut request = http::Request::new(review.to_string().into_bytes());
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("/apis/authentication.k8s.io/v1/tokenreviews");
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    request
}

/// What the server's answer proves, or why it proves nothing.
fn proven(status: Status, meant: &str) -> Result<ServiceAccount, String> {
    if !status.authenticated {
        return Err(match status.error.as_str() {
            "" => "the API server does not know it".to_owned(),
            // The server's words say what is wrong with the token, not what is in it.
            said => said.chars().take(200).collect(),
        });
    }
    // A server that knows nothing of audiences would not have looked at them.
    if !status.audiences.iter().any(|audience| audience == meant) {
        return Err(format!("it is not for {meant:?}"));
    }
    if !status
        .user
        .groups
        .iter()
        .any(|group| group == "system:serviceaccounts")
    {
        return Err("it is not of a service account".to_owned());
    }
    let account = status.user.username.strip_prefix("system:serviceaccount:");
    let (namespace, name) = account
        .and_then(|account| account.split_once(':'))
        .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
        .ok_or("its user is not a service account")?;
    let mut extra = status.user.extra;
    let pod = extra.remove("authentication.kubernetes.io/pod-name");
    Ok(ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        pod: pod.and_then(|names| names.into_iter().next()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: &serde_json::Value) -> Result<ServiceAccount, String> {
        let review: Review = serde_json::from_value(json!({"status": status})).unwrap();
        proven(review.status, AUDIENCE)
    }

    #[test]
    fn an_account_is_proven_by_the_servers_word_alone() {
        let user = json!({
            "username": "system:serviceaccount:shop:cart",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"],
            "extra": {"authentication.kubernetes.io/pod-name": ["cart-7d4"]},
        });
        let good = json!({"authenticated": true, "audiences": ["istio-ca"], "user": user});
        let expected = ServiceAccount {
            namespace: "shop".to_owned(),
            name: "cart".to_owned(),
            pod: Some("cart-7d4".to_owned()),
        };
        assert_eq!(judged(&good), Ok(expected));

        let but = |path: &str, value: serde_json::Value| {
            let mut bad = good.clone();
            *bad.pointer_mut(path).unwrap() = value;
            judged(&bad).unwrap_err()
        };
        assert!(but("/authenticated", json!(false)).contains("does not know it"));
        assert!(but("/audiences", json!(["https://kubernetes.default.svc"])).contains("istio-ca"));
        assert!(but("/audiences", json!([])).contains("istio-ca"));
        assert!(but("/user/groups", json!(["system:masters"])).contains("service account"));
        for name in [
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount::cart",
            "system:serviceaccount:shop:",
            "system:node:n1",
        ] {
            assert!(but("/user/username", json!(name)).contains("service account"));
        }
        let said = json!({"authenticated": false, "error": "token expired"});
        assert_eq!(judged(&said).unwrap_err(), "token expired");
        assert!(judged(&json!({})).is_err());
    }

    #[test]
    fn only_what_resembles_a_jwt_is_passed_on() {
        assert!(resembles_jwt("eyJh-_.e30.c2ln"));
        for other in [
            "", "mj_12_34", "a.b", "a.b.c.d", "a..c", "a.b.c\n", "a.b c.d",
        ] {
            assert!(!resembles_jwt(other), "{other:?}");
        }
        assert!(!resembles_jwt(&format!("a.{}.c", "b".repeat(MOST_BYTES))));
    }
}
