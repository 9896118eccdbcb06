//! Arbitrary ways to trace.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::{duration, text, word};
use crate::mesh::route::Share;
use crate::mesh::tracing::{CustomTag, SpanFormat, SpanSink, TagFrom, Tracing};

fn share() -> impl Strategy<Value = Share> {
    let whole = (0..=100_u32).prop_map(|parts| Share { of: 100, parts });
    let fine = (1..1_000_000_u32).prop_map(|parts| match parts % 10_000 {
        0 => Share {
            of: 100,
            parts: parts / 10_000,
        },
        _ => Share {
            of: 1_000_000,
            parts,
        },
    });
    prop_oneof![whole, fine]
}

fn tag() -> impl Strategy<Value = CustomTag> {
    let literal = text().prop_map(|value| CustomTag {
        from: TagFrom::Literal,
        value,
        default: String::new(),
    });
    let looked_up =
        (any::<bool>(), word(), text()).prop_map(|(header, value, default)| CustomTag {
            from: if header {
                TagFrom::Header
            } else {
                TagFrom::Environment
            },
            value,
            default,
        });
    prop_oneof![literal, looked_up]
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((word(), "[a-z%]{1,6}"), 0..3)
}

fn sink() -> BoxedStrategy<SpanSink> {
    let grpc = (word(), text(), headers(), duration(), text());
    let grpc = grpc.prop_map(|(cluster, authority, headers, timeout, service)| SpanSink {
        cluster,
        authority,
        speaks: SpanFormat::OtlpGrpc,
        path: String::new(),
        headers,
        timeout,
        service,
    });
    let path = word().prop_map(|word| format!("/{word}"));
    let speaks = prop_oneof![
        Just(SpanFormat::OtlpHttp),
        (any::<bool>(), any::<bool>()).prop_map(|(w3c, wide)| SpanFormat::Zipkin { w3c, wide }),
    ];
    let http = (word(), word(), speaks, path, headers(), duration(), text());
    let http = http.prop_map(
        |(cluster, authority, speaks, path, headers, timeout, service)| SpanSink {
            cluster,
            authority,
            speaks,
            path,
            headers,
            timeout,
            // Zipkin's is the node's own.
            service: if speaks == SpanFormat::OtlpHttp {
                service
            } else {
                String::new()
            },
        },
    );
    prop_oneof![grpc, http].boxed()
}

/// Any tracing, mostly none.
pub(super) fn tracing() -> BoxedStrategy<Option<Arc<Tracing>>> {
    let all = (
        any::<bool>(),
        share(),
        any::<u32>(),
        btree_map(word(), tag(), 0..3),
        option::of(sink()),
    );
    let all = all.prop_map(|(off, sampling, max_path, tags, to)| {
        Arc::new(Tracing {
            off,
            sampling,
            max_path,
            tags,
            to,
        })
    });
    // On the heap: what is made up of a listener is large on the stack already.
    option::weighted(0.3, all).boxed()
}
