//! The core against itself and against bytes that nobody should send.

mod floods;
mod pair;

use std::task::{Context, Poll, Waker};

use super::config::Config;
use super::frame::{self, Head, Reason, Type};
use super::send::Got;
use super::session::{Role, Session};
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
fn streams_beyond_the_limit_are_refused() {
    let config = Config {
        max_streams: 2,
        ..Config::default()
    };
    let mut session = server(config);
    feed(&mut session, &[get(1), get(3), get(5)].concat());
    assert_eq!(resets(&mut session), [(5, Reason::REFUSED_STREAM)]);
    assert_eq!(session.len(), 2);
    let first = session.arrived(rt::now).unwrap();
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
    let one = session.arrived(rt::now).unwrap();
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
        let next = session.arrived(rt::now).unwrap();
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
    let one = session.arrived(rt::now).unwrap();
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
    let one = session.arrived(rt::now).unwrap();
    session.leave(rt::now());
    let frames = written(&mut session);
    assert_eq!(frames[0].1[..4], [0x7f, 0xff, 0xff, 0xff]);
    let ping = frames[1].1.clone();
    // Sent before the peer had heard of it, and served.
    feed(&mut session, &get(3));
    let two = session.arrived(rt::now).unwrap();
    feed(&mut session, &frame(6, 1, 0, &ping));
    let frames = written(&mut session);
    assert_eq!(frames[0].1[..8], [0, 0, 0, 3, 0, 0, 0, 0]);
    feed(&mut session, &get(5));
    assert!(session.arrived(rt::now).is_none() && !session.is_done());
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
        assert!((deadline - now).as_secs().abs_diff(expected) <= 1);
        session.expire(deadline);
        assert!(session.is_done());
    }
}
