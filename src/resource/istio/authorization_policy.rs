//! AuthorizationPolicy: who may call whom.

use super::header_edits::header_name;
use super::security_target::targets;
use crate::mesh::authorization::{Condition, On, PolicyAction, Rule, network};
use crate::mesh::rbac::PathTemplate;
use crate::resource::policy::Targets;
use crate::resource::reader::{Fields, Value};

/// An AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuthorizationPolicy {
    /// For whom.
    pub targets: Targets,
    /// What follows when a rule holds.
    pub action: PolicyAction,
    /// Who decides, as the MeshConfig calls it.
    pub provider: Option<String>,
    /// One of these.
    pub rules: Vec<Rule>,
}

const ACTIONS: [(&str, PolicyAction); 4] = [
    ("ALLOW", PolicyAction::Allow),
    ("DENY", PolicyAction::Deny),
    ("AUDIT", PolicyAction::Audit),
    ("CUSTOM", PolicyAction::Custom),
];

/// Fields of a source, with their negations.
const SOURCE: [(&str, &str, On); 7] = [
    ("principals", "notPrincipals", On::Principal),
    ("namespaces", "notNamespaces", On::Namespace),
    ("serviceAccounts", "notServiceAccounts", On::ServiceAccount),
    ("trustDomains", "notTrustDomains", On::TrustDomain),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        On::RequestPrincipal,
    ),
    ("ipBlocks", "notIpBlocks", On::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", On::RemoteIp),
];

/// Fields of an operation, with their negations.
const OPERATION: [(&str, &str, On); 4] = [
    ("hosts", "notHosts", On::Host),
    ("ports", "notPorts", On::DestinationPort),
    ("methods", "notMethods", On::Method),
    ("paths", "notPaths", On::Path),
];

/// Keys of conditions without a name in brackets.
const KEYS: [(&str, On); 12] = [
    ("source.ip", On::SourceIp),
    ("remote.ip", On::RemoteIp),
    ("source.namespace", On::Namespace),
    ("source.principal", On::Principal),
    ("source.serviceAccount", On::ServiceAccount),
    ("source.trustDomain", On::TrustDomain),
    ("request.auth.principal", On::RequestPrincipal),
    ("request.auth.audiences", On::Audience),
    ("request.auth.presenter", On::Presenter),
    ("destination.ip", On::DestinationIp),
    ("destination.port", On::DestinationPort),
    ("connection.sni", On::ServerName),
];

pub(in crate::resource) fn authorization_policy(fields: &Fields<'_>) -> AuthorizationPolicy {
    // Without a specification nothing is allowed, as with an empty one (Istio's rule).
    let Some(spec) = fields.get("spec") else {
        return AuthorizationPolicy::default();
    };
    let spec = spec.fields();
    let mut action = PolicyAction::default();
    if let Some(written) = spec.get("action") {
        action = written.choice(&ACTIONS).unwrap_or(action);
    }
    let provider = provider(&spec, action);
    let written = spec.get("rules");
    let rules: Vec<Rule> = written
        .as_ref()
        .map(Value::list)
        .unwrap_or_default()
        .iter()
        .map(rule)
        .collect();
    if action != PolicyAction::Allow
        && rules.is_empty()
        && let Some(value) = written.as_ref().or(spec.get("action").as_ref())
    {
        value.error_hint(
            "a policy of this action without rules does nothing",
            "rules: [{}] holds for everything; an empty policy that allows nothing has no action",
        );
    }
    let policy = AuthorizationPolicy {
        targets: targets(&spec, ("an AuthorizationPolicy", "callers are not judged")),
        action,
        provider,
        rules,
    };
    spec.finish();
    policy
}

fn provider(spec: &Fields<'_>, action: PolicyAction) -> Option<String> {
    let custom = action == PolicyAction::Custom;
    let Some(written) = spec.get("provider") else {
        if custom && let Some(action) = spec.get("action") {
            action.error_hint(
                "a CUSTOM policy names who decides",
                "provider: {name: NAME}, with NAME of an extensionProvider in the MeshConfig",
            );
        }
        return None;
    };
    if !custom {
        written.error_hint(
            "a \"provider\" is for \"action: CUSTOM\"",
            "write action: CUSTOM, or remove the provider",
        );
    }
    let fields = written.fields();
    let name = fields.require("name").and_then(|name| {
        let text = name.text()?;
        if text.is_empty() {
            name.error_hint("a name is not empty", "that of an extensionProvider");
        }
        Some(text)
    });
    fields.finish();
    name
}

fn rule(value: &Value<'_>) -> Rule {
    let fields = value.fields();
    let rule = Rule {
        from: some(&fields, "from", "source", source),
        to: some(&fields, "to", "operation", operation),
        when: fields.list("when").iter().filter_map(condition).collect(),
    };
    fields.finish();
    rule
}

/// The alternatives of `field`, each below `inner`. None at all is no condition, an empty list is a mistake.
fn some(
    fields: &Fields<'_>,
    field: &'static str,
    inner: &'static str,
    read: fn(&Fields<'_>) -> Vec<Condition>,
) -> Vec<Vec<Condition>> {
    let Some(written) = fields.get(field) else {
        return Vec::new();
    };
    let list = written.list();
    if list.is_empty() {
        written.error_hint(
            format!("an empty {field:?} says nothing"),
            format!("leave {field:?} out, or write one {inner}"),
        );
    }
    let read = |value: &Value<'_>| {
        let fields = value.fields();
        let own = fields.require(inner);
        fields.finish();
        let own = own?;
        let inside = own.fields();
        let conditions = read(&inside);
        inside.finish();
        if conditions.is_empty() {
            own.error_hint(
                format!("an empty {inner} says nothing"),
                format!("leave {field:?} out for any, or give the {inner} a field"),
            );
        }
        Some(conditions)
    };
    list.iter().filter_map(read).collect()
}

fn source(fields: &Fields<'_>) -> Vec<Condition> {
    let found = conditions(fields, &SOURCE);
    let has = |on: On| found.iter().any(|condition| condition.on == on);
    if has(On::ServiceAccount)
        && (has(On::Principal) || has(On::Namespace))
        && let Some(value) = fields
            .get("serviceAccounts")
            .or(fields.get("notServiceAccounts"))
    {
        value.error_hint(
            "a source has service accounts, or principals and namespaces",
            "write two sources",
        );
    }
    found
}

fn operation(fields: &Fields<'_>) -> Vec<Condition> {
    conditions(fields, &OPERATION)
}

fn conditions(fields: &Fields<'_>, known: &[(&'static str, &'static str, On)]) -> Vec<Condition> {
    let read = |(field, negation, on): &(&'static str, &'static str, On)| {
        let values = values(fields, field, on);
        let not = self::values(fields, negation, on);
        if values.is_none() && not.is_none() {
            return None;
        }
        Some(Condition {
            on: on.clone(),
            values: values.unwrap_or_default(),
            not: not.unwrap_or_default(),
        })
    };
    known.iter().filter_map(read).collect()
}

/// The texts of `field`, each checked for what it is compared with.
fn values(fields: &Fields<'_>, field: &'static str, on: &On) -> Option<Vec<String>> {
    let written = fields.get(field)?;
    let list = written.list();
    if list.is_empty() {
        written.error_hint(
            format!("an empty {field:?} says nothing"),
            "leave it out, or write a value",
        );
        return None;
    }
    Some(list.iter().filter_map(|value| text(value, on)).collect())
}

fn text(value: &Value<'_>, on: &On) -> Option<String> {
    let text = value.text()?;
    let fault = |message: String, hint: &str| {
        value.error_hint(message, hint);
        None
    };
    if text.is_empty() {
        return fault(
            "a value is not empty".to_owned(),
            "remove it, or write \"*\" for any that is there",
        );
    }
    match on {
        On::SourceIp | On::RemoteIp | On::DestinationIp if network(&text).is_none() => fault(
            format!("{text:?} is no address and no network"),
            "10.1.2.3, or 10.1.0.0/16",
        ),
        On::DestinationPort if !text.parse::<u16>().is_ok_and(|port| port > 0) => fault(
            format!("{text:?} is no port"),
            "a port of the workload, from 1 to 65535, as in ports: [\"8080\"]",
        ),
        On::ServiceAccount if text.contains('*') => fault(
            format!("{text:?}: a service account has no wildcard"),
            "write NAMESPACE/NAME, or NAME for one of the policy's namespace; or use principals",
        ),
        On::Principal if text.starts_with("spiffe://") => fault(
            format!("{text:?} would never be met: principals are written without spiffe://"),
            "cluster.local/ns/NAMESPACE/sa/ACCOUNT",
        ),
        On::Path if PathTemplate::is_meant(&text) => match PathTemplate::new(&text) {
            Ok(_) => Some(text),
            Err(error) => fault(
                error.to_string(),
                "/v1/{*}/items for one segment, /v1/{**} for the rest",
            ),
        },
        On::Path if !text.starts_with(['/', '*']) => fault(
            format!("{text:?} would never be met: paths begin with /"),
            "/admin, /admin/*, or */info",
        ),
        On::Path if text.contains(['?', '#']) => fault(
            format!("{text:?} would never be met: the query is not compared"),
            "write the path alone",
        ),
        _ if inner_star(&text) => fault(
            format!("{text:?}: a * stands at the beginning or at the end"),
            match on {
                On::Path => "/v1/{*}/items for one segment in between",
                _ => "write prefix* or *suffix, or several values",
            },
        ),
        _ => Some(text),
    }
}

/// Whether there is a `*` that would be taken for itself.
fn inner_star(text: &str) -> bool {
    let rest = text.strip_prefix('*').or_else(|| text.strip_suffix('*'));
    rest.unwrap_or(text).contains('*')
}

fn condition(value: &Value<'_>) -> Option<Condition> {
    let fields = value.fields();
    let key = fields.require("key");
    let written = key.and_then(|key| Some((key.text()?, key)));
    let on = written.and_then(|(text, key)| {
        if text.starts_with("experimental.envoy.filters.") {
            key.refuse(
                format!("{text:?} is not honoured: meshctl's proxy has no filters of Envoy's"),
                "request.headers[NAME], or request.auth.claims[NAME] for what a token says",
            );
            return None;
        }
        let on = on(&text, &key);
        if on.is_none() {
            let known: Vec<&str> = KEYS.iter().map(|(name, _)| *name).collect();
            key.error_hint(
                format!("{text:?} is not a key of conditions"),
                format!(
                    "request.headers[NAME], request.auth.claims[NAME], or one of {}",
                    known.join(", ")
                ),
            );
        }
        on
    });
    let read = |field| on.as_ref().and_then(|on| values(&fields, field, on));
    let (values, not) = (read("values"), read("notValues"));
    if on.is_none() {
        fields.accept(&["values", "notValues"]);
    }
    fields.finish();
    if values.is_none() && not.is_none() {
        if on.is_some() {
            value.error_hint(
                "a condition needs values or notValues",
                "values: [\"*\"] holds for any that is there",
            );
        }
        return None;
    }
    Some(Condition {
        on: on?,
        values: values.unwrap_or_default(),
        not: not.unwrap_or_default(),
    })
}

fn on(text: &str, value: &Value<'_>) -> Option<On> {
    if let Some((_, on)) = KEYS.iter().find(|(name, _)| *name == text) {
        return Some(on.clone());
    }
    let inside = |prefix: &str| {
        let rest = text.strip_prefix(prefix)?.strip_prefix('[')?;
        rest.strip_suffix(']').filter(|name| !name.is_empty())
    };
    if let Some(name) = inside("request.headers") {
        return header_name(value, name).map(On::Header);
    }
    let path: Vec<String> = inside("request.auth.claims")?
        .split("][")
        .map(str::to_owned)
        .collect();
    let whole = path
        .iter()
        .all(|name| !name.is_empty() && !name.contains(['[', ']']));
    whole.then_some(On::Claim(path))
}
