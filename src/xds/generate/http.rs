//! Options of HTTP, made up.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{ip, positive, word};
use crate::mesh::HttpOptions;
use crate::mesh::http::{
    ClientCertDetails, ClientCertOptions, EscapedSlashes, ForwardClientCert, HostOptions,
    Http1Options, HttpLimits, HttpTimeouts, PathOptions, RemoteOptions, RequestIdOptions,
    ServerHeader, ServerOptions, StripPort, Underscores, Upgrades,
};

/// Any options; the usual ones half of the time.
pub(super) fn options() -> impl Strategy<Value = HttpOptions> {
    let all = (
        path(),
        host(),
        limits(),
        timeouts(),
        remote(),
        client_cert(),
        request_id(),
        server(),
        (http1(), super::http2::options()),
        (
            vec(select(vec!["websocket", "connect", "other"]), 0..3),
            super::tracing::tracing(),
            super::access_log::logs(),
        ),
    )
        .prop_map(
            |(
                path,
                host,
                limits,
                timeouts,
                remote,
                client_cert,
                request_id,
                server,
                (http1, http2),
                (upgrades, tracing, access_log),
            )| HttpOptions {
                path,
                host,
                limits,
                timeouts,
                remote,
                client_cert,
                request_id,
                server,
                http1,
                http2,
                upgrades: Upgrades(upgrades.into_iter().map(str::to_owned).collect()),
                tracing,
                access_log,
            },
        );
    prop_oneof![Just(HttpOptions::default()), all]
}

fn path() -> impl Strategy<Value = PathOptions> {
    (
        any::<[bool; 2]>(),
        select(vec![
            EscapedSlashes::KeepUnchanged,
            EscapedSlashes::RejectRequest,
            EscapedSlashes::UnescapeAndRedirect,
            EscapedSlashes::UnescapeAndForward,
        ]),
    )
        .prop_map(
            |([normalize, merge_slashes], escaped_slashes)| PathOptions {
                normalize,
                merge_slashes,
                escaped_slashes,
            },
        )
}

fn host() -> impl Strategy<Value = HostOptions> {
    (
        select(vec![StripPort::Keep, StripPort::Matching, StripPort::Any]),
        any::<bool>(),
    )
        .prop_map(|(strip_port, strip_trailing_dot)| HostOptions {
            strip_port,
            strip_trailing_dot,
        })
}

fn limits() -> impl Strategy<Value = HttpLimits> {
    (
        1..=8192_u32,
        1..1000_u32,
        any::<u32>(),
        option::of(1..=u32::MAX),
        select(vec![
            Underscores::Allow,
            Underscores::RejectRequest,
            Underscores::DropHeader,
        ]),
    )
        .prop_map(
            |(kb, count, requests, max_request_bytes, underscores)| HttpLimits {
                max_request_headers_kb: kb,
                max_headers_count: count,
                max_requests_per_connection: requests,
                max_request_bytes,
                underscores,
            },
        )
}

fn timeouts() -> impl Strategy<Value = HttpTimeouts> {
    (vec(option::of(positive()), 6), super::duration()).prop_map(|(mut limits, drain)| {
        let mut next = || limits.pop().flatten();
        HttpTimeouts {
            idle: next(),
            request_headers: next(),
            request: next(),
            stream_idle: next(),
            max_connection: next(),
            max_stream: next(),
            drain,
        }
    })
}

fn remote() -> impl Strategy<Value = RemoteOptions> {
    let net = (ip(), 0..=32_u8).prop_map(|(ip, length)| ipnet::IpNet::new(ip, length).unwrap());
    (any::<[bool; 2]>(), any::<u32>(), vec(net, 0..3)).prop_map(
        |([use_remote_address, skip_xff_append], xff_num_trusted_hops, internal)| RemoteOptions {
            use_remote_address,
            xff_num_trusted_hops,
            skip_xff_append,
            internal,
        },
    )
}

fn client_cert() -> impl Strategy<Value = ClientCertOptions> {
    (
        select(vec![
            ForwardClientCert::Sanitize,
            ForwardClientCert::ForwardOnly,
            ForwardClientCert::AppendForward,
            ForwardClientCert::SanitizeSet,
            ForwardClientCert::AlwaysForwardOnly,
        ]),
        any::<[bool; 5]>(),
    )
        .prop_map(
            |(forward, [subject, cert, chain, dns, uri])| ClientCertOptions {
                forward,
                details: ClientCertDetails {
                    subject,
                    cert,
                    chain,
                    dns,
                    uri,
                },
            },
        )
}

fn request_id() -> impl Strategy<Value = RequestIdOptions> {
    any::<[bool; 3]>().prop_map(
        |[generate, preserve_external, in_response]| RequestIdOptions {
            generate,
            preserve_external,
            in_response,
        },
    )
}

fn server() -> impl Strategy<Value = ServerOptions> {
    (
        word(),
        select(vec![
            ServerHeader::Overwrite,
            ServerHeader::AppendIfAbsent,
            ServerHeader::PassThrough,
        ]),
        prop_oneof![Just(String::new()), word()],
    )
        .prop_map(|(name, transformation, via)| ServerOptions {
            name,
            transformation,
            via,
        })
}

fn http1() -> impl Strategy<Value = Http1Options> {
    (any::<[bool; 3]>(), prop_oneof![Just(String::new()), word()]).prop_map(
        |([accept_http_10, allow_absolute_url, keep_after_error], default_host_for_http_10)| {
            Http1Options {
                accept_http_10,
                default_host_for_http_10,
                allow_absolute_url,
                keep_after_error,
            }
        },
    )
}
