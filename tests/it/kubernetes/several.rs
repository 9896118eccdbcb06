//! What is seen of calls where proxies are spread over two replicas: live, counted, over time, and what they leave out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::seen::{Person, SHOP, Sidecar, address, apply, slice, start};

/// A process that is ended with its test, and the lines that it prints.
pub(super) struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Lines {
    pub(super) fn of(person: &Person<'_>, args: &[&str]) -> Self {
        let mut command = person.command(args);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        Self {
            child,
            lines: read(out),
        }
    }

    pub(super) fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Lines of `from`, as they come.
fn read(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// One call to `cart` by the application beside proxy `name`; what it is answered with does not matter here. Gives how many
/// that were.
fn call(name: &str, path: &str) -> u64 {
    let to: SocketAddr = format!("{}:15001", address(name)).parse().unwrap();
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: cart.shop.svc.cluster.local\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
    1
}

/// What the dashboard answers to `path`: the connection, behind the head of the answer.
fn asked(link: &str, path: &str) -> BufReader<TcpStream> {
    let (at, secret) = link
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once("/#session="))
        .unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    let head =
        format!("GET /api/v1{path} HTTP/1.0\r\nhost: {at}\r\nx-meshctl-session: {secret}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    stream
}

fn answer(link: &str, path: &str) -> Value {
    let mut text = String::new();
    asked(link, path).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Paths of the first calls, by which application made them.
fn paths(mut next: impl FnMut() -> Value, calls: usize) -> Vec<String> {
    let mut paths: Vec<String> = (0..calls)
        .map(|_| next()["path"].as_str().unwrap().to_owned())
        .collect();
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_seen_whichever_replica_their_proxy_is_connected_to() {
    let (stand, replicas) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    slice(&stand, &["cart-1", "cart-2"]);
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    let _sidecars = [
        Sidecar::start(&stand, &replicas[0], "cart-1", "v1"),
        Sidecar::start(&stand, &replicas[1], "cart-2", "v2"),
    ];
    vera.until(&["proxies"], |proxies| {
        let rows = proxies.as_array()?;
        let ready = rows.iter().filter(|row| row["synced"] == true);
        (ready.count() == 2).then_some(())
    })
    .await;

    let tap = Lines::of(
        &vera,
        &["tap", "cart.shop", "-o", "json", "--path", "/said"],
    );
    let dashboard = Lines::of(
        &vera,
        &["dashboard", "--no-browser", "--port", "0", "-o", "json"],
    );
    let link = dashboard.next()["url"].as_str().unwrap().to_owned();
    let page = asked(&link, "/tap?service=cart.shop&path=/said&rate=100");
    let page = read(page);
    let on_page = || -> Value {
        let line = page.recv_timeout(Duration::from_secs(20)).unwrap();
        serde_json::from_str(&line).unwrap()
    };
    let mut made = 0;
    // Until every proxy tells both; nothing says so from here.
    for (name, path) in [("cart-1", "/said/first-1"), ("cart-2", "/said/first-2")] {
        let mut ears = [false; 2];
        while ears != [true; 2] {
            made += call(name, path);
            std::thread::sleep(Duration::from_millis(100));
            for (heard, lines) in ears.iter_mut().zip([&tap.lines, &page]) {
                *heard |= lines.try_iter().any(|line| line.contains(path));
            }
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    for lines in [&tap.lines, &page] {
        let _heard = lines.try_iter().count();
    }
    for name in ["cart-1", "cart-2", "cart-1"] {
        made += call(name, &format!("/said/{name}"));
    }
    let expected = ["/said/cart-1", "/said/cart-1", "/said/cart-2"];
    assert_eq!(paths(|| tap.next(), 3), expected);
    assert_eq!(paths(on_page, 3), expected);

    // Counted together, and point by point: each of them once.
    vera.until(&["stats", "cart.shop", "-t", "10m"], |stats| {
        (stats["rows"][0]["requests"].as_u64()? == made).then_some(())
    })
    .await;
    let series = answer(
        &link,
        "/series?service=cart.shop&namespace=shop&window=600&step=1",
    );
    let points = series["rows"][0]["points"].as_array().unwrap();
    let counted: u64 = points
        .iter()
        .map(|point| point["requests"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, made, "{series}");

    for replica in replicas {
        replica.end();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_proxies_of_another_replica_leave_out_is_seen() {
    let (stand, replicas) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    slice(&stand, &["cart-1", "cart-2"]);
    let rule = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"host": "cart", "trafficPolicy": {"outlierDetection": {
            "consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "120s", "maxEjectionPercent": 100,
        }}},
    });
    apply(&stand, "rule.yaml", &rule.to_string());
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    let _sidecars = [
        Sidecar::start(&stand, &replicas[0], "cart-1", "v1"),
        Sidecar::start(&stand, &replicas[1], "cart-2", "v2"),
    ];
    vera.until(&["proxies"], |proxies| {
        let rows = proxies.as_array()?;
        let ready = rows.iter().filter(|row| row["synced"] == true);
        (ready.count() == 2).then_some(())
    })
    .await;
    // Nobody is at the port of either, so each proxy ejects what it calls.
    let by = ["cart-1.shop", "cart-2.shop"];
    vera.until(&["endpoints", "cart.shop"], |rows| {
        let _both = call("cart-1", "/") + call("cart-2", "/");
        let ejected = rows
            .as_array()?
            .iter()
            .filter_map(|row| row["ejectedBy"].as_array());
        let proxies: Vec<&str> = ejected
            .flatten()
            .filter_map(|by| by["proxy"].as_str())
            .collect();
        by.iter().all(|by| proxies.contains(by)).then_some(())
    })
    .await;
    vera.until(&["stats", "cart.shop"], |stats| {
        let ejected = stats["rows"][0]["ejectedEndpoints"].as_u64()?;
        (ejected > 0).then_some(())
    })
    .await;
    let [one, two] = replicas;
    one.end();
    two.end();
}
