//! Who a request's token says it is from: whose tokens are taken, where they stand, and which are needed
//! (`envoy.filters.http.jwt_authn`). What a good token says is in [`super::claims`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listener::is_default;
use super::policy::{Policy, Says};
use super::route::Match;
use super::world::Config;

/// The metadata by which Istio's rules find what a token says.
pub const PAYLOAD: &str = "payload";
/// A set without keys, by which no token is good.
pub const NO_KEYS: &str = r#"{"keys":[]}"#;
/// Seconds by which clocks may differ where nobody says (Envoy's).
pub const CLOCK_SKEW: u32 = 60;
/// Claims that hold several words and are always taken apart (Istio's).
pub const SPACED_CLAIMS: [&str; 2] = ["permission", "scope"];

/// Looks at the tokens of requests, and refuses those whose tokens are bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtAuthn {
    /// Whose tokens are taken, by a name of our own.
    pub providers: BTreeMap<String, JwtProvider>,
    /// The first whose conditions hold says what a request needs; none of them, nothing.
    pub rules: Vec<JwtRule>,
    /// What browsers ask before they let a page call needs no token.
    #[serde(skip_serializing_if = "is_default")]
    pub bypass_cors_preflight: bool,
    /// Refused callers are not told why.
    #[serde(skip_serializing_if = "is_default")]
    pub strip_failure_response: bool,
}

/// Somebody whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtProvider {
    /// What `iss` must be; empty takes any.
    #[serde(skip_serializing_if = "is_default")]
    pub issuer: String,
    /// One of these must be among `aud`; none takes any.
    #[serde(skip_serializing_if = "is_default")]
    pub audiences: Vec<String>,
    /// The public keys, as a JWKS. Where nothing can be read, no token is good.
    pub keys: Arc<str>,
    /// Where tokens stand; without any place, `Authorization: Bearer` and the query parameter `access_token`.
    #[serde(skip_serializing_if = "is_default")]
    pub from: JwtPlaces,
    /// The token is sent on.
    #[serde(skip_serializing_if = "is_default")]
    pub forward: bool,
    /// A header that tells the payload, as base64url; empty tells it not.
    #[serde(skip_serializing_if = "is_default")]
    pub payload_header: String,
    /// That is padded to a multiple of four.
    #[serde(skip_serializing_if = "is_default")]
    pub pad_payload_header: bool,
    /// Headers that tell single claims.
    #[serde(skip_serializing_if = "is_default")]
    pub claim_headers: Vec<ClaimHeader>,
    /// Authorization and routing see what the token says (`payload_in_metadata`).
    pub tells: bool,
    /// Claims whose words count one by one for these.
    #[serde(skip_serializing_if = "is_default")]
    pub spaced_claims: BTreeSet<String>,
    /// Seconds by which clocks may differ; default 60.
    pub clock_skew: u32,
}

impl Default for JwtProvider {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audiences: Vec::new(),
            keys: "".into(),
            from: JwtPlaces::default(),
            forward: false,
            payload_header: String::new(),
            pad_payload_header: false,
            claim_headers: Vec::new(),
            tells: false,
            spaced_claims: BTreeSet::new(),
            clock_skew: CLOCK_SKEW,
        }
    }
}

impl JwtProvider {
    /// Headers that only this proxy may write: what a caller sends of that name says nothing.
    pub fn written_headers(&self) -> impl Iterator<Item = &str> {
        let claims = self.claim_headers.iter().map(|to| to.header.as_str());
        let payload = (!self.payload_header.is_empty()).then_some(self.payload_header.as_str());
        payload.into_iter().chain(claims)
    }
}

/// Where tokens stand in a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtPlaces {
    /// Headers.
    #[serde(skip_serializing_if = "is_default")]
    pub headers: Vec<JwtHeader>,
    /// Query parameters.
    #[serde(skip_serializing_if = "is_default")]
    pub params: Vec<String>,
    /// Cookies.
    #[serde(skip_serializing_if = "is_default")]
    pub cookies: Vec<String>,
}

impl JwtPlaces {
    /// Those that hold where none are named (Envoy's).
    pub fn usual() -> Self {
        Self {
            headers: vec![JwtHeader {
                name: "authorization".to_owned(),
                prefix: "Bearer ".to_owned(),
            }],
            params: vec!["access_token".to_owned()],
            cookies: Vec::new(),
        }
    }
}

/// A header in which a token stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtHeader {
    /// Lower case.
    pub name: String,
    /// What stands before the token; may be empty.
    pub prefix: String,
}

/// A header that tells a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimHeader {
    /// Lower case.
    pub header: String,
    /// The claim; one inside another is named behind a dot.
    pub claim: String,
}

/// What some requests need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JwtRule {
    /// Which requests.
    pub matches: Match,
    /// What they need.
    pub requires: JwtRequirement,
}

/// What a request needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JwtRequirement {
    /// Nothing, and no token is looked at.
    #[default]
    Nothing,
    /// A good token of a provider, and no bad one where that provider's stand.
    Provider {
        /// Its name.
        name: String,
        /// Instead of the provider's own; none keeps those.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        audiences: Vec<String>,
    },
    /// One of these.
    Any(Vec<JwtRequirement>),
    /// All of these.
    All(Vec<JwtRequirement>),
    /// Among [`Self::Any`]: no token does too, but no bad one. By itself the same for all providers.
    AllowMissing,
    /// As [`Self::AllowMissing`], and a bad token does too.
    AllowMissingOrFailed,
}

/// How requests are authenticated by the tokens of one issuer (a `jwtRules` entry of a
/// RequestAuthentication).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRule {
    /// All but the keys, where these are elsewhere.
    pub provider: JwtProvider,
    /// Where the keys are.
    pub source: KeySource,
    /// A fetch of them must be done within this.
    pub timeout: Duration,
}

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// In the rule.
    Inline,
    /// At this URL.
    Url(String),
    /// Where the issuer of this name says (`/.well-known/openid-configuration`).
    Discovery(String),
}

/// Key sets that were fetched, as JWKS.
pub type KeySets = BTreeMap<KeySource, Arc<str>>;

/// The filter for some rules, as Istio makes it: a token must be good, and none is good too. `None`
/// for no rules.
pub fn filter(rules: &[&TokenRule]) -> Option<JwtAuthn> {
    let name = |at: usize| format!("origins-{at}");
    let provider = |at: usize| JwtRequirement::Provider {
        name: name(at),
        audiences: Vec::new(),
    };
    let optional =
        |at: usize| JwtRequirement::Any(vec![provider(at), JwtRequirement::AllowMissing]);
    let requires = match rules.len() {
        0 => return None,
        1 => optional(0),
        // A token where several issuers' may stand need only be good for its own.
        count => {
            let mut any: Vec<_> = (0..count).map(provider).collect();
            any.push(JwtRequirement::All((0..count).map(optional).collect()));
            JwtRequirement::Any(any)
        }
    };
    let providers = rules.iter().enumerate();
    Some(JwtAuthn {
        providers: providers
            .map(|(at, rule)| (name(at), rule.provider.clone()))
            .collect(),
        rules: vec![JwtRule {
            matches: Match::default(),
            requires,
        }],
        // Browsers send no token with that question.
        bypass_cors_preflight: true,
        strip_failure_response: false,
    })
}

impl Config {
    /// Where the keys are that are not written down, and how long fetching them may take.
    pub fn key_sources(&self) -> BTreeMap<&KeySource, Duration> {
        let mut all = BTreeMap::new();
        for rule in self.policies.iter().flat_map(|policy| tokens(policy)) {
            if rule.source != KeySource::Inline {
                let longest: &mut Duration = all.entry(&rule.source).or_default();
                *longest = rule.timeout.max(*longest);
            }
        }
        all
    }

    /// Puts keys that were fetched into the rules. Of an issuer whose keys were not, no token is good.
    pub fn put_keys(&mut self, keys: &KeySets) {
        for policy in &mut self.policies {
            let Says::Tokens(rules) = &policy.says else {
                continue;
            };
            if rules.iter().all(|rule| rule.source == KeySource::Inline) {
                continue;
            }
            let mut rules = Vec::clone(rules);
            for rule in &mut rules {
                if let Some(found) = keys.get(&rule.source) {
                    rule.provider.keys = Arc::clone(found);
                }
            }
            *policy = Arc::new(Policy {
                says: Says::Tokens(Arc::new(rules)),
                ..Policy::clone(policy)
            });
        }
    }
}

fn tokens(policy: &Policy) -> &[TokenRule] {
    match &policy.says {
        Says::Tokens(rules) => rules,
        Says::RateLimit(_) | Says::Compression(_) | Says::Headers(_) | Says::Authorization(_) => {
            &[]
        }
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inline => f.write_str("the rule itself"),
            Self::Url(url) => f.write_str(url),
            Self::Discovery(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}
