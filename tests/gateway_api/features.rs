//! The features of Gateway API, and the page that says which of them are there.

use std::fmt::Write as _;

use meshctl::resource::GATEWAY_FEATURES;

use crate::table::{GROUPS, How, Test};

/// Whether a feature must be there in a profile that has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Core,
    Extended,
}

/// All features, as the official suite names them; those without tests of their own say nothing.
const FEATURES: &[(&str, Level)] = &[
    ("Gateway", Level::Core),
    ("ReferenceGrant", Level::Core),
    ("HTTPRoute", Level::Core),
    ("GRPCRoute", Level::Core),
    ("TLSRoute", Level::Core),
    ("TCPRoute", Level::Core),
    ("UDPRoute", Level::Core),
    ("Mesh", Level::Core),
    ("BackendTLSPolicy", Level::Extended),
    ("BackendTLSPolicySANValidation", Level::Extended),
    ("GatewayAddressEmpty", Level::Extended),
    ("GatewayBackendClientCertificate", Level::Extended),
    (
        "GatewayFrontendClientCertificateValidation",
        Level::Extended,
    ),
    (
        "GatewayFrontendClientCertificateValidationInsecureFallback",
        Level::Extended,
    ),
    ("GatewayHTTPListenerIsolation", Level::Extended),
    (
        "GatewayHTTPSListenerDetectMisdirectedRequests",
        Level::Extended,
    ),
    ("GatewayInfrastructurePropagation", Level::Extended),
    ("GatewayPort8080", Level::Extended),
    ("GatewayStaticAddresses", Level::Extended),
    ("ListenerSet", Level::Extended),
    ("HTTPRoute303RedirectStatusCode", Level::Extended),
    ("HTTPRoute307RedirectStatusCode", Level::Extended),
    ("HTTPRoute308RedirectStatusCode", Level::Extended),
    ("HTTPRouteBackendProtocolH2C", Level::Extended),
    ("HTTPRouteBackendProtocolWebSocket", Level::Extended),
    ("HTTPRouteBackendRequestHeaderModification", Level::Extended),
    ("HTTPRouteBackendRequestRedirect", Level::Extended),
    ("HTTPRouteBackendTimeout", Level::Extended),
    ("HTTPRouteBackendURLRewrite", Level::Extended),
    ("HTTPRouteCORS", Level::Extended),
    ("HTTPRouteDestinationPortMatching", Level::Extended),
    ("HTTPRouteHostRewrite", Level::Extended),
    ("HTTPRouteMethodMatching", Level::Extended),
    ("HTTPRouteNamedRouteRule", Level::Extended),
    ("HTTPRouteParentRefPort", Level::Extended),
    ("HTTPRoutePathRedirect", Level::Extended),
    ("HTTPRoutePathRewrite", Level::Extended),
    ("HTTPRoutePortRedirect", Level::Extended),
    ("HTTPRouteQueryParamMatching", Level::Extended),
    ("HTTPRouteRequestMirror", Level::Extended),
    ("HTTPRouteRequestMultipleMirrors", Level::Extended),
    ("HTTPRouteRequestPercentageMirror", Level::Extended),
    ("HTTPRouteRequestTimeout", Level::Extended),
    ("HTTPRouteResponseHeaderModification", Level::Extended),
    ("HTTPRouteRetry", Level::Extended),
    ("HTTPRouteRetryBackendTimeout", Level::Extended),
    ("HTTPRouteRetryConnectionError", Level::Extended),
    ("HTTPRouteSchemeRedirect", Level::Extended),
    ("GRPCRouteNamedRouteRule", Level::Extended),
    ("GRPCRouteRequestHeaderModifier", Level::Extended),
    ("TLSRouteModeMixed", Level::Extended),
    ("TLSRouteModeTerminate", Level::Extended),
    ("MeshClusterIPMatching", Level::Extended),
    ("MeshConsumerRoute", Level::Extended),
    (
        "MeshHTTPRouteBackendRequestHeaderModification",
        Level::Extended,
    ),
    ("MeshHTTPRouteNamedRouteRule", Level::Extended),
    ("MeshHTTPRouteQueryParamMatching", Level::Extended),
    ("MeshHTTPRouteRedirectPath", Level::Extended),
    ("MeshHTTPRouteRedirectPort", Level::Extended),
    ("MeshHTTPRouteRewritePath", Level::Extended),
    ("MeshHTTPRouteSchemeRedirect", Level::Extended),
];

fn level(feature: &str) -> Level {
    let found = FEATURES.iter().find(|(name, _)| *name == feature);
    found
        .unwrap_or_else(|| panic!("{feature} is not among the features"))
        .1
}

/// The features that a test decides on: those that are extended, or else those that are core, of which
/// the parents of routes are decided on by what has no routes.
fn decides_on(test: &Test) -> Vec<&'static str> {
    let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<&'static str> {
        let features = test.features.iter().copied();
        features.filter(|feature| wanted(feature)).collect()
    };
    // What is for something that is not claimed says nothing of the rest.
    let unclaimed = of(&|feature| !GATEWAY_FEATURES.contains(&feature));
    if !unclaimed.is_empty() {
        return unclaimed;
    }
    let extended = of(&|feature| level(feature) == Level::Extended);
    if !extended.is_empty() {
        return extended;
    }
    let own = of(&|feature| !matches!(feature, "Gateway" | "Mesh"));
    if own.is_empty() {
        test.features.to_vec()
    } else {
        own
    }
}

/// Tests of other kinds of implementations say nothing of ours.
fn is_for_others(test: &Test) -> bool {
    test.name.ends_with("NotSupported")
}

fn all() -> impl Iterator<Item = &'static Test> {
    GROUPS.iter().flat_map(|(_, tests)| *tests)
}

/// What the status of a class claims that it should not, and what it could claim.
pub(crate) fn wrong_claims() -> Vec<String> {
    let claimed = |feature: &&str| GATEWAY_FEATURES.contains(feature);
    let mut wrong = Vec::new();
    let passes = |test: &Test| matches!(test.how, How::Runs(_));
    for test in all().filter(|test| !is_for_others(test) && !passes(test)) {
        if test.features.iter().all(&claimed) {
            wrong.push(format!(
                "{} does not pass: one of {:?} is claimed too much",
                test.name, test.features
            ));
        }
    }
    for (name, _) in FEATURES.iter().filter(|(name, _)| !claimed(name)) {
        // With it, something would be asked that fails.
        let only = |test: &Test| {
            let mut others = test.features.iter().filter(|feature| *feature != name);
            test.features.contains(name) && others.all(&claimed)
        };
        if !all().any(|test| only(test) && !passes(test)) {
            wrong.push(format!("{name} could be claimed"));
        }
    }
    let known = |feature: &&&str| !FEATURES.iter().any(|(name, _)| name == *feature);
    wrong.extend(
        GATEWAY_FEATURES
            .iter()
            .filter(known)
            .map(|name| format!("{name} is no feature")),
    );
    wrong
}

/// `docs/gateway-api.md`.
pub(crate) fn page() -> String {
    let mut text = String::from(
        "# Gateway API\n\n\
         This page is written by the tests: `tests/gateway_api` rebuilds every test of the official conformance suite\n\
         (release 1.6) in its own words, under the same short name, and runs it against the executable: a control plane,\n\
         a process for each Gateway, sidecars, and applications that report what they saw.\n\n\
         Gateways, routes, grants and policies are applied as they are applied to Kubernetes, and say what became of them:\n\
         `meshctl get gateways.gateway.networking.k8s.io NAME -o yaml` shows `status`. A Gateway is served\n\
         by every `meshctl proxy --gateway NAME` of its namespace.\n\n\
         ## Features\n\n\
         | feature | level | tests | |\n|---|---|---|---|\n",
    );
    for (name, level) in FEATURES {
        let tests: Vec<&Test> = all()
            .filter(|test| !is_for_others(test) && decides_on(test).contains(name))
            .collect();
        let passed = tests
            .iter()
            .filter(|test| matches!(test.how, How::Runs(_)))
            .count();
        let level = if *level == Level::Core {
            "core"
        } else {
            "extended"
        };
        let mut reasons: Vec<&str> = tests.iter().filter_map(|test| reason(test)).collect();
        reasons.sort_unstable();
        reasons.dedup();
        let standing = match passed {
            _ if tests.is_empty() => "no test of its own".to_owned(),
            0 => format!("not supported: {}", reasons.join("; ")),
            _ if reasons.is_empty() => "pass".to_owned(),
            _ => format!("partly: {}", reasons.join("; ")),
        };
        writeln!(
            text,
            "| `{name}` | {level} | {passed} of {} | {standing} |",
            tests.len()
        )
        .unwrap();
    }
    text.push_str("\n## Tests\n\n| test | features | |\n|---|---|---|\n");
    let mut tests: Vec<&Test> = all().collect();
    tests.sort_by_key(|test| test.name);
    for test in tests {
        let features: Vec<String> = test
            .features
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let standing = match test.how {
            How::Runs(_) => "pass".to_owned(),
            How::Fails(_, why) => format!("fails: {why}"),
            How::Left(why) => format!("not run: {why}"),
        };
        writeln!(
            text,
            "| {} | {} | {standing} |",
            test.name,
            features.join(" ")
        )
        .unwrap();
    }
    text
}

fn reason(test: &Test) -> Option<&'static str> {
    match test.how {
        How::Runs(_) => None,
        How::Fails(_, why) | How::Left(why) => Some(why),
    }
}
