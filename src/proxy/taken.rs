//! Which rules a connection goes by once its listener has others.
//!
//! A connection is sorted once, by what it began with ([`ListenerTable::narrow`]). When chains change it is sorted
//! again by the same facts: whoever would not be let in today must not stay because it came yesterday. Only
//! where others call in (beside the application, and at gateways) is that so; what an application itself has
//! open is not judged.

use std::cell::Cell;
use std::net::SocketAddr;

use rustls_pki_types::CertificateDer;

use crate::mesh::credential::ClientTrust;
use crate::mesh::filter::HttpFilter;
use crate::mesh::listener::Chain;
use crate::rt::Wall;
use crate::telemetry::Flag;

use super::context::{Conn, ConnState, Live};
use super::filter::{Filters, Refusal};
use super::http::respond::Failure;
use super::stream::Stream;
use super::tables::chain::{ChainTable, Hello, MESH, OPEN, next_version};
use super::tables::http::HttpTable;
use super::tables::{ChainAction, ListenerTable};

/// What a connection was sorted by, in few bytes: idle connections keep it.
#[derive(Debug)]
pub(crate) struct Taken {
    meant: SocketAddr,
    tls: bool,
    server_name: Option<Box<str>>,
    /// As TLS writes them: each behind its length.
    protocols: Box<[u8]>,
    /// How its caller has proved itself ([`ChainTable::proof`]).
    proof: u64,
    /// Version and suite of TLS that ends here, by their numbers on the wire.
    agreed: Option<(u16, u16)>,
    /// The certificate that its caller was asked for and has shown, where it is not of the mesh.
    shown: Option<Box<Shown>>,
    /// Which rules it began under ([`ChainTable::rules`]).
    pub(crate) rules: u64,
}

/// What a caller has shown, to be held against what is asked for later.
#[derive(Debug)]
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// It was believed: callers with others may have been let in too.
    good: bool,
    /// The last [`ChainTable::proof`] that it was held against, and whether it stood that.
    judged: Cell<(u64, bool)>,
}

impl Shown {
    fn by(stream: &Stream, chain: &ChainTable) -> Option<Box<Self>> {
        let Stream::Server(tls) = stream else {
            return None;
        };
        let own = chain.own.as_ref()?;
        let shown = tls.get_ref().1.peer_certificates()?;
        Some(Box::new(Self {
            good: !own.verified(shown, &Wall::System).is_empty(),
            chain: shown.to_vec(),
            judged: Cell::new((chain.proof, true)),
        }))
    }
}

impl Taken {
    /// How `stream` was sorted, which is what a handshake has made of it where TLS ends here.
    pub(crate) fn new(
        meant: SocketAddr,
        hello: &Hello,
        (chain, stream): (&ChainTable, &Stream),
    ) -> Self {
        let mut protocols = Vec::new();
        for name in &hello.protocols {
            // ALPN has no longer ones.
            if let Ok(length) = u8::try_from(name.len()) {
                protocols.push(length);
                protocols.extend_from_slice(name);
            }
        }
        Self {
            meant,
            // Where nobody had to look it is known all the same.
            tls: hello.tls || chain.tls.is_some(),
            server_name: hello.server_name.as_deref().map(Box::from),
            protocols: protocols.into(),
            agreed: match stream {
                Stream::Server(tls) => {
                    let session = tls.get_ref().1;
                    let version = session.protocol_version().map(u16::from);
                    let suite = session.negotiated_cipher_suite();
                    version.zip(suite.map(|suite| suite.suite().into()))
                }
                _ => None,
            },
            shown: Shown::by(stream, chain),
            proof: chain.proof,
            rules: chain.rules,
        }
    }

    fn hello(&self) -> Hello {
        let mut rest = &self.protocols[..];
        let mut protocols = Vec::new();
        while let Some((length, names)) = rest.split_first() {
            let Some((name, others)) = names.split_at_checked(usize::from(*length)) else {
                break;
            };
            protocols.push(name.to_vec());
            rest = others;
        }
        Hello {
            tls: self.tls,
            server_name: self.server_name.as_deref().map(str::to_owned),
            protocols,
        }
    }

    /// The chain that would take the connection, if its caller has proved what that asks for.
    fn by<'l>(&self, listener: &'l ListenerTable) -> Option<&'l ChainTable> {
        let chain = listener.narrow(self.meant).choose(&self.hello())?;
        let proven = match chain.proof {
            OPEN => true,
            proof if proof == self.proof => true,
            // Where TLS is enough, whoever had to show more may stay; a member of the mesh is not shown
            // the same certificate there, so it has to come again.
            ChainTable::TLS => self.proof > MESH,
            MESH => false,
            // Of whoever has shown a certificate of the mesh, no other is known.
            _ => self.proof > MESH && self.stands(chain),
        };
        (proven && self.may_speak(chain)).then_some(chain)
    }

    /// Whether what the caller has shown is what `chain` asks for.
    fn stands(&self, chain: &ChainTable) -> bool {
        // Whom it believes is not known: it takes nobody.
        let Some(own) = &chain.own else {
            return false;
        };
        let Some(shown) = &self.shown else {
            return own.admits((&[], false), &Wall::System);
        };
        let (proof, stood) = shown.judged.get();
        if proof == chain.proof {
            return stood;
        }
        let stands = own.admits((&shown.chain, shown.good), &Wall::System);
        shown.judged.set((chain.proof, stands));
        stands
    }

    /// Whether the TLS that was agreed on would be. Where a certificate of the gateway's own is missing,
    /// nothing is known against those who came before.
    fn may_speak(&self, chain: &ChainTable) -> bool {
        let (Some((version, suite)), Some(own)) = (self.agreed, &chain.own) else {
            return true;
        };
        own.speaks(version, suite)
    }
}

/// By which rules a connection goes now.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Today<'l> {
    /// By those that it began with: its listener is no more, or has no chain of that name.
    AsBefore,
    /// By this chain's.
    By(&'l ChainTable),
    /// It would not be let in.
    Shut,
}

impl Live {
    /// By which rules a connection goes now.
    pub(crate) fn today(&self, state: &ConnState) -> Today<'_> {
        let taken = state.taken.borrow();
        let Some(taken) = taken.as_deref() else {
            return self.chain_of(state).map_or(Today::AsBefore, Today::By);
        };
        let listener = state.listener.borrow();
        let listener = listener
            .as_deref()
            .and_then(|name| self.tables.listeners.get(name));
        let Some(listener) = listener else {
            // Its connections are told to end, and have their time for it.
            return Today::AsBefore;
        };
        taken.by(listener).map_or(Today::Shut, Today::By)
    }

    /// Whether the chain that took a connection for requests is still the one that does.
    pub(crate) fn still_sorts(&self, state: &ConnState) -> bool {
        match self.today(state) {
            Today::AsBefore => self.tables.serves(state.chain.get()),
            Today::By(chain) => chain.version == state.chain.get(),
            Today::Shut => false,
        }
    }

    /// Whether a connection carries bytes of a caller who would not be let in any more.
    pub(crate) fn shuts_out(&self, state: &ConnState) -> bool {
        let admitted = state.admitted.borrow();
        let Some(admitted) = admitted.as_deref() else {
            return false;
        };
        let of = admitted.connection();
        match self.today(state) {
            Today::AsBefore => false,
            Today::Shut => true,
            // Where only requests are taken, rules are for those: no bytes get past them.
            Today::By(chain) => {
                matches!(chain.action, ChainAction::Http { .. })
                    || !chain.lets_in(&of, &admitted.asked)
            }
        }
    }

    /// What a request goes through that comes on `conn` now: all of one chain, that of the day.
    pub(crate) fn rules<'l>(&'l self, conn: &'l Conn) -> Result<Rules<'l>, Shut> {
        let own = Rules {
            filters: conn.filters.as_deref(),
            http: conn.http(),
        };
        // One that is not to end is served by a chain that is still the same.
        if !conn.state.draining.get() {
            return Ok(own);
        }
        match self.today(&conn.state) {
            Today::AsBefore => Ok(own),
            Today::Shut => Err(Shut),
            Today::By(chain) => match chain.action.http() {
                Some(http) => Ok(Rules {
                    filters: chain.filters.as_deref(),
                    http,
                }),
                // Its rules are for bytes and know nothing of requests.
                None => Err(Shut),
            },
        }
    }

    /// The filters of these; none where no request may come.
    pub(crate) fn filters<'l>(&'l self, conn: &'l Conn) -> Option<&'l Filters> {
        self.rules(conn).ok()?.filters
    }
}

/// What requests go through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'l> {
    pub(crate) filters: Option<&'l Filters>,
    pub(crate) http: &'l HttpTable,
}

/// No request may come by a connection any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shut;

impl From<Shut> for Failure {
    fn from(_: Shut) -> Self {
        Self::Filtered(Box::new(Refusal {
            status: 403,
            flag: Flag::None,
            details: "connection_not_admitted_any_more",
            body: "callers must prove who they are here since this connection began; connect again",
            // PERMISSION_DENIED
            grpc_status: 7,
            headers: Vec::new(),
        }))
    }
}

/// What the TLS of `chain` asks of callers.
fn asked(chain: &Chain) -> Option<&ClientTrust> {
    chain.tls.as_ref()?.own.as_deref()?.clients.as_ref()
}

/// [`ChainTable::proof`] of `chain`; `same` says whether the texts of its credentials are what they were.
pub(crate) fn proof(chain: &Chain, before: Option<(&Chain, &ChainTable)>, same: bool) -> u64 {
    match (&chain.tls, asked(chain)) {
        (None, _) => OPEN,
        (Some(tls), None) if tls.own.is_none() => MESH,
        (Some(_), None) => ChainTable::TLS,
        (Some(_), asks) => before
            .filter(|(old, _)| same && asked(old) == asks)
            .map_or_else(next_version, |(_, table)| table.proof),
    }
}

/// Whether both say the same of who may do what.
pub(crate) fn judges_alike(old: &Chain, new: &Chain) -> bool {
    let mesh = |chain: &Chain| chain.tls.as_ref().map(|tls| tls.own.is_none());
    let judging = |chain: &Chain| -> Vec<HttpFilter> {
        let judges = |filter: &&HttpFilter| {
            matches!(
                filter,
                HttpFilter::JwtAuthn(_) | HttpFilter::Rbac(_) | HttpFilter::ExtAuthz(_)
            )
        };
        chain.filters.iter().filter(judges).cloned().collect()
    };
    mesh(old) == mesh(new)
        && asked(old) == asked(new)
        && old.guards == new.guards
        && judging(old) == judging(new)
}
