//! Proxies that only keep the books: delta ADS over gRPC, one connection each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Div, Sub};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use meshctl::rt::now;
use meshctl::xds::{Kind, node_to_proto};
use prost::Message as _;
use prost::bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;

use super::mesh;

/// A response; what is in resources is not read.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(message, repeated, tag = "2")]
    resources: Vec<Resource>,
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
    #[prost(string, repeated, tag = "6")]
    removed: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(string, tag = "1")]
    version: String,
    /// An `Any`, as bytes.
    #[prost(bytes = "bytes", tag = "2")]
    any: Bytes,
    #[prost(string, tag = "3")]
    name: String,
}

/// What kind it is, and the resource itself.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// What went over the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    /// Bytes of responses.
    pub(crate) sent: u64,
    /// Resources in them, and names of removed ones.
    pub(crate) resources: u64,
    /// Bytes of requests.
    pub(crate) received: u64,
}

impl Sub for Counted {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            sent: self.sent - before.sent,
            resources: self.resources - before.resources,
            received: self.received - before.received,
        }
    }
}

impl Div<u64> for Counted {
    type Output = Self;

    fn div(self, parts: u64) -> Self {
        Self {
            sent: self.sent / parts,
            resources: self.resources / parts,
            received: self.received / parts,
        }
    }
}

/// What all of them did.
#[derive(Default)]
struct Books {
    texts: Mutex<BTreeMap<String, u32>>,
    by_number: Mutex<Vec<String>>,
    sent: AtomicU64,
    resources: AtomicU64,
    received: AtomicU64,
    /// The resource that is looked at.
    watched: Mutex<Option<(Kind, String)>>,
    /// What each was told of it, and has acknowledged.
    told: Vec<Mutex<Option<Bytes>>>,
    last: Mutex<Option<Instant>>,
    ending: AtomicBool,
    /// How many streams ended that should not have.
    lost: AtomicU64,
}

impl Books {
    /// A text is in memory once.
    fn number(&self, text: &str) -> u32 {
        let mut texts = self.texts.lock().unwrap();
        if let Some(known) = texts.get(text) {
            return *known;
        }
        let mut all = self.by_number.lock().unwrap();
        let number = u32::try_from(all.len()).unwrap();
        all.push(text.to_owned());
        texts.insert(text.to_owned(), number);
        number
    }

    /// What is looked at, if it is one of `resources`.
    fn watched(&self, kind: Kind, resources: &[Resource]) -> Option<Bytes> {
        let watched = self.watched.lock().unwrap();
        let (of, name) = watched.as_ref()?;
        let found = resources
            .iter()
            .find(|own| *of == kind && own.name == *name)?;
        let any = Any::decode(found.any.clone()).unwrap();
        Some(any.value)
    }
}

pub(crate) struct Fleet {
    books: Arc<Books>,
    runtime: tokio::runtime::Runtime,
    to: SocketAddr,
    services: usize,
}

impl Fleet {
    pub(crate) fn new(to: SocketAddr, proxies: usize, services: usize) -> Self {
        Self {
            books: Arc::new(Books {
                told: (0..proxies).map(|_| Mutex::new(None)).collect(),
                ..Books::default()
            }),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            to,
            services,
        }
    }

    /// Connects all, and again whenever that ends.
    pub(crate) fn connect(&self) {
        for which in 0..self.books.told.len() {
            let (books, to, services) = (Arc::clone(&self.books), self.to, self.services);
            self.runtime.spawn(async move {
                let mut held = BTreeMap::new();
                loop {
                    let ended = stream(&books, (which, services), to, &mut held).await;
                    let expected = books.ending.load(Ordering::Relaxed);
                    if !expected {
                        // On a machine that has no time for it a ping may be answered too late.
                        books.lost.fetch_add(1, Ordering::Relaxed);
                        eprintln!("a stream ended: {ended:?}");
                    }
                    // Not all in one moment, as ours do not.
                    let wait = u64::try_from(which % 50).unwrap() * 5 + 50;
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
            });
        }
    }

    /// From now on a stream may end.
    pub(crate) fn expect_end(&self) {
        self.books.ending.store(true, Ordering::Relaxed);
    }

    /// How many streams ended that should not have, and were opened again.
    pub(crate) fn lost(&self) -> u64 {
        self.books.lost.load(Ordering::Relaxed)
    }

    /// What went over the wire so far.
    pub(crate) fn counted(&self) -> Counted {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            sent: load(&self.books.sent),
            resources: load(&self.books.resources),
            received: load(&self.books.received),
        }
    }

    /// Looks at this resource from now on.
    pub(crate) fn watch(&self, resource: (Kind, String)) {
        *self.books.watched.lock().unwrap() = Some(resource);
        for told in &self.books.told {
            told.lock().unwrap().take();
        }
    }

    /// Waits until all that are `concerned` were told of what is looked at.
    pub(crate) fn wait_told(&self, concerned: &dyn Fn(usize) -> bool) {
        let told = self.books.told.iter().enumerate();
        for (_, told) in told.filter(|(which, _)| concerned(*which)) {
            while told.lock().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// What was told of it, and to whom.
    pub(crate) fn told(&self) -> BTreeMap<Bytes, Vec<usize>> {
        let mut all: BTreeMap<Bytes, Vec<usize>> = BTreeMap::new();
        for (which, told) in self.books.told.iter().enumerate() {
            if let Some(bytes) = told.lock().unwrap().take() {
                all.entry(bytes).or_default().push(which);
            }
        }
        all
    }

    /// When the last response was acknowledged.
    pub(crate) fn last(&self) -> Instant {
        self.books.last.lock().unwrap().unwrap()
    }

    pub(crate) fn wait_quiet(&self, quiet: Duration) {
        while self.last().elapsed() < quiet {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a proxy has: names to versions, by number.
type Held = BTreeMap<Kind, BTreeMap<u32, u32>>;

async fn stream(
    books: &Books,
    (which, services): (usize, usize),
    to: SocketAddr,
    held: &mut Held,
) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))
        .map_err(|error| Status::internal(error.to_string()))?
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let send = async |request: DeltaDiscoveryRequest, up: &mpsc::Sender<_>| {
        let length = u64::try_from(request.encoded_len()).unwrap();
        books.received.fetch_add(length, Ordering::Relaxed);
        up.send(request).await.map_err(|_| closed())
    };
    let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    let (up, requests) = mpsc::channel(64);
    for request in introduction(books, (which, services), held) {
        send(request, &up).await?;
    }
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let requests = tonic::Request::new(ReceiverStream::new(requests));
    let mut responses = client
        .streaming(requests, path.parse().unwrap(), Light)
        .await?
        .into_inner();
    while let Some((length, response)) = responses.message().await? {
        let Some(kind) = Kind::of(&response.type_url) else {
            continue;
        };
        let resources = u64::try_from(response.resources.len() + response.removed.len()).unwrap();
        books.sent.fetch_add(length, Ordering::Relaxed);
        books.resources.fetch_add(resources, Ordering::Relaxed);
        let told = books.watched(kind, &response.resources);
        let mut fresh = Vec::new();
        {
            let held = held.entry(kind).or_default();
            for resource in response.resources {
                let name = books.number(&resource.name);
                let new = held.insert(name, books.number(&resource.version)).is_none();
                if new && kind == Kind::Cluster && resource.name.starts_with("outbound|") {
                    fresh.push(resource.name);
                }
            }
            for name in response.removed {
                held.remove(&books.number(&name));
            }
        }
        if !fresh.is_empty() {
            let request = DeltaDiscoveryRequest {
                type_url: Kind::Endpoint.type_url().to_owned(),
                resource_names_subscribe: fresh,
                ..Default::default()
            };
            send(request, &up).await?;
        }
        let acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        send(acknowledgement, &up).await?;
        *books.last.lock().unwrap() = Some(now());
        if let Some(told) = told {
            *books.told[which].lock().unwrap() = Some(told);
        }
    }
    Ok(())
}

fn closed() -> Status {
    Status::unavailable("closed")
}

/// The first requests of a stream, with what is there already.
fn introduction(
    books: &Books,
    (which, services): (usize, usize),
    held: &Held,
) -> Vec<DeltaDiscoveryRequest> {
    let texts = books.by_number.lock().unwrap();
    let text = |number: &u32| texts[usize::try_from(*number).unwrap()].clone();
    let node = mesh::node(which, services);
    let kinds = [Kind::Cluster, Kind::Endpoint, Kind::Listener, Kind::Route];
    let requests = kinds.into_iter().filter_map(|kind| {
        let has = held.get(&kind);
        let names = match kind {
            Kind::Endpoint => has
                .into_iter()
                .flatten()
                .map(|(name, _)| text(name))
                .collect(),
            Kind::Route => mesh::PORTS.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        if names.is_empty() && !kind.wildcard() {
            return None;
        }
        let versions = has.into_iter().flatten();
        Some(DeltaDiscoveryRequest {
            node: (kind == Kind::Cluster).then(|| node_to_proto(&node)),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: versions.map(|(n, v)| (text(n), text(v))).collect(),
            ..Default::default()
        })
    });
    requests.collect()
}

/// Reads of responses what has to be known, and how long they were.
#[derive(Debug, Clone, Copy, Default)]
struct Light;

impl Codec for Light {
    type Encode = DeltaDiscoveryRequest;
    type Decode = (u64, Response);
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Light {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, item: Self::Item, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(to)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Light {
    type Item = (u64, Response);
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let length = u64::try_from(from.remaining()).unwrap();
        let response =
            Response::decode(from).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some((length, response)))
    }
}
