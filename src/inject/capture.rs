//! The nftables rules of a meshed pod, for its init container.

use super::InjectConfig;

/// The user that the proxy runs as; its own connections are not sent back to it. Istio's number.
pub(super) const PROXY_USER: u32 = 1337;

/// Ports of the proxy itself: admin, health, metrics.
const OWN_PORTS: [u16; 4] = [15000, 15020, 15021, 15090];

/// Ports and address ranges that are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exclusions {
    pub(super) inbound_ports: Vec<u16>,
    pub(super) outbound_ports: Vec<u16>,
    pub(super) outbound_ranges: Vec<ipnet::IpNet>,
}

/// One text for `nft`. Deleting a table that was just added makes it safe to run twice.
pub(super) fn rules(config: &InjectConfig, except: &Exclusions) -> String {
    let mut inbound: Vec<u16> = OWN_PORTS
        .into_iter()
        .chain([config.inbound_port])
        .chain(except.inbound_ports.iter().copied())
        .collect();
    inbound.sort_unstable();
    inbound.dedup();
    let ports = |ports: &[u16]| {
        let texts: Vec<String> = ports.iter().map(u16::to_string).collect();
        texts.join(", ")
    };
    let mut lines = vec![
        "add table inet meshctl".to_owned(),
        "delete table inet meshctl".to_owned(),
        "table inet meshctl {".to_owned(),
        "  chain inbound {".to_owned(),
        "    type nat hook prerouting priority dstnat; policy accept;".to_owned(),
        format!("    tcp dport {{ {} }} return", ports(&inbound)),
        format!("    meta l4proto tcp redirect to :{}", config.inbound_port),
        "  }".to_owned(),
        "  chain outbound {".to_owned(),
        "    type nat hook output priority -100; policy accept;".to_owned(),
        format!("    meta skuid {PROXY_USER} return"),
        "    oifname \"lo\" return".to_owned(),
    ];
    if !except.outbound_ports.is_empty() {
        lines.push(format!(
            "    tcp dport {{ {} }} return",
            ports(&except.outbound_ports)
        ));
    }
    for range in &except.outbound_ranges {
        let family = match range {
            ipnet::IpNet::V4(_) => "ip",
            ipnet::IpNet::V6(_) => "ip6",
        };
        lines.push(format!("    {family} daddr {range} return"));
    }
    lines.push(format!(
        "    meta l4proto tcp redirect to :{}",
        config.outbound_port
    ));
    lines.push("  }".to_owned());
    lines.push("}\n".to_owned());
    lines.join("\n")
}
