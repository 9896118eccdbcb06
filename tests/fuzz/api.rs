//! Requests to the control plane's API, from callers of every role.

use std::cell::RefCell;
use std::path::PathBuf;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::ConnectInfo;
use http::{Method, Request, Uri, header};
use meshctl::api::access::Role;
use meshctl::control::rest::peer::Peer;
use meshctl::control::{Control, rest};
use meshctl::rt::{Tasks, Wall};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;

/// What a mesh of nothing answers is never longer than what it was sent by much.
const MOST_ANSWER: usize = 8 << 20;
/// Then it is made anew, so that what operators do stays small.
const REQUESTS: u32 = 500;
/// What tells whether anything has been changed.
const STATE: [&str; 7] = [
    "/version",
    "/tokens",
    "/access",
    "/trust",
    "/registry/instances",
    "/faults",
    "/history?limit=0",
];

/// A control plane that keeps nothing but its authority's files.
struct Plane {
    runtime: Runtime,
    router: Router,
    tasks: Tasks,
    dir: PathBuf,
    asked: u32,
}

thread_local! {
    static PLANE: RefCell<Option<Plane>> = const { RefCell::new(None) };
}

impl Plane {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!(
            "meshctl-fuzz-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let tasks = Tasks::new();
        let wall = Wall::fixed(1_800_000_000_000);
        let router = runtime.block_on(async {
            let control = Control::in_memory(&dir, wall, &tasks).expect("a control plane");
            rest::router(control)
        });
        Self {
            runtime,
            router,
            tasks,
            dir,
            asked: 0,
        }
    }

    /// Status and body.
    fn ask(&self, role: Role, method: Method, uri: Uri, body: &[u8]) -> (u16, Vec<u8>) {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let peer = ConnectInfo(Peer::new("fuzz", role));
        request.extensions_mut().insert(peer);
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await;
            let answer = answer.unwrap_or_else(|never| match never {});
            let status = answer.status().as_u16();
            let body = to_bytes(answer.into_body(), MOST_ANSWER).await;
            (status, body.expect("a bounded answer").to_vec())
        })
    }

    fn state(&self) -> Vec<Vec<u8>> {
        let read = |path: &&str| {
            let uri = format!("/api/v1{path}").parse().expect("a target");
            let (status, body) = self.ask(Role::Owner, Method::GET, uri, b"");
            assert_eq!(status, 200, "{path}");
            body
        };
        STATE.iter().map(read).collect()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // As its thread ends, what a runtime keeps there may be gone already.
        std::thread::scope(|all| {
            all.spawn(|| self.runtime.block_on(self.tasks.end()));
        });
        let _removed = std::fs::remove_dir_all(&self.dir).is_ok();
    }
}

/// First line: the role (`v`, `o` or `r`), a method and a target with spaces between. The rest: a body. Nothing
/// that a viewer says changes anything, and nothing that anybody says is a fault of ours.
pub(crate) fn api(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let Ok(line) = std::str::from_utf8(parts.next().unwrap_or_default()) else {
        return;
    };
    let body = parts.next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let role = match words.next() {
        Some("o") => Role::Operator,
        Some("r") => Role::Owner,
        _ => Role::Viewer,
    };
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return;
    };
    let (Ok(method), Ok(uri)) = (method.parse::<Method>(), target.parse::<Uri>()) else {
        return;
    };
    // A router is given what a server has read from the first line.
    if !target.starts_with('/') {
        return;
    }
    PLANE.with_borrow_mut(|kept| {
        if kept.as_ref().is_some_and(|plane| plane.asked >= REQUESTS) {
            *kept = None;
        }
        let plane = kept.get_or_insert_with(Plane::new);
        plane.asked += 1;
        let before = (role == Role::Viewer && method != Method::GET).then(|| plane.state());
        let (status, answer) = plane.ask(role, method.clone(), uri, body);
        let words = String::from_utf8_lossy(&answer);
        assert_ne!(status, 500, "{method} {target} {words}");
        assert_ne!(status, 401, "who asks is known: {method} {target}");
        if let Some(before) = before {
            assert_eq!(before, plane.state(), "{method} {target}");
        }
        if role < Role::Owner {
            // Nobody but the owner of the socket makes a way in.
            assert!(!words.contains("\"token\":\"ma_"), "{method} {target}");
        }
    });
}
