//! The API over TCP: who is let in, as what, and who is not. With curl, openssl, raw bytes and the program itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meshctl::api::PREFIX;
use meshctl::api::access::Role;
use meshctl::control::rest::roles::RULES;
use serde_json::{Value, json};

use super::mesh::until;
use super::plane::{Plane, free};
use super::run::{BINARY, Home, Outcome, mode};

/// A control plane whose API is served over TLS, too.
struct Stand<'h> {
    home: &'h Home,
    plane: Option<Plane<'h>>,
    port: u16,
    metrics: u16,
}

impl<'h> Stand<'h> {
    fn new(home: &'h Home) -> Self {
        let mut stand = Self {
            home,
            plane: None,
            port: free(),
            metrics: free(),
        };
        stand.start();
        stand
    }

    fn start(&mut self) {
        let address = format!("--api-address=127.0.0.1:{}", self.port);
        let metrics = format!("--metrics-port={}", self.metrics);
        let args = [
            "--xds-port=0",
            "--tls-port=0",
            "--api-port=0",
            &metrics,
            "--api-name=mesh.example.com",
            &address,
        ];
        self.plane = Some(Plane::start_with(self.home, &args));
    }

    fn restart(&mut self) {
        self.plane.take().unwrap().stop();
        self.start();
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// A token, with its id.
    fn token(&self, role: &str, ttl: &str) -> (String, String) {
        let args = [
            "access", "create", "ci", "--role", role, "--ttl", ttl, "-o", "json",
        ];
        let made = self.home.run(&args).exits(0).json();
        let text = |key: &str| made[key].as_str().unwrap().to_owned();
        (text("token"), text("id"))
    }

    /// A certificate with its key and root.
    fn identity(&self, account: &str) -> PathBuf {
        let out = self.home.beside(account);
        let dir = out.display().to_string();
        let args = [
            "identity",
            "issue",
            "--service-account",
            account,
            "--out",
            &dir,
        ];
        self.home.run(&args).exits(0);
        out
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("control/ca/root-cert.pem")
    }

    /// Status and body of what curl gets, verifying the server by name under the mesh's root.
    fn curl(&self, path: &str, more: &[&str]) -> (u16, String) {
        // Calls as they happen have no end of their own.
        let longest = if path.contains("/tap") { "1" } else { "30" };
        let said = Command::new("curl")
            .args(["-s", "-m", longest, "-w", "\n%{http_code}"])
            .arg("--cacert")
            .arg(self.root())
            .arg(self.url(path))
            .args(more)
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), body.to_owned())
    }

    fn ask(&self, method: &str, path: &str, token: &str, body: Option<&str>) -> (u16, Value) {
        let bearer = format!("Authorization: Bearer {token}");
        let mut more = vec!["-X", method, "-H", &bearer];
        if let Some(body) = body {
            more.extend(["-H", "Content-Type: application/json", "-d", body]);
        }
        let (status, said) = self.curl(path, &more);
        (
            status,
            serde_json::from_str(&said).unwrap_or(Value::String(said)),
        )
    }

    /// Runs a command against the API over TCP from a home in which nothing is installed.
    fn asks_afar(&self, args: &[&str], flags: &[&str]) -> Outcome {
        let api = format!("127.0.0.1:{}", self.port);
        let all = [&["--api", &api], flags, args].concat();
        let mut command = self.home.command(&all);
        command.env("MESHCTL_HOME", self.home.beside("elsewhere"));
        self.home.finish(command, "")
    }
}

/// What was refused, as a problem with a reason and a way out.
#[track_caller]
fn refused((status, said): (u16, Value), expected: u16, reason: &str) -> String {
    assert_eq!(status, expected, "{said}");
    assert_eq!(said["reason"], reason, "{said}");
    assert!(
        said["hint"].as_str().is_some_and(|hint| !hint.is_empty()),
        "{said}"
    );
    said["message"].as_str().unwrap().to_owned()
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: default}
spec: {selector: {app: shop}, ports: [{name: http, port: 80}]}
";

fn applying() -> String {
    let sources = [json!({"name": "shop.yaml", "text": SERVICE})];
    json!({"sources": sources, "namespace": "default", "who": "anna"}).to_string()
}

#[test]
fn a_viewer_looks_and_changes_nothing_on_any_route() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let (viewer, _) = stand.token("viewer", "1h");
    let (operator, _) = stand.token("operator", "1h");
    for rule in RULES {
        let path = rule.path.split('/').map(|part| match part {
            "{kind}" => "services",
            "{namespace}" => "default",
            part if part.starts_with('{') => "nothing",
            part => part,
        });
        let path = format!("{PREFIX}{}", path.collect::<Vec<_>>().join("/"));
        // Without a body that any of them takes: what is let pass is refused for that then, and changes nothing.
        let none = stand.curl(&path, &["-X", rule.method]);
        let none = (none.0, serde_json::from_str(&none.1).unwrap());
        refused(none, 401, "unauthenticated");
        for (token, role) in [(&viewer, Role::Viewer), (&operator, Role::Operator)] {
            let said = stand.ask(rule.method, &path, token, None);
            if role < rule.role {
                let message = refused(said, 403, "denied");
                assert!(message.contains(&rule.role.to_string()), "{message}");
            } else {
                assert!(!matches!(said.0, 401 | 403 | 405), "{rule:?} {said:?}");
            }
        }
    }
    // Other spellings of a path that writes lead nowhere else, and other methods are no way around.
    for path in [
        "/api/v1/resources/",
        "/api/v1//resources",
        "/api/v1/./resources",
        "/API/v1/resources",
        "/api/v1/%72esources",
    ] {
        let (status, said) = stand.ask("POST", path, &viewer, Some(&applying()));
        assert!(matches!(status, 403 | 404), "{path} {status} {said}");
    }
    for header in [
        "X-HTTP-Method-Override: POST",
        "X-Original-URL: /api/v1/resources",
    ] {
        let bearer = format!("Authorization: Bearer {viewer}");
        let more = [
            "-H",
            bearer.as_str(),
            "-H",
            header,
            "-X",
            "PATCH",
            "-d",
            "{}",
        ];
        let (status, said) = stand.curl("/api/v1/resources", &more);
        assert!(matches!(status, 403..=405), "{status} {said}");
    }
    refused(
        stand.ask("POST", "/api/v1/resources", &viewer, Some(&applying())),
        403,
        "denied",
    );
    let there = |stand: &Stand<'_>| stand.ask("GET", "/api/v1/services", &viewer, None).1;
    assert_eq!(there(&stand), json!([]));
    let (status, said) = stand.ask("POST", "/api/v1/resources", &operator, Some(&applying()));
    assert_eq!(status, 200, "{said}");
    assert_eq!(there(&stand)[0]["name"], "shop");
    // Who did it stands in the history and in the audit log; what the request says of itself comes second.
    let history = home.run(&["history", "-o", "json"]).exits(0).stdout;
    assert!(
        history.contains("token ci (") && history.contains(") for anna"),
        "{history}"
    );
    let audit = home
        .run(&["identity", "audit", "-o", "json"])
        .exits(0)
        .json();
    let audit = audit.as_array().unwrap();
    let noted = |event: &str, detail: &str| {
        audit.iter().any(|entry| {
            entry["event"] == event
                && entry["by"]
                    .as_str()
                    .is_some_and(|by| by.starts_with("token ci ("))
                && entry["detail"]
                    .as_str()
                    .is_some_and(|said| said.contains(detail))
        })
    };
    assert!(noted("apiWrite", "POST /api/v1/resources"), "{audit:?}");
    assert!(
        noted("accessRefused", "POST /api/v1/resources is for an operator"),
        "{audit:?}"
    );
}

#[test]
fn a_viewer_taps_without_what_may_hold_secrets() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let (viewer, _) = stand.token("viewer", "1h");
    let (operator, _) = stand.token("operator", "1h");
    for (query, status) in [
        ("", 200),
        (
            "?path=/a&method=GET&status=5xx&minLatencyMs=5&rate=10&max=1",
            200,
        ),
        ("?headers=authorization", 403),
        ("?header=authorization:x", 403),
        ("?query=true", 403),
    ] {
        let path = format!("{PREFIX}/tap{query}");
        let said = stand.ask("GET", &path, &viewer, None);
        assert_eq!(said.0, status, "{query} {said:?}");
        if status == 403 {
            refused(said, 403, "denied");
            assert_eq!(stand.ask("GET", &path, &operator, None).0, 200, "{query}");
        }
    }
    for query in [
        "?status=banana",
        "?rate=0",
        "?rate=1000000",
        "?max=-1",
        "?header=nothing",
        "?headers=a%20b",
        "?minLatencyMs=x",
    ] {
        let said = stand.ask("GET", &format!("{PREFIX}/tap{query}"), &operator, None);
        assert_eq!(
            (said.0, &said.1["reason"]),
            (422, &json!("invalid")),
            "{query} {said:?}"
        );
    }
    let said = stand.ask(
        "GET",
        &format!("{PREFIX}/tap?service=nobody"),
        &viewer,
        None,
    );
    refused(said, 404, "notFound");
}

#[test]
fn no_secret_is_read_over_tcp() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let secret = "\
apiVersion: v1
kind: Secret
metadata:
  name: edge
  annotations: {kubectl.kubernetes.io/last-applied-configuration: 'dG9wLXNlY3JldA=='}
type: kubernetes.io/tls
data: {tls.key: dG9wLXNlY3JldA==, tls.crt: dG9wLXNlY3JldA==}
";
    home.feed(&["apply", "--force", "-f", "-"], secret).exits(0);
    let own = home
        .run(&["get", "secret", "edge", "-o", "json"])
        .exits(0)
        .stdout;
    assert!(own.contains("dG9wLXNlY3JldA"), "{own}");
    for role in ["viewer", "operator"] {
        let (token, id) = stand.token(role, "1h");
        for rule in RULES.iter().filter(|rule| rule.method == "GET") {
            let path = rule
                .path
                .replace("{kind}", "secrets")
                .replace("{name}", "x");
            let path = path.replace("{what}", "all");
            for query in ["", "?diff=true&limit=0", "?name=edge&namespace=default"] {
                let (_, said) = stand.ask("GET", &format!("{PREFIX}{path}{query}"), &token, None);
                let said = said.to_string();
                assert!(!said.contains("dG9wLXNlY3JldA"), "{path} {said}");
                // Nor any secret part of a token.
                let part = token.split('_').nth(2).unwrap();
                assert!(!said.contains(part), "{path} {said}");
            }
        }
        let (status, said) = stand.ask("GET", "/api/v1/resources/secrets", &token, None);
        assert_eq!(
            (status, &said[0]["object"]["data"]["tls.key"]),
            (200, &json!("***")),
            "{id}"
        );
    }
}

#[test]
fn tokens_end_are_revoked_and_outlive_restarts() {
    let home = Home::new();
    let mut stand = Stand::new(&home);
    let services =
        |stand: &Stand<'_>, token: &str| stand.ask("GET", "/api/v1/services", token, None);
    let (good, id) = stand.token("viewer", "1h");
    let (short, _) = stand.token("viewer", "1s");
    assert_eq!(services(&stand, &good).0, 200);
    let over = until("the token to end", || {
        let said = services(&stand, &short);
        (said.0 != 200).then_some(said)
    });
    assert!(refused(over, 401, "unauthenticated").contains("expired at"));
    stand.restart();
    assert_eq!(services(&stand, &good).0, 200);
    let listed = home.run(&["access", "list"]).exits(0).fits().stdout;
    assert!(
        listed.contains(&id) && listed.contains("expired"),
        "{listed}"
    );
    // The secret is in no file: not in the store, not in the logs, not in the audit log.
    let secret = good.split('_').nth(2).unwrap();
    for dir in [home.path(), home.beside("control.log")] {
        let found = Command::new("grep")
            .args(["-rla", secret])
            .arg(&dir)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&found.stdout),
            "",
            "{}",
            dir.display()
        );
    }
    home.run(&["access", "revoke", &id]).exits(0);
    assert!(refused(services(&stand, &good), 401, "unauthenticated").contains("not known"));
    stand.restart();
    refused(services(&stand, &good), 401, "unauthenticated");
    // Half of it, somebody else's secret, another kind of token, another scheme, two of them.
    let (other, _) = stand.token("operator", "1h");
    let mixed: Vec<&str> = other.split('_').collect();
    let mixed = format!("ma_{id}_{}_{}", mixed[2], mixed[3]);
    let join = home
        .run(&["token", "create", "-q", "--service-account", "a"])
        .exits(0)
        .stdout;
    for bad in [
        other.get(..other.len() / 2).unwrap(),
        &mixed,
        join.trim(),
        "",
        "x",
    ] {
        refused(services(&stand, bad), 401, "unauthenticated");
    }
    let basic = format!("Authorization: Basic {other}");
    let bearer = format!("Authorization: Bearer {other}");
    for more in [vec!["-H", &basic], vec!["-H", &bearer, "-H", &bearer]] {
        assert_eq!(stand.curl("/api/v1/services", &more).0, 401);
    }
    assert_eq!(services(&stand, &other).0, 200);
    let said = home
        .run(&["access", "create", "x", "--role", "owner"])
        .exits(2);
    assert!(said.stderr.contains("owner"), "{said}");
    home.run(&["access", "create", "x", "--role", "viewer", "--ttl", "91d"])
        .exits(1);
}

#[test]
fn only_certificates_that_were_let_in_are() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let [cart, anna] = ["cart", "anna"].map(|account| stand.identity(account));
    let with = |dir: &Path, method: &str, path: &str| {
        let (cert, key) = (dir.join("cert-chain.pem"), dir.join("key.pem"));
        let more = [
            "--cert",
            cert.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
            "-X",
            method,
        ];
        let (status, said) = stand.curl(path, &more);
        (
            status,
            serde_json::from_str::<Value>(&said).unwrap_or(Value::String(said)),
        )
    };
    // A workload of the mesh is nobody here until somebody says so.
    let message = refused(with(&cart, "GET", "/api/v1/services"), 403, "denied");
    assert!(
        message.contains("spiffe://cluster.local/ns/default/sa/cart may not"),
        "{message}"
    );
    let id = "spiffe://cluster.local/ns/default/sa/anna";
    home.run(&["access", "grant", id, "--role", "viewer"])
        .exits(0);
    assert_eq!(with(&anna, "GET", "/api/v1/services").0, 200);
    refused(
        with(&anna, "DELETE", "/api/v1/resources/services/default/x"),
        403,
        "denied",
    );
    home.run(&["access", "grant", id, "--role", "operator"])
        .exits(0);
    assert_eq!(
        with(&anna, "DELETE", "/api/v1/resources/services/default/x").0,
        404
    );
    // Operators give out no way in that is wider or longer than their own.
    let (operator, _) = stand.token("operator", "1h");
    let wish =
        json!({"namespace": "default", "serviceAccount": "anna", "ttlSeconds": 60, "uses": 1});
    for path in ["/api/v1/identities", "/api/v1/tokens"] {
        let said = stand.ask("POST", path, &operator, Some(&wish.to_string()));
        assert!(refused(said, 403, "denied").contains("only the owner"));
    }
    let wish = json!({"name": "me", "role": "operator", "ttlSeconds": 60});
    let said = stand.ask(
        "POST",
        "/api/v1/access/tokens",
        &operator,
        Some(&wish.to_string()),
    );
    refused(said, 403, "denied");
    // Its certificate is revoked, then the right itself.
    home.run(&["access", "revoke", id]).exits(0);
    refused(with(&anna, "GET", "/api/v1/services"), 403, "denied");
    home.run(&["access", "grant", id, "--role", "viewer"])
        .exits(0);
    let chain = anna.join("cert-chain.pem");
    home.run(&["identity", "revoke", chain.to_str().unwrap()])
        .exits(0);
    assert_eq!(
        with(&anna, "GET", "/api/v1/services").0,
        0,
        "a revoked certificate shook hands"
    );
    // One of another authority does not get to ask, whatever it says to be.
    let other = Home::new();
    let foreign = Stand::new(&other).identity("anna");
    assert_eq!(with(&foreign, "GET", "/api/v1/services").0, 0);
    for id in [
        "spiffe://other/ns/a/sa/b",
        "spiffe://cluster.local/ns/meshctl-system/sa/meshctl",
        "anna",
    ] {
        home.run(&["access", "grant", id, "--role", "viewer"])
            .exits(1);
    }
}

#[test]
fn nothing_but_tls_is_spoken_and_the_server_proves_itself() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let mut plain = TcpStream::connect(("127.0.0.1", stand.port)).unwrap();
    plain
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    plain
        .write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut said = Vec::new();
    let _ended = plain.read_to_end(&mut said).is_ok();
    assert!(!String::from_utf8_lossy(&said).contains("HTTP"), "{said:?}");
    let hello = |more: &[&str]| {
        let said = Command::new("openssl")
            .args(["s_client", "-connect", &format!("127.0.0.1:{}", stand.port)])
            .args(["-verify_return_error", "-verify_ip", "127.0.0.1"])
            .args(more)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let root = stand.root();
    let root = root.to_str().unwrap();
    let said = hello(&["-CAfile", root]);
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    for old in ["-tls1", "-tls1_1"] {
        let said = hello(&["-CAfile", root, old, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(said.contains("Cipher is (NONE)"), "{said}");
    }
    // Another root than the mesh's: the client goes away before it has said who it is.
    let (token, _) = stand.token("viewer", "1h");
    home.write("token", &token);
    let other = Home::new();
    other.run(&["install"]).exits(0);
    let wrong = other.path().join("control/ca/root-cert.pem");
    let flags = [
        "--api-token-file",
        "token",
        "--api-ca",
        wrong.to_str().unwrap(),
    ];
    let said = stand.asks_afar(&["services"], &flags).exits(4);
    assert!(
        said.stderr.contains("was not issued by the mesh's root"),
        "{said}"
    );
    // A member of the mesh that listens there is no control plane.
    let cart = stand.identity("cart");
    let port = free();
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-quiet",
            "-accept",
            &port.to_string(),
            "-cert_chain",
        ])
        .args([
            cart.join("root-cert.pem"),
            "-cert".into(),
            cart.join("cert-chain.pem"),
            "-key".into(),
            cart.join("key.pem"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the false control plane", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let false_one = Stand {
        home: &home,
        plane: None,
        port,
        metrics: 0,
    };
    let ca = ["--api-token-file", "token", "--api-ca", root];
    for flags in [&ca[..2], &ca] {
        let said = false_one.asks_afar(&["services"], flags).exits(4);
        assert!(said.stderr.contains("sa/cart, expected"), "{said}");
    }
    server.kill().unwrap();
    let heard = server.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&heard), "");
}

#[test]
fn commands_ask_a_control_plane_elsewhere() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let (viewer, _) = stand.token("viewer", "1h");
    let (operator, _) = stand.token("operator", "1h");
    home.write("viewer", &viewer);
    home.write("operator", &format!("{operator}\n"));
    home.write("shop.yaml", SERVICE);
    let (viewer_file, operator_file) = (
        ["--api-token-file", "viewer"],
        ["--api-token-file", "operator"],
    );
    let me = stand
        .asks_afar(&["access", "whoami", "-o", "json"], &viewer_file)
        .exits(0)
        .json();
    assert_eq!(me["role"], "viewer");
    let said = stand
        .asks_afar(&["apply", "-f", "shop.yaml"], &viewer_file)
        .exits(1);
    assert!(said.stderr.contains("is for an operator"), "{said}");
    assert!(
        said.stderr
            .contains("hint: use a token with the role operator"),
        "{said}"
    );
    stand
        .asks_afar(&["apply", "-f", "shop.yaml"], &operator_file)
        .exits(0);
    let root = stand.root();
    let ca = [
        "--api-token-file",
        "viewer",
        "--api-ca",
        root.to_str().unwrap(),
    ];
    assert!(
        stand
            .asks_afar(&["services"], &ca)
            .exits(0)
            .stdout
            .contains("shop")
    );
    let dir = stand.identity("anna");
    home.run(&[
        "access",
        "grant",
        "spiffe://cluster.local/ns/default/sa/anna",
        "--role",
        "viewer",
    ])
    .exits(0);
    let identity = ["--api-identity", dir.to_str().unwrap()];
    assert!(
        stand
            .asks_afar(&["services"], &identity)
            .exits(0)
            .stdout
            .contains("shop")
    );
    // By the environment.
    let mut command = home.command(&["services"]);
    command
        .env("MESHCTL_HOME", home.beside("elsewhere"))
        .env("MESHCTL_API", format!("127.0.0.1:{}", stand.port))
        .env("MESHCTL_API_TOKEN", &viewer);
    assert!(home.finish(command, "").exits(0).stdout.contains("shop"));
    // Nothing is guessed.
    for (flags, words) in [
        (&[][..], "nothing says how 127.0.0.1"),
        (&["--api-ca", root.to_str().unwrap()][..], "asks who calls"),
        (
            &["--api-token-file", "shop.yaml"][..],
            "not a token for the API: it does not start with ma_",
        ),
        (&["--api-token-file", "missing"][..], "cannot read missing"),
    ] {
        let said = stand.asks_afar(&["services"], flags);
        assert!(
            said.stderr.contains(words) && !said.stderr.contains(&viewer),
            "{flags:?} {said}"
        );
    }
    let said = home
        .run(&["services", "--api-token-file", "viewer"])
        .exits(2);
    assert!(said.stderr.contains("--api HOST:PORT"), "{said}");
    let nobody = Stand {
        home: &home,
        plane: None,
        port: free(),
        metrics: 0,
    };
    let said = nobody.asks_afar(&["services"], &viewer_file).exits(4);
    assert!(
        said.stderr.contains("does not answer on 127.0.0.1:"),
        "{said}"
    );
    assert_eq!(mode(&home.path().join("control/api.sock")), 0o600);
}

#[test]
fn guessing_is_slow_noted_once_and_shuts_out_nobody_else() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let (good, _) = stand.token("viewer", "1h");
    let cart = stand.identity("cart");
    home.run(&[
        "access",
        "grant",
        "spiffe://cluster.local/ns/default/sa/cart",
        "--role",
        "viewer",
    ])
    .exits(0);
    let guess = |n: u32| {
        let token = format!("ma_{n:012x}_{}", "0".repeat(64));
        stand.ask("GET", "/api/v1/services", &token, None).0
    };
    let began = Instant::now();
    let answers: Vec<u16> = (0..30).map(guess).collect();
    assert!(
        answers[..10].iter().all(|status| *status == 401),
        "{answers:?}"
    );
    // One more is let in every six seconds.
    let more = usize::try_from(began.elapsed().as_secs() / 6).unwrap();
    let limited = answers.iter().filter(|status| **status == 429).count();
    assert!(limited >= 20 - more.min(19), "{answers:?}");
    let bearer = format!("Authorization: Bearer {good}");
    let (status, said) = stand.curl("/api/v1/services", &["-i", "-H", &bearer]);
    assert_eq!(status, 429, "{said}");
    assert!(
        said.to_ascii_lowercase().contains("retry-after: "),
        "{said}"
    );
    // Who proves itself in the handshake cannot be guessed, and goes on.
    let (cert, key) = (cart.join("cert-chain.pem"), cart.join("key.pem"));
    let shown = [
        "--cert",
        cert.to_str().unwrap(),
        "--key",
        key.to_str().unwrap(),
    ];
    assert_eq!(stand.curl("/api/v1/services", &shown).0, 200);
    let audit = home
        .run(&["identity", "audit", "-o", "json"])
        .exits(0)
        .json();
    let noted = audit
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["event"] == "accessRefused");
    assert!(noted.count() <= 12 + more, "{audit}");
    let url = format!("http://127.0.0.1:{}/metrics", stand.metrics);
    let told = Command::new("curl").args(["-s", &url]).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let counted = |reason: &str| -> usize {
        let name = format!("meshctl_api_refusals_total{{reason=\"{reason}\"}} ");
        let line = told.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("{name} {told}"))
            .parse()
            .unwrap()
    };
    assert_eq!(counted("unauthenticated") + limited, 30);
    assert_eq!(counted("rateLimited"), limited + 1);
    let waited = until("the address to be heard again", || {
        let (status, _) = stand.ask("GET", "/api/v1/services", &good, None);
        (status == 200).then(|| began.elapsed())
    });
    assert!(waited >= Duration::from_secs(5), "{waited:?}");
}

#[test]
fn web_pages_and_the_slow_get_nothing_from_the_api() {
    let home = Home::new();
    let stand = Stand::new(&home);
    let (token, _) = stand.token("operator", "1h");
    let bearer = format!("Authorization: Bearer {token}");
    let with = |more: &[&str]| {
        let all = [&["-i", "-H", &bearer], more].concat();
        let (status, said) = stand.curl("/api/v1/services", &all);
        (status, said.to_ascii_lowercase())
    };
    for host in [
        "localhost",
        "mesh.example.com",
        "MESH.example.com:15443",
        "10.0.0.1:1",
    ] {
        let (status, said) = with(&["-H", &format!("Host: {host}")]);
        assert_eq!(status, 200, "{said}");
        for field in [
            "x-frame-options: deny\r\n",
            "x-content-type-options: nosniff\r\n",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
            "cache-control: no-store\r\n",
        ] {
            assert!(said.contains(field), "{field} {said}");
        }
        assert!(!said.contains("access-control-"), "{said}");
    }
    for host in [
        "rebind.example",
        "mesh.example.com.rebind.example",
        "x.mesh.example.com",
    ] {
        assert_eq!(with(&["-H", &format!("Host: {host}")]).0, 403);
    }
    for more in [
        "Origin: https://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
    ] {
        let body = applying();
        let json = ["-H", "Content-Type: application/json", "-d", &body];
        let all = [&["-H", &bearer, "-H", more][..], &json].concat();
        assert_eq!(stand.curl("/api/v1/resources", &all).0, 403, "{more}");
    }
    assert_eq!(
        stand.ask("GET", "/api/v1/services", &token, None).1,
        json!([])
    );
    // A form of a page sends what is no JSON by its name.
    let body = applying();
    let (status, _) = stand.curl(
        "/api/v1/resources",
        &["-H", &bearer, "-H", "Content-Type: text/plain", "-d", &body],
    );
    assert_eq!(status, 415);
    // Who has proven nothing has no body read, and no more than a few places.
    let big = home.write("big", &"x".repeat(17 << 20));
    let data = format!("@{}", big.display());
    let sent = [
        "--data-binary",
        data.as_str(),
        "-H",
        "Content-Type: application/json",
        "-H",
        "Expect:",
    ];
    let began = Instant::now();
    assert!(matches!(stand.curl("/api/v1/resources", &sent).0, 401 | 0));
    assert!(began.elapsed() < Duration::from_secs(10));
    let sent = [&sent[..], &["-H", &bearer]].concat();
    assert!(matches!(stand.curl("/api/v1/resources", &sent).0, 413 | 0));
    let held: Vec<TcpStream> = (0..40)
        .map(|_| TcpStream::connect(("127.0.0.1", stand.port)).unwrap())
        .collect();
    let ended = until("the address's surplus to be turned away", || {
        let ended = held.iter().filter(|stream| {
            stream.set_nonblocking(true).unwrap();
            matches!(stream.peek(&mut [0]), Ok(0))
        });
        Some(ended.count()).filter(|count| *count >= 8)
    });
    assert!(ended <= 40, "{ended}");
    drop(held);
    until("places to be free again", || {
        (stand.ask("GET", "/api/v1/services", &token, None).0 == 200).then_some(())
    });
    // Half a head is not waited for.
    let mut half = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{}", stand.port),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = half.stdin.take().unwrap();
    input
        .write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: local")
        .unwrap();
    let began = Instant::now();
    until("half a request to be dropped", || half.try_wait().unwrap());
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_api_is_closed_unless_an_address_is_given() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let version = home.run(&["version", "-o", "json"]).exits(0).json();
    assert_eq!(version["controlPlane"].get("apiAddress"), None, "{version}");
    plane.stop();
    for bad in ["15443", "0.0.0.0", "here:1"] {
        home.run(&["control-plane", "--api-address", bad]).exits(2);
        home.run(&["install", "--set", &format!("apiAddress={bad}")])
            .exits(2);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = home
        .run(&[
            "control-plane",
            "--xds-port=0",
            "--tls-port=0",
            "--api-port=0",
            "--metrics-port=0",
            "--api-address",
            &address,
        ])
        .exits(1);
    assert!(
        said.stderr.contains("choose another with --api-address"),
        "{said}"
    );
    assert!(fs::metadata(BINARY).is_ok());
}
