//! Backends that do what a script says, byte by byte, over HTTP/1 and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::super::support::listen;

/// One thing that a backend does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Reads a request's head; the delivery is counted.
    Read,
    /// Reads some of a request, not to its end; the delivery is counted.
    ReadSome,
    /// Sends.
    Send(&'static [u8]),
    /// Sends a byte now and then, for ever.
    Trickle(&'static [u8]),
    /// Lets what was sent arrive by itself.
    Pause,
    /// Does nothing more.
    Hang,
    /// Ends the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// What is spoken; decides what a head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// A running backend.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    deliveries: Arc<AtomicUsize>,
}

impl Backend {
    /// Every connection gets the whole script.
    pub(super) fn start(tasks: &Tasks, speaks: Speaks, script: &'static [Step]) -> Self {
        let (socket, address) = listen();
        let deliveries = Arc::new(AtomicUsize::new(0));
        let (counted, group) = (Arc::clone(&deliveries), tasks.clone());
        tasks.spawn("backend", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                let counted = Arc::clone(&counted);
                group.spawn("backend connection", async move {
                    play(tcp, speaks, script, &counted).await;
                });
            }
        });
        Self {
            address,
            deliveries,
        }
    }

    /// How often a request has come.
    pub(super) fn deliveries(&self) -> usize {
        self.deliveries.load(Ordering::Relaxed)
    }
}

/// A port that is taken and where nobody listens.
pub(in crate::proxy) struct Deaf(socket2::Socket);

impl Deaf {
    pub(in crate::proxy) fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        Self(socket)
    }

    pub(in crate::proxy) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// Whoever calls may leave whenever they like, which ends the script.
async fn play(
    mut tcp: TcpStream,
    speaks: Speaks,
    script: &'static [Step],
    deliveries: &AtomicUsize,
) {
    let mut input = Input::default();
    for step in script {
        match step {
            Step::Read => {
                let read = match speaks {
                    Speaks::Http1 => input.head(&mut tcp).await,
                    Speaks::Http2 => input.headers(&mut tcp).await,
                };
                if read.is_none() {
                    return;
                }
                deliveries.fetch_add(1, Ordering::Relaxed);
            }
            Step::ReadSome => {
                if tcp.read(&mut [0; 64]).await.is_err() {
                    return;
                }
                deliveries.fetch_add(1, Ordering::Relaxed);
            }
            Step::Send(bytes) => {
                if tcp.write_all(bytes).await.is_err() {
                    return;
                }
            }
            Step::Trickle(bytes) => {
                for byte in bytes.iter().cycle() {
                    if tcp.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Step::Pause => tokio::time::sleep(Duration::from_millis(30)).await,
            Step::Hang => std::future::pending().await,
            Step::Close => return,
            Step::Reset => {
                reset(&tcp);
                return;
            }
        }
    }
    // What was not read must not turn the end into a reset.
    let mut rest = [0; 4096];
    while let Ok(1..) = tcp.read(&mut rest).await {}
}

fn reset(tcp: &TcpStream) {
    // Zero seconds of patience with what is unsent is a reset.
    socket2::SockRef::from(tcp)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

#[derive(Default)]
struct Input(Vec<u8>);

impl Input {
    async fn more(&mut self, tcp: &mut TcpStream) -> Option<()> {
        let mut buffer = [0; 4096];
        let count = tcp
            .read(&mut buffer)
            .await
            .ok()
            .filter(|count| *count > 0)?;
        self.0.extend_from_slice(&buffer[..count]);
        Some(())
    }

    /// Up to the empty line.
    async fn head(&mut self, tcp: &mut TcpStream) -> Option<()> {
        loop {
            if let Some(at) = self.0.windows(4).position(|window| window == b"\r\n\r\n") {
                self.0.drain(..at + 4);
                return Some(());
            }
            self.more(tcp).await?;
        }
    }

    /// The preface and frames up to HEADERS; settings are acknowledged.
    async fn headers(&mut self, tcp: &mut TcpStream) -> Option<()> {
        const PREFACE: usize = 24;
        while self.0.len() < PREFACE {
            self.more(tcp).await?;
        }
        self.0.drain(..PREFACE);
        loop {
            while self.0.len() < 9 {
                self.more(tcp).await?;
            }
            let length =
                usize::from(self.0[0]) << 16 | usize::from(self.0[1]) << 8 | usize::from(self.0[2]);
            let (kind, flags) = (self.0[3], self.0[4]);
            while self.0.len() < 9 + length {
                self.more(tcp).await?;
            }
            self.0.drain(..9 + length);
            if kind == 4 && flags & 1 == 0 {
                tcp.write_all(&[0, 0, 0, 4, 1, 0, 0, 0, 0]).await.ok()?;
            }
            if kind == 1 {
                return Some(());
            }
        }
    }
}
