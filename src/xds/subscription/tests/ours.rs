use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as WireResource,
};
use proptest::prelude::*;

use super::*;
use crate::mesh::{Client, View};
use crate::xds::pb::Any;
use crate::xds::subscription::{DeltaClient, DeltaServer, Server};
use crate::xds::{decode, encode, generate};

/// Moves messages until both sides are silent; returns how many resources went over.
fn settle(server: &mut DeltaServer, client: &mut DeltaClient) -> usize {
    let mut moved = 0;
    while let Some((_, response)) = server.next() {
        moved += response.resources.len() + response.removed_resources.len();
        for request in client.response(response).requests {
            server.request(request);
        }
    }
    moved
}

fn connect(server: &mut DeltaServer, client: &mut DeltaClient) {
    for request in client.connect() {
        server.request(request);
    }
}

/// The view without what no cluster or listener names: nobody asks for that.
fn reachable(mut view: View) -> View {
    view.endpoints.retain(|name, _| {
        view.clusters
            .get(name)
            .is_some_and(|c| c.kind == crate::mesh::ClusterKind::Discovered)
    });
    let used: Vec<String> = view
        .listeners
        .values()
        .flat_map(|l| {
            crate::xds::subscription::client::tables(l)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    view.routes.retain(|name, _| used.contains(name));
    view
}

/// How many names lead nowhere.
fn missing(view: &View) -> usize {
    let clusters = view.clusters.values().filter(|c| {
        c.kind == crate::mesh::ClusterKind::Discovered && !view.endpoints.contains_key(&c.name)
    });
    let tables: std::collections::BTreeSet<&str> = view
        .listeners
        .values()
        .flat_map(|l| crate::xds::subscription::client::tables(l))
        .filter(|name| !view.routes.contains_key(*name))
        .collect();
    clusters.count() + tables.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn our_client_arrives_at_the_view_and_stays_there_over_reconnects(
        first in generate::view(),
        second in generate::view(),
    ) {
        let node = generate::node(Client::Meshctl);
        let encoded = |view: &View| Arc::new(encode(view, &node));
        let mut client = DeltaClient::new(&node, &Snapshot::default());
        let mut server = DeltaServer::new(encoded(&first), 1);
        connect(&mut server, &mut client);
        settle(&mut server, &mut client);
        prop_assert_eq!(client.view(), reachable(first));
        prop_assert!(client.complete());
        prop_assert_eq!(server.acked(1), 1);

        server.publish(encoded(&second), 2);
        settle(&mut server, &mut client);
        prop_assert_eq!(client.view(), reachable(second.clone()));

        // A restart of either side sends nothing that is there already.
        let mut restarted = DeltaClient::new(&node, &client.snapshot());
        let mut server = DeltaServer::new(encoded(&second), 7);
        connect(&mut server, &mut restarted);
        prop_assert_eq!(
            settle(&mut server, &mut restarted),
            // But what does not exist is said again.
            missing(&second)
        );
        prop_assert_eq!(restarted.view(), reachable(second));
        prop_assert_eq!(server.acked(7), 7);
    }
}

#[test]
fn what_is_refused_keeps_its_last_good_version_and_the_rest_applies() {
    let node = generate::node(Client::Meshctl);
    let mut good = Snapshot::default();
    let cluster = |name: &str, seconds| {
        use prost::Message as _;
        crate::xds::pb::cluster::Cluster {
            name: name.to_owned(),
            connect_timeout: crate::xds::pb::duration(std::time::Duration::from_secs(seconds)),
            ..Default::default()
        }
        .encode_to_vec()
    };
    good.insert(Cluster, "alpha", cluster("alpha", 1));
    good.insert(Cluster, "beta", cluster("beta", 1));
    let mut server = DeltaServer::new(Arc::new(good.clone()), 1);
    let mut client = DeltaClient::new(&node, &Snapshot::default());
    connect(&mut server, &mut client);
    settle(&mut server, &mut client);

    let mut bad = Snapshot::default();
    bad.insert(Cluster, "alpha", cluster("alpha", 2));
    bad.insert(Cluster, "beta", vec![0xff, 0xff]);
    server.publish(Arc::new(bad), 2);
    let (_, response) = server.next().unwrap();
    let step = client.response(response);
    assert!(step.changed);
    assert_eq!(step.rejected[0].name, "beta");
    let refusal = step.requests[0].error_detail.as_ref().unwrap();
    assert!(
        refusal.message.starts_with("beta: not a Cluster"),
        "{}",
        refusal.message
    );
    let view = client.view();
    assert_eq!(view.clusters["alpha"].connect_timeout.as_secs(), 2);
    assert_eq!(view.clusters["beta"].connect_timeout.as_secs(), 1);
    assert_eq!(decode(&client.snapshot()).rejected, []);
    assert_eq!(client.rejected().len(), 1);
    let events = server.request(step.requests[0].clone());
    assert!(
        matches!(&*events, [super::super::Event::Nacked { resources, .. }] if resources == &["beta"])
    );
}

#[test]
fn a_view_is_complete_when_everything_named_has_come() {
    let node = generate::node(Client::Meshctl);
    let mut view = View::default();
    let cluster = crate::mesh::Cluster {
        balancing: crate::mesh::Balancing::default(),
        name: "c".to_owned(),
        kind: crate::mesh::ClusterKind::Discovered,
        service: None,
        load_balancer: crate::mesh::LoadBalancer::default(),
        protocol: crate::mesh::cluster::UpstreamProtocol::default(),
        http2: crate::mesh::http2::Http2Options::default(),
        tls: None,
        origination: None,
        connect_timeout: std::time::Duration::from_secs(1),
        limits: crate::mesh::cluster::Limits::default(),
        outlier: None,
        proxy_protocol: None,
        health_check: None,
    };
    view.clusters.insert("c".to_owned(), Arc::new(cluster));
    let mut server = DeltaServer::new(Arc::new(encode(&view, &node)), 1);
    let mut client = DeltaClient::new(&node, &Snapshot::default());
    connect(&mut server, &mut client);
    let (_, clusters) = server.next().unwrap();
    let step = client.response(clusters);
    assert!(step.changed && !client.complete());
    for request in step.requests {
        server.request(request);
    }
    // There are none, and the server says so.
    let (kind, endpoints) = server.next().unwrap();
    assert_eq!((kind, endpoints.removed_resources.len()), (Endpoint, 1));
    client.response(endpoints);
    assert!(client.complete());
}

#[test]
fn that_there_are_no_listeners_is_said_and_is_news() {
    let node = generate::node(Client::Meshctl);
    let mut server = DeltaServer::new(Arc::new(encode(&View::default(), &node)), 1);
    let mut client = DeltaClient::new(&node, &Snapshot::default());
    connect(&mut server, &mut client);
    let mut news = Vec::new();
    while let Some((kind, response)) = server.next() {
        assert!(!client.knows_listeners());
        let step = client.response(response);
        if step.changed {
            news.push(kind);
        }
        for request in step.requests {
            server.request(request);
        }
    }
    assert_eq!(news, [Listener]);
    assert!(client.knows_listeners());
}

#[test]
fn endpoints_that_no_cluster_names_are_not_kept() {
    let node = generate::node(Client::Meshctl);
    let mut client = DeltaClient::new(&node, &Snapshot::default());
    let _connected = client.connect();
    let step = client.response(DeltaDiscoveryResponse {
        type_url: Endpoint.type_url().to_owned(),
        nonce: "1".to_owned(),
        resources: vec![WireResource {
            name: "nobody's".to_owned(),
            version: "1".to_owned(),
            resource: Some(Any {
                type_url: Endpoint.type_url().to_owned(),
                value: Vec::new(),
            }),
            ..Default::default()
        }],
        ..Default::default()
    });
    assert!(!step.changed && step.rejected.is_empty(), "{step:?}");
    assert!(client.snapshot().of(Endpoint).next().is_none());
}
