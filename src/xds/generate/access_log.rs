//! Arbitrary access logs.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{text, word};
use crate::mesh::access_log::format::Part;
use crate::mesh::access_log::{Compare, Filter, Format, Logger};
use crate::mesh::expression::Expression;
use crate::mesh::route::{HeaderMatch, Share, TextMatch};

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

/// Any logs of a listener.
pub(super) fn logs() -> impl Strategy<Value = Option<Arc<Vec<Logger>>>> {
    let logger =
        (word(), format(), option::of(filter())).prop_map(|(path, format, filter)| Logger {
            path: format!("/dev/{path}"),
            format,
            filter,
        });
    option::of(vec(logger, 1..3).prop_map(Arc::new))
}
