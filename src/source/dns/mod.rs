//! DNS as a source: a name that is asked for again and again, as a service of the mesh.
//!
//! Owns which name is meant, how often it is asked for, and what stays while nobody can say. How one
//! question is asked and answered is in `ask`. Addresses (A, AAAA) are reached at the port of the
//! service; targets (SRV, RFC 2782) at ports of their own, by weight, those of the best priority that
//! can be had.

mod ask;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use self::ask::{Ask, Found, Target};
use super::listed::{self, Listed, Member, Place, Port};
use super::outlet::{Made, Outlet};
use super::{Followed, State, query_text};
use crate::mesh::{Health, Hostname, Locality};
use crate::resource::INSTANCE;
use crate::rt::backoff::Backoff;
use crate::rt::{Tasks, Wall};

/// Answers hold at least as long, whatever they say: Consul's say 0.
const SHORTEST: Duration = Duration::from_secs(1);
/// And no longer than this: a name that moves is found within it.
const LONGEST: Duration = Duration::from_mins(5);
/// That there is nothing holds no longer than this, and for half of it where the answer does not say.
const LONGEST_NOTHING: Duration = Duration::from_mins(1);
/// Between questions that nobody answers.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

const HINT: &str = "see whether the name server answers: `dig NAME`; --source dns=NAME?server=ADDRESS:PORT asks another";

/// Which name, and what it is in the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is asked for.
    pub name: String,
    /// For which records.
    pub records: Records,
    /// By which name it is called in the mesh.
    pub host: String,
    /// At which port.
    pub port: u16,
    /// What it speaks, as ServiceEntries say it; unknown where nobody says.
    protocol: Option<&'static str>,
    /// Its namespace in the mesh.
    pub namespace: String,
    /// Who is asked; the machine's name servers where none is given.
    pub servers: Vec<SocketAddr>,
}

/// Which records say where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// A and AAAA.
    Addresses,
    /// SRV.
    Targets,
}

const KEYS: [&str; 4] = ["host", "protocol", "namespace", "server"];

impl Options {
    /// Reads `NAME[:PORT][?host=…&protocol=…&namespace=…&server=…]`, where a name such as
    /// `_http._tcp.example.com` means SRV records.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (plain, pairs) = query_text::split(text, &KEYS)?;
        let (name, port) = match plain.rsplit_once(':') {
            Some((name, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0);
                (
                    name,
                    Some(port.ok_or_else(|| format!("{plain:?} has no port behind the colon"))?),
                )
            }
            None => (plain, None),
        };
        let name = name.trim_end_matches('.');
        let value = |key| query_text::value(&pairs, key);
        let (records, domain, spoken) = match name.strip_prefix('_') {
            Some(rest) => {
                let (service, rest) = rest.split_once("._").ok_or_else(|| wrong(name))?;
                let (_, domain) = rest.split_once('.').ok_or_else(|| wrong(name))?;
                (Records::Targets, domain, listed::protocol(service))
            }
            None => (Records::Addresses, name, None),
        };
        let hostname = |text: &str| {
            let read = text.parse::<Hostname>().ok();
            let read = read.filter(|host| !host.as_str().starts_with('*'));
            read.map(|host| host.to_string())
                .filter(|host| host.parse::<std::net::IpAddr>().is_err())
                .ok_or_else(|| format!("{text:?} is no DNS name"))
        };
        let domain = hostname(domain)?;
        let host = value("host").map_or(Ok(domain), |host| hostname(&host))?;
        let protocol = match value("protocol") {
            Some(written) => Some(
                listed::protocol(&written).ok_or_else(|| format!("{written:?} is no protocol"))?,
            ),
            None => spoken,
        };
        let namespace = value("namespace").unwrap_or_else(|| "default".to_owned());
        if namespace.contains('.') || namespace.parse::<Hostname>().is_err() {
            return Err(format!("{namespace:?} is not a name"));
        }
        let servers = pairs
            .iter()
            .filter(|(key, _)| key == "server")
            .map(|(_, text)| {
                let with_port = text.parse::<SocketAddr>();
                with_port
                    .or_else(|_| text.parse().map(|ip| SocketAddr::new(ip, 53)))
                    .map_err(|_| format!("{text:?} is no address of a name server"))
            });
        let usual = if protocol == Some("HTTPS") { 443 } else { 80 };
        Ok(Self {
            name: name.to_owned(),
            records,
            host,
            port: port.unwrap_or(usual),
            protocol,
            namespace,
            servers: servers.collect::<Result<_, _>>()?,
        })
    }
}

fn wrong(name: &str) -> String {
    format!("{name:?} is no name of SRV records, which are such as _http._tcp.example.com")
}

/// Begins to ask for the name; ends with `tasks`. A server that does not answer is waited for.
pub fn follow(options: &Options, wall: &Wall, tasks: &Tasks) -> Followed {
    let state = watch::Sender::new(State::new(format!("DNS name {}", options.name)));
    let (out, batches) = mpsc::channel(1);
    let followed = Followed {
        batches,
        state: state.subscribe(),
    };
    let follower = Follower {
        ask: Ask::new(options.clone()),
        outlet: Outlet::new(out),
        state,
        wall: wall.clone(),
        backoff: Backoff::new(RETRY.0, RETRY.1),
    };
    tasks.spawn("dns", follower.run(options.clone()));
    followed
}

struct Follower {
    ask: Ask,
    outlet: Outlet,
    state: watch::Sender<State>,
    wall: Wall,
    backoff: Backoff,
}

impl Follower {
    async fn run(mut self, options: Options) {
        loop {
            let pause = match self.ask.once().await {
                Ok(found) => {
                    self.backoff.reset();
                    self.take(&options, &found);
                    // One record of several that nobody can say anything of is as old as it was.
                    let pause = pause(&found);
                    if let Some(reason) = found.stale {
                        self.tell(Some(reason));
                        pause.min(self.backoff.next(fastrand::f64()))
                    } else {
                        self.tell(None);
                        pause
                    }
                }
                Err(reason) => {
                    self.tell(Some(reason));
                    self.backoff.next(fastrand::f64())
                }
            };
            let again = tokio::time::sleep(pause);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = &mut again => break,
                    () = self.outlet.due() => if !self.outlet.flush().await {
                        return;
                    },
                }
            }
        }
    }

    fn take(&mut self, options: &Options, found: &Found) {
        let listed = listed(options, &found.targets);
        // A name without addresses is a service that nobody serves, and not none.
        let made: Made = listed.objects();
        self.outlet.put(&options.host, made);
        self.outlet.complete();
    }

    fn tell(&self, failed: Option<String>) {
        let now = self.wall.millis();
        let (services, instances) = (
            self.outlet.count("ServiceEntry"),
            self.outlet.count(INSTANCE),
        );
        self.state.send_if_modified(|state| {
            let before = state.clone();
            state.complete |= services > 0;
            match failed {
                Some(reason) => state.lost(reason, HINT, now),
                None => state.back(),
            }
            (state.services, state.instances) = (services, instances);
            *state != before
        });
    }
}

/// How long an answer holds.
fn pause(found: &Found) -> Duration {
    let said = found.holds;
    if found.targets.is_empty() {
        said.unwrap_or(LONGEST_NOTHING / 2)
            .clamp(SHORTEST, LONGEST_NOTHING)
    } else {
        said.unwrap_or(SHORTEST).clamp(SHORTEST, LONGEST)
    }
}

/// The service with those of the best priority behind it.
fn listed(options: &Options, targets: &[Target]) -> Listed {
    let best = targets.iter().map(|target| target.priority).min();
    let chosen = targets
        .iter()
        .filter(|target| Some(target.priority) == best);
    // Zero is "hardly ever" beside others (RFC 2782), and nothing of its own.
    let weighed = chosen.clone().any(|target| target.weight > 0);
    let app = options.host.split('.').next().unwrap_or_default();
    let members = chosen.map(|target| {
        let name = format!("{}-{}-{}", options.host, target.address, target.port);
        let weight = match target.weight {
            0 => 1,
            weight if weighed => u32::from(weight) * 10,
            weight => u32::from(weight),
        };
        let member = Member {
            place: Place::Address(target.address),
            port: target.port,
            labels: [("app".to_owned(), app.to_owned())].into(),
            locality: Locality::default(),
            weight,
            health: Health::Healthy,
            account: "default".to_owned(),
            mtls: false,
        };
        (listed::name_of(&name.replace(':', "-")), member)
    });
    Listed {
        from: "DNS",
        hosts: vec![options.host.clone()],
        namespace: options.namespace.clone(),
        workload: options.host.clone(),
        ports: vec![Port {
            number: options.port,
            protocol: options.protocol,
        }],
        members: members.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_asked_for_and_what_it_is_here() {
        let plain = Options::parse("db.example.com:5432?protocol=tcp").unwrap();
        assert_eq!(plain.records, Records::Addresses);
        assert_eq!((plain.host.as_str(), plain.port), ("db.example.com", 5_432));
        assert_eq!(plain.protocol, Some("TCP"));
        assert_eq!(plain.namespace, "default");
        let web = Options::parse("_https._tcp.example.com.").unwrap();
        assert_eq!(web.records, Records::Targets);
        assert_eq!(web.name, "_https._tcp.example.com");
        assert_eq!((web.host.as_str(), web.port), ("example.com", 443));
        let all = "_web._tcp.service.consul:8080?host=web.corp&namespace=x&server=10.0.0.1&server=[::1]:5353";
        let all = Options::parse(all).unwrap();
        assert_eq!(
            (all.host.as_str(), all.port, all.protocol),
            ("web.corp", 8_080, None)
        );
        let servers: Vec<String> = all.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[::1]:5353"]);
        for bad in [
            "",
            "10.0.0.1",
            "db.example.com:0",
            "db.example.com:http",
            "*.example.com",
            "_http.example.com",
            "db.example.com?server=ns1",
            "db.example.com?protocol=carrier-pigeon",
            "db.example.com?ttl=1",
        ] {
            assert!(Options::parse(bad).is_err(), "{bad}");
        }
    }

    fn target(address: &str, priority: u16, weight: u16) -> Target {
        Target {
            address: address.parse().unwrap(),
            port: 8_080,
            priority,
            weight,
        }
    }

    #[test]
    fn the_best_priority_serves_by_weight() {
        let options = Options::parse("_http._tcp.example.com").unwrap();
        let weights = |targets: &[Target]| -> Vec<(String, u32)> {
            let members = listed(&options, targets).members;
            members
                .into_values()
                .map(|member| match member.place {
                    Place::Address(address) => (address.to_string(), member.weight),
                    Place::Name(name) => panic!("{name}"),
                })
                .collect()
        };
        let all = [
            target("10.0.0.1", 10, 60),
            target("10.0.0.2", 10, 0),
            target("10.0.0.3", 20, 100),
        ];
        let expected = [("10.0.0.1".to_owned(), 600), ("10.0.0.2".to_owned(), 1)];
        assert_eq!(weights(&all), expected);
        // Those of the best cannot be had: the next ones serve.
        assert_eq!(weights(&all[2..]), [("10.0.0.3".to_owned(), 1_000)]);
        assert_eq!(weights(&[target("::1", 0, 0)]), [("::1".to_owned(), 1)]);
        assert_eq!(weights(&[]), []);
    }

    #[test]
    fn answers_hold_within_bounds() {
        let found = |targets: Vec<Target>, holds: Option<u64>| Found {
            targets,
            holds: holds.map(Duration::from_secs),
            stale: None,
        };
        let some = || vec![target("10.0.0.1", 0, 0)];
        let seconds = |found| pause(&found).as_secs();
        assert_eq!(seconds(found(some(), Some(0))), 1);
        assert_eq!(seconds(found(some(), Some(30))), 30);
        assert_eq!(seconds(found(some(), Some(86_400))), 300);
        assert_eq!(seconds(found(Vec::new(), None)), 30);
        assert_eq!(seconds(found(Vec::new(), Some(5))), 5);
        assert_eq!(seconds(found(Vec::new(), Some(900))), 60);
    }
}
