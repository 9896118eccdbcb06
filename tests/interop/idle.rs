//! A gateway that no Gateway selects yet: whoever waits for it (a Deployment, `install --wait`) must see it
//! ready, and it must be replaced like any other.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};

use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::mesh::{App, Mesh, service};
use crate::stand::until;

/// What the gateway says of itself on its health port; 0 where nobody answers.
fn ready(address: IpAddr) -> u16 {
    let ask = || -> std::io::Result<String> {
        let to = SocketAddr::new(address, 15_021);
        let mut stream = TcpStream::connect(to)?;
        write!(
            stream,
            "GET /healthz/ready HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"
        )?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    let said = ask().unwrap_or_default();
    said.split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers:
  - port: {number: 18081, name: http, protocol: HTTP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: ['*']
  gateways: [edge]
  http: [{route: [{destination: {host: web}}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_work_is_ready_for_it() {
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    let (_edge, address) = mesh.gateway("edge", &["18081"]).await;
    until("a gateway without listeners to be ready", 10, || {
        (ready(address) == 200).then_some(())
    })
    .await;
    mesh.apply(&service("web", &[("http", 9080)]));
    mesh.apply(EDGE);
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let _web = mesh.sidecar(&app).await;
    until("requests to come through it", 10, || {
        let answer = std::process::Command::new("curl")
            .args(["-s", "-m", "5", &format!("http://{address}:18081/")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&answer.stdout)
            .contains("web")
            .then_some(())
    })
    .await;
    assert_eq!(ready(address), 200);
}
