use proptest::prelude::*;
use prost::Message as _;

use super::super::pb::{self, core, hcm, listener, route as pb_route, sockets as pb_tls};
use super::*;
use crate::mesh::Client;
use crate::xds::{encode, generate};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_our_proxy_is_sent_is_what_was_meant(view in generate::view()) {
        let decoded = decode(&encode(&view, &generate::node(Client::Meshctl)));
        prop_assert_eq!(&decoded.rejected, &Vec::new());
        prop_assert_eq!(&decoded.ignored, &Vec::new());
        prop_assert_eq!(decoded.view, view);
    }

    #[test]
    fn envoys_dialect_is_understood_too(view in generate::view()) {
        let decoded = decode(&encode(&view, &generate::node(Client::Envoy)));
        // Host rewrites of one weighted cluster are the one thing that Envoy has and we have not.
        let unexpected: Vec<_> = decoded
            .rejected
            .iter()
            .filter(|rejected| !rejected.reason.contains("host_rewrite_literal"))
            .collect();
        prop_assert!(unexpected.is_empty(), "{:?}", unexpected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0..=u8::MAX, 0..200)) {
        for kind in Kind::ALL {
            // Only that it returns matters.
            let _any_outcome = item(kind, "x", &bytes, &mut Vec::new()).is_ok();
        }
    }
}

fn one(kind: Kind, bytes: &[u8]) -> (Result<Item, Fault>, Vec<String>) {
    let mut ignored = Vec::new();
    let item = item(kind, "x", bytes, &mut ignored);
    (item, ignored)
}

fn socket() -> core::Address {
    pb::address("127.0.0.1:15001".parse().unwrap())
}

fn with_filters(filters: Vec<hcm::HttpFilter>) -> Vec<u8> {
    with_manager(|manager| manager.http_filters = filters)
}

fn with_manager(change: impl FnOnce(&mut hcm::HttpConnectionManager)) -> Vec<u8> {
    let mut manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
            pb_route::RouteConfiguration {
                name: "inline".to_owned(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    change(&mut manager);
    listener::Listener {
        name: "x".to_owned(),
        address: Some(socket()),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: "http".to_owned(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(pb::any(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn an_unknown_http_filter_is_refused_by_name_unless_it_is_optional() {
    let filter = |is_optional| hcm::HttpFilter {
        name: "envoy.filters.http.ext_authz".to_owned(),
        is_optional,
        ..Default::default()
    };
    let (refused, _) = one(Kind::Listener, &with_filters(vec![filter(false)]));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "HttpConnectionManager field `http filter \"envoy.filters.http.ext_authz\"` is not supported"
    );
    let (accepted, ignored) = one(Kind::Listener, &with_filters(vec![filter(true)]));
    assert!(matches!(accepted, Ok(Item::Listener(_, tables)) if tables.len() == 1));
    assert_eq!(ignored.len(), 1);
}

/// What a manager that says nothing means is Envoy's default, not ours.
#[test]
fn a_manager_that_says_nothing_means_what_envoy_does() {
    use crate::mesh::ChainAction;
    let (accepted, ignored) = one(Kind::Listener, &with_manager(|_| {}));
    assert!(ignored.is_empty(), "{ignored:?}");
    let Ok(Item::Listener(listener, _)) = accepted else {
        panic!("{accepted:?}");
    };
    let ChainAction::Http { options, .. } = &listener.chains[0].action else {
        panic!("{listener:?}");
    };
    assert!(!options.path.normalize && !options.http1.accept_http_10);
    assert!(options.upgrades.0.is_empty());
    assert_eq!(options.timeouts.request_headers, None);
    let minutes = std::time::Duration::from_mins;
    assert_eq!(options.timeouts.stream_idle, Some(minutes(5)));
    assert_eq!(options.timeouts.idle, Some(minutes(60)));
    assert_eq!(
        options.client_cert.forward,
        crate::mesh::http::ForwardClientCert::Sanitize
    );
}

#[test]
fn what_is_not_done_with_callers_is_refused_by_name() {
    use hcm::http_connection_manager as values;
    let refused = |change: fn(&mut hcm::HttpConnectionManager)| {
        let (refused, _) = one(Kind::Listener, &with_manager(change));
        refused.unwrap_err().to_string()
    };
    let http1 = |change: fn(&mut core::Http1ProtocolOptions)| {
        let mut own = core::Http1ProtocolOptions::default();
        change(&mut own);
        let bytes = with_manager(|manager| manager.http_protocol_options = Some(own));
        one(Kind::Listener, &bytes).0.unwrap_err().to_string()
    };
    for (reason, field) in [
        (
            http1(|own| own.allow_chunked_length = true),
            "Http1ProtocolOptions field `allow_chunked_length`",
        ),
        (
            http1(|own| own.send_fully_qualified_url = true),
            "Http1ProtocolOptions field `send_fully_qualified_url`",
        ),
        (
            refused(|manager| {
                manager.upgrade_configs = vec![values::UpgradeConfig {
                    upgrade_type: "CONNECT-UDP".to_owned(),
                    ..Default::default()
                }];
            }),
            "HttpConnectionManager field `upgrade_configs CONNECT-UDP`",
        ),
        (
            refused(|manager| {
                manager.local_reply_config = Some(hcm::LocalReplyConfig::default());
            }),
            "HttpConnectionManager field `local_reply_config`",
        ),
    ] {
        assert_eq!(reason, format!("{field} is not supported"));
    }
    let control = refused(|manager| manager.via = "1.1 a\r\nx: y".to_owned());
    assert_eq!(control, "via has a control character");
    let large = refused(|manager| manager.max_request_headers_kb = pb::u32_value(8193));
    assert_eq!(large, "max_request_headers_kb is above 8192");
}

#[test]
fn fields_that_only_tune_are_reported_and_others_are_refused() {
    let cluster = |change: fn(&mut pb::cluster::Cluster)| {
        let mut cluster = pb::cluster::Cluster {
            name: "x".to_owned(),
            ..Default::default()
        };
        change(&mut cluster);
        one(Kind::Cluster, &cluster.encode_to_vec())
    };
    let (accepted, ignored) = cluster(|c| c.per_connection_buffer_limit_bytes = pb::u32_value(9));
    assert!(accepted.is_ok());
    assert_eq!(ignored, ["Cluster.per_connection_buffer_limit_bytes"]);
    let (refused, _) = cluster(|c| {
        c.transport_socket = Some(core::TransportSocket {
            name: "custom".to_owned(),
            config_type: None,
        });
    });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "TransportSocket field `custom` is not supported"
    );
    let (refused, _) =
        cluster(|c| c.lb_policy = pb::cluster::cluster::LbPolicy::ClusterProvided.into());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("CLUSTER_PROVIDED"), "{refused}");
}

#[test]
fn tls_that_would_trust_someone_else_is_refused() {
    let chain = |context: &pb_tls::DownstreamTlsContext| {
        let bytes = listener::Listener {
            name: "x".to_owned(),
            address: Some(socket()),
            filter_chains: vec![listener::FilterChain {
                transport_socket: Some(core::TransportSocket {
                    name: "tls".to_owned(),
                    config_type: Some(core::transport_socket::ConfigType::TypedConfig(pb::any(
                        context,
                    ))),
                }),
                ..Default::default()
            }],
            ..Default::default()
        }
        .encode_to_vec();
        one(Kind::Listener, &bytes).0.unwrap_err().to_string()
    };
    let open = chain(&pb_tls::DownstreamTlsContext::default());
    assert!(open.contains("require_client_certificate"), "{open}");
    let foreign = chain(&pb_tls::DownstreamTlsContext {
        require_client_certificate: pb::bool_value(true),
        common_tls_context: Some(pb_tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![pb_tls::SdsSecretConfig {
                name: "other".to_owned(),
                sds_config: Some(pb::ads()),
            }],
            ..Default::default()
        }),
        ..Default::default()
    });
    assert!(foreign.contains("would let anyone in"), "{foreign}");
}

#[test]
fn a_bad_resource_does_not_take_the_good_ones_with_it() {
    let mut snapshot = Snapshot::default();
    let good = pb_route::RouteConfiguration {
        name: "good".to_owned(),
        ..Default::default()
    };
    snapshot.insert(Kind::Route, "good", good.encode_to_vec());
    snapshot.insert(Kind::Route, "bad", vec![0xff]);
    snapshot.insert(Kind::Route, "renamed", good.encode_to_vec());
    let decoded = decode(&snapshot);
    assert_eq!(decoded.view.routes.len(), 1);
    let names: Vec<_> = decoded.rejected.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["bad", "renamed"]);
}

#[test]
fn endpoints_may_go_by_another_name_than_their_cluster() {
    use pb::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
    let mut snapshot = Snapshot::default();
    let cluster = pb::cluster::Cluster {
        name: "c".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(pb::ads()),
            service_name: "pool".to_owned(),
        }),
        ..Default::default()
    };
    snapshot.insert(Kind::Cluster, "c", cluster.encode_to_vec());
    let pool = pb::endpoint::ClusterLoadAssignment {
        cluster_name: "pool".to_owned(),
        ..Default::default()
    };
    snapshot.insert(Kind::Endpoint, "pool", pool.encode_to_vec());
    let view = decode(&snapshot).view;
    assert!(view.endpoints.contains_key("c"));
    assert!(!view.endpoints.contains_key("pool"));
}
