//! DNS.

use std::time::Duration;

use hickory_proto::rr::RecordType;

use super::server::{Fault, Server, address, cname, srv};
use super::{Plane, row_at};

const DB: &str = "db.test";
const WEB: &str = "_http._tcp.web.test";

fn addresses(server: &Server, name: &str, ttl: u32, of: &[&str]) {
    let all = of.iter().map(|text| address(text)).collect();
    server.set(name, RecordType::A, ttl, all);
}

async fn plane(server: &Server, name: &str) -> Plane {
    let source = format!("dns={name}?server={}", server.address);
    Plane::start(&["--source", &source]).ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_endpoints_for_as_long_as_they_hold() {
    let server = Server::start().await;
    addresses(&server, DB, 1, &["10.0.0.1", "10.0.0.2"]);
    let plane = plane(&server, "db.test:5432").await;
    plane
        .until_endpoints(DB, &["10.0.0.1:5432 healthy", "10.0.0.2:5432 healthy"])
        .await;
    addresses(&server, DB, 1, &["10.0.0.2", "10.0.0.3"]);
    plane
        .until_endpoints(DB, &["10.0.0.2:5432 healthy", "10.0.0.3:5432 healthy"])
        .await;
    // Without any of the one family, the other serves; nobody adds a domain of this machine.
    addresses(&server, DB, 1, &[]);
    server.set(DB, RecordType::AAAA, 1, vec![address("2001:db8::1")]);
    plane
        .until_endpoints(DB, &["[2001:db8::1]:5432 healthy"])
        .await;
    assert!(server.names().iter().all(|name| name == DB));
    // Long answers come over TCP.
    server.fault(DB, Some(Fault::Long));
    let many: Vec<String> = (1..=60).map(|n| format!("10.0.1.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    addresses(&server, DB, 3_600, &many);
    plane
        .until(
            "all of many",
            &format!("/endpoints?service={DB}"),
            |(_, rows)| rows.as_array().is_some_and(|rows| rows.len() == 60),
        )
        .await;
    assert!(server.over_tcp() > 0);
    // They hold for an hour now, so nobody asks for a while.
    let asked = server.asked(DB, RecordType::A);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.asked(DB, RecordType::A), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_say_stays_and_what_is_not_there_goes() {
    let server = Server::start().await;
    addresses(&server, DB, 1, &["10.0.0.1"]);
    let plane = plane(&server, "db.test").await;
    let one = ["10.0.0.1:80 healthy"];
    plane.until_endpoints(DB, &one).await;
    for fault in [Fault::Fails, Fault::Silent] {
        server.fault(DB, Some(fault));
        let check = plane.until_source("warning", "db.test").await;
        let detail = check["detail"].as_str().unwrap();
        assert!(detail.contains("what is known stays in force"), "{detail}");
        assert!(
            check["hint"].as_str().unwrap().contains("name server"),
            "{check}"
        );
        plane.until_endpoints(DB, &one).await;
        server.fault(DB, None);
        plane.until_source("ok", "1 services, 1 instances").await;
    }
    // That there is nothing is an answer: the service stays, and nobody serves it.
    addresses(&server, DB, 1, &[]);
    plane.until_endpoints(DB, &[]).await;
    plane.until_source("ok", "1 services, 0 instances").await;
    addresses(&server, DB, 1, &["10.0.0.9"]);
    plane.until_endpoints(DB, &["10.0.0.9:80 healthy"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_have_ports_weights_and_priorities() {
    let server = Server::start().await;
    addresses(&server, "a.test", 60, &["10.0.0.1"]);
    addresses(&server, "b.test", 60, &["10.0.0.2"]);
    server.set("c.test", RecordType::CNAME, 60, vec![cname("d.test")]);
    addresses(&server, "d.test", 60, &["10.0.0.3"]);
    server.set(
        WEB,
        RecordType::SRV,
        1,
        vec![
            srv(10, 30, 8_001, "a.test"),
            srv(10, 10, 8_002, "b.test"),
            srv(20, 0, 8_003, "c.test"),
        ],
    );
    let plane = plane(&server, WEB).await;
    plane
        .until_endpoints(
            "web.test",
            &["10.0.0.1:8001 healthy", "10.0.0.2:8002 healthy"],
        )
        .await;
    let rows = plane.json(&["endpoints", "web.test", "-o", "json"]);
    assert_eq!(row_at(&rows, "10.0.0.1:8001")["weight"], 300);
    assert_eq!(row_at(&rows, "10.0.0.2:8002")["weight"], 100);
    // A target of which nobody can say where it is stays where it was.
    server.fault("a.test", Some(Fault::Fails));
    plane.until_source("warning", "a.test").await;
    plane
        .until_endpoints(
            "web.test",
            &["10.0.0.1:8001 healthy", "10.0.0.2:8002 healthy"],
        )
        .await;
    server.fault("a.test", None);
    // None of the best is there: the next serve.
    addresses(&server, "a.test", 1, &[]);
    addresses(&server, "b.test", 1, &[]);
    plane
        .until_endpoints("web.test", &["10.0.0.3:8003 healthy"])
        .await;
    // "Decidedly not here."
    server.set(WEB, RecordType::SRV, 1, vec![srv(0, 0, 0, ".")]);
    plane.until_endpoints("web.test", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_served_before_the_name_was_answered_once() {
    let server = Server::start().await;
    server.fault(DB, Some(Fault::Fails));
    let source = format!("dns=db.test?server={}", server.address);
    let plane = Plane::start(&["--source", &source]);
    plane
        .until_source("failed", "proxies are not served yet")
        .await;
    assert_eq!(plane.ask("/ready").await.0, 503);
    addresses(&server, DB, 1, &["10.0.0.1"]);
    server.fault(DB, None);
    let plane = plane.ready().await;
    plane.until_endpoints(DB, &["10.0.0.1:80 healthy"]).await;
    for bad in ["dns=10.0.0.1", "dns=_http.test", "dns=db.test:99999"] {
        let refused = plane.run(&["control-plane", "--source", bad]);
        assert_eq!(refused.status.code(), Some(2), "{bad}: {refused:?}");
    }
}
