use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::google::rpc::Status;

use super::*;
use crate::xds::subscription::{Event, Server, SotwServer};

fn ask(
    server: &mut SotwServer,
    kind: Kind,
    names: &[&str],
    version: &str,
    nonce: &str,
) -> Vec<Event> {
    server.request(DiscoveryRequest {
        version_info: version.to_owned(),
        resource_names: names.iter().map(|s| (*s).to_owned()).collect(),
        type_url: kind.type_url().to_owned(),
        response_nonce: nonce.to_owned(),
        ..Default::default()
    })
}

fn acknowledge(
    server: &mut SotwServer,
    response: &DiscoveryResponse,
    names: &[&str],
) -> Vec<Event> {
    let kind = Kind::of(&response.type_url).unwrap();
    ask(server, kind, names, &response.version_info, &response.nonce)
}

/// `CDS 1 2`: the contents that are carried.
fn said(kind: Kind, response: &DiscoveryResponse) -> String {
    let mut line = kind.short().to_owned();
    for resource in &response.resources {
        line.push(' ');
        line.push_str(std::str::from_utf8(&resource.value).unwrap());
    }
    line
}

/// Everything there is to say, each response acknowledged with `names` of its type.
fn drain(server: &mut SotwServer, names: &[(Kind, &[&str])]) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((kind, response)) = server.next() {
        all.push(said(kind, &response));
        let names = names
            .iter()
            .find(|(k, _)| *k == kind)
            .map_or(&[][..], |(_, n)| n);
        acknowledge(server, &response, names);
    }
    all
}

#[test]
fn the_four_examples_of_wildcards() {
    let world = |v: &str| {
        snapshot(&[
            (Cluster, "A", &format!("a{v}")),
            (Cluster, "B", &format!("b{v}")),
        ])
    };
    let mut server = SotwServer::new(world("1"), 1);
    // Nothing named: everything.
    ask(&mut server, Cluster, &[], "", "");
    let (_, first) = server.next().unwrap();
    assert_eq!(said(Cluster, &first), "CDS a1 b1");
    // Everything and A.
    acknowledge(&mut server, &first, &["*", "A"]);
    let (_, second) = server.next().unwrap();
    assert_eq!(said(Cluster, &second), "CDS a1 b1");
    // A without everything.
    acknowledge(&mut server, &second, &["A"]);
    server.publish(world("2"), 2);
    let (_, third) = server.next().unwrap();
    assert_eq!(said(Cluster, &third), "CDS a2");
    // Nothing named, but something was before: nothing.
    acknowledge(&mut server, &third, &[]);
    server.publish(world("3"), 3);
    assert_eq!(server.next(), None);
}

#[test]
fn clusters_come_whole_and_absence_deletes_after_the_routes_moved() {
    let mut server = SotwServer::new(
        snapshot(&[
            (Cluster, "old", "old1"),
            (Cluster, "k", "k1"),
            (Route, "r", "r1"),
        ]),
        1,
    );
    ask(&mut server, Cluster, &[], "", "");
    ask(&mut server, Route, &["r"], "", "");
    let names: &[(Kind, &[&str])] = &[(Route, &["r"])];
    assert_eq!(drain(&mut server, names), ["CDS k1 old1", "RDS r1"]);
    server.publish(
        snapshot(&[
            (Cluster, "new", "new1"),
            (Cluster, "k", "k1"),
            (Route, "r", "r2"),
        ]),
        2,
    );
    assert_eq!(
        drain(&mut server, names),
        ["CDS k1 new1 old1", "RDS r2", "CDS k1 new1"]
    );
    server.publish(snapshot(&[(Route, "r", "r2")]), 3);
    assert_eq!(drain(&mut server, names), ["CDS"]);
}

#[test]
fn endpoints_follow_every_change_of_their_cluster_and_only_theirs() {
    let world = |c| {
        snapshot(&[
            (Cluster, "c", c),
            (Endpoint, "c", "ec"),
            (Cluster, "d", "d1"),
            (Endpoint, "d", "ed"),
        ])
    };
    let mut server = SotwServer::new(world("c1"), 1);
    ask(&mut server, Cluster, &[], "", "");
    ask(&mut server, Endpoint, &["c", "d"], "", "");
    let names: &[(Kind, &[&str])] = &[(Endpoint, &["c", "d"])];
    assert_eq!(drain(&mut server, names), ["CDS c1 d1", "EDS ec ed"]);
    server.publish(world("c2"), 2);
    assert_eq!(drain(&mut server, names), ["CDS c2 d1", "EDS ec"]);
}

#[test]
fn a_second_acknowledgement_after_clusters_is_a_question_for_endpoints() {
    let mut server = SotwServer::new(snapshot(&[(Cluster, "c", "c1"), (Endpoint, "c", "e1")]), 1);
    ask(&mut server, Endpoint, &["c"], "", "");
    let (_, endpoints) = server.next().unwrap();
    acknowledge(&mut server, &endpoints, &["c"]);
    ask(&mut server, Cluster, &[], "", "");
    let (_, clusters) = server.next().unwrap();
    acknowledge(&mut server, &clusters, &[]);
    let (_, pushed) = server.next().unwrap();
    assert_eq!(said(Endpoint, &pushed), "EDS e1");
    acknowledge(&mut server, &pushed, &["c"]);
    // Once more with no clusters in between: a duplicate, and ignored.
    acknowledge(&mut server, &pushed, &["c"]);
    assert_eq!(server.next(), None);
}

#[test]
fn a_request_with_a_stale_nonce_is_ignored() {
    let mut server = SotwServer::new(snapshot(&[(Endpoint, "a", "a1"), (Endpoint, "b", "b1")]), 1);
    ask(&mut server, Endpoint, &["a"], "", "");
    let (_, first) = server.next().unwrap();
    // Sent by the client before it saw the response.
    assert_eq!(ask(&mut server, Endpoint, &["a", "b"], "", ""), []);
    assert_eq!(server.next(), None);
    assert_eq!(
        acknowledge(&mut server, &first, &["a", "b"]),
        [Event::Acked(Endpoint)]
    );
    let (_, second) = server.next().unwrap();
    assert_eq!(said(Endpoint, &second), "EDS b1");
}

#[test]
fn new_names_at_the_same_nonce_are_answered_though_nothing_changed() {
    let mut server = SotwServer::new(snapshot(&[(Route, "a", "a1"), (Route, "b", "b1")]), 1);
    ask(&mut server, Route, &["a"], "", "");
    let (_, first) = server.next().unwrap();
    acknowledge(&mut server, &first, &["a"]);
    acknowledge(&mut server, &first, &["a", "b"]);
    let (_, second) = server.next().unwrap();
    assert_eq!(said(Route, &second), "RDS b1");
    // Left and come back to: answered again.
    acknowledge(&mut server, &second, &["b"]);
    acknowledge(&mut server, &second, &["a", "b"]);
    let (_, third) = server.next().unwrap();
    assert_eq!(said(Route, &third), "RDS a1");
}

#[test]
fn a_refusal_is_told_by_its_error_and_not_by_its_version() {
    let mut server = SotwServer::new(snapshot(&[(Listener, "l", "1")]), 1);
    ask(&mut server, Listener, &[], "", "");
    let (_, response) = server.next().unwrap();
    let events = server.request(DiscoveryRequest {
        // Some clients echo the new version here.
        version_info: response.version_info.clone(),
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status {
            message: "listener 'l': bad".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    });
    assert_eq!(
        events,
        [Event::Nacked {
            kind: Listener,
            reason: "listener 'l': bad".to_owned(),
            resources: vec!["l".to_owned()],
        }]
    );
    assert_eq!(server.next(), None);
    assert_eq!(server.acked(1), 0);
}

#[test]
fn a_client_that_comes_back_is_sent_only_what_it_may_lack() {
    let world = snapshot(&[
        (Cluster, "c", "1"),
        (Endpoint, "c", "1"),
        (Endpoint, "d", "1"),
    ]);
    let mut server = SotwServer::new(std::sync::Arc::clone(&world), 1);
    ask(&mut server, Cluster, &[], "", "");
    ask(&mut server, Endpoint, &["c", "d"], "", "");
    let (_, clusters) = server.next().unwrap();
    let (_, endpoints) = server.next().unwrap();
    let mut again = SotwServer::new(world, 9);
    ask(&mut again, Cluster, &[], &clusters.version_info, "");
    ask(
        &mut again,
        Endpoint,
        &["c", "d"],
        &endpoints.version_info,
        "",
    );
    // It may have let go of an endpoint's cluster and named it again meanwhile.
    assert_eq!(drain(&mut again, &[(Endpoint, &["c", "d"])]), ["EDS 1 1"]);
    assert_eq!(again.acked(9), 9);
    // Another content, though the control plane counts from one again: everything.
    let mut other = SotwServer::new(snapshot(&[(Cluster, "c", "2"), (Endpoint, "c", "1")]), 1);
    ask(&mut other, Cluster, &[], &clusters.version_info, "");
    ask(&mut other, Endpoint, &["c"], &endpoints.version_info, "");
    assert_eq!(drain(&mut other, &[(Endpoint, &["c"])]), ["CDS 2", "EDS 1"]);
}

#[test]
fn a_named_listener_that_does_not_exist_is_answered_by_absence() {
    let mut server = SotwServer::new(snapshot(&[(Listener, "a", "1")]), 1);
    ask(&mut server, Listener, &["nobody"], "", "");
    let (_, response) = server.next().unwrap();
    assert_eq!(said(Listener, &response), "LDS");
}
