//! VirtualService.

use std::time::Duration;

use super::http_match::{HttpMatch, http_match, pattern};
use crate::mesh::Hostname;
use crate::mesh::route::{
    HeaderEdits, HeaderOperations, Pattern, Redirect, Respond, Retry, RetryOn,
};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};
use crate::resource::suggest::nearest;

/// A VirtualService.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VirtualService {
    /// As written; short names are of the rule's own namespace.
    pub hosts: Vec<String>,
    /// As written; empty is `mesh`.
    pub gateways: Vec<String>,
    /// Namespaces that see it: names, `.` and `*`; empty is `*`.
    pub export_to: Vec<String>,
    /// The first match wins.
    pub http: Vec<HttpRoute>,
}

/// One HTTP route.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpRoute {
    /// For access logs.
    pub name: String,
    /// Any suffices; none is every request.
    pub matches: Vec<HttpMatch>,
    /// What happens.
    pub action: HttpAction,
    /// What takes the place of the path.
    pub rewrite_uri: Option<UriRewrite>,
    /// What takes the place of the host.
    pub rewrite_authority: Option<String>,
    /// For the request with its retries.
    pub timeout: Option<Duration>,
    /// `None` when nothing is written (Istio's defaults); `Some(None)` never retries.
    pub retries: Option<Option<Retry>>,
    /// Header edits.
    pub headers: HeaderEdits,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// Sends on, by weight.
    Route(Vec<RouteDestination>),
    /// Sends the caller elsewhere.
    Redirect(Redirect),
    /// Answers by itself.
    Respond(Respond),
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDestination {
    /// As written.
    pub host: String,
    /// Empty for the whole service.
    pub subset: String,
    /// Service port.
    pub port: Option<u16>,
    /// Share of the sum; a single destination gets everything.
    pub weight: u32,
    /// Header edits for this destination.
    pub headers: HeaderEdits,
}

/// What takes the place of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriRewrite {
    /// Of the matched prefix, else of the whole path.
    Text(String),
    /// Of every match.
    Regex(Pattern, String),
}

const TCP: &str = "bytes go to the service itself; split them by the weights of its pods";

pub(in crate::resource) fn virtual_service(fields: &Fields<'_>) -> VirtualService {
    let Some(spec) = fields.require("spec") else {
        return VirtualService::default();
    };
    let spec = spec.fields();
    let hosts = spec.list("hosts");
    if hosts.is_empty() {
        spec.value
            .error_hint("a VirtualService needs a host", "hosts: [reviews]");
    }
    let service = VirtualService {
        hosts: hosts.iter().filter_map(host).collect(),
        gateways: spec.text_list("gateways"),
        export_to: spec.text_list("exportTo"),
        http: spec.list("http").iter().map(http_route).collect(),
    };
    spec.refuse("tls", TCP);
    spec.refuse("tcp", TCP);
    if service.http.is_empty() && spec.get("tls").is_none() && spec.get("tcp").is_none() {
        spec.value.error_hint(
            "a VirtualService needs a route",
            "http: [{route: [{destination: {host: reviews}}]}]",
        );
    }
    spec.finish();
    service
}

/// A host name, short or full; addresses are for gateways only.
pub(super) fn host(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.parse::<Hostname>().is_err() || text.parse::<std::net::IpAddr>().is_ok() {
        value.error_hint(
            format!("{text:?} is not a host name"),
            "such as reviews, reviews.prod, or reviews.prod.svc.cluster.local",
        );
        return None;
    }
    Some(text)
}

fn http_route(value: &Value<'_>) -> HttpRoute {
    let fields = value.fields();
    for name in ["fault", "mirror", "mirrors", "delegate", "corsPolicy"] {
        let hint = match name {
            "delegate" => "write the routes of the delegate here",
            "corsPolicy" => "let the application answer CORS requests",
            _ => "remove it until it is",
        };
        fields.refuse(name, hint);
    }
    fields.refuse("mirrorPercentage", "remove it until mirroring is honoured");
    fields.refuse("mirrorPercent", "remove it until mirroring is honoured");
    let written = fields.list("match");
    let (rewrite_uri, rewrite_authority) = fields
        .get("rewrite")
        .map(|value| rewrite(&value))
        .unwrap_or_default();
    let route = HttpRoute {
        name: fields.text("name").unwrap_or_default(),
        matches: written.iter().map(http_match).collect(),
        action: action(&fields),
        rewrite_uri,
        rewrite_authority,
        timeout: fields
            .duration("timeout")
            .filter(|timeout| !timeout.is_zero()),
        retries: fields.get("retries").map(|value| retries(&value)),
        headers: edits(fields.get("headers")),
    };
    fields.finish();
    route
}

fn action(fields: &Fields<'_>) -> HttpAction {
    let routes = fields.get("route");
    let redirect_to = fields.get("redirect");
    let respond_with = fields.get("directResponse");
    let written = [&routes, &redirect_to, &respond_with];
    if written.iter().filter(|field| field.is_some()).count() != 1
        && fields.get("delegate").is_none()
    {
        fields.value.error_hint(
            "a route needs exactly one of route, redirect and directResponse",
            "route: [{destination: {host: reviews}}]",
        );
    }
    if let Some(value) = redirect_to {
        HttpAction::Redirect(redirect(&value))
    } else if let Some(value) = respond_with {
        HttpAction::Respond(respond(&value))
    } else {
        HttpAction::Route(routes.map(|value| destinations(&value)).unwrap_or_default())
    }
}

fn destinations(value: &Value<'_>) -> Vec<RouteDestination> {
    let written = value.list();
    if written.is_empty() {
        value.error("a route needs a destination");
    }
    let single = written.len() == 1;
    let mut sum: u64 = 0;
    let mut failed = false;
    let mut destinations = Vec::new();
    for item in &written {
        let fields = item.fields();
        let target = fields.require("destination");
        let weight = match fields.get("weight") {
            Some(value) => {
                let weight = value.count(i32::MAX.unsigned_abs());
                failed |= weight.is_none();
                weight.unwrap_or(0)
            }
            None => 0,
        };
        // A single destination gets everything, whatever is written.
        let weight = if single { weight.max(1) } else { weight };
        sum += u64::from(weight);
        let headers = edits(fields.get("headers"));
        fields.finish();
        if let Some(target) = target {
            let fields = target.fields();
            let host = fields.require("host").and_then(|value| host(&value));
            let subset = fields.text("subset").unwrap_or_default();
            let port = fields.get("port").and_then(|value| {
                let fields = value.fields();
                let number = fields.require("number").and_then(|value| value.port());
                fields.finish();
                number
            });
            fields.finish();
            if let Some(host) = host {
                destinations.push(RouteDestination {
                    host,
                    subset,
                    port,
                    weight,
                    headers,
                });
            }
        }
    }
    if !single && !written.is_empty() && !failed {
        if sum == 0 {
            value.error_hint(
                "no destination has a weight, so requests could go nowhere",
                "give each a weight; together 100",
            );
        } else if sum > u64::from(u32::MAX) {
            value.error_hint(
                format!("the weights sum to {sum}, which is more than {}", u32::MAX),
                "let the weights sum to 100",
            );
        } else if sum != 100 {
            value.warn(
                codes::WEIGHT_SUM,
                format!(
                    "the weights sum to {sum}, not to 100; each destination gets its share of {sum}"
                ),
                "let the weights sum to 100",
            );
        }
    }
    destinations
}

fn rewrite(value: &Value<'_>) -> (Option<UriRewrite>, Option<String>) {
    let fields = value.fields();
    let text = fields.text("uri").map(UriRewrite::Text);
    let regex = fields.get("uriRegexRewrite").and_then(|value| {
        let fields = value.fields();
        let matched = fields.require("match").and_then(|value| pattern(&value));
        let substitution = fields.require("rewrite").and_then(|value| value.text());
        fields.finish();
        Some(UriRewrite::Regex(matched?, substitution?))
    });
    // A form that many documents show and no version of Istio has: its meaning is plain.
    let old = fields.get("regex").and_then(|value| {
        let matched = pattern(&value);
        let written = fields
            .require("replacement")
            .and_then(|value| value.text())?;
        let substitution = groups(&written);
        value.warn(
            codes::DEPRECATED,
            "rewrite has no field \"regex\"; read as uriRegexRewrite",
            format!(
                "write uriRegexRewrite: {{match: {:?}, rewrite: {substitution:?}}}",
                value.tree.text().unwrap_or_default()
            ),
        );
        Some(UriRewrite::Regex(matched?, substitution))
    });
    if value.tree.get("regex").is_some() {
        fields.accept(&["replacement"]);
    }
    let authority = fields.text("authority");
    if [&text, &regex, &old].iter().filter(|r| r.is_some()).count() > 1 {
        value.error_hint(
            "several rewrites of one path",
            "write uri or uriRegexRewrite",
        );
    }
    fields.finish();
    (text.or(regex).or(old), authority)
}

/// `$1` and `${1}` as RE2's `\1`.
fn groups(replacement: &str) -> String {
    let mut out = String::new();
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let digit = after.strip_prefix('{').unwrap_or(after).chars().next();
        if let Some(digit) = digit.filter(char::is_ascii_digit) {
            out.push('\\');
            out.push(digit);
            let braced = format!("{{{digit}}}");
            let after_digit = after
                .strip_prefix(&braced)
                .or_else(|| after.strip_prefix(digit));
            rest = after_digit.unwrap_or_default();
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn redirect(value: &Value<'_>) -> Redirect {
    let fields = value.fields();
    fields.refuse("prefixRewrite", "redirect with the whole path: uri: /…");
    let scheme = fields
        .get("scheme")
        .and_then(|value| value.choice(&[("http", "http"), ("https", "https")]));
    let mut port = fields.port("port");
    let mut port_of_request = false;
    if let Some(derive) = fields.get("derivePort") {
        match (
            derive.choice(&[
                ("FROM_PROTOCOL_DEFAULT", true),
                ("FROM_REQUEST_PORT", false),
            ]),
            scheme,
        ) {
            (Some(true), Some("https")) => port = Some(443),
            (Some(true), Some(_)) => port = Some(80),
            (Some(false), _) => port_of_request = true,
            // What names no port means the scheme's own.
            (Some(true), None) | (None, _) => {}
        }
    }
    let status = fields.get("redirectCode").and_then(|value| {
        let code = value.integer(300, 399)?;
        if !matches!(code, 301 | 302 | 303 | 307 | 308) {
            value.error(format!(
                "expected one of 301, 302, 303, 307 and 308, found {code}"
            ));
        }
        u16::try_from(code).ok()
    });
    let redirect = Redirect {
        status: status.unwrap_or(301),
        scheme: scheme.map(str::to_owned),
        authority: fields.text("authority"),
        port,
        path: fields.text("uri"),
        port_of_request,
    };
    fields.finish();
    redirect
}

/// Envoy's limit for bodies that it answers by itself.
const MAX_BODY_BYTES: usize = 4096;

fn respond(value: &Value<'_>) -> Respond {
    let fields = value.fields();
    let status = fields
        .require("status")
        .and_then(|value| value.integer(200, 599))
        .and_then(|status| u16::try_from(status).ok());
    let body = fields.get("body").and_then(|value| {
        let fields = value.fields();
        fields.refuse("bytes", "write a text: body: {string: …}");
        let text = fields.text("string");
        fields.finish();
        if text
            .as_ref()
            .is_some_and(|text| text.len() > MAX_BODY_BYTES)
        {
            value.error(format!("a body has at most {MAX_BODY_BYTES} bytes"));
        }
        text
    });
    fields.finish();
    Respond {
        status: status.unwrap_or(503),
        body: body.unwrap_or_default(),
    }
}

fn edits(value: Option<Value<'_>>) -> HeaderEdits {
    let Some(value) = value else {
        return HeaderEdits::default();
    };
    let fields = value.fields();
    let edits = HeaderEdits {
        request: operations(fields.get("request")),
        response: operations(fields.get("response")),
    };
    fields.finish();
    edits
}

fn operations(value: Option<Value<'_>>) -> HeaderOperations {
    let Some(value) = value else {
        return HeaderOperations::default();
    };
    let fields = value.fields();
    let headers = |name: &'static str| {
        fields
            .get(name)
            .map(|value| value.entries())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(name, value)| {
                let text = value.text()?;
                let name = header_name(&value, name)?;
                if text.bytes().any(|byte| byte < b' ' && byte != b'\t') {
                    value.error("a header has no line breaks or control characters");
                }
                Some((name, text))
            })
            .collect()
    };
    let operations = HeaderOperations {
        set: headers("set"),
        add: headers("add"),
        remove: fields
            .list("remove")
            .iter()
            .filter_map(|value| header_name(value, &value.text()?))
            .collect(),
    };
    fields.finish();
    operations
}

fn header_name(value: &Value<'_>, name: &str) -> Option<String> {
    let lowered = name.to_ascii_lowercase();
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if lowered == ":authority" || (!lowered.is_empty() && lowered.bytes().all(token)) {
        Some(lowered)
    } else {
        value.error(format!("{name:?} is not the name of a header"));
        None
    }
}

fn retries(value: &Value<'_>) -> Option<Retry> {
    let fields = value.fields();
    let mut retry = Retry {
        attempts: fields.count("attempts", 100).unwrap_or(0),
        per_try_timeout: fields
            .duration("perTryTimeout")
            .filter(|timeout| !timeout.is_zero()),
        ..Retry::default()
    };
    if let Some(backoff) = fields.duration("backoff").filter(|wait| !wait.is_zero()) {
        retry.base_interval = backoff;
    }
    if let Some(value) = fields.get("retryOn") {
        conditions(&value, &mut retry);
    }
    fields.ignore(
        "retryRemoteLocalities",
        "another try may go to any endpoint",
    );
    fields.ignore(
        "retryIgnorePreviousHosts",
        "another try avoids the endpoint that failed",
    );
    fields.finish();
    (retry.attempts > 0).then_some(retry)
}

fn conditions(value: &Value<'_>, retry: &mut Retry) {
    let Some(text) = value.text() else { return };
    let mut on = Vec::new();
    for name in text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        if let Ok(status) = name.parse::<u16>() {
            if (100..600).contains(&status) {
                retry.status_codes.push(status);
                on.push(RetryOn::RetriableStatusCodes);
            } else {
                value.error(format!("{status} is not a status"));
            }
        } else if let Some(condition) = RetryOn::parse(name) {
            on.push(condition);
        } else if matches!(
            name,
            "retriable-headers" | "envoy-ratelimited" | "http3-post-connect-failure"
        ) {
            value.warn(
                codes::IGNORED,
                format!(
                    "retry condition {name:?} is not honoured by meshctl yet and has no effect"
                ),
                "remove it, or use retriable status codes",
            );
        } else {
            let message = format!("unknown retry condition {name:?}");
            let names = RetryOn::ALL.iter().map(|condition| condition.name());
            match nearest(name, names.clone()) {
                Some(name) => value.error_hint(message, format!("did you mean {name}?")),
                None => value.error_hint(
                    message,
                    format!("known: {}", names.collect::<Vec<_>>().join(", ")),
                ),
            }
        }
    }
    on.sort_unstable();
    on.dedup();
    if !on.is_empty() {
        retry.on = on;
    }
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn groups_of_other_languages_become_re2s() {
        assert_eq!(groups("/v2/$1/${2}$"), r"/v2/\1/\2$");
        assert_eq!(groups("$x"), "$x");
    }
}
