//! Who may call whom, as people write it (Istio's AuthorizationPolicy), and what it comes to at one place.
//!
//! Of all policies for a place: about what a CUSTOM holds for somebody outside is asked ([`ask`]); what a DENY
//! holds for does not pass; where there are ALLOWs, one of them must hold; what an AUDIT holds for is noted. On
//! bytes a rule of an ALLOW that asks for something of
//! requests never holds, and one of a DENY or a CUSTOM holds as if it did not ask (Istio's rules: both let less pass).

pub mod ask;
pub mod explain;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::ext_authz::ExtAuthz;
use super::name::SpiffeId;
use super::rbac::{Action, Entry, PathTemplate, Rbac, Rules, Term};
use super::route::{ClaimMatch, HeaderMatch, Pattern, TextMatch};

/// The trust domain that stands for the mesh's own, whatever that is called (Istio's).
const OWN_DOMAIN: &str = "cluster.local";

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// Its namespace, which service accounts without one are of.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What follows when a rule holds.
    pub action: PolicyAction,
    /// Only counted.
    pub dry_run: bool,
    /// Who decides, for [`PolicyAction::Custom`].
    pub provider: Option<Provider>,
    /// One of these.
    pub rules: Vec<Rule>,
}

/// Somebody outside who decides about requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provider {
    /// As MeshConfig calls it.
    pub name: String,
    /// `HOST:PORT`, for people; empty where it is not known.
    pub at: String,
    /// How it is asked; none where it cannot be, and then what would be asked about is refused.
    pub how: Option<Arc<ExtAuthz>>,
}

/// What follows when a rule holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PolicyAction {
    /// It passes, and nothing else does.
    #[default]
    Allow,
    /// It does not pass.
    Deny,
    /// It is noted.
    Audit,
    /// Somebody outside is asked.
    Custom,
}

/// Holds when one of `from`, one of `to` and all of `when` hold; an empty list holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Each a caller: all of its conditions.
    pub from: Vec<Vec<Condition>>,
    /// Each something that is done: all of its conditions.
    pub to: Vec<Vec<Condition>>,
    /// Further conditions.
    pub when: Vec<Condition>,
}

/// Holds when what `on` says is one of `values`, if there are any, and none of `not`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub on: On,
    /// One of these. A `*` at the beginning or at the end stands for any text; alone, for any that is not
    /// empty.
    pub values: Vec<String>,
    /// None of these.
    pub not: Vec<String>,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// The caller's identity without `spiffe://`.
    Principal,
    /// Its namespace.
    Namespace,
    /// Its service account, `NAMESPACE/NAME` or the name alone.
    ServiceAccount,
    /// Its trust domain.
    TrustDomain,
    /// Issuer and subject of a token, `ISS/SUB`.
    RequestPrincipal,
    /// The address of whoever connected: networks.
    SourceIp,
    /// The address of whoever began: networks.
    RemoteIp,
    /// The host that is asked for.
    Host,
    /// The method.
    Method,
    /// The path; may be a template.
    Path,
    /// A header, lower case.
    Header(String),
    /// Whom a token is for.
    Audience,
    /// Who presents a token.
    Presenter,
    /// A claim of a token.
    Claim(Vec<String>),
    /// The address that is meant: networks.
    DestinationIp,
    /// The port that is meant.
    DestinationPort,
    /// The TLS server name.
    ServerName,
}

impl On {
    /// Whether it is about requests, and so not there for bytes.
    pub fn is_of_requests(&self) -> bool {
        matches!(
            self,
            Self::RequestPrincipal
                | Self::Host
                | Self::Method
                | Self::Path
                | Self::Header(_)
                | Self::Audience
                | Self::Presenter
                | Self::Claim(_)
        )
    }

    /// Whether it is about what is done, not about who does it.
    fn is_permission(&self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::Method
                | Self::Path
                | Self::DestinationIp
                | Self::DestinationPort
                | Self::ServerName
        )
    }
}

/// Where policies act.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The root of the mesh's identities.
    pub trust_domain: &'a str,
    /// The port that is meant, where all that arrives is for the same.
    pub port: Option<u16>,
    /// What arrives is bytes.
    pub bytes: bool,
}

/// What a policy's rule is called.
fn name_of(policy: &Authorization, index: usize) -> String {
    format!(
        "ns[{}]-policy[{}]-rule[{index}]",
        policy.namespace, policy.name
    )
}

/// What `policies` come to: at most one for each action, in the order in which they are judged. Those that
/// ask somebody outside are not among them, see [`ask::asked`].
pub fn compile(policies: &[&Authorization], at: At<'_>) -> Vec<Rbac> {
    let of = |action: PolicyAction, dry: bool| {
        let mut some = false;
        let mut all = BTreeMap::new();
        for policy in policies {
            if policy.action != action || policy.dry_run != dry {
                continue;
            }
            some = true;
            for (index, rule) in policy.rules.iter().enumerate() {
                if let Some(entry) = entry(policy, rule, at) {
                    all.insert(name_of(policy, index), entry);
                }
            }
        }
        some.then(|| {
            Arc::new(Rules {
                action: match action {
                    PolicyAction::Allow => Action::Allow,
                    PolicyAction::Deny | PolicyAction::Custom => Action::Deny,
                    PolicyAction::Audit => Action::Log,
                },
                policies: all,
            })
        })
    };
    let mut made = Vec::new();
    // What is noted is noted of everybody, also of those that are then turned away.
    for (action, shadow_prefix) in [
        (PolicyAction::Audit, ""),
        (PolicyAction::Deny, "istio_dry_run_deny_"),
        (PolicyAction::Allow, "istio_dry_run_allow_"),
    ] {
        let (rules, shadow) = (of(action, false), of(action, true));
        if rules.is_none() && shadow.is_none() {
            continue;
        }
        made.push(Rbac {
            shadow_prefix: if shadow.is_some() { shadow_prefix } else { "" }.to_owned(),
            // Envoy wants one for bytes.
            stat_prefix: if at.bytes { "tcp." } else { "" }.to_owned(),
            rules,
            shadow,
        });
    }
    made
}

/// What a rule comes to; `None` where it never holds.
fn entry(policy: &Authorization, rule: &Rule, at: At<'_>) -> Option<Entry> {
    let keep = |condition: &&Condition| !(at.bytes && condition.on.is_of_requests());
    // Where bytes are carried, what keeps out holds for whatever it says of requests.
    let keeps_out = matches!(policy.action, PolicyAction::Deny | PolicyAction::Custom);
    if !keeps_out && !rule.conditions().all(|condition| keep(&condition)) {
        return None;
    }
    let terms = |conditions: &[Condition], permissions: Option<bool>| {
        let some = conditions.iter().filter(keep).filter(|condition| {
            permissions.is_none_or(|wanted| condition.on.is_permission() == wanted)
        });
        some.map(|condition| term(condition, policy, at))
            .collect::<Vec<Term>>()
    };
    let side = |alternatives: &[Vec<Condition>], permissions: bool| {
        let when = terms(&rule.when, Some(permissions));
        let whole = |of: Vec<Term>| all(of.into_iter().chain(when.iter().cloned()).collect());
        let mut made: Vec<Term> = match alternatives {
            [] => vec![whole(Vec::new())],
            some => some.iter().map(|of| whole(terms(of, None))).collect(),
        };
        made.retain(|term| *term != never());
        if made.contains(&Term::Any) {
            made = vec![Term::Any];
        }
        made
    };
    let entry = Entry {
        permissions: side(&rule.to, true),
        principals: side(&rule.from, false),
    };
    (!entry.permissions.is_empty() && !entry.principals.is_empty()).then_some(entry)
}

impl Rule {
    /// Whether it can hold for a port; of one that is not known, where none is named.
    pub fn is_for_port(&self, port: Option<u16>) -> bool {
        let meets = |condition: &Condition| {
            let is = |of: &String| port.is_some_and(|port| *of == port.to_string());
            condition.on != On::DestinationPort
                || ((condition.values.is_empty() || condition.values.iter().any(is))
                    && !condition.not.iter().any(is))
        };
        let to = |of: &Vec<Condition>| of.iter().all(meets);
        (self.to.is_empty() || self.to.iter().any(to)) && self.when.iter().all(meets)
    }

    /// All conditions in it.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let from = self.from.iter().chain(&self.to).flatten();
        from.chain(&self.when)
    }
}

fn never() -> Term {
    Term::Not(Box::new(Term::Any))
}

/// All of `terms`, without saying what goes without saying.
fn all(mut terms: Vec<Term>) -> Term {
    terms.retain(|term| *term != Term::Any);
    if terms.contains(&never()) {
        return never();
    }
    match (terms.pop(), terms.is_empty()) {
        (None, _) => Term::Any,
        (Some(only), true) => only,
        (Some(last), false) => {
            terms.push(last);
            Term::All(terms)
        }
    }
}

/// One of `terms`.
fn one_of(mut terms: Vec<Term>) -> Term {
    terms.retain(|term| *term != never());
    if terms.contains(&Term::Any) {
        return Term::Any;
    }
    match (terms.pop(), terms.is_empty()) {
        (None, _) => never(),
        (Some(only), true) => only,
        (Some(last), false) => {
            terms.push(last);
            Term::OneOf(terms)
        }
    }
}

fn not(term: Term) -> Term {
    match term {
        Term::Not(inner) => *inner,
        other => Term::Not(Box::new(other)),
    }
}

fn term(condition: &Condition, policy: &Authorization, at: At<'_>) -> Term {
    let of = |values: &[String]| {
        let terms = values
            .iter()
            .flat_map(|value| value_of(&condition.on, value, policy, at));
        one_of(terms.collect())
    };
    let mut both = Vec::new();
    if !condition.values.is_empty() {
        both.push(of(&condition.values));
    }
    if !condition.not.is_empty() {
        both.push(not(of(&condition.not)));
    }
    all(both)
}

/// A text with a `*` at one end. `before` stands before the whole.
pub fn wild(text: &str, before: &str) -> TextMatch {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => TextMatch::Present,
        (Some(suffix), _) => TextMatch::Suffix(suffix.to_owned()),
        (None, Some(prefix)) => TextMatch::Prefix(format!("{before}{prefix}")),
        (None, None) => TextMatch::Exact(format!("{before}{text}")),
    }
}

/// A pattern for identities; `*` in `parts` stands for what has no slash.
fn identity(domain: &str, namespace: &str, account: &str) -> Option<Term> {
    let part = |text: &str| {
        let pieces: Vec<String> = text.split('*').map(regex::escape).collect();
        pieces.join("[^/]*")
    };
    let pattern = format!(
        "{}{}/ns/{}/sa/{}",
        SpiffeId::SCHEME,
        part(domain),
        part(namespace),
        part(account)
    );
    let pattern = Pattern::new(&pattern).ok()?;
    Some(Term::Caller(TextMatch::Regex(pattern)))
}

fn value_of(on: &On, value: &str, policy: &Authorization, at: At<'_>) -> Vec<Term> {
    let claim = |path: &[&str], value: TextMatch| {
        Term::Claim(ClaimMatch {
            path: path.iter().map(|name| (*name).to_owned()).collect(),
            value,
            invert: false,
        })
    };
    let header = |name: &str, value: TextMatch| {
        Term::Header(HeaderMatch {
            name: name.to_owned(),
            value,
            invert: false,
        })
    };
    let net = |make: fn(IpNet) -> Term| network(value).map(make).into_iter().collect();
    let maybe = |term: Option<Term>| term.into_iter().collect();
    match on {
        On::Principal => {
            let own = value
                .strip_prefix(OWN_DOMAIN)
                .filter(|rest| rest.starts_with('/') && at.trust_domain != OWN_DOMAIN)
                .map(|rest| format!("{}{rest}", at.trust_domain));
            let all = std::iter::once(value.to_owned()).chain(own);
            all.map(|value| Term::Caller(wild(&value, SpiffeId::SCHEME)))
                .collect()
        }
        On::Namespace => maybe(identity("*", value, "*")),
        On::ServiceAccount => {
            let (namespace, account) = value
                .split_once('/')
                .unwrap_or((policy.namespace.as_str(), value));
            maybe(identity("*", namespace, account))
        }
        On::TrustDomain => {
            let own = (value == OWN_DOMAIN).then_some(at.trust_domain);
            let all = std::iter::once(value).chain(own.filter(|own| *own != value));
            all.filter_map(|domain| identity(domain, "*", "*"))
                .collect()
        }
        On::RequestPrincipal => request_principal(value, &claim),
        On::SourceIp => net(Term::From),
        On::RemoteIp => net(Term::Behind),
        On::DestinationIp => net(Term::To),
        On::Host => vec![Term::Host(wild(value, ""))],
        On::Method => vec![header(":method", wild(value, ""))],
        On::Path if PathTemplate::is_meant(value) => {
            maybe(PathTemplate::new(value).ok().map(Term::Template))
        }
        On::Path => vec![Term::Path(wild(value, ""))],
        On::Header(name) => vec![header(name, wild(value, ""))],
        On::Audience => vec![claim(&["aud"], wild(value, ""))],
        On::Presenter => vec![claim(&["azp"], wild(value, ""))],
        On::Claim(path) => {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            vec![claim(&path, wild(value, ""))]
        }
        On::DestinationPort => maybe(value.parse().ok().map(|wanted: u16| match at.port {
            Some(port) if port == wanted => Term::Any,
            Some(_) => never(),
            None => Term::ToPorts(wanted, wanted),
        })),
        On::ServerName => vec![Term::ServerName(wild(value, ""))],
    }
}

/// A network, or one address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// `ISS/SUB`: both may have slashes in them, so every one may be the one between.
fn request_principal(value: &str, claim: &dyn Fn(&[&str], TextMatch) -> Term) -> Vec<Term> {
    use TextMatch::{Exact, Prefix, Present, Suffix};
    let pair = |issuer: TextMatch, subject: TextMatch| {
        Term::All(vec![claim(&["iss"], issuer), claim(&["sub"], subject)])
    };
    let splits = |text: &str| -> Vec<(String, String)> {
        text.match_indices('/')
            .map(|(at, _)| {
                let (issuer, subject) = text.split_at(at);
                (issuer.to_owned(), subject.chars().skip(1).collect())
            })
            .collect()
    };
    match wild(value, "") {
        Exact(text) => splits(&text)
            .into_iter()
            .map(|(issuer, subject)| pair(Exact(issuer), Exact(subject)))
            .collect(),
        Prefix(text) => {
            let within = splits(&text)
                .into_iter()
                .map(|(issuer, subject)| pair(Exact(issuer), Prefix(subject)));
            let mut all: Vec<Term> = within.collect();
            all.push(pair(Prefix(text), Present));
            all
        }
        Suffix(text) => {
            let within = splits(&text)
                .into_iter()
                .map(|(issuer, subject)| pair(Suffix(issuer), Exact(subject)));
            let mut all: Vec<Term> = within.collect();
            all.push(pair(Present, Suffix(text)));
            all
        }
        Present | TextMatch::Regex(_) => vec![pair(Present, Present)],
    }
}
