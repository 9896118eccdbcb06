//! HTTP at both ends: backends that say their name, and a caller that counts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
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

/// A caller whose calls go one after another through one connection, so that one worker serves them
/// all: shares are exact for every worker, and over several of them within a call only.
pub(crate) struct Caller {
    connection: tokio::sync::Mutex<Option<SendRequest<Full<Bytes>>>>,
    to: SocketAddr,
    tasks: Tasks,
}

impl Caller {
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self {
            connection: tokio::sync::Mutex::new(None),
            to,
            tasks: Tasks::new(),
        }
    }

    /// Status and body.
    pub(crate) async fn get(&self, host: &str, path: &str) -> Result<(u16, String), String> {
        let request = hyper::Request::get(path)
            .header("host", host)
            .body(Full::default())
            .unwrap();
        let mut connection = self.connection.lock().await;
        // It may have been closed meanwhile, and then another one is opened.
        let open = match connection.take() {
            Some(mut kept) => kept.ready().await.is_ok().then_some(kept),
            None => None,
        };
        let mut sender = match open {
            Some(kept) => kept,
            None => self.connect().await?,
        };
        let sent = match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut unsent) => match unsent.take_message() {
                Some(request) => {
                    sender = self.connect().await?;
                    sender.send_request(request).await
                }
                None => Err(unsent.into_error()),
            },
        };
        let response = sent.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        *connection = Some(sender);
        Ok((
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        ))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let io = connect(self.to, ConnectOptions::default())
            .await
            .map_err(|e| e.to_string())?;
        let (sender, connection) = handshake(TokioIo::new(io))
            .await
            .map_err(|e| e.to_string())?;
        self.tasks.spawn("caller", async move {
            // The sender says why a call failed.
            let _ended = connection.await.is_ok();
        });
        Ok(sender)
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
