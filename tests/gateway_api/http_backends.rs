//! HTTPRoute: where requests go, what backends speak, how long they may take, and how often it is tried.

use crate::case::{Case, get, same};
use crate::manifests::{all, exact, http_route, prefix, rule};
use crate::stand::{INFRA, Outcome, Stand};

const V1: &str = "infra-backend-v1";
const V2: &str = "infra-backend-v2";
const V3: &str = "infra-backend-v3";
const SAME: &str = "{name: same-namespace}";

fn weighted(service: &str, weight: u16) -> String {
    format!("{{name: {service}, port: 8080, weight: {weight}}}")
}

/// Shares are within five of a hundred, and nothing goes where the weight is nothing.
pub(crate) fn shares(
    s: &Stand,
    at: std::net::SocketAddr,
    case: &Case,
    wanted: &[(&str, f64)],
) -> Outcome {
    const SENT: u32 = 200;
    s.expect_at(at, std::slice::from_ref(case))?;
    let got = s.shares(at, case, SENT)?;
    for (service, share) in wanted {
        let count = got.get(*service).copied().unwrap_or_default();
        let off = (f64::from(count) / f64::from(SENT) - share).abs();
        if off > 0.05 || (*share == 0.0 && count > 0) {
            return Err(format!("{service} has {got:?} in place of {share}"));
        }
    }
    let others = got
        .keys()
        .find(|who| wanted.iter().all(|(service, _)| service != who));
    others.map_or(Ok(()), |who| Err(format!("{who} has some of {got:?}")))
}

pub(crate) fn http_route_weight(s: &Stand) -> Outcome {
    let rules = [rule("")
        .backend(&weighted(V1, 70))
        .backend(&weighted(V2, 30))
        .backend(&weighted(V3, 0))];
    s.apply(&http_route("weighted", SAME, "", &rules))?;
    s.http_accepted(&["weighted"], "same-namespace")?;
    let at = s.listener("same-namespace", 80)?;
    shares(s, at, &get("/"), &[(V1, 0.7), (V2, 0.3), (V3, 0.0)])
}

pub(crate) fn http_route_no_backend_refs(s: &Stand) -> Outcome {
    // A rule of ours always writes the list: one of these is without it.
    let rules = [
        rule(&exact("/empty")),
        rule(&exact("/omitted")).with("name: omitted"),
        rule(&prefix("/")).to(V1),
    ];
    let text = http_route("nowhere", SAME, "", &rules);
    let text = text.replace(
        &format!(
            "{{backendRefs: [], matches: [{}], name: omitted}}",
            exact("/omitted")
        ),
        &format!("{{matches: [{}]}}", exact("/omitted")),
    );
    same(
        "lists of backends",
        &2,
        &text.matches("backendRefs").count(),
    )?;
    s.apply(&text)?;
    s.http_accepted(&["nowhere"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/forward").by(V1),
            get("/omitted").status(500),
            get("/empty").status(500),
        ],
    )
}

pub(crate) fn http_route_service_types(s: &Stand) -> Outcome {
    let service = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {INFRA}}}\n\
             spec: {{{spec}ports: [{{name: first-port, port: 8080, targetPort: 3000}}]}}\n"
        )
    };
    // What a cluster says of the pod: its address, and the port that it has there.
    let at = s.socket(V1, 3000);
    let slice = |of: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {of}-ip4, namespace: {INFRA}, labels: {{kubernetes.io/service-name: {of}}}}}\n\
             addressType: IPv4\nports: [{{name: first-port, port: {}, protocol: TCP}}]\n\
             endpoints: [{{addresses: [{}], conditions: {{ready: true, serving: true, terminating: false}}, \
             nodeName: here, targetRef: {{kind: Pod, name: {V1}, namespace: {INFRA}, uid: some}}}}]\n",
            at.port(),
            at.ip()
        )
    };
    let names = ["headless", "manual", "headless-manual"];
    let rules = names.map(|name| rule(&exact(&format!("/{name}"))).to(name));
    s.apply(&all(&[
        service(
            "headless",
            &format!("clusterIP: None, selector: {{app: {V1}}}, "),
        ),
        service("manual", ""),
        slice("manual"),
        service("headless-manual", "clusterIP: None, "),
        slice("headless-manual"),
        http_route("service-types", SAME, "", &rules),
    ]))?;
    s.http_accepted(&["service-types"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &names.map(|name| get(&format!("/{name}")).by(V1)),
    )
}

pub(crate) fn http_route_backend_protocol_h2c(s: &Stand) -> Outcome {
    let rules = [rule("").backend(&format!("{{name: {V1}, port: 8081}}"))];
    s.apply(&http_route("h2c", SAME, "", &rules))?;
    s.http_accepted(&["h2c"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/").http2().by(V1).sees_version("HTTP/2.0"),
            get("/").by(V1).sees_version("HTTP/2.0"),
        ],
    )
}

pub(crate) fn http_route_backend_protocol_web_socket(s: &Stand) -> Outcome {
    let rules = [rule("").backend(&format!("{{name: {V1}, port: 8082}}"))];
    s.apply(&http_route("websocket", SAME, "", &rules))?;
    s.http_accepted(&["websocket"], "same-namespace")?;
    let at = s.listener("same-namespace", 80)?;
    let back = s.until("frames", || s.websocket(at, "/ws"))?;
    let wanted = vec![
        (0x81, b"text of a frame".to_vec()),
        (0x82, vec![1, 2, 3, 0xff]),
    ];
    same("what came back", &wanted, &back)
}

fn timeouts(s: &Stand, field: &str) -> Outcome {
    let of = |path: &str, value: &str| {
        let timeouts = format!("timeouts: {{{field}: {value}}}");
        rule(&prefix(path)).to(V1).with(&timeouts)
    };
    let rules = [of("/limited", "500ms"), of("/unlimited", "0s")];
    s.apply(&http_route("timeouts", SAME, "", &rules))?;
    s.http_accepted(&["timeouts"], "same-namespace")?;
    s.expect(
        "same-namespace",
        &[
            get("/limited").by(V1),
            get("/limited?delay=1s").status(504),
            get("/unlimited?delay=1s").by(V1),
        ],
    )
}

pub(crate) fn http_route_timeout_request(s: &Stand) -> Outcome {
    timeouts(s, "request")
}

pub(crate) fn http_route_timeout_backend_request(s: &Stand) -> Outcome {
    timeouts(s, "backendRequest")
}

/// A request that the application fails as often as `query` says.
fn failing(s: &Stand, path: &str, query: &str, statuses: &[u16]) -> Outcome {
    let at = s.listener("same-namespace", 80)?;
    s.until(&format!("{path}?{query}"), || {
        let case = get(&format!("{path}?uuid={}&{query}", fastrand::u64(..)));
        let case = match statuses {
            [200] => case.by(V3),
            _ => case.one_of(statuses),
        };
        s.once(at, &case).map(drop)
    })
}

pub(crate) fn http_route_retry(s: &Stand) -> Outcome {
    let of = |path: &str, retry: &str| {
        rule(&prefix(path))
            .to(V3)
            .with(&format!("retry: {{{retry}}}"))
    };
    let rules = [
        of("/retry/one", "codes: [500], attempts: 3"),
        of("/retry/all", "codes: [500, 502, 503, 504], attempts: 2"),
    ];
    s.apply(&http_route("retry", SAME, "", &rules))?;
    s.http_accepted(&["retry"], "same-namespace")?;
    let of = |path: &str, code: u16, after: u8, status: u16| {
        failing(
            s,
            path,
            &format!("responseCode={code}&succeedAfter={after}"),
            &[status],
        )
    };
    of("/retry/one", 500, 2, 200)?;
    of("/retry/one", 500, 4, 500)?;
    of("/retry/one", 503, 2, 503)?;
    for code in [500, 502, 503, 504] {
        of("/retry/all", code, 1, 200)?;
        of("/retry/all", code, 3, code)?;
    }
    Ok(())
}

pub(crate) fn http_route_retry_connection_error(s: &Stand) -> Outcome {
    let rules = [rule(&prefix("/retry/any"))
        .to(V3)
        .with("retry: {attempts: 3}")];
    s.apply(&http_route("retry-connections", SAME, "", &rules))?;
    s.http_accepted(&["retry-connections"], "same-namespace")?;
    failing(s, "/retry/any", "succeedAfter=2", &[200])?;
    failing(s, "/retry/any", "succeedAfter=4", &[500, 503])
}

pub(crate) fn http_route_retry_with_timeouts(s: &Stand) -> Outcome {
    let rules = [
        rule(&prefix("/retry/each"))
            .to(V3)
            .with("retry: {attempts: 2}, timeouts: {backendRequest: 200ms}"),
        rule(&prefix("/retry/whole")).to(V3).with(
            "retry: {codes: [500], attempts: 5}, timeouts: {backendRequest: 200ms, request: 400ms}",
        ),
    ];
    s.apply(&http_route("retry-timeouts", SAME, "", &rules))?;
    s.http_accepted(&["retry-timeouts"], "same-namespace")?;
    let each = |after: u8, status: u16| {
        let query = format!("responseCode=500&succeedAfter={after}&delayRetry=300ms");
        failing(s, "/retry/each", &query, &[status])
    };
    each(2, 200)?;
    each(3, 504)?;
    failing(s, "/retry/whole", "responseCode=500&succeedAfter=1", &[200])?;
    let slow = "responseCode=500&succeedAfter=4&delayRetry=100ms";
    failing(s, "/retry/whole", slow, &[504])
}
