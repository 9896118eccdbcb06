//! Consul.

use std::sync::Arc;

use serde_json::{Value, json};

use super::agent::{Agent, Fault, instance};
use super::{PATIENCE, Plane, row_at, source_of, write};

const WEB: &str = "web.service.consul";

fn url(agent: &Agent) -> String {
    format!("consul=http://{}", agent.address)
}

fn web(agent: &Agent) {
    agent.put(instance("web", "web-1", "10.1.0.2", 8_080));
    agent.put(instance("web", "web-2", "", 8_081));
}

async fn plane(agent: &Agent) -> Plane {
    Plane::start(&["--source", &url(agent)]).ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_their_health_are_the_meshs() {
    let agent = Agent::start();
    web(&agent);
    agent.edit("web", "web-1", |entry| {
        entry["Service"]["Meta"] = json!({"protocol": "http", "version": "v1"});
        entry["Service"]["Weights"] = json!({"Passing": 7, "Warning": 2});
    });
    agent.edit("web", "web-2", |entry| {
        entry["Service"]["Tags"] = json!(["v2", "primary"]);
    });
    let plane = plane(&agent).await;
    // The machine's address where the service has none; one port leads to everybody.
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:8080 healthy"])
        .await;
    let services = plane.json(&["services", "-o", "json"]);
    let service = &services.as_array().unwrap()[0];
    assert_eq!(services.as_array().unwrap().len(), 1, "{services}");
    assert_eq!(service["versions"], json!({"v1": 1, "v2": 1}), "{service}");
    let rows = plane.json(&["endpoints", WEB, "-o", "json"]);
    assert_eq!(row_at(&rows, "10.1.0.2:8080")["weight"], 7, "{rows}");
    let got = plane.json(&["get", "serviceentries", "-n", "consul", "-o", "json"]);
    let spec = &got[0]["object"]["spec"];
    assert_eq!(spec["hosts"], json!([WEB]), "{got}");
    let ports: Vec<&Value> = spec["ports"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&ports[0]["number"], &ports[1]["number"]),
        (&json!(8_080), &json!(8_081))
    );
    assert_eq!(ports[0]["protocol"], "HTTP");

    agent.status("web", "web-1", "warning");
    plane
        .until(
            "less of it",
            &format!("/endpoints?service={WEB}"),
            |(_, rows)| {
                let row = row_at(rows, "10.1.0.2:8080");
                row["weight"] == 2 && row["health"] == "healthy"
            },
        )
        .await;
    agent.status("web", "web-1", "critical");
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:8080 unhealthy"])
        .await;
    agent.status("web", "web-1", "passing");
    agent.edit("web", "web-2", |entry| {
        let maintenance = json!({"CheckID": "_service_maintenance:web-2", "Status": "critical"});
        entry["Checks"].as_array_mut().unwrap().push(maintenance);
    });
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 draining", "10.1.0.2:8080 healthy"])
        .await;
    agent.remove("web", "web-2");
    plane.until_endpoints(WEB, &["10.1.0.2:8080 healthy"]).await;
    agent.put(instance("db", "db-1", "10.1.0.9", 5_432));
    plane
        .until_endpoints("db.service.consul", &["10.1.0.9:5432 healthy"])
        .await;
    agent.remove("web", "web-1");
    plane
        .until("one service less", "/services", |(_, all)| {
            all.as_array().is_some_and(|all| all.len() == 1)
        })
        .await;

    // Rules of the mesh are for them as for any other.
    let rule = plane.dir.path().join("rule.yaml");
    write(
        &rule,
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: db}, \
         spec: {host: db.service.consul, trafficPolicy: {loadBalancer: {simple: LEAST_REQUEST}}}}",
    );
    let applied = plane.run(&["apply", "-f", rule.to_str().unwrap()]);
    assert!(applied.status.success(), "{applied:?}");
    let refused = plane.run(&[
        "delete",
        "serviceentry",
        "db.service.consul",
        "-n",
        "consul",
    ]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is kept in Consul"), "{said}");
    let check = plane.until_source("ok", "1 services, 1 instances").await;
    let text = check["text"].as_str().unwrap();
    assert!(text.starts_with("Consul at http://127.0.0.1:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_wait_and_go_by_the_index() {
    let agent = Agent::start();
    web(&agent);
    let plane = plane(&agent).await;
    for port in 9_000..9_020 {
        agent.edit("web", "web-1", |entry| {
            entry["Service"]["Port"] = port.into();
        });
        let first = [
            "10.1.0.1:8081 healthy".to_owned(),
            format!("10.1.0.2:{port} healthy"),
        ];
        let expected: Vec<&str> = first.iter().map(String::as_str).collect();
        if port % 5 == 0 {
            plane.until_endpoints(WEB, &expected).await;
        }
    }
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:9019 healthy"])
        .await;
    let asked = agent.asked();
    let of = |path: &str| -> Vec<Option<u64>> {
        let asked = asked.iter().filter(|asked| asked.path == path);
        asked
            .map(|asked| asked.query.get("index").map(|index| index.parse().unwrap()))
            .collect()
    };
    for path in ["/v1/catalog/services", "/v1/health/service/web"] {
        let indexes = of(path);
        // At once only the first time, and forward from there.
        assert_eq!(indexes[0], None, "{indexes:?}");
        assert!(
            indexes[1..]
                .iter()
                .all(|index| index.is_some_and(|index| index > 0))
        );
        assert!(indexes.is_sorted(), "{indexes:?}");
    }
    assert!(asked.iter().all(|asked| asked.query.contains_key("stale")));
    let held = asked.iter().filter_map(|asked| asked.query.get("wait"));
    assert!(held.clone().count() > 0 && held.clone().all(|wait| wait == "60s"));
    // Twenty changes at once are no twenty questions.
    let web = of("/v1/health/service/web").len();
    assert!(web <= 2 + 8 + 20, "{web}");

    // Indexes begin anew.
    agent.until_waiting(2).await;
    agent.restored();
    agent.edit("web", "web-1", |entry| {
        entry["Service"]["Port"] = 9_100.into();
    });
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:9100 healthy"])
        .await;
    agent.edit("web", "web-1", |entry| {
        entry["Service"]["Port"] = 9_101.into();
    });
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:9101 healthy"])
        .await;
    let indexes: Vec<Option<u64>> = {
        let asked = agent.asked();
        let asked = asked
            .iter()
            .filter(|asked| asked.path == "/v1/health/service/web");
        asked
            .map(|asked| asked.query.get("index").map(|index| index.parse().unwrap()))
            .collect()
    };
    let anew = indexes.iter().skip(1).position(Option::is_none);
    assert!(
        anew.is_some(),
        "backwards means from the beginning: {indexes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_consul_is_away_what_is_known_stays() {
    let mut agent = Agent::start();
    web(&agent);
    let both = ["10.1.0.1:8081 healthy", "10.1.0.2:8080 healthy"];
    let plane = plane(&agent).await;
    plane.until_endpoints(WEB, &both).await;
    let before = plane.ask("/history").await;
    agent.stop().await;
    let check = plane.until_source("warning", "cannot connect").await;
    assert!(
        check["detail"]
            .as_str()
            .unwrap()
            .contains("what is known stays in force")
    );
    assert!(
        check["hint"]
            .as_str()
            .unwrap()
            .contains("see whether Consul runs"),
        "{check}"
    );
    assert!(metrics(&plane).await.contains("} 0\n"));
    plane.until_endpoints(WEB, &both).await;
    // What happens meanwhile is caught up with.
    agent.remove("web", "web-2");
    agent.put(instance("db", "db-1", "10.1.0.9", 5_432));
    agent.serve();
    plane.until_endpoints(WEB, &["10.1.0.2:8080 healthy"]).await;
    plane
        .until_endpoints("db.service.consul", &["10.1.0.9:5432 healthy"])
        .await;
    plane.until_source("ok", "2 services, 2 instances").await;
    let told = metrics(&plane).await;
    assert!(
        told.contains("meshctl_source_up{source=\"Consul at http://127.0.0.1:"),
        "{told}"
    );
    // None of it is a change that somebody made here.
    assert_eq!(plane.ask("/history").await, before);

    for (fault, says) in [
        (Fault::NoLeader, "No cluster leader"),
        (Fault::Leaderless, "no leader"),
        (Fault::TooOften, "asked too often"),
        (Fault::Garbage, "not understood"),
    ] {
        agent.fault(Some(fault));
        // Whoever waits is not disturbed; the next answer is the bad one.
        agent.edit("web", "web-1", |entry| entry["Service"]["Port"] = 1.into());
        plane.until_source("warning", says).await;
        plane.until_endpoints(WEB, &["10.1.0.2:8080 healthy"]).await;
        agent.edit("web", "web-1", |entry| {
            entry["Service"]["Port"] = 8_080.into();
        });
        agent.fault(None);
        plane.until_source("ok", "2 services").await;
    }
}

/// The control plane's own metrics.
async fn metrics(plane: &Plane) -> String {
    let at = plane.log();
    // Its port is any free one; the process says which.
    let pid = plane.control.as_ref().unwrap().id();
    for port in listening(pid) {
        let page = tokio::time::timeout(PATIENCE, page(port)).await;
        if let Ok(Some(text)) = page
            && text.contains("pilot_services")
        {
            return text;
        }
    }
    panic!("nobody tells metrics: {at}");
}

/// Ports on which the process listens.
fn listening(pid: u32) -> Vec<u16> {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(text.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let rows = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A" && inodes.iter().any(|inode| inode == row[9]))
        .map(|row| u16::from_str_radix(row[1].split_once(':').unwrap().1, 16).unwrap())
        .collect()
}

async fn page(port: u16) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let at = (std::net::Ipv4Addr::LOCALHOST, port).into();
    let mut stream = meshctl::net::connect(at, meshctl::net::ConnectOptions::default())
        .await
        .ok()?;
    let request =
        format!("GET /metrics HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.ok()?;
    String::from_utf8(text).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_from_its_file_and_its_lack_is_said() {
    let agent = Agent::start();
    web(&agent);
    agent.require("s3cret");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "wrong\n").unwrap();
    let path = file.to_str().unwrap().to_owned();
    let plane = Plane::in_dir(
        dir,
        &["--source", &url(&agent), "--consul-token-file", &path],
    );
    let check = plane.until_source("failed", "the token may not ask").await;
    let detail = check["detail"].as_str().unwrap();
    assert!(detail.contains("ACL not found") && detail.contains("proxies are not served yet"));
    assert!(
        check["hint"].as_str().unwrap().contains("service_prefix"),
        "{check}"
    );
    // A new token needs no restart.
    write(&file, "s3cret\n");
    let plane = plane.ready().await;
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:8080 healthy"])
        .await;
    assert!(!plane.log().contains("s3cret"));
    // What is left out for the token's sake is said.
    agent.hide("web");
    let check = plane
        .until_source("warning", "Consul leaves services out")
        .await;
    assert!(check["hint"].as_str().unwrap().contains("token"), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_is_believed_by_its_roots_and_nobody_is_told_in_the_clear() {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let agent = Agent::with(Some(Arc::new(config)));
    web(&agent);
    let source = format!("consul=https://localhost:{}", agent.address.port());
    let stranger = Plane::start(&["--source", &source]);
    stranger
        .until_source("failed", "was not issued by a root that is trusted")
        .await;
    assert!(agent.asked().is_empty());
    let dir = tempfile::tempdir().unwrap();
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, cert.pem()).unwrap();
    let roots = roots.to_str().unwrap().to_owned();
    let plane = Plane::in_dir(dir, &["--source", &source, "--consul-ca-file", &roots]);
    let plane = plane.ready().await;
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:8080 healthy"])
        .await;

    for (args, says) in [
        (
            vec![
                "--source",
                "consul=http://192.0.2.1",
                "--consul-token-file",
                "x",
            ],
            "in the clear",
        ),
        (
            vec!["--source", "consul=http://c?dcc=x"],
            "did you mean \"dc\"?",
        ),
        (
            vec!["--source", "consul=c:8500"],
            "neither http:// nor https://",
        ),
        (
            vec!["--source", "files=.", "--consul-token-file", "x"],
            "need --source consul=URL",
        ),
    ] {
        let refused = plane.run(&[&["control-plane"], args.as_slice()].concat());
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_services_than_may_be_waited_for_take_turns() {
    let agent = Agent::start();
    let services = 300_u16;
    for n in 0..services {
        let name = format!("svc-{n:03}");
        agent.put(instance(&name, &name, "10.1.0.2", 10_000 + n));
    }
    // Two things that are no services of the mesh's.
    agent.put(instance("not a name", "x", "10.1.0.2", 80));
    agent.put(instance("portless", "y", "10.1.0.2", 0));
    let plane = plane(&agent).await;
    let all = plane.json(&["services", "-o", "json"]);
    assert_eq!(all.as_array().unwrap().len(), usize::from(services));
    // Consul takes 200 connections from one address.
    assert!(agent.most_open() <= 160, "{}", agent.most_open());
    for n in [0, 150, 299] {
        let name = format!("svc-{n:03}");
        agent.status(&name, &name, "critical");
        let host = format!("{name}.service.consul");
        plane
            .until_endpoints(&host, &[&format!("10.1.0.2:{} unhealthy", 10_000 + n)])
            .await;
    }
    let report = plane.ask("/check").await.1;
    let check = source_of(&report).unwrap();
    assert_eq!(check["status"], "warning", "{check}");
    let detail = check["detail"].as_str().unwrap();
    assert!(detail.contains("left out: not a name"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datacenters_are_two_sources() {
    let (one, other) = (Agent::start(), Agent::start());
    web(&one);
    other.put(instance("web", "web-1", "10.2.0.2", 8_080));
    let far = format!("{}?dc=dc2&namespace=far", url(&other));
    let plane = Plane::start(&["--source", &url(&one), "--source", &far]);
    let plane = plane.ready().await;
    plane
        .until_endpoints(WEB, &["10.1.0.1:8081 healthy", "10.1.0.2:8080 healthy"])
        .await;
    plane
        .until_endpoints("web.service.dc2.consul", &["10.2.0.2:8080 healthy"])
        .await;
    assert!(other.asked().iter().all(|asked| asked.query["dc"] == "dc2"));
    let got = plane.json(&["get", "serviceentries", "-n", "far", "-o", "json"]);
    assert_eq!(got.as_array().unwrap().len(), 1, "{got}");
}
