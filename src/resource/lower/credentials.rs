//! Secrets that DestinationRules name.

use super::gateways::Credentials;
use crate::mesh::gateway::Credential;
use crate::mesh::origination::Origination;
use crate::mesh::world::TlsPolicy;
use crate::mesh::{Finding, Secret, Severity};
use crate::resource::codes;
use crate::resource::istio::{DestinationRule, Policy};
use crate::resource::object::Object;

/// Says which Secrets of `rule` are not there, and who calls without them. They may come later, and until
/// then calls that need them fail; so that is no error.
pub(super) fn named(
    object: &Object,
    rule: &DestinationRule,
    credentials: &Credentials,
    findings: &mut Vec<Finding>,
) {
    let own = &object.metadata.namespace;
    let chosen = !rule.selector.is_empty();
    let has = |name: &str, of: fn(&Credential) -> bool| {
        let mut all = credentials.iter();
        // Gateways have their own, wherever they are.
        all.any(|((namespace, known), credential)| {
            known == name && (!chosen || namespace == own) && of(credential)
        })
    };
    let mut first = true;
    for (path, how) in places(rule) {
        let mut say = |severity, code, message: String, hint: &str| {
            let finding = object.finding(severity, code, &path, message);
            findings.push(finding.hint(hint));
        };
        if !chosen && std::mem::take(&mut first) {
            say(
                Severity::Info,
                codes::CREDENTIAL_OF_GATEWAYS,
                "gateways begin this TLS; sidecars have no Secret for it and send what their application says"
                    .to_owned(),
                "let sidecars call through a gateway, or choose those that have the Secret by workloadSelector",
            );
        }
        let prefix = Secret::name_of_own("");
        let mut missing = |name: &str, what: &str| {
            let message = format!("no Secret {name:?} with {what} exists, so calls fail");
            let hint = format!("make it in the namespace of the proxy, with {what}");
            say(Severity::Warning, codes::MISSING_REFERENCE, message, &hint);
        };
        if let Some(name) = how.secret().and_then(|name| name.strip_prefix(&prefix))
            && !has(name, |credential| credential.certificate.is_some())
        {
            missing(name, "tls.crt and tls.key");
        }
        let roots = how
            .roots_secret()
            .and_then(|name| name.strip_prefix(&prefix));
        if let Some(of) = roots
            && let Some(beside) = of.strip_suffix("-cacert")
            && ![of, beside]
                .iter()
                .any(|name| has(name, |own| own.roots.is_some()))
        {
            missing(beside, "ca.crt");
        }
    }
}

/// What names Secrets, and where that stands.
fn places(rule: &DestinationRule) -> Vec<(String, &Origination)> {
    let mut found = Vec::new();
    let subsets = rule.subsets.iter().enumerate();
    let subsets =
        subsets.map(|(at, own)| (format!("spec.subsets[{at}].trafficPolicy"), &own.policy));
    let all = std::iter::once(("spec.trafficPolicy".to_owned(), &*rule.policy)).chain(subsets);
    for (path, Policy { all, ports }) in all {
        let ports = ports.values().map(|own| ("portLevelSettings", own));
        for (field, policy) in std::iter::once(("tls.credentialName", all)).chain(ports) {
            if let Some(TlsPolicy::Originate(how)) = &policy.tls
                && how.secrets().next().is_some()
            {
                found.push((format!("{path}.{field}"), &**how));
            }
        }
    }
    found
}
