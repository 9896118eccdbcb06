//! HTTP at both ends: backends that say their name, and a caller that counts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshctl::net::{BindOptions, bind};
use meshctl::rt::Tasks;

/// A server that answers every request with `name`.
pub(crate) fn backend(name: &'static str, tasks: &Tasks) -> SocketAddr {
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("backend", async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.spawn("connection", async move {
                let answer = service_fn(
                    move |request: hyper::Request<hyper::body::Incoming>| async move {
                        let certificate = request
                            .headers()
                            .get("x-forwarded-client-cert")
                            .map_or("", |value| value.to_str().unwrap());
                        let body = format!("{name} {} {certificate}", request.uri().path());
                        Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from(body))))
                    },
                );
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(io), answer)
                    .await;
                // Callers go as they please.
                let _ended = served.is_ok();
            });
        }
    });
    address
}

/// A caller with connections of its own.
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    to: SocketAddr,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            to,
        }
    }

    /// Status and body.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Result<(u16, String), String> {
        let request = hyper::Request::get(format!("http://{}{path}", self.to))
            .header("host", host)
            .body(Full::default())
            .unwrap();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        Ok((
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        ))
    }

    /// How often which backend answered; anything but 200 counts as its status.
    pub(crate) async fn count(&self, host: &str, calls: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..calls {
            let who = match self.get(host, "/").await {
                Ok((200, body)) => body.split(' ').next().unwrap().to_owned(),
                Ok((status, _)) => status.to_string(),
                Err(error) => error,
            };
            *counts.entry(who).or_default() += 1;
        }
        counts
    }
}
