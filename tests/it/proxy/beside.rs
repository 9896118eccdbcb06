//! What a proxy answers for the application beside it: probes, metrics, and an end from within the pod.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

use meshctl::mesh::View;
use meshctl::proxy::{AppPages, Metrics, Options};

use super::support::*;

/// Answers every request on a connection of its own with `answer`, and tells what was asked.
fn application(answer: &'static str) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut asked = Vec::new();
            let mut bytes = [0; 1024];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(read) if read > 0 => asked.extend(&bytes[..read]),
                    _ => break,
                }
            }
            let told = tell.send(String::from_utf8_lossy(&asked).into_owned());
            if told.is_err() || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    (address, told)
}

async fn started(probes: &str, metrics: Option<Metrics>) -> (Proxy, SocketAddr, SocketAddr) {
    let (status, local) = (free(), free());
    let options = Options {
        workers: 1,
        status: vec![status],
        local: vec![local],
        application: AppPages::new(Some(probes), metrics).unwrap(),
        ..Options::default()
    };
    let proxy = Proxy::with(options, View::default(), None).await;
    eventually(|| async { reachable(status).await && reachable(local).await }).await;
    (proxy, status, local)
}

#[tokio::test]
async fn probes_are_asked_of_the_application() {
    let (well, asked) = application("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n");
    let (ill, _ill) = application("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
    let nobody = free();
    let probes = serde_json::json!({
        "/app-health/a/readyz": {"httpGet": {"path": "/r?x=1", "port": well.port(),
            "httpHeaders": [{"name": "Host", "value": "shop"}, {"name": "X-A", "value": "b"}]}},
        "/app-health/b/livez": {"httpGet": {"port": ill.port()}},
        "/app-health/c/startupz": {"tcpSocket": {"port": well.port()}},
        "/app-health/d/livez": {"tcpSocket": {"port": nobody.port()}},
        "/app-health/e/livez": {"grpc": {"port": ill.port()}},
        "/app-lifecycle/a/prestopz": {"httpGet": {"path": "/stop", "port": well.port()}},
    });
    let (_proxy, at, _) = started(&probes.to_string(), None).await;
    assert_eq!(status(&get(at, "/app-health/a/readyz").await), 200);
    let head = asked.recv().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /r?x=1 http/1.1\r\n"), "{head}");
    assert!(
        head.contains("\r\nhost: shop\r\n") && head.contains("\r\nx-a: b\r\n"),
        "{head}"
    );
    assert_eq!(status(&get(at, "/app-health/b/livez").await), 503);
    assert_eq!(status(&get(at, "/app-health/c/startupz").await), 200);
    assert_eq!(status(&get(at, "/app-health/d/livez").await), 502);
    assert_ne!(status(&get(at, "/app-health/e/livez").await), 200);
    assert_eq!(status(&get(at, "/app-lifecycle/a/prestopz").await), 200);
    // Nothing but what it was told to ask.
    assert_eq!(status(&get(at, "/app-health/a/livez").await), 404);
    assert_eq!(status(&get(at, "/app-health/..%2f/readyz").await), 404);
}

#[tokio::test]
async fn metrics_of_both_are_one_page_and_ours_outlive_theirs() {
    let (app, asked) = application(
        "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n# TYPE own gauge\nown{a=\"b\"} 1\nenvoy_server_live 7\n# EOF\n",
    );
    let metrics = |port: u16| Metrics {
        port,
        path: "/own".to_owned(),
    };
    let (_proxy, at, _) = started("{}", Some(metrics(app.port()))).await;
    let page = get(at, "/stats/prometheus").await;
    assert!(asked.recv().unwrap().starts_with("GET /own "));
    assert!(page.contains("\nown{a=\"b\"} 1\n"), "{page}");
    assert!(page.contains("\nenvoy_server_live 0\n"), "{page}");
    assert!(!page.contains("envoy_server_live 7"), "{page}");
    let (_other, at, _) = started("{}", Some(metrics(free().port()))).await;
    let page = get(at, "/stats/prometheus").await;
    assert!(page.contains("\nenvoy_server_live 0\n"), "{page}");
    assert!(page.contains("# The application's metrics at"), "{page}");
}

#[tokio::test]
async fn only_the_pod_itself_ends_its_proxy() {
    let (proxy, at, local) = started("{}", None).await;
    let ask = |host: &str| {
        format!(
            "POST /quitquitquit HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    };
    assert_eq!(status(&exchange(at, ask("localhost")).await), 404);
    // A page in a browser that has its name resolve to loopback.
    assert_eq!(status(&exchange(local, ask("evil.example")).await), 403);
    assert_eq!(status(&exchange(local, ask("localhost")).await), 200);
    proxy.ended().await.unwrap();
}
