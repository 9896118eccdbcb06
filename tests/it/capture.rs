//! Capture rules in real network namespaces: the netlink and the text form agree, and packets go
//! where the rules say.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use meshctl::net::capture::{self, CaptureSpec};
use meshctl::net::rules::render as rules_text;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect, original_destination};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, gettid, setfsgid, setfsuid};
use tokio::net::TcpListener;

const PROXY: u32 = 1337;

/// Runs `work` on a thread with a network namespace of its own.
fn in_namespace(work: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        skip();
        return;
    }
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        work();
    })
    .join()
    .unwrap();
}

#[expect(clippy::print_stderr, reason = "who runs the tests should see it")]
fn skip() {
    eprintln!("SKIPPED: network namespaces need root");
}

/// A command in this thread's namespace.
fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the kernel lists, without the numbers that differ from load to load.
fn listed() -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.remove("handle");
                map.remove("metainfo");
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut rules = serde_json::from_str(&run("nft -j list ruleset")).unwrap();
    strip(&mut rules);
    rules
}

#[test]
fn netlink_and_text_make_the_same_rules() {
    let every = CaptureSpec {
        exclude_outbound_ports: vec![3306, 6379],
        exclude_outbound: [
            "10.0.0.0/8",
            "192.168.7.0/28",
            "169.254.169.254/32",
            "fd00::/8",
            "2001:db8::/33",
        ]
        .map(|network| network.parse().unwrap())
        .to_vec(),
        ..CaptureSpec::default()
    };
    let bare = CaptureSpec {
        dns_port: None,
        proxy_gid: None,
        exclude_inbound_ports: Vec::new(),
        ipv6: false,
        ..CaptureSpec::default()
    };
    for spec in [CaptureSpec::default(), every, bare] {
        in_namespace(move || {
            let rules = capture::ruleset(&spec);
            capture::apply(&rules).unwrap();
            // A second time replaces, it does not add.
            capture::apply(&rules).unwrap();
            let by_netlink = (listed(), run("nft list ruleset"));
            capture::remove().unwrap();
            capture::remove().unwrap();
            assert_eq!(run("nft list ruleset"), "");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), rules_text(&rules)).unwrap();
            run(&format!("nft -f {}", file.path().display()));
            let by_text = (listed(), run("nft list ruleset"));
            assert_eq!(by_netlink.1, by_text.1);
            assert_eq!(by_netlink.0, by_text.0);
            // As many rules as there are in the data.
            let count: usize = rules.chains.iter().map(|chain| chain.rules.len()).sum();
            let lines = by_netlink.1.lines().filter(|line| line.contains("comment"));
            assert_eq!(lines.count(), count);
        });
    }
}

/// An address of its own and a default route, so that calls to elsewhere leave through `d0`.
fn network() {
    for line in [
        "ip link set lo up",
        "ip link add d0 type veth peer name d1",
        "ip addr add 10.9.0.1/24 dev d0",
        "ip -6 addr add fd09::1/64 dev d0 nodad",
        "ip link set d0 up",
        "ip link set d1 up",
        "ip route add default via 10.9.0.2",
        "ip -6 route add default via fd09::2",
    ] {
        run(line);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn listen(address: &str) -> TcpListener {
    bind(address.parse().unwrap(), BindOptions::default()).unwrap()
}

/// Calls `to` and says who was reached: the listener's port and the original destination.
async fn call(to: &str, listeners: &[&TcpListener]) -> (u16, Option<SocketAddr>) {
    let accepts = listeners.iter().map(|listener| Box::pin(listener.accept()));
    let options = ConnectOptions {
        timeout: Duration::from_secs(5),
        from: None,
    };
    let (stream, accepted) = tokio::join!(
        connect(to.parse().unwrap(), options),
        tokio::time::timeout(
            Duration::from_secs(5),
            futures_util::future::select_all(accepts)
        )
    );
    drop(stream.unwrap_or_else(|error| panic!("{to}: {error}")));
    let (accepted, at, _) = accepted.unwrap();
    let (socket, _) = accepted.unwrap();
    let port = listeners[at].local_addr().unwrap().port();
    (port, original_destination(&socket))
}

#[test]
fn calls_go_where_the_rules_say() {
    in_namespace(|| {
        network();
        capture::apply(&capture::ruleset(&CaptureSpec {
            exclude_outbound_ports: vec![3306],
            ..CaptureSpec::default()
        }))
        .unwrap();
        runtime().block_on(async {
            let out = listen("[::]:15001");
            let inward = listen("[::]:15006");
            let app = listen("[::]:8080");
            let all = [&out, &inward, &app];
            let to = |address: &str| Some(address.parse::<SocketAddr>().unwrap());

            // The application's calls to elsewhere, in both families.
            assert_eq!(call("10.9.9.9:80", &all).await, (15_001, to("10.9.9.9:80")));
            assert_eq!(
                call("10.9.0.77:443", &all).await,
                (15_001, to("10.9.0.77:443"))
            );
            assert_eq!(
                call("[fd00::9]:80", &all).await,
                (15_001, to("[fd00::9]:80"))
            );
            // Inside the pod nothing is captured, so nothing was redirected.
            assert_eq!(call("127.0.0.1:8080", &all).await, (8080, None));
            assert_eq!(call("10.9.0.1:8080", &all).await, (8080, None));
            assert_eq!(call("[::1]:8080", &all).await, (8080, None));
            assert_eq!(call("127.0.0.1:15001", &all).await, (15_001, None));

            // The proxy's calls: to its application as they are, to its own address as a caller.
            for group in [false, true] {
                if group {
                    setfsgid(Gid::from_raw(PROXY));
                } else {
                    setfsuid(Uid::from_raw(PROXY));
                }
                assert_eq!(call("127.0.0.1:8080", &all).await, (8080, None));
                assert_eq!(
                    call("10.9.0.1:8080", &all).await,
                    (15_006, to("10.9.0.1:8080"))
                );
                assert_eq!(
                    call("[fd09::1]:8080", &all).await,
                    (15_006, to("[fd09::1]:8080"))
                );
                // Nobody is there; what counts is that no listener of ours was reached.
                let away = ConnectOptions {
                    timeout: Duration::from_millis(200),
                    from: None,
                };
                assert!(connect("10.9.9.9:80".parse().unwrap(), away).await.is_err());
                setfsuid(Uid::from_raw(0));
                setfsgid(Gid::from_raw(0));
            }
            let away = ConnectOptions {
                timeout: Duration::from_millis(200),
                from: None,
            };
            assert!(
                connect("10.9.9.9:3306".parse().unwrap(), away)
                    .await
                    .is_err()
            );
        });
    });
}

#[test]
fn names_are_asked_of_the_proxy() {
    in_namespace(|| {
        network();
        capture::apply(&capture::ruleset(&CaptureSpec::default())).unwrap();
        let dns = UdpSocket::bind("127.0.0.1:15053").unwrap();
        dns.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for server in ["9.9.9.9:53", "127.0.0.53:53"] {
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            client
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            client.connect(server).unwrap();
            client.send(b"who").unwrap();
            let mut buffer = [0; 16];
            let (size, from) = dns.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..size], b"who");
            dns.send_to(b"me", from).unwrap();
            // The answer seems to come from the server that was asked.
            assert_eq!(client.recv(&mut buffer).unwrap(), 2);
        }
        runtime().block_on(async {
            let tcp = listen("127.0.0.1:15053");
            let asked = Some("9.9.9.9:53".parse().unwrap());
            assert_eq!(call("9.9.9.9:53", &[&tcp]).await, (15_053, asked));
        });
    });
}

#[test]
fn calls_from_outside_enter_through_the_proxy_except_excluded_ports() {
    in_namespace(|| {
        run("ip link set lo up");
        let (send, receive) = mpsc::channel();
        let (ready, wait) = mpsc::channel::<()>();
        // The caller lives in a namespace of its own.
        let caller = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            send.send(gettid()).unwrap();
            wait.recv().unwrap();
            run("ip addr add 10.9.1.2/24 dev v1");
            run("ip link set v1 up");
            runtime().block_on(async {
                let mut answers = Vec::new();
                for to in ["10.9.1.1:8080", "10.9.1.1:15021"] {
                    let options = ConnectOptions::default();
                    answers.push(connect(to.parse().unwrap(), options).await.is_ok());
                }
                answers
            })
        });
        let other = receive.recv().unwrap();
        run(&format!(
            "ip link add v0 type veth peer name v1 netns {other}"
        ));
        run("ip addr add 10.9.1.1/24 dev v0");
        run("ip link set v0 up");
        capture::apply(&capture::ruleset(&CaptureSpec::default())).unwrap();
        runtime().block_on(async {
            let inward = listen("0.0.0.0:15006");
            let health = listen("0.0.0.0:15021");
            ready.send(()).unwrap();
            let (socket, _) = inward.accept().await.unwrap();
            let meant = Some("10.9.1.1:8080".parse().unwrap());
            assert_eq!(original_destination(&socket), meant);
            let (socket, _) = health.accept().await.unwrap();
            assert_eq!(original_destination(&socket), None);
        });
        assert_eq!(caller.join().unwrap(), [true, true]);
    });
}
