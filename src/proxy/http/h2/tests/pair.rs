//! The core against itself, and against anything.

use std::fmt::Write as _;
use std::task::Poll;

use proptest::prelude::*;
use tokio::time::Instant;

use super::super::config::Config;
use super::super::send::Got;
use super::super::session::{Role, Session};
use super::{cx, feed, frame, server};
use crate::rt;

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
            while let Some(stream) = pair.server.arrived(rt::now) {
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
            while let Some(stream) = session.arrived(rt::now) {
                let at = (stream.key, stream.id);
                let _sent = session.send_head(at, false, |head| head.status(200));
                let _data = session.poll_send(&cx(), at, (b"data", true), rt::now);
                session.release(at, rt::now);
            }
            prop_assert!(session.output().len() < 50_000);
        }
    }
}
