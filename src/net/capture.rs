//! Transparent capture: which connections of a network namespace go to its proxy, as data.
//!
//! [`ruleset`] is pure. [`apply`] puts its result into the kernel by netlink in one transaction,
//! for the network namespace of the calling thread; [`super::rules::render`] gives the same as text for `nft -f`.
//! The order of the rules is Istio's, so what people know about capture stays true: the proxy's own
//! calls pass, loopback is left alone, the rest goes to 15001 (outbound) and 15006 (inbound).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::netlink::{link, nft};
use super::rules::{Action, Chain, Hook, Match, Rule, Ruleset, TABLE};

/// What is captured. [`CaptureSpec::default`] has Istio's ports and user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureSpec {
    /// Where outgoing connections go.
    pub outbound_port: u16,
    /// Where incoming connections go.
    pub inbound_port: u16,
    /// Where DNS queries go, over UDP and TCP; `None` leaves them alone.
    pub dns_port: Option<u16>,
    /// The proxy's user; its calls are not captured.
    pub proxy_uid: u32,
    /// The proxy's group, likewise.
    pub proxy_gid: Option<u32>,
    /// Incoming connections to these ports are left alone.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outgoing connections to these ports are left alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Outgoing connections to these networks are left alone.
    pub exclude_outbound: Vec<IpNet>,
    /// When there, only incoming connections to these ports are captured.
    pub only_inbound_ports: Option<Vec<u16>>,
    /// When there, only outgoing connections to these networks are captured, and to `outbound_ports`.
    pub only_outbound: Option<Vec<IpNet>>,
    /// Outgoing connections to these ports are captured whatever their network.
    pub outbound_ports: Vec<u16>,
    /// What comes in or goes out through these interfaces is left alone.
    pub exclude_interfaces: Vec<String>,
    /// Whether IPv6 is captured too; without it IPv6 is left alone.
    pub ipv6: bool,
}

impl Default for CaptureSpec {
    fn default() -> Self {
        Self {
            outbound_port: 15_001,
            inbound_port: 15_006,
            dns_port: Some(15_053),
            proxy_uid: 1337,
            proxy_gid: Some(1337),
            exclude_inbound_ports: vec![15_000, 15_020, 15_021, 15_090],
            exclude_outbound_ports: Vec::new(),
            exclude_outbound: Vec::new(),
            only_inbound_ports: None,
            only_outbound: None,
            outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            ipv6: true,
        }
    }
}

/// Where the proxy calls its own application from, so that it is not taken for a caller (Istio's addresses).
/// The first is on loopback anyway; [`prepare`] puts the other there.
const OWN: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(127, 0, 0, 6),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6),
);

/// Where the proxy calls its application at `to` from.
pub fn own_source(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => OWN.0.into(),
        IpAddr::V6(_) => OWN.1.into(),
    }
}

/// Whether the kernel knows IPv6; a pod may still have no address of it.
pub fn knows_ipv6() -> bool {
    socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).is_ok()
}

/// Gives loopback the IPv6 address that the proxy calls its application from, for the network namespace of
/// the calling thread. It may be there.
pub fn prepare() -> io::Result<()> {
    match link::add_address("lo", OWN.1, 128) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// The rules for `spec`.
pub fn ruleset(spec: &CaptureSpec) -> Ruleset {
    Ruleset {
        chains: vec![
            Chain {
                name: "output",
                hook: Hook::Output,
                rules: output(spec),
            },
            Chain {
                name: "prerouting",
                hook: Hook::Prerouting,
                rules: prerouting(spec),
            },
        ],
    }
}

/// Replaces our table in the calling thread's network namespace, in one transaction.
pub fn apply(rules: &Ruleset) -> io::Result<()> {
    nft::replace(TABLE, Some(rules))
}

/// Removes our table from the calling thread's network namespace; it need not be there.
pub fn remove() -> io::Result<()> {
    nft::replace(TABLE, None)
}

fn loopback(ipv6: bool) -> IpNet {
    if ipv6 {
        IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128)
    } else {
        IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8)
    }
}

fn rule(matches: impl Into<Vec<Match>>, action: Action, why: &'static str) -> Rule {
    Rule {
        matches: matches.into(),
        action,
        why,
    }
}

fn output(spec: &CaptureSpec) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !spec.ipv6 {
        rules.push(rule([Match::Ipv6], Action::Return, "IPv6 is not captured"));
    }
    for own in [IpNet::from(IpAddr::V4(OWN.0)), IpAddr::V6(OWN.1).into()] {
        if spec.ipv6 || own.addr().is_ipv4() {
            let matches = [Match::Source(own), Match::ToLoopback];
            rules.push(rule(matches, Action::Return, "to the application"));
        }
    }
    let id = spec.proxy_uid;
    let mut proxy = vec![Match::User { equal: true, id }];
    let mut others = vec![Match::User { equal: false, id }];
    if let Some(id) = spec.proxy_gid {
        proxy.push(Match::Group { equal: true, id });
        others.push(Match::Group { equal: false, id });
    }
    if let Some(port) = spec.dns_port {
        for query in [Match::UdpPort(53), Match::TcpPort(53)] {
            let mut matches = others.clone();
            matches.push(query);
            // Before the loopback rule: resolvers such as 127.0.0.53 are asked through it.
            rules.push(rule(
                matches,
                Action::Redirect(port),
                "the proxy answers names",
            ));
        }
    }
    for who in &proxy {
        for ipv6 in [false, true].into_iter().filter(|ipv6| !ipv6 || spec.ipv6) {
            let network = loopback(ipv6);
            rules.push(rule(
                [
                    who.clone(),
                    Match::ToLoopback,
                    Match::Destination {
                        equal: false,
                        network,
                    },
                    Match::Tcp,
                ],
                Action::Redirect(spec.inbound_port),
                "a service that calls itself enters like any other caller",
            ));
        }
    }
    for who in proxy {
        rules.push(rule([who], Action::Return, "the proxy's own calls"));
    }
    rules.push(rule([Match::ToLoopback], Action::Return, "inside the pod"));
    for name in &spec.exclude_interfaces {
        let through = Match::Through {
            name: name.clone(),
            out: true,
        };
        rules.push(rule([through], Action::Return, "excluded interface"));
    }
    for port in &spec.exclude_outbound_ports {
        rules.push(rule(
            [Match::TcpPort(*port)],
            Action::Return,
            "excluded port",
        ));
    }
    for network in &spec.exclude_outbound {
        let network = network.trunc();
        rules.push(rule(
            [Match::Destination {
                equal: true,
                network,
            }],
            Action::Return,
            "excluded network",
        ));
    }
    let out = Action::Redirect(spec.outbound_port);
    let Some(only) = &spec.only_outbound else {
        rules.push(rule([Match::Tcp], out, "outgoing calls"));
        return rules;
    };
    for port in &spec.outbound_ports {
        rules.push(rule([Match::TcpPort(*port)], out, "included port"));
    }
    for network in only {
        let network = network.trunc();
        let to = Match::Destination {
            equal: true,
            network,
        };
        rules.push(rule([to, Match::Tcp], out, "included network"));
    }
    rules
}

fn prerouting(spec: &CaptureSpec) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !spec.ipv6 {
        rules.push(rule([Match::Ipv6], Action::Return, "IPv6 is not captured"));
    }
    rules.push(rule(
        [Match::FromLoopback],
        Action::Return,
        "inside the pod",
    ));
    for name in &spec.exclude_interfaces {
        let through = Match::Through {
            name: name.clone(),
            out: false,
        };
        rules.push(rule([through], Action::Return, "excluded interface"));
    }
    for port in &spec.exclude_inbound_ports {
        rules.push(rule(
            [Match::TcpPort(*port)],
            Action::Return,
            "excluded port",
        ));
    }
    let to_proxy = Action::Redirect(spec.inbound_port);
    match &spec.only_inbound_ports {
        None => rules.push(rule([Match::Tcp], to_proxy, "incoming calls")),
        Some(ports) => {
            let included = ports.iter();
            rules.extend(
                included.map(|port| rule([Match::TcpPort(*port)], to_proxy, "included port")),
            );
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::rules::render;

    fn lines(spec: &CaptureSpec) -> Vec<String> {
        render(&ruleset(spec))
            .lines()
            .map(|line| line.trim().split(" comment ").next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_default_reads_as_istio_people_expect() {
        assert_eq!(
            lines(&CaptureSpec::default()),
            [
                "table inet meshctl",
                "delete table inet meshctl",
                "table inet meshctl {",
                "chain output {",
                "type nat hook output priority -100; policy accept;",
                "ip saddr 127.0.0.6/32 oifname \"lo\" return",
                "ip6 saddr ::6/128 oifname \"lo\" return",
                "meta skuid != 1337 meta skgid != 1337 udp dport 53 redirect to :15053",
                "meta skuid != 1337 meta skgid != 1337 tcp dport 53 redirect to :15053",
                "meta skuid 1337 oifname \"lo\" ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :15006",
                "meta skuid 1337 oifname \"lo\" ip6 daddr != ::1/128 meta l4proto tcp redirect to :15006",
                "meta skgid 1337 oifname \"lo\" ip daddr != 127.0.0.0/8 meta l4proto tcp redirect to :15006",
                "meta skgid 1337 oifname \"lo\" ip6 daddr != ::1/128 meta l4proto tcp redirect to :15006",
                "meta skuid 1337 return",
                "meta skgid 1337 return",
                "oifname \"lo\" return",
                "meta l4proto tcp redirect to :15001",
                "}",
                "chain prerouting {",
                "type nat hook prerouting priority -100; policy accept;",
                "iifname \"lo\" return",
                "tcp dport 15000 return",
                "tcp dport 15020 return",
                "tcp dport 15021 return",
                "tcp dport 15090 return",
                "meta l4proto tcp redirect to :15006",
                "}",
                "}",
            ]
        );
    }

    #[test]
    fn exclusions_come_before_the_catch_all_and_hosts_are_cut_to_networks() {
        let spec = CaptureSpec {
            dns_port: None,
            proxy_gid: None,
            exclude_outbound_ports: vec![3306],
            exclude_outbound: vec!["10.1.2.3/16".parse().unwrap()],
            ipv6: false,
            ..CaptureSpec::default()
        };
        let lines = lines(&spec);
        let at = |line: &str| lines.iter().position(|l| l == line).unwrap_or(usize::MAX);
        assert!(at("tcp dport 3306 return") < at("meta l4proto tcp redirect to :15001"));
        assert!(at("ip daddr 10.1.0.0/16 return") < at("meta l4proto tcp redirect to :15001"));
        assert!(at("meta nfproto ipv6 return") < at("meta skuid 1337 return"));
        assert!(
            !lines
                .iter()
                .any(|line| line.contains("dport 53") || line.contains("skgid"))
        );
    }
}
