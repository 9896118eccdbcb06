//! Putting a request on a connection.

use super::super::super::context::introduction;
use super::super::super::pool::{Lease, StreamSlot, Tag};
use super::super::drive::h2_failure;
use super::super::leg::{H1Leg, H2Leg, Leg, Writer};
use super::super::plan::HeadOut;
use super::super::respond::Failure;
use super::super::{Framing, Version, fields, h1};
use super::tries::Calling;

/// The endpoint's side of a try.
pub(super) struct Up {
    pub(super) leg: Leg,
    pub(super) tag: Option<Tag>,
    pub(super) response: Option<h2::client::ResponseFuture>,
    pub(super) sent_end: bool,
    pub(super) reused: bool,
    pub(super) _slot: Option<StreamSlot>,
}

impl Calling<'_> {
    /// Puts the head (and what went up in an earlier try) on the connection.
    pub(super) async fn begin(&mut self, lease: Lease) -> Result<Up, Failure> {
        match (lease, &self.call.chosen.head) {
            (Lease::H1(leg, tag), HeadOut::Text(head)) => Ok(self.begin_text(leg, tag, head)),
            (Lease::H2(shared), HeadOut::H2(head)) => self.begin_h2(shared, head).await,
            _ => Err(Failure::BadResponse),
        }
    }

    fn begin_text(&mut self, mut leg: Box<H1Leg>, mut tag: Tag, head: &[u8]) -> Up {
        let facts = &self.call.facts;
        let coded = facts.framing == Framing::Chunked && facts.version == Version::Http2;
        leg.begin(if coded {
            Writer::Chunked
        } else {
            Writer::Plain
        });
        leg.reader = h1::body::BodyReader::default();
        leg.out.clear();
        leg.out.extend_from_slice(head);
        if self.tries > 1 && !self.call.conn.inbound() {
            let mut text = itoa::Buffer::new();
            leg.out.extend_from_slice(b"x-envoy-attempt-count: ");
            leg.out
                .extend_from_slice(text.format(self.tries).as_bytes());
            leg.out.extend_from_slice(b"\r\n");
        }
        if tag.mtls && tag.uses == 0 {
            leg.out.extend_from_slice(fields::PEER.as_bytes());
            leg.out.extend_from_slice(b": ");
            let own = &self.call.worker.shared.options.workload;
            leg.out.extend_from_slice(introduction(own).as_bytes());
            leg.out.extend_from_slice(b"\r\n");
        }
        leg.out.extend_from_slice(b"\r\n");
        leg.push(&self.replay.kept);
        let reused = tag.uses > 0;
        tag.uses = tag.uses.saturating_add(1);
        self.ended.upstream_local = tag.local;
        Up {
            leg: Leg::H1(leg),
            tag: Some(tag),
            response: None,
            sent_end: false,
            reused,
            _slot: None,
        }
    }

    async fn begin_h2(
        &mut self,
        shared: StreamSlot,
        head: &http::Request<()>,
    ) -> Result<Up, Failure> {
        let ready = shared.send.clone().ready().await;
        let mut send = ready.map_err(|error| {
            // It said goodbye: nobody else should try it.
            shared.closed.set(true);
            h2_failure(&error)
        })?;
        let mut head = head.clone();
        if self.tries > 1 && !self.call.conn.inbound() {
            head.headers_mut()
                .insert("x-envoy-attempt-count", self.tries.into());
        }
        let uses = shared.uses.get();
        if shared.mtls && uses == 0 {
            let own = introduction(&self.call.worker.shared.options.workload);
            if let Ok(own) = own.parse() {
                head.headers_mut().insert(fields::PEER, own);
            }
        }
        shared.uses.set(uses.saturating_add(1));
        self.ended.upstream_local = shared.local;
        let end = self.call.facts.framing == Framing::None;
        let (response, stream) = send
            .send_request(head, end)
            .map_err(|error| h2_failure(&error))?;
        let mut leg = H2Leg::calling(stream, end);
        leg.push(&self.replay.kept).map_err(|_| Failure::Reset)?;
        Ok(Up {
            leg: Leg::H2(leg),
            tag: None,
            response: Some(response),
            sent_end: end,
            reused: uses > 0,
            _slot: Some(shared),
        })
    }
}
