//! What costs nothing to send.

use std::time::Duration;

use super::super::config::Config;
use super::super::frame::Reason;
use super::super::session::Arrived;
use super::{GET, frame, get, post, server};
use crate::rt;

type Frames = Box<dyn Iterator<Item = Vec<u8>>>;

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
            while let Some(Arrived { key, id, head, .. }) = session.arrived(|| now) {
                if head.fault_of_request().is_some() {
                    session.give_up((key, id), Reason::PROTOCOL_ERROR);
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
