//! What is there before any test: namespaces, a class, Gateways that many routes attach to, services.

use std::fmt::Write as _;

use crate::manifests::{gateway, listener, tls_listener};
use crate::pki::{Pki, secret, trusted};
use crate::stand::{APPS, CLASS, CONSUMER, INFRA, MESH, WEB};

/// Gateways whose processes outlive a test.
pub(crate) const GATEWAYS: [&str; 4] = [
    "same-namespace",
    "same-namespace-with-https-listener",
    "all-namespaces",
    "backend-namespaces",
];

/// Applications of HTTP.
pub(crate) const HTTP_APPS: [(&str, &str); 6] = [
    (INFRA, "infra-backend-v1"),
    (INFRA, "infra-backend-v2"),
    (INFRA, "infra-backend-v3"),
    (APPS, "app-backend-v1"),
    (APPS, "app-backend-v2"),
    (WEB, "web-backend"),
];

/// Applications that speak bytes.
pub(crate) const TCP_APPS: [&str; 5] =
    ["tcp-backend", "tcp-one", "tcp-two", "tcp-three", "tcp-four"];

pub(crate) fn manifests(pki: &Pki) -> String {
    let mut all = Vec::new();
    for (name, label) in [
        (INFRA, "infra"),
        (APPS, "backend"),
        (WEB, "backend"),
        (MESH, "mesh"),
        (CONSUMER, "mesh-consumer"),
    ] {
        all.push(format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{gateway-conformance: {label}}}}}\n"
        ));
    }
    all.push(format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: {CLASS}}}\n\
         spec: {{controllerName: {}}}\n",
        crate::status::CONTROLLER
    ));
    let certificate = "certificateRefs: [{name: listener-certificate}]";
    all.push(secret(INFRA, "listener-certificate", pki.pair("listener")));
    all.push(secret(
        INFRA,
        "terminate-certificate",
        pki.pair("terminate"),
    ));
    all.push(secret(INFRA, "gateway-certificate", pki.pair("gateway")));
    all.push(secret(WEB, "certificate", pki.pair("listener")));
    all.push(trusted(INFRA, "backend-authority", &pki.ca.pem));
    all.push(trusted(INFRA, "stranger-authority", &pki.stranger.pem));
    all.push(trusted(INFRA, "callers-authority", &pki.callers.pem));
    all.push(trusted(
        INFRA,
        "other-callers-authority",
        &pki.other_callers.pem,
    ));
    all.push(trusted(WEB, "callers-authority", &pki.callers.pem));
    all.push(gateway(
        "same-namespace",
        &[listener("http", 80, "HTTP", "")],
    ));
    all.push(gateway(
        "same-namespace-with-https-listener",
        &[
            tls_listener("https", 443, "HTTPS", "", certificate),
            tls_listener(
                "https-with-hostname",
                443,
                "HTTPS",
                "second-example.org",
                certificate,
            ),
            tls_listener(
                "https-with-wildcard-hostname",
                443,
                "HTTPS",
                "*.wildcard.org",
                certificate,
            ),
            tls_listener(
                "https-with-hostname-matching-wildcard",
                443,
                "HTTPS",
                "fourth-example.wildcard.org",
                certificate,
            ),
        ],
    ));
    let from = |name: &str, from: &str| {
        format!("{{name: {name}, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {from}}}}}")
    };
    all.push(gateway("all-namespaces", &[from("http", "{from: All}")]));
    all.push(gateway(
        "backend-namespaces",
        &[from(
            "http",
            "{from: Selector, selector: {matchLabels: {gateway-conformance: backend}}}",
        )],
    ));
    for (namespace, name) in HTTP_APPS {
        let mut ports = String::from("{name: first-port, port: 8080, targetPort: 3000}");
        if name == "infra-backend-v1" {
            ports += ", {name: second-port, port: 8081, targetPort: 3001, appProtocol: kubernetes.io/h2c}, \
                      {name: third-port, port: 8082, targetPort: 3000, appProtocol: kubernetes.io/ws}";
        }
        all.push(service(namespace, name, name, &ports));
    }
    for name in [
        "grpc-infra-backend-v1",
        "grpc-infra-backend-v2",
        "grpc-infra-backend-v3",
    ] {
        let port = "{port: 8080, targetPort: 3000, appProtocol: kubernetes.io/h2c}";
        all.push(service(INFRA, name, name, port));
    }
    for (namespace, name) in [
        (INFRA, "tls-backend"),
        (INFRA, "tls-backend-2"),
        (APPS, "tls-backend"),
    ] {
        all.push(service(
            namespace,
            name,
            name,
            "{port: 443, targetPort: 8443}",
        ));
    }
    let bytes =
        "{name: plain, port: 3000, targetPort: 3000}, {name: tls, port: 8443, targetPort: 8443}";
    for name in TCP_APPS {
        all.push(service(INFRA, name, name, bytes));
    }
    all.push(service(
        WEB,
        "tcp-web-backend",
        "tcp-web-backend",
        "{name: tcp, port: 3000}",
    ));
    all.join("---\n") + &mesh()
}

/// The services of two versions of one application, and of both.
fn mesh() -> String {
    let mut text = String::new();
    for (name, version, grpc) in [
        ("echo-v1", ", version: v1", ""),
        ("echo-v2", ", version: v2", ""),
        ("echo", "", ", appProtocol: kubernetes.io/h2c"),
    ] {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {MESH}}}\n\
             spec:\n  selector: {{app: echo{version}}}\n  ports:\n  \
             - {{name: http, port: 80, targetPort: 8080, appProtocol: http}}\n  \
             - {{name: http-alt, port: 8080, appProtocol: http}}\n  \
             - {{name: tcp, port: 9090}}\n  - {{name: grpc, port: 7070{grpc}}}"
        )
        .unwrap();
    }
    text
}

/// A service of the pods labelled `app`.
pub(crate) fn service(namespace: &str, name: &str, app: &str, ports: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {app}}}, ports: [{ports}]}}\n"
    )
}
