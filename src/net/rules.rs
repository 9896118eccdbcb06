//! Rules of nftables as data, and as text that people and `nft` read.
//!
//! What the rules should be is left to `capture`, how they get into the kernel to `netlink`.

use std::fmt::Write as _;

use ipnet::IpNet;

/// The name of our table; nothing else is ever touched.
pub const TABLE: &str = "meshctl";

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// Through an interface.
    Through {
        /// Its name.
        name: String,
        /// Out of the machine, or in.
        out: bool,
    },
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
    /// The source network.
    Source(IpNet),
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To this port of this machine.
    Redirect(u16),
    /// As it was.
    Return,
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
        Match::Through { name, out: true } => push(out, format_args!("oifname \"{name}\"")),
        Match::Through { name, out: false } => push(out, format_args!("iifname \"{name}\"")),
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
        Match::Source(network) => {
            let family = match network {
                IpNet::V4(_) => "ip",
                IpNet::V6(_) => "ip6",
            };
            push(out, format_args!("{family} saddr {network}"));
        }
    }
}

fn push(out: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _written = out.write_fmt(words).is_ok();
}
