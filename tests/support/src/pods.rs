//! What the API server passes on to the kubelet: logs of pods, and connections into them.
//!
//! Nothing runs here, so a test says where a pod's port really is ([`Cluster::forward`]) and what its log says
//! ([`Cluster::log`]). Connections are WebSockets with Kubernetes' channels (`v4.channel.k8s.io`): two for each
//! port, of which the second is for errors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::Cluster;
use crate::auth::User;
use crate::path::Ask;
use crate::rbac;
use crate::serve::Out;
use crate::server::Server;
use crate::status::{Answer, Refusal};

/// The only way of framing that the API server knows for ports.
const CHANNELS: &str = "v4.channel.k8s.io";

/// Namespace and name of a pod.
type Pod = (String, String);

/// What is known of pods beside their objects.
#[derive(Debug, Default)]
pub struct Pods {
    ports: Mutex<BTreeMap<(Pod, u16), SocketAddr>>,
    logs: Mutex<BTreeMap<Pod, String>>,
}

fn held<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Where connections to a port of a pod are to go.
    pub fn forward(&self, namespace: &str, pod: &str, port: u16, to: SocketAddr) {
        let pod = (namespace.to_owned(), pod.to_owned());
        held(&self.server.pods.ports).insert((pod, port), to);
    }

    /// What the log of a pod says.
    pub fn log(&self, namespace: &str, pod: &str, text: &str) {
        let pod = (namespace.to_owned(), pod.to_owned());
        held(&self.server.pods.logs).insert(pod, text.to_owned());
    }
}

/// Whether `ask` is one for the kubelet.
pub fn is_meant(ask: &Ask) -> bool {
    ask.group.is_empty()
        && ask.resource == "pods"
        && matches!(ask.subresource.as_str(), "portforward" | "log")
}

/// Answers what [`is_meant`].
pub fn answer(
    server: &Arc<Server>,
    ask: &Ask,
    user: &User,
    parts: http::request::Parts,
) -> Answer<Response<Out>> {
    let kind = server.state().find("", "v1", "pods");
    let kind = kind.ok_or_else(Refusal::no_path)?;
    server.get(&kind, ask)?;
    if ask.subresource == "log" {
        return log(server, ask, &parts.method);
    }
    // Since 1.35 a WebSocket is judged as `create`, too, as the request of old was.
    let as_create = Ask {
        verb: "create".to_owned(),
        ..ask.clone()
    };
    if !rbac::allows(&server.state().store, user, &as_create) {
        return Err(rbac::refusal(user, &as_create));
    }
    upgrade(server, ask, parts)
}

fn log(server: &Server, ask: &Ask, method: &Method) -> Answer<Response<Out>> {
    if *method != Method::GET {
        return Err(Refusal::no_path());
    }
    let pod = (ask.namespace.clone(), ask.name.clone());
    let text = held(&server.pods.logs)
        .get(&pod)
        .cloned()
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = ask.query("tailLines").and_then(|text| text.parse().ok());
    let skipped = tail.map_or(0, |tail: usize| lines.len().saturating_sub(tail));
    let mut shown = lines
        .into_iter()
        .skip(skipped)
        .collect::<Vec<_>>()
        .join("\n");
    if !shown.is_empty() {
        shown.push('\n');
    }
    let mut response = Response::new(Full::new(Bytes::from(shown)).boxed_unsync());
    let plain = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    Ok(response)
}

fn offers_channels(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered.iter().filter_map(|value| value.to_str().ok());
    offered.any(|list| list.split(',').any(|one| one.trim() == CHANNELS))
}

fn upgrade(server: &Arc<Server>, ask: &Ask, parts: http::request::Parts) -> Answer<Response<Out>> {
    let asked = |name: header::HeaderName, wanted: &str| {
        let value = parts.headers.get(name).and_then(|v| v.to_str().ok());
        value.is_some_and(|value| value.to_ascii_lowercase().contains(wanted))
    };
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    let (true, true, Some(key)) = (
        asked(header::CONNECTION, "upgrade"),
        asked(header::UPGRADE, "websocket"),
        key,
    ) else {
        return Err(Refusal::bad(
            "you must specify at least 1 port, and upgrade the connection".to_owned(),
        ));
    };
    if !offers_channels(&parts.headers) {
        return Err(Refusal::bad(format!("unable to upgrade: only {CHANNELS}")));
    }
    let mut ports = Vec::new();
    let pod = (ask.namespace.clone(), ask.name.clone());
    for text in ask.query("ports").unwrap_or_default().split(',') {
        let port: u16 = text
            .parse()
            .map_err(|_| Refusal::bad(format!("{text:?} is no port")))?;
        let to = held(&server.pods.ports).get(&(pod.clone(), port)).copied();
        ports.push((port, to));
    }
    let upgrading = hyper::upgrade::on(Request::from_parts(parts, ()));
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrading.await {
            carry(TokioIo::new(upgraded), ports).await;
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    let accept = derive_accept_key(key.as_bytes());
    for (name, value) in [
        (header::CONNECTION, "Upgrade"),
        (header::UPGRADE, "websocket"),
        (header::SEC_WEBSOCKET_PROTOCOL, CHANNELS),
        (header::SEC_WEBSOCKET_ACCEPT, accept.as_str()),
    ] {
        let value = HeaderValue::from_str(value).map_err(|e| Refusal::bad(e.to_string()))?;
        headers.insert(name, value);
    }
    Ok(response)
}

/// A frame of a channel.
fn frame(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

/// Carries bytes both ways until either side ends.
async fn carry(socket: TokioIo<Upgraded>, ports: Vec<(u16, Option<SocketAddr>)>) {
    let socket = WebSocketStream::from_raw_socket(socket, Role::Server, None).await;
    let (mut sink, mut stream) = socket.split();
    let (say, mut said) = mpsc::channel::<Message>(16);
    let mut writers = Vec::new();
    let mut pumps = JoinSet::new();
    for (index, (port, to)) in ports.into_iter().enumerate() {
        let Ok(channel) = u8::try_from(2 * index) else {
            return;
        };
        for channel in [channel, channel + 1] {
            if sink
                .send(frame(channel, &port.to_le_bytes()))
                .await
                .is_err()
            {
                return;
            }
        }
        let connected = match to {
            Some(to) => TcpStream::connect(to).await.map_err(|e| e.to_string()),
            None => Err("connection refused".to_owned()),
        };
        match connected {
            Ok(tcp) => {
                let (from, into) = tcp.into_split();
                pumps.spawn(pump(channel, from, say.clone()));
                writers.push(Some(into));
            }
            Err(error) => {
                let words = format!("error forwarding port {port} to pod: {error}");
                if sink
                    .send(frame(channel + 1, words.as_bytes()))
                    .await
                    .is_err()
                {
                    return;
                }
                writers.push(None);
            }
        }
    }
    drop(say);
    loop {
        tokio::select! {
            message = said.recv() => {
                // Without one every port has ended.
                let ended = message.is_none();
                let message = message.unwrap_or(Message::Close(None));
                if sink.send(message).await.is_err() || ended {
                    return;
                }
            }
            message = stream.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some((channel, rest)) = bytes.split_first() else { continue };
                    let writer = writers.get_mut(usize::from(*channel / 2)).and_then(Option::as_mut);
                    if let (Some(writer), 0) = (writer, channel % 2) && writer.write_all(rest).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

async fn pump(channel: u8, mut from: OwnedReadHalf, say: mpsc::Sender<Message>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        let bytes = buffer.get(..count).unwrap_or_default();
        if count == 0 || say.send(frame(channel, bytes)).await.is_err() {
            return;
        }
    }
}
