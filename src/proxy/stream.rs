//! A connection: bytes over TCP, or over TLS in either role, with what was read for detection
//! put in front again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use super::buffer::Buffer;
use crate::net::{self, Keepalive};

/// How a peer that will send no more is asked whether it is there. A system whose program has closed answers
/// for it for a minute (Linux: `tcp_fin_timeout`), and then says that it knows of no connection.
const STILL_THERE: Keepalive = Keepalive {
    probes: Some(3),
    time: Some(Duration::from_secs(10)),
    interval: Some(Duration::from_secs(10)),
};

/// TCP with bytes to be read first.
#[derive(Debug)]
pub(crate) struct Raw {
    tcp: TcpStream,
    first: Buffer,
    /// Under TLS, which asks for 4 KiB at a time: a record of 16 KiB would cost five system calls.
    ahead: bool,
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Any of the others, with bytes of it that were read already.
    Rewound(Box<(Self, Buffer)>),
    /// Plain.
    Plain(Raw),
    /// TLS that we terminate.
    Server(Box<server::TlsStream<Raw>>),
    /// TLS that we began.
    Client(Box<client::TlsStream<Raw>>),
}

impl Raw {
    /// What TLS is spoken over.
    pub(crate) fn new(tcp: TcpStream, first: Buffer) -> Self {
        Self {
            tcp,
            first,
            ahead: true,
        }
    }

    pub(crate) fn into_tcp(self) -> TcpStream {
        self.tcp
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(Raw {
            tcp,
            first: Buffer::default(),
            ahead: false,
        })
    }
}

impl Stream {
    fn raw(&self) -> &Raw {
        match self {
            Self::Plain(raw) => raw,
            Self::Server(tls) => tls.get_ref().0,
            Self::Client(tls) => tls.get_ref().0,
            Self::Rewound(inner) => inner.0.raw(),
        }
    }

    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.raw().tcp
    }

    /// Ready when a read may find something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let raw = self.raw();
        if !raw.first.is_empty() {
            return Poll::Ready(());
        }
        raw.tcp.poll_read_ready(cx).map(|_| ())
    }

    /// Ends when the connection of a peer that will send no more breaks. Who has closed looks like who still
    /// reads until it is asked, so the kernel asks.
    pub(crate) async fn broken(&self) {
        let tcp = self.tcp();
        // Where that cannot be had, only a reset is seen.
        let _asked = net::keep_alive(&tcp.into(), STILL_THERE).is_ok();
        // An error of the registration leaves nothing to wait for, and the caller has its answer to come.
        if tcp.ready(Interest::ERROR).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Puts bytes that were read back in front.
    pub(crate) fn with_first(self, first: Buffer) -> Self {
        if first.is_empty() {
            self
        } else {
            Self::Rewound(Box::new((self, first)))
        }
    }

    /// Whether nothing waits to be read. On an idle upstream connection that is the only healthy
    /// state: what waits there is its end, or an answer to nothing.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if self.poll_readable(&mut cx).is_pending() {
            return true;
        }
        if !self.raw().first.is_empty() {
            return false;
        }
        // After a read that filled its buffer it is not known whether more waits: look.
        let mut byte = [0];
        self.tcp()
            .poll_peek(&mut cx, &mut ReadBuf::new(&mut byte))
            .is_pending()
    }

    /// Reads into `buffer`; 0 is the end. A full buffer is an error.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Buffer,
    ) -> Poll<io::Result<usize>> {
        let room = buffer.room();
        if room.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
        }
        let read = match self {
            Self::Plain(raw) if raw.first.is_empty() && !raw.ahead => poll_recv(&raw.tcp, cx, room),
            _ => {
                let mut into = ReadBuf::new(room);
                let read = Pin::new(self).poll_read(cx, &mut into);
                read.map_ok(|()| into.filled().len())
            }
        };
        match read {
            Poll::Ready(Ok(count)) => buffer.filled(count),
            // Who waits keeps no memory, and the next to read has some that is still in the cache.
            Poll::Pending | Poll::Ready(Err(_)) => buffer.release(),
        }
        read
    }

    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Plain(raw) = self {
            // Mostly there is room, and nobody has to be told when there will be.
            if let Some(sent) = send(&raw.tcp, data) {
                return Poll::Ready(sent);
            }
        }
        Pin::new(self).poll_write(cx, data)
    }

    /// Sends what there is of two pieces in one go; how much of them together.
    pub(crate) fn poll_send_both(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        if first.is_empty() {
            return self.poll_send(cx, second);
        }
        let both = [io::IoSlice::new(first), io::IoSlice::new(second)];
        Pin::new(self).poll_write_vectored(cx, &both)
    }

    /// Says that this was all, where that is more than closing.
    pub(crate) fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Server(_) | Self::Client(_) | Self::Rewound(_) => {
                Pin::new(self).poll_shutdown(cx)
            }
        }
    }

    /// Makes the end that follows a reset. TLS tells a cut from an end by itself.
    pub(crate) fn reset(&self) {
        if matches!(self, Self::Plain(_) | Self::Rewound(_)) {
            // A socket that is dead already needs none.
            let _set = self.tcp().set_zero_linger().is_ok();
        }
    }

    /// TLS may hold a record back; TCP never does.
    pub(crate) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Server(_) | Self::Client(_) | Self::Rewound(_) => Pin::new(self).poll_flush(cx),
        }
    }
}

/// Reads what there is. As [`send`], by a system call of our own: the C library's are points at which threads may
/// be cancelled, which takes two locked instructions a call.
fn poll_recv(tcp: &TcpStream, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_read_ready(cx))?;
        let mut short = None;
        let read = tcp.try_io(Interest::READABLE, || {
            let (count, _) = rustix::net::recv(tcp, &mut *room, RecvFlags::empty())?;
            if count == 0 || count == room.len() {
                return Ok(count);
            }
            // Nothing is left: as if it had been asked again.
            short = Some(count);
            Err(io::ErrorKind::WouldBlock.into())
        });
        match (short, read) {
            (Some(count), _) => return Poll::Ready(Ok(count)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (None, read) => return Poll::Ready(read),
        }
    }
}

/// Sends what there is room for; `None` when there is none.
fn send(tcp: &TcpStream, data: &[u8]) -> Option<io::Result<usize>> {
    let sent = tcp.try_io(Interest::WRITABLE, || {
        Ok(rustix::net::send(tcp, data, SendFlags::NOSIGNAL)?)
    });
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        sent => Some(sent),
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, first, ahead } = &mut *self;
        if first.is_empty() {
            if !*ahead {
                return Pin::new(tcp).poll_read(cx, into);
            }
            match poll_recv(tcp, cx, first.room()) {
                Poll::Ready(Ok(count)) if count > 0 => first.filled(count),
                // The end, an error, or nothing yet: no memory meanwhile.
                read => {
                    first.release();
                    return read.map_ok(|_| ());
                }
            }
        }
        let count = first.data().len().min(into.remaining());
        into.put_slice(first.data().get(..count).unwrap_or_default());
        first.consume(count);
        first.release();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match send(&self.tcp, data) {
            Some(sent) => Poll::Ready(sent),
            None => Pin::new(&mut self.tcp).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A record is one piece, mostly.
        if let [one] = parts {
            return self.poll_write(cx, one);
        }
        Pin::new(&mut self.tcp).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($io) => $call,
            Self::Server($io) => $call,
            Self::Client($io) => $call,
            Self::Rewound(inner) => {
                let $io = &mut inner.0;
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Self::Rewound(inner) = this
            && !inner.1.is_empty()
        {
            let count = inner.1.data().len().min(into.remaining());
            into.put_slice(inner.1.data().get(..count).unwrap_or_default());
            inner.1.consume(count);
            return Poll::Ready(Ok(()));
        }
        let this = Pin::new(this);
        each!(this, io => Pin::new(io).poll_read(cx, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn pair() -> (TcpStream, Stream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let [near, far] = [near, far].map(|stream| {
            stream.set_nonblocking(true).unwrap();
            TcpStream::from_std(stream).unwrap()
        });
        (near, far.into())
    }

    #[tokio::test]
    async fn who_waits_holds_no_memory_and_misses_nothing() {
        let (mut near, mut far) = pair();
        let mut buffer = Buffer::default();
        for word in [&b"one"[..], b"two", b"three"] {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(far.poll_fill(&mut cx, &mut buffer).is_pending());
            assert!(buffer.is_released());
            let (written, read) = tokio::join!(
                near.write_all(word),
                poll_fn(|cx| far.poll_fill(cx, &mut buffer))
            );
            written.unwrap();
            assert_eq!(read.unwrap(), word.len());
            assert_eq!(buffer.data(), word);
            buffer.consume(word.len());
        }
        // What is held stays where it is while more is waited for.
        near.write_all(b"half a he").await.unwrap();
        poll_fn(|cx| far.poll_fill(cx, &mut buffer)).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(far.poll_fill(&mut cx, &mut buffer).is_pending());
        assert_eq!(buffer.data(), b"half a he");
        drop(near);
        let end = poll_fn(|cx| far.poll_fill(cx, &mut buffer)).await;
        assert_eq!((end.unwrap(), buffer.data()), (0, &b"half a he"[..]));
    }

    #[tokio::test]
    async fn a_read_that_fills_its_room_is_followed_by_the_rest() {
        let (mut near, mut far) = pair();
        let sent: Vec<u8> = (0..100_000_u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let (mut buffer, mut got) = (Buffer::default(), Vec::new());
        let writing = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let reading = async {
            loop {
                let count = poll_fn(|cx| far.poll_fill(cx, &mut buffer)).await.unwrap();
                if count == 0 {
                    break;
                }
                got.extend_from_slice(buffer.data());
                buffer.consume(count);
            }
        };
        tokio::join!(writing, reading);
        assert!(got == sent);
    }
}
