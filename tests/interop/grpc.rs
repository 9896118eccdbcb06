//! A Python gRPC client that resolves and balances by our ADS (`xds:///`).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::processes::{Process, installed};
use crate::stand::{Stand, endpoints, table, until, view};

const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";

pub(crate) struct Script {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    pub(crate) fn start(
        python: &Path,
        script: &str,
        argument: &str,
        control_plane: Option<SocketAddr>,
    ) -> Self {
        let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "interop", script]
            .iter()
            .collect();
        let mut command = Command::new(python);
        command
            .arg(file)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(address) = control_plane {
            command.env(
                "GRPC_XDS_BOOTSTRAP_CONFIG",
                format!(
                    r#"{{"xds_servers": [{{"server_uri": "{address}",
                        "channel_creds": [{{"type": "insecure"}}],
                        "server_features": ["xds_v3"]}}],
                        "node": {{"id": "python-1", "metadata": {{"NAMESPACE": "default"}}}}}}"#
                ),
            );
        }
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            process: Process(child),
        }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{:?} ended", self.process.0.id());
        line.trim().to_owned()
    }

    /// Says a line, and gives the line that comes back.
    pub(crate) fn told(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }

    pub(crate) fn calls(&mut self, count: usize) -> BTreeMap<String, usize> {
        writeln!(self.input, "{count}").unwrap();
        serde_json::from_str(&self.line()).unwrap()
    }
}

pub(crate) fn server(python: &Path, name: &str) -> (Script, SocketAddr) {
    let mut script = Script::start(python, "grpc_server.py", name, None);
    let port: u16 = script.line().parse().unwrap();
    (script, SocketAddr::from(([127, 0, 0, 1], port)))
}

/// Applies a change and waits until the client has it.
async fn changed(stand: &Stand, change: impl FnOnce(&mut meshctl::mesh::View)) {
    let since = meshctl::rt::now();
    let revision = stand.change(change);
    let verdict = stand
        .hub
        .wait_acked(revision, since, Duration::from_secs(10))
        .await;
    let good = verdict
        .iter()
        .all(|answer| answer.outcome == meshctl::api::proxies::Outcome::Acknowledged);
    assert!(good && !verdict.is_empty(), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_resolves_balances_and_follows_changes() {
    let Some(python) = installed("grpc", "bin/python") else {
        return;
    };
    let (_a, a) = server(&python, "a");
    let (_b, b) = server(&python, "b");
    let (_c, c) = server(&python, "c");
    let nowhere = "127.0.0.1:15001".parse().unwrap();
    let world = view(nowhere, &[(V1, 1, &[a, b]), (V2, 0, &[c])]);
    let stand = Stand::start(world, "127.0.0.1:0".parse().unwrap(), None);

    let mut clients = Vec::new();
    for target in [
        "xds:///reviews:9080",
        "xds:///reviews",
        "xds:///reviews.default:9080",
        "xds:///reviews.default.svc.cluster.local:9080",
    ] {
        let mut client = Script::start(&python, "grpc_client.py", target, Some(stand.address));
        let counts = client.calls(100);
        let names: Vec<_> = counts.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b"], "{target}: {counts:?}");
        // Round robin, once both connections stand.
        let counts = client.calls(100);
        assert!(
            counts.values().all(|count| (45..=55).contains(count)),
            "{counts:?}"
        );
        clients.push(client);
    }
    until("all clients in sync", 10, || {
        let status = stand.hub.status();
        (status.len() == 4 && status.iter().all(|p| p.synced && p.client == "grpc")).then_some(())
    })
    .await;

    // Endpoints change under a client that lives on.
    changed(&stand, |view| {
        view.endpoints.insert(V1.to_owned(), endpoints(&[b]));
    })
    .await;
    let client = &mut clients[0];
    until("endpoint a to be left", 10, || {
        (client.calls(20) == BTreeMap::from([("b".to_owned(), 20)])).then_some(())
    })
    .await;

    // Weights between clusters change too.
    changed(&stand, |view| {
        view.routes
            .insert("9080".to_owned(), table(&[(V1, 1), (V2, 3)]));
    })
    .await;
    until("cluster v2 to be called", 10, || {
        client.calls(20).contains_key("c").then_some(())
    })
    .await;
    let counts = client.calls(800);
    assert!((520..=680).contains(&counts["c"]), "{counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");

    stand.stop().await;
}
