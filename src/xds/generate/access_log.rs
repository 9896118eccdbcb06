//! Arbitrary access logs.

use std::sync::Arc;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{text, word};
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::service::{LogService, Otlp, Says};
use crate::mesh::access_log::{Compare, Filter, Format, Logger};
use crate::mesh::expression::Expression;
use crate::mesh::route::{HeaderMatch, Share, TextMatch};
use crate::mesh::tracing::{CustomTag, TagFrom};

fn format() -> impl Strategy<Value = Format> {
    let said = || {
        select(vec![
            "%DURATION%",
            "%REQ(X-A?:PATH):3% x",
            "%START_TIME(%s)%",
            "100%%",
            "plain",
        ])
        .prop_map(str::to_owned)
    };
    let leaf = said().prop_map(Part::Text);
    let part = leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Part::List),
            btree_map(word(), inner, 0..3).prop_map(Part::Object),
        ]
    });
    prop_oneof![
        said().prop_map(Format::Text),
        btree_map(word(), part, 0..3).prop_map(Format::Json),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let compare = || {
        select(vec![
            Compare::Equal,
            Compare::Unequal,
            Compare::AtLeast,
            Compare::AtMost,
        ])
    };
    let expression = Expression::new("response.code >= 400").unwrap();
    let leaf = prop_oneof![
        (compare(), any::<u32>()).prop_map(|(how, figure)| Filter::Status(how, figure)),
        (compare(), any::<u32>()).prop_map(|(how, figure)| Filter::Duration(how, figure)),
        Just(Filter::NotHealthCheck),
        (0..=100_u32).prop_map(|parts| Filter::Sample(Share { of: 100, parts })),
        (word(), text(), any::<bool>()).prop_map(|(name, value, invert)| {
            Filter::Header(HeaderMatch {
                name,
                value: TextMatch::Exact(format!("{value}x")),
                invert,
            })
        }),
        vec(select(vec!["UH", "NR"]), 0..2)
            .prop_map(|flags| Filter::Flags(flags.into_iter().map(str::to_owned).collect())),
        (vec(0..17_u8, 1..3), any::<bool>())
            .prop_map(|(statuses, except)| Filter::Grpc { statuses, except }),
        Just(Filter::Expression(expression)),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Filter::All),
            vec(inner, 2..4).prop_map(Filter::Any),
        ]
    })
}

fn says() -> impl Strategy<Value = Says> {
    let names = || vec(word(), 0..2);
    let said = || {
        select(vec!["%DURATION%", "%REQ(X-A?:PATH):3% x", "plain"])
            .prop_map(|text| Part::Text(text.to_owned()))
    };
    let nested = prop_oneof![
        said(),
        vec(said(), 0..2).prop_map(Part::List),
        btree_map(word(), said(), 0..2).prop_map(Part::Object),
    ];
    prop_oneof![
        Just(Says::Tcp),
        (names(), names(), names()).prop_map(|(request, response, trailers)| Says::Http {
            request,
            response,
            trailers,
        }),
        (
            option::of(nested.clone()),
            btree_map(word(), nested, 0..3),
            btree_map(word(), text(), 0..2),
            any::<bool>(),
            option::of(Just("/logs".to_owned())),
        )
            .prop_map(|(body, attributes, resource, builtin, http_path)| {
                Says::Otlp(Box::new(Otlp {
                    body,
                    attributes,
                    resource,
                    builtin,
                    http_path,
                }))
            }),
    ]
}

fn service() -> impl Strategy<Value = LogService> {
    let tag = (word(), option::of(word())).prop_map(|(value, default)| CustomTag {
        from: if default.is_some() {
            TagFrom::Header
        } else {
            TagFrom::Literal
        },
        value,
        default: default.unwrap_or_default(),
    });
    (
        (word(), word(), word()),
        vec((word(), word()), 0..2),
        (1..100_u64, 1..100_u64, any::<u32>()),
        btree_map(word(), tag, 0..2),
        says(),
    )
        .prop_map(
            |((cluster, authority, name), headers, (timeout, flush, buffer_bytes), tags, says)| {
                LogService {
                    cluster,
                    authority,
                    headers,
                    timeout: Duration::from_millis(timeout),
                    name,
                    flush: Duration::from_millis(flush),
                    buffer_bytes,
                    // Our own proxies are not sent any.
                    filter_state: Vec::new(),
                    tags,
                    says,
                }
            },
        )
}

/// Any logs of a listener.
pub(super) fn logs() -> impl Strategy<Value = Option<Arc<Vec<Logger>>>> {
    let to = prop_oneof![
        (word(), format()).prop_map(|(path, format)| Logger::file(format!("/dev/{path}"), format)),
        service().prop_map(Logger::service),
    ];
    let logger = (to, option::of(filter())).prop_map(|(log, filter)| log.filtered(filter));
    option::of(vec(logger, 1..3).prop_map(Arc::new))
}
