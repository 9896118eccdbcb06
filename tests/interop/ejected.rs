//! Endpoints that outlier detection leaves out, as people see them: by whom, why, since when and until when.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};

use meshctl::rt::Tasks;
use serde_json::Value;

use crate::backend::{Caller, backend};
use crate::mesh::{App, Mesh, Sidecar, program, service};
use crate::stand::until;

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web.default.svc.cluster.local
  trafficPolicy:
    outlierDetection:
      consecutive5xxErrors: 2
      interval: 1s
      baseEjectionTime: 6s
      maxEjectionPercent: 100
";

/// An application that cannot serve anything.
fn failing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for line in lines.map_while(Result::ok) {
                    let ended = line.is_empty()
                        && stream
                            .write_all(
                                b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                            )
                            .is_err();
                    if ended {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn at<'r>(rows: &'r Value, key: &str, value: &str) -> &'r Value {
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row[key] == value).unwrap()
}

/// A line of a proxy's own metrics.
fn metric(proxy: &Sidecar, begins: &str) -> Option<String> {
    let url = format!("http://{}:15000/stats/prometheus", proxy.address);
    let (_, text) = program("curl", &["-sS", "-m", "5", &url]);
    let mut lines = text.lines();
    lines
        .find(|line| line.starts_with(begins))
        .map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ejected_endpoint_is_shown_until_it_is_called_again() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    for name in ["web", "shop", "admin"] {
        mesh.apply(&service(name, &[("http", 9080)]));
    }
    mesh.apply(RULE);
    let app = |service, version, at: SocketAddr| App {
        service,
        version,
        port: 9080,
        at,
        flags: &[],
    };
    let _v1 = mesh.sidecar(&app("web", "v1", backend("v1", &tasks))).await;
    let _v2 = mesh.sidecar(&app("web", "v2", failing())).await;
    let shop = mesh
        .sidecar(&app("shop", "v1", backend("shop", &tasks)))
        .await;
    let admin = mesh
        .sidecar(&app("admin", "v1", backend("admin", &tasks)))
        .await;
    mesh.settled().await;
    let before = mesh.json(&["endpoints", "web"]);
    assert!(
        before
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row.get("ejectedBy").is_none())
    );

    let caller = Caller::new(shop.outbound());
    let other = Caller::new(admin.outbound());
    other.count("admin:9080", 3).await;
    let ejected = until("an endpoint to be ejected, and that to be told", 20, || {
        let rows = mesh.json(&["endpoints", "web"]);
        let by = at(&rows, "version", "v2")["ejectedBy"].clone();
        if by.is_null() {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(caller.count("web:9080", 4))
            });
        }
        (!by.is_null()).then_some(rows)
    })
    .await;
    assert!(at(&ejected, "version", "v1").get("ejectedBy").is_none());
    let by = &at(&ejected, "version", "v2")["ejectedBy"];
    assert_eq!(by.as_array().unwrap().len(), 1, "{by}");
    let by = &by[0];
    assert_eq!(by["workload"], "shop-v1.default");
    assert_eq!(by["proxy"], format!("{}.default", shop.name));
    assert_eq!(by["reason"], "consecutive_5xx");
    let (since, end) = (
        by["sinceUnixMs"].as_u64().unwrap(),
        by["untilUnixMs"].as_u64().unwrap(),
    );
    // Told to the second.
    assert!((5_000..=7_000).contains(&(end - since)), "{by}");

    let stats = |by: &str| mesh.json(&["stats", "web", "--by", by])["rows"].clone();
    until("numbers of both versions", 10, || {
        let rows = stats("version");
        (rows.as_array().unwrap().len() > 1).then_some(())
    })
    .await;
    let versions = stats("version");
    assert_eq!(at(&versions, "version", "v2")["ejectedEndpoints"], 1);
    assert_eq!(at(&versions, "version", "v1")["ejectedEndpoints"], 0);
    let sources = stats("source");
    assert_eq!(
        at(&sources, "source", "shop-v1.default")["ejectedEndpoints"],
        1
    );
    let text = mesh.run(&["endpoints", "web"], None);
    assert!(
        text.contains("EJECTED BY") && text.contains("shop-v1.default, "),
        "{text}"
    );
    let text = mesh.run(&["endpoints", "web", "-o", "wide"], None);
    assert!(
        text.contains("(consecutive_5xx, ") && text.contains(" left)"),
        "{text}"
    );
    assert!(mesh.run(&["stats", "web"], None).contains("EJECTED"));

    // Proxies say the same of themselves, by the names that Envoy has.
    let active =
        "envoy_cluster_outlier_detection_ejections_active{envoy_cluster_name=\"outbound|9080||web.";
    assert!(metric(&shop, active).unwrap().ends_with(" 1"));
    assert!(metric(&admin, active).unwrap().ends_with(" 0"));
    assert!(metric(&shop, "meshctl_outlier_ejected_until_timestamp_seconds{").is_some());

    until("the ejection to be over", 20, || {
        let rows = mesh.json(&["endpoints", "web"]);
        at(&rows, "version", "v2")
            .get("ejectedBy")
            .is_none()
            .then_some(())
    })
    .await;
    assert!(metric(&shop, active).unwrap().ends_with(" 0"));
    assert!(!mesh.run(&["endpoints", "web"], None).contains("EJECTED"));
}
