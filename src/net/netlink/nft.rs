//! Capture rules as nftables messages.
//!
//! The expressions are those that `nft` makes from the text of [`crate::net::rules::render`];
//! a test applies both and compares what the kernel lists.

use std::io;

use ipnet::IpNet;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions,
    Hook as NftHook, Immediate, InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage,
    Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict,
    VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::net::rules::{Action, Chain, Hook, Match, Rule, Ruleset};

/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its subsystem.
const SUBSYSTEM: u16 = 10;

/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// The priority of destination NAT.
const PRIORITY: i32 = -100;

/// `NFTA_REDIR_REG_PROTO_MIN`.
const REDIRECT_PORT: u16 = 1;

/// `IFNAMSIZ`: interface names are compared whole, zeroes included.
const NAME_BYTES: usize = 16;

/// Replaces (or, with `None`, removes) a table of the `inet` family in one transaction.
pub(crate) fn replace(table: &str, rules: Option<&Ruleset>) -> io::Result<()> {
    let named = || TableMessage {
        attributes: vec![TableAttribute::Name(table.to_owned())],
    };
    // Made before it is removed, so that removing works whether it was there or not.
    let mut changes = vec![
        (NfTablesMessage::NewTable(named()), NLM_F_CREATE),
        (NfTablesMessage::DeleteTable(named()), 0),
    ];
    if let Some(rules) = rules {
        changes.push((NfTablesMessage::NewTable(named()), NLM_F_CREATE));
        for chain in &rules.chains {
            changes.push((chain_message(table, chain), NLM_F_CREATE));
            for rule in &chain.rules {
                changes.push((
                    rule_message(table, chain.name, rule),
                    NLM_F_CREATE | NLM_F_APPEND,
                ));
            }
        }
    }
    let answers = changes.len();
    let mut batch = vec![control(ControlMessage::BatchBegin)];
    for (change, flags) in changes {
        let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
        batch.push(message(header, change, flags | NLM_F_ACK));
    }
    batch.push(control(ControlMessage::BatchEnd));
    super::exchange(NETLINK_NETFILTER, batch, answers)
}

fn control(what: ControlMessage) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    message(header, what, 0)
}

fn message(
    header: NetfilterHeader,
    inner: impl Into<NetfilterMessageInner>,
    flags: u16,
) -> NetlinkMessage<NetfilterMessage> {
    let mut outer = NetlinkHeader::default();
    outer.flags = NLM_F_REQUEST | flags;
    NetlinkMessage::new(
        outer,
        NetlinkPayload::from(NetfilterMessage::new(header, inner)),
    )
}

fn chain_message(table: &str, chain: &Chain) -> NfTablesMessage {
    let hook = match chain.hook {
        Hook::Prerouting => InetHookNumber::PreRouting,
        Hook::Output => InetHookNumber::LocalOut,
    };
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(vec![
                NftHook::Number(hook.into()),
                NftHook::Priority(PRIORITY.cast_unsigned()),
            ]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type("nat".to_owned()),
        ],
    })
}

type Expression = ListAttribute<ExpressionAttribute>;

fn rule_message(table: &str, chain: &str, rule: &Rule) -> NfTablesMessage {
    let mut expressions: Vec<Expression> = Vec::new();
    for condition in &rule.matches {
        condition_expressions(condition, &mut expressions);
    }
    match rule.action {
        Action::Redirect(port) => {
            expressions.push(
                Expressions::Immediate(vec![
                    Immediate::DestinationRegister(Register::Reg1),
                    Immediate::Data(DataAttribute::Value(port.to_be_bytes().to_vec())),
                ])
                .into(),
            );
            let register = u32::from(Register::Reg1).to_be_bytes().to_vec();
            expressions.push(
                Expressions::Other {
                    expression_type: "redir".to_owned(),
                    attributes: vec![DefaultNla::new(REDIRECT_PORT, register)],
                }
                .into(),
            );
        }
        Action::Return => expressions.push(
            Expressions::Immediate(vec![
                Immediate::DestinationRegister(Register::Verdict),
                Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(
                    Verdict::Return,
                )])),
            ])
            .into(),
        ),
    }
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions),
            RuleAttribute::UserData(comment(rule.why)),
        ],
    })
}

/// A comment as `nft` stores it: type 0, length, text, zero.
fn comment(text: &str) -> Vec<u8> {
    let bytes: Vec<u8> = text.bytes().take(127).collect();
    let mut out = vec![0, u8::try_from(bytes.len() + 1).unwrap_or(0)];
    out.extend(bytes);
    out.push(0);
    out
}

fn condition_expressions(condition: &Match, out: &mut Vec<Expression>) {
    match condition {
        Match::Ipv6 => meta(
            MetaKey::Nfproto,
            true,
            vec![u8::from(NetfilterProtoFamily::IPv6)],
            out,
        ),
        // Ids are in the machine's own byte order, unlike everything that comes from a packet.
        Match::User { equal, id } => {
            meta(
                MetaKey::SocketUserId,
                *equal,
                id.to_ne_bytes().to_vec(),
                out,
            );
        }
        Match::Group { equal, id } => {
            meta(
                MetaKey::SocketGroupId,
                *equal,
                id.to_ne_bytes().to_vec(),
                out,
            );
        }
        Match::FromLoopback => meta(MetaKey::Iifname, true, interface("lo"), out),
        Match::ToLoopback => meta(MetaKey::Oifname, true, interface("lo"), out),
        Match::Through { name, out: true } => meta(MetaKey::Oifname, true, interface(name), out),
        Match::Through { name, out: false } => meta(MetaKey::Iifname, true, interface(name), out),
        Match::Tcp => protocol(nix::libc::IPPROTO_TCP, out),
        Match::TcpPort(port) => {
            protocol(nix::libc::IPPROTO_TCP, out);
            destination_port(*port, out);
        }
        Match::UdpPort(port) => {
            protocol(nix::libc::IPPROTO_UDP, out);
            destination_port(*port, out);
        }
        Match::Destination { equal, network } => address(*network, (16, 24), *equal, out),
        Match::Source(network) => address(*network, (12, 8), true, out),
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_BYTES, 0);
    bytes
}

fn protocol(number: i32, out: &mut Vec<Expression>) {
    meta(
        MetaKey::L4Proto,
        true,
        vec![u8::try_from(number).unwrap_or(0)],
        out,
    );
}

fn meta(key: MetaKey, equal: bool, value: Vec<u8>, out: &mut Vec<Expression>) {
    out.push(
        Expressions::Meta(vec![
            Meta::Key(key),
            Meta::DestinationRegister(Register::Reg1),
        ])
        .into(),
    );
    compare(equal, value, out);
}

/// Offset 2 of the transport header, for TCP and UDP alike.
fn destination_port(port: u16, out: &mut Vec<Expression>) {
    load(2, 2, 2, out);
    compare(true, port.to_be_bytes().to_vec(), out);
}

/// `at`: where the address stands in the header of either family.
fn address(network: IpNet, at: (u32, u32), equal: bool, out: &mut Vec<Expression>) {
    let (family, offset, address, mask) = match network {
        IpNet::V4(v4) => (
            NetfilterProtoFamily::IPv4,
            at.0,
            v4.network().octets().to_vec(),
            v4.netmask().octets().to_vec(),
        ),
        IpNet::V6(v6) => (
            NetfilterProtoFamily::IPv6,
            at.1,
            v6.network().octets().to_vec(),
            v6.netmask().octets().to_vec(),
        ),
    };
    meta(MetaKey::Nfproto, true, vec![u8::from(family)], out);
    let whole = usize::from(network.prefix_len()) / 8;
    let length = u32::try_from(address.len()).unwrap_or(0);
    if network.prefix_len().is_multiple_of(8) && whole > 0 {
        // A prefix of whole bytes needs no mask: only those are loaded.
        let bytes: Vec<u8> = address.into_iter().take(whole).collect();
        load(1, offset, u32::try_from(whole).unwrap_or(0), out);
        compare(equal, bytes, out);
        return;
    }
    load(1, offset, length, out);
    out.push(
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(length),
            Bitwise::Mask(DataAttribute::Value(mask.clone())),
            Bitwise::Xor(DataAttribute::Value(vec![0; mask.len()])),
        ])
        .into(),
    );
    compare(equal, address, out);
}

/// `base` 1 is the network header, 2 the transport header.
fn load(base: u32, offset: u32, length: u32, out: &mut Vec<Expression>) {
    out.push(
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(base),
            Payload::Offset(offset),
            Payload::Len(length),
        ])
        .into(),
    );
}

fn compare(equal: bool, value: Vec<u8>, out: &mut Vec<Expression>) {
    let operator = if equal {
        Operator::Equal
    } else {
        Operator::NotEqual
    };
    out.push(
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(operator),
            Cmp::Data(DataAttribute::Value(value)),
        ])
        .into(),
    );
}
