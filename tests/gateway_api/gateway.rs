//! Gateway and GatewayClass: listeners, certificates, and what is said of them.

use crate::case::get;
use crate::http_references::{GATEWAY_API, asks, wrong_grants};
use crate::manifests::{
    all, gateway, gateway_with, grant, http_route, listener, listener_with, policy, rule,
    tls_listener,
};
use crate::stand::{INFRA, Outcome, Stand, WEB};
use crate::status::{CONTROLLER, Condition, Listener, sound};

const V1: &str = "infra-backend-v1";
const V2: &str = "infra-backend-v2";
const HTTP: &[&str] = &["HTTPRoute"];
const CERTIFICATE: &str = "certificateRefs: [{name: listener-certificate}]";

pub(crate) fn gateway_class_observed_generation_bump(s: &Stand) -> Outcome {
    let class = |description: &str| {
        format!(
            "apiVersion: {GATEWAY_API}/v1\nkind: GatewayClass\nmetadata: {{name: changing}}\n\
             spec: {{controllerName: {CONTROLLER}, description: {description}}}\n"
        )
    };
    s.apply(&class("old"))?;
    s.generations(("GatewayClass", INFRA, "changing"), &class("new"))
}

pub(crate) fn gateway_observed_generation_bump(s: &Stand) -> Outcome {
    let first = listener("http", 80, "HTTP", "bar.com");
    s.apply(&gateway("changing", std::slice::from_ref(&first)))?;
    let second = listener("alternate", 80, "HTTP", "foo.com");
    s.generations(
        ("Gateway", INFRA, "changing"),
        &gateway("changing", &[first, second]),
    )
}

pub(crate) fn gateway_name_maximum_length(s: &Stand) -> Outcome {
    let name = "n".repeat(253);
    s.apply(&gateway(&name, &[listener("http", 80, "HTTP", "")]))?;
    s.generation("Gateway", INFRA, &name).map(drop)
}

pub(crate) fn gateway_modify_listeners(s: &Stand) -> Outcome {
    let from_all = "allowedRoutes: {namespaces: {from: All}}";
    let secure = listener_with(
        "https",
        443,
        "HTTPS",
        "secure.test.com",
        &format!("{from_all}, tls: {{{CERTIFICATE}}}"),
    );
    let plain = |host: &str| listener_with("http", 80, "HTTP", host, from_all);
    let route =
        |name: &str, of: &str| http_route(name, &format!("{{name: {of}}}"), "", &[rule("").to(V1)]);

    s.apply(&all(&[
        gateway("adding", std::slice::from_ref(&secure)),
        route("one", "adding"),
    ]))?;
    let both = gateway("adding", &[secure.clone(), plain("data.test.com")]);
    s.generations(("Gateway", INFRA, "adding"), &both)?;
    s.listeners("adding", &[sound("https", HTTP, 1), sound("http", HTTP, 1)])?;
    s.expect("adding", &[get("/").host("data.test.com").by(V1)])?;

    s.apply(&all(&[
        gateway("removing", &[secure, plain("")]),
        route("two", "removing"),
    ]))?;
    let at = s.listener("removing", 443)?;
    let asked = get("/")
        .host("secure.test.com")
        .tls(s.tls("secure.test.com"))
        .by(V1);
    s.expect_at(at, std::slice::from_ref(&asked))?;
    let left = gateway("removing", &[plain("")]);
    s.generations(("Gateway", INFRA, "removing"), &left)?;
    s.listeners("removing", &[sound("http", HTTP, 1)])?;
    s.expect("removing", &[get("/").by(V1)])?;
    s.until("the listener to be gone", || match s.once(at, &asked) {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(()),
    })
}

fn of_kinds(kinds: &str) -> String {
    let more = format!("allowedRoutes: {{namespaces: {{from: All}}, kinds: [{kinds}]}}");
    listener_with("http", 80, "HTTP", "", &more)
}

pub(crate) fn gateway_with_attached_routes(s: &Stand) -> Outcome {
    let own = "allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: Selector, \
               selector: {matchLabels: {kubernetes.io/metadata.name: gateway-conformance-infra}}}}";
    let with = |name: &str, of: &str, hosts: &str| {
        http_route(name, &format!("{{name: {of}}}"), hosts, &[rule("").to(V1)])
    };
    let broken =
        format!("{own}, tls: {{mode: Terminate, certificateRefs: [{{name: does-not-exist}}]}}");
    s.apply(&all(&[
        gateway("one-route", &[listener_with("http", 80, "HTTP", "", own)]),
        with("one", "one-route", ""),
        gateway(
            "two-routes",
            &[listener_with("http", 80, "HTTP", "foo.example.com", own)],
        ),
        with("two", "two-routes", ""),
        with("three", "two-routes", ""),
        with("not-accepted", "two-routes", "not-accepted.test.com"),
        gateway(
            "unresolved",
            &[listener_with("tls", 443, "HTTPS", "", &broken)],
        ),
        http_route(
            "four",
            "{name: unresolved, sectionName: tls}",
            "",
            &[rule("").to("does-not-exist")],
        ),
    ]))?;
    s.listeners("one-route", &[sound("http", HTTP, 1)])?;
    s.listeners("two-routes", &[sound("http", HTTP, 2)])?;
    let refused = [("Accepted", false, "NoMatchingListenerHostname")];
    s.says(("HTTPRoute", INFRA, "not-accepted"), "two-routes", &refused)?;
    s.listeners(
        "unresolved",
        &[Listener {
            name: "tls",
            kinds: Some(HTTP),
            routes: Some(1),
            conditions: &[("Programmed", false, ""), ("ResolvedRefs", false, "")],
        }],
    )?;
    s.says(
        ("HTTPRoute", INFRA, "four"),
        "unresolved",
        &[("ResolvedRefs", false, "")],
    )
}

pub(crate) fn gateway_with_attached_routes_with_port_8080(s: &Stand) -> Outcome {
    let more = "allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: All}}";
    s.apply(&all(&[
        gateway(
            "two-ports",
            &[
                listener_with("http-unattached", 8080, "HTTP", "", more),
                listener_with("http", 80, "HTTP", "", more),
            ],
        ),
        http_route(
            "to-one",
            "{name: two-ports, sectionName: http}",
            "",
            &[rule("").to(V1)],
        ),
    ]))?;
    s.listeners(
        "two-ports",
        &[sound("http-unattached", HTTP, 0), sound("http", HTTP, 1)],
    )?;
    s.expect_at(s.listener("two-ports", 8080)?, &[get("/").status(404)])?;
    s.expect("two-ports", &[get("/").by(V1)])
}

pub(crate) fn gateway_listener_unsupported_protocol(s: &Stand) -> Outcome {
    let invalid = listener("invalid", 1111, "INVALID", "");
    let refused = Listener {
        name: "invalid",
        kinds: Some(&[]),
        routes: Some(0),
        conditions: &[("Accepted", false, "UnsupportedProtocol")],
    };
    s.apply(&all(&[
        gateway("only-unsupported", std::slice::from_ref(&invalid)),
        gateway(
            "partly-unsupported",
            &[listener("http", 80, "HTTP", ""), invalid],
        ),
    ]))?;
    s.gateway_has(
        "only-unsupported",
        &[("Accepted", false, "ListenersNotValid")],
    )?;
    s.listeners("only-unsupported", std::slice::from_ref(&refused))?;
    s.gateway_has(
        "partly-unsupported",
        &[("Accepted", true, "ListenersNotValid")],
    )?;
    let fine = Listener {
        conditions: &[("Accepted", true, "Accepted")],
        ..sound("http", HTTP, 0)
    };
    s.listeners("partly-unsupported", &[fine, refused])
}

pub(crate) fn gateway_invalid_parameters_ref(s: &Stand) -> Outcome {
    let more = "  infrastructure: {parametersRef: {group: invalid.io, kind: InvalidParameters, name: invalid}}\n";
    s.apply(&gateway_with(
        "parameters",
        &[listener("http", 80, "HTTP", "")],
        more,
    ))?;
    s.gateway_has("parameters", &[("Accepted", false, "InvalidParameters")])
}

pub(crate) fn gateway_invalid_route_kind(s: &Stand) -> Outcome {
    s.apply(&all(&[
        gateway("invalid-kind", &[of_kinds("{kind: InvalidRoute}")]),
        gateway(
            "partly-invalid-kind",
            &[of_kinds("{kind: InvalidRoute}, {kind: HTTPRoute}")],
        ),
    ]))?;
    for (name, kinds) in [("invalid-kind", &[][..]), ("partly-invalid-kind", HTTP)] {
        s.listeners(
            name,
            &[Listener {
                name: "http",
                kinds: Some(kinds),
                routes: Some(0),
                conditions: &[("ResolvedRefs", false, "InvalidRouteKinds")],
            }],
        )?;
    }
    Ok(())
}

/// A listener of HTTPS whose one certificate is this.
fn shows(name: &str, reference: &str) -> String {
    let more = format!(
        "allowedRoutes: {{namespaces: {{from: All}}}}, tls: {{certificateRefs: [{{{reference}}}]}}"
    );
    gateway(name, &[listener_with("https", 443, "HTTPS", "", &more)])
}

fn https_says(s: &Stand, gateway: &str, conditions: &[Condition<'_>]) -> Outcome {
    s.listeners(
        gateway,
        &[Listener {
            name: "https",
            kinds: Some(HTTP),
            routes: Some(0),
            conditions,
        }],
    )
}

pub(crate) fn gateway_invalid_tls_configuration(s: &Stand) -> Outcome {
    let cases = [
        ("no-secret", "name: nonexistent-certificate"),
        (
            "other-group",
            "group: wrong.group.company.io, kind: Secret, name: listener-certificate",
        ),
        ("other-kind", "kind: WrongKind, name: listener-certificate"),
        ("malformed", "name: malformed-certificate"),
    ];
    let mut documents = vec![format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: malformed-certificate, namespace: {INFRA}}}\n\
         type: kubernetes.io/tls\nstringData: {{tls.crt: Hello world, tls.key: Hello world}}\n"
    )];
    documents.extend(cases.map(|(name, reference)| shows(name, reference)));
    s.apply(&all(&documents))?;
    cases.iter().try_for_each(|(name, _)| {
        https_says(s, name, &[("ResolvedRefs", false, "InvalidCertificateRef")])
    })
}

const ELSEWHERE: &str =
    "kind: Secret, name: certificate, namespace: gateway-conformance-web-backend";

pub(crate) fn gateway_secret_missing_reference_grant(s: &Stand) -> Outcome {
    s.apply(&shows("not-granted", ELSEWHERE))?;
    https_says(
        s,
        "not-granted",
        &[("ResolvedRefs", false, "RefNotPermitted")],
    )
}

pub(crate) fn gateway_secret_invalid_reference_grant(s: &Stand) -> Outcome {
    let mut documents = wrong_grants(WEB, "Gateway", "Secret", "certificate");
    documents.push(shows("not-granted", ELSEWHERE));
    s.apply(&all(&documents))?;
    https_says(
        s,
        "not-granted",
        &[("ResolvedRefs", false, "RefNotPermitted")],
    )
}

fn granted(s: &Stand, to: &str) -> Outcome {
    s.apply(&all(&[
        shows("granted", ELSEWHERE),
        grant(WEB, "granted", &asks(GATEWAY_API, "Gateway", INFRA), to),
        http_route("granted", "{name: granted}", "", &[rule("").to(V1)]),
    ]))?;
    // There is a process that serves it.
    let at = s.listener("granted", 443)?;
    s.listeners(
        "granted",
        &[Listener {
            name: "https",
            kinds: Some(HTTP),
            routes: Some(1),
            conditions: &[
                ("Programmed", true, "Programmed"),
                ("ResolvedRefs", true, ""),
            ],
        }],
    )?;
    let of = get("/").host("example.org").tls(s.tls("example.org"));
    s.expect_at(at, &[of.by(V1)])
}

pub(crate) fn gateway_secret_reference_grant_all_in_namespace(s: &Stand) -> Outcome {
    granted(s, "group: '', kind: Secret")
}

pub(crate) fn gateway_secret_reference_grant_specific(s: &Stand) -> Outcome {
    granted(s, "group: '', kind: Secret, name: certificate")
}

pub(crate) fn gateway_optional_address_value(s: &Stand) -> Outcome {
    let more = "  addresses: [{type: IPAddress}]\n";
    s.apply(&gateway_with(
        "any-address",
        &[listener("http", 8080, "HTTP", "")],
        more,
    ))?;
    let at = s.listener("any-address", 8080)?;
    s.until("an address", || {
        let gateway = s.object("Gateway", INFRA, "any-address")?;
        let addresses = &gateway["status"]["addresses"];
        match addresses[0]["value"].as_str() {
            Some(address) if address == at.ip().to_string() => Ok(()),
            _ => Err(addresses.to_string()),
        }
    })
}

/// Of the addresses that are asked for, those are told that the Gateway has.
pub(crate) fn gateway_static_addresses(s: &Stand) -> Outcome {
    let name = "static-addresses";
    let of = |addresses: &[String]| {
        let more = format!("  addresses: [{}]\n", addresses.join(", "));
        gateway_with(name, &[listener("http", 8080, "HTTP", "")], &more)
    };
    s.apply(&gateway(name, &[listener("http", 8080, "HTTP", "")]))?;
    let usable = s.gateway(name)?.to_string();
    let address = |value: &str| format!("{{type: IPAddress, value: {value}}}");
    let invalid = "{type: test/fake-invalid-type, value: fake address}".to_owned();
    let unusable = address("198.51.100.7");
    s.apply(&of(&[invalid, unusable.clone(), address(&usable)]))?;
    s.gateway_has(name, &[("Accepted", false, "UnsupportedAddress")])?;
    s.apply(&of(&[unusable, address(&usable)]))?;
    s.gateway_has(
        name,
        &[
            ("Accepted", true, "Accepted"),
            ("Programmed", false, "AddressNotUsable"),
        ],
    )?;
    s.apply(&of(&[address(&usable)]))?;
    s.gateway_has(
        name,
        &[
            ("Accepted", true, "Accepted"),
            ("Programmed", true, "Programmed"),
        ],
    )?;
    s.listeners(name, &[sound("http", HTTP, 0)])?;
    let gateway = s.object("Gateway", INFRA, name)?;
    let wanted = serde_json::json!([{"type": "IPAddress", "value": usable}]);
    crate::case::same("addresses", &wanted, &gateway["status"]["addresses"])
}

fn validation(name: &str, more: &str) -> String {
    format!(
        "{{validation: {{{more}caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}]}}}}"
    )
}

/// Two listeners of HTTPS, of which the second has authorities of its own.
fn asks_callers(name: &str, mode: &str) -> String {
    let more = format!(
        "  tls:\n    frontend:\n      default: {}\n      perPort: [{{port: 8443, tls: {}}}]\n",
        validation("callers-authority", mode),
        validation("other-callers-authority", mode)
    );
    gateway_with(
        name,
        &[
            tls_listener("https", 443, "HTTPS", "", CERTIFICATE),
            tls_listener(
                "https-with-hostname",
                8443,
                "HTTPS",
                "second-example.org",
                CERTIFICATE,
            ),
        ],
        &more,
    )
}

/// What becomes of callers with the certificate that is expected, with another, and without.
fn callers(s: &Stand, name: &str, mode: &str, others: bool) -> Outcome {
    s.apply(&all(&[
        asks_callers(name, mode),
        http_route(
            "callers",
            &format!("{{name: {name}}}"),
            "example.org",
            &[rule("").to(V1)],
        ),
        http_route(
            "other-callers",
            &format!("{{name: {name}, sectionName: https-with-hostname}}"),
            "",
            &[rule("").to(V2)],
        ),
    ]))?;
    s.http_accepted(&["callers", "other-callers"], name)?;
    for (port, host, backend, own, other) in [
        (443, "example.org", V1, "caller", "other-caller"),
        (8443, "second-example.org", V2, "other-caller", "caller"),
    ] {
        let at = s.listener(name, port)?;
        let with = |client: Option<&str>| {
            let mut tls = s.tls(host);
            tls.client = client.map(|name| s.pki.pair(name).clone());
            get("/").host(host).tls(tls).by(backend)
        };
        s.expect_at(at, &[with(Some(own))])?;
        for client in [Some(other), None] {
            if others {
                s.expect_at(at, &[with(client)])?;
            } else if s.once(at, &with(client)).is_ok() {
                return Err(format!("{client:?} is let in at {port}"));
            }
        }
    }
    Ok(())
}

pub(crate) fn gateway_frontend_client_certificate_validation(s: &Stand) -> Outcome {
    callers(s, "asks-callers", "", false)
}

pub(crate) fn gateway_frontend_client_certificate_validation_insecure_fallback(
    s: &Stand,
) -> Outcome {
    callers(s, "asks-all", "mode: AllowInsecureFallback, ", true)?;
    s.gateway_has(
        "asks-all",
        &[(
            "InsecureFrontendValidationMode",
            true,
            "ConfigurationChanged",
        )],
    )?;
    // Beyond the suite: only a certificate that was held against the authority says who calls.
    let at = s.listener("asks-all", 443)?;
    let of = |client: Option<&str>| {
        let mut tls = s.tls("example.org");
        tls.client = client.map(|name| s.pki.pair(name).clone());
        let forged = "Hash=00;URI=spiffe://cluster.local/ns/a/sa/b";
        get("/")
            .host("example.org")
            .header("x-forwarded-client-cert", forged)
            .tls(tls)
            .by(V1)
    };
    let xfcc = "x-forwarded-client-cert";
    s.expect_at(
        at,
        &[
            of(Some("other-caller")).does_not_see(xfcc),
            of(None).does_not_see(xfcc),
        ],
    )?;
    let report = s.once(at, &of(Some("caller")))?.report();
    let seen = report.ok_or("no report")?["headers"][xfcc][0].clone();
    let seen = seen.as_str().unwrap_or_default();
    if seen.starts_with("Hash=") && seen.contains("DNS=caller.example.com") {
        Ok(())
    } else {
        Err(format!("a good caller is told as {seen:?}"))
    }
}

/// The conditions of a listener that lets nobody in because there is no authority.
fn without_authority(reason: &str) -> [Condition<'_>; 3] {
    [
        ("ResolvedRefs", false, reason),
        ("Accepted", false, "NoValidCACertificate"),
        ("Programmed", false, ""),
    ]
}

const WORKS: [Condition<'_>; 3] = [
    ("ResolvedRefs", true, ""),
    ("Accepted", true, ""),
    ("Programmed", true, ""),
];

pub(crate) fn gateway_frontend_invalid_default_client_certificate_validation(s: &Stand) -> Outcome {
    let name = "no-authority";
    let more = format!(
        "  tls:\n    frontend:\n      default: {}\n      perPort: [{{port: 80, tls: {}}}]\n",
        validation("does-not-exist", ""),
        validation("other-callers-authority", "")
    );
    s.apply(&all(&[
        gateway_with(
            name,
            &[
                tls_listener("https", 443, "HTTPS", "", CERTIFICATE),
                listener("http", 80, "HTTP", ""),
            ],
            &more,
        ),
        http_route(
            name,
            &format!("{{name: {name}}}"),
            "example.org",
            &[rule("").to(V1)],
        ),
    ]))?;
    s.expect(name, &[get("/").host("example.org").by(V1)])?;
    s.listener_has(name, "http", &WORKS)?;
    s.listener_has(name, "https", &without_authority("InvalidCACertificateRef"))?;
    let asked = get("/").host("example.org").tls(s.tls("example.org"));
    match s.once(s.listener(name, 443)?, &asked) {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    }
}

pub(crate) fn gateway_invalid_frontend_client_certificate_validation(s: &Stand) -> Outcome {
    let name = "bad-authorities";
    let at = |port: u16, reference: &str| {
        format!("{{port: {port}, tls: {{validation: {{caCertificateRefs: [{{{reference}}}]}}}}}}")
    };
    let more = format!(
        "  tls:\n    frontend:\n      default: {}\n      perPort: [{}, {}, {}]\n",
        validation("callers-authority", ""),
        at(7443, "group: '', kind: ConfigMap, name: non-existing"),
        at(8443, "group: '', kind: Service, name: infra-backend-v2"),
        at(
            6443,
            &format!("group: '', kind: ConfigMap, name: callers-authority, namespace: {WEB}")
        ),
    );
    s.apply(&gateway_with(
        name,
        &[
            tls_listener("https", 443, "HTTPS", "", CERTIFICATE),
            tls_listener(
                "https-unresolved",
                7443,
                "HTTPS",
                "first-example.org",
                CERTIFICATE,
            ),
            tls_listener(
                "https-invalid-kind",
                8443,
                "HTTPS",
                "second-example.org",
                CERTIFICATE,
            ),
            tls_listener(
                "https-grant-missing",
                6443,
                "HTTPS",
                "fourth-example.org",
                CERTIFICATE,
            ),
        ],
        &more,
    ))?;
    s.gateway(name)?;
    s.listener_has(name, "https", &WORKS)?;
    for (listener, reason) in [
        ("https-unresolved", "InvalidCACertificateRef"),
        ("https-invalid-kind", "InvalidCACertificateKind"),
        ("https-grant-missing", "RefNotPermitted"),
    ] {
        s.listener_has(name, listener, &without_authority(reason))?;
    }
    Ok(())
}

fn shows_backends(name: &str, reference: &str) -> String {
    let more = format!("  tls: {{backend: {{clientCertificateRef: {{{reference}}}}}}}\n");
    gateway_with(name, &[listener("http", 80, "HTTP", "")], &more)
}

pub(crate) fn gateway_invalid_tls_backend_configuration(s: &Stand) -> Outcome {
    let invalid = "InvalidClientCertificateRef";
    let cases = [
        ("no-secret", "name: nonexistent-certificate", invalid),
        (
            "other-group",
            "group: wrong.group.company.io, kind: Secret, name: gateway-certificate",
            invalid,
        ),
        (
            "other-kind",
            "kind: WrongKind, name: gateway-certificate",
            invalid,
        ),
        ("malformed", "name: malformed-client-certificate", invalid),
        ("elsewhere", ELSEWHERE, "RefNotPermitted"),
    ];
    let mut documents = vec![format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: malformed-client-certificate, namespace: {INFRA}}}\n\
         type: Opaque\ndata: {{}}\n"
    )];
    documents.extend(cases.map(|(name, reference, _)| shows_backends(name, reference)));
    s.apply(&all(&documents))?;
    cases.iter().try_for_each(|(name, _, reason)| {
        let wanted = [
            ("ResolvedRefs", false, *reason),
            ("Accepted", true, "Accepted"),
        ];
        s.gateway_has(name, &wanted)
    })
}

/// Backends that ask for a certificate are shown the Gateway's.
pub(crate) fn gateway_tls_backend_client_certificate(s: &Stand) -> Outcome {
    let (name, app) = ("shows-certificate", "asks-certificate");
    s.app_for_callers(app, &s.pki.ca.pem)?;
    s.apply(&all(&[
        shows_backends(name, "group: '', kind: Secret, name: gateway-certificate"),
        crate::base::service(
            INFRA,
            app,
            app,
            "{name: https, port: 443, targetPort: 8443}",
        ),
        policy(
            app,
            &format!("name: {app}"),
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: backend-authority}], \
             hostname: abc.example.com",
        ),
        http_route(
            name,
            &format!("{{name: {name}}}"),
            "abc.example.com",
            &[rule("").backend(&format!("{{name: {app}, port: 443}}"))],
        ),
    ]))?;
    s.http_accepted(&[name], name)?;
    s.says(
        ("BackendTLSPolicy", INFRA, app),
        name,
        &[("Accepted", true, "")],
    )?;
    s.gateway_has(name, &[("ResolvedRefs", true, "ResolvedRefs")])?;
    let case = get("/")
        .host("abc.example.com")
        .by(app)
        .sees_server_name("abc.example.com");
    s.expect(name, std::slice::from_ref(&case))?;
    let report = s
        .once(s.listener(name, 80)?, &case)?
        .report()
        .ok_or("no report")?;
    let shown = report["clientCertificate"].as_str().unwrap_or_default();
    let pem: String = s
        .pki
        .pair("gateway")
        .chain
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    crate::case::same("the certificate", &pem.as_str(), &shown)
}
