//! Route tables.

use std::sync::Arc;
use std::time::Duration;

use super::super::pb::{BoolValue, core, matcher, route};
use super::super::structs::{
    COMPARE, MESHCTL, RETRY_MIN_INTERVAL, as_number, as_object, as_span, as_text, part,
};
use super::{Fault, duration_or, hash, jwt_authn};
use crate::mesh::route::{
    Action, AttemptHeaders, Forward, HeaderEdits, HeaderMatch, HeaderOperations, Match, Missing,
    PathMatch, PathRewrite, Pattern, Priority, QueryMatch, Redirect, Respond, Rewrite, Route,
    TextMatch, VirtualHost, WeightedCluster,
};
use crate::mesh::{Origin, RouteTable};

use super::filter::{overrides, rules};
use super::route_fields::{
    ACTION, CLUSTER_WEIGHT, CONDITION, HEADER, HOST, REDIRECT, RESPOND, ROUTE, STRING, TABLE,
    WEIGHTED,
};
use super::route_policy::{Inherited, deadlines, hedge, mirrors, replay_limit, retry};

pub(super) fn decode(
    from: &route::RouteConfiguration,
    ignored: &mut Vec<String>,
) -> Result<RouteTable, Fault> {
    TABLE.audit(from, ignored)?;
    // Read once, so that all hosts share what it counts.
    let filters = &from.typed_per_filter_config;
    let filters = overrides("RouteConfiguration", filters, ignored)?;
    Ok(RouteTable {
        name: from.name.clone(),
        ignore_port: from.ignore_port_in_host_matching,
        hosts: from
            .virtual_hosts
            .iter()
            .map(|host| {
                HOST.audit(host, ignored)?;
                let inherited = Inherited::new(from, host, &filters, ignored)?;
                Ok(VirtualHost {
                    name: host.name.clone(),
                    domains: host.domains.clone(),
                    routes: host
                        .routes
                        .iter()
                        .map(|route| one(route, &inherited, ignored))
                        .collect::<Result<_, _>>()?,
                    attempts: AttemptHeaders {
                        request: host.include_request_attempt_count,
                        response: host.include_attempt_count_in_response,
                        timeout_retry: host.include_is_timeout_retry_header,
                    },
                })
            })
            .collect::<Result<_, _>>()?,
    })
}

fn one(
    from: &route::Route,
    inherited: &Inherited,
    ignored: &mut Vec<String>,
) -> Result<Route, Fault> {
    ROUTE.audit(from, ignored)?;
    let metadata = from.metadata.as_ref();
    let ours = |key: &str| part(metadata, MESHCTL).and_then(|fields| as_text(fields, key));
    let condition = from
        .r#match
        .as_ref()
        .ok_or_else(|| Fault::Invalid("a route has no match".to_owned()))?;
    let mut matches = matches(condition, ignored)?;
    if let Some(path) = ours("segments") {
        matches.path = PathMatch::Segments(path);
    }
    if !from.typed_per_filter_config.is_empty()
        && !matches!(&from.action, Some(route::route::Action::Route(_)))
    {
        return unsupported("Route", "typed_per_filter_config without a cluster");
    }
    let action = match &from.action {
        Some(route::route::Action::Route(to)) => {
            let mut forward = forward(to, ignored)?;
            forward.filters = overrides("Route", &from.typed_per_filter_config, ignored)?;
            inherited.apply(&mut forward, replay_limit(from));
            let least = part(metadata, MESHCTL).and_then(|own| as_span(own, RETRY_MIN_INTERVAL));
            if let (Some(least), Some(retry)) = (least, &mut forward.retry) {
                retry.min_interval = least;
            }
            if let Some(how) = ours(COMPARE) {
                let how = serde_json::from_str(&how);
                let how = how.map_err(|error| Fault::Invalid(format!("{COMPARE}: {error}")))?;
                forward.compare = Some(Arc::new(how));
            }
            if let Some(path) = ours("fullPath") {
                forward.rewrite.path = Some(PathRewrite::Full(path));
            } else if let Some(path) = ours("dropPrefix") {
                forward.rewrite.path = Some(PathRewrite::Prefix(path));
            }
            Action::Forward(forward)
        }
        Some(route::route::Action::Redirect(to)) => Action::Redirect(redirect(to, ignored)?),
        Some(route::route::Action::DirectResponse(to)) => Action::Respond(respond(to, ignored)?),
        Some(
            route::route::Action::FilterAction(_) | route::route::Action::NonForwardingAction(_),
        )
        | None => return unsupported("Route", "action"),
    };
    Ok(Route {
        name: from.name.clone(),
        matches,
        action,
        headers: HeaderEdits {
            request: operations(
                &from.request_headers_to_add,
                &from.request_headers_to_remove,
            )?,
            response: operations(
                &from.response_headers_to_add,
                &from.response_headers_to_remove,
            )?,
        },
        origin: origin(metadata),
    })
}

pub(super) fn unsupported<T>(message: &'static str, field: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported {
        message,
        field: field.into(),
    })
}

/// Ours, else what Istio says of its own.
fn origin(metadata: Option<&core::Metadata>) -> Origin {
    let Some(fields) = part(metadata, MESHCTL).and_then(|fields| as_object(fields, "origin"))
    else {
        return Origin::default();
    };
    let text = |key| as_text(fields, key).unwrap_or_default();
    Origin {
        kind: text("kind"),
        namespace: text("namespace"),
        name: text("name"),
        file: as_text(fields, "file").map(|file| Arc::from(file.as_str())),
        line: as_number(fields, "line").unwrap_or_default(),
        column: as_number(fields, "column").unwrap_or_default(),
    }
}

pub(super) fn matches(from: &route::RouteMatch, ignored: &mut Vec<String>) -> Result<Match, Fault> {
    use route::route_match::PathSpecifier as Path;
    CONDITION.audit(from, ignored)?;
    let path = match &from.path_specifier {
        Some(Path::Prefix(prefix)) => PathMatch::Prefix(prefix.clone()),
        Some(Path::Path(path)) => PathMatch::Exact(path.clone()),
        Some(Path::SafeRegex(regex)) => PathMatch::Regex(pattern(regex)?),
        Some(Path::PathSeparatedPrefix(path)) => PathMatch::Segments(path.clone()),
        Some(Path::ConnectMatcher(_)) => return unsupported("RouteMatch", "connect_matcher"),
        Some(Path::PathMatchPolicy(_)) => return unsupported("RouteMatch", "path_match_policy"),
        None => return Err(Fault::Invalid("a match has no path".to_owned())),
    };
    let mut headers = Vec::with_capacity(from.headers.len());
    for header in &from.headers {
        HEADER.audit(header, ignored)?;
        header_match(header, &mut headers, ignored)?;
    }
    Ok(Match {
        path,
        ignore_case: from.case_sensitive == Some(BoolValue { value: false }),
        headers,
        query: from
            .query_parameters
            .iter()
            .map(|query| query_match(query, ignored))
            .collect::<Result<_, _>>()?,
        claims: from
            .dynamic_metadata
            .iter()
            .map(|claim| jwt_authn::claim_match(claim, ignored))
            .collect::<Result<_, _>>()?,
    })
}

pub(super) fn header_match(
    from: &route::HeaderMatcher,
    into: &mut Vec<HeaderMatch>,
    ignored: &mut Vec<String>,
) -> Result<(), Fault> {
    use route::header_matcher::HeaderMatchSpecifier as Specifier;
    let name = from.name.to_ascii_lowercase();
    let mut invert = from.invert_match;
    #[expect(deprecated, reason = "older control planes still send them")]
    let value = match &from.header_match_specifier {
        None => TextMatch::Present,
        Some(Specifier::PresentMatch(present)) => {
            invert ^= !present;
            TextMatch::Present
        }
        Some(Specifier::StringMatch(matcher)) => text(matcher, ignored)?,
        Some(Specifier::ExactMatch(exact)) => TextMatch::Exact(exact.clone()),
        Some(Specifier::PrefixMatch(prefix)) => TextMatch::Prefix(prefix.clone()),
        Some(Specifier::SuffixMatch(suffix)) => TextMatch::Suffix(suffix.clone()),
        Some(Specifier::SafeRegexMatch(regex)) => TextMatch::Regex(pattern(regex)?),
        Some(Specifier::ContainsMatch(part)) => contains(part)?,
        Some(Specifier::RangeMatch(_)) => return unsupported("HeaderMatcher", "range_match"),
    };
    if value != TextMatch::Present {
        if from.treat_missing_header_as_empty && !invert && value.holds(b"") {
            // It would hold for requests without the header, which ours never does.
            return unsupported("HeaderMatcher", "treat_missing_header_as_empty");
        }
        if invert && !from.treat_missing_header_as_empty {
            // Envoy's "is not" wants the header to be there; ours does not ask.
            into.push(HeaderMatch {
                name: name.clone(),
                value: TextMatch::Present,
                invert: false,
            });
        }
    }
    into.push(HeaderMatch {
        name,
        value,
        invert,
    });
    Ok(())
}

fn query_match(
    from: &route::QueryParameterMatcher,
    ignored: &mut Vec<String>,
) -> Result<QueryMatch, Fault> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    Ok(QueryMatch {
        name: from.name.clone(),
        value: match &from.query_parameter_match_specifier {
            None | Some(Specifier::PresentMatch(true)) => TextMatch::Present,
            Some(Specifier::PresentMatch(false)) => {
                return unsupported("QueryParameterMatcher", "present_match: false");
            }
            Some(Specifier::StringMatch(matcher)) => text(matcher, ignored)?,
        },
    })
}

pub(super) fn text(
    from: &matcher::StringMatcher,
    ignored: &mut Vec<String>,
) -> Result<TextMatch, Fault> {
    use matcher::string_matcher::MatchPattern;
    STRING.audit(from, ignored)?;
    match &from.match_pattern {
        Some(MatchPattern::Exact(text)) => Ok(TextMatch::Exact(text.clone())),
        Some(MatchPattern::Prefix(text)) => Ok(TextMatch::Prefix(text.clone())),
        Some(MatchPattern::Suffix(text)) => Ok(TextMatch::Suffix(text.clone())),
        Some(MatchPattern::SafeRegex(regex)) => pattern(regex).map(TextMatch::Regex),
        Some(MatchPattern::Contains(part)) => contains(part),
        Some(MatchPattern::Custom(_)) | None => unsupported("StringMatcher", "custom"),
    }
}

fn contains(part: &str) -> Result<TextMatch, Fault> {
    compile(&format!("(?s:.*){}(?s:.*)", regex::escape(part))).map(TextMatch::Regex)
}

pub(super) fn pattern(from: &matcher::RegexMatcher) -> Result<Pattern, Fault> {
    compile(&from.regex)
}

fn compile(source: &str) -> Result<Pattern, Fault> {
    Pattern::new(source).map_err(|error| Fault::Invalid(error.to_string()))
}

fn forward(from: &route::RouteAction, ignored: &mut Vec<String>) -> Result<Forward, Fault> {
    use route::route_action::{
        ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier,
    };
    ACTION.audit(from, ignored)?;
    let clusters = match &from.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![WeightedCluster {
            cluster: name.clone(),
            weight: 1,
            headers: HeaderEdits::default(),
        }],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            WEIGHTED.audit(weighted, ignored)?;
            weighted
                .clusters
                .iter()
                .map(|to| share(to, ignored))
                .collect::<Result<_, _>>()?
        }
        _ => return unsupported("RouteAction", "cluster_specifier"),
    };
    let path = match (&from.regex_rewrite, from.prefix_rewrite.is_empty()) {
        (Some(rewrite), _) => Some(PathRewrite::Regex {
            pattern: pattern(&rewrite.pattern.clone().unwrap_or_default())?,
            substitution: rewrite.substitution.clone(),
        }),
        (None, false) => Some(PathRewrite::Prefix(from.prefix_rewrite.clone())),
        (None, true) => None,
    };
    let authority = match &from.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host.clone()),
        Some(_) => return unsupported("RouteAction", "host_rewrite_specifier"),
    };
    // Absent is Envoy's 15 s; zero is no limit.
    let timeout = duration_or("timeout", from.timeout.as_ref(), Duration::from_secs(15))?;
    Ok(Forward {
        clusters,
        timeout: (!timeout.is_zero()).then_some(timeout),
        retry: from
            .retry_policy
            .as_ref()
            .map(|policy| retry(policy, ignored))
            .transpose()?,
        deadlines: deadlines(from, ignored)?,
        hedge: from
            .hedge_policy
            .as_ref()
            .map(|policy| hedge(policy, ignored))
            .transpose()?
            .unwrap_or_default(),
        mirrors: mirrors(&from.request_mirror_policies, ignored)?,
        // Of ours alone, and said by the route.
        compare: None,
        priority: match core::RoutingPriority::try_from(from.priority) {
            Ok(core::RoutingPriority::High) => Priority::High,
            _ => Priority::Default,
        },
        replay_limit: None,
        filters: Vec::new(),
        rate_limits: rules(&from.rate_limits, ignored)?,
        rewrite: Rewrite { path, authority },
        hash: from
            .hash_policy
            .iter()
            .map(hash::decode)
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?,
        missing: match route::route_action::ClusterNotFoundResponseCode::try_from(
            from.cluster_not_found_response_code,
        ) {
            Ok(ClusterNotFoundResponseCode::NotFound) => Missing::NotFound,
            Ok(ClusterNotFoundResponseCode::InternalServerError) => Missing::Internal,
            _ => Missing::Unavailable,
        },
    })
}

fn share(
    from: &route::weighted_cluster::ClusterWeight,
    ignored: &mut Vec<String>,
) -> Result<WeightedCluster, Fault> {
    CLUSTER_WEIGHT.audit(from, ignored)?;
    Ok(WeightedCluster {
        cluster: from.name.clone(),
        weight: from.weight.as_ref().map_or(0, |weight| weight.value),
        headers: HeaderEdits {
            request: operations(
                &from.request_headers_to_add,
                &from.request_headers_to_remove,
            )?,
            response: operations(
                &from.response_headers_to_add,
                &from.response_headers_to_remove,
            )?,
        },
    })
}

fn redirect(from: &route::RedirectAction, ignored: &mut Vec<String>) -> Result<Redirect, Fault> {
    use options::RedirectResponseCode as Code;
    use route::redirect_action as options;
    REDIRECT.audit(from, ignored)?;
    Ok(Redirect {
        status: match Code::try_from(from.response_code) {
            Ok(Code::Found) => 302,
            Ok(Code::SeeOther) => 303,
            Ok(Code::TemporaryRedirect) => 307,
            Ok(Code::PermanentRedirect) => 308,
            Ok(Code::MovedPermanently) | Err(_) => 301,
        },
        scheme: match &from.scheme_rewrite_specifier {
            Some(options::SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
            Some(options::SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
            Some(options::SchemeRewriteSpecifier::HttpsRedirect(false)) | None => None,
        },
        authority: (!from.host_redirect.is_empty()).then(|| from.host_redirect.clone()),
        port: (from.port_redirect > 0)
            .then(|| u16::try_from(from.port_redirect))
            .transpose()
            .map_err(|_| Fault::Invalid("port_redirect is not a port".to_owned()))?,
        path: match &from.path_rewrite_specifier {
            Some(options::PathRewriteSpecifier::PathRedirect(path)) => Some(path.clone()),
            Some(options::PathRewriteSpecifier::PrefixRewrite(_)) | None => None,
            Some(_) => return unsupported("RedirectAction", "path_rewrite_specifier"),
        },
        prefix: match &from.path_rewrite_specifier {
            Some(options::PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(prefix.clone()),
            _ => None,
        },
    })
}

fn respond(
    from: &route::DirectResponseAction,
    ignored: &mut Vec<String>,
) -> Result<Respond, Fault> {
    use core::data_source::Specifier;
    RESPOND.audit(from, ignored)?;
    let body = match from.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => String::new(),
        Some(Specifier::InlineString(text)) => text.clone(),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone())
            .map_err(|_| Fault::Invalid("the body of a direct response is not UTF-8".to_owned()))?,
        Some(_) => return unsupported("DirectResponseAction", "body from a file"),
    };
    Ok(Respond {
        status: u16::try_from(from.status)
            .map_err(|_| Fault::Invalid("status is not an HTTP status".to_owned()))?,
        body,
    })
}

pub(super) fn operations(
    add: &[core::HeaderValueOption],
    remove: &[String],
) -> Result<HeaderOperations, Fault> {
    use core::header_value_option::HeaderAppendAction as Append;
    let mut operations = HeaderOperations {
        remove: remove.to_vec(),
        ..HeaderOperations::default()
    };
    for option in add {
        let header = option.header.clone().unwrap_or_default();
        let value = if header.raw_value.is_empty() {
            header.value
        } else {
            String::from_utf8(header.raw_value)
                .map_err(|_| Fault::Invalid("a header value is not UTF-8".to_owned()))?
        };
        #[expect(deprecated, reason = "older control planes still send it")]
        let append = option.append.as_ref().map(|append| append.value);
        let action = match (append, Append::try_from(option.append_action)) {
            (Some(false), _) => Append::OverwriteIfExistsOrAdd,
            (_, Ok(action)) => action,
            (_, Err(_)) => return unsupported("HeaderValueOption", "append_action"),
        };
        match action {
            Append::AppendIfExistsOrAdd => operations.add.insert(header.key, value),
            Append::OverwriteIfExistsOrAdd => operations.set.insert(header.key, value),
            Append::AddIfAbsent => operations.add_if_absent.insert(header.key, value),
            Append::OverwriteIfExists => {
                return unsupported("HeaderValueOption", action.as_str_name());
            }
        };
    }
    Ok(operations)
}
