//! What other controllers are told by annotations, and the native way to say it.

use crate::mesh::{Finding, Severity};
use crate::resource::codes;
use crate::resource::object::Object;

/// Prefixes of annotations that are for one controller.
const PREFIXES: [&str; 9] = [
    "nginx.ingress.kubernetes.io/",
    "nginx.org/",
    "traefik.ingress.kubernetes.io/",
    "haproxy.org/",
    "haproxy-ingress.github.io/",
    "alb.ingress.kubernetes.io/",
    "konghq.com/",
    "projectcontour.io/",
    "ingress.kubernetes.io/",
];

const BOUND: &str = "write a VirtualService bound to a Gateway in place of the Ingress";
const REWRITE: &str =
    "write a VirtualService with rewrite, bound to a Gateway, in place of the Ingress";
const REDIRECT: &str =
    "write a VirtualService with redirect, bound to a Gateway, in place of the Ingress";
const SECURE: &str = "write a Gateway with tls.httpsRedirect, and a VirtualService bound to it, in place of the Ingress";
const SPLIT: &str = "write a VirtualService with weighted destinations, bound to a Gateway, in place of both Ingresses";
const CALLERS: &str = "nothing in a gateway of the mesh decides by that yet; keep this Ingress with its controller, by ingressClassName";
const UPSTREAM: &str = "say what is spoken by the name or appProtocol of the Service's port, and TLS to it by a DestinationRule; then remove the annotation";

/// Annotations of ingress-nginx that change where requests go or who may make them: name, the value that
/// asks for nothing, and what to do instead.
const CHANGES: &[(&str, &str, &str)] = &[
    ("rewrite-target", "", REWRITE),
    (
        "use-regex",
        "false",
        "write a VirtualService with uri.regex, bound to a Gateway, in place of the Ingress",
    ),
    ("app-root", "", REDIRECT),
    ("permanent-redirect", "", REDIRECT),
    ("permanent-redirect-code", "", REDIRECT),
    ("temporal-redirect", "", REDIRECT),
    ("temporal-redirect-code", "", REDIRECT),
    ("from-to-www-redirect", "false", REDIRECT),
    ("ssl-redirect", "false", SECURE),
    ("force-ssl-redirect", "false", SECURE),
    (
        "ssl-passthrough",
        "false",
        "write a Gateway with tls.mode PASSTHROUGH, and a VirtualService with tls routes",
    ),
    ("backend-protocol", "HTTP", UPSTREAM),
    ("secure-backends", "false", UPSTREAM),
    ("proxy-ssl-secret", "", UPSTREAM),
    ("proxy-ssl-verify", "", UPSTREAM),
    ("grpc-backend", "false", UPSTREAM),
    ("default-backend", "", "write spec.defaultBackend"),
    ("custom-http-errors", "", BOUND),
    ("server-alias", "", "write a rule for each of the hosts"),
    (
        "upstream-vhost",
        "",
        "write a VirtualService with rewrite.authority, bound to a Gateway, in place of the Ingress",
    ),
    (
        "service-upstream",
        "",
        "remove it: the mesh balances over the endpoints of the service itself",
    ),
    (
        "mirror-target",
        "",
        "write a VirtualService with mirror, bound to a Gateway, in place of the Ingress",
    ),
    ("server-snippet", "", BOUND),
    ("configuration-snippet", "", BOUND),
    ("location-snippet", "", BOUND),
    ("stream-snippet", "", BOUND),
    ("canary", "false", SPLIT),
    ("canary-weight", "", SPLIT),
    ("canary-by-header", "", SPLIT),
    ("canary-by-header-value", "", SPLIT),
    ("canary-by-header-pattern", "", SPLIT),
    ("canary-by-cookie", "", SPLIT),
    ("auth-type", "", CALLERS),
    ("auth-secret", "", CALLERS),
    ("auth-realm", "", CALLERS),
    ("auth-url", "", CALLERS),
    ("auth-signin", "", CALLERS),
    (
        "auth-tls-secret",
        "",
        "write a Gateway with tls.mode MUTUAL, and a VirtualService bound to it, in place of the Ingress",
    ),
    (
        "auth-tls-verify-client",
        "off",
        "write a Gateway with tls.mode MUTUAL, and a VirtualService bound to it, in place of the Ingress",
    ),
    ("whitelist-source-range", "", CALLERS),
    ("allowlist-source-range", "", CALLERS),
    ("denylist-source-range", "", CALLERS),
    ("satisfy", "", CALLERS),
];

/// Those that only tune, by prefix, and what does the same.
const TUNES: &[(&str, &str)] = &[
    (
        "proxy-connect-timeout",
        "write connectionPool.tcp.connectTimeout in a DestinationRule",
    ),
    (
        "proxy-next-upstream",
        "write retries in a VirtualService; without, requests that no endpoint can have seen are tried again",
    ),
    (
        "proxy-read-timeout",
        "write timeout in a VirtualService; without, a request may take as long as it likes",
    ),
    (
        "proxy-send-timeout",
        "write timeout in a VirtualService; without, a request may take as long as it likes",
    ),
    (
        "proxy-body-size",
        "remove it: the mesh carries bodies of any size",
    ),
    ("proxy-buffer", "remove it: the mesh keeps no whole bodies"),
    (
        "proxy-request-buffering",
        "remove it: the mesh keeps no whole bodies",
    ),
    (
        "affinity",
        "write loadBalancer.consistentHash in a DestinationRule",
    ),
    (
        "session-cookie",
        "write loadBalancer.consistentHash.httpCookie in a DestinationRule",
    ),
    (
        "upstream-hash-by",
        "write loadBalancer.consistentHash in a DestinationRule",
    ),
    ("load-balance", "write loadBalancer in a DestinationRule"),
    (
        "enable-cors",
        "write corsPolicy in a VirtualService bound to a Gateway",
    ),
    (
        "cors-",
        "write corsPolicy in a VirtualService bound to a Gateway",
    ),
    (
        "hsts",
        "write headers.response in a VirtualService bound to a Gateway",
    ),
    (
        "websocket-services",
        "remove it: connections are upgraded without it",
    ),
];

/// Reports annotations for other controllers. Whether one of them asks for what would change where
/// requests go, so that to serve them without it would be wrong.
pub(super) fn judged(object: &Object, findings: &mut Vec<Finding>) -> bool {
    let mut changes = false;
    for (name, value) in &object.metadata.annotations {
        let Some(short) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) else {
            continue;
        };
        let path = format!("metadata.annotations[{name:?}]");
        let changing = CHANGES.iter().find(|(known, ..)| *known == short);
        if let Some((_, nothing, instead)) = changing {
            if value == nothing {
                continue;
            }
            changes = true;
            let message = format!(
                "annotation {name:?} changes what becomes of requests and is not honoured by meshctl, so the Ingress is not served"
            );
            let code = codes::NOT_HONOURED;
            let finding = object.finding(Severity::Error, code, &path, message);
            findings.push(finding.hint(*instead));
            continue;
        }
        let tuning = TUNES.iter().find(|(known, _)| short.starts_with(known));
        let hint = tuning.map_or_else(
            || "remove it, or live without its effect".to_owned(),
            |(_, instead)| (*instead).to_owned(),
        );
        let message = format!("annotation {name:?} is for another controller and has no effect");
        let code = codes::IGNORED;
        let finding = object.finding(Severity::Warning, code, &path, message);
        findings.push(finding.hint(hint));
    }
    changes
}
