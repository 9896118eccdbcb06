//! HTTP routes of a VirtualService.

use std::sync::Arc;
use std::time::Duration;

use super::cors::cors;
use super::fault::fault;
use super::header_edits::edits;
use super::http_answer::{redirect, respond};
use super::http_match::{HttpMatch, http_match, pattern};
use super::percent::percentage;
use super::retries::retries;
use super::virtual_service::host;
use crate::mesh::filter::{Cors, Fault};
use crate::mesh::route::{HeaderEdits, Pattern, Redirect, Respond, Retry, Share};
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

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
    /// For the request with its retries; zero is no limit.
    pub timeout: Option<Duration>,
    /// `None` when nothing is written (Istio's defaults); `Some(None)` never retries.
    pub retries: Option<Option<Retry>>,
    /// Header edits.
    pub headers: HeaderEdits,
    /// Where copies of requests go.
    pub mirrors: Vec<MirrorDestination>,
    /// What goes wrong on purpose.
    pub fault: Option<Arc<Fault>>,
    /// What pages of other origins may.
    pub cors: Option<Arc<Cors>>,
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// Sends on, by weight.
    Route(Vec<RouteDestination>),
    /// Sends the caller elsewhere; to the port that was asked for, if so.
    Redirect(Redirect, bool),
    /// Answers by itself.
    Respond(Respond),
    /// Leaves it to the routes of another VirtualService.
    Delegate(DelegateTo),
}

/// A VirtualService without hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegateTo {
    /// Its name.
    pub name: String,
    /// Its namespace; `None` is that of the one which delegates.
    pub namespace: Option<String>,
}

/// A service, or a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// As written.
    pub host: String,
    /// Empty for the whole service.
    pub subset: String,
    /// Service port.
    pub port: Option<u16>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDestination {
    /// The service.
    pub to: Destination,
    /// Share of the sum; a single destination gets everything.
    pub weight: u32,
    /// Header edits for this destination.
    pub headers: HeaderEdits,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorDestination {
    /// The service.
    pub to: Destination,
    /// Of how many requests.
    pub share: Share,
    /// Where it is written, below the route.
    pub path: String,
}

/// What takes the place of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UriRewrite {
    /// Of the matched prefix, else of the whole path.
    Text(String),
    /// Of every match.
    Regex(Pattern, String),
}

pub(super) fn http_route(value: &Value<'_>) -> HttpRoute {
    let fields = value.fields();
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
        timeout: fields.duration("timeout"),
        retries: fields.get("retries").map(|value| retries(&value)),
        headers: edits(fields.get("headers")),
        mirrors: mirrors(&fields),
        fault: fields.get("fault").map(|value| {
            if !forwards(&fields) {
                value.error_hint(
                    "only what is sent on can go wrong on purpose",
                    "remove the fault, or write a route",
                );
            }
            fault(&value)
        }),
        cors: fields.get("corsPolicy").map(|value| {
            if !forwards(&fields) {
                value.warn(
                    codes::IGNORED,
                    "what the proxy answers by itself has no CORS policy, as in Envoy",
                    "remove the policy, or write a route",
                );
            }
            cors(&value)
        }),
    };
    fields.finish();
    route
}

/// Whether a route sends requests on.
fn forwards(fields: &Fields<'_>) -> bool {
    let written = |name| fields.value.tree.get(name).is_some();
    !written("redirect") && !written("directResponse")
}

fn mirrors(fields: &Fields<'_>) -> Vec<MirrorDestination> {
    let one = fields.get("mirror");
    let several = fields.get("mirrors");
    let share = percentage(fields, "mirrorPercentage", Some("mirrorPercent"));
    if let (None, Some((value, _))) = (&one, &share) {
        value.warn(
            codes::SCHEMA_WARNING,
            "nothing is mirrored by this, as there is no mirror beside it",
            "write mirror: {host: …}, or a percentage in each of mirrors",
        );
    }
    if let (Some(_), Some(several)) = (&one, &several) {
        several.error_hint(
            "a route has either mirror or mirrors",
            "put all of them into mirrors",
        );
    }
    let mut found = Vec::new();
    let mut add = |value: &Value<'_>, share: Option<Share>| {
        let share = share.unwrap_or_default();
        if let Some(to) = destination(value)
            && share.parts > 0
        {
            let below = value.path.strip_prefix(&fields.value.path);
            let path = below.unwrap_or_default().trim_start_matches('.').to_owned();
            found.push(MirrorDestination { to, share, path });
        }
    };
    if let Some(value) = one {
        add(&value, share.map(|(_, share)| share));
    }
    for item in several.map(|value| value.list()).unwrap_or_default() {
        let fields = item.fields();
        let share = percentage(&fields, "percentage", None);
        if let Some(value) = fields.require("destination") {
            add(&value, share.map(|(_, share)| share));
        }
        fields.finish();
    }
    if !forwards(fields) && !found.is_empty() {
        fields.value.error_hint(
            "only what is sent on can be mirrored",
            "remove the mirror, or write a route",
        );
    }
    found
}

fn action(fields: &Fields<'_>) -> HttpAction {
    let routes = fields.get("route");
    let redirect_to = fields.get("redirect");
    let respond_with = fields.get("directResponse");
    let delegate_to = fields.get("delegate");
    let written = [&routes, &redirect_to, &respond_with, &delegate_to];
    if written.iter().filter(|field| field.is_some()).count() != 1 {
        fields.value.error_hint(
            "a route needs exactly one of route, redirect, directResponse and delegate",
            "route: [{destination: {host: reviews}}]",
        );
    }
    if let Some(value) = redirect_to {
        let (redirect, to_port) = redirect(&value);
        HttpAction::Redirect(redirect, to_port)
    } else if let Some(value) = respond_with {
        HttpAction::Respond(respond(&value))
    } else if let Some(value) = delegate_to {
        let fields = value.fields();
        let name = fields.require("name").and_then(|value| value.text());
        let namespace = fields.text("namespace").filter(|name| !name.is_empty());
        fields.finish();
        HttpAction::Delegate(DelegateTo {
            name: name.unwrap_or_default(),
            namespace,
        })
    } else {
        HttpAction::Route(
            routes
                .map(|value| destinations(&value, true))
                .unwrap_or_default(),
        )
    }
}

/// A service, or a part of it.
fn destination(value: &Value<'_>) -> Option<Destination> {
    let fields = value.fields();
    let host = fields.require("host").and_then(|value| host(&value));
    let subset = fields.text("subset").unwrap_or_default();
    let port = fields.get("port").and_then(|value| {
        let fields = value.fields();
        let number = fields.require("number").and_then(|value| value.port());
        fields.finish();
        number
    });
    fields.finish();
    Some(Destination {
        host: host?,
        subset,
        port,
    })
}

/// Weighted destinations; those of requests may edit headers.
pub(super) fn destinations(value: &Value<'_>, requests: bool) -> Vec<RouteDestination> {
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
        let headers = edits(if requests {
            fields.get("headers")
        } else {
            None
        });
        fields.finish();
        if let Some(to) = target.and_then(|target| destination(&target)) {
            destinations.push(RouteDestination {
                to,
                weight,
                headers,
            });
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

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn groups_of_other_languages_become_re2s() {
        assert_eq!(groups("/v2/$1/${2}$"), r"/v2/\1/\2$");
        assert_eq!(groups("$x"), "$x");
    }
}
