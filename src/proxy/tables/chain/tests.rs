use crate::mesh::listener::{ChainLimits, Direction, ListenerOptions};

use super::*;

fn chain(name: &str, matches: ChainMatch) -> Chain {
    Chain {
        name: name.to_owned(),
        matches,
        tls: None,
        action: Config::Tcp {
            clusters: vec![(name.to_owned(), 1)],
            options: TcpOptions::default(),
        },
        filters: Vec::new(),
        guards: Vec::new(),
        limits: ChainLimits::default(),
    }
}

fn choose(chains: &[(&str, ChainMatch)], meant: &str, hello: &Hello) -> Option<usize> {
    let clusters: BTreeMap<String, usize> = chains
        .iter()
        .enumerate()
        .map(|(at, (name, _))| ((*name).to_owned(), at))
        .collect();
    let listener = Listener {
        name: "l".to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        direction: Direction::Inbound,
        transparent: true,
        chains: chains
            .iter()
            .map(|(name, matches)| chain(name, matches.clone()))
            .collect(),
        default_chain: None,
        detect_timeout: Duration::ZERO,
        options: ListenerOptions::default(),
    };
    let table = ListenerTable::build(&Arc::new(listener), (&clusters, &BTreeMap::new()), None);
    let chain = table.narrow(meant.parse().unwrap()).choose(hello)?;
    match &chain.action {
        ChainAction::Tcp { targets, .. } => targets[0],
        _ => None,
    }
}

fn port(port: u16) -> ChainMatch {
    ChainMatch {
        port: Some(port),
        ..ChainMatch::default()
    }
}

#[test]
fn a_named_port_never_falls_back() {
    let tls = ChainMatch {
        transport: Some(Transport::Tls),
        ..port(80)
    };
    let chains = [("any", ChainMatch::default()), ("80", tls)];
    assert_eq!(choose(&chains, "1.1.1.1:81", &Hello::default()), Some(0));
    assert_eq!(choose(&chains, "1.1.1.1:80", &Hello::default()), None);
}

#[test]
fn the_longest_prefix_and_the_longest_name_win() {
    let network = |text: &str| ChainMatch {
        destinations: vec![text.parse().unwrap()],
        ..ChainMatch::default()
    };
    let chains = [("8", network("10.0.0.0/8")), ("24", network("10.1.1.0/24"))];
    assert_eq!(choose(&chains, "10.1.1.9:1", &Hello::default()), Some(1));
    assert_eq!(choose(&chains, "10.2.1.9:1", &Hello::default()), Some(0));
    assert_eq!(
        choose(&chains, "[::ffff:10.2.1.9]:1", &Hello::default()),
        Some(0)
    );
    assert_eq!(choose(&chains, "11.2.1.9:1", &Hello::default()), None);
    let name = |text: &str| ChainMatch {
        server_names: vec![text.to_owned()],
        ..ChainMatch::default()
    };
    let chains = [
        ("a", name("*.com")),
        ("b", name("*.x.com")),
        ("c", name("y.x.com")),
    ];
    for (server, expected) in [("y.x.com", 2), ("z.x.com", 1), ("z.com", 0)] {
        let hello = Hello {
            tls: true,
            server_name: Some(server.to_owned()),
            ..Hello::default()
        };
        assert_eq!(
            choose(&chains, "1.1.1.1:1", &hello),
            Some(expected),
            "{server}"
        );
    }
}

#[test]
fn mesh_traffic_is_told_from_the_applications_own_tls() {
    let istio = ChainMatch {
        transport: Some(Transport::Tls),
        application_protocols: vec!["istio".to_owned(), "istio-http/1.1".to_owned()],
        ..port(80)
    };
    let own = ChainMatch {
        transport: Some(Transport::Tls),
        ..port(80)
    };
    let plain = ChainMatch {
        transport: Some(Transport::Plain),
        ..port(80)
    };
    let chains = [("istio", istio), ("own", own), ("plain", plain)];
    let tls = |protocols: &[&str]| Hello {
        tls: true,
        server_name: None,
        protocols: protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
    };
    assert_eq!(choose(&chains, "1.1.1.1:80", &tls(&["istio"])), Some(0));
    assert_eq!(choose(&chains, "1.1.1.1:80", &tls(&["h2"])), Some(1));
    assert_eq!(choose(&chains, "1.1.1.1:80", &Hello::default()), Some(2));
}
