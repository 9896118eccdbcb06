//! What listens, and what it does with callers who should not be there: browsers' pages, other users, the slow.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::mesh::until;
use super::plane::{Plane, Proxy, free};
use super::run::{BINARY, Home};

/// A control plane whose ports are known.
struct Stand<'h> {
    plane: Plane<'h>,
    xds: u16,
    tls: u16,
    health: u16,
    metrics: u16,
}

fn start<'h>(home: &'h Home, more: &[&str]) -> Stand<'h> {
    let [xds, tls, health, metrics] = [free(), free(), free(), free()];
    let args = [
        format!("--xds-port={xds}"),
        format!("--tls-port={tls}"),
        format!("--api-port={health}"),
        format!("--metrics-port={metrics}"),
    ];
    let args: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect();
    let plane = Plane::start_with(home, &args);
    Stand {
        plane,
        xds,
        tls,
        health,
        metrics,
    }
}

/// A proxy of the stand and its administration port.
fn proxy(home: &Home, stand: &Stand<'_>) -> (Proxy, u16) {
    let token = stand.plane.token("cart");
    let (inbound, outbound, admin) = (free(), free(), free());
    let child = Command::new(BINARY)
        .args(["--home", home.beside("cart").to_str().unwrap()])
        .args([
            "proxy",
            "--service",
            "cart",
            "--service-account",
            "cart",
            "--join",
            &token,
        ])
        .args(["--app", &format!("{inbound}=127.0.0.1:1")])
        .args(["--control-plane", &stand.plane.tls()])
        .args([
            "--outbound-port",
            &outbound.to_string(),
            "--admin-port",
            &admin.to_string(),
        ])
        .env_clear()
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let proxy = Proxy(child);
    until("the proxy's administration", || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, admin)).ok()
    });
    (proxy, admin)
}

/// Sends `bytes` and reads until the other end closes.
fn raw(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    // It may be closed before all of it was taken.
    let _sent = stream.write_all(bytes).is_ok();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer).is_ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[track_caller]
fn answers(port: u16, request: &str, status: u16) -> String {
    let answer = raw(port, request.as_bytes());
    let begin = format!("HTTP/1.1 {status} ");
    assert!(answer.starts_with(&begin), "{request:?}\n{answer:?}");
    answer
}

#[test]
fn web_pages_reach_no_endpoint_of_ours() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let (mut proxy, admin) = proxy(&home, &stand);
    let readable = [
        (stand.health, "/ready"),
        (stand.metrics, "/metrics"),
        (admin, "/config_dump"),
        (admin, "/stats/prometheus"),
    ];
    for (port, path) in readable {
        let get = |target: &str, host: &str, status| {
            answers(
                port,
                &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
                status,
            )
        };
        let good = format!("127.0.0.1:{port}");
        for host in [good.as_str(), "127.0.0.1", "localhost", "[::1]:1"] {
            get(path, host, 200);
        }
        // A name that a page's owner has pointed at loopback.
        for host in [
            "rebind.example",
            &format!("rebind.example:{port}"),
            "localhost.rebind.example",
            "127.0.0.1.rebind.example",
            "",
        ] {
            let said = get(path, host, 403);
            assert!(said.contains("ask for it by its address"), "{said}");
        }
        get(&format!("http://rebind.example{path}"), &good, 403);
        answers(
            port,
            &format!("GET {path} HTTP/1.1\r\nHost: {good}\r\nHost: rebind.example\r\n\r\n"),
            400,
        );
        // What is answered can be shown in no frame, run as nothing, and read by no other origin.
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {good}\r\nOrigin: http://evil.example\r\n\r\n");
        let said = answers(port, &request, 200).to_ascii_lowercase();
        for field in [
            "x-frame-options: deny\r\n",
            "x-content-type-options: nosniff\r\n",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(said.contains(field), "{field} {said}");
        }
        assert!(!said.contains("access-control-"), "{said}");
    }
    // A form or a script of a page elsewhere.
    let post = |path: &str, more: &str, status| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{admin}\r\nContent-Length: 0\r\n{more}\r\n"
        );
        answers(admin, &request, status)
    };
    for more in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail"] {
            post(path, more, 403);
        }
    }
    // Nor can a page change anything by asking for it in another way.
    for method in ["GET", "OPTIONS", "PUT"] {
        let request = format!("{method} /quitquitquit HTTP/1.1\r\nHost: localhost\r\n\r\n");
        answers(admin, &request, 405);
    }
    assert!(proxy.0.try_wait().unwrap().is_none());
    post("/quitquitquit", "", 200);
    until("the proxy to end", || proxy.0.try_wait().unwrap());
}

#[test]
fn endpoints_of_ours_wait_for_nobody() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let (health, metrics, tls) = (stand.health, stand.metrics, stand.tls);
    // Beside each other, since all wait for times to be over.
    std::thread::scope(|all| {
        all.spawn(|| waits_for_nobody(health, "/ready"));
        all.spawn(|| waits_for_nobody(metrics, "/metrics"));
        all.spawn(|| lets_no_stranger_stay(tls));
    });
}

/// Whoever shows no certificate to the control port has a minute, and ten seconds to greet it.
fn lets_no_stranger_stay(port: u16) {
    let began = Instant::now();
    let mut stranger = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "h2", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A connection of HTTP/2 that asks for nothing.
    let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stranger.stdin.as_mut().unwrap().write_all(begin).unwrap();
    assert_eq!(raw(port, b""), "");
    assert!(began.elapsed() < Duration::from_secs(25));
    // Before the minute is over, who answers no ping is taken for gone.
    while stranger.try_wait().unwrap().is_none() {
        assert!(
            began.elapsed() < Duration::from_secs(75),
            "a stranger may stay"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn waits_for_nobody(port: u16, path: &str) {
    let began = Instant::now();
    // Half a head is not waited for, nor is none.
    let said = raw(
        port,
        format!("GET {path} HTTP/1.1\r\nHost: local").as_bytes(),
    );
    assert!(!said.contains(" 200 "), "{said}");
    assert_eq!(raw(port, b""), "");
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(25), "{waited:?}");
    let long = "a".repeat(64 << 10);
    let long = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n");
    let said = raw(port, long.as_bytes());
    assert!(!said.contains(" 200 "), "{said}");
    // Hundreds who say nothing hold up the next one only until their time is over.
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let held: Vec<_> = (0..300).map(|_| connect()).collect();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    answers(port, &request, 200);
    drop(held);
}

/// Connects to a Unix socket as user `uid`, asks for the version, and says what came.
const ASK: &str = "\
import encodings.idna, os, socket, sys  # the first while its file may be read
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
s = socket.socket(socket.AF_UNIX); s.settimeout(20)
try:
    s.connect(sys.argv[1])
    s.sendall(b'GET /api/v1/version HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n')
    got = b''
    while chunk := s.recv(65536): got += chunk
    print('got', got[:12].decode(), len(got) > 0)
except PermissionError: print('refused by the file')
except ConnectionError: print('got  False')
";

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn the_api_answers_its_own_user_only() {
    let home = Home::new();
    let _stand = start(&home, &[]);
    let socket = sockets(&home.path())
        .into_iter()
        .next()
        .expect("a socket below the home");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    let ask = |uid: u32| {
        let asked = Command::new("python3")
            .args(["-c", ASK, socket.to_str().unwrap(), &uid.to_string()])
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&asked.stdout),
            String::from_utf8_lossy(&asked.stderr)
        )
    };
    if !nix::unistd::geteuid().is_root() {
        // The mode is what such a run can tell.
        eprintln!("only root can be somebody else; not tried: another user at the API's socket");
        return;
    }
    assert_eq!(ask(65_534), "refused by the file\n");
    // Somebody opened it to all; the kernel still says who calls.
    for path in socket
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(std::env::temp_dir()) && *path != std::env::temp_dir())
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(ask(65_534), "got  False\n");
    assert_eq!(ask(0), "got HTTP/1.1 200 True\n");
}

#[test]
fn keys_and_tokens_lie_open_nowhere() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let (_proxy, _) = proxy(&home, &stand);
    let token = stand.plane.token("reviews");
    let secret = token.split('_').nth(2).unwrap();
    // A token that was made, and the one that the proxy has joined with, is in no file of either.
    let found = Command::new("grep")
        .args(["-rlaE", secret])
        .args([home.path(), home.beside("cart"), home.beside("control.log")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    // Every file with a key is for its user alone, and so are the directories above it.
    let with_keys = until("the proxy's key", || {
        let found = Command::new("grep")
            .args(["-rlaE", "BEGIN ([A-Z]+ )?PRIVATE KEY"])
            .args([home.path(), home.beside("cart")])
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        (found.lines().count() >= 2).then_some(found)
    });
    for path in with_keys.lines().map(Path::new) {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path), 0o600, "{}", path.display());
        assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
    }
    let mut names: Vec<_> = with_keys
        .lines()
        .filter_map(|path| path.rsplit('/').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["ca-key.pem", "identity.pem"]);
}

/// Begins HTTP/2 on a port of loopback as user `uid`, and says whether anything was answered.
const BEGIN: &str = "\
import encodings.idna, os, socket, sys  # the first while its file may be read
uid = int(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)
try:
    s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    print(len(s.recv(9)) > 0)
except ConnectionError: print(False)
";

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn xds_without_tls_answers_its_own_user_only() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let begin = |uid: u32| {
        let asked = Command::new("python3")
            .args(["-c", BEGIN, &stand.xds.to_string(), &uid.to_string()])
            .output()
            .unwrap();
        format!(
            "{}{}",
            String::from_utf8_lossy(&asked.stdout),
            String::from_utf8_lossy(&asked.stderr)
        )
    };
    let own = nix::unistd::geteuid();
    if !own.is_root() {
        eprintln!("only root can be somebody else; not tried: another user at xDS without TLS");
        return;
    }
    assert_eq!(begin(own.as_raw()), "True\n");
    assert_eq!(begin(65_534), "False\n");
    // Whoever was turned away has broken nothing.
    assert_eq!(begin(own.as_raw()), "True\n");
}

/// All sockets below `dir`.
fn sockets(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}

/// Where process `id` listens by TCP over IPv4, by what the kernel says.
fn listening(id: u32) -> Vec<SocketAddr> {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap();
    let mut found: Vec<SocketAddr> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words[3] == "0A" && inodes.iter().any(|inode| inode == words[9]))
        .map(|words| {
            let (address, port) = words[1].split_once(':').unwrap();
            let address = u32::from_str_radix(address, 16).unwrap().to_le_bytes();
            (address, u16::from_str_radix(port, 16).unwrap()).into()
        })
        .collect();
    found.sort();
    found
}

#[test]
fn nothing_listens_beyond_this_machine_unless_asked() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let at = |address: [u8; 4], port: u16| SocketAddr::from((address, port));
    let mut all =
        [stand.xds, stand.tls, stand.health, stand.metrics].map(|port| at([127, 0, 0, 1], port));
    all.sort();
    assert_eq!(listening(stand.plane.id()), all);
    stand.plane.stop();
    // Only what asks everybody for a proof may be opened; what tells without one stays.
    let stand = start(&home, &["--listen=0.0.0.0"]);
    let mut all = [stand.xds, stand.health, stand.metrics]
        .map(|port| at([127, 0, 0, 1], port))
        .to_vec();
    all.push(at([0, 0, 0, 0], stand.tls));
    all.sort();
    assert_eq!(listening(stand.plane.id()), all);
}

/// Status and body of what curl gets; over HTTP/2, with a certificate of the mesh if `who` is a directory.
fn curl(url: &str, who: Option<&Path>, more: &[&str]) -> (u16, String) {
    let mut curl = Command::new("curl");
    // Certificates of the mesh name identities and no hosts, hence `-k`.
    curl.args(["-sk", "-m", "20", "--http2", "-w", "\n%{http_code}", url])
        .args(more);
    if let Some(dir) = who {
        curl.arg("--cert")
            .arg(dir.join("cert-chain.pem"))
            .arg("--key")
            .arg(dir.join("key.pem"));
    }
    let said = String::from_utf8(curl.output().unwrap().stdout).unwrap();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

#[test]
fn a_member_speaks_for_itself_alone() {
    let home = Home::new();
    let stand = start(&home, &[]);
    let [cart, reviews] = ["cart", "reviews"].map(|account| {
        let dir = home.beside(account);
        let out = dir.display().to_string();
        home.run(&[
            "identity",
            "issue",
            "--service-account",
            account,
            "--out",
            &out,
        ])
        .exits(0);
        dir
    });
    let args = [
        "register",
        "reviews-1",
        "--service",
        "reviews",
        "--address",
        "10.0.0.7",
        "--service-account",
        "reviews",
    ];
    home.run(&args).exits(0);
    let listed = home
        .run(&["register", "--list", "-o", "json"])
        .exits(0)
        .json();
    let mut instance = listed[0]["instance"].clone();
    let base = format!("https://127.0.0.1:{}/api/v1", stand.tls);
    let all = format!("{base}/registry/instances");
    let one = format!("{all}/default/reviews-1");
    let register = |instance: &serde_json::Value, who: Option<&Path>| {
        let body = serde_json::json!({ "instance": instance }).to_string();
        curl(
            &all,
            who,
            &["-H", "content-type: application/json", "-d", &body],
        )
    };
    let beat = format!("{one}/heartbeat?health=unhealthy");

    // Its own certificate is believed, and those of others and of nobody are not.
    assert_eq!(register(&instance, Some(&reviews)).0, 200);
    for who in [None, Some(cart.as_path())] {
        for (status, said) in [
            register(&instance, who),
            curl(&beat, who, &["-X", "PUT"]),
            curl(&one, who, &["-X", "DELETE"]),
        ] {
            assert_eq!(status, 403, "{who:?}: {said}");
        }
    }
    // Nor does it help to write one's own account into somebody else's entry, or to take its address.
    instance["serviceAccount"] = "cart".into();
    let (status, said) = register(&instance, Some(&cart));
    assert!(
        status == 403 && said.contains("is for default/cart"),
        "{status} {said}"
    );
    let left = home
        .run(&["register", "--list", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(left[0]["instance"]["serviceAccount"], "reviews", "{left}");
    assert_ne!(left[0]["instance"]["health"], "unhealthy", "{left}");

    // What operators may do cannot be asked for here at all.
    for path in [
        "resources/virtualservices",
        "services",
        "proxies",
        "trust",
        "history",
        "tokens",
        "identities",
        "trust/rotation",
    ] {
        for more in [
            &["-X", "GET"][..],
            &[
                "-X",
                "POST",
                "-H",
                "content-type: application/json",
                "-d",
                "{}",
            ],
        ] {
            let (_, said) = curl(&format!("{base}/{path}"), Some(&cart), more);
            assert!(said.is_empty(), "{path}: {said}");
        }
    }
    // Neither does the port speak to who does not speak TLS.
    let said = raw(
        stand.tls,
        b"GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert!(!said.contains("HTTP/1.1 2"), "{said}");
    assert_eq!(curl(&beat, Some(&reviews), &["-X", "PUT"]).0, 200);
    assert_eq!(curl(&one, Some(&reviews), &["-X", "DELETE"]).0, 200);
}
