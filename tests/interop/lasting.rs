//! What the control plane does when something of it runs out: the disk of its audit log, and connections.

use std::fs;
use std::os::unix::fs::symlink;

use meshctl::rt::Tasks;

use crate::backend::backend;
use crate::mesh::{App, Mesh, program, service};
use crate::stand::until;

/// Has a certificate made; whether it was, and what was said.
fn issue(mesh: &Mesh, account: &str) -> (bool, String) {
    let out = mesh.path().join(format!("out-{account}"));
    let args = ["identity", "issue", "--service-account", account, "--out"];
    let output = mesh.try_run(&[&args[..], &[out.to_str().unwrap()]].concat(), None);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(
        output.status.success(),
        out.join("key.pem").exists(),
        "{said}"
    );
    (output.status.success(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_out_that_the_audit_log_cannot_hold() {
    let tasks = Tasks::new();
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    mesh.start_control_plane().await;
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    let (good, said) = issue(&mesh, "before");
    assert!(good, "{said}");
    mesh.kill_control_plane();

    // A full disk, as far as this file goes.
    let dir = fs::read_dir(mesh.home().join("control"))
        .unwrap()
        .flatten()
        .flat_map(|entry| [entry.path(), entry.path().join("audit")])
        .find(|path| path.join("audit.jsonl").exists())
        .unwrap();
    let (log, aside) = (dir.join("audit.jsonl"), dir.join("aside"));
    fs::rename(&log, &aside).unwrap();
    symlink("/dev/full", &log).unwrap();
    mesh.start_control_plane().await;
    let (good, said) = issue(&mesh, "full");
    assert!(!good && said.contains("audit log"), "{said}");
    let token = mesh.try_run(&["token", "create", "-q"], None);
    assert!(
        !token.status.success() && token.stdout.is_empty(),
        "{token:?}"
    );
    // Traffic goes on.
    let url = format!("http://{}/", web.inbound(9080));
    assert!(program("curl", &["-sS", "-f", "-m", "10", &url]).0);
    // And so does everything, once there is room.
    fs::remove_file(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    let (good, said) = issue(&mesh, "room");
    assert!(good, "{said}");

    // The file is taken away under it: it is made anew, so that nothing is written where nobody sees it.
    fs::remove_dir_all(&dir).unwrap();
    let (good, said) = issue(&mesh, "anew");
    assert!(good, "{said}");
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("/sa/anew") && !text.contains("/sa/room"),
        "{text}"
    );
    assert!(mesh.said("control-plane").contains("was taken away"));
    // Where it cannot be, nothing is given out.
    fs::remove_dir_all(&dir).unwrap();
    fs::write(&dir, "in the way").unwrap();
    let (good, said) = issue(&mesh, "blocked");
    assert!(!good && said.contains("audit log"), "{said}");
    fs::remove_file(&dir).unwrap();
    assert!(issue(&mesh, "free").0);
    assert!(fs::read_to_string(&log).unwrap().contains("/sa/free"));
    drop((mesh, web));
    tasks.end().await;
}

/// Opens many connections to a TLS port without a certificate, waits for a line on its input, and says how
/// many of them are still open then.
const STRANGERS: &str = r#"
import socket, ssl, sys, select
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
kept = []
for _ in range(count):
    try:
        kept.append(context.wrap_socket(socket.create_connection((host, port), 10)))
    except OSError:
        pass
def alive(one):
    one.settimeout(0.2)
    try:
        # A server's first frame may come; the end is none.
        while True:
            got = one.recv(4096)
            if not got:
                return False
    except (TimeoutError, ssl.SSLWantReadError, socket.timeout):
        return True
    except OSError:
        return False
for one in kept:
    one.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") if alive(one) else None
print(sum(alive(one) for one in kept), flush=True)
sys.stdin.readline()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn strangers_at_the_control_port_take_no_places_of_members() {
    use std::io::{BufRead as _, BufReader};
    let tasks = Tasks::new();
    let mut mesh = Mesh::new();
    mesh.run(&["install", "-q"], None);
    // Half of these are connections of that port, a quarter of those for strangers.
    mesh.start_control_plane_with_files(400).await;
    let port = Mesh::tls();
    let mut strangers = std::process::Command::new("python3")
        .args(["-c", STRANGERS, &port.ip().to_string()])
        .args([&port.port().to_string(), "70"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = strangers.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "50", "as many as may");
    // A member that is known has its place, and newcomers have theirs once strangers go.
    let certificate = issue(&mesh, "ops");
    assert!(certificate.0, "{}", certificate.1);
    let file = |name: &str| mesh.path().join("out-ops").join(name).display().to_string();
    let (chain, key, root) = (
        file("cert-chain.pem"),
        file("key.pem"),
        file("root-cert.pem"),
    );
    let member = format!(
        "(sleep 2) | openssl s_client -connect {port} -alpn h2 -cert {chain} -key {key} -CAfile {root} \
         -verify_return_error 2>&1"
    );
    let said = program("sh", &["-c", &member]).1;
    assert!(said.contains("Verify return code: 0"), "{said}");
    assert!(!said.contains("unexpected eof"), "{said}");
    drop(strangers.stdin.take());
    assert!(strangers.wait().unwrap().success());
    mesh.apply(&service("web", &[("http", 9080)]));
    let app = App {
        service: "web",
        version: "v1",
        port: 9080,
        at: backend("web", &tasks),
        flags: &[],
    };
    let web = mesh.sidecar(&app).await;
    until("the sidecar", 10, || {
        std::net::TcpStream::connect(web.inbound(9080))
            .is_ok()
            .then_some(())
    })
    .await;
    drop((mesh, web));
    tasks.end().await;
}
