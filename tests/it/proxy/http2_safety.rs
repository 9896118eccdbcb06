//! Bytes of HTTP/2 that nobody should send, to a real listener: what is answered, that memory stays
//! bounded, that it is counted, and that others are served meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use meshctl::mesh::View;
use meshctl::mesh::cluster::UpstreamProtocol;
use meshctl::mesh::route::Action;
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::*;

const CALM: u32 = 11;

type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET /` (or POST) of `app`.
fn head(method: u8) -> Vec<u8> {
    [&[method, 0x86, 0x84, 0x41, 3], &b"app"[..]].concat()
}

fn get_frame(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, &head(0x82))
}

fn post_frame(stream: u32) -> Vec<u8> {
    frame(1, 4, stream, &head(0x83))
}

fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// A connection that has said hello.
async fn greeted(to: SocketAddr) -> TcpStream {
    let mut stream = connect(to).await;
    let hello = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(4, 0, 0, &[]),
    ]
    .concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn read_frame(stream: &mut TcpStream) -> Option<Frame> {
    let mut head = [0; 9];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut head)).await;
    read.expect("nothing came").ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Frame {
        kind: head[3],
        flags: head[4],
        stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
        payload,
    })
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// Reads until the other side ends; the code and text of its last GOAWAY.
async fn goodbye(stream: &mut TcpStream) -> Option<(u32, String)> {
    let mut last = None;
    while let Some(frame) = read_frame(stream).await {
        if frame.kind == 7 {
            let text = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
            last = Some((code(&frame.payload[4..]), text));
        }
    }
    last
}

/// Reads until stream `id` is answered by HEADERS or ended by RST_STREAM: kind and code.
async fn answer(stream: &mut TcpStream, id: u32) -> (u8, u32) {
    loop {
        let frame = read_frame(stream).await.expect("the connection ended");
        match frame.kind {
            1 if frame.stream == id => return (1, 0),
            3 if frame.stream == id => return (3, code(&frame.payload)),
            7 => panic!(
                "goodbye: {:?}",
                String::from_utf8_lossy(&frame.payload[8..])
            ),
            _ => {}
        }
    }
}

fn view(bind: SocketAddr, app: SocketAddr) -> View {
    let mut cluster = cluster("app");
    cluster.protocol = UpstreamProtocol::Http1;
    Views::default()
        .http("t", bind)
        .routes("t", vec![route(Action::Forward(forward(&[("app", 1)])))])
        .cluster(cluster, vec![endpoint(app)])
        .0
}

struct Setup {
    bind: SocketAddr,
    admin: SocketAddr,
    app: App,
    proxy: Proxy,
}

async fn setup() -> Setup {
    let app = App::start("a");
    let (bind, admin) = (free(), free());
    let options = Options {
        workers: 1,
        admin: Some(admin),
        ..Options::default()
    };
    let proxy = Proxy::with(options, view(bind, app.address), None).await;
    Setup {
        bind,
        admin,
        app,
        proxy,
    }
}

impl Setup {
    /// How often the counter of `fault` says that it happened.
    async fn counted(&self, fault: &str) -> u64 {
        let metrics = own_page(self.admin, "/stats/prometheus").await;
        let wanted = format!("fault=\"{fault}\"");
        metrics
            .lines()
            .filter(|line| line.starts_with("meshctl_http2_connections_ended_total{"))
            .filter(|line| line.contains("side=\"downstream\"") && line.contains(&wanted))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

/// Sends `frames` until the proxy ends the connection.
async fn flood(
    to: SocketAddr,
    frames: impl Iterator<Item = Vec<u8>> + Send + 'static,
) -> Option<(u32, String)> {
    let (mut read, mut write) = greeted(to).await.into_split();
    let tasks = Tasks::new();
    tasks.spawn("flood", async move {
        let mut batch = Vec::new();
        for frame in frames {
            batch.extend_from_slice(&frame);
            if batch.len() > 16 * 1024 {
                // It may have had enough.
                if write.write_all(&batch).await.is_err() {
                    return;
                }
                batch.clear();
            }
        }
        let _sent = write.write_all(&batch).await;
        std::future::pending::<()>().await;
    });
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, read.read_to_end(&mut bytes)).await;
    // A reset after the last words is an end too.
    let _ended = ended.expect("the flood goes on");
    let mut rest = &bytes[..];
    let mut last = None;
    while rest.len() >= 9 {
        let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
        let Some(payload) = rest.get(9..9 + length) else {
            break;
        };
        if rest[3] == 7 {
            last = Some((
                code(&payload[4..]),
                String::from_utf8_lossy(&payload[8..]).into_owned(),
            ));
        }
        rest = &rest[9 + length..];
    }
    last
}

#[tokio::test]
async fn floods_end_their_connection_and_nothing_else() {
    let setup = setup().await;
    let ids = || (1_u32..400_000).step_by(2);
    let many = |bytes: Vec<u8>| (0..200_000).map(move |_| bytes.clone());
    let floods: Vec<(&str, Frames)> = vec![
        (
            "http2.too_many_premature_resets",
            Box::new(ids().flat_map(|id| [get_frame(id), frame(3, 0, id, &[0, 0, 0, 8])])),
        ),
        (
            // Resets that the proxy is made to send (CVE-2025-8671).
            "http2.too_many_premature_resets",
            Box::new(ids().flat_map(|id| [get_frame(id), frame(8, 0, id, &[0; 4])])),
        ),
        (
            "http2.too_many_premature_resets",
            Box::new(ids().map(|id| frame(1, 5, id, &[0x82]))),
        ),
        (
            "http2.inbound_ping_flood",
            Box::new(many(frame(6, 0, 0, &[0; 8]))),
        ),
        (
            "http2.inbound_settings_flood",
            Box::new(many(frame(4, 0, 0, &[0, 4, 0, 0, 0, 1]))),
        ),
        (
            "http2.inbound_priority_frames_flood",
            Box::new(many(frame(2, 0, 1, &[0; 5]))),
        ),
        (
            "http2.inbound_window_update_frames_flood",
            Box::new(many(frame(8, 0, 0, &[0, 0, 0, 1]))),
        ),
        (
            "http2.inbound_empty_frames_flood",
            Box::new([post_frame(1)].into_iter().chain(many(frame(0, 0, 1, &[])))),
        ),
        (
            "http2.inbound_continuation_flood",
            Box::new([frame(1, 0, 1, &head(0x82))].into_iter().chain(many(frame(
                9,
                0,
                1,
                &literal(b"a", b"b"),
            )))),
        ),
        (
            "http2.inbound_continuation_flood",
            Box::new([frame(1, 0, 1, &head(0x82))].into_iter().chain(many(frame(
                9,
                0,
                1,
                &literal(b"a", &[b'v'; 100]).repeat(150),
            )))),
        ),
        (
            "http2.inbound_empty_frames_flood",
            Box::new(
                [frame(1, 0, 1, &head(0x82))]
                    .into_iter()
                    .chain(many(frame(9, 0, 1, &[]))),
            ),
        ),
        (
            "http2.inbound_stray_frames_flood",
            Box::new(many(frame(0xbe, 0, 0, &[0; 64]))),
        ),
    ];
    // Somebody who behaves, on a connection that was there before.
    let mut other = greeted(setup.bind).await;
    other.write_all(&get_frame(1)).await.unwrap();
    assert_eq!(answer(&mut other, 1).await, (1, 0));
    for (id, (fault, frames)) in (3..).step_by(2).zip(floods) {
        let before = setup.counted(fault).await;
        let last = flood(setup.bind, frames).await;
        // The kernel may throw the last words away when more came behind; the counter stays.
        if let Some(last) = last {
            assert_eq!(last, (CALM, fault.to_owned()));
        }
        assert_eq!(setup.counted(fault).await, before + 1, "{fault}");
        other.write_all(&get_frame(id)).await.unwrap();
        assert_eq!(answer(&mut other, id).await, (1, 0), "{fault}");
    }
    // Streams that were given up at once did not become requests of the application.
    assert!(setup.app.hits() < 200, "{} requests", setup.app.hits());
    setup.proxy.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_that_unfolds_is_refused_and_the_connection_goes_on() {
    let setup = setup().await;
    let mut stream = greeted(setup.bind).await;
    // One entry of 4 KB in the table, and a byte for each time that it is meant.
    let long = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4000]].concat();
    let bomb = [head(0x82), long, vec![0xbe; 10_000]].concat();
    stream.write_all(&frame(1, 5, 1, &bomb)).await.unwrap();
    let refused = loop {
        let frame = read_frame(&mut stream).await.unwrap();
        if frame.kind == 1 {
            break frame;
        }
    };
    // ":status: 431", by the name of the fixed table.
    let text = refused.payload.windows(3).any(|three| three == b"431");
    assert!(text, "{:?}", refused.payload);
    stream.write_all(&get_frame(3)).await.unwrap();
    assert_eq!(answer(&mut stream, 3).await, (1, 0));
    assert_eq!(setup.app.hits(), 1);
}

#[tokio::test]
async fn malformed_requests_never_reach_the_application() {
    let setup = setup().await;
    let with = |fields: &[(&[u8], &[u8])]| {
        let more: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| literal(name, value))
            .collect();
        frame(1, 5, 1, &[head(0x82), more].concat())
    };
    for (what, bytes) in [
        ("upper case", with(&[(b"X-A", b"b")])),
        ("connection", with(&[(b"connection", b"close")])),
        (
            "transfer-encoding",
            with(&[(b"transfer-encoding", b"chunked")]),
        ),
        ("upgrade", with(&[(b"upgrade", b"websocket")])),
        ("te", with(&[(b"te", b"gzip")])),
        ("a line end in a value", with(&[(b"a", b"b\r\nc: d")])),
        ("a line end in a name", with(&[(b"a\r\nb", b"c")])),
        ("a zero byte", with(&[(b"a", b"b\0")])),
        ("a space in front", with(&[(b"a", b" b")])),
        (
            "pseudo-field behind",
            with(&[(b"a", b"b"), (b":path", b"/")]),
        ),
        ("unknown pseudo-field", with(&[(b":other", b"b")])),
        (
            "path twice",
            frame(1, 5, 1, &[head(0x82), vec![0x84]].concat()),
        ),
        ("no path", frame(1, 5, 1, &[0x82, 0x86, 0x41, 1, b'a'])),
        ("no method", frame(1, 5, 1, &[0x84, 0x86, 0x41, 1, b'a'])),
        (
            "a space in the path",
            frame(
                1,
                5,
                1,
                &[&[0x82, 0x86, 0x41, 1, b'a', 0x04, 4][..], b"/a b"].concat(),
            ),
        ),
        (
            "two lengths",
            with(&[(b"content-length", b"0"), (b"content-length", b"0")]),
        ),
        ("a length and no body", with(&[(b"content-length", b"5")])),
    ] {
        let mut stream = greeted(setup.bind).await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(answer(&mut stream, 1).await, (3, 1), "{what}");
        // The connection goes on.
        stream.write_all(&get_frame(3)).await.unwrap();
        assert_eq!(answer(&mut stream, 3).await, (1, 0), "{what}");
    }
    assert_eq!(setup.app.hits(), 17);
    // Two different hosts are refused with an answer.
    let mut stream = greeted(setup.bind).await;
    stream
        .write_all(&with(&[(b"host", b"other")]))
        .await
        .unwrap();
    assert_eq!(answer(&mut stream, 1).await, (1, 0));
    assert_eq!(setup.app.hits(), 17);
}

#[tokio::test]
async fn answers_that_are_not_read_do_not_pile_up() {
    let setup = setup().await;
    let mut stream = greeted(setup.bind).await;
    // No window at all: answers with a body wait, whatever is asked for.
    stream
        .write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]))
        .await
        .unwrap();
    for id in (1..2401).step_by(2) {
        stream.write_all(&get_frame(id)).await.unwrap();
    }
    // Beyond the limit of streams they are refused, and nobody else waits.
    let mut refused = 0;
    while refused < 200 {
        let frame = read_frame(&mut stream).await.unwrap();
        if frame.kind == 3 {
            assert_eq!(code(&frame.payload), 7);
            refused += 1;
        }
    }
    let mut other = greeted(setup.bind).await;
    other.write_all(&get_frame(1)).await.unwrap();
    assert_eq!(answer(&mut other, 1).await, (1, 0));
    drop(stream);
    setup.proxy.stop().await.unwrap();
}

#[tokio::test]
async fn early_answers_stop_the_upload_and_keep_the_connection() {
    let setup = setup().await;
    let mut stream = greeted(setup.bind).await;
    // No route takes this host's method: the answer comes before the body is there.
    let ask = [
        &[0x83, 0x86, 0x84, 0x41, 3][..],
        b"app",
        &literal(b"host", b"other"),
    ]
    .concat();
    stream.write_all(&frame(1, 4, 1, &ask)).await.unwrap();
    assert_eq!(answer(&mut stream, 1).await, (1, 0));
    assert_eq!(answer(&mut stream, 1).await, (3, 0));
    // What was under way meanwhile is no fault.
    stream.write_all(&frame(0, 1, 1, b"late")).await.unwrap();
    stream.write_all(&get_frame(3)).await.unwrap();
    assert_eq!(answer(&mut stream, 3).await, (1, 0));
}

#[tokio::test]
async fn a_drain_says_goodbye_twice_on_the_wire() {
    let mut setup = setup().await;
    let mut stream = greeted(setup.bind).await;
    stream.write_all(&get_frame(1)).await.unwrap();
    assert_eq!(answer(&mut stream, 1).await, (1, 0));
    stream.write_all(&post_frame(3)).await.unwrap();
    setup.proxy.begin_drain();
    let mut last = Vec::new();
    while last.len() < 2 {
        let frame = read_frame(&mut stream).await.unwrap();
        match (frame.kind, frame.flags) {
            (7, _) => last.push(code(&frame.payload)),
            (6, 0) => {
                // Opened before the first goodbye was heard.
                stream.write_all(&post_frame(5)).await.unwrap();
                let pong = super::http2_safety::frame(6, 1, 0, &frame.payload);
                stream.write_all(&pong).await.unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(last, [0x7fff_ffff, 5]);
    for id in [3, 5] {
        stream.write_all(&frame(0, 1, id, b"body")).await.unwrap();
        assert_eq!(answer(&mut stream, id).await, (1, 0));
    }
    assert_eq!(goodbye(&mut stream).await, None);
    tokio::time::timeout(Duration::from_secs(10), setup.proxy.stop())
        .await
        .expect("drains in time")
        .unwrap();
}
