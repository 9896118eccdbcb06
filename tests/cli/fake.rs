//! A control plane that answers what it was told to, and remembers what it was asked.

use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use serde::Serialize;
use serde_json::Value;

use super::run::Home;

/// One question: `GET /api/v1/services?namespace=shop`, with its body.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) body: Value,
}

/// Answers by method and path without the query.
#[derive(Debug, Default, Clone)]
pub(crate) struct Answers(Vec<(String, u16, Vec<u8>)>);

impl Answers {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `request` is `GET /services`, below the API's prefix.
    pub(crate) fn on<T: Serialize>(self, request: &str, answer: &T) -> Self {
        self.status(request, 200, answer)
    }

    pub(crate) fn status<T: Serialize>(mut self, request: &str, status: u16, answer: &T) -> Self {
        let (method, path) = request.split_once(' ').unwrap();
        let body = serde_json::to_vec(answer).unwrap();
        self.0
            .push((format!("{method} /api/v1{path}"), status, body));
        self
    }

    pub(crate) fn raw(mut self, request: &str, status: u16, body: &str) -> Self {
        let (method, path) = request.split_once(' ').unwrap();
        self.0
            .push((format!("{method} /api/v1{path}"), status, body.into()));
        self
    }

    /// Serves them on the socket of `home` until the test's process ends.
    pub(crate) fn serve(self, home: &Home) -> Fake {
        let dir = home.path().join("control");
        std::fs::create_dir_all(&dir).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let answers = Arc::new(self.0);
        let handle = move |request: Request| {
            let (log, answers) = (Arc::clone(&log), Arc::clone(&answers));
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let key = format!("{} {}", request.method(), request.uri().path());
                let body: Bytes = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                log.lock().unwrap().push(Asked { line, body });
                let json = [(header::CONTENT_TYPE, "application/json")];
                if key == "GET /ready" {
                    return (StatusCode::OK, json, b"{}".to_vec()).into_response();
                }
                match answers.iter().find(|(known, _, _)| *known == key) {
                    Some((_, status, body)) => {
                        (StatusCode::from_u16(*status).unwrap(), json, body.clone()).into_response()
                    }
                    None => StatusCode::NOT_FOUND.into_response(),
                }
            }
        };
        let (ready, serving) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = meshctl::net::bind_unix(&dir.join("api.sock")).unwrap();
                ready.send(()).unwrap();
                axum::serve(listener, Router::new().fallback(handle))
                    .await
                    .unwrap();
            });
        });
        serving.recv().unwrap();
        Fake { asked }
    }
}

pub(crate) struct Fake {
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}
