//! RateLimitPolicy: how many requests are taken, in all or by what they have in common.

use std::sync::Arc;
use std::time::Duration;

use super::RateLimitPolicy;
use super::target::targets;
use crate::mesh::filter::{
    DescriptorLimit, LocalRateLimit, RateLimitAction, RateLimitRule, TokenBucket,
};
use crate::mesh::route::{HeaderMatch, Pattern, Share, TextMatch};
use crate::resource::istio::{header_name, text_match};
use crate::resource::reader::{Fields, Value};

/// First entry of every descriptor: the limit that it is of.
const LIMIT: &str = "limit";
/// Envoy's shortest step of a bucket, in milliseconds.
const SHORTEST: u64 = 50;
/// Values kept at once for each limit, unless it says other.
const KEYS: u32 = 1000;

pub(in crate::resource) fn rate_limit_policy(fields: &Fields<'_>) -> RateLimitPolicy {
    let Some(value) = fields.require("spec") else {
        return RateLimitPolicy::default();
    };
    let spec = value.fields();
    let targets = targets(&spec);
    let mut limit = LocalRateLimit {
        enabled: Share::default(),
        enforced: Share::default(),
        retry_after: spec.boolean("retryAfter").unwrap_or(true),
        rate_limit_headers: spec.boolean("rateLimitHeaders").unwrap_or_default(),
        resource_exhausted: true,
        max_dynamic: KEYS,
        ..LocalRateLimit::default()
    };
    if spec.boolean("shadow") == Some(true) {
        limit.enforced = Share::NONE;
    }
    if let Some(status) = spec.get("status").and_then(|value| value.integer(400, 599)) {
        limit.status = u16::try_from(status).unwrap_or(limit.status);
    }
    if let Some(keys) = spec
        .get("maxKeys")
        .and_then(|value| value.integer(1, 10_000))
    {
        limit.max_dynamic = u32::try_from(keys).unwrap_or(KEYS);
    }
    match spec.get("limits") {
        Some(written) if !written.list().is_empty() => {
            for (at, value) in written.list().iter().enumerate() {
                one(value, at, &mut limit);
            }
        }
        _ => value.error_hint(
            "a RateLimitPolicy needs limits",
            "limits: [{requests: 100, unit: Minute}]",
        ),
    }
    spec.finish();
    RateLimitPolicy {
        targets,
        limit: Arc::new(limit),
    }
}

fn one(value: &Value<'_>, at: usize, limit: &mut LocalRateLimit) {
    let fields = value.fields();
    let name = fields
        .text("name")
        .unwrap_or_else(|| format!("#{}", at + 1));
    if limit.descriptors.iter().any(|other| {
        other
            .entries
            .first()
            .is_some_and(|(_, known)| *known == name)
    }) {
        value.error_hint(
            format!("two limits are called {name:?}"),
            "give each a name of its own",
        );
    }
    let bucket = bucket(value, &fields);
    let mut entries = vec![(LIMIT.to_owned(), name.clone())];
    let mut actions = vec![conditions(&fields, name)];
    for by in fields.list("by") {
        if let Some((action, key, only)) = key(&by) {
            actions.push(action);
            entries.push((key, only));
        }
    }
    fields.finish();
    let Some(bucket) = bucket else { return };
    limit.rules.push(RateLimitRule { stage: 0, actions });
    limit.descriptors.push(DescriptorLimit { entries, bucket });
}

fn bucket(value: &Value<'_>, fields: &Fields<'_>) -> Option<TokenBucket> {
    let whole = |field: &'static str| {
        let value = fields.get(field)?;
        value.integer(1, i64::from(u32::MAX))?.try_into().ok()
    };
    let requests: Option<u32> = whole("requests");
    if value.tree.get("requests").is_none() {
        value.error_hint("field \"requests\" is missing", "requests: 100");
    }
    let Some(unit) = fields.get("unit") else {
        value.error_hint(
            "field \"unit\" is missing",
            "unit: Second, Minute, Hour or Day",
        );
        return None;
    };
    let unit = unit.choice(&[
        ("Second", 1000),
        ("Minute", 60_000),
        ("Hour", 3_600_000),
        ("Day", 86_400_000),
    ])?;
    let burst = whole("burst");
    let requests = requests?;
    let burst = burst.unwrap_or(requests);
    let (tokens_per_fill, millis) = steps(requests, unit, burst);
    if tokens_per_fill > burst {
        if let Some(value) = fields.get("burst") {
            value.error_hint(
                format!("a burst of {burst} cannot carry that many requests: buckets are filled every {SHORTEST} ms at most"),
                format!("burst: {tokens_per_fill}, or more"),
            );
        }
        return None;
    }
    Some(TokenBucket {
        max_tokens: burst,
        tokens_per_fill,
        fill_interval: Duration::from_millis(millis),
    })
}

/// Tokens and milliseconds of a bucket's steps: the shortest that give exactly `requests` in `unit`,
/// or, where such a step is larger than the bucket, the next that give no more.
fn steps(requests: u32, unit: u64, burst: u32) -> (u32, u64) {
    let all = u64::from(requests);
    let shared = gcd(all, unit);
    let (tokens, millis) = (all / shared, unit / shared);
    let times = SHORTEST.div_ceil(millis);
    let exact = tokens * times;
    if exact <= u64::from(burst) {
        return (u32::try_from(exact).unwrap_or(u32::MAX), millis * times);
    }
    let fewest = (all * SHORTEST).div_ceil(unit).max(1);
    let millis = (fewest * unit).div_ceil(all);
    (u32::try_from(fewest).unwrap_or(u32::MAX), millis)
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 {
        one
    } else {
        gcd(other, one % other)
    }
}

/// Which requests a limit is for.
fn conditions(fields: &Fields<'_>, name: String) -> RateLimitAction {
    let mut headers = Vec::new();
    if let Some(value) = fields.get("match") {
        let fields = value.fields();
        if let Some(path) = fields.get("path") {
            headers.extend(path_match(&path));
        }
        let methods: Vec<String> = fields.list("methods").iter().filter_map(method).collect();
        if let [method] = methods.as_slice() {
            headers.push(condition(":method", TextMatch::Exact(method.clone())));
        } else if let Ok(pattern) = Pattern::new(&methods.join("|"))
            && !methods.is_empty()
        {
            headers.push(condition(":method", TextMatch::Regex(pattern)));
        }
        if let Some(written) = fields.get("headers") {
            for (name, value) in written.entries() {
                if let (Some(name), Some(text)) = (header_name(&value, name), text_match(&value)) {
                    headers.push(condition(&name, text));
                }
            }
        }
        fields.finish();
    }
    if headers.is_empty() {
        return RateLimitAction::GenericKey {
            key: LIMIT.to_owned(),
            value: name,
        };
    }
    RateLimitAction::HeaderValueMatch {
        key: LIMIT.to_owned(),
        value: name,
        expect: true,
        headers,
    }
}

fn condition(name: &str, value: TextMatch) -> HeaderMatch {
    HeaderMatch {
        name: name.to_owned(),
        value,
        invert: false,
    }
}

fn method(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase());
    if !plain {
        value.error_hint(format!("{text:?} is not a method"), "GET, POST, …");
    }
    plain.then_some(text)
}

/// A condition on the path alone, though what is looked at has the query too.
fn path_match(value: &Value<'_>) -> Option<HeaderMatch> {
    let found = text_match(value)?;
    let pattern = |source: String| Pattern::new(&source).ok().map(TextMatch::Regex);
    let on = match found {
        TextMatch::Exact(path) => pattern(format!("{}(\\?.*)?", regex::escape(&path)))?,
        TextMatch::Regex(path) => pattern(format!("(?:{})(\\?.*)?", path.as_str()))?,
        TextMatch::Prefix(path) => TextMatch::Prefix(path),
        TextMatch::Suffix(_) | TextMatch::Present => {
            value.error_hint("a path needs a text", "path: {prefix: /api}");
            return None;
        }
    };
    Some(condition(":path", on))
}

/// What the requests that share a bucket have in common: how it is found, its key, and its only value.
fn key(value: &Value<'_>) -> Option<(RateLimitAction, String, String)> {
    let fields = value.fields();
    let source = fields.require("source").and_then(|value| {
        value.choice(&[
            ("Principal", Source::Principal),
            ("Namespace", Source::Namespace),
            ("Address", Source::Address),
            ("Header", Source::Header),
        ])
    });
    let only = fields.text("value").unwrap_or_default();
    let header = fields.get("header");
    let bits = |field: &'static str, most: i64| {
        let value = fields.get(field)?;
        u8::try_from(value.integer(1, most)?).ok()
    };
    let (v4, v6) = (bits("ipv4Prefix", 32), bits("ipv6Prefix", 128));
    fields.finish();
    let source = source?;
    if header.is_some() != (source == Source::Header) {
        value.error_hint(
            "a header is named when it is what requests have in common, and only then",
            "{source: Header, header: x-user}",
        );
        return None;
    }
    if (v4.is_some() || v6.is_some()) && source != Source::Address {
        value.error_hint(
            "a prefix is of an address",
            "{source: Address, ipv4Prefix: 24}",
        );
        return None;
    }
    let plain = |action, key: &str| Some((action, key.to_owned(), only.clone()));
    match source {
        Source::Principal => plain(RateLimitAction::SourcePrincipal, "source_principal"),
        Source::Namespace => plain(RateLimitAction::SourceNamespace, "source_namespace"),
        Source::Address if v4.is_none() && v6.is_none() => {
            plain(RateLimitAction::RemoteAddress, "remote_address")
        }
        Source::Address => plain(
            RateLimitAction::MaskedRemoteAddress {
                v4: v4.unwrap_or(32),
                v6: v6.unwrap_or(128),
            },
            "masked_remote_address",
        ),
        Source::Header => {
            let header = header?;
            let name = header_name(&header, &header.text()?)?;
            Some((
                RateLimitAction::RequestHeader {
                    header: name.clone(),
                    key: name.clone(),
                    skip_if_absent: false,
                },
                name,
                only,
            ))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Principal,
    Namespace,
    Address,
    Header,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_filled_smoothly_and_exactly() {
        assert_eq!(steps(100, 1000, 100), (5, 50));
        assert_eq!(steps(10, 1000, 10), (1, 100));
        assert_eq!(steps(7, 1000, 7), (7, 1000));
        assert_eq!(steps(60, 60_000, 1), (1, 1000));
        assert_eq!(steps(1, 86_400_000, 1), (1, 86_400_000));
        // Exactly would be seven a second, for which there is no room.
        assert_eq!(steps(7, 1000, 1), (1, 143));
        assert_eq!(steps(1000, 1000, 10), (50, 50));
    }

    proptest! {
        #[test]
        fn no_bucket_gives_more_than_was_asked_for(
            requests in 1..100_000_u32,
            unit in proptest::sample::select(vec![1000_u64, 60_000, 3_600_000]),
            burst in 1..100_000_u32,
        ) {
            let (tokens, millis) = steps(requests, unit, burst);
            prop_assert!(millis >= SHORTEST && tokens > 0);
            prop_assert!(u64::from(tokens) * unit <= u64::from(requests) * millis);
            // And with room for what an exact step brings, no less either.
            if burst >= requests {
                prop_assert_eq!(u64::from(tokens) * unit, u64::from(requests) * millis);
            }
        }
    }
}
