//! Endpoints that are names, of a name server that changes its mind.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use meshctl::mesh::dns::{Family, Lookup, Names, Target};
use meshctl::mesh::route::Action;
use meshctl::mesh::{Assignment, ClusterKind, View};
use meshctl::net::{BindOptions, bind};
use meshctl::proxy::Options;
use meshctl::rt::Tasks;
use tokio::net::UdpSocket;

use super::support::*;

/// What a name server does with questions for a name.
#[derive(Debug, Clone)]
enum Says {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// That it cannot say.
    Failure,
    /// Nothing.
    Nothing,
    /// The addresses, after so long.
    Late(Vec<IpAddr>, Duration),
}

/// A name server; names that it does not know are not.
struct Server {
    address: SocketAddr,
    says: Arc<Mutex<BTreeMap<String, Says>>>,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
    _tasks: Tasks,
}

impl Server {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (says, asked) = (Arc::default(), Arc::default());
        let tasks = Tasks::new();
        tasks.spawn("name server", {
            let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
            async move {
                let mut datagram = [0; 1500];
                loop {
                    let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
                    if let Some((answer, wait)) = answer(&datagram[..length], &says, &asked) {
                        tokio::time::sleep(wait).await;
                        socket.send_to(&answer, from).await.unwrap();
                    }
                }
            }
        });
        Self {
            address,
            says,
            asked,
            _tasks: tasks,
        }
    }

    fn says(&self, name: &str, says: Says) {
        self.says.lock().unwrap().insert(name.to_owned(), says);
    }

    fn points(&self, name: &str, addresses: &[SocketAddr]) {
        let addresses = addresses.iter().map(SocketAddr::ip).collect();
        self.says(name, Says::Addresses(addresses, 300));
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(
    question: &[u8],
    says: &Mutex<BTreeMap<String, Says>>,
    asked: &Mutex<Vec<(String, RecordType)>>,
) -> Option<(Vec<u8>, Duration)> {
    let mut wait = Duration::ZERO;
    let mut message = Message::from_vec(question).unwrap();
    let query = message.queries.first().unwrap().clone();
    let name = query.name().to_ascii().trim_end_matches('.').to_owned();
    asked
        .lock()
        .unwrap()
        .push((name.clone(), query.query_type()));
    message.metadata.message_type = MessageType::Response;
    let says = says.lock().unwrap().get(&name).cloned();
    let says = says.map(|says| match says {
        Says::Late(addresses, late) => {
            wait = late;
            Says::Addresses(addresses, 300)
        }
        other => other,
    });
    match says {
        Some(Says::Addresses(addresses, ttl)) => {
            for address in addresses {
                let data = match (address, query.query_type()) {
                    (IpAddr::V4(address), RecordType::A) => RData::A(A(address)),
                    (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(address)),
                    _ => continue,
                };
                let record = Record::from_rdata(query.name().clone(), ttl, data);
                message.answers.push(record);
            }
        }
        Some(Says::Failure) => message.metadata.response_code = ResponseCode::ServFail,
        Some(Says::Nothing | Says::Late(..)) => return None,
        None => message.metadata.response_code = ResponseCode::NXDomain,
    }
    Some((message.to_vec().unwrap(), wait))
}

/// Two applications on one port of two addresses.
fn pair() -> (App, App) {
    loop {
        let one = App::start("one");
        let beside = SocketAddr::new([127, 0, 0, 2].into(), one.address.port());
        if let Ok(socket) = bind(beside, BindOptions::default()) {
            return (one, App::on("two", 200, socket));
        }
    }
}

fn often() -> Lookup {
    Lookup {
        family: Family::V4Only,
        refresh: Duration::from_millis(20),
        ..Lookup::default()
    }
}

/// A view that carries HTTP from `bind` to a name.
fn to(bind: SocketAddr, logical: bool, lookup: Lookup, target: Target) -> View {
    let mut named = cluster("app");
    named.kind = ClusterKind::Dns(Box::new(Names {
        logical,
        lookup,
        targets: vec![target],
        rest: Assignment::default(),
    }));
    let action = Action::Forward(forward(&[("app", 1)]));
    let mut view = Views::default()
        .http("t", bind)
        .routes("t", vec![route(action)])
        .cluster(named, Vec::new())
        .0;
    view.endpoints.clear();
    view
}

async fn proxy(server: &Server, view: View) -> Proxy {
    let options = Options {
        workers: 1,
        name_servers: vec![server.address],
        ..Options::default()
    };
    Proxy::with(options, view, None).await
}

/// Who answers four requests.
async fn who(bind: SocketAddr) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..4 {
        let answer = get(bind, "/").await;
        names.push(match status(&answer) {
            200 => {
                let body = answer.split("\r\n\r\n").nth(1).unwrap();
                body.split(' ').next().unwrap().to_owned()
            }
            other => other.to_string(),
        });
    }
    names.sort();
    names
}

#[tokio::test]
async fn endpoints_follow_what_a_name_server_says() {
    let server = Server::start().await;
    let (one, two) = pair();
    server.points("app.example", &[one.address, two.address]);
    let bind = free();
    let target = Target::at("app.example", one.address.port());
    let _proxy = proxy(&server, to(bind, false, often(), target)).await;
    assert_eq!(who(bind).await, ["one", "one", "two", "two"]);
    server.points("app.example", &[two.address]);
    eventually(|| async { who(bind).await == ["two"; 4] }).await;
    // Who cannot say, or says nothing, changes nothing.
    for silence in [Says::Failure, Says::Nothing] {
        server.says("app.example", silence);
        let before = server.asked();
        eventually(|| async { server.asked() > before }).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(who(bind).await, ["two"; 4]);
    }
    // It has no address any more.
    server.says.lock().unwrap().clear();
    eventually(|| async { who(bind).await == ["503"; 4] }).await;
    server.points("app.example", &[one.address]);
    eventually(|| async { who(bind).await == ["one"; 4] }).await;
}

#[tokio::test]
async fn a_listener_waits_for_names_that_were_never_answered() {
    let server = Server::start().await;
    let app = App::start("one");
    let late = |app: &App| Says::Late(vec![app.address.ip()], Duration::from_millis(300));
    server.says("app.example", late(&app));
    let bind = free();
    let target = Target::at("app.example", app.address.port());
    let starting = proxy(&server, to(bind, false, often(), target));
    let answering = async {
        eventually(|| async { server.asked() > 0 }).await;
        assert!(!reachable(bind).await);
        server.points("app.example", &[app.address]);
    };
    let (running, ()) = tokio::join!(starting, answering);
    assert_eq!(who(bind).await, ["one"; 4]);
    // So does a change that brings another name; until then, all is as it was.
    let other = App::start("other");
    let target = Target::at("other.example", other.address.port());
    server.says("other.example", late(&other));
    running.views.publish(to(bind, false, often(), target));
    eventually(|| async {
        let asked = server.asked.lock().unwrap();
        asked.iter().any(|(name, _)| name == "other.example")
    })
    .await;
    assert_eq!(who(bind).await, ["one"; 4]);
    eventually(|| async { who(bind).await == ["other"; 4] }).await;
    // Nobody asks for what nobody names.
    let before = server.asked();
    eventually(|| async { server.asked() > before + 3 }).await;
    let asked = server.asked.lock().unwrap();
    let late = asked.iter().rev().take(3);
    assert!(late.into_iter().all(|(name, _)| name == "other.example"));
}

#[tokio::test]
async fn all_addresses_of_a_logical_name_are_one_endpoint() {
    let server = Server::start().await;
    let app = App::start("one");
    // Nobody listens there by IPv6, and connections try both.
    let nobody: SocketAddr = "[::1]:1".parse().unwrap();
    server.points("app.example", &[nobody, app.address]);
    let bind = free();
    let lookup = Lookup {
        family: Family::All,
        ..often()
    };
    let target = Target::at("app.example", app.address.port());
    let _proxy = proxy(&server, to(bind, true, lookup, target)).await;
    assert_eq!(who(bind).await, ["one"; 4]);
    let asked = server.asked.lock().unwrap().clone();
    let kinds = |kind| asked.iter().any(|(_, asked)| *asked == kind);
    assert!(kinds(RecordType::A) && kinds(RecordType::AAAA));
}

#[tokio::test]
async fn a_life_is_respected_where_that_is_asked_for() {
    let server = Server::start().await;
    let app = App::start("one");
    for (respect_ttl, often_asked) in [(true, false), (false, true)] {
        server.says("app.example", Says::Addresses(vec![app.address.ip()], 300));
        let bind = free();
        let lookup = Lookup {
            respect_ttl,
            ..often()
        };
        let target = Target::at("app.example", app.address.port());
        let proxy = proxy(&server, to(bind, false, lookup, target)).await;
        assert_eq!(who(bind).await, ["one"; 4]);
        let before = server.asked();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(server.asked() > before + 2, often_asked);
        proxy.stop().await.unwrap();
    }
}
