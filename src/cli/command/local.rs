//! The one place that calls the layer that runs pods: `up`, `down`, `ps`, `logs` and the hidden
//! commands go through here.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::api::Version;
use crate::api::identity::{TokenReport, TokenRequest};
use crate::api::local::{LocalStatus, LogLine, LogsQuery};
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::cli::client::{Client, path};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::progress::Progress;
use crate::cli::{logging, settings};
use crate::local::plan::{Isolation, Pod};
use crate::local::supervisor::{
    ControlPlane, Daemon, Mesh, Options, Supervisor, daemonise, rehearse,
};
use crate::local::{self, LocalError};
use crate::rt::{self, now};

pub(crate) use crate::local::client::Down;

use super::up::{Args, How};
use super::{install, manifests, workloads};

/// How long a sidecar has to use its join token.
const TOKEN_SECONDS: u64 = 600;

/// Runs what `up` starts us again for (`sample-app`, `pod-exec`, `pod-guard`); `args` are without
/// the program. Before anything is parsed and any thread started.
pub(crate) fn hidden(args: &[OsString]) -> Option<ExitCode> {
    local::entry::run(args, settings::variable)
}

/// What is up.
pub(crate) async fn status(cx: &Context) -> Result<LocalStatus, CliError> {
    local::client::ps(&cx.settings.home).await.map_err(failed)
}

/// Gives each log line to `each` until there are no more or `each` says false.
pub(crate) async fn logs(
    cx: &Context,
    query: LogsQuery,
    each: impl FnMut(LogLine) -> bool,
) -> Result<(), CliError> {
    local::client::logs(&cx.settings.home, query, each)
        .await
        .map_err(failed)
}

/// Ends what is up.
pub(crate) async fn down(cx: &Context, deadline: Duration) -> Result<Down, CliError> {
    local::client::down(&cx.settings.home, deadline)
        .await
        .map_err(failed)
}

fn failed(error: LocalError) -> CliError {
    let late = matches!(error, LocalError::NotReady { .. });
    let hint = error.hint();
    let words = rt::chain(&error);
    if late {
        CliError::Late {
            message: words,
            hint,
        }
    } else {
        CliError::Failed {
            message: words,
            hint,
        }
    }
}

/// Runs `args.file` until told to end, or hands over to a supervisor in the background.
pub(crate) async fn up(args: Args, cx: &Context) -> Result<(), CliError> {
    if args.detach && args.file.iter().any(|file| file.as_os_str() == "-") {
        return Err(CliError::usage("-d cannot read standard input")
            .hint("write it to a file, or leave -d out"));
    }
    let sources = manifests::read(&args.file, args.recursive)?;
    let (pods, findings) = workloads::read(&sources, cx.settings.namespace())?;
    for finding in &findings {
        cx.out.finding(finding);
    }
    if pods.is_empty() {
        return Err(CliError::failed(
            "the files hold no Deployment, StatefulSet or Pod",
        ));
    }
    rehearse(&pods, isolation(args.isolation)).map_err(failed)?;
    alone(cx).await?;
    install::ensure(cx)?;
    if args.detach {
        return detach(args, cx).await;
    }
    logging::start(cx, "warn");
    // Listened for from here on: a Ctrl-C while pods start leaves nothing behind either.
    let stop = logging::asked_to_end();
    tokio::pin!(stop);
    let options = Options {
        home: cx.settings.home.clone(),
        executable: executable()?,
        isolation: isolation(args.isolation),
        workloads: pods,
        base_env: settings::handed_on(),
        own_env: settings::own_variables(),
        sidecar_args: vec!["--access-log".to_owned(), args.access_log.name().to_owned()],
        control_plane: control_plane(cx, isolation(args.isolation)),
        patience: args.timeout,
    };
    let mesh = Arc::new(Lent {
        client: Client::new(cx.settings.socket()),
        sources,
        namespace: cx.settings.namespace().to_owned(),
    });
    let supervisor = Supervisor::start(options, mesh).await.map_err(failed)?;
    let step = Progress::new(&cx.out).step("pods");
    let ready = tokio::select! {
        ready = supervisor.wait_ready(args.timeout) => ready,
        () = &mut stop => {
            step.failed();
            return supervisor.stop().await.map_err(failed);
        }
    };
    match ready {
        Ok(()) => {
            let status = supervisor.status();
            step.done(&format!("{} ready; Ctrl-C ends them", status.pods.len()));
            for_programs(cx, &status)?;
        }
        Err(error) => {
            step.failed();
            supervisor.stop().await.map_err(failed)?;
            return Err(failed(error));
        }
    }
    supervisor.run(stop).await.map_err(failed)
}

/// What came up, where people were told in words already.
fn for_programs(cx: &Context, status: &LocalStatus) -> Result<(), CliError> {
    if cx.out.for_people() {
        Ok(())
    } else {
        cx.out.report(status)
    }
}

/// Pods bring a control plane of their own, on an address that they all reach.
async fn alone(cx: &Context) -> Result<(), CliError> {
    if status(cx).await.is_ok() {
        return Err(failed(LocalError::AlreadyUp(cx.settings.home.clone())));
    }
    match cx.client.get::<Version>(&path(&["version"], &[])).await {
        Ok(version) => Err(CliError::failed(format!(
            "a control plane runs in {} already (process {}), and pods bring their own",
            cx.settings.home.display(),
            version.pid
        ))
        .hint("end it, or use another --home")),
        Err(_) => Ok(()),
    }
}

fn executable() -> Result<std::path::PathBuf, CliError> {
    std::env::current_exe().map_err(CliError::file("find", "the program"))
}

fn isolation(wanted: How) -> Isolation {
    let root = nix::unistd::geteuid().is_root();
    if wanted == How::Netns || (wanted == How::Auto && root) {
        Isolation::Netns
    } else {
        Isolation::Process
    }
}

/// The control plane of the pods: on an address of its own, so that several meshes can be up.
fn control_plane(cx: &Context, isolation: Isolation) -> ControlPlane {
    let mut args = vec![
        "--home".to_owned(),
        cx.settings.home.display().to_string(),
        "control-plane".to_owned(),
        "--listen".to_owned(),
        "$(LISTEN_IP)".to_owned(),
    ];
    if isolation == Isolation::Netns {
        // xDS without TLS stays on 127.0.0.1, where another mesh may be.
        args.extend(["--xds-port=0", "--api-port=0", "--metrics-port=0"].map(str::to_owned));
    }
    ControlPlane {
        args: Some(args),
        address: "$(LISTEN_IP):15012".to_owned(),
    }
}

/// The same command in the background; returns when everything is ready.
async fn detach(args: Args, cx: &Context) -> Result<(), CliError> {
    let mut again: Vec<OsString> = vec!["--home".into(), cx.settings.home.clone().into()];
    if let Some(namespace) = &cx.settings.namespace {
        again.extend(["--namespace".into(), namespace.into()]);
    }
    again.push("up".into());
    if args.recursive {
        again.push("-R".into());
    }
    again.extend(["--isolation".into(), args.isolation.name().into()]);
    again.extend(["--access-log".into(), args.access_log.name().into()]);
    again.extend([
        "--timeout".into(),
        format!("{}s", args.timeout.as_secs()).into(),
    ]);
    for file in &args.file {
        let file_path = std::path::absolute(file).map_err(CliError::file("find", file))?;
        again.push(file_path.into());
    }
    let step = Progress::new(&cx.out).step("pods");
    let begun = now();
    let started = daemonise(&Daemon {
        home: cx.settings.home.clone(),
        executable: executable()?,
        args: again,
    })
    .await;
    let pid = match started {
        Ok(pid) => pid,
        Err(error) => {
            step.failed();
            return Err(failed(error));
        }
    };
    loop {
        let status = status(cx).await;
        match status {
            Ok(status) if !status.pods.is_empty() => {
                let ready = status.pods.iter().filter(|pod| pod.ready).count();
                if ready == status.pods.len() {
                    step.done(&format!("{ready} ready; `meshctl down` ends them"));
                    return for_programs(cx, &status);
                }
                step.update(&format!("{ready} of {} ready", status.pods.len()));
            }
            Ok(_) => {}
            Err(error) => {
                step.failed();
                return Err(CliError::failed(format!(
                    "the pods did not come up: {}",
                    last_words(cx).unwrap_or_else(|| error.to_string())
                ))
                .hint(format!("see {}", log(cx).display())));
            }
        }
        if begun.elapsed() > args.timeout {
            step.failed();
            return Err(CliError::Timeout {
                what: format!("bringing up the pods (supervisor {pid})"),
                after: args.timeout,
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn log(cx: &Context) -> std::path::PathBuf {
    cx.settings.home.join("local").join("supervisor.log")
}

/// What a supervisor said before it ended.
fn last_words(cx: &Context) -> Option<String> {
    let text = std::fs::read_to_string(log(cx)).ok()?;
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let tail = lines.get(lines.len().saturating_sub(6)..)?;
    (!tail.is_empty()).then(|| tail.join("\n"))
}

/// The control plane as pods need it: over the API that everyone uses.
#[derive(Debug)]
struct Lent {
    client: Client,
    sources: Vec<SourceText>,
    namespace: String,
}

impl Mesh for Lent {
    fn ready(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { self.client.ready().await.unwrap_or(false) })
    }

    fn prepare(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let request = ApplyRequest {
                sources: self.sources.clone(),
                namespace: self.namespace.clone(),
                force: false,
                dry_run: false,
                who: settings::who(),
            };
            let applied: Result<ApplyReport, CliError> =
                self.client.post("/resources", &request).await;
            applied.map(|_| ()).map_err(|error| match error {
                CliError::Problem(problem) => {
                    let findings: Vec<String> =
                        problem.findings.iter().map(ToString::to_string).collect();
                    format!("{}\n{}", problem.message, findings.join("\n"))
                }
                other => other.chain(),
            })
        })
    }

    fn join_token<'a>(&'a self, pod: &'a Pod) -> BoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            let request = TokenRequest {
                namespace: pod.namespace.clone(),
                service_account: pod.service_account.clone(),
                uses: 1,
                ttl_seconds: TOKEN_SECONDS,
                gateway: None,
            };
            let token: TokenReport = self
                .client
                .post("/tokens", &request)
                .await
                .map_err(|error| error.chain())?;
            Ok(Some(token.token))
        })
    }
}
