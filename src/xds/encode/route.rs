//! Route tables.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{Any, bool_value, core, duration, matcher, route, u32_value, u64_value};
use super::super::structs::{
    COMPARE, ISTIO, MESHCTL, RETRY_MIN_INTERVAL, metadata, nested, number, object, span, text,
};
use super::hash;
use super::route_policy::{again, bound, mirror};
use super::{filter, headers, jwt_authn};
use crate::mesh::filter::{HttpFilter, LocalRateLimit};
use crate::mesh::route::{
    Action, Forward, HeaderMatch, Match, Missing, PathMatch, PathRewrite, Priority, QueryMatch,
    Redirect, Respond, Route, TextMatch, WeightedCluster,
};
use crate::mesh::{Client, Origin, RouteTable, VirtualHost};

/// What a table says before its hosts.
pub(super) fn head(table: &RouteTable) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: table.name.clone(),
        ..Default::default()
    }
}

/// What of a table matters to its hosts beside themselves.
pub(super) struct Around<'a> {
    /// Names of hosts so far.
    seen: BTreeSet<String>,
    /// The rate limit that all routes share.
    whole: Option<&'a Arc<LocalRateLimit>>,
}

impl<'a> Around<'a> {
    pub(super) fn of(table: &'a RouteTable) -> Self {
        let routes = table.hosts.iter().flat_map(|host| &host.routes);
        Self {
            seen: BTreeSet::new(),
            whole: common_limit(routes),
        }
    }

    /// Whether something is said for all hosts at once.
    pub(super) fn is_joined(&self) -> bool {
        self.whole.is_some()
    }

    /// The names of `host` that are left to it. Envoy refuses a table in which a name comes twice; the
    /// first keeps it, as in ours.
    fn domains(&mut self, host: &VirtualHost, client: Client) -> Vec<String> {
        let left = |domain: &&String| {
            client == Client::Meshctl || self.seen.insert(domain.to_ascii_lowercase())
        };
        host.domains.iter().filter(left).cloned().collect()
    }

    /// The host at this place; none without a name.
    pub(super) fn encode(
        &mut self,
        index: usize,
        host: &VirtualHost,
        client: Client,
    ) -> Option<route::VirtualHost> {
        let whole = self.whole;
        let domains = self.domains(host, client);
        if domains.is_empty() && client != Client::Meshctl {
            return None;
        }
        let own = common_limit(&host.routes);
        let common = own.or(whole);
        let told = own.filter(|own| whole.is_none_or(|whole| !Arc::ptr_eq(own, whole)));
        Some(route::VirtualHost {
            name: if host.name.is_empty() && client != Client::Meshctl {
                format!("host-{index}")
            } else {
                host.name.clone()
            },
            domains,
            routes: host
                .routes
                .iter()
                .filter_map(|route| below(route, common, client))
                .collect(),
            typed_per_filter_config: limits(told, client).collect(),
            include_request_attempt_count: host.attempts.request && client != Client::Grpc,
            include_attempt_count_in_response: host.attempts.response && client != Client::Grpc,
            include_is_timeout_retry_header: host.attempts.timeout_retry && client != Client::Grpc,
            ..Default::default()
        })
    }

    /// What a table says behind its hosts.
    pub(super) fn tail(&self, table: &RouteTable, client: Client) -> route::RouteConfiguration {
        route::RouteConfiguration {
            // A route may be ahead of its cluster: that answers 503, and is no reason to refuse the table.
            validate_clusters: bool_value(false),
            ignore_port_in_host_matching: table.ignore_port,
            typed_per_filter_config: limits(self.whole, client).collect(),
            ..Default::default()
        }
    }
}

/// Whether `route` sends requests to `cluster`.
pub(super) fn leads_to(route: &Route) -> impl Iterator<Item = &String> {
    let forward = match &route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond(_) => None,
    };
    let clusters = forward.into_iter().flat_map(|forward| &forward.clusters);
    clusters.map(|to| &to.cluster)
}

/// Whether with `routes` in it a table may come to say something for all of its hosts at once: only one
/// that has no limit keeps it from that for certain.
pub(super) fn may_join(routes: &[Route]) -> bool {
    let free = |route: &Route| match &route.action {
        Action::Forward(forward) => !forward
            .filters
            .iter()
            .any(|filter| matches!(filter, HttpFilter::LocalRateLimit(_))),
        Action::Redirect(_) | Action::Respond(_) => false,
    };
    !routes.iter().any(free)
}

/// The rate limit that most of `routes` share, one object whose tokens all of them take; none where some
/// have no limit at all. Those with another say so themselves.
fn common_limit<'a>(
    routes: impl IntoIterator<Item = &'a Route>,
) -> Option<&'a Arc<LocalRateLimit>> {
    let mut forwards = routes.into_iter().filter_map(|route| match &route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond(_) => None,
    });
    let of = |forward: &'a Forward| {
        forward.filters.iter().find_map(|filter| match filter {
            HttpFilter::LocalRateLimit(limit) => Some(limit),
            _ => None,
        })
    };
    let mut found: Vec<(&Arc<LocalRateLimit>, usize)> = Vec::new();
    forwards.try_for_each(|forward| {
        let limit = of(forward)?;
        match found
            .iter_mut()
            .find(|(other, _)| Arc::ptr_eq(other, limit))
        {
            Some((_, count)) => *count += 1,
            None => found.push((limit, 1)),
        }
        Some(())
    })?;
    let most = found.into_iter().rev().max_by_key(|(_, count)| *count)?;
    Some(most.0)
}

/// What is said above routes about a rate limit.
fn limits(
    common: Option<&Arc<LocalRateLimit>>,
    client: Client,
) -> impl Iterator<Item = (String, Any)> {
    common
        .map(|limit| HttpFilter::LocalRateLimit(Arc::clone(limit)))
        .filter(|limit| filter::is_known(limit, client))
        .map(|limit| filter::of_route(&limit, client))
        .map(|(name, config)| (name.to_owned(), config))
        .into_iter()
}

/// `None` when a client of this kind can never match it.
pub(super) fn one(from: &Route, client: Client) -> Option<route::Route> {
    below(from, None, client)
}

/// As [`one`], for a route below what says the rate limit `common`.
fn below(
    from: &Route,
    common: Option<&Arc<LocalRateLimit>>,
    client: Client,
) -> Option<route::Route> {
    let edits = headers::encode(&from.headers, client);
    let mut ours = Vec::new();
    let action = match &from.action {
        Action::Forward(forward) => {
            if client == Client::Meshctl {
                ours.extend(path_rewrite(forward));
                let retry = forward.retry.as_ref();
                let least = retry.map(|retry| retry.min_interval);
                let least = least.filter(|least| !least.is_zero());
                ours.extend(least.map(|least| (RETRY_MIN_INTERVAL, span(least))));
                // Plain values are always JSON.
                let compare = forward.compare.as_deref().map(serde_json::to_string);
                ours.extend(compare.and_then(Result::ok).map(|how| (COMPARE, text(how))));
            }
            forwarded(forward, &from.matches, edits.host.as_ref(), client)
        }
        Action::Redirect(redirect) => route::route::Action::Redirect(redirected(redirect)),
        Action::Respond(respond) => answered(respond, client),
    };
    if client == Client::Meshctl {
        ours.extend(origin(&from.origin));
        if let PathMatch::Segments(path) = &from.matches.path
            && !is_separable(path)
        {
            ours.push(("segments", text(path)));
        }
    }
    let istio = (client != Client::Grpc && from.origin.kind == "VirtualService").then(|| {
        let Origin {
            namespace, name, ..
        } = &from.origin;
        let path =
            format!("/apis/networking.istio.io/v1/namespaces/{namespace}/virtual-service/{name}");
        ("config", text(path))
    });
    let replay_limit = match &from.action {
        Action::Forward(forward) if client != Client::Grpc => forward.replay_limit,
        _ => None,
    };
    let filters = match (&from.action, &action) {
        (Action::Forward(forward), route::route::Action::Route(_)) => forward.filters.as_slice(),
        _ => &[],
    };
    Some(route::Route {
        name: from.name.clone(),
        typed_per_filter_config: filters
            .iter()
            .filter(|own| filter::is_known(own, client) && !is_common(own, common))
            .map(|own| filter::of_route(own, client))
            .map(|(name, config)| (name.to_owned(), config))
            .collect(),
        request_body_buffer_limit: replay_limit.and_then(u64_value),
        r#match: Some(condition(&from.matches, client)?),
        action: Some(action),
        metadata: metadata([(ISTIO, object(istio)), (MESHCTL, object(ours))]),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        ..Default::default()
    })
}

fn is_common(own: &HttpFilter, common: Option<&Arc<LocalRateLimit>>) -> bool {
    match (own, common) {
        (HttpFilter::LocalRateLimit(own), Some(common)) => Arc::ptr_eq(own, common),
        _ => false,
    }
}

fn origin(origin: &Origin) -> Option<(&'static str, super::super::pb::Value)> {
    if *origin == Origin::default() {
        return None;
    }
    let texts = [
        ("kind", &origin.kind),
        ("namespace", &origin.namespace),
        ("name", &origin.name),
    ];
    let numbers = [("line", origin.line), ("column", origin.column)];
    let fields = texts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key, text(value)))
        .chain(origin.file.as_deref().map(|file| ("file", text(file))))
        .chain(
            numbers
                .into_iter()
                .filter(|(_, value)| *value > 0)
                .map(|(key, value)| (key, number(value))),
        );
    Some(("origin", nested(object(fields))))
}

/// What a prefix rewrite cannot say: replacing the whole path, or a prefix by nothing.
fn path_rewrite(forward: &Forward) -> Option<(&'static str, super::super::pb::Value)> {
    match &forward.rewrite.path {
        Some(PathRewrite::Full(path)) => Some(("fullPath", text(path))),
        Some(PathRewrite::Prefix(prefix)) if prefix.is_empty() => Some(("dropPrefix", text(""))),
        _ => None,
    }
}

/// Envoy's rule for `path_separated_prefix`.
fn is_separable(path: &str) -> bool {
    path.len() > 1 && !path.ends_with('/') && !path.contains(['?', '#'])
}

pub(super) fn condition(from: &Match, client: Client) -> Option<route::RouteMatch> {
    use route::route_match::PathSpecifier as Path;
    // gRPC calls have no query, and their clients look at no token: a route that asks never holds.
    if client == Client::Grpc && !(from.query.is_empty() && from.claims.is_empty()) {
        return None;
    }
    let path = match &from.path {
        PathMatch::Prefix(prefix) => Path::Prefix(prefix.clone()),
        PathMatch::Exact(path) => Path::Path(path.clone()),
        PathMatch::Regex(pattern) => Path::SafeRegex(regex(pattern.as_str())),
        PathMatch::Segments(path) => {
            let trimmed = path.trim_end_matches('/');
            match client {
                _ if trimmed.is_empty() => Path::Prefix("/".to_owned()),
                Client::Grpc => Path::SafeRegex(regex(&format!("{}(/.*)?", escape(trimmed)))),
                Client::Meshctl | Client::Envoy if is_separable(trimmed) => {
                    Path::PathSeparatedPrefix(trimmed.to_owned())
                }
                Client::Meshctl | Client::Envoy => Path::Prefix(trimmed.to_owned()),
            }
        }
    };
    Some(route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: from
            .ignore_case
            .then_some(())
            .and_then(|()| bool_value(false)),
        headers: from
            .headers
            .iter()
            .map(|header| header_match(header, client))
            .collect(),
        query_parameters: from
            .query
            .iter()
            .map(|query| query_match(query, client))
            .collect(),
        dynamic_metadata: from
            .claims
            .iter()
            .map(|claim| jwt_authn::claim_match(claim, client))
            .collect(),
        ..Default::default()
    })
}

pub(super) fn header_match(from: &HeaderMatch, client: Client) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let specifier = match text_match(&from.value, client) {
        None => Specifier::PresentMatch(true),
        Some(matcher) => Specifier::StringMatch(matcher),
    };
    route::HeaderMatcher {
        name: match from.name.as_str() {
            "host" if client != Client::Meshctl => ":authority".to_owned(),
            name => name.to_owned(),
        },
        invert_match: from.invert,
        // Without it "is not x" would not hold for a request that lacks the header.
        treat_missing_header_as_empty: from.invert
            && matches!(specifier, Specifier::StringMatch(_))
            && client != Client::Grpc,
        header_match_specifier: Some(specifier),
    }
}

fn query_match(from: &QueryMatch, client: Client) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    route::QueryParameterMatcher {
        name: from.name.clone(),
        query_parameter_match_specifier: Some(match text_match(&from.value, client) {
            None => Specifier::PresentMatch(true),
            Some(matcher) => Specifier::StringMatch(matcher),
        }),
    }
}

/// `None` is "is present".
pub(super) fn text_match(from: &TextMatch, client: Client) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match from {
        TextMatch::Present => return None,
        // Envoy refuses empty ones; they hold for whatever is there.
        TextMatch::Prefix(text) | TextMatch::Suffix(text)
            if text.is_empty() && client != Client::Meshctl =>
        {
            return None;
        }
        TextMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        TextMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        TextMatch::Suffix(text) => MatchPattern::Suffix(text.clone()),
        TextMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern.as_str())),
    };
    Some(matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    })
}

pub(super) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: pattern.to_owned(),
        ..Default::default()
    }
}

/// `text` as a pattern that matches it alone.
fn escape(text: &str) -> String {
    regex::escape(text)
}

fn forwarded(
    from: &Forward,
    matches: &Match,
    host: Option<&String>,
    client: Client,
) -> route::route::Action {
    use route::route_action as options;
    let alive: Vec<&WeightedCluster> = from
        .clusters
        .iter()
        .filter(|to| client == Client::Meshctl || to.weight > 0)
        .collect();
    if alive.is_empty() && client != Client::Meshctl {
        // Envoy refuses weights that sum to nothing.
        return answered(
            &Respond {
                status: from.missing.status(),
                body: String::new(),
            },
            client,
        );
    }
    let plain = |to: &WeightedCluster| to.headers == crate::mesh::route::HeaderEdits::default();
    let specifier = match (client, &*alive) {
        (Client::Envoy | Client::Grpc, [only]) if plain(only) => {
            options::ClusterSpecifier::Cluster(only.cluster.clone())
        }
        _ => options::ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: alive.into_iter().map(|to| weighted(to, client)).collect(),
            ..Default::default()
        }),
    };
    let mut to = route::RouteAction {
        cluster_specifier: Some(specifier),
        // Zero is no limit; absent would be Envoy's 15 s.
        timeout: duration(from.timeout.unwrap_or(Duration::ZERO)),
        retry_policy: from.retry.as_ref().and_then(|retry| again(retry, client)),
        host_rewrite_specifier: from
            .rewrite
            .authority
            .as_ref()
            .or(host)
            .map(|host| options::HostRewriteSpecifier::HostRewriteLiteral(host.clone())),
        // gRPC libraries are told of round robin only.
        hash_policy: from
            .hash
            .iter()
            .filter(|_| client != Client::Grpc)
            .map(hash::encode)
            .collect(),
        ..Default::default()
    };
    if client == Client::Grpc {
        to.timeout = None;
        to.host_rewrite_specifier = None;
        // gRPC knows only this kind of limit.
        to.max_stream_duration = Some(options::MaxStreamDuration {
            max_stream_duration: duration(from.timeout.unwrap_or(Duration::ZERO)),
            ..Default::default()
        });
    } else {
        bound(&from.deadlines, &mut to);
        to.hedge_policy = from.hedge.then(|| route::HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..Default::default()
        });
        to.rate_limits = filter::rules(&from.rate_limits, client);
        to.request_mirror_policies = from.mirrors.iter().map(mirror).collect();
        to.set_cluster_not_found_response_code(match from.missing {
            Missing::Unavailable => options::ClusterNotFoundResponseCode::ServiceUnavailable,
            Missing::NotFound => options::ClusterNotFoundResponseCode::NotFound,
            Missing::Internal => options::ClusterNotFoundResponseCode::InternalServerError,
        });
        to.priority = match from.priority {
            Priority::Default => core::RoutingPriority::Default,
            Priority::High => core::RoutingPriority::High,
        }
        .into();
    }
    match from
        .rewrite
        .path
        .as_ref()
        .filter(|_| client != Client::Grpc)
    {
        None => {}
        Some(PathRewrite::Prefix(prefix)) if prefix.is_empty() => {
            if let PathMatch::Prefix(matched) | PathMatch::Segments(matched) = &matches.path {
                to.regex_rewrite = substitute(&format!("^{}", escape(matched)), "");
            }
        }
        Some(PathRewrite::Prefix(prefix)) => prefix.clone_into(&mut to.prefix_rewrite),
        Some(PathRewrite::Full(path)) => {
            to.regex_rewrite = substitute("^.*$", &path.replace('\\', "\\\\"));
        }
        Some(PathRewrite::Regex {
            pattern,
            substitution,
        }) => to.regex_rewrite = substitute(pattern.as_str(), substitution),
    }
    route::route::Action::Route(to)
}

#[expect(clippy::unnecessary_wraps, reason = "fills an optional field")]
fn substitute(pattern: &str, substitution: &str) -> Option<matcher::RegexMatchAndSubstitute> {
    Some(matcher::RegexMatchAndSubstitute {
        pattern: Some(regex(pattern)),
        substitution: substitution.to_owned(),
    })
}

fn weighted(from: &WeightedCluster, client: Client) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let edits = headers::encode(&from.headers, client);
    route::weighted_cluster::ClusterWeight {
        name: from.cluster.clone(),
        weight: u32_value(from.weight),
        request_headers_to_add: edits.request_add,
        request_headers_to_remove: edits.request_remove,
        response_headers_to_add: edits.response_add,
        response_headers_to_remove: edits.response_remove,
        host_rewrite_specifier: edits.host.map(HostRewriteSpecifier::HostRewriteLiteral),
        ..Default::default()
    }
}

fn redirected(from: &Redirect) -> route::RedirectAction {
    use options::RedirectResponseCode as Code;
    use route::redirect_action as options;
    route::RedirectAction {
        response_code: match from.status {
            302 => Code::Found,
            303 => Code::SeeOther,
            307 => Code::TemporaryRedirect,
            308 => Code::PermanentRedirect,
            _ => Code::MovedPermanently,
        }
        .into(),
        host_redirect: from.authority.clone().unwrap_or_default(),
        port_redirect: from.port.map(u32::from).unwrap_or_default(),
        scheme_rewrite_specifier: from
            .scheme
            .clone()
            .map(options::SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: from
            .path
            .clone()
            .map(options::PathRewriteSpecifier::PathRedirect)
            .or(from
                .prefix
                .clone()
                .map(options::PathRewriteSpecifier::PrefixRewrite)),
        ..Default::default()
    }
}

fn answered(from: &Respond, client: Client) -> route::route::Action {
    route::route::Action::DirectResponse(route::DirectResponseAction {
        status: match client {
            Client::Meshctl => u32::from(from.status),
            Client::Envoy | Client::Grpc => u32::from(from.status.clamp(200, 599)),
        },
        body: (!from.body.is_empty()).then(|| core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(
                from.body.clone(),
            )),
            ..Default::default()
        }),
        ..Default::default()
    })
}
