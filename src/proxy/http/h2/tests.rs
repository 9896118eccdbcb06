//! The core against itself and against bytes that nobody should send.

use std::fmt::Write as _;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::frame::{self, Head, Reason, Type};
use super::send::Got;
use super::session::{Arrived, Config, Role, Session};
use super::stream::StreamError;
use crate::rt;

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put_head(&mut out, payload.len(), (Type::Unknown, flags), stream);
    out[3] = kind;
    out.extend_from_slice(payload);
    out
}

const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'a'];

fn get(stream: u32) -> Vec<u8> {
    frame(1, 0x5, stream, GET)
}

fn post(stream: u32) -> Vec<u8> {
    frame(1, 0x4, stream, POST)
}

type Frames = Box<dyn Iterator<Item = Vec<u8>>>;

/// What a session wrote, frame by frame.
fn written(session: &mut Session) -> Vec<(Head, Vec<u8>)> {
    let mut rest = session.output().to_vec();
    session.wrote(rest.len());
    if rest.starts_with(frame::PREFACE) {
        rest.drain(..frame::PREFACE.len());
    }
    let mut frames = Vec::new();
    while let Some(head) = Head::read(&rest) {
        let payload: Vec<u8> = rest.drain(..9 + head.length).skip(9).collect();
        frames.push((head, payload));
    }
    assert!(rest.is_empty());
    frames
}

/// A server that has been greeted, and what a client sent so far.
fn server(config: Config) -> Session {
    let mut session = Session::new(Role::Server, config, rt::now());
    let mut hello = frame::PREFACE.to_vec();
    hello.extend(frame(4, 0, 0, &[]));
    hello.extend(frame(4, 1, 0, &[]));
    assert_eq!(session.receive(&hello, rt::now()), hello.len());
    written(&mut session);
    session
}

fn feed(session: &mut Session, bytes: &[u8]) {
    session.receive(bytes, rt::now());
}

/// The code of the GOAWAY that ended the connection.
fn ended(session: &mut Session) -> Option<Reason> {
    let frames = written(session);
    let last = frames.iter().find(|(head, _)| head.kind == Type::GoAway);
    let code =
        last.map(|(_, payload)| Reason(u32::from_be_bytes(payload[4..8].try_into().unwrap())));
    assert_eq!(code, session.ended().map(|fault| fault.reason));
    code
}

fn resets(session: &mut Session) -> Vec<(u32, Reason)> {
    written(session)
        .into_iter()
        .filter(|(head, _)| head.kind == Type::Reset)
        .map(|(head, payload)| {
            (
                head.stream,
                Reason(u32::from_be_bytes(payload[..4].try_into().unwrap())),
            )
        })
        .collect()
}

#[test]
fn faults_of_the_connection_end_it_with_their_code() {
    let long = vec![0; 16_385];
    for (what, code, bytes) in [
        ("DATA on 0", 1, frame(0, 0, 0, b"x")),
        ("DATA on an idle stream", 1, frame(0, 0, 1, b"x")),
        ("DATA too long", 6, frame(0, 0, 1, &long)),
        (
            "padding beyond the frame",
            1,
            [post(1), frame(0, 0x8, 1, &[5, 0, 0])].concat(),
        ),
        (
            "padded DATA without length",
            6,
            [post(1), frame(0, 0x8, 1, &[])].concat(),
        ),
        ("HEADERS on 0", 1, frame(1, 5, 0, GET)),
        ("HEADERS on an even stream", 1, frame(1, 5, 2, GET)),
        ("HEADERS padded beyond", 1, frame(1, 0xd, 1, &[9, 0x82])),
        (
            "HEADERS without its priority",
            6,
            frame(1, 0x25, 1, &[0, 0]),
        ),
        ("a lower stream", 5, [get(5), get(3)].concat()),
        ("no header block", 9, frame(1, 5, 1, &[0xff])),
        (
            "a frame inside of a block",
            1,
            [frame(1, 0, 1, GET), frame(6, 0, 0, &[0; 8])].concat(),
        ),
        (
            "CONTINUATION of another",
            1,
            [frame(1, 0, 1, GET), frame(9, 4, 3, &[])].concat(),
        ),
        ("CONTINUATION of nothing", 1, frame(9, 4, 1, &[])),
        ("PRIORITY on 0", 1, frame(2, 0, 0, &[0; 5])),
        ("RST_STREAM on 0", 1, frame(3, 0, 0, &[0; 4])),
        ("RST_STREAM of an idle stream", 1, frame(3, 0, 1, &[0; 4])),
        (
            "RST_STREAM too short",
            6,
            [post(1), frame(3, 0, 1, &[0; 3])].concat(),
        ),
        ("SETTINGS on a stream", 1, frame(4, 0, 1, &[])),
        ("SETTINGS not in sixes", 6, frame(4, 0, 0, &[0; 5])),
        ("SETTINGS ACK with payload", 6, frame(4, 1, 0, &[0; 6])),
        (
            "push neither on nor off",
            1,
            frame(4, 0, 0, &[0, 2, 0, 0, 0, 2]),
        ),
        (
            "window too large",
            3,
            frame(4, 0, 0, &[0, 4, 0x80, 0, 0, 0]),
        ),
        (
            "frames too small",
            1,
            frame(4, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff]),
        ),
        (
            "PUSH_PROMISE",
            1,
            [get(1), frame(5, 4, 1, &[0, 0, 0, 2])].concat(),
        ),
        ("PING on a stream", 1, frame(6, 0, 1, &[0; 8])),
        ("PING too short", 6, frame(6, 0, 0, &[0; 7])),
        ("GOAWAY on a stream", 1, frame(7, 0, 1, &[0; 8])),
        ("GOAWAY too short", 6, frame(7, 0, 0, &[0; 7])),
        ("window of nothing more", 1, frame(8, 0, 0, &[0; 4])),
        ("window update too short", 6, frame(8, 0, 0, &[0; 3])),
        (
            "window update of an idle stream",
            1,
            frame(8, 0, 1, &[0, 0, 0, 1]),
        ),
        (
            "window overflow",
            3,
            frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
    ] {
        let mut session = server(Config::default());
        feed(&mut session, &bytes);
        assert_eq!(ended(&mut session), Some(Reason(code)), "{what}");
    }
    let mut session = Session::new(Role::Server, Config::default(), rt::now());
    feed(&mut session, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(
        ended(&mut session),
        Some(Reason::PROTOCOL_ERROR),
        "no preface"
    );
    let mut session = Session::new(Role::Server, Config::default(), rt::now());
    feed(
        &mut session,
        &[frame::PREFACE, &frame(6, 0, 0, &[0; 8])].concat(),
    );
    assert_eq!(
        ended(&mut session),
        Some(Reason::PROTOCOL_ERROR),
        "no settings"
    );
}

#[test]
fn faults_of_a_stream_end_only_the_stream() {
    let trailers = |flags| frame(1, flags, 1, &[0x40, 1, b'a', 1, b'b']);
    let length = |text: &[u8]| {
        frame(
            1,
            4,
            1,
            &[POST, &[0x5c, u8::try_from(text.len()).unwrap()], text].concat(),
        )
    };
    for (what, code, bytes) in [
        (
            "DATA after the end",
            5,
            [get(1), frame(0, 0, 1, b"x")].concat(),
        ),
        ("HEADERS after the end", 5, [get(1), trailers(5)].concat()),
        (
            "trailers that end nothing",
            1,
            [post(1), trailers(4)].concat(),
        ),
        (
            "pseudo-fields in trailers",
            1,
            [post(1), frame(1, 5, 1, &[0x82])].concat(),
        ),
        (
            "window of nothing more",
            1,
            [post(1), frame(8, 0, 1, &[0; 4])].concat(),
        ),
        (
            "window overflow",
            3,
            [post(1), frame(8, 0, 1, &[0x7f, 0xff, 0xff, 0xff])].concat(),
        ),
        (
            "depends on itself",
            1,
            [post(1), frame(2, 0, 1, &[0, 0, 0, 1, 0])].concat(),
        ),
        (
            "PRIORITY of a wrong size",
            6,
            [post(1), frame(2, 0, 1, &[0; 4])].concat(),
        ),
        (
            "more than promised",
            1,
            [length(b"1"), frame(0, 0, 1, b"xy")].concat(),
        ),
        (
            "less than promised",
            1,
            [length(b"2"), frame(0, 1, 1, b"x")].concat(),
        ),
        (
            "nothing where something was promised",
            1,
            frame(1, 5, 1, &[POST, &[0x5c, 1, b'1']].concat()),
        ),
    ] {
        let mut session = server(Config::default());
        feed(&mut session, &bytes);
        assert_eq!(session.ended(), None, "{what}");
        assert_eq!(resets(&mut session), [(1, Reason(code))], "{what}");
        feed(&mut session, &get(3));
        assert_eq!(session.len(), 2, "{what}");
    }
}

#[test]
fn what_costs_nothing_to_send_is_bounded() {
    let pair = |stream| [get(stream), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
    let ids = (1_u32..).step_by(2);
    let repeat = |bytes: Vec<u8>| (0..20_000).map(move |_| bytes.clone());
    let floods: Vec<(&str, &str, Frames)> = vec![
        (
            "rapid reset",
            "http2.too_many_premature_resets",
            Box::new(ids.clone().map(pair)),
        ),
        (
            "reset by us",
            "http2.too_many_premature_resets",
            Box::new(
                ids.clone()
                    .map(|id| [get(id), frame(8, 0, id, &[0; 4])].concat()),
            ),
        ),
        (
            "malformed requests",
            "http2.too_many_premature_resets",
            Box::new(ids.map(|id| frame(1, 5, id, &[0x82]))),
        ),
        (
            "PING",
            "http2.inbound_ping_flood",
            Box::new(repeat(frame(6, 0, 0, &[0; 8]))),
        ),
        (
            "SETTINGS",
            "http2.inbound_settings_flood",
            Box::new(repeat(frame(4, 0, 0, &[]))),
        ),
        (
            "PRIORITY",
            "http2.inbound_priority_frames_flood",
            Box::new(repeat(frame(2, 0, 1, &[0; 5]))),
        ),
        (
            "WINDOW_UPDATE",
            "http2.inbound_window_update_frames_flood",
            Box::new(repeat(frame(8, 0, 0, &[0, 0, 0, 1]))),
        ),
        (
            "empty DATA",
            "http2.inbound_empty_frames_flood",
            Box::new(std::iter::once(post(1)).chain(repeat(frame(0, 0, 1, &[])))),
        ),
        (
            "padding only",
            "http2.inbound_empty_frames_flood",
            Box::new(std::iter::once(post(1)).chain(repeat(frame(0, 8, 1, &[2, 0, 0])))),
        ),
        (
            "CONTINUATION",
            "http2.inbound_continuation_flood",
            Box::new(std::iter::once(frame(1, 0, 1, GET)).chain(repeat(frame(
                9,
                0,
                1,
                b"\x00\x01a\x01b",
            )))),
        ),
        (
            "empty CONTINUATION",
            "http2.inbound_empty_frames_flood",
            Box::new(std::iter::once(frame(1, 0, 1, GET)).chain(repeat(frame(9, 0, 1, &[])))),
        ),
        (
            "unknown",
            "http2.inbound_stray_frames_flood",
            Box::new(repeat(frame(99, 0, 0, b"x"))),
        ),
        (
            "DATA for a stream that is gone",
            "http2.inbound_stray_frames_flood",
            Box::new(
                [post(1), frame(3, 0, 1, &[0; 4])]
                    .into_iter()
                    .chain(repeat(frame(0, 0, 1, b"x"))),
            ),
        ),
    ];
    for (what, detail, frames) in floods {
        let mut session = server(Config::default());
        let now = rt::now();
        let mut most = 0;
        for (sent, bytes) in frames.enumerate() {
            assert!(sent < 3000, "{what} goes on");
            session.receive(&bytes, now);
            most = most.max(session.output().len());
            // As the connection's task and its lanes do.
            while let Some(Arrived { key, id, .. }) = session.arrived() {
                if session.poll_gone(&cx(), (key, id)).is_ready() {
                    session.release((key, id), || now);
                }
            }
            if session.ended().is_some() {
                break;
            }
            if what != "PING" {
                session.wrote(session.output().len());
            }
        }
        let fault = session.ended().unwrap();
        assert_eq!(
            (fault.reason, fault.detail),
            (Reason::ENHANCE_YOUR_CALM, detail),
            "{what}"
        );
        assert!(most < 100_000, "{what}: {most} bytes of output");
    }
}

#[test]
fn answers_that_are_not_read_are_bounded() {
    let mut session = server(Config::default());
    // Slowly enough for the accounts of what comes in.
    let begun = rt::now();
    for n in 0..5000_u32 {
        session.receive(
            &frame(6, 0, 0, &[0; 8]),
            begun + Duration::from_millis(25) * n,
        );
        if session.ended().is_some() {
            break;
        }
    }
    assert_eq!(
        session.ended().unwrap().detail,
        "http2.outbound_control_flood"
    );
    assert!(session.output().len() < 20_000);
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let config = Config {
        max_streams: 2,
        ..Config::default()
    };
    let mut session = server(config);
    feed(&mut session, &[get(1), get(3), get(5)].concat());
    assert_eq!(resets(&mut session), [(5, Reason::REFUSED_STREAM)]);
    assert_eq!(session.len(), 2);
    let first = session.arrived().unwrap();
    session
        .send_head((first.key, first.id), true, |head| head.status(200))
        .unwrap();
    session.release((first.key, first.id), rt::now);
    feed(&mut session, &get(7));
    assert_eq!(session.len(), 2);
}

#[test]
fn data_beyond_the_windows_is_refused_and_taken_data_opens_them() {
    let config = Config {
        stream_window: 20_000,
        connection_window: 65_535,
        ..Config::default()
    };
    let mut session = server(config);
    feed(
        &mut session,
        &[
            post(1),
            frame(0, 0, 1, &[0; 16_000]),
            frame(0, 0, 1, &[0; 5000]),
        ]
        .concat(),
    );
    assert_eq!(resets(&mut session), [(1, Reason::FLOW_CONTROL_ERROR)]);
    let mut session = server(config);
    feed(&mut session, &post(1));
    let one = session.arrived().unwrap();
    let mut data = Vec::new();
    for _ in 0..100 {
        feed(
            &mut session,
            &frame(0, 8, 1, &[&[200][..], &[7; 10_000], &[0; 200]].concat()),
        );
        data.clear();
        let taken = session.poll_take(&cx(), (one.key, one.id), &mut data);
        assert!(matches!(taken, Poll::Ready(Ok(Got::Data))) && data.len() == 10_000);
        session.consumed((one.key, one.id), data.len());
        assert_eq!(session.ended(), None);
        assert!(resets(&mut session).is_empty());
    }
    // What a stream that is gone had not taken is given back to the others.
    for id in (3..200).step_by(2) {
        feed(
            &mut session,
            &[post(id), frame(0, 0, id, &[0; 16_000])].concat(),
        );
        let next = session.arrived().unwrap();
        session.release((next.key, next.id), rt::now);
        assert_eq!(session.ended(), None, "{id}");
        session.wrote(session.output().len());
    }
}

#[test]
fn data_waits_for_windows_and_a_window_that_stays_shut_ends_the_stream() {
    let mut session = server(Config::default());
    feed(&mut session, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 10]));
    feed(&mut session, &get(1));
    let one = session.arrived().unwrap();
    let at = (one.key, one.id);
    session
        .send_head(at, false, |head| head.status(200))
        .unwrap();
    let now = rt::now();
    let send =
        |session: &mut Session| session.poll_send(&cx(), at, (b"0123456789ab", true), || now);
    assert_eq!(send(&mut session), Poll::Ready(Ok(10)));
    assert_eq!(send(&mut session), Poll::Pending);
    // A smaller window makes it negative; only beyond that is there room.
    feed(&mut session, &frame(4, 0, 0, &[0, 4, 0, 0, 0, 5]));
    feed(&mut session, &frame(8, 0, 1, &[0, 0, 0, 5]));
    assert_eq!(send(&mut session), Poll::Pending);
    feed(&mut session, &frame(8, 0, 1, &[0, 0, 0, 1]));
    assert_eq!(send(&mut session), Poll::Ready(Ok(1)));
    assert_eq!(send(&mut session), Poll::Pending);
    written(&mut session);
    let deadline = session.deadline().unwrap();
    assert!(deadline <= now + Config::default().stall);
    session.expire(now + Config::default().stall);
    assert_eq!(resets(&mut session), [(1, Reason::CANCEL)]);
    assert_eq!(send(&mut session), Poll::Ready(Err(StreamError::Stalled)));
}

#[test]
fn a_server_says_goodbye_twice() {
    let mut session = server(Config::default());
    feed(&mut session, &get(1));
    let one = session.arrived().unwrap();
    session.leave(rt::now());
    let frames = written(&mut session);
    assert_eq!(frames[0].1[..4], [0x7f, 0xff, 0xff, 0xff]);
    let ping = frames[1].1.clone();
    // Sent before the peer had heard of it, and served.
    feed(&mut session, &get(3));
    let two = session.arrived().unwrap();
    feed(&mut session, &frame(6, 1, 0, &ping));
    let frames = written(&mut session);
    assert_eq!(frames[0].1[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    feed(&mut session, &get(5));
    assert!(session.arrived().is_none() && !session.is_done());
    session.release((one.key, one.id), rt::now);
    session.release((two.key, two.id), rt::now);
    assert!(session.is_done());
}

#[test]
fn half_sent_frames_and_silence_have_an_end() {
    for bytes in [&get(1)[..5], &frame(1, 0, 1, GET), &[]] {
        let mut session = server(Config::default());
        let now = rt::now();
        session.receive(bytes, now);
        // DATA may take its time, as its stream has a limit of its own.
        let expected = if bytes.is_empty() { 3600 } else { 60 };
        let deadline = session.deadline().unwrap();
        assert_eq!((deadline - now).as_secs_f64().round(), f64::from(expected));
        session.expire(deadline);
        assert!(session.is_done());
    }
}

/// A client and a server that hand each other their bytes in pieces.
struct Pair {
    client: Session,
    server: Session,
    pieces: Vec<usize>,
    now: Instant,
    waiting: [Vec<u8>; 2],
}

impl Pair {
    fn new(pieces: Vec<usize>) -> Self {
        let now = rt::now();
        Self {
            client: Session::new(Role::Client, Config::default(), now),
            server: Session::new(Role::Server, Config::default(), now),
            pieces,
            now,
            waiting: [Vec::new(), Vec::new()],
        }
    }

    fn exchange(&mut self) {
        let mut turn = 0;
        loop {
            let before = self.waiting.each_ref().map(Vec::len);
            for side in [0, 1] {
                let (from, to) = match side {
                    0 => (&mut self.client, &mut self.server),
                    _ => (&mut self.server, &mut self.client),
                };
                let waiting = &mut self.waiting[side];
                let output = from.output().to_vec();
                from.wrote(output.len());
                let mut buffer = std::mem::take(waiting);
                for piece in output.chunks(self.pieces[turn % self.pieces.len()]) {
                    turn += 1;
                    buffer.extend_from_slice(piece);
                    let used = to.receive(&buffer, self.now);
                    buffer.drain(..used);
                }
                *waiting = buffer;
            }
            let quiet = self.client.output().is_empty() && self.server.output().is_empty();
            if quiet && before == self.waiting.each_ref().map(Vec::len) {
                return;
            }
        }
    }
}

/// All that a stream received.
fn take(session: &mut Session, at: (usize, u32), into: &mut Vec<u8>) -> Option<String> {
    loop {
        let mut data = Vec::new();
        match session.poll_take(&cx(), at, &mut data) {
            Poll::Ready(Ok(Got::Data)) => {
                session.consumed(at, data.len());
                into.extend_from_slice(&data);
            }
            Poll::Ready(Ok(Got::End(trailers))) => {
                let mut text = String::new();
                if let Some(trailers) = trailers {
                    trailers.each(|_, name, value| {
                        write!(text, "{}={};", name.escape_ascii(), value.escape_ascii()).unwrap();
                    });
                }
                return Some(text);
            }
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => return None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However bytes are cut, requests arrive as they were sent, larger than all windows and with heads
    /// larger than a frame.
    #[test]
    fn whatever_is_sent_arrives(
        pieces in proptest::collection::vec(prop_oneof![1..20_usize, 100..40_000_usize], 1..8),
        bodies in proptest::collection::vec((0..400_000_usize, 0..30_000_usize, any::<bool>()), 1..4),
    ) {
        let mut pair = Pair::new(pieces);
        let value = |length: usize| "v".repeat(length);
        let mut sent = Vec::new();
        for (n, (body, field, trailers)) in bodies.iter().enumerate() {
            let at = pair.client.open((false, false), |head| {
                head.field(b":method", b"POST", false);
                head.field(b":scheme", b"http", false);
                head.field(b":path", format!("/{n}").as_bytes(), false);
                head.field(b"x-long", value(*field).as_bytes(), false);
            }).unwrap();
            let body: Vec<u8> = (0..*body).map(|at| u8::try_from((at * 7 + n) % 251).unwrap()).collect();
            sent.push((at, body, *field, *trailers, 0));
        }
        let mut arrived = Vec::new();
        for _ in 0..200 {
            for (at, body, _, trailers, done) in &mut sent {
                while *done < body.len() {
                    match pair.client.poll_send(&cx(), *at, (&body[*done..], !*trailers), || pair.now) {
                        Poll::Ready(count) => *done += count.unwrap(),
                        Poll::Pending => break,
                    }
                }
                if *done == body.len() {
                    *done += 1;
                    if *trailers {
                        pair.client.send_head(*at, true, |head| head.field(b"x-end", b"yes", false)).unwrap();
                    } else if body.is_empty() {
                        prop_assert_eq!(pair.client.poll_send(&cx(), *at, (b"", true), || pair.now), Poll::Ready(Ok(0)));
                    }
                }
            }
            pair.exchange();
            prop_assert_eq!(pair.server.ended(), None);
            while let Some(stream) = pair.server.arrived() {
                prop_assert_eq!(stream.head.fault_of_request(), None);
                arrived.push((stream, Vec::new(), None));
            }
            for (stream, body, end) in &mut arrived {
                if end.is_none() {
                    *end = take(&mut pair.server, (stream.key, stream.id), body);
                }
            }
            pair.exchange();
        }
        prop_assert_eq!(arrived.len(), sent.len());
        for ((stream, body, end), (_, expected, field, trailers, _)) in arrived.iter().zip(&sent) {
            let long = value(*field);
            prop_assert_eq!(stream.head.first("x-long"), Some(long.as_bytes()));
            prop_assert!(body == expected);
            prop_assert_eq!(end.as_deref(), Some(if *trailers { "x-end=yes;" } else { "" }));
        }
        // And answers go back.
        for (stream, ..) in &arrived {
            let at = (stream.key, stream.id);
            pair.server.send_head(at, false, |head| head.status(103)).unwrap();
            pair.server.send_head(at, false, |head| head.status(200)).unwrap();
            prop_assert_eq!(pair.server.poll_send(&cx(), at, (b"answer", true), || pair.now), Poll::Ready(Ok(6)));
            pair.server.release(at, || pair.now);
        }
        pair.exchange();
        for (at, ..) in &sent {
            for expected in [103, 200] {
                match pair.client.poll_head(&cx(), *at) {
                    Poll::Ready(Ok((head, _))) => prop_assert_eq!(head.status, expected),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            let mut body = Vec::new();
            prop_assert!(take(&mut pair.client, *at, &mut body).is_some());
            prop_assert_eq!(&body, b"answer");
            pair.client.release(*at, || pair.now);
        }
        pair.exchange();
        prop_assert_eq!((pair.client.len(), pair.server.len()), (0, 0));
    }

    /// Nothing that comes in breaks more than its own connection, and output stays bounded.
    #[test]
    fn arbitrary_frames_are_survived(
        frames in proptest::collection::vec((0..11_u8, any::<u8>(), 0..6_u32, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
        client in any::<bool>(),
    ) {
        let mut session = if client {
            let mut session = Session::new(Role::Client, Config::default(), rt::now());
            session.open((true, false), |head| head.field(b":method", b"GET", false)).unwrap();
            feed(&mut session, &frame(4, 0, 0, &[]));
            session
        } else {
            server(Config::default())
        };
        for (kind, flags, stream, payload) in frames {
            feed(&mut session, &frame(kind, flags, stream, &payload));
            while let Some(stream) = session.arrived() {
                let at = (stream.key, stream.id);
                let _sent = session.send_head(at, false, |head| head.status(200));
                let _data = session.poll_send(&cx(), at, (b"data", true), rt::now);
                session.release(at, rt::now);
            }
            prop_assert!(session.output().len() < 50_000);
        }
    }
}
