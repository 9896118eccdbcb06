//! Transparent capture: which connections of a network namespace go to its proxy, as data.
//!
//! [`ruleset`] is pure. [`apply`] puts its result into the kernel by netlink in one transaction,
//! for the network namespace of the calling thread; [`render`] gives the same as text for `nft -f`.
//! The order of the rules is Istio's, so what people know about capture stays true: the proxy's own
//! calls pass, loopback is left alone, the rest goes to 15001 (outbound) and 15006 (inbound).

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::netlink::nft;

/// The name of our table; nothing else is ever touched.
pub const TABLE: &str = "meshctl";

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
            ipv6: true,
        }
    }
}

/// A table of the `inet` family with its chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// In the order in which they are made.
    pub chains: Vec<Chain>,
}

/// A chain of type `nat` that accepts what no rule decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where packets meet it.
    pub hook: Hook,
    /// First match decides.
    pub rules: Vec<Rule>,
}

/// Where packets meet a chain, always with the priority of destination NAT, -100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// From another machine or namespace.
    Prerouting,
    /// From a process of this one.
    Output,
}

/// All matches hold → the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub matches: Vec<Match>,
    /// What then happens.
    pub action: Action,
    /// Why, for whoever reads the rules in the kernel.
    pub why: &'static str,
}

/// One condition. `equal: false` turns it round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// IPv4 or IPv6.
    Ipv6,
    /// The user of the sending process.
    User {
        /// Is or is not.
        equal: bool,
        /// User id.
        id: u32,
    },
    /// The group of the sending process.
    Group {
        /// Is or is not.
        equal: bool,
        /// Group id.
        id: u32,
    },
    /// It comes in through the loopback interface.
    FromLoopback,
    /// It goes out through the loopback interface.
    ToLoopback,
    /// TCP.
    Tcp,
    /// The destination port over TCP.
    TcpPort(u16),
    /// The destination port over UDP.
    UdpPort(u16),
    /// The destination network.
    Destination {
        /// Is or is not.
        equal: bool,
        /// The network.
        network: IpNet,
    },
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To this port of this machine.
    Redirect(u16),
    /// As it was.
    Return,
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
    for who in proxy.iter().copied() {
        for ipv6 in [false, true].into_iter().filter(|ipv6| !ipv6 || spec.ipv6) {
            let network = loopback(ipv6);
            rules.push(rule(
                [
                    who,
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
    rules.push(rule(
        [Match::Tcp],
        Action::Redirect(spec.outbound_port),
        "outgoing calls",
    ));
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
    for port in &spec.exclude_inbound_ports {
        rules.push(rule(
            [Match::TcpPort(*port)],
            Action::Return,
            "excluded port",
        ));
    }
    rules.push(rule(
        [Match::Tcp],
        Action::Redirect(spec.inbound_port),
        "incoming calls",
    ));
    rules
}

/// The same rules as text for `nft -f`, which replaces our table and touches nothing else.
pub fn render(rules: &Ruleset) -> String {
    let mut out = String::new();
    let text = &mut out;
    push(
        text,
        format_args!("table inet {TABLE}\ndelete table inet {TABLE}\n"),
    );
    push(text, format_args!("table inet {TABLE} {{\n"));
    for chain in &rules.chains {
        let hook = match chain.hook {
            Hook::Prerouting => "prerouting",
            Hook::Output => "output",
        };
        push(
            text,
            format_args!(
                "\tchain {} {{\n\t\ttype nat hook {hook} priority -100; policy accept;\n",
                chain.name
            ),
        );
        for rule in &chain.rules {
            text.push_str("\t\t");
            for condition in &rule.matches {
                render_match(text, condition);
                text.push(' ');
            }
            match rule.action {
                Action::Redirect(port) => push(text, format_args!("redirect to :{port}")),
                Action::Return => text.push_str("return"),
            }
            push(text, format_args!(" comment \"{}\"\n", rule.why));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    out
}

fn render_match(out: &mut String, condition: &Match) {
    let not = |equal: bool| if equal { "" } else { "!= " };
    match condition {
        Match::Ipv6 => out.push_str("meta nfproto ipv6"),
        Match::User { equal, id } => push(out, format_args!("meta skuid {}{id}", not(*equal))),
        Match::Group { equal, id } => push(out, format_args!("meta skgid {}{id}", not(*equal))),
        Match::FromLoopback => out.push_str("iifname \"lo\""),
        Match::ToLoopback => out.push_str("oifname \"lo\""),
        Match::Tcp => out.push_str("meta l4proto tcp"),
        Match::TcpPort(port) => push(out, format_args!("tcp dport {port}")),
        Match::UdpPort(port) => push(out, format_args!("udp dport {port}")),
        Match::Destination { equal, network } => {
            let family = match network {
                IpNet::V4(_) => "ip",
                IpNet::V6(_) => "ip6",
            };
            push(out, format_args!("{family} daddr {}{network}", not(*equal)));
        }
    }
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = out.write_fmt(words).is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;

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
