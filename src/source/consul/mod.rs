//! Consul as a source: its catalogue of services and their health, followed by blocking queries.
//!
//! Owns which Consul is asked for what, the queries and how things stand between us. One query waits
//! for the list of services, one for each of them for its instances; what their answers mean is in
//! `read`, how often and with which index they are asked in `query`, how the bytes come in `client`.
//! Consul being away changes nothing: there just are no batches.

mod client;
mod query;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::DropGuard;

use self::client::{Client, Fault};
use super::listed::Listed;
use super::outlet::{Made, Outlet};
use super::{Followed, State, query_text};
use crate::mesh::Hostname;
use crate::resource::INSTANCE;
use crate::rt::{Tasks, Wall};

/// Services that are named one by one where something is said of many.
const NAMED: usize = 5;

/// Which Consul, as whom, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Another datacenter than the agent's own.
    pub datacenter: Option<String>,
    /// A namespace of Consul (Enterprise).
    pub consul_namespace: Option<String>,
    /// A partition of Consul (Enterprise).
    pub partition: Option<String>,
    /// Where its services are in the mesh.
    pub namespace: String,
    /// The last label of names, as Consul's `domain`.
    pub domain: String,
    /// Who may answer.
    pub consistency: Consistency,
    /// File with the token; read for each question, as it may be renewed.
    pub token_file: Option<PathBuf>,
    /// File with the roots that Consul's certificate is below; the machine's where none is given.
    pub ca_file: Option<PathBuf>,
}

/// Which servers of Consul may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Any of them, also one that lags behind a little.
    Stale,
    /// The leader.
    Default,
    /// The leader, once it has made sure that it still is.
    Consistent,
}

const KEYS: [&str; 6] = [
    "dc",
    "ns",
    "partition",
    "namespace",
    "domain",
    "consistency",
];

impl Options {
    /// Reads `http[s]://HOST[:PORT][?dc=…&ns=…&partition=…&namespace=…&domain=…&consistency=…]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (plain, pairs) = query_text::split(text, &KEYS)?;
        let uri: Uri = plain
            .parse()
            .map_err(|error| format!("{plain:?} is no address: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => {
                return Err(format!(
                    "{plain:?} begins with neither http:// nor https://"
                ));
            }
        };
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("a token is given by --consul-token-file, not in the address".to_owned());
        }
        if !matches!(uri.path(), "" | "/") {
            return Err(format!(
                "Consul's API has no path {:?} before it",
                uri.path()
            ));
        }
        let host = authority.host();
        let value = |key| query_text::value(&pairs, key);
        let consistency = match value("consistency").as_deref() {
            None | Some("stale") => Consistency::Stale,
            Some("default") => Consistency::Default,
            Some("consistent") => Consistency::Consistent,
            Some(other) => {
                return Err(format!(
                    "consistency is stale, default or consistent, not {other:?}"
                ));
            }
        };
        let made = Self {
            tls,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if tls { 8_501 } else { 8_500 }),
            datacenter: value("dc"),
            consul_namespace: value("ns"),
            partition: value("partition"),
            namespace: value("namespace").unwrap_or_else(|| "consul".to_owned()),
            domain: value("domain").unwrap_or_else(|| "consul".to_owned()),
            consistency,
            token_file: None,
            ca_file: None,
        };
        let parts = [&made.datacenter, &made.consul_namespace, &made.partition];
        let labels = parts.into_iter().flatten().chain([&made.namespace]);
        for label in labels {
            if label.contains('.') || label.parse::<Hostname>().is_err() {
                return Err(format!("{label:?} is not a name"));
            }
        }
        let empty = made.domain.split('.').any(str::is_empty);
        made.host_of("a")
            .filter(|_| !empty)
            .map(|_| made)
            .ok_or_else(|| "the domain is no name".to_owned())
    }

    /// With the files that secrets and roots are in. A token is not sent where others could read it.
    pub fn with_files(
        mut self,
        token_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
    ) -> Result<Self, String> {
        let here = self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        if token_file.is_some() && !self.tls && !here {
            return Err(format!(
                "the token would be sent to {} in the clear; use https://",
                self.host
            ));
        }
        if ca_file.is_some() && !self.tls {
            return Err("roots are of no use with http://; use https://".to_owned());
        }
        (self.token_file, self.ca_file) = (token_file, ca_file);
        Ok(self)
    }

    /// What a service is called, as Consul's own DNS has it; none where that is no name.
    fn host_of(&self, service: &str) -> Option<String> {
        let mut host = format!("{}.service", service.to_ascii_lowercase());
        let beyond = self.consul_namespace.is_some() || self.partition.is_some();
        if let Some(namespace) = &self.consul_namespace {
            host = format!("{host}.{namespace}.ns");
        }
        if let Some(partition) = &self.partition {
            host = format!("{host}.{partition}.ap");
        }
        match &self.datacenter {
            Some(datacenter) if beyond => host = format!("{host}.{datacenter}.dc"),
            Some(datacenter) => host = format!("{host}.{datacenter}"),
            None => {}
        }
        host = format!("{host}.{}", self.domain);
        let read: Hostname = host.parse().ok()?;
        (!host.starts_with('*')).then(|| read.to_string())
    }

    /// Its address.
    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What is said with every question.
    fn scope(&self) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [
            ("dc", &self.datacenter),
            ("ns", &self.consul_namespace),
            ("partition", &self.partition),
        ] {
            if let Some(value) = value {
                text.append_pair(key, value);
            }
        }
        match self.consistency {
            Consistency::Stale => text.append_key_only("stale"),
            Consistency::Default => &mut text,
            Consistency::Consistent => text.append_key_only("consistent"),
        };
        text.finish()
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Query {
    /// Which services there are.
    Services,
    /// Who stands behind one.
    Service(String),
}

/// What came of a question.
#[derive(Debug)]
enum Word {
    /// These are all services.
    Services {
        names: BTreeSet<String>,
        filtered: bool,
    },
    /// This is a service; none where it has no instances that can be called.
    Service(String, Option<Listed>),
    /// There was an answer, and it is the one before.
    Works(Query),
    /// There was none.
    Failed(Query, Fault),
}

/// Begins to follow Consul; ends with `tasks`. One that does not answer is waited for.
pub fn follow(options: &Options, wall: &Wall, tasks: &Tasks) -> Followed {
    let name = match &options.datacenter {
        Some(datacenter) => format!("Consul at {}, datacenter {datacenter}", options.url()),
        None => format!("Consul at {}", options.url()),
    };
    let state = watch::Sender::new(State::new(name));
    let (out, batches) = mpsc::channel(1);
    let followed = Followed {
        batches,
        state: state.subscribe(),
    };
    let (say, heard) = mpsc::channel(64);
    let asked = query::Asked {
        client: Arc::new(Client::new(options.clone())),
        say,
        crowd: watch::Sender::new(1),
    };
    let follower = Follower {
        asked,
        watched: BTreeMap::new(),
        answered: BTreeSet::new(),
        listed: false,
        filtered: false,
        skipped: BTreeSet::new(),
        failing: BTreeMap::new(),
        outlet: Outlet::new(out),
        state,
        wall: wall.clone(),
    };
    tasks.spawn("consul", follower.run(heard));
    followed
}

struct Follower {
    asked: query::Asked,
    /// Who is asked about each service, as long as this lives.
    watched: BTreeMap<String, DropGuard>,
    /// Services that were answered once.
    answered: BTreeSet<String>,
    /// The list of services was answered once.
    listed: bool,
    /// Consul left out what the token may not read.
    filtered: bool,
    /// Services whose names are none.
    skipped: BTreeSet<String>,
    failing: BTreeMap<Query, Fault>,
    outlet: Outlet,
    state: watch::Sender<State>,
    wall: Wall,
}

impl Follower {
    async fn run(mut self, mut heard: mpsc::Receiver<Word>) {
        let tasks = Tasks::new();
        let _asking = tasks.token().drop_guard();
        tasks.spawn("consul", self.asked.clone().services());
        loop {
            tokio::select! {
                // `asked` has a sender, so there is always another.
                Some(word) = heard.recv() => self.take(word),
                () = self.outlet.due() => if !self.outlet.flush().await {
                    return;
                },
            }
        }
    }

    fn take(&mut self, word: Word) {
        match word {
            Word::Services { names, filtered } => {
                self.works(&Query::Services);
                self.filtered = filtered;
                self.listed = true;
                self.services(names);
            }
            Word::Service(name, listed) => {
                // One that is gone may have been answered a moment ago.
                if self.watched.contains_key(&name) {
                    self.works(&Query::Service(name.clone()));
                    let made = listed.map_or_else(Made::new, |listed| listed.objects());
                    self.outlet.put(&name, made);
                    self.answered.insert(name);
                }
            }
            Word::Works(query) => self.works(&query),
            Word::Failed(query, fault) => {
                let gone =
                    matches!(&query, Query::Service(name) if !self.watched.contains_key(name));
                if !gone {
                    self.failing.insert(query, fault);
                }
            }
        }
        if self.listed && self.watched.keys().all(|name| self.answered.contains(name)) {
            self.outlet.complete();
            self.state
                .send_if_modified(|state| !std::mem::replace(&mut state.complete, true));
        }
        self.tell();
    }

    fn works(&mut self, query: &Query) {
        self.failing.remove(query);
    }

    /// Asks about these services, and about no others any more.
    fn services(&mut self, names: BTreeSet<String>) {
        let options = self.asked.client.options();
        let (good, skipped): (BTreeSet<String>, BTreeSet<String>) = names
            .into_iter()
            .partition(|name| options.host_of(name).is_some());
        for name in skipped.difference(&self.skipped) {
            tracing::warn!(service = name, "its name is no DNS label; it is left out");
        }
        self.skipped = skipped;
        let gone = self.watched.keys().filter(|name| !good.contains(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.watched.remove(&name);
            self.answered.remove(&name);
            self.failing.remove(&Query::Service(name.clone()));
            self.outlet.put(&name, Made::new());
        }
        self.asked.crowd.send_replace(good.len() + 1);
        for name in good {
            let asked = &self.asked;
            self.watched.entry(name).or_insert_with_key(|name| {
                let tasks = Tasks::new();
                tasks.spawn("consul", asked.clone().service(name.clone()));
                tasks.token().drop_guard()
            });
        }
    }

    /// Says how things stand, where that is news.
    fn tell(&self) {
        let (services, instances) = (
            self.outlet.count("ServiceEntry"),
            self.outlet.count(INSTANCE),
        );
        let mut warnings = Vec::new();
        if self.filtered {
            warnings.push(
                "the token may not read everything, so Consul leaves services out".to_owned(),
            );
        }
        if !self.skipped.is_empty() {
            let names: Vec<&str> = self
                .skipped
                .iter()
                .take(NAMED)
                .map(String::as_str)
                .collect();
            let more = self.skipped.len().saturating_sub(NAMED);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            warnings.push(format!(
                "no DNS names, so left out: {}{more}",
                names.join(", ")
            ));
        }
        let away = self.failing.first_key_value().map(|(query, fault)| {
            let reason = match query {
                Query::Services => fault.to_string(),
                Query::Service(name) => format!("{fault} (asked for {name})"),
            };
            (reason, fault.hint())
        });
        let now = self.wall.millis();
        self.state.send_if_modified(|state| {
            let before = state.clone();
            match away {
                Some((reason, hint)) => state.lost(reason, hint, now),
                None => state.back(),
            }
            (state.services, state.instances) = (services, instances);
            state.warnings = warnings;
            *state != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_which_consul_and_what_of_it() {
        let plain = Options::parse("http://127.0.0.1:8500").unwrap();
        assert_eq!(plain.host_of("Web").as_deref(), Some("web.service.consul"));
        assert_eq!(plain.scope(), "stale");
        assert_eq!(plain.namespace, "consul");
        let far = Options::parse("https://[::1]?dc=dc2&consistency=default").unwrap();
        assert_eq!((far.host.as_str(), far.port), ("::1", 8_501));
        assert_eq!(far.url(), "https://[::1]:8501");
        assert_eq!(
            far.host_of("web").as_deref(),
            Some("web.service.dc2.consul")
        );
        assert_eq!(far.scope(), "dc=dc2");
        let all = "https://c:1?dc=d&ns=n&partition=p&namespace=default&domain=corp.example";
        let all = Options::parse(all).unwrap();
        assert_eq!(
            all.host_of("web").as_deref(),
            Some("web.service.n.ns.p.ap.d.dc.corp.example")
        );
        assert_eq!(all.scope(), "dc=d&ns=n&partition=p&stale");
        for bad in [
            "127.0.0.1:8500",
            "ftp://consul",
            "http://user:secret@consul",
            "http://consul/v1",
            "http://consul?token=secret",
            "http://consul?consistency=maybe",
            "http://consul?dc=a.b",
            "http://consul?domain=..",
        ] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
        for bad in ["a_b$", "a.b c", "", "*"] {
            assert_eq!(plain.host_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear() {
        let file = Some(PathBuf::from("token"));
        for (url, good) in [
            ("http://127.0.0.1:8500", true),
            ("http://localhost", true),
            ("http://[::1]", true),
            ("https://consul", true),
            ("http://consul", false),
        ] {
            let made = Options::parse(url).unwrap().with_files(file.clone(), None);
            assert_eq!(made.is_ok(), good, "{url}");
        }
        let roots = Options::parse("http://[::1]")
            .unwrap()
            .with_files(None, file);
        assert!(roots.is_err());
    }
}
