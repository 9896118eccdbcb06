//! Questions to Consul over HTTP or HTTPS, on connections that are used again.
//!
//! Consul takes 200 connections from one address and refuses the rest, so no more than [`SLOTS`]
//! questions are under way at a time; others wait for their turn.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::Options;
use crate::mesh::origination::{NameMatch, Named};
use crate::net::{ConnectOptions, connect_any};
use crate::rt::Tasks;
use crate::tls::outside::{Anchors, Believes, SYSTEM_ROOTS, explain_outside, outside_config};

/// Questions that are under way at a time.
pub(super) const SLOTS: usize = 128;
/// Largest answer that is read.
const LARGEST: usize = 64 << 20;
/// What Consul says of itself in an error is cut here.
const WORDS: usize = 300;
/// To connect.
const CONNECT: Duration = Duration::from_secs(5);

type Sender = SendRequest<Empty<Bytes>>;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// `X-Consul-Index`; 0 where there is none.
    pub(super) index: u64,
    /// Something was left out that the token may not read.
    pub(super) filtered: bool,
    /// Whoever answered knows a leader.
    pub(super) leader: bool,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("cannot connect to {host}: {reason}")]
    Connect { host: String, reason: String },
    #[error("{0}")]
    Tls(String),
    #[error("the exchange broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the token cannot be read from {path}: {reason}")]
    Token { path: String, reason: String },
    #[error("the token may not ask: {0} (403)")]
    Denied(String),
    #[error("Consul is asked too often: {0} (429)")]
    TooOften(String),
    #[error("it answers {status}: {words}")]
    Status { status: u16, words: String },
    #[error("its servers have no leader")]
    Leaderless,
    #[error("its answer is not understood: {0}")]
    Nonsense(String),
}

impl Fault {
    /// What a person can do.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Late(_) | Self::Connect { .. } | Self::Broken(_) => {
                "see whether Consul runs and whether the address of --source is right"
            }
            Self::Tls(_) => "give the roots of Consul's certificate with --consul-ca-file",
            Self::Token { .. } => "see whether --consul-token-file can be read by this user",
            Self::Denied(_) => {
                "give a token whose policy has service_prefix \"\" and node_prefix \"\" with policy \"read\", by --consul-token-file"
            }
            Self::TooOften(_) => "raise Consul's limits for this client",
            Self::Status { .. } | Self::Leaderless => "see what Consul's servers say in their logs",
            Self::Nonsense(_) => "see whether it is Consul's HTTP API that answers there",
        }
    }
}

/// Asks one Consul.
#[derive(Debug)]
pub(super) struct Client {
    options: Options,
    scope: String,
    slots: Semaphore,
    idle: Mutex<Vec<Sender>>,
    /// Connections end when nobody sends on them any more.
    connections: Tasks,
}

impl Client {
    pub(super) fn new(options: Options) -> Self {
        Self {
            scope: options.scope(),
            options,
            slots: Semaphore::new(SLOTS),
            idle: Mutex::new(Vec::new()),
            connections: Tasks::new(),
        }
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// What is said with every question.
    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    /// Asks for `url` (path and query), which may take `time`. A question that goes `always` waits for
    /// no turn.
    pub(super) async fn get(
        &self,
        url: &str,
        time: Duration,
        always: bool,
    ) -> Result<Answer, Fault> {
        let _turn = if always {
            None
        } else {
            self.slots.acquire().await.ok()
        };
        let whole = self.exchange(url);
        let answer = tokio::time::timeout(time, whole).await;
        answer.map_err(|_| Fault::Late(time))?
    }

    async fn exchange(&self, url: &str) -> Result<Answer, Fault> {
        let token = self.token().await?;
        let request = || {
            let mut request = Request::get(url)
                .header("host", self.options.authority())
                .header("accept", "application/json")
                .header("user-agent", concat!("meshctl/", env!("CARGO_PKG_VERSION")));
            if let Some(token) = &token {
                request = request.header("x-consul-token", token);
            }
            let request = request.body(Empty::<Bytes>::new());
            request.map_err(|_| Fault::Token {
                path: self.token_path(),
                reason: "it is no token".to_owned(),
            })
        };
        // One that was kept may have been closed meanwhile, which shows when it is used.
        while let Some(mut sender) = self.kept() {
            if sender.ready().await.is_ok()
                && let Ok(answer) = sender.send_request(request()?).await
            {
                return self.read(answer, sender).await;
            }
        }
        let mut sender = self.connect().await?;
        let answer = sender.send_request(request()?).await?;
        self.read(answer, sender).await
    }

    async fn read(
        &self,
        answer: http::Response<hyper::body::Incoming>,
        sender: Sender,
    ) -> Result<Answer, Fault> {
        let text = |name: &str| answer.headers().get(name)?.to_str().ok();
        let index = text("x-consul-index").and_then(|text| text.parse().ok());
        let filtered = text("x-consul-results-filtered-by-acls") == Some("true");
        let leader = text("x-consul-knownleader") != Some("false");
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| Fault::Nonsense(error.to_string()))?;
        let body = body.to_bytes();
        self.keep(sender);
        if status == 200 {
            return Ok(Answer {
                index: index.unwrap_or_default(),
                filtered,
                leader,
                body,
            });
        }
        let words = String::from_utf8_lossy(&body);
        let words: String = words.trim().chars().take(WORDS).collect();
        Err(match status {
            401 | 403 => Fault::Denied(words),
            429 => Fault::TooOften(words),
            _ => Fault::Status { status, words },
        })
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().ok()?;
        loop {
            let sender = idle.pop()?;
            if !sender.is_closed() {
                return Some(sender);
            }
        }
    }

    fn keep(&self, sender: Sender) {
        if !sender.is_closed()
            && let Ok(mut idle) = self.idle.lock()
        {
            idle.push(sender);
        }
    }

    fn token_path(&self) -> String {
        let file = self.options.token_file.as_ref();
        file.map(|file| file.display().to_string())
            .unwrap_or_default()
    }

    async fn token(&self) -> Result<Option<String>, Fault> {
        let Some(file) = &self.options.token_file else {
            return Ok(None);
        };
        let read = tokio::fs::read_to_string(file).await;
        match read {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
            Err(error) => Err(Fault::Token {
                path: self.token_path(),
                reason: error.to_string(),
            }),
        }
    }

    async fn connect(&self) -> Result<Sender, Fault> {
        let Options { host, port, .. } = &self.options;
        let failed = |error: io::Error| Fault::Connect {
            host: self.options.authority(),
            reason: error.to_string(),
        };
        let found = tokio::net::lookup_host((host.as_str(), *port)).await;
        let addresses: Vec<_> = found.map_err(failed)?.collect();
        let options = ConnectOptions {
            timeout: CONNECT,
            ..ConnectOptions::default()
        };
        let tcp = connect_any(&addresses, options).await.map_err(failed)?;
        if !self.options.tls {
            return self.speak(tcp).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|_| Fault::Tls(format!("{host} is no name that a certificate could have")))?;
        let believes = Believes {
            anchors: self.anchors().await?,
            revoked: None,
            names: Named::Any(vec![NameMatch::Exact(host.clone())]),
        };
        let config = outside_config(Some(believes), None, &["http/1.1"])
            .map_err(|error| Fault::Tls(error.to_string()))?;
        let tls = TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.map_err(|error| Fault::Tls(explain_outside(&error)))?;
        self.speak(tls).await
    }

    async fn speak(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Sender, Fault> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        self.connections.spawn("consul", async move {
            // What goes wrong is told to the one who waits for the answer.
            let _ended = connection.await;
        });
        Ok(sender)
    }

    /// The roots of the file, or the machine's.
    async fn anchors(&self) -> Result<Anchors, Fault> {
        let file = self.options.ca_file.clone();
        let read = Tasks::blocking(move || match file {
            Some(file) => std::fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display())),
            None => SYSTEM_ROOTS
                .iter()
                .find_map(|path| std::fs::read_to_string(path).ok())
                .ok_or_else(|| "this machine has no roots".to_owned()),
        });
        let read = read
            .await
            .unwrap_or_else(|| Err("reading it failed".to_owned()));
        let text = read.map_err(Fault::Tls)?;
        Anchors::read_some(&text).map_err(|error| Fault::Tls(error.to_string()))
    }
}
