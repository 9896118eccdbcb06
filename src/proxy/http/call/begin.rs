//! Putting a request on a connection.

use std::rc::Rc;
use std::time::Duration;

use crate::rt;
use crate::telemetry::{Link, Protection};

use super::super::super::buffer::{give_text, take_text};
use super::super::super::context::introduction;
use super::super::super::pool::{Lease, Multiplexed, Tag};
use super::super::control::write_grpc_timeout;
use super::super::drive::h2_failure;
use super::super::h2::block::Block;
use super::super::leg::{H1Leg, H2Leg, Leg, Writer};
use super::super::plan::HeadOut;
use super::super::respond::Failure;
use super::super::{Framing, Version, fields, h1};
use super::tries::Calling;

/// The endpoint's side of a try.
pub(super) struct Up {
    pub(super) leg: Leg,
    pub(super) tag: Option<Tag>,
    pub(super) sent_end: bool,
    pub(super) reused: bool,
    /// Over mTLS, to a peer of the mesh.
    pub(super) mtls: bool,
    /// The connection stays while the stream is on it.
    pub(super) shared: Option<Rc<Multiplexed>>,
}

impl Up {
    /// What protects the connection, and what is spoken on it.
    pub(super) fn speaks(&self) -> (Link, &'static str) {
        let shared = self.shared.as_ref().map(|shared| shared.protected);
        let tag = self.tag.as_ref().map(|tag| tag.protected);
        let protocol = if shared.is_some() {
            "HTTP/2"
        } else {
            "HTTP/1.1"
        };
        let bare = || Link::bare(Protection::Carried);
        (shared.or(tag).unwrap_or_else(bare), protocol)
    }
}

impl Calling<'_> {
    /// Fields that differ from try to try.
    fn say(&self, put: &mut dyn FnMut(&'static str, &[u8])) {
        let attempts = &self.routed.attempts;
        let mut text = itoa::Buffer::new();
        if attempts.request || (self.tries > 1 && !self.call.conn.inbound()) {
            put("x-envoy-attempt-count", text.format(self.tries).as_bytes());
        }
        if self.after_timeout && attempts.timeout_retry {
            put("x-envoy-is-timeout-retry", b"true");
        }
        let Some(left) = self.left_to_answer() else {
            return;
        };
        // Nothing left is a moment, as zero would be for ever.
        let millis = left.as_millis().max(1);
        put(fields::EXPECTED_TIMEOUT, text.format(millis).as_bytes());
        if let Some(control) = self.call.chosen.control()
            && control.tell_grpc
        {
            let left = left.max(Duration::from_millis(1));
            put("grpc-timeout", write_grpc_timeout(left).as_bytes());
        }
    }

    /// How long the endpoint's answer will be waited for.
    fn left_to_answer(&self) -> Option<Duration> {
        if self.clock.is_off() {
            return None;
        }
        let now = rt::now();
        let hedged = self.hedges();
        self.clock.left(now, hedged)
    }

    /// Puts the head (and what went up in an earlier try) on the connection.
    pub(super) fn begin(&mut self, lease: Lease) -> Result<Up, Failure> {
        match (lease, &self.call.chosen.head) {
            (Lease::H1(leg, tag), HeadOut::Text(head)) => {
                let facts = &self.call.facts;
                let coded = facts.goes() == Framing::Chunked
                    && (facts.version == Version::Http2 || facts.recodes() || facts.held);
                Ok(self.begin_text(leg, tag, (head, coded)))
            }
            (Lease::H1(leg, tag), HeadOut::H2(head)) => {
                let framing = self.call.facts.goes();
                let mut text = take_text();
                write_text(head, framing, &mut text);
                let up = self.begin_text(leg, tag, (&text, framing == Framing::Chunked));
                give_text(text);
                Ok(up)
            }
            (Lease::H2(shared), HeadOut::H2(head)) => self.begin_h2(shared, head),
            _ => Err(Failure::BadResponse),
        }
    }

    fn begin_text(
        &mut self,
        mut leg: Box<H1Leg>,
        mut tag: Tag,
        (head, coded): (&[u8], bool),
    ) -> Up {
        leg.begin(if coded {
            Writer::Chunked
        } else {
            Writer::Plain
        });
        leg.reader = h1::body::BodyReader::default();
        leg.out.clear();
        leg.out.extend_from_slice(head);
        self.say(&mut |name, value| {
            leg.out.extend_from_slice(name.as_bytes());
            leg.out.extend_from_slice(b": ");
            leg.out.extend_from_slice(value);
            leg.out.extend_from_slice(b"\r\n");
        });
        if tag.mtls && tag.uses == 0 {
            leg.out.extend_from_slice(fields::PEER.as_bytes());
            leg.out.extend_from_slice(b": ");
            let own = &self.call.worker.shared.options.workload;
            leg.out.extend_from_slice(introduction(own).as_bytes());
            leg.out.extend_from_slice(b"\r\n");
        }
        leg.out.extend_from_slice(b"\r\n");
        leg.push(&self.replay.kept);
        let (reused, mtls) = (tag.used(), tag.mtls);
        self.ended.upstream_local = tag.local;
        self.ended.mtls = tag.mtls;
        Up {
            leg: Leg::H1(leg),
            tag: Some(tag),
            sent_end: false,
            reused,
            mtls,
            shared: None,
        }
    }

    fn begin_h2(&mut self, shared: Rc<Multiplexed>, head: &Block) -> Result<Up, Failure> {
        let uses = shared.uses.get();
        let facts = &self.call.facts;
        let end = facts.framing == Framing::None && !facts.upgrade;
        let opened = shared.client.open((end, facts.head), |out| {
            out.request(head);
            self.say(&mut |name, value| out.field(name.as_bytes(), value, false));
            if shared.mtls && uses == 0 {
                let own = introduction(&self.call.worker.shared.options.workload);
                out.field(fields::PEER.as_bytes(), own.as_bytes(), false);
            }
        });
        let stream = opened.map_err(h2_failure)?;
        shared.used();
        self.ended.upstream_local = shared.local;
        self.ended.mtls = shared.mtls;
        let mut leg = H2Leg::new(stream, end);
        if !self.replay.kept.is_empty() {
            leg.push(&self.replay.kept);
        }
        Ok(Up {
            leg: Leg::H2(leg),
            tag: None,
            sent_end: end,
            reused: uses > 0,
            mtls: shared.mtls,
            shared: Some(shared),
        })
    }
}

/// Appends a request's head that was meant for HTTP/2 as HTTP/1.1, but for the empty line that ends it.
pub(crate) fn write_text(head: &Block, framing: Framing, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method());
    out.push(b' ');
    out.extend_from_slice(head.path());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put(out, b"host", head.authority().unwrap_or_default());
    head.each(|known, name, value| {
        if !matches!(known, fields::Name::Te | fields::Name::Host) {
            put(out, name, value);
        }
    });
    if framing == Framing::Chunked {
        put(out, b"transfer-encoding", b"chunked");
    }
}

fn put(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
