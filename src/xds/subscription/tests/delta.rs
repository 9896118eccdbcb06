use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use envoy_types::pb::google::rpc::Status;

use super::*;
use crate::xds::subscription::{DeltaServer, Event, Server};

fn ask(server: &mut DeltaServer, kind: Kind, subscribe: &[&str], unsubscribe: &[&str]) {
    let events = server.request(DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: subscribe.iter().map(|s| (*s).to_owned()).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(|s| (*s).to_owned()).collect(),
        ..Default::default()
    });
    assert_eq!(events, []);
}

fn resume(server: &mut DeltaServer, kind: Kind, names: &[&str], have: &[(&str, String)]) {
    server.request(DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|s| (*s).to_owned()).collect(),
        initial_resource_versions: have
            .iter()
            .map(|(name, version)| ((*name).to_owned(), version.clone()))
            .collect(),
        ..Default::default()
    });
}

fn acknowledge(server: &mut DeltaServer, response: &DeltaDiscoveryResponse) -> Vec<Event> {
    server.request(DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    })
}

fn refuse(server: &mut DeltaServer, response: &DeltaDiscoveryResponse, why: &str) -> Vec<Event> {
    server.request(DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status {
            message: why.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

/// Everything there is to say, each response acknowledged: `CDS +a -b`.
fn drain(server: &mut DeltaServer) -> Vec<String> {
    let mut said = Vec::new();
    while let Some((kind, response)) = server.next() {
        let mut line = kind.short().to_owned();
        for name in names(&response) {
            line.push_str(" +");
            line.push_str(name);
        }
        for name in &response.removed_resources {
            line.push_str(" -");
            line.push_str(name);
        }
        said.push(line);
        acknowledge(server, &response);
    }
    said
}

#[test]
fn the_four_examples_of_wildcards() {
    let world = snapshot(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut server = DeltaServer::new(world, 1);
    // Nothing named: everything.
    ask(&mut server, Cluster, &[], &[]);
    assert_eq!(drain(&mut server), ["CDS +A +B"]);
    // A named too: everything stays subscribed, and A is answered.
    ask(&mut server, Cluster, &["A"], &[]);
    assert_eq!(drain(&mut server), ["CDS +A"]);
    // No more everything: A stays.
    ask(&mut server, Cluster, &[], &["*"]);
    server.publish(snapshot(&[(Cluster, "A", "2"), (Cluster, "B", "2")]), 2);
    assert_eq!(drain(&mut server), ["CDS +A"]);
    // No more A: nothing, and not everything again.
    ask(&mut server, Cluster, &[], &["A"]);
    server.publish(snapshot(&[(Cluster, "A", "3"), (Cluster, "B", "3")]), 3);
    assert_eq!(drain(&mut server), Vec::<String>::new());
}

#[test]
fn a_name_that_does_not_exist_is_answered_at_once_and_sent_when_it_comes() {
    let mut server = DeltaServer::new(snapshot(&[]), 1);
    ask(&mut server, Endpoint, &["a"], &[]);
    assert_eq!(drain(&mut server), ["EDS -a"]);
    server.publish(snapshot(&[(Endpoint, "a", "1")]), 2);
    assert_eq!(drain(&mut server), ["EDS +a"]);
    server.publish(snapshot(&[]), 3);
    assert_eq!(drain(&mut server), ["EDS -a"]);
}

#[test]
fn an_empty_wildcard_is_answered() {
    let mut server = DeltaServer::new(snapshot(&[]), 1);
    ask(&mut server, Listener, &[], &[]);
    assert_eq!(drain(&mut server), ["LDS"]);
}

#[test]
fn a_name_subscribed_again_is_sent_again() {
    let mut server = DeltaServer::new(snapshot(&[(Route, "r", "1")]), 1);
    ask(&mut server, Route, &["r"], &[]);
    assert_eq!(drain(&mut server), ["RDS +r"]);
    ask(&mut server, Route, &["r"], &[]);
    assert_eq!(drain(&mut server), ["RDS +r"]);
}

#[test]
fn a_name_unsubscribed_under_a_wildcard_is_answered() {
    let mut server = DeltaServer::new(snapshot(&[(Cluster, "a", "1")]), 1);
    ask(&mut server, Cluster, &["*", "a", "gone"], &[]);
    assert_eq!(drain(&mut server), ["CDS +a -gone"]);
    ask(&mut server, Cluster, &[], &["a", "gone"]);
    assert_eq!(drain(&mut server), ["CDS +a -gone"]);
}

#[test]
fn endpoints_follow_every_change_of_their_cluster() {
    let world = |timeout, weight| {
        snapshot(&[
            (Cluster, "c", timeout),
            (Endpoint, "c", weight),
            (Cluster, "d", "1"),
            (Endpoint, "d", "1"),
            (Route, "r", timeout),
        ])
    };
    let mut server = DeltaServer::new(world("1", "1"), 1);
    ask(&mut server, Cluster, &[], &[]);
    ask(&mut server, Endpoint, &["c", "d"], &[]);
    ask(&mut server, Route, &["r"], &[]);
    assert_eq!(drain(&mut server), ["CDS +c +d", "EDS +c +d", "RDS +r"]);
    server.publish(world("2", "1"), 2);
    assert_eq!(drain(&mut server), ["CDS +c", "EDS +c", "RDS +r"]);
    server.publish(world("2", "2"), 3);
    assert_eq!(drain(&mut server), ["EDS +c"]);
}

#[test]
fn endpoints_of_a_new_cluster_do_not_wait_to_be_asked_for() {
    let mut server = DeltaServer::new(snapshot(&[(Cluster, "c", "1"), (Endpoint, "c", "1")]), 1);
    ask(&mut server, Cluster, &[], &[]);
    ask(&mut server, Endpoint, &["c"], &[]);
    drain(&mut server);
    server.publish(
        snapshot(&[
            (Cluster, "c", "1"),
            (Endpoint, "c", "1"),
            (Cluster, "d", "1"),
            (Endpoint, "d", "1"),
        ]),
        2,
    );
    assert_eq!(drain(&mut server), ["CDS +d", "EDS +d"]);
}

#[test]
fn routes_wait_until_clusters_and_endpoints_are_acknowledged() {
    let mut server = DeltaServer::new(
        snapshot(&[(Cluster, "c", "1"), (Endpoint, "c", "1"), (Route, "r", "1")]),
        1,
    );
    for (kind, name) in [(Route, "r"), (Endpoint, "c")] {
        ask(&mut server, kind, &[name], &[]);
    }
    ask(&mut server, Cluster, &[], &[]);
    let (_, clusters) = server.next().unwrap();
    let (_, endpoints) = server.next().unwrap();
    assert_eq!(server.next(), None);
    acknowledge(&mut server, &clusters);
    assert_eq!(server.next(), None);
    acknowledge(&mut server, &endpoints);
    assert_eq!(server.next().unwrap().0, Route);
}

#[test]
fn a_cluster_is_removed_after_the_routes_that_used_it() {
    let before = snapshot(&[(Cluster, "old", "1"), (Route, "r", "old")]);
    let after = snapshot(&[(Cluster, "new", "1"), (Route, "r", "new")]);
    let mut server = DeltaServer::new(before, 1);
    ask(&mut server, Cluster, &[], &[]);
    ask(&mut server, Route, &["r"], &[]);
    drain(&mut server);
    server.publish(std::sync::Arc::clone(&after), 2);
    assert_eq!(drain(&mut server), ["CDS +new", "RDS +r", "CDS -old"]);
    // Refused routes still use the old cluster.
    server.publish(snapshot(&[(Cluster, "x", "1"), (Route, "r", "x")]), 3);
    let (_, clusters) = server.next().unwrap();
    acknowledge(&mut server, &clusters);
    let (_, routes) = server.next().unwrap();
    refuse(&mut server, &routes, "r: no");
    assert_eq!(server.next(), None);
}

#[test]
fn of_one_type_one_response_at_most_is_on_its_way_and_it_carries_the_newest() {
    let mut server = DeltaServer::new(snapshot(&[(Secret, "s", "1")]), 1);
    ask(&mut server, Secret, &["s"], &[]);
    let (_, first) = server.next().unwrap();
    server.publish(snapshot(&[(Secret, "s", "2")]), 2);
    server.publish(snapshot(&[(Secret, "s", "3")]), 3);
    assert_eq!(server.next(), None);
    acknowledge(&mut server, &first);
    let (_, second) = server.next().unwrap();
    assert_eq!(second.resources[0].resource.as_ref().unwrap().value, b"3");
    assert_eq!(server.acked(3), 1);
    acknowledge(&mut server, &second);
    assert_eq!(server.acked(3), 3);
}

#[test]
fn a_stale_nonce_acknowledges_nothing_but_its_subscription_counts() {
    let mut server = DeltaServer::new(snapshot(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]), 1);
    ask(&mut server, Endpoint, &["a"], &[]);
    let (_, first) = server.next().unwrap();
    let events = server.request(DeltaDiscoveryRequest {
        type_url: Endpoint.type_url().to_owned(),
        response_nonce: "77".to_owned(),
        resource_names_subscribe: vec!["b".to_owned()],
        ..Default::default()
    });
    assert_eq!(events, []);
    assert_eq!(server.next(), None);
    assert_eq!(acknowledge(&mut server, &first), [Event::Acked(Endpoint)]);
    assert_eq!(drain(&mut server), ["EDS +b"]);
}

#[test]
fn a_refusal_names_its_resources_and_is_not_repeated_until_they_change() {
    let world = |bad| snapshot(&[(Cluster, "a", "1"), (Cluster, "outbound|1||b.c", bad)]);
    let mut server = DeltaServer::new(world("1"), 1);
    ask(&mut server, Cluster, &[], &[]);
    let (_, response) = server.next().unwrap();
    let reason = "Error adding/updating cluster(s) outbound|1||b.c: Proto constraint";
    assert_eq!(
        refuse(&mut server, &response, reason),
        [Event::Nacked {
            kind: Cluster,
            reason: reason.to_owned(),
            resources: vec!["outbound|1||b.c".to_owned()],
        }]
    );
    assert_eq!(server.next(), None);
    assert_eq!(server.acked(1), 0);
    server.publish(world("2"), 2);
    assert_eq!(drain(&mut server), ["CDS +outbound|1||b.c"]);
    assert_eq!(server.acked(2), 2);
}

#[test]
fn after_a_reconnect_only_what_changed_is_sent() {
    let before = snapshot(&[
        (Cluster, "a", "1"),
        (Cluster, "b", "1"),
        (Cluster, "c", "1"),
    ]);
    let version = |name| before.get(Cluster, name).unwrap().version.to_string();
    let have = [
        ("a", version("a")),
        ("b", version("b")),
        ("c", version("c")),
    ];
    let mut server = DeltaServer::new(std::sync::Arc::clone(&before), 1);
    resume(&mut server, Cluster, &[], &have);
    assert_eq!(drain(&mut server), Vec::<String>::new());
    assert_eq!(server.acked(1), 1);
    let after = snapshot(&[
        (Cluster, "a", "1"),
        (Cluster, "b", "2"),
        (Cluster, "d", "1"),
    ]);
    let mut server = DeltaServer::new(after, 1);
    resume(&mut server, Cluster, &[], &have);
    assert_eq!(drain(&mut server), ["CDS +b +d", "CDS -c"]);
}

#[test]
fn after_a_reconnect_a_changed_cluster_gets_its_unchanged_endpoints() {
    let before = snapshot(&[(Cluster, "c", "1"), (Endpoint, "c", "1")]);
    let version = |kind| before.get(kind, "c").unwrap().version.to_string();
    let mut server = DeltaServer::new(snapshot(&[(Cluster, "c", "2"), (Endpoint, "c", "1")]), 1);
    resume(&mut server, Cluster, &[], &[("c", version(Cluster))]);
    let (_, clusters) = server.next().unwrap();
    resume(&mut server, Endpoint, &["c"], &[("c", version(Endpoint))]);
    acknowledge(&mut server, &clusters);
    assert_eq!(drain(&mut server), ["EDS +c"]);
}

#[test]
fn after_a_reconnect_a_subscribed_name_that_is_gone_is_removed() {
    let mut server = DeltaServer::new(snapshot(&[]), 1);
    resume(&mut server, Endpoint, &["a"], &[("a", "old".to_owned())]);
    assert_eq!(drain(&mut server), ["EDS -a"]);
}

#[test]
fn an_unknown_type_is_said_and_does_no_harm() {
    let mut server = DeltaServer::new(snapshot(&[]), 1);
    let url = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
    let events = server.request(DeltaDiscoveryRequest {
        type_url: url.to_owned(),
        ..Default::default()
    });
    assert_eq!(events, [Event::Unknown(url.to_owned())]);
    assert_eq!(server.next(), None);
}
