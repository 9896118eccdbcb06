//! HTTPRoute: which route a request takes.

use crate::case::{Case, get, method};
use crate::manifests::{
    all, exact, gateway, headers, http_route, listener, listener_with, prefix, route, rule,
};
use crate::stand::{INFRA, Outcome, Stand, WEB};
use crate::status::sound;

const V1: &str = "infra-backend-v1";
const V2: &str = "infra-backend-v2";
const V3: &str = "infra-backend-v3";
const SAME: &str = "{name: same-namespace}";

pub(crate) fn http_route_simple_same_namespace(s: &Stand) -> Outcome {
    s.apply(&http_route("simple", SAME, "", &[rule("").to(V1)]))?;
    s.http_accepted(&["simple"], "same-namespace")?;
    s.expect("same-namespace", &[get("/").by(V1)])
}

pub(crate) fn http_route_exact_path_matching(s: &Stand) -> Outcome {
    let rules = [rule(&exact("/one")).to(V1), rule(&exact("/two")).to(V2)];
    s.apply(&http_route("exact", SAME, "", &rules))?;
    s.http_accepted(&["exact"], "same-namespace")?;
    let nowhere = ["/", "/one/example", "/two/", "/Two"];
    let mut cases = vec![get("/one").by(V1), get("/two").by(V2)];
    cases.extend(nowhere.map(|path| get(path).status(404)));
    s.expect("same-namespace", &cases)
}

/// Fields decide; the rule with more of them comes first, then the first rule.
pub(crate) fn http_route_header_matching(s: &Stand) -> Outcome {
    let either =
        |a: &str, b: &str| format!("{}, {}", headers(&[("color", a)]), headers(&[("color", b)]));
    let rules = [
        rule(&headers(&[("version", "one")])).to(V1),
        rule(&headers(&[("version", "two")])).to(V2),
        rule(&headers(&[("version", "two"), ("color", "orange")])).to(V1),
        rule(&either("blue", "green")).to(V1),
        rule(&either("red", "yellow")).to(V2),
    ];
    s.apply(&http_route("by-header", SAME, "", &rules))?;
    s.http_accepted(&["by-header"], "same-namespace")?;
    let version = |value: &str| get("/").header("Version", value);
    let color = |value: &str| get("/").header("Color", value);
    s.expect(
        "same-namespace",
        &[
            version("one").by(V1),
            version("two").by(V2),
            version("two").header("Color", "orange").by(V1),
            version("two").header("Color", "blue").by(V2),
            color("orange").status(404),
            get("/").header("Some-Other-Header", "one").status(404),
            color("blue").by(V1),
            color("green").by(V1),
            color("red").by(V2),
            color("yellow").by(V2),
            color("purple").status(404),
        ],
    )
}

/// By path and field: the longer path, then more fields; a prefix ends where an element of the path does.
pub(crate) fn http_route_matching(s: &Stand) -> Outcome {
    s.apply(&http_route(
        "matching",
        SAME,
        "",
        &paths_and_versions(V1, V2),
    ))?;
    s.http_accepted(&["matching"], "same-namespace")?;
    s.expect("same-namespace", &paths_and_versions_cases(V1, V2))
}

pub(crate) fn paths_and_versions(first: &str, second: &str) -> [crate::manifests::Rule; 2] {
    let of = |path: &str, version: &str| {
        format!("{}, {}", prefix(path), headers(&[("version", version)]))
    };
    [
        rule(&of("/", "one")).to(first),
        rule(&of("/v2", "two")).to(second),
    ]
}

pub(crate) fn paths_and_versions_cases(first: &str, second: &str) -> Vec<Case> {
    vec![
        get("/").by(first),
        get("/example").by(first),
        get("/").header("Version", "one").by(first),
        get("/v2").by(second),
        get("/v2/example").by(second),
        get("/").header("Version", "two").by(second),
        get("/v2/").by(second),
        get("/v2example").by(first),
        get("/foo/v2/example").by(first),
    ]
}

pub(crate) fn http_route_matching_across_routes(s: &Stand) -> Outcome {
    let [first, second] = paths_and_versions(V1, V2);
    s.apply(&all(&[
        http_route("part-one", SAME, "example.com, example.net", &[first]),
        http_route("part-two", SAME, "example.com", &[second]),
    ]))?;
    s.http_accepted(&["part-one", "part-two"], "same-namespace")?;
    let com = |path: &str| get(path).host("example.com");
    let net = |path: &str| get(path).host("example.net");
    s.expect(
        "same-namespace",
        &[
            com("/").by(V1),
            com("/example").by(V1),
            net("/example").by(V1),
            com("/example").header("Version", "one").by(V1),
            com("/v2").by(V2),
            net("/v2").by(V1),
            com("/v2/example").by(V2),
            com("/").header("Version", "two").by(V2),
        ],
    )
}

pub(crate) fn http_route_path_match_order(s: &Stand) -> Outcome {
    let rules = [
        rule(&exact("/match")).to(V1),
        rule(&exact("/match/exact")).to(V2),
        rule(&exact("/match/exact/one")).to(V3),
        rule(&prefix("/match/")).to(V3),
        rule(&prefix("/match/prefix/")).to(V1),
        rule(&prefix("/match/prefix/one")).to(V2),
    ];
    s.apply(&http_route("order", SAME, "", &rules))?;
    s.http_accepted(&["order"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/match/exact/one").by(V3),
            get("/match/exact").by(V2),
            get("/match").by(V1),
            get("/match/prefix/one/any").by(V2),
            get("/match/prefix/any").by(V1),
            get("/match/any").by(V3),
        ],
    )
}

fn path_with(path: &str, more: &str) -> String {
    format!("{{path: {{type: PathPrefix, value: {path}}}, {more}}}")
}

fn version_with(version: &str, more: &str) -> String {
    format!("{{headers: [{{name: version, value: {version}}}], {more}}}")
}

fn both(path: &str, version: &str, more: &str) -> String {
    path_with(
        path,
        &format!("headers: [{{name: version, value: {version}}}], {more}"),
    )
}

/// A path counts before a method, a method before fields.
pub(crate) fn http_route_method_matching(s: &Stand) -> Outcome {
    let rules = [
        rule("{method: POST}").to(V1),
        rule("{method: GET}").to(V2),
        rule(&path_with("/path1", "method: GET")).to(V1),
        rule(&version_with("one", "method: PUT")).to(V2),
        rule(&both("/path2", "two", "method: POST")).to(V3),
        rule(&format!(
            "{}, {}",
            path_with("/path3", "method: PATCH"),
            both("/path4", "three", "method: DELETE")
        ))
        .to(V1),
        rule(&prefix("/path5")).to(V1),
        rule("{method: PATCH}").to(V2),
        rule(&headers(&[("version", "four")])).to(V3),
    ];
    s.apply(&http_route("by-method", SAME, "", &rules))?;
    s.http_accepted(&["by-method"], "same-namespace")?;
    let versioned =
        |name: &str, path: &str, version: &str| method(name, path).header("version", version);
    s.expect(
        "same-namespace",
        &[
            method("POST", "/").by(V1),
            get("/").by(V2),
            method("HEAD", "/").status(404),
            get("/path1").by(V1),
            versioned("PUT", "/", "one").by(V2),
            versioned("POST", "/path2", "two").by(V3),
            method("PATCH", "/path3").by(V1),
            versioned("DELETE", "/path4", "three").by(V1),
            method("PUT", "/").status(404),
            method("DELETE", "/path4").status(404),
            method("PATCH", "/path5").by(V1),
            versioned("PATCH", "/", "four").by(V2),
        ],
    )
}

fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{{name: {name}, value: {value}}}"))
        .collect();
    format!("queryParams: [{}]", pairs.join(", "))
}

/// Rules for parameters that two kinds of parents share.
pub(crate) fn query_rules(first: &str, second: &str) -> Vec<crate::manifests::Rule> {
    let whale = query(&[("animal", "whale")]);
    let shark = query(&[("animal", "shark")]);
    let kraken = query(&[("animal", "kraken")]);
    vec![
        rule(&format!("{{{whale}}}")).to(first),
        rule(&format!("{{{}}}", query(&[("animal", "dolphin")]))).to(second),
        rule(&path_with("/path1", &whale)).to(first),
        rule(&version_with("one", &whale)).to(second),
        rule(&format!(
            "{}, {}",
            path_with("/path3", &shark),
            both("/path4", "three", &kraken)
        ))
        .to(first),
        rule(&prefix("/path5")).to(first),
        rule(&format!("{{{}}}", query(&[("animal", "hydra")]))).to(second),
    ]
}

pub(crate) fn query_cases(first: &str, second: &str) -> Vec<Case> {
    let nowhere = ["/?color=blue", "/?animal=dog", "/?animal=whaledolphin", "/"];
    let mut cases = vec![
        get("/?animal=whale").by(first),
        get("/?animal=dolphin").by(second),
        get("/?animal=whale&otherparam=irrelevant").by(first),
        get("/?animal=dolphin&color=yellow").by(second),
        get("/path1?animal=whale").by(first),
        get("/?animal=whale").header("version", "one").by(second),
        get("/path3?animal=shark").by(first),
        get("/path4?animal=kraken")
            .header("version", "three")
            .by(first),
        get("/?animal=shark").status(404),
        get("/path4?animal=kraken").status(404),
        get("/path5?animal=hydra").by(first),
    ];
    cases.extend(nowhere.map(|path| get(path).status(404)));
    cases
}

/// Names and values of parameters match exactly; fields count before parameters.
pub(crate) fn http_route_query_param_matching(s: &Stand) -> Outcome {
    let mut rules = query_rules(V1, V2);
    rules.push(
        rule(&format!(
            "{{{}}}, {{{}}}",
            query(&[("animal", "dolphin"), ("color", "blue")]),
            query(&[("ANIMAL", "Whale")])
        ))
        .to(V3),
    );
    rules.push(rule(&both("/path2", "two", &query(&[("animal", "whale")]))).to(V3));
    rules.push(rule(&headers(&[("version", "four")])).to(V3));
    s.apply(&http_route("by-query", SAME, "", &rules))?;
    s.http_accepted(&["by-query"], "same-namespace")?;
    let mut cases = query_cases(V1, V2);
    cases.extend([
        get("/?animal=dolphin&color=blue").by(V3),
        get("/?ANIMAL=Whale").by(V3),
        get("/path2?animal=whale").header("version", "two").by(V3),
        get("/?animal=hydra").header("version", "four").by(V3),
    ]);
    s.expect("same-namespace", &cases)
}

pub(crate) fn http_route_named_rule(s: &Stand) -> Outcome {
    let rules = [
        rule(&prefix("/named")).to(V1).with("name: named-rule"),
        rule(&prefix("/unnamed")).to(V2),
    ];
    s.apply(&http_route("named", SAME, "", &rules))?;
    s.http_accepted(&["named"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[get("/named").by(V1), get("/unnamed").by(V2)],
    )
}

pub(crate) fn http_route_cross_namespace(s: &Stand) -> Outcome {
    let parent = format!("{{name: backend-namespaces, namespace: {INFRA}}}");
    let rules = [rule("").to("web-backend")];
    s.apply(&route(
        ("HTTPRoute", "v1"),
        (WEB, "cross-namespace"),
        &parent,
        "",
        &rules,
    ))?;
    let holds = [("Accepted", true, ""), ("ResolvedRefs", true, "")];
    s.says(
        ("HTTPRoute", WEB, "cross-namespace"),
        "backend-namespaces",
        &holds,
    )?;
    s.expect("backend-namespaces", &[get("/").by_in(WEB, "web-backend")])
}

pub(crate) fn http_route_multiple_gateways(s: &Stand) -> Outcome {
    s.apply(&all(&[
        http_route(
            "shared",
            "{name: same-namespace}, {name: all-namespaces}",
            "",
            &[rule(&prefix("/shared")).to(V1)],
        ),
        http_route("one", SAME, "", &[rule(&prefix("/")).to(V2)]),
        http_route(
            "other",
            "{name: all-namespaces}",
            "",
            &[rule(&prefix("/")).to(V3)],
        ),
    ]))?;
    for (gateway, own, backend) in [
        ("same-namespace", "one", V2),
        ("all-namespaces", "other", V3),
    ] {
        s.http_accepted(&["shared", own], gateway)?;
        s.expect(gateway, &[get("/shared").by(V1), get("/").by(backend)])?;
    }
    Ok(())
}

pub(crate) fn http_route_listener_hostname_matching(s: &Stand) -> Outcome {
    let name = "listener-hostnames";
    let at = |listener: u8| format!("{{name: {name}, sectionName: listener-{listener}}}");
    let listeners: Vec<String> = ["bar.com", "foo.bar.com", "*.bar.com", "*.foo.com"]
        .iter()
        .zip(1..)
        .map(|(host, at)| listener(&format!("listener-{at}"), 80, "HTTP", host))
        .collect();
    s.apply(&all(&[
        gateway(name, &listeners),
        http_route("first", &at(1), "", &[rule("").to(V1)]),
        http_route("second", &at(2), "", &[rule("").to(V2)]),
        http_route(
            "third",
            &format!("{}, {}", at(3), at(4)),
            "",
            &[rule("").to(V3)],
        ),
    ]))?;
    s.http_accepted(&["first", "second", "third"], name)?;
    let host = |host: &str| get("/").host(host);
    s.expect(
        name,
        &[
            host("bar.com").by(V1),
            host("foo.bar.com").by(V2),
            host("baz.bar.com").by(V3),
            host("boo.bar.com").by(V3),
            host("multiple.prefixes.bar.com").by(V3),
            host("multiple.prefixes.foo.com").by(V3),
            host("foo.com").status(404),
            host("no.matching.host").status(404),
        ],
    )
}

pub(crate) fn http_route_listener_port_matching(s: &Stand) -> Outcome {
    let name = "listener-ports";
    let listeners = [
        listener("listener-1", 80, "HTTP", "foo.com"),
        listener("listener-2", 8080, "HTTP", "foo.com"),
        listener("listener-3", 8080, "HTTP", "bar.com"),
        listener("listener-4", 8090, "HTTP", "foo.com"),
        listener("listener-5", 8090, "HTTP", "bar.com"),
    ];
    let at = |more: &str| format!("{{name: {name}, {more}}}");
    s.apply(&all(&[
        gateway(name, &listeners),
        http_route("first", &at("port: 80"), "", &[rule("").to(V1)]),
        http_route("second", &at("port: 8080"), "", &[rule("").to(V2)]),
        http_route(
            "third",
            &at("port: 8090, sectionName: listener-4"),
            "",
            &[rule("").to(V3)],
        ),
    ]))?;
    s.http_accepted(&["first", "second", "third"], name)?;
    for (port, case) in [
        (80, get("/").host("foo.com").by(V1)),
        (8080, get("/").host("foo.com:8080").by(V2)),
        (8080, get("/").host("bar.com:8080").by(V2)),
        (8090, get("/").host("foo.com:8090").by(V3)),
        (8090, get("/").host("bar.com:8090").status(404)),
    ] {
        s.expect_at(s.listener(name, port)?, &[case])?;
    }
    Ok(())
}

/// A route serves the hosts that it and a listener both name, and no others.
pub(crate) fn http_route_hostname_intersection(s: &Stand) -> Outcome {
    let name = "hostname-intersection";
    let parent = format!("{{name: {name}}}");
    let of = |route: &str, hosts: &str, path: &str, to: &str| {
        http_route(route, &parent, hosts, &[rule(&prefix(path)).to(to)])
    };
    s.apply(&all(&[
        gateway(
            name,
            &[
                listener("listener-1", 80, "HTTP", "very.specific.com"),
                listener("listener-2", 80, "HTTP", "*.wildcard.io"),
                listener("listener-3", 80, "HTTP", "*.anotherwildcard.io"),
            ],
        ),
        gateway("any-hostname", &[listener("listener-1", 80, "HTTP", "")]),
        of(
            "exact-exact",
            "non.matching.com, '*.nonmatchingwildcard.io', very.specific.com",
            "/s1",
            V1,
        ),
        of(
            "exact-wildcard",
            "non.matching.com, wildcard.io, foo.wildcard.io, bar.wildcard.io, foo.bar.wildcard.io",
            "/s2",
            V2,
        ),
        of(
            "wildcard-exact",
            "non.matching.com, '*.specific.com'",
            "/s3",
            V3,
        ),
        of("wildcard-wildcard", "'*.anotherwildcard.io'", "/s4", V1),
        of("nothing", "specific.but.wrong.com, wildcard.io", "/s5", V2),
        http_route(
            "any",
            "{name: any-hostname}",
            "first.com, sub.first.com, second.com, sub.second.com",
            &[rule("").to(V2)],
        ),
    ]))?;
    let four = [
        "exact-exact",
        "exact-wildcard",
        "wildcard-exact",
        "wildcard-wildcard",
    ];
    s.http_accepted(&four, name)?;
    let refused = [("Accepted", false, "NoMatchingListenerHostname")];
    s.says(("HTTPRoute", INFRA, "nothing"), name, &refused)?;
    s.listeners(
        name,
        &[
            sound("listener-1", &["HTTPRoute"], 2),
            sound("listener-2", &["HTTPRoute"], 1),
            sound("listener-3", &["HTTPRoute"], 1),
        ],
    )?;
    let served = [
        (
            "/s1",
            V1,
            &["very.specific.com", "very.specific.com:1234"][..],
        ),
        (
            "/s2",
            V2,
            &["foo.wildcard.io", "bar.wildcard.io", "foo.bar.wildcard.io"],
        ),
        ("/s3", V3, &["very.specific.com"]),
        (
            "/s4",
            V1,
            &[
                "foo.anotherwildcard.io",
                "bar.anotherwildcard.io",
                "foo.bar.anotherwildcard.io",
            ],
        ),
    ];
    let unserved = [
        (
            "/s1",
            &[
                "non.matching.com",
                "foo.nonmatchingwildcard.io",
                "foo.wildcard.io",
            ][..],
        ),
        (
            "/s2",
            &["non.matching.com", "wildcard.io", "very.specific.com"],
        ),
        (
            "/s3",
            &["non.matching.com", "foo.specific.com", "foo.wildcard.io"],
        ),
        (
            "/s4",
            &["anotherwildcard.io", "foo.wildcard.io", "very.specific.com"],
        ),
        ("/s5", &["specific.but.wrong.com", "wildcard.io"]),
        (
            "/other",
            &[
                "very.specific.com",
                "foo.wildcard.io",
                "foo.anotherwildcard.io",
            ],
        ),
    ];
    let mut cases = Vec::new();
    for (path, backend, hosts) in served {
        cases.extend(hosts.iter().map(|host| get(path).host(host).by(backend)));
    }
    for (path, hosts) in unserved {
        cases.extend(hosts.iter().map(|host| get(path).host(host).status(404)));
    }
    s.expect(name, &cases)?;

    s.http_accepted(&["any"], "any-hostname")?;
    let served = ["first.com", "sub.first.com", "second.com", "sub.second.com"];
    let mut cases: Vec<Case> = served.map(|host| get("/").host(host).by(V2)).into();
    cases.extend(["third.com", "sub.third.com"].map(|host| get("/").host(host).status(404)));
    s.expect("any-hostname", &cases)
}

/// A listener serves what no more specific listener does, whatever the others' routes say.
pub(crate) fn gateway_http_listener_isolation(s: &Stand) -> Outcome {
    const LISTENERS: [(&str, &str); 4] = [
        ("empty-hostname", ""),
        ("wildcard-example-com", "*.example.com"),
        ("wildcard-foo-example-com", "*.foo.example.com"),
        ("abc-foo-example-com", "abc.foo.example.com"),
    ];
    const HOSTS: [&str; 4] = [
        "bar.com",
        "bar.example.com",
        "bar.foo.example.com",
        "abc.foo.example.com",
    ];
    const ALL: &str = "bar.com, '*.example.com', '*.foo.example.com', abc.foo.example.com";
    for (name, hostnames) in [("isolation", ""), ("isolation-with-hostnames", ALL)] {
        let from_all = "allowedRoutes: {namespaces: {from: All}}";
        let listeners: Vec<String> = LISTENERS
            .iter()
            .map(|(own, host)| listener_with(own, 80, "HTTP", host, from_all))
            .collect();
        let mut documents = vec![gateway(name, &listeners)];
        let routes: Vec<String> = LISTENERS
            .iter()
            .map(|(own, _)| format!("{name}-{own}"))
            .collect();
        for (route, (own, _)) in routes.iter().zip(LISTENERS) {
            let parent = format!("{{name: {name}, sectionName: {own}}}");
            let rules = [rule(&prefix(&format!("/{own}"))).to(V1)];
            documents.push(http_route(route, &parent, hostnames, &rules));
        }
        s.apply(&all(&documents))?;
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        s.http_accepted(&routes, name)?;
        let mut cases = Vec::new();
        for (host, (own, _)) in HOSTS.iter().zip(LISTENERS) {
            for (path, _) in LISTENERS {
                let case = get(&format!("/{path}")).host(host);
                cases.push(if path == own {
                    case.by(V1)
                } else {
                    case.status(404)
                });
            }
        }
        s.expect(name, &cases)?;
    }
    Ok(())
}

/// The certificate for the name that is asked for is shown, and the host decides among the listener's routes.
pub(crate) fn http_route_https_listener(s: &Stand) -> Outcome {
    let name = "same-namespace-with-https-listener";
    s.apply(&all(&[
        http_route(
            "https",
            &format!("{{name: {name}}}"),
            "example.org",
            &[rule("").to(V1)],
        ),
        http_route(
            "https-no-hostname",
            &format!("{{name: {name}, sectionName: https-with-hostname}}"),
            "",
            &[rule("").to(V2)],
        ),
    ]))?;
    s.http_accepted(&["https", "https-no-hostname"], name)?;
    let of = |host: &str| get("/").host(host).tls(s.tls(host));
    s.expect_at(
        s.listener(name, 443)?,
        &[
            of("example.org").by(V1),
            of("unknown-example.org").status(404),
            of("second-example.org").by(V2),
        ],
    )
}

/// What belongs to another listener of the port is sent away with 421, so that it comes again on a
/// connection of its own.
pub(crate) fn http_route_https_listener_detect_misdirected_requests(s: &Stand) -> Outcome {
    let name = "same-namespace-with-https-listener";
    let path = "/detect-misdirected-requests";
    let of = |at: u8, section: &str, hosts: &str, to: &str| {
        let parent = format!("{{name: {name}, sectionName: {section}}}");
        http_route(
            &format!("misdirected-{at}"),
            &parent,
            hosts,
            &[rule(&prefix(path)).to(to)],
        )
    };
    s.apply(&all(&[
        of(1, "https", "example.org", V1),
        of(2, "https-with-hostname", "", V2),
        of(3, "https-with-wildcard-hostname", "", V3),
        of(4, "https-with-hostname-matching-wildcard", "", V1),
    ]))?;
    let routes = [
        "misdirected-1",
        "misdirected-2",
        "misdirected-3",
        "misdirected-4",
    ];
    s.http_accepted(&routes, name)?;
    let of = |server_name: &str, host: &str| get(path).host(host).http2().tls(s.tls(server_name));
    let (second, third, fourth) = (
        "second-example.org",
        "third-example.wildcard.org",
        "fourth-example.wildcard.org",
    );
    let (fifth, unknown) = ("fith-example.wildcard.org", "unknown-example.org");
    s.expect_at(
        s.listener(name, 443)?,
        &[
            of("example.org", "example.org").by(V1),
            of("example.org", second).status(421),
            of("example.org", unknown).status(404),
            of(second, second).by(V2),
            of(second, "example.org").status(421),
            of(second, unknown).status(421),
            of(third, third).by(V3),
            of(third, fifth).by(V3),
            of(third, fourth).status(421),
            of(third, second).status(421),
            of(third, unknown).status(421),
            of(fourth, fourth).by(V1),
            of(fourth, fifth).status(421),
            of(unknown, "example.org").by(V1),
            of(unknown, unknown).status(404),
        ],
    )
}
