//! How a request ended, for its report.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::telemetry::{Flag, PeerId, RouteId, ServiceId};

use super::super::super::context::{Conn, Live};
use super::super::super::pool::Multiplexed;
use super::super::leg::Leg;
use super::super::plan::{Meant, Noted};
use super::super::respond::Failure;

/// How a request ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) flag: Flag,
    pub(crate) details: &'static str,
    /// To be answered for the endpoint, as nothing was answered yet.
    pub(crate) failure: Option<Failure>,
    /// The answer was cut off or could not be delivered: the caller's stream is broken.
    pub(crate) broken: bool,
    /// The caller's connection cannot carry another request.
    pub(crate) close: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) destination: PeerId,
    pub(crate) service: ServiceId,
    pub(crate) route: RouteId,
    pub(crate) retries: u32,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) upstream_local: Option<SocketAddr>,
    /// What logs tell of or ask about.
    pub(crate) told: Option<Box<Noted>>,
    /// The endpoint has proven who it is.
    pub(crate) mtls: bool,
    pub(crate) upstream_time: Option<Duration>,
    /// Both sides speak another protocol from here on: the endpoint's, and its connection if shared.
    pub(crate) switched: Option<(Leg, Option<Rc<Multiplexed>>)>,
}

impl Ended {
    pub(crate) fn new(service: ServiceId) -> Self {
        Self {
            status: 0,
            grpc_status: None,
            flag: Flag::None,
            details: "via_upstream",
            failure: None,
            broken: false,
            close: false,
            received: 0,
            sent: 0,
            destination: PeerId::default(),
            service,
            route: RouteId::default(),
            retries: 0,
            upstream: None,
            upstream_local: None,
            told: None,
            mtls: false,
            upstream_time: None,
            switched: None,
        }
    }

    /// Ended by `failure`, which the caller is told.
    pub(crate) fn fail(mut self, failure: Failure) -> Self {
        let reply = failure.reply();
        self.status = reply.status;
        self.flag = reply.flag;
        self.details = reply.details;
        self.close |= reply.close;
        if let Failure::Filtered(refusal) = &failure {
            self.grpc_status = Some(refusal.grpc_status);
        }
        self.failure = Some(failure);
        self
    }

    /// Refused by `failure` before it was sent anywhere; where it would have gone is counted.
    pub(crate) fn refused(
        live: &Live,
        conn: &Conn,
        (failure, meant): (&Failure, Option<&Meant>),
    ) -> Self {
        let cluster = meant.and_then(|meant| live.tables.cluster(meant.cluster));
        let mut ended = Self::new(cluster.map_or_else(ServiceId::default, |to| to.service));
        if let Some(routed) = meant.and_then(|meant| meant.at.routed(live))
            && !conn.inbound()
        {
            ended.route = routed.table.label;
        }
        ended.fail(failure.clone())
    }

    /// It was held back on purpose, which is said where nothing else is.
    pub(crate) fn delayed(&mut self) {
        if self.flag == Flag::None {
            self.flag = Flag::Di;
        }
    }

    /// There is nobody to tell.
    pub(crate) fn unanswered(mut self) -> Self {
        self.failure = None;
        self.close = true;
        self
    }
}
