//! HTTPRoute: what filters do to requests and answers.

use crate::case::{Case, get, method, same};
use crate::manifests::{all, gateway, http_route, listener, prefix, rule};
use crate::stand::{Outcome, Stand};

const V1: &str = "infra-backend-v1";
const V2: &str = "infra-backend-v2";
const V3: &str = "infra-backend-v3";
const SAME: &str = "{name: same-namespace}";

pub(crate) fn redirect(to: &str) -> String {
    format!("{{type: RequestRedirect, requestRedirect: {{{to}}}}}")
}

fn to_prefix(path: &str) -> String {
    format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {path}}}")
}

fn to_full(path: &str) -> String {
    format!("path: {{type: ReplaceFullPath, replaceFullPath: {path}}}")
}

fn rewrite(to: &str) -> String {
    format!("{{type: URLRewrite, urlRewrite: {{{to}}}}}")
}

fn named(fields: &[(&str, &str)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{{name: {name}, value: {value}}}"))
        .collect();
    fields.join(", ")
}

fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &str) -> String {
    format!(
        "{{set: [{}], add: [{}], remove: [{remove}]}}",
        named(set),
        named(add)
    )
}

fn request_edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &str) -> String {
    let edits = edits(set, add, remove);
    format!("{{type: RequestHeaderModifier, requestHeaderModifier: {edits}}}")
}

pub(crate) fn response_edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &str) -> String {
    let edits = edits(set, add, remove);
    format!("{{type: ResponseHeaderModifier, responseHeaderModifier: {edits}}}")
}

/// The edits that stand beside other filters.
fn usual_edits() -> String {
    request_edits(
        &[("X-Header-Set", "set-overwrites-values")],
        &[
            ("X-Header-Add", "header-val-1"),
            ("X-Header-Add-Append", "header-val-2"),
        ],
        "X-Header-Remove",
    )
}

/// A request that the usual edits change.
fn with_usual_edits(case: Case) -> Case {
    case.header("X-Header-Remove", "remove-val")
        .header("X-Header-Add-Append", "append-val-1")
        .sees("X-Header-Add", "header-val-1")
        .sees("X-Header-Add-Append", "append-val-1,header-val-2")
        .sees("X-Header-Set", "set-overwrites-values")
        .does_not_see("X-Header-Remove")
}

/// An HTTPRoute of redirects, by path.
fn redirects(name: &str, parent: &str, of: &[(&str, String)]) -> String {
    let rules: Vec<_> = of
        .iter()
        .map(|(path, to)| rule(&prefix(path)).filter(&redirect(to)))
        .collect();
    http_route(name, parent, "", &rules)
}

fn redirect_status(s: &Stand, status: u16, asked: &str) -> Outcome {
    let to = format!("statusCode: {status}");
    s.apply(&redirects("moved", SAME, &[("/moved", to)]))?;
    s.http_accepted(&["moved"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[method(asked, "/moved").to_same().status(status)],
    )
}

pub(crate) fn http_route_303_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 303, "POST")
}

pub(crate) fn http_route_307_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 307, "GET")
}

pub(crate) fn http_route_308_redirect(s: &Stand) -> Outcome {
    redirect_status(s, 308, "GET")
}

pub(crate) fn host_redirects() -> Vec<(&'static str, String)> {
    vec![
        ("/hostname-redirect", "hostname: example.org".to_owned()),
        (
            "/host-and-status",
            "statusCode: 301, hostname: example.org".to_owned(),
        ),
    ]
}

pub(crate) fn host_redirect_cases() -> Vec<Case> {
    vec![
        get("/hostname-redirect").to_host("example.org"),
        get("/host-and-status").to_host("example.org").status(301),
    ]
}

pub(crate) fn http_route_redirect_host_and_status(s: &Stand) -> Outcome {
    s.apply(&redirects("hosts", SAME, &host_redirects()))?;
    s.http_accepted(&["hosts"], "same-namespace")?;
    s.expect("same-namespace", &host_redirect_cases())
}

pub(crate) fn path_redirects() -> Vec<(&'static str, String)> {
    let (prefixed, full) = (
        to_prefix("/replacement-prefix"),
        to_full("/replacement-full"),
    );
    vec![
        ("/original-prefix", prefixed.clone()),
        ("/full", to_full("/full-path-replacement")),
        (
            "/path-and-host",
            format!("hostname: example.org, {prefixed}"),
        ),
        ("/path-and-status", format!("{prefixed}, statusCode: 301")),
        (
            "/full-path-and-host",
            format!("hostname: example.org, {full}"),
        ),
        ("/full-path-and-status", format!("{full}, statusCode: 301")),
    ]
}

pub(crate) fn path_redirect_cases() -> Vec<Case> {
    vec![
        get("/original-prefix/lemon").to_path("/replacement-prefix/lemon"),
        get("/full/path/original").to_path("/full-path-replacement"),
        get("/path-and-host")
            .to_host("example.org")
            .to_path("/replacement-prefix"),
        get("/path-and-status")
            .to_path("/replacement-prefix")
            .status(301),
        get("/full-path-and-host")
            .to_host("example.org")
            .to_path("/replacement-full"),
        get("/full-path-and-status")
            .to_path("/replacement-full")
            .status(301),
    ]
}

pub(crate) fn http_route_redirect_path(s: &Stand) -> Outcome {
    s.apply(&redirects("paths", SAME, &path_redirects()))?;
    s.http_accepted(&["paths"], "same-namespace")?;
    s.expect("same-namespace", &path_redirect_cases())
}

pub(crate) fn port_redirects() -> Vec<(&'static str, String)> {
    vec![
        ("/port", "port: 8083".to_owned()),
        (
            "/port-and-host",
            "hostname: example.org, port: 8083".to_owned(),
        ),
        ("/port-and-status", "port: 8083, statusCode: 301".to_owned()),
        (
            "/port-and-host-and-status",
            "port: 8083, hostname: example.org, statusCode: 302".to_owned(),
        ),
    ]
}

pub(crate) fn port_redirect_cases() -> Vec<Case> {
    vec![
        get("/port").to_port(8083),
        get("/port-and-host").to_host("example.org").to_port(8083),
        get("/port-and-status").to_port(8083).status(301),
        get("/port-and-host-and-status")
            .to_host("example.org")
            .to_port(8083),
    ]
}

pub(crate) fn http_route_redirect_port(s: &Stand) -> Outcome {
    s.apply(&redirects("ports", SAME, &port_redirects()))?;
    s.http_accepted(&["ports"], "same-namespace")?;
    s.expect("same-namespace", &port_redirect_cases())
}

pub(crate) fn scheme_redirects() -> Vec<(&'static str, String)> {
    vec![
        ("/scheme", "scheme: https".to_owned()),
        (
            "/scheme-and-host",
            "scheme: https, hostname: example.org".to_owned(),
        ),
        (
            "/scheme-and-status",
            "scheme: https, statusCode: 301".to_owned(),
        ),
        (
            "/scheme-and-host-and-status",
            "scheme: https, statusCode: 302, hostname: example.org".to_owned(),
        ),
    ]
}

pub(crate) fn scheme_redirect_cases() -> Vec<Case> {
    vec![
        get("/scheme").to_scheme("https"),
        get("/scheme-and-host")
            .to_scheme("https")
            .to_host("example.org"),
        get("/scheme-and-status").to_scheme("https").status(301),
        get("/scheme-and-host-and-status")
            .to_scheme("https")
            .to_host("example.org"),
    ]
}

pub(crate) fn http_route_redirect_scheme(s: &Stand) -> Outcome {
    s.apply(&redirects("schemes", SAME, &scheme_redirects()))?;
    s.http_accepted(&["schemes"], "same-namespace")?;
    s.expect("same-namespace", &scheme_redirect_cases())
}

/// A port that is not named is the scheme's own where a scheme is named, and else the listener's.
pub(crate) fn http_route_redirect_port_and_scheme(s: &Stand) -> Outcome {
    let on_8080 = "http-on-8080";
    let on_443 = "same-namespace-with-https-listener";
    let to = |of: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let host = |(path, to): &(&'static str, &str)| {
            let more = if to.is_empty() {
                String::new()
            } else {
                format!(", {to}")
            };
            (*path, format!("hostname: example.org{more}"))
        };
        of.iter().map(host).collect()
    };
    s.apply(&all(&[
        gateway(on_8080, &[listener("http", 8080, "HTTP", "")]),
        redirects(
            "from-80",
            SAME,
            &to(&[
                ("/nil-nil", ""),
                ("/nil-80", "port: 80"),
                ("/nil-8080", "port: 8080"),
                ("/https-nil", "scheme: https"),
                ("/https-443", "scheme: https, port: 443"),
                ("/https-8443", "scheme: https, port: 8443"),
            ]),
        ),
        redirects(
            "from-8080",
            &format!("{{name: {on_8080}}}"),
            &to(&[
                ("/nil-nil", ""),
                ("/nil-80", "port: 80"),
                ("/https-nil", "scheme: https"),
            ]),
        ),
        redirects(
            "from-443",
            &format!("{{name: {on_443}}}"),
            &to(&[
                ("/nil-nil", ""),
                ("/nil-443", "port: 443"),
                ("/nil-8443", "port: 8443"),
                ("/http-nil", "scheme: http"),
                ("/http-80", "scheme: http, port: 80"),
                ("/http-8080", "scheme: http, port: 8080"),
            ]),
        ),
    ]))?;
    s.http_accepted(&["from-80"], "same-namespace")?;
    s.http_accepted(&["from-8080"], on_8080)?;
    s.http_accepted(&["from-443"], on_443)?;
    let org = |path: &str, scheme: &str| get(path).to_host("example.org").to_scheme(scheme);
    s.expect(
        "same-namespace",
        &[
            org("/nil-nil", "http"),
            org("/nil-80", "http"),
            org("/nil-8080", "http").to_port(8080),
            org("/https-nil", "https"),
            org("/https-443", "https"),
            org("/https-8443", "https").to_port(8443),
        ],
    )?;
    s.expect_at(
        s.listener(on_8080, 8080)?,
        &[
            org("/nil-nil", "http").to_port(8080),
            org("/nil-80", "http"),
            org("/https-nil", "https"),
        ],
    )?;
    let secure = |path: &str, scheme: &str| {
        org(path, scheme)
            .host("example.org")
            .tls(s.tls("example.org"))
    };
    s.expect_at(
        s.listener(on_443, 443)?,
        &[
            secure("/nil-nil", "https"),
            secure("/nil-443", "https"),
            secure("/nil-8443", "https").to_port(8443),
            secure("/http-nil", "http"),
            secure("/http-80", "http"),
            secure("/http-8080", "http").to_port(8080),
        ],
    )
}

pub(crate) fn http_route_backend_request_redirect(s: &Stand) -> Outcome {
    let to = |path: &str, to: &str| {
        let filter = redirect(to);
        let backend = format!("{{name: {V1}, port: 8080, filters: [{filter}]}}");
        rule(&prefix(path)).backend(&backend)
    };
    let rules = [
        to("/full", &to_full("/redirected-full")),
        to("/prefix", &to_prefix("/redirected-prefix")),
    ];
    s.apply(&http_route("backend-redirect", SAME, "", &rules))?;
    s.http_accepted(&["backend-redirect"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/full/original").to_path("/redirected-full"),
            get("/prefix/original").to_path("/redirected-prefix/original"),
        ],
    )
}

pub(crate) fn http_route_backend_url_rewrite(s: &Stand) -> Outcome {
    let to = |path: &str, to: &str| {
        let filter = rewrite(to);
        let backend = format!("{{name: {V1}, port: 8080, filters: [{filter}]}}");
        rule(&prefix(path)).backend(&backend)
    };
    let rules = [
        to("/full", &to_full("/rewritten-full")),
        to("/prefix", &to_prefix("/rewritten-prefix")),
    ];
    s.apply(&http_route("backend-rewrite", SAME, "", &rules))?;
    s.http_accepted(&["backend-rewrite"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/full/original").by(V1).sees_path("/rewritten-full"),
            get("/prefix/original")
                .by(V1)
                .sees_path("/rewritten-prefix/original"),
        ],
    )
}

pub(crate) fn http_route_rewrite_host(s: &Stand) -> Outcome {
    let rules = [
        rule(&prefix("/one"))
            .filter(&rewrite("hostname: one.example.org"))
            .to(V1),
        rule("").filter(&rewrite("hostname: example.org")).to(V2),
        rule(&prefix("/rewrite-host-and-modify-headers"))
            .filter(&rewrite("hostname: test.example.org"))
            .filter(&usual_edits())
            .to(V2),
    ];
    s.apply(&http_route("rewrite-host", SAME, "rewrite.example", &rules))?;
    s.http_accepted(&["rewrite-host"], "same-namespace")?;
    let of = |path: &str| get(path).host("rewrite.example");
    s.expect(
        "same-namespace",
        &[
            of("/one")
                .by(V1)
                .sees_path("/one")
                .sees_host("one.example.org"),
            of("/two").by(V2).sees_path("/two").sees_host("example.org"),
            with_usual_edits(of("/rewrite-host-and-modify-headers"))
                .by(V2)
                .sees_host("test.example.org"),
        ],
    )
}

pub(crate) fn path_rewrites(
    to: impl Fn(crate::manifests::Rule) -> crate::manifests::Rule,
) -> Vec<crate::manifests::Rule> {
    let of = |path: &str, how: &str| rule(&prefix(path)).filter(&rewrite(how));
    vec![
        to(of("/prefix/one", &to_prefix("/one"))),
        to(of("/strip-prefix", &to_prefix("/"))),
        to(of("/full/one", &to_full("/one"))),
        to(of("/full/rewrite-path-and-modify-headers", &to_full("/test")).filter(&usual_edits())),
        to(of(
            "/prefix/rewrite-path-and-modify-headers",
            &to_prefix("/prefix"),
        )
        .filter(&usual_edits())),
    ]
}

pub(crate) fn path_rewrite_cases(backend: &str) -> Vec<Case> {
    let edited = |path: &str, seen: &str| {
        with_usual_edits(get(path).header("X-Header-Set", "set-val"))
            .by(backend)
            .sees_path(seen)
    };
    vec![
        get("/prefix/one/two").by(backend).sees_path("/one/two"),
        get("/strip-prefix/three").by(backend).sees_path("/three"),
        get("/strip-prefix").by(backend).sees_path("/"),
        get("/full/one/two").by(backend).sees_path("/one"),
        edited("/full/rewrite-path-and-modify-headers/test", "/test"),
        edited("/prefix/rewrite-path-and-modify-headers/one", "/prefix/one"),
    ]
}

pub(crate) fn http_route_rewrite_path(s: &Stand) -> Outcome {
    let rules = path_rewrites(|rule| rule.to(V1));
    s.apply(&http_route("rewrite-path", SAME, "", &rules))?;
    s.http_accepted(&["rewrite-path"], "same-namespace")?;
    s.expect("same-namespace", &path_rewrite_cases(V1))
}

/// Edits of requests by path.
fn header_edits() -> [(&'static str, String); 5] {
    [
        (
            "/set",
            request_edits(&[("X-Header-Set", "set-overwrites-values")], &[], ""),
        ),
        (
            "/add",
            request_edits(&[], &[("X-Header-Add", "add-appends-values")], ""),
        ),
        ("/remove", request_edits(&[], &[], "X-Header-Remove")),
        (
            "/multiple",
            request_edits(
                &[
                    ("X-Header-Set-1", "header-set-1"),
                    ("X-Header-Set-2", "header-set-2"),
                ],
                &[
                    ("X-Header-Add-1", "header-add-1"),
                    ("X-Header-Add-2", "header-add-2"),
                    ("X-Header-Add-3", "header-add-3"),
                ],
                "X-Header-Remove-1, X-Header-Remove-2",
            ),
        ),
        (
            "/case-insensitivity",
            request_edits(
                &[("X-Header-Set", "header-set")],
                &[("X-Header-Add", "header-add")],
                "X-Header-Remove",
            ),
        ),
    ]
}

pub(crate) fn header_cases(backend: &str) -> Vec<Case> {
    let of = |path: &str| get(path).by(backend).sees_path(path);
    let other = |case: Case| {
        case.header("Some-Other-Header", "val")
            .sees("Some-Other-Header", "val")
    };
    vec![
        other(of("/set")).sees("X-Header-Set", "set-overwrites-values"),
        other(of("/set"))
            .header("X-Header-Set", "some-other-value")
            .sees("X-Header-Set", "set-overwrites-values"),
        other(of("/add")).sees("X-Header-Add", "add-appends-values"),
        other(of("/add"))
            .header("X-Header-Add", "some-other-value")
            .sees("X-Header-Add", "some-other-value,add-appends-values"),
        of("/remove")
            .header("X-Header-Remove", "val")
            .does_not_see("X-Header-Remove"),
        of("/multiple")
            .header("X-Header-Set-2", "set-val-2")
            .header("X-Header-Add-2", "add-val-2")
            .header("X-Header-Remove-2", "remove-val-2")
            .header("Another-Header", "another-header-val")
            .sees("X-Header-Set-1", "header-set-1")
            .sees("X-Header-Set-2", "header-set-2")
            .sees("X-Header-Add-1", "header-add-1")
            .sees("X-Header-Add-2", "add-val-2,header-add-2")
            .sees("X-Header-Add-3", "header-add-3")
            .sees("Another-Header", "another-header-val")
            .does_not_see("X-Header-Remove-1")
            .does_not_see("X-Header-Remove-2"),
        of("/case-insensitivity")
            .header("x-header-set", "original-val-set")
            .header("x-header-add", "original-val-add")
            .header("x-header-remove", "original-val-remove")
            .header("Another-Header", "another-header-val")
            .sees("X-Header-Set", "header-set")
            .sees("X-Header-Add", "original-val-add,header-add")
            .sees("Another-Header", "another-header-val")
            .does_not_see("X-Header-Remove"),
    ]
}

pub(crate) fn header_rules(
    to: impl Fn(crate::manifests::Rule) -> crate::manifests::Rule,
) -> Vec<crate::manifests::Rule> {
    let of = |(path, filter): (&str, String)| to(rule(&prefix(path)).filter(&filter));
    header_edits().map(of).into()
}

/// The same edits, on one backend.
pub(crate) fn backend_header_rules(service: &str, port: u16) -> Vec<crate::manifests::Rule> {
    let of = |(path, filter): (&str, String)| {
        let backend = format!("{{name: {service}, port: {port}, filters: [{filter}]}}");
        rule(&prefix(path)).backend(&backend)
    };
    header_edits().map(of).into()
}

pub(crate) fn http_route_request_header_modifier(s: &Stand) -> Outcome {
    s.apply(&http_route(
        "headers",
        SAME,
        "",
        &header_rules(|rule| rule.to(V1)),
    ))?;
    s.http_accepted(&["headers"], "same-namespace")?;
    s.expect("same-namespace", &header_cases(V1))
}

pub(crate) fn http_route_backend_request_header_modifier(s: &Stand) -> Outcome {
    s.apply(&http_route(
        "headers",
        SAME,
        "",
        &backend_header_rules(V1, 8080),
    ))?;
    s.http_accepted(&["headers"], "same-namespace")?;
    s.expect("same-namespace", &header_cases(V1))
}

/// Each backend gets what its own filter adds.
pub(crate) fn http_route_request_header_modifier_backend_weights(s: &Stand) -> Outcome {
    let to = |service: &str| {
        let filter = request_edits(&[("Backend", service)], &[], "");
        format!("{{name: {service}, port: 8080, weight: 10, filters: [{filter}]}}")
    };
    let rules = [rule("").backend(&to(V1)).backend(&to(V2))];
    s.apply(&http_route("weighted-headers", SAME, "", &rules))?;
    s.http_accepted(&["weighted-headers"], "same-namespace")?;
    s.expect("same-namespace", &[get("/")])?;
    let at = s.listener("same-namespace", 80)?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let report = s.once(at, &get("/"))?.report().ok_or("no report")?;
        let pod = report["pod"].as_str().unwrap_or_default().to_owned();
        let told = &report["headers"]["backend"];
        same("Backend", &serde_json::json!([pod]), told)?;
        seen.insert(pod);
    }
    same("the number of backends", &2, &seen.len())
}

pub(crate) fn http_route_response_header_modifier(s: &Stand) -> Outcome {
    let set = [
        ("X-Header-Set-1", "header-set-1"),
        ("X-Header-Set-2", "header-set-2"),
    ];
    let add = [
        ("X-Header-Add-1", "header-add-1"),
        ("X-Header-Add-2", "header-add-2"),
    ];
    let remove = "X-Header-Remove-1, X-Header-Remove-2";
    let three = [add[0], add[1], ("X-Header-Add-3", "header-add-3")];
    let cased = [
        ("X-Header-Add", "header-add"),
        ("x-lowercase-add", "lowercase-add"),
        ("x-Mixedcase-ADD-1", "mixedcase-add-1"),
        ("X-mixeDcase-add-2", "mixedcase-add-2"),
        ("X-UPPERCASE-ADD", "uppercase-add"),
    ];
    let of = |path: &str, filter: &str| rule(&prefix(path)).filter(filter).to(V1);
    let rules = [
        of(
            "/set",
            &response_edits(&[("X-Header-Set", "set-overwrites-values")], &[], ""),
        ),
        of(
            "/add",
            &response_edits(&[], &[("X-Header-Add", "add-appends-values")], ""),
        ),
        of("/remove", &response_edits(&[], &[], "X-Header-Remove")),
        of("/multiple", &response_edits(&set, &three, remove)),
        of(
            "/case-insensitivity",
            &response_edits(&[("X-Header-Set", "header-set")], &cased, "X-Header-Remove"),
        ),
        of(
            "/response-and-request",
            &format!("{}, {}", response_edits(&set, &add, remove), usual_edits()),
        ),
    ];
    s.apply(&http_route("answers", SAME, "", &rules))?;
    s.http_accepted(&["answers"], "same-namespace")?;
    // The application answers with these fields.
    let answering = |path: &str, fields: &str| get(path).header("x-echo-set-header", fields).by(V1);
    let many = "X-Header-Set-2:set-val-2,X-Header-Add-2:add-val-2,X-Header-Remove-2:remove-val-2,\
                Another-Header:another-header-val,X-Header-Remove-1:remove-val-1";
    let edited = |case: Case| {
        case.answers("X-Header-Set-1", "header-set-1")
            .answers("X-Header-Set-2", "header-set-2")
            .answers("X-Header-Add-1", "header-add-1")
            .answers("X-Header-Add-2", "add-val-2,header-add-2")
            .answers("Another-Header", "another-header-val")
            .answers_without("X-Header-Remove-1")
            .answers_without("X-Header-Remove-2")
    };
    s.expect(
        "same-namespace",
        &[
            answering("/set", "Some-Other-Header:val")
                .answers("Some-Other-Header", "val")
                .answers("X-Header-Set", "set-overwrites-values"),
            answering("/set", "X-Header-Set:some-other-value")
                .answers("X-Header-Set", "set-overwrites-values"),
            answering("/add", "Some-Other-Header:val")
                .answers("X-Header-Add", "add-appends-values"),
            answering("/add", "X-Header-Add:some-other-value")
                .answers("X-Header-Add", "some-other-value,add-appends-values"),
            answering("/remove", "X-Header-Remove:val").answers_without("X-Header-Remove"),
            edited(answering("/multiple", many)).answers("X-Header-Add-3", "header-add-3"),
            answering(
                "/case-insensitivity",
                "x-header-set:original-val-set,x-header-add:original-val-add,\
                 x-header-remove:original-val-remove,Another-Header:another-header-val",
            )
            .answers("X-Header-Set", "header-set")
            .answers("X-Header-Add", "original-val-add,header-add")
            .answers("X-Lowercase-Add", "lowercase-add")
            .answers("X-Mixedcase-Add-1", "mixedcase-add-1")
            .answers("X-Mixedcase-Add-2", "mixedcase-add-2")
            .answers("X-Uppercase-Add", "uppercase-add")
            .answers("Another-Header", "another-header-val")
            .answers_without("x-header-remove"),
            with_usual_edits(edited(answering("/response-and-request", many)))
                .header("X-Header-Echo", "echo")
                .sees("X-Header-Echo", "echo"),
        ],
    )
}

/// Pages of some origins may call, and are told what.
pub(crate) fn http_route_cors(s: &Stand) -> Outcome {
    let cors = |fields: &str| format!("{{type: CORS, cors: {{{fields}}}}}");
    let of = |path: &str, fields: &str| rule(&prefix(path)).filter(&cors(fields)).to(V1);
    let any = "allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']";
    let rules = [
        of(
            "/cors-1",
            "allowOrigins: ['https://www.foo.com', 'https://*.bar.com'], \
             allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], \
             exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600",
        ),
        of(
            "/cors-2",
            "allowOrigins: ['https://www.foo.com'], allowMethods: ['*']",
        ),
        of(
            "/any-origin",
            "allowOrigins: ['*'], allowMethods: [PUT], allowCredentials: false",
        ),
        of("/anything", &format!("{any}, allowCredentials: true")),
        of(
            "/anything-unauth",
            &format!("{any}, allowCredentials: false"),
        ),
    ];
    s.apply(&http_route("cors", SAME, "", &rules))?;
    s.http_accepted(&["cors"], "same-namespace")?;
    let headers = "x-header-1, x-header-2";
    let asked = |path: &str, origin: &str, asks: &str| {
        method("OPTIONS", path)
            .header("Origin", origin)
            .header("access-control-request-method", asks)
            .one_of(&[200, 204])
    };
    let asked_for = |path: &str, origin: &str, asks: &str| {
        asked(path, origin, asks).header("access-control-request-headers", headers)
    };
    let (origin, methods) = (
        "access-control-allow-origin",
        "access-control-allow-methods",
    );
    let (fields, credentials) = (
        "access-control-allow-headers",
        "access-control-allow-credentials",
    );
    let sent = |verb: &str, path: &str, from: &str| method(verb, path).header("Origin", from);
    let either = ["x-header-1,x-header-2", "x-header-2,x-header-1"];
    let (foo, other, stranger) = (
        "https://www.foo.com",
        "https://other.foo.com",
        "https://foobar.com",
    );
    let with_port = "https://foobar.com:12345";
    let mut cases = Vec::new();
    for from in [foo, "https://www.bar.com", "https://xpto.www.bar.com"] {
        cases.push(
            asked_for("/cors-1", from, "GET")
                .answers(origin, from)
                .answers_one_of(methods, &["GET,OPTIONS", "OPTIONS,GET"])
                .answers_one_of(fields, &either)
                .answers_one_of(
                    "access-control-expose-headers",
                    &["x-header-3,x-header-4", "x-header-4,x-header-3"],
                )
                .answers("access-control-max-age", "3600")
                .answers(credentials, "true"),
        );
    }
    for from in [foo, "https://www.bar.com"] {
        cases.push(sent("GET", "/cors-1", from).by(V1).answers(origin, from));
    }
    cases.extend([
        asked("/cors-1", stranger, "GET")
            .one_of(&[200, 204, 403])
            .answers_without(origin),
        sent("GET", "/cors-1", stranger).answers_without(origin),
        asked("/cors-2", foo, "POST")
            .answers_one_of(methods, &["POST", "*"])
            .answers(origin, foo)
            .answers_without(credentials),
    ]);
    for from in [stranger, with_port] {
        cases.push(
            asked("/any-origin", from, "PUT")
                .answers_one_of(origin, &[from, "*"])
                .answers(methods, "PUT")
                .answers_without(credentials),
        );
        cases.push(
            sent("PUT", "/any-origin", from)
                .by(V1)
                .answers_one_of(origin, &[from, "*"])
                .answers_without(credentials),
        );
    }
    cases.extend([
        asked_for("/anything", other, "PUT")
            .answers(origin, other)
            .answers(methods, "PUT")
            .answers_one_of(fields, &either)
            .answers(credentials, "true"),
        asked_for("/anything-unauth", other, "PUT")
            .answers_one_of(origin, &[other, "*"])
            .answers_one_of(methods, &["PUT", "*"])
            .answers_one_of(fields, &[either[0], either[1], "*"])
            .answers_without(credentials),
        sent("GET", "/anything", other)
            .by(V1)
            .answers(origin, other)
            .answers(credentials, "true"),
        sent("GET", "/anything-unauth", other)
            .by(V1)
            .answers_one_of(origin, &[other, "*"])
            .answers_without(credentials),
    ]);
    s.expect("same-namespace", &cases)
}

fn mirror(service: &str, more: &str) -> String {
    format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {{name: {service}, port: 8080}}{more}}}}}"
    )
}

/// Each copy has the request's own id in its path.
fn mirrored(s: &Stand, path: &str, edited: bool, to: &[&str]) -> Outcome {
    let id = format!("{path}?id={}", fastrand::u64(..));
    let case = get(&id).by(V1);
    let case = if edited { with_usual_edits(case) } else { case };
    s.expect("same-namespace", &[case])?;
    to.iter().try_for_each(|service| {
        s.until(&format!("a copy at {service}"), || {
            match s.application(service).count(&id) {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
    })
}

pub(crate) fn http_route_request_mirror(s: &Stand) -> Outcome {
    let rules = [
        rule(&prefix("/mirror")).filter(&mirror(V2, "")).to(V1),
        rule(&prefix("/mirror-and-modify-headers"))
            .filter(&usual_edits())
            .filter(&mirror(V2, ""))
            .to(V1),
    ];
    s.apply(&http_route("mirror", SAME, "", &rules))?;
    s.http_accepted(&["mirror"], "same-namespace")?;
    mirrored(s, "/mirror", false, &[V2])?;
    mirrored(s, "/mirror-and-modify-headers", true, &[V2])
}

pub(crate) fn http_route_request_multiple_mirrors(s: &Stand) -> Outcome {
    let both = format!("{}, {}", mirror(V2, ""), mirror(V3, ""));
    let rules = [
        rule(&prefix("/multi-mirror")).filter(&both).to(V1),
        rule(&prefix("/multi-mirror-and-modify-headers"))
            .filter(&usual_edits())
            .filter(&both)
            .to(V1),
    ];
    s.apply(&http_route("mirrors", SAME, "", &rules))?;
    s.http_accepted(&["mirrors"], "same-namespace")?;
    mirrored(s, "/multi-mirror", false, &[V2, V3])?;
    mirrored(s, "/multi-mirror-and-modify-headers", true, &[V2, V3])
}

pub(crate) fn http_route_request_percentage_mirror(s: &Stand) -> Outcome {
    const SENT: u32 = 500;
    let shares = [
        ("/percent-mirror", ", percent: 20", 0.2, false),
        (
            "/fraction-mirror",
            ", fraction: {numerator: 25, denominator: 50}",
            0.5,
            false,
        ),
        ("/edited-percent-mirror", ", percent: 35", 0.35, true),
    ];
    let rules = shares.map(|(path, share, _, edited)| {
        let rule = rule(&prefix(path));
        let rule = if edited {
            rule.filter(&usual_edits())
        } else {
            rule
        };
        rule.filter(&mirror(V2, share)).to(V1)
    });
    s.apply(&http_route("some-mirrors", SAME, "", &rules))?;
    s.http_accepted(&["some-mirrors"], "same-namespace")?;
    let at = s.listener("same-namespace", 80)?;
    for (path, _, share, edited) in shares {
        let id = format!("{path}?id={}", fastrand::u64(..));
        let case = if edited {
            with_usual_edits(get(&id))
        } else {
            get(&id)
        };
        s.expect("same-namespace", &[get(path).by(V1)])?;
        for _ in 0..SENT {
            s.once(at, &case)?;
        }
        // Five standard deviations of the binomial distribution: three fail one run in a hundred.
        let n = f64::from(SENT);
        let margin = 5.0 * (n * share * (1.0 - share)).sqrt();
        s.until(&format!("a share of {share} of {path}"), || {
            let count = u32::try_from(s.application(V2).count(&id)).unwrap_or(u32::MAX);
            if (f64::from(count) - n * share).abs() <= margin {
                Ok(())
            } else {
                Err(format!("{count} of {SENT}"))
            }
        })?;
    }
    Ok(())
}
