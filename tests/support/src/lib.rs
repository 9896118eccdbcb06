//! A Kubernetes API server in memory, for tests: it answers as kube-apiserver does as far as `kubectl`, the kube
//! crate and a control plane can tell. Not a cluster: nothing runs, though controllers may say that it does.
//!
//! | file | owns |
//! |---|---|
//! | [`serve`] | a request from authentication to answer |
//! | [`auth`], [`rbac`] | who asks, and what they may |
//! | [`kinds`], [`discovery`], [`openapi`], [`table`] | what is served and how it is shown |
//! | [`store`], [`read`], [`write`], [`delete`] | objects and their history |
//! | [`ports`] | ports for what tests start |
//! | [`pods`] | logs and ports of pods, where a test says what they are |
//! | [`prepare`], [`defaults`], [`patch`], [`select`] | what a write makes of an object, and which are meant |
//! | [`shapes`], [`schema`], [`validation`], [`check`] | what fields there are, and what is refused |
//! | [`protobuf`] | bodies that typed clients send |
//! | [`admission`] | plugins and webhooks |
//! | [`controllers`] | what a cluster does of its own accord |
//! | [`faults`] | what goes wrong for as long as a test says so |

pub mod admission;
pub mod auth;
pub mod check;
pub mod controllers;
pub mod defaults;
pub mod delete;
pub mod discovery;
pub mod faults;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod path;
pub mod pods;
pub mod ports;
pub mod prepare;
pub mod protobuf;
pub mod rbac;
pub mod read;
pub mod schema;
pub mod select;
pub mod serve;
pub mod server;
pub mod shapes;
pub mod status;
pub mod store;
pub mod table;
pub mod validation;
pub mod write;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth::{Keys, User};
use crate::server::Server;

/// What went wrong when a cluster could not be started.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A running API server; it ends when dropped.
#[derive(Debug)]
pub struct Cluster {
    server: Arc<Server>,
    address: SocketAddr,
    up: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// Starts on a free loopback port.
    pub async fn start() -> Result<Self, Failed> {
        Self::start_at("127.0.0.1:0".parse()?, "v1.36.0").await
    }

    /// Starts on an address, as a version of Kubernetes.
    pub async fn start_at(address: SocketAddr, version: &str) -> Result<Self, Failed> {
        let keys = Keys::new()?;
        let tls = TlsAcceptor::from(keys.server()?);
        let server = Server::new(keys, version);
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        let (up, runs) = watch::channel(true);
        tasks.spawn(accept(listener, tls, server.clone(), runs));
        Ok(Self {
            server,
            address,
            up,
            tasks,
        })
    }

    /// Starts on a free loopback port, with the controllers of a cluster.
    pub async fn start_with(settings: controllers::Settings) -> Result<Self, Failed> {
        let mut cluster = Self::start().await?;
        cluster.control(settings);
        Ok(cluster)
    }

    /// Lets controllers work from now on.
    pub fn control(&mut self, settings: controllers::Settings) {
        let server = self.server.clone();
        self.tasks.spawn(controllers::run(server, settings));
    }

    /// Says where a Service is reached, as no pod runs here: webhooks are called there.
    pub fn route(&self, namespace: &str, service: &str, port: u64, address: SocketAddr) {
        self.server.route(namespace, service, port, address);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The state and its keys.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// A kubeconfig for a user by certificate; groups as in the certificate's O.
    pub fn kubeconfig(&self, user: &str, groups: &[&str]) -> Result<String, Failed> {
        let pair = self.server.keys.client(user, groups)?;
        Ok(self.config_with(&format!(
            "client-certificate-data: {}\n    client-key-data: {}",
            STANDARD.encode(pair.cert),
            STANDARD.encode(pair.key)
        )))
    }

    /// A kubeconfig of `system:masters`.
    pub fn admin(&self) -> Result<String, Failed> {
        self.kubeconfig("kubernetes-admin", &["system:masters"])
    }

    /// A kubeconfig for a bearer token.
    pub fn kubeconfig_of_token(&self, token: &str) -> String {
        self.config_with(&format!("token: {token}"))
    }

    fn config_with(&self, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: https://{}\n    certificate-authority-data: {}\ncontexts:\n- name: test\n  context: {{cluster: test, user: test, namespace: default}}\nusers:\n- name: test\n  user:\n    {user}\n",
            self.address,
            STANDARD.encode(self.server.keys.root())
        )
    }

    /// A token for a service account, as TokenRequest mints it. The account must exist.
    pub fn token(
        &self,
        namespace: &str,
        account: &str,
        audiences: &[&str],
        seconds: i64,
    ) -> Result<String, Failed> {
        let audiences: Vec<String> = audiences.iter().map(|a| (*a).to_owned()).collect();
        let found = self
            .get("serviceaccounts", namespace, account)
            .ok_or("no such account")?;
        let claims = auth::claims(&found, &audiences, self.server.now(), seconds, None);
        self.server.keys.token(&claims)
    }

    /// An object by its kind's key (`deployments.apps`), namespace and name.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.server.state().store.get(&store::Key {
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Forgets the history of changes: older watches and lists get 410.
    pub fn compact(&self) {
        self.server.state().store.compact();
    }

    /// Cuts all connections, and refuses new ones; what is stored stays.
    pub fn kill(&self) {
        self.up.send_replace(false);
    }

    /// Listens again, at the same address.
    pub fn revive(&self) {
        self.up.send_replace(true);
    }

    /// Moves the cluster's clock, so that tokens expire.
    pub fn advance(&self, seconds: i64) {
        self.server.advance(seconds);
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    server: Arc<Server>,
    mut up: watch::Receiver<bool>,
) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut open = Some(listener);
    while up.wait_for(|up| *up).await.is_ok() {
        let listener = if let Some(listener) = open.take() {
            listener
        } else {
            let Ok(listener) = TcpListener::bind(address).await else {
                // The port is still being let go.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            listener
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(connection(stream, tls.clone(), server.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
                () = down(&mut up) => break,
            }
        }
    }
}

async fn down(up: &mut watch::Receiver<bool>) {
    let _gone = up.wait_for(|up| !*up).await.is_err();
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, server: Arc<Server>) {
    // A client that leaves in the middle is its own affair; small answers must not wait for more.
    let _unset = stream.set_nodelay(true).is_err();
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first().cloned());
    let peer: Option<User> = certificate.and_then(|c| auth::of_certificate(&c));
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(serve::answer(server, peer, request).await) }
    });
    let served = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    drop(served);
}
