//! What is asked: a request as it would be sent on, and who makes it.

use std::net::SocketAddr;

use super::super::super::context::{Conn, Live};
use super::super::Version;
use super::super::edits::Edits;
use super::super::fields::Name;
use super::super::head::RequestOut;
use super::super::marks::{Caller, RequestMarks};
use super::super::plan::{Facts, Seen};

/// A question. Names of fields are in lower case.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) method: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) authority: Vec<u8>,
    pub(super) tls: bool,
    pub(super) version: Version,
    pub(super) fields: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of the body, as far as it is known.
    pub(super) length: Option<u64>,
    pub(super) ends: Ends,
}

/// Who calls whom.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Whoever called.
    pub(super) source: SocketAddr,
    pub(super) source_id: String,
    /// What it showed, escaped as for a URL.
    pub(super) certificate: String,
    /// Whom it meant.
    pub(super) destination: SocketAddr,
    pub(super) destination_id: String,
    pub(super) server_name: String,
}

impl Ends {
    pub(super) fn of(live: &Live, conn: &Conn) -> Self {
        let id = |id: Option<&str>| id.unwrap_or_default().to_owned();
        let identity = live.identity.as_ref().filter(|_| conn.tls);
        Self {
            source: conn.remote,
            source_id: id(conn.principal.as_deref()),
            certificate: conn.own.known.certificate().unwrap_or_default(),
            destination: conn.meant.unwrap_or(conn.local),
            destination_id: id(identity.map(|own| own.id.as_str())),
            server_name: id(conn.server_name.as_deref()),
        }
    }
}

impl Question {
    pub(super) fn of((live, conn): (&Live, &Conn), seen: &Seen<'_>, facts: Facts) -> Self {
        let ask = seen.ask;
        let http = conn.http();
        let marks = http.marks_requests.then(|| {
            let caller = Caller::of(conn.remote.ip(), ask.fields, &http.options.remote);
            RequestMarks::new(conn, ask.fields, ask.scan, caller)
        });
        let path = if seen.whole { b"*" } else { seen.path };
        let out = RequestOut {
            method: ask.method,
            path,
            authority: seen.authority,
            fields: ask.fields,
            told: seen.told,
            scan: ask.scan,
            edits: Edits::default(),
            added: &[],
            framing: ask.framing,
            web: false,
            hides_encoding: false,
            inbound: conn.inbound(),
            marks: marks.as_ref(),
            client_cert: conn.client_cert.as_deref(),
            tls: conn.tls,
            version: facts.version,
            upgrade: None,
            key: false,
            passes_deadline: false,
            tells_grpc: false,
            trace: None,
        };
        let mut fields = Vec::new();
        out.to_block(conn.tls).each(|known, name, value| {
            if known != Name::ContentLength {
                fields.push((name.to_vec(), value.to_vec()));
            }
        });
        if let Some(protocol) = ask.upgrade {
            fields.push((b"connection".to_vec(), b"upgrade".to_vec()));
            fields.push((b"upgrade".to_vec(), protocol.to_vec()));
        }
        Self {
            method: ask.method.to_vec(),
            path: path.to_vec(),
            authority: seen.authority.to_vec(),
            tls: conn.tls,
            version: facts.version,
            fields,
            length: ask.scan.length,
            ends: Ends::of(live, conn),
        }
    }

    /// The first value of a field.
    pub(super) fn first(&self, name: &str) -> Option<&[u8]> {
        let mut fields = self.fields.iter();
        let found = fields.find(|(own, _)| own == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }

    /// `https` or `http`.
    pub(super) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}
