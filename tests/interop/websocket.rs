//! WebSocket between Python's client and server, through two proxies.

use std::path::Path;

use meshctl::rt::Tasks;

use crate::grpc::Script;
use crate::processes::installed;
use crate::smuggling::proxied;

#[tokio::test(flavor = "multi_thread")]
async fn websockets_pass_through_two_proxies() {
    let Some(python) = installed("websocket", "bin/python") else {
        return;
    };
    let start = |argument: &str| Script::start(Path::new(&python), "websocket.py", argument, None);
    let tasks = Tasks::new();
    let mut server = start("server");
    let port: u16 = server.line().parse().unwrap();
    let (inner, first) = proxied(&tasks, ([127, 0, 0, 1], port).into()).await;
    let (outer, second) = proxied(&tasks, inner).await;
    // Messages large and small, pings, and a goodbye from both sides.
    assert_eq!(
        start(&format!("client ws://{outer}/chat")).line(),
        "closed 1000"
    );
    first.start();
    second.start();
    tasks.end().await;
}
