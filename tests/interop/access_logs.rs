//! Access logs by configuration: the same lines as a real Envoy's, and files that are moved away under load.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meshctl::mesh::access_log::format::Part;
use meshctl::mesh::access_log::{Compare, Filter, Format, Logger};
use meshctl::mesh::expression::Expression;
use meshctl::mesh::route::{HeaderMatch, Share, TextMatch};
use meshctl::mesh::{ChainAction, HttpOptions, View};
use meshctl::net::{ConnectOptions, connect};
use meshctl::proxy::{self, Options};
use meshctl::rt::{Drain, Published, Tasks};
use meshctl::telemetry::Registry;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::backend::{Caller, backend};
use crate::envoy::{any_port, envoy, synced};
use crate::mesh::{App, Mesh, service};
use crate::processes::free;
use crate::stand::{Stand, until, view};

const CLUSTER: &str = "outbound|9080||reviews.default.svc.cluster.local";

/// Operators whose values depend neither on time nor on who writes them.
const LINE: &str = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(:PATH):4% %PROTOCOL% %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    %BYTES_RECEIVED% %BYTES_SENT% %REQ(X-USER):3% %REQ(X-NOPE?X-USER)% \"%REQ(USER-AGENT)%\" %REQ(:AUTHORITY)% \
    %RESP(CONTENT-LENGTH)% %RESP(:STATUS)% %UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% \
    %UPSTREAM_REMOTE_PORT% %UPSTREAM_CLUSTER% %ROUTE_NAME% %REQUESTED_SERVER_NAME% \
    %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% \
    %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %DOWNSTREAM_TLS_VERSION% \
    %DOWNSTREAM_PEER_URI_SAN% %GRPC_STATUS% %TRAILER(X-A)% %DYNAMIC_METADATA(a:b)% 100%%\n";

fn text(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn object() -> Format {
    let parts = [
        ("code", text("%RESPONSE_CODE%")),
        ("sent", text("%BYTES_SENT% bytes")),
        ("agent", text("%REQ(USER-AGENT)%")),
        ("user", text("%REQ(X-USER)%")),
        ("list", Part::List(vec![text("%PROTOCOL%"), text("plain")])),
        (
            "in",
            Part::Object([("path".to_owned(), text("%REQ(:PATH)%"))].into()),
        ),
    ];
    Format::Json(
        parts
            .map(|(name, part)| (name.to_owned(), part))
            .into_iter()
            .collect(),
    )
}

/// Logs in `dir`: by name, what they say, and of which calls.
fn loggers(dir: &Path) -> Vec<Logger> {
    let of_user = HeaderMatch {
        name: "x-user".to_owned(),
        value: TextMatch::Prefix("an".to_owned()),
        invert: false,
    };
    let expression =
        Expression::new("response.code == 404 || request.headers['x-user'] == 'bob'").unwrap();
    let path = Format::Text("%REQ(:PATH)%\n".to_owned());
    [
        ("lines", Format::Text(LINE.to_owned()), None),
        ("objects", object(), None),
        (
            "failed",
            path.clone(),
            Some(Filter::Status(Compare::AtLeast, 400)),
        ),
        (
            "unrouted",
            path.clone(),
            Some(Filter::Flags(vec!["NR".to_owned()])),
        ),
        ("user", path.clone(), Some(Filter::Header(of_user))),
        ("chosen", path.clone(), Some(Filter::Expression(expression))),
        (
            "grpc",
            path.clone(),
            Some(Filter::Grpc {
                statuses: vec![2],
                except: false,
            }),
        ),
        (
            "either",
            path.clone(),
            Some(Filter::Any(vec![
                Filter::Duration(Compare::AtLeast, 60_000),
                Filter::Grpc {
                    statuses: vec![2],
                    except: true,
                },
            ])),
        ),
        ("none", path.clone(), Some(Filter::Sample(Share::NONE))),
        (
            "both",
            path,
            Some(Filter::All(vec![
                Filter::Status(Compare::Equal, 200),
                Filter::NotHealthCheck,
            ])),
        ),
    ]
    .into_iter()
    .map(|(name, format, filter)| {
        Logger::file(dir.join(name).display().to_string(), format).filtered(filter)
    })
    .collect()
}

/// A listener at `bind` that logs into `dir`.
fn logged(bind: SocketAddr, to: SocketAddr, dir: &Path) -> View {
    let mut view = view(bind, &[(CLUSTER, 1, &[to])]);
    let listener = view.listeners.get_mut("virtualOutbound").unwrap();
    let listener = Arc::make_mut(listener);
    for chain in &mut listener.chains {
        if let ChainAction::Http { options, .. } = &mut chain.action {
            *options = Arc::new(HttpOptions {
                access_log: Some(Arc::new(loggers(dir))),
                ..HttpOptions::default()
            });
        }
    }
    view
}

/// A proxy in this process with `view`.
fn own(view: View, tasks: &Tasks) -> Drain {
    let views = Published::new(view);
    let identities = Published::new(None);
    let (drain, signal) = Drain::new();
    let readers = (views.reader(), identities.reader());
    let registry = Arc::new(Registry::new("Kubernetes"));
    tasks.spawn("proxy", async move {
        let ran = proxy::run_with(Options::default(), registry, readers, signal).await;
        drop((views, identities));
        ran.unwrap();
    });
    drain
}

pub(crate) async fn send(to: SocketAddr, request: &str) -> String {
    let mut stream = connect(to, ConnectOptions::default()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The same calls, one after another.
pub(crate) async fn calls(to: SocketAddr) {
    let end = "Connection: close\r\n\r\n";
    for (head, status) in [
        (
            "GET /a/b?x=1 HTTP/1.1\r\nHost: reviews:9080\r\nUser-Agent: probe\r\nX-User: anna\r\n",
            200,
        ),
        (
            "GET /q HTTP/1.1\r\nHost: reviews:9080\r\nUser-Agent: with \\ and é\r\nX-User: bob\r\n",
            200,
        ),
        ("HEAD /h HTTP/1.1\r\nHost: reviews\r\n", 200),
        (
            "GET /nowhere HTTP/1.1\r\nHost: other\r\nX-User: an\r\n",
            404,
        ),
    ] {
        let answer = send(to, &format!("{head}{end}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head}: {answer}"
        );
    }
    let posted = "POST /p HTTP/1.1\r\nHost: reviews:9080\r\nContent-Length: 5\r\n";
    let answer = send(to, &format!("{posted}{end}hello")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// What is in the logs in `dir`, once there are so many lines of each.
async fn lines(dir: &Path) -> Vec<(&'static str, Vec<String>)> {
    let mut all = Vec::new();
    for (name, count) in [
        ("lines", 5),
        ("objects", 5),
        ("failed", 1),
        ("unrouted", 1),
        ("user", 2),
        ("chosen", 2),
        ("grpc", 4),
        ("either", 1),
        ("none", 0),
        ("both", 4),
    ] {
        let found = until(
            &format!("{count} lines of {}", dir.join(name).display()),
            15,
            || {
                // Ours begins a file with its first line.
                let text = std::fs::read_to_string(dir.join(name)).unwrap_or_default();
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                (lines.len() >= count).then_some(lines)
            },
        )
        .await;
        assert_eq!(found.len(), count, "{name}: {found:?}");
        all.push((name, found));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_and_our_proxy_write_the_same_lines() {
    let tasks = Tasks::new();
    let app = backend("app", &tasks);
    let [theirs, ours] =
        ["theirs", "ours"].map(|who| tempfile::Builder::new().prefix(who).tempdir().unwrap());
    let (at_theirs, at_ours) = (free(), free());
    let stand = Stand::start(logged(at_theirs, app, theirs.path()), any_port(), None);
    let Some((_envoy, _dir)) = envoy(stand.address, "DELTA_GRPC") else {
        return;
    };
    synced(&stand).await;
    let drain = own(logged(at_ours, app, ours.path()), &tasks);
    for at in [at_theirs, at_ours] {
        until("a proxy to listen", 10, || {
            std::net::TcpStream::connect(at).ok().map(drop)
        })
        .await;
        calls(at).await;
    }
    let (theirs, ours) = (lines(theirs.path()).await, lines(ours.path()).await);
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(ours, theirs);
    }
    drain.start();
    stand.stop().await;
    tasks.end().await;
}

/// What a Telemetry and the MeshConfig say of logs into `path`.
fn said(path: &Path) -> String {
    format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: istio, namespace: meshctl-system}}
data:
  mesh: |
    extensionProviders:
    - name: calls
      envoyFileAccessLog:
        path: {}
        logFormat: {{labels: {{path: '%REQ(:PATH)%', code: '%RESPONSE_CODE%', host: '%REQ(:AUTHORITY)%'}}}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: calls, namespace: default}}
spec:
  accessLogging:
  - match: {{mode: CLIENT}}
    providers: [{{name: calls}}]
    filter: {{expression: \"request.url_path.startsWith('/kept')\"}}
  - match: {{mode: SERVER}}
    disabled: true
",
        path.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_moved_away_under_load_loses_no_line() {
    const ROUNDS: usize = 8;
    let tasks = Tasks::new();
    let mesh = Mesh::start().await;
    mesh.apply(&service("shop", &[("http", 9080)]));
    let app = App {
        service: "shop",
        version: "v1",
        port: 9080,
        at: backend("shop", &tasks),
        flags: &[],
    };
    let shop = mesh.sidecar(&app).await;
    let path = mesh.path().join("calls.log");
    mesh.apply(&said(&path));
    mesh.settled().await;
    let caller = Caller::new(shop.outbound());
    // The configuration has come when the first line has; a log is opened with it.
    while !path.exists() {
        caller.get("shop:9080", "/kept/first").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let (ended, calls) = (Cell::new(false), Cell::new(0));
    let load = async {
        while !ended.get() {
            for at in [format!("/kept/{}", calls.get()), "/other".to_owned()] {
                let (status, _) = caller.get("shop:9080", &at).await.unwrap();
                assert_eq!(status, 200);
            }
            calls.set(calls.get() + 1);
        }
    };
    let pid = Pid::from_raw(i32::try_from(shop.pid()).unwrap());
    let rotation = async {
        let mut moved = Vec::new();
        for round in 0..ROUNDS {
            until("lines in the new file", 20, || {
                let length = std::fs::metadata(&path).ok()?.len();
                (length > 0).then_some(())
            })
            .await;
            let old = mesh.path().join(format!("calls.log.{round}"));
            std::fs::rename(&path, &old).unwrap();
            kill(pid, Signal::SIGUSR1).unwrap();
            until("the file to be opened again", 20, || {
                path.exists().then_some(())
            })
            .await;
            moved.push(old);
        }
        ended.set(true);
        moved
    };
    let ((), mut files) = tokio::join!(load, rotation);
    caller.get("shop:9080", "/kept/last").await.unwrap();
    files.push(path.clone());
    until("the last line", 10, || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.contains("/kept/last").then_some(())
    })
    .await;

    let mut paths = Vec::new();
    for file in &files {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let call: Value = serde_json::from_str(line).unwrap();
            assert_eq!(
                (&call["code"], &call["host"]),
                (&200.into(), &"shop:9080".into())
            );
            paths.push(call["path"].as_str().unwrap().to_owned());
        }
    }
    paths.retain(|path| path != "/kept/first");
    let different: BTreeSet<&String> = paths.iter().collect();
    assert_eq!(different.len(), paths.len(), "a line was written twice");
    // Those of the rounds and the last; nothing that the filter leaves out.
    assert_eq!(paths.len(), calls.get() + 1);
    // Nothing went where it had gone before.
    let said = mesh.said(&shop.name);
    assert!(
        !said.contains("/kept/last") && !said.contains("/other"),
        "{said}"
    );
    tasks.end().await;
}
