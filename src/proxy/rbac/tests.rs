//! The index says what the rules say, and both what a slow reading of the policies says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{Guard, Known};
use crate::mesh::authorization::{At, Authorization, Condition, On, PolicyAction, Rule, compile};
use crate::mesh::claims::Claims;
use crate::mesh::path::loosest;
use crate::mesh::rbac::Facts;
use crate::mesh::route::Request;
use crate::mesh::route::matching::split_query;

/// Somebody asks for something.
#[derive(Debug, Clone)]
struct Asked {
    principal: Option<String>,
    direct: String,
    remote: String,
    local: SocketAddr,
    server_name: Option<String>,
    request: Option<Asks>,
}

#[derive(Debug, Clone)]
struct Asks {
    method: String,
    host: String,
    path: String,
    headers: Vec<(String, String)>,
    claims: Option<Claims>,
}

impl Request for Asks {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }
    fn authority(&self) -> &[u8] {
        self.host.as_bytes()
    }
    fn scheme(&self) -> &[u8] {
        b"http"
    }
    fn path_and_query(&self) -> &[u8] {
        self.path.as_bytes()
    }
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) {
        for (own, value) in &self.headers {
            if own == name && !visit(value.as_bytes()) {
                return;
            }
        }
    }
    fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }
}

/// A slow reading of the policies, from their documentation and nothing else.
mod slow {
    use super::*;

    fn text(pattern: &str, value: &str) -> bool {
        match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(""), _) => true,
            (Some(end), _) => value.ends_with(end),
            (None, Some(start)) => value.starts_with(start),
            (None, None) => value == pattern,
        }
    }

    fn net(pattern: &str, address: &str) -> bool {
        let address: std::net::Ipv4Addr = address.parse().unwrap();
        let (base, length) = pattern.split_once('/').unwrap_or((pattern, "32"));
        let (base, length): (std::net::Ipv4Addr, u32) =
            (base.parse().unwrap(), length.parse().unwrap());
        let keep = |ip: std::net::Ipv4Addr| u64::from(u32::from(ip)) >> (32 - length);
        keep(base) == keep(address)
    }

    /// Trust domain, namespace, account.
    fn parts(principal: &str) -> (&str, &str, &str) {
        let parts: Vec<&str> = principal.split('/').collect();
        (parts[0], parts[2], parts[4])
    }

    fn claim(asks: &Asks, path: &[&str], pattern: &str) -> bool {
        let of = asks.claims.as_ref();
        of.is_some_and(|claims| claims.values(path).iter().any(|value| text(pattern, value)))
    }

    /// `denies`: what keeps out does so in every spelling.
    fn one(on: &On, pattern: &str, asked: &Asked, (own, denies): (&str, bool)) -> bool {
        let identity = asked
            .principal
            .as_deref()
            .and_then(|whole| whole.strip_prefix("spiffe://"));
        let of = |part: fn((&str, &str, &str)) -> String| identity.map(|id| part(parts(id)));
        match on {
            On::Principal => identity.is_some_and(|id| text(pattern, id)),
            On::Namespace => {
                of(|(_, space, _)| space.to_owned()).is_some_and(|of| text(pattern, &of))
            }
            On::TrustDomain => {
                of(|(domain, ..)| domain.to_owned()).is_some_and(|of| text(pattern, &of))
            }
            On::ServiceAccount => {
                let whole = if pattern.contains('/') {
                    pattern.to_owned()
                } else {
                    format!("{own}/{pattern}")
                };
                of(|(_, space, account)| format!("{space}/{account}")).is_some_and(|of| of == whole)
            }
            On::SourceIp => net(pattern, &asked.direct),
            On::RemoteIp => net(pattern, &asked.remote),
            On::DestinationIp => net(pattern, &asked.local.ip().to_string()),
            On::DestinationPort => pattern == asked.local.port().to_string(),
            On::ServerName => text(pattern, asked.server_name.as_deref().unwrap_or("")),
            _ => {
                let Some(asks) = &asked.request else {
                    return false;
                };
                match on {
                    On::Host => {
                        let name = asks.host.split(':').next().unwrap().to_ascii_lowercase();
                        let pattern = pattern.to_ascii_lowercase();
                        text(&pattern, &name) || text(&pattern, &asks.host.to_ascii_lowercase())
                    }
                    On::Method => {
                        let upper = asks.method.to_ascii_uppercase();
                        let (as_is, lenient) = (text(pattern, &asks.method), text(pattern, &upper));
                        if denies {
                            as_is || lenient
                        } else {
                            as_is && lenient
                        }
                    }
                    On::Path => {
                        let path = asks.path.split('?').next().unwrap();
                        let fits = |path: &str| {
                            let (pattern, path) = if denies {
                                (pattern.to_ascii_lowercase(), path.to_ascii_lowercase())
                            } else {
                                (pattern.to_owned(), path.to_owned())
                            };
                            template(&pattern, &path).unwrap_or_else(|| text(&pattern, &path))
                        };
                        // "/a;v=1/b" is "/a/b" to some.
                        let bare: Vec<&str> = path
                            .split('/')
                            .map(|of| of.split(';').next().unwrap())
                            .collect();
                        let bare = bare.join("/");
                        if denies {
                            fits(path) || fits(&bare)
                        } else {
                            fits(path) && fits(&bare)
                        }
                    }
                    On::Header(name) => {
                        let values: Vec<&str> = asks
                            .headers
                            .iter()
                            .filter(|(own, _)| own == name)
                            .map(|(_, value)| value.as_str())
                            .collect();
                        if values.is_empty() {
                            return false;
                        }
                        let joined = text(pattern, &values.join(","));
                        if values.len() == 1 {
                            return joined;
                        }
                        if denies {
                            joined || values.iter().any(|value| text(pattern, value))
                        } else {
                            values.iter().all(|value| text(pattern, value))
                        }
                    }
                    On::Audience => claim(asks, &["aud"], pattern),
                    On::Presenter => claim(asks, &["azp"], pattern),
                    On::Claim(path) => {
                        let path: Vec<&str> = path.iter().map(String::as_str).collect();
                        claim(asks, &path, pattern)
                    }
                    On::RequestPrincipal => asks
                        .claims
                        .as_ref()
                        .and_then(Claims::principal)
                        .is_some_and(|whole| text(pattern, &whole)),
                    _ => unreachable!("{on:?}"),
                }
            }
        }
    }

    fn template(pattern: &str, path: &str) -> Option<bool> {
        if !pattern.contains("{*") {
            return None;
        }
        let escaped = regex::escape(pattern)
            .replace(r"\{\*\*\}", ".*")
            .replace(r"\{\*\}", "[^/]+");
        Some(
            regex::Regex::new(&format!("^{escaped}$"))
                .unwrap()
                .is_match(path),
        )
    }

    fn condition(of: &Condition, asked: &Asked, (own, denies): (&str, bool)) -> bool {
        let values = of.values.is_empty()
            || of
                .values
                .iter()
                .any(|value| one(&of.on, value, asked, (own, denies)));
        values
            && !of
                .not
                .iter()
                .any(|value| one(&of.on, value, asked, (own, !denies)))
    }

    fn rule(rule: &Rule, policy: &Authorization, asked: &Asked) -> bool {
        let denies = policy.action == PolicyAction::Deny;
        let bytes = asked.request.is_none();
        let absent = |of: &Condition| bytes && of.on.is_of_requests();
        if !denies && rule.conditions().any(absent) {
            return false;
        }
        let all = |list: &[Condition]| {
            list.iter()
                .all(|of| absent(of) || condition(of, asked, (&policy.namespace, denies)))
        };
        let some = |lists: &[Vec<Condition>]| lists.is_empty() || lists.iter().any(|of| all(of));
        some(&rule.from) && some(&rule.to) && all(&rule.when)
    }

    /// Whether it passes.
    pub(super) fn passes(policies: &[Authorization], asked: &Asked) -> bool {
        let holds = |policy: &Authorization| policy.rules.iter().any(|of| rule(of, policy, asked));
        let of = |action| {
            policies
                .iter()
                .filter(move |policy| policy.action == action && !policy.dry_run)
        };
        if of(PolicyAction::Deny).any(holds) {
            return false;
        }
        of(PolicyAction::Allow).next().is_none() || of(PolicyAction::Allow).any(holds)
    }
}

fn texts(of: &[&str]) -> impl Strategy<Value = Vec<String>> + use<> {
    let of: Vec<String> = of.iter().map(|text| (*text).to_owned()).collect();
    vec(select(of), 1..3)
}

fn condition(ons: Vec<(On, Vec<&'static str>)>) -> impl Strategy<Value = Condition> {
    select(ons).prop_flat_map(|(on, values)| {
        let of = || texts(&values);
        let said = prop_oneof![
            3 => of().prop_map(|values| (values, Vec::new())),
            1 => of().prop_map(|not| (Vec::new(), not)),
            1 => (of(), of()),
        ];
        said.prop_map(move |(values, not)| Condition {
            on: on.clone(),
            values,
            not,
        })
    })
}

const NETS: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.0/24",
    "10.0.0.0/8",
    "192.168.0.0/16",
    "0.0.0.0/0",
];

fn sources() -> Vec<(On, Vec<&'static str>)> {
    vec![
        (
            On::Principal,
            vec![
                "cluster.local/ns/shop/sa/web",
                "cluster.local/ns/shop/*",
                "*/sa/web",
                "*",
            ],
        ),
        (On::Namespace, vec!["shop", "sh*", "*op", "other", "*"]),
        (
            On::ServiceAccount,
            vec!["web", "shop/web", "other/web", "api"],
        ),
        (On::TrustDomain, vec!["cluster.local", "td*", "td2"]),
        (
            On::RequestPrincipal,
            vec![
                "https://iss/sub/alice",
                "https://iss/*",
                "*/alice",
                "*",
                "https://iss/s*",
            ],
        ),
        (On::SourceIp, NETS.to_vec()),
        (On::RemoteIp, NETS.to_vec()),
    ]
}

fn operations() -> Vec<(On, Vec<&'static str>)> {
    vec![
        (
            On::Host,
            vec!["a.example", "*.example", "A.*", "*", "a.example:80"],
        ),
        (On::Method, vec!["GET", "P*", "*", "POST"]),
        (
            On::Path,
            vec![
                "/a", "/a*", "/A/b", "*/b", "*", "/", "/a/{*}/c", "/a/{**}", "/x/{*}",
            ],
        ),
        (On::DestinationPort, vec!["80", "8080"]),
    ]
}

fn others() -> Vec<(On, Vec<&'static str>)> {
    let mut all = sources();
    all.extend(vec![
        (On::Header("x-a".into()), vec!["1", "1,2", "1*", "*2", "*"]),
        (On::Audience, vec!["shop", "s*", "*"]),
        (On::Presenter, vec!["web", "*"]),
        (
            On::Claim(vec!["realm".into(), "role".into()]),
            vec!["admin", "a*", "*"],
        ),
        (On::DestinationIp, NETS.to_vec()),
        (On::DestinationPort, vec!["80", "8080"]),
        (On::ServerName, vec!["a.example", "*.example"]),
    ]);
    all
}

fn rule() -> impl Strategy<Value = Rule> {
    let of = |ons: Vec<(On, Vec<&'static str>)>| vec(vec(condition(ons), 1..3), 0..3);
    (
        of(sources()),
        of(operations()),
        vec(condition(others()), 0..2),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    let action = prop_oneof![
        3 => Just(PolicyAction::Allow),
        2 => Just(PolicyAction::Deny),
        1 => Just(PolicyAction::Audit),
    ];
    let policy = (action, proptest::bool::weighted(0.1), vec(rule(), 0..3));
    vec(policy, 0..4).prop_map(|all| {
        let named = all.into_iter().enumerate();
        named
            .map(|(at, (action, dry_run, rules))| Authorization {
                namespace: "shop".to_owned(),
                name: format!("p{at}"),
                action,
                dry_run,
                provider: None,
                rules,
            })
            .collect()
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let text = |of: &'static [&'static str]| select(of.to_vec()).prop_map(str::to_owned);
    let principal = text(&[
        "spiffe://cluster.local/ns/shop/sa/web",
        "spiffe://cluster.local/ns/shop/sa/api",
        "spiffe://td2/ns/other/sa/web",
    ]);
    let address = || {
        text(&[
            "10.0.0.1",
            "10.0.0.77",
            "10.9.0.1",
            "192.168.3.4",
            "8.8.8.8",
        ])
    };
    let claims = select(vec![
        json!({"iss": "https://iss/sub", "sub": "alice", "aud": "shop"}),
        json!({"iss": "https://iss", "sub": "sub/alice", "aud": ["x", "shop"], "azp": "web"}),
        json!({"iss": "https://iss", "sub": "bob", "realm": {"role": ["user", "admin"]}}),
        json!({"sub": "alice", "realm": {"role": "author"}}),
    ]);
    let claims = claims.prop_map(|value| match value {
        Value::Object(map) => Claims::new(map),
        _ => Claims::new(Map::new()),
    });
    let asks = (
        text(&["GET", "POST", "PUT", "get", "pOST"]),
        text(&[
            "a.example",
            "A.Example:80",
            "b.example",
            "other:8080",
            "a.example.org",
        ]),
        text(&[
            "/",
            "/a",
            "/A",
            "/a/b",
            "/a/b/c",
            "/a;v=1/b",
            "/a/b;x?y",
            "/x/y?q=/a",
            "/ab",
            "/a/",
            "/x/",
            "/A/B",
        ]),
        vec(
            (Just("x-a".to_owned()), text(&["1", "2", "1,2", "12"])),
            0..3,
        ),
        option::of(claims),
    )
        .prop_map(|(method, host, path, headers, claims)| Asks {
            method,
            host,
            path,
            headers,
            claims,
        });
    (
        option::weighted(0.8, principal),
        address(),
        address(),
        (address(), select(vec![80_u16, 8080, 9090])),
        option::of(text(&["a.example", "b.example", "x"])),
        option::weighted(0.8, asks),
    )
        .prop_map(
            |(principal, direct, remote, (ip, port), server_name, request)| Asked {
                principal,
                direct,
                remote,
                local: SocketAddr::new(ip.parse().unwrap(), port),
                server_name,
                request,
            },
        )
}

impl Asked {
    fn facts<'a>(&'a self, loose: Option<&'a [u8]>) -> Facts<'a> {
        Facts {
            request: match &self.request {
                Some(asks) => Some(asks),
                None => None,
            },
            principal: self.principal.as_deref(),
            direct: self.direct.parse().unwrap(),
            remote: self.remote.parse().unwrap(),
            local: self.local,
            server_name: self.server_name.as_deref(),
            loose_path: loose,
        }
    }

    /// As a connection's own guards see it, with and without what is known from an earlier call; and the
    /// rules one by one.
    fn passes(&self, all: &[Arc<Guard>]) -> bool {
        let loose = self.request.as_ref().and_then(|asks| {
            let (path, _) = split_query(asks.path.as_bytes());
            loosest(path)
        });
        let facts = self.facts(loose.as_deref());
        let mut passes = true;
        for guard in all {
            let known = Known::default();
            let first = guard.judge(&facts, &known);
            let again = guard.judge(&facts, &known);
            let plain = guard.config.rules.as_ref().map(|rules| rules.judge(&facts));
            let expected = plain.is_none_or(|verdict| verdict.passes);
            assert_eq!(first.is_ok(), expected);
            assert_eq!(again.is_ok(), expected);
            assert_eq!(guard.passes(&facts), expected);
            if let (Err(denied), Some(verdict)) = (first, plain) {
                assert_eq!(denied.policy, verdict.policy.unwrap_or("none"));
            }
            passes &= expected;
        }
        passes
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how much a test tries is no setting"
)]
fn cases() -> u32 {
    let asked = std::env::var("AUTHZ_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(100)
}

proptest! {
    // Thousands of them are as good as one: a million is asked for by AUTHZ_CASES.
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_says_what_the_policies_say(policies in policies(), asked in vec(asked(), 40)) {
        let refs: Vec<&Authorization> = policies.iter().collect();
        let made = |port: Option<u16>, bytes: bool| -> Vec<Arc<Guard>> {
            let at = At {
                trust_domain: "cluster.local",
                port,
                bytes,
            };
            let all = compile(&refs, at).into_iter();
            all.map(|rbac| Guard::new(&Arc::new(rbac))).map(Arc::new).collect()
        };
        let mut guards: BTreeMap<(Option<u16>, bool), Vec<Arc<Guard>>> = BTreeMap::new();
        for asked in asked {
            let expected = slow::passes(&policies, &asked);
            for port in [None, Some(asked.local.port())] {
                let bytes = asked.request.is_none();
                let guards = guards.entry((port, bytes)).or_insert_with(|| made(port, bytes));
                prop_assert_eq!(asked.passes(guards), expected, "{:?} of {:?}", asked, policies);
            }
        }
    }
}
