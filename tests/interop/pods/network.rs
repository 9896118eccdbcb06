//! The network of a cluster: nodes joined by a router, a bridge on each node, pods at the bridges.
//!
//! A namespace lives as long as the process that was started in it, so nothing has a name on the machine and
//! nothing outlives the test. The router is the namespace of the test itself, where the API server, the control
//! plane, the name server and a server outside the mesh are.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::processes::Process;

/// Which addresses a cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

pub(super) const BOTH: Families = Families { v4: true, v6: true };
pub(super) const ONLY_V4: Families = Families {
    v4: true,
    v6: false,
};
pub(super) const ONLY_V6: Families = Families {
    v4: false,
    v6: true,
};

impl Families {
    /// Those of the two that there are, the first as what a pod goes by.
    pub(super) fn of(self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
        let v4 = self.v4.then_some(IpAddr::V4(v4));
        let v6 = self.v6.then_some(IpAddr::V6(v6));
        v4.into_iter().chain(v6).collect()
    }

    /// Of a service: 10.96.0.N.
    pub(super) fn service(self, number: u8) -> Vec<IpAddr> {
        self.of(
            Ipv4Addr::new(10, 96, 0, number),
            Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()),
        )
    }

    /// What is beside the cluster: 1 the control plane, 53 the name server.
    pub(super) fn system(self, number: u8) -> Vec<IpAddr> {
        self.of(
            Ipv4Addr::new(10, 200, 0, number),
            Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, number.into()),
        )
    }

    /// Servers outside of it.
    pub(super) fn outside(self, number: u8) -> Vec<IpAddr> {
        self.of(
            Ipv4Addr::new(192, 0, 2, number),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()),
        )
    }

    /// A pod of a node; 1 is the node itself.
    pub(super) fn pod(self, node: u8, number: u8) -> Vec<IpAddr> {
        self.of(
            Ipv4Addr::new(10, 244, node, number),
            Ipv6Addr::new(0xfd00, 0x244, node.into(), 0, 0, 0, 0, number.into()),
        )
    }
}

/// Runs `work` in a network namespace of its own, on a runtime whose threads are all there.
pub(super) fn in_namespace<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A network namespace, and a mount namespace, that last as long as this.
pub(super) struct Space {
    process: Process,
}

impl Space {
    /// Makes one, and runs `script` in it first.
    pub(super) fn new(script: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .args(["sh", "-ec"])
            .arg(format!("{script}\necho ready\nexec sleep infinity"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{script}");
        Self {
            process: Process(child),
        }
    }

    fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// A program in it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.id().to_string(), "--net", "--mount", "--wd=/"])
            .arg("--")
            .arg(program);
        command
    }

    /// Lines for a shell in it.
    pub(super) fn shell(&self, lines: &str) -> Output {
        let output = self.command("sh").args(["-ec", lines]).output().unwrap();
        assert!(output.status.success(), "{lines}: {output:?}");
        output
    }
}

/// Lines for a shell here.
fn here(lines: &str) {
    let output = Command::new("sh").args(["-ec", lines]).output().unwrap();
    assert!(output.status.success(), "{lines}: {output:?}");
}

/// `ip` lines that give `device` an address.
fn give(address: &IpAddr, prefix: (u8, u8), device: &str) -> String {
    match address {
        IpAddr::V4(v4) => format!("ip addr add {v4}/{} dev {device}\n", prefix.0),
        IpAddr::V6(v6) => format!("ip -6 addr add {v6}/{} dev {device} nodad\n", prefix.1),
    }
}

fn route(to: (&str, &str), via: &IpAddr) -> String {
    match via {
        IpAddr::V4(v4) => format!("ip route add {} via {v4}\n", to.0),
        IpAddr::V6(v6) => format!("ip -6 route add {} via {v6}\n", to.1),
    }
}

const NO_V6: &str =
    "for all in all default; do echo 1 > /proc/sys/net/ipv6/conf/$all/disable_ipv6; done\n";
const FORWARD: &str = "echo 1 > /proc/sys/net/ipv4/ip_forward\n\
                       [ ! -d /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/all/forwarding\n";

/// A node with its bridge.
pub(super) struct Node {
    pub(super) space: Space,
    pub(super) number: u8,
    families: Families,
}

/// The router, which is the namespace of the calling thread.
pub(super) fn router(families: Families) {
    let mut lines = format!("ip link set lo up\n{FORWARD}");
    for address in [
        families.system(1),
        families.system(53),
        families.outside(7),
        families.outside(8),
    ]
    .concat()
    {
        lines += &give(&address, (32, 128), "lo");
    }
    here(&lines);
}

impl Node {
    pub(super) fn new(number: u8, families: Families) -> Self {
        let space = Space::new("true");
        let id = space.id();
        let between = |end: u8| {
            families.of(
                Ipv4Addr::new(10, 201, number, end),
                Ipv6Addr::new(0xfd00, 0x201, number.into(), 0, 0, 0, 0, end.into()),
            )
        };
        let (router, node) = (between(1), between(2));
        let mut lines = format!(
            "ip link add node{number} type veth peer name up0 netns {id}\nip link set node{number} up\n"
        );
        for (own, theirs) in router.iter().zip(&node) {
            lines += &give(own, (24, 64), &format!("node{number}"));
            let pods = (
                format!("10.244.{number}.0/24"),
                format!("fd00:244:{number}::/64"),
            );
            lines += &route((&pods.0, &pods.1), theirs);
        }
        here(&lines);
        let mut lines = String::new();
        if !families.v6 {
            lines += NO_V6;
        }
        lines += FORWARD;
        lines += "ip link set lo up\nip link set up0 up\nip link add br0 type bridge\nip link set br0 up\n";
        for (own, theirs) in node.iter().zip(&router) {
            lines += &give(own, (24, 64), "up0");
            lines += &route(("default", "default"), theirs);
        }
        for own in families.pod(number, 1) {
            lines += &give(&own, (24, 64), "br0");
        }
        space.shell(&lines);
        Self {
            space,
            number,
            families,
        }
    }

    /// Gives a pod its interface and addresses.
    pub(super) fn attach(&self, pod: &Space, number: u8) -> Vec<IpAddr> {
        let id = pod.id();
        self.space.shell(&format!(
            "ip link add pod{number} type veth peer name eth0 netns {id}\nip link set pod{number} master br0\nip link set pod{number} up"
        ));
        let addresses = self.families.pod(self.number, number);
        let mut lines = String::new();
        if !self.families.v6 {
            lines += NO_V6;
        }
        lines += "ip link set lo up\nip link set eth0 up\n";
        for (own, gateway) in addresses.iter().zip(self.families.pod(self.number, 1)) {
            lines += &give(own, (24, 64), "eth0");
            lines += &route(("default", "default"), &gateway);
        }
        pod.shell(&lines);
        addresses
    }
}
