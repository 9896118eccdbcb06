//! GRPCRoute on a Gateway.

use crate::case::{SERVICE, call};
use crate::http_backends::shares;
use crate::manifests::{all, gateway, grpc_method, grpc_route, headers, listener, rule};
use crate::stand::{Outcome, Stand};

const V1: &str = "grpc-infra-backend-v1";
const V2: &str = "grpc-infra-backend-v2";
const V3: &str = "grpc-infra-backend-v3";
const SAME: &str = "{name: same-namespace}";
const UNIMPLEMENTED: u16 = 12;

fn accepted(s: &Stand, names: &[&str], gateway: &str) -> Outcome {
    s.accepted("GRPCRoute", names, gateway)
}

pub(crate) fn grpc_exact_method_matching(s: &Stand) -> Outcome {
    let rules = [
        rule(&grpc_method("Echo")).to(V1),
        rule(&grpc_method("EchoTwo")).to(V2),
    ];
    s.apply(&grpc_route("methods", SAME, "", &rules))?;
    accepted(s, &["methods"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            call("Echo").by(V1),
            call("EchoTwo").by(V2),
            call("EchoThree").grpc_status(UNIMPLEMENTED),
        ],
    )
}

pub(crate) fn grpc_route_header_matching(s: &Stand) -> Outcome {
    let either =
        |a: &str, b: &str| format!("{}, {}", headers(&[("color", a)]), headers(&[("color", b)]));
    let rules = [
        rule(&headers(&[("version", "one")])).to(V1),
        rule(&headers(&[("version", "two")])).to(V2),
        rule(&headers(&[("version", "two"), ("color", "orange")])).to(V1),
        rule(&either("blue", "green")).to(V1),
        rule(&either("red", "yellow")).to(V2),
    ];
    s.apply(&grpc_route("by-header", SAME, "", &rules))?;
    accepted(s, &["by-header"], "same-namespace")?;
    let version = |value: &str| call("Echo").header("version", value);
    let color = |value: &str| call("Echo").header("color", value);
    s.expect(
        "same-namespace",
        &[
            version("one").by(V1),
            version("two").by(V2),
            version("two").header("color", "orange").by(V1),
            version("two").header("color", "blue").by(V2),
            color("orange").grpc_status(UNIMPLEMENTED),
            call("Echo")
                .header("some-other-header", "one")
                .grpc_status(UNIMPLEMENTED),
            color("blue").by(V1),
            color("green").by(V1),
            color("red").by(V2),
            color("yellow").by(V2),
            color("purple").grpc_status(UNIMPLEMENTED),
        ],
    )
}

pub(crate) fn grpc_route_listener_hostname_matching(s: &Stand) -> Outcome {
    let name = "grpc-hostnames";
    let at = |listener: u8| format!("{{name: {name}, sectionName: listener-{listener}}}");
    let listeners: Vec<String> = ["bar.com", "foo.bar.com", "*.bar.com", "*.foo.com"]
        .iter()
        .zip(1..)
        .map(|(host, at)| listener(&format!("listener-{at}"), 80, "HTTP", host))
        .collect();
    s.apply(&all(&[
        gateway(name, &listeners),
        grpc_route("first", &at(1), "", &[rule("").to(V1)]),
        grpc_route("second", &at(2), "", &[rule("").to(V2)]),
        grpc_route(
            "third",
            &format!("{}, {}", at(3), at(4)),
            "",
            &[rule("").to(V3)],
        ),
    ]))?;
    accepted(s, &["first", "second", "third"], name)?;
    let host = |host: &str| call("Echo").host(host);
    s.expect(
        name,
        &[
            host("bar.com").by(V1),
            host("foo.bar.com").by(V2),
            host("baz.bar.com").by(V3),
            host("boo.bar.com").by(V3),
            host("multiple.prefixes.bar.com").by(V3),
            host("multiple.prefixes.foo.com").by(V3),
            host("foo.com").grpc_status(UNIMPLEMENTED),
            host("no.matching.host").grpc_status(UNIMPLEMENTED),
        ],
    )
}

pub(crate) fn grpc_route_named_rule(s: &Stand) -> Outcome {
    let rules = [
        rule(&grpc_method("Echo")).to(V1).with("name: named-rule"),
        rule(&grpc_method("EchoTwo")).to(V2),
    ];
    s.apply(&grpc_route("named", SAME, "", &rules))?;
    accepted(s, &["named"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[call("Echo").by(V1), call("EchoTwo").by(V2)],
    )
}

pub(crate) fn header_rules(first: &str, second: &str) -> [crate::manifests::Rule; 3] {
    let edits =
        |text: &str| format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{text}}}}}");
    [
        rule(&grpc_method("Echo"))
            .filter(&edits("set: [{name: X-Header-Set, value: set-overwrites-values}]"))
            .backend(first),
        rule(&grpc_method("EchoTwo"))
            .filter(&edits("add: [{name: X-Header-Add, value: add-appends-values}]"))
            .backend(first),
        rule(&grpc_method("EchoThree"))
            .filter(&edits(
                "set: [{name: X-Header-Set-1, value: header-set-1}, {name: X-Header-Set-2, value: header-set-2}], \
                 add: [{name: X-Header-Add-1, value: header-add-1}, {name: X-Header-Add-2, value: header-add-2}], \
                 remove: [X-Header-Remove-1, X-Header-Remove-2]",
            ))
            .backend(second),
    ]
}

pub(crate) fn header_cases(first: &str, second: &str) -> Vec<crate::case::Case> {
    vec![
        call("Echo")
            .by(first)
            .header("some-other-header", "kept")
            .sees("Some-Other-Header", "kept")
            .sees("X-Header-Set", "set-overwrites-values"),
        call("Echo")
            .by(first)
            .header("x-header-set", "to-be-overwritten")
            .sees("X-Header-Set", "set-overwrites-values"),
        call("EchoTwo")
            .by(first)
            .sees("X-Header-Add", "add-appends-values"),
        call("EchoTwo")
            .by(first)
            .header("x-header-add", "there")
            .sees("X-Header-Add", "there,add-appends-values"),
        call("EchoThree")
            .by(second)
            .header("x-header-set-2", "to-be-overwritten")
            .header("x-header-add-2", "there")
            .header("x-header-remove-2", "to-be-removed")
            .sees("X-Header-Set-1", "header-set-1")
            .sees("X-Header-Set-2", "header-set-2")
            .sees("X-Header-Add-1", "header-add-1")
            .sees("X-Header-Add-2", "there,header-add-2")
            .does_not_see("X-Header-Remove-1")
            .does_not_see("X-Header-Remove-2"),
    ]
}

pub(crate) fn grpc_route_request_header_modifier(s: &Stand) -> Outcome {
    let to = |service: &str| format!("{{name: {service}, port: 8080}}");
    s.apply(&grpc_route(
        "edits",
        SAME,
        "",
        &header_rules(&to(V1), &to(V2)),
    ))?;
    accepted(s, &["edits"], "same-namespace")?;
    let cases: Vec<_> = header_cases(V1, V2)
        .into_iter()
        .map(|case| case.host(&SERVICE.replace('_', "-")))
        .collect();
    s.expect("same-namespace", &cases)
}

pub(crate) fn grpc_route_weight(s: &Stand) -> Outcome {
    let to =
        |service: &str, weight: u8| format!("{{name: {service}, port: 8080, weight: {weight}}}");
    let rules = [rule("")
        .backend(&to(V1, 70))
        .backend(&to(V2, 30))
        .backend(&to(V3, 0))];
    s.apply(&grpc_route("weighted", SAME, "", &rules))?;
    accepted(s, &["weighted"], "same-namespace")?;
    let at = s.listener("same-namespace", 80)?;
    shares(s, at, &call("Echo"), &[(V1, 0.7), (V2, 0.3), (V3, 0.0)])
}
