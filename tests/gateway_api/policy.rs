//! BackendTLSPolicy: TLS from the Gateway to the application, and whom it expects there.

use crate::base::service;
use crate::case::{call, get};
use crate::manifests::{
    Rule, all, exact, gateway, grpc_method, grpc_route, http_route, policy, rule, tls_route,
    tls_routes,
};
use crate::stand::{INFRA, Outcome, Stand};
use crate::status::Condition;

const SAME: &str = "{name: same-namespace}";
const PORT: &str = "{name: btls, port: 443, targetPort: 8443}";
const GOOD: [Condition<'_>; 2] = [
    ("Accepted", true, "Accepted"),
    ("ResolvedRefs", true, "ResolvedRefs"),
];

/// Authorities from a ConfigMap, and the name that is expected.
fn expects(authority: &str, hostname: &str) -> String {
    format!(
        "caCertificateRefs: [{{group: '', kind: ConfigMap, name: {authority}}}], hostname: {hostname}"
    )
}

/// A service of TLS applications, with a policy for its port.
fn secured(name: &str, app: &str, validation: &str) -> String {
    all(&[
        service(INFRA, name, app, PORT),
        policy(
            name,
            &format!("name: {name}, sectionName: btls"),
            validation,
        ),
    ])
}

/// `/NAME` leads to the service of that name.
fn by_path(name: &str) -> Rule {
    rule(&exact(&format!("/{name}"))).backend(&format!("{{name: {name}, port: 443}}"))
}

fn says(s: &Stand, policy: &str, wanted: &[Condition<'_>]) -> Outcome {
    s.says(
        ("BackendTLSPolicy", INFRA, policy),
        "same-namespace",
        wanted,
    )
}

const FAILS: [u16; 4] = [500, 502, 503, 504];

pub(crate) fn backend_tls_policy(s: &Stand) -> Outcome {
    let good = expects("backend-authority", "abc.example.com");
    let https = "same-namespace-with-https-listener";
    s.apply(&all(&[
        secured("good", "tls-backend", &good),
        secured(
            "host-mismatch",
            "tls-backend",
            &expects("backend-authority", "mismatch.example.com"),
        ),
        secured(
            "cert-mismatch",
            "tls-backend",
            &expects("stranger-authority", "abc.example.com"),
        ),
        http_route(
            "secured",
            SAME,
            "abc.example.com",
            &["good", "host-mismatch", "cert-mismatch"].map(by_path),
        ),
        http_route(
            "again",
            &format!("{{name: {https}}}"),
            "https-listener.org",
            &[by_path("good")],
        ),
    ]))?;
    s.http_accepted(&["secured"], "same-namespace")?;
    for policy in ["good", "host-mismatch", "cert-mismatch"] {
        says(s, policy, &GOOD)?;
    }
    s.says(("BackendTLSPolicy", INFRA, "good"), https, &GOOD)?;
    let of = |name: &str| get(&format!("/{name}")).host("abc.example.com");
    s.expect(
        "same-namespace",
        &[
            of("good")
                .by("tls-backend")
                .sees_server_name("abc.example.com"),
            of("host-mismatch").one_of(&FAILS),
            of("cert-mismatch").one_of(&FAILS),
        ],
    )?;
    let again = get("/good")
        .host("https-listener.org")
        .tls(s.tls("https-listener.org"));
    s.expect_at(
        s.listener(https, 443)?,
        &[again.by("tls-backend").sees_server_name("abc.example.com")],
    )?;

    // The authorities are followed: not there, there, empty, and there again.
    let own = expects("own-authority", "abc.example.com");
    let changed = policy("good", "name: good, sectionName: btls", &own);
    s.apply(&changed)?;
    let without = [
        ("Accepted", false, "NoValidCACertificate"),
        ("ResolvedRefs", false, "InvalidCACertificateRef"),
    ];
    says(s, "good", &without)?;
    s.apply(&s.trusted("own-authority", &s.pki.ca.pem))?;
    says(s, "good", &GOOD)?;
    s.expect("same-namespace", &[of("good").by("tls-backend")])?;
    s.apply(&s.trusted("own-authority", ""))?;
    says(s, "good", &without)?;
    s.expect("same-namespace", &[of("good").one_of(&FAILS)])?;
    s.apply(&s.trusted("own-authority", &s.pki.ca.pem))?;
    says(s, "good", &GOOD)?;
    s.expect("same-namespace", &[of("good").by("tls-backend")])
}

/// A policy whose authorities cannot be had: said, and no request gets through.
fn invalid(s: &Stand, name: &str, reference: &str, reason: &str) -> Outcome {
    let validation = format!("caCertificateRefs: [{{{reference}}}], hostname: abc.example.com");
    s.apply(&all(&[
        secured(name, "tls-backend", &validation),
        http_route("secured", SAME, "", &[by_path(name)]),
    ]))?;
    says(
        s,
        name,
        &[
            ("Accepted", false, "NoValidCACertificate"),
            ("ResolvedRefs", false, reason),
        ],
    )?;
    s.expect("same-namespace", &[get(&format!("/{name}")).one_of(&FAILS)])
}

pub(crate) fn backend_tls_policy_invalid_ca_certificate_ref(s: &Stand) -> Outcome {
    let reason = "InvalidCACertificateRef";
    s.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: malformed, namespace: {INFRA}}}\ndata: {{}}\n"
    ))?;
    invalid(
        s,
        "malformed",
        "group: '', kind: ConfigMap, name: malformed",
        reason,
    )?;
    invalid(
        s,
        "nonexistent",
        "group: '', kind: ConfigMap, name: nonexistent",
        reason,
    )
}

pub(crate) fn backend_tls_policy_invalid_kind(s: &Stand) -> Outcome {
    let reference = "group: invalid.io, kind: InvalidKind, name: invalid-kind";
    invalid(s, "invalid-kind", reference, "InvalidKind")
}

/// The older policy of a service or port has it; one for a port does not conflict with one for all.
pub(crate) fn backend_tls_policy_conflict_resolution(s: &Stand) -> Outcome {
    let ports = "{name: https-1, port: 443, targetPort: 8443}, {name: https-2, port: 8443, targetPort: 8443}";
    let other = expects("backend-authority", "other.example.com");
    let abc = expects("backend-authority", "abc.example.com");
    let to = |path: &str, name: &str, port: u16| {
        rule(&exact(path)).backend(&format!("{{name: {name}, port: {port}}}"))
    };
    s.apply(&all(&[
        service(INFRA, "whole", "tls-backend", PORT),
        service(INFRA, "section", "tls-backend", ports),
        service(INFRA, "both", "tls-backend", ports),
        policy("whole-1", "name: whole", &other),
        policy("whole-2", "name: whole", &abc),
        policy("section-1", "name: section, sectionName: https-1", &other),
        policy("section-2", "name: section, sectionName: https-1", &abc),
        policy("both-section", "name: both, sectionName: https-1", &other),
        policy("both-whole", "name: both", &abc),
        http_route(
            "secured",
            SAME,
            "abc.example.com",
            &[
                to("/whole", "whole", 443),
                to("/section", "section", 443),
                to("/both-section", "both", 443),
                to("/both-whole", "both", 8443),
            ],
        ),
    ]))?;
    s.http_accepted(&["secured"], "same-namespace")?;
    let accepted = [("Accepted", true, "Accepted")];
    let conflicted = [("Accepted", false, "Conflicted")];
    for (name, wanted) in [
        ("whole-1", accepted),
        ("whole-2", conflicted),
        ("section-1", accepted),
        ("section-2", conflicted),
        ("both-section", accepted),
        ("both-whole", accepted),
    ] {
        says(s, name, &wanted)?;
    }
    let of = |path: &str, name: &str| {
        get(path)
            .host("abc.example.com")
            .by("tls-backend")
            .sees_server_name(name)
    };
    s.expect(
        "same-namespace",
        &[
            of("/whole", "other.example.com"),
            of("/section", "other.example.com"),
            of("/both-section", "other.example.com"),
            of("/both-whole", "abc.example.com"),
        ],
    )
}

pub(crate) fn backend_tls_policy_grpc_route(s: &Stand) -> Outcome {
    let app = "grpc-infra-backend-v1";
    let to = |method: &str, name: &str| {
        rule(&grpc_method(method)).backend(&format!("{{name: {name}, port: 443}}"))
    };
    s.apply(&all(&[
        secured(
            "grpc-good",
            app,
            &expects("backend-authority", "abc.example.com"),
        ),
        secured(
            "grpc-host",
            app,
            &expects("backend-authority", "mismatch.example.com"),
        ),
        secured(
            "grpc-cert",
            app,
            &expects("stranger-authority", "abc.example.com"),
        ),
        grpc_route(
            "secured",
            SAME,
            "abc.example.com",
            &[
                to("Echo", "grpc-good"),
                to("EchoTwo", "grpc-host"),
                to("EchoThree", "grpc-cert"),
            ],
        ),
    ]))?;
    s.accepted("GRPCRoute", &["secured"], "same-namespace")?;
    for policy in ["grpc-good", "grpc-host", "grpc-cert"] {
        says(s, policy, &GOOD)?;
    }
    let of = |name: &str| call(name).host("abc.example.com");
    s.expect(
        "same-namespace",
        &[
            of("Echo").by(app).sees_server_name("abc.example.com"),
            of("EchoTwo").grpc_status(14),
            of("EchoThree").grpc_status(14),
        ],
    )
}

pub(crate) fn backend_tls_policy_observed_generation_bump(s: &Stand) -> Outcome {
    let of = |hostname: &str| {
        policy(
            "changing",
            "name: changing, sectionName: btls",
            &expects("backend-authority", hostname),
        )
    };
    s.apply(&all(&[
        service(INFRA, "changing", "tls-backend", PORT),
        of("abc.example.com"),
        http_route("changing", SAME, "", &[by_path("changing")]),
    ]))?;
    s.generations(
        ("BackendTLSPolicy", INFRA, "changing"),
        &of("foo.example.com"),
    )?;
    says(s, "changing", &[("Accepted", true, "")])
}

/// Where names are listed, one of them is expected in place of the host name.
pub(crate) fn backend_tls_policy_san_validation(s: &Stand) -> Outcome {
    let dns = |name: &str| format!("{{type: Hostname, hostname: {name}}}");
    let uri = |name: &str| format!("{{type: URI, uri: 'spiffe://{name}/test-identity'}}");
    let cases = [
        ("san-dns", dns("abc.example.com"), true),
        ("san-dns-mismatch", dns("dce.example.com"), false),
        ("san-uri", uri("abc.example.com"), true),
        ("san-uri-mismatch", uri("def.example.com"), false),
        (
            "sans",
            format!("{}, {}", uri("abc.example.com"), dns("abc.example.com")),
            true,
        ),
        (
            "sans-mismatch",
            format!("{}, {}", uri("def.example.com"), dns("def.example.com")),
            false,
        ),
    ];
    let mut documents = Vec::new();
    for (name, sans, _) in &cases {
        let validation = expects("backend-authority", "abc.example.com");
        documents.push(secured(
            name,
            "tls-backend",
            &format!("{validation}, subjectAltNames: [{sans}]"),
        ));
    }
    let rules: Vec<Rule> = cases.iter().map(|(name, ..)| by_path(name)).collect();
    documents.push(http_route("secured", SAME, "abc.example.com", &rules));
    s.apply(&all(&documents))?;
    s.http_accepted(&["secured"], "same-namespace")?;
    for (name, _, works) in &cases {
        says(s, name, &[("Accepted", true, "Accepted")])?;
        let case = get(&format!("/{name}")).host("abc.example.com");
        let case = if *works {
            case.by("tls-backend").sees_server_name("abc.example.com")
        } else {
            case.one_of(&FAILS)
        };
        s.expect("same-namespace", &[case])?;
    }
    Ok(())
}

/// TLS ends at the Gateway, and begins again.
pub(crate) fn backend_tls_policy_tls_route_terminate(s: &Stand) -> Outcome {
    let ends = "mode: Terminate, certificateRefs: [{name: terminate-certificate}]";
    s.apply(&all(&[
        gateway("ends", &[tls_routes("tls", 8443, "tls.example.com", ends)]),
        tls_route(
            "again",
            "{name: ends}",
            "tls.example.com",
            "{name: tls-again, port: 443}",
        ),
        secured(
            "tls-again",
            "tcp-backend",
            &expects("backend-authority", "abc.example.com"),
        ),
    ]))?;
    s.accepted("TLSRoute", &["again"], "ends")?;
    s.says(("BackendTLSPolicy", INFRA, "tls-again"), "ends", &GOOD)?;
    crate::tls::reaches(
        s,
        ("ends", 8443),
        "tls.example.com",
        "tcp-backend",
        Some("abc.example.com"),
    )
}
