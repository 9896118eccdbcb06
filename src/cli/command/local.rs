//! The one place that calls the layer that runs pods: `up`, `down`, `ps`, `logs` and the hidden
//! commands go through here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::api::identity::{TokenReport, TokenRequest};
use crate::api::local::{LocalStatus, LogLine, LogsQuery};
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::api::{Problem, Reason};
use crate::cli::client::Client;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::progress::Progress;
use crate::cli::settings;
use crate::local::plan::{Isolation, Pod};
use crate::local::supervisor::{
    ControlPlane, Daemon, Mesh, Options, Supervisor, daemonise, ended_by_signal,
};
use crate::local::{self, LocalError};
use crate::mesh::Severity;
use crate::resource;
use crate::rt::now;

pub(crate) use crate::local::client::Down;

use super::up::{Args, Isolation as Wanted};
use super::{install, local_spec, manifests};

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
    let hint = error.hint();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        words.push_str(": ");
        words.push_str(&next.to_string());
        cause = next.source();
    }
    let wrapped = CliError::failed(words);
    match hint {
        Some(hint) => wrapped.hint(hint),
        None => wrapped,
    }
}

/// Runs `args.file` until told to end, or hands over to a supervisor in the background.
pub(crate) async fn up(args: Args, cx: &Context) -> Result<(), CliError> {
    let sources = manifests::read(&args.file, args.recursive)?;
    let workloads = read(&sources, cx)?;
    install::ensure(cx)?;
    if args.detach {
        return detach(args, cx).await;
    }
    let options = Options {
        home: cx.settings.home.clone(),
        executable: executable()?,
        isolation: isolation(args.isolation),
        workloads,
        base_env: settings::handed_on(),
        own_env: settings::own_variables(),
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
    let stop = ended_by_signal();
    tokio::pin!(stop);
    let ready = tokio::select! {
        ready = supervisor.wait_ready(args.timeout) => ready,
        () = &mut stop => {
            step.failed();
            return supervisor.stop().await.map_err(failed);
        }
    };
    match ready {
        Ok(()) => {
            let pods = supervisor.status().pods.len();
            step.done(&format!("{pods} ready; Ctrl-C ends them"));
        }
        Err(error) => {
            step.failed();
            supervisor.stop().await.map_err(failed)?;
            return Err(failed(error));
        }
    }
    supervisor.run(stop).await.map_err(failed)
}

/// Parses `sources`; what is wrong is told, and an error refuses all of it.
fn read(sources: &[SourceText], cx: &Context) -> Result<Vec<local::spec::Workload>, CliError> {
    let mut objects = Vec::new();
    let mut findings = Vec::new();
    for source in sources {
        let (read, found) = resource::parse(&source.text, &source.name, cx.settings.namespace());
        objects.extend(read);
        findings.extend(found);
    }
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
    {
        let mut problem =
            Problem::new(Reason::Invalid, "the manifests have errors; nothing is run");
        problem.findings = findings;
        return Err(CliError::Problem(problem));
    }
    for finding in &findings {
        cx.out.finding(finding);
    }
    local_spec::workloads(&objects)
}

fn executable() -> Result<std::path::PathBuf, CliError> {
    std::env::current_exe().map_err(CliError::file("find", "the program"))
}

fn isolation(wanted: Wanted) -> Isolation {
    let root = nix::unistd::geteuid().is_root();
    if wanted == Wanted::Netns || (wanted == Wanted::Auto && root) {
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
        args.extend(["--xds-port", "0", "--api-port", "0"].map(str::to_owned));
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
    let how = match args.isolation {
        Wanted::Auto => "auto",
        Wanted::Process => "process",
        Wanted::Netns => "netns",
    };
    again.extend(["--isolation".into(), how.into()]);
    again.extend([
        "--timeout".into(),
        format!("{}s", args.timeout.as_secs()).into(),
    ]);
    for file in &args.file {
        let path = std::path::absolute(file).map_err(CliError::file("find", file))?;
        again.push(path.into());
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
                    return Ok(());
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
                other => other.to_string(),
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
            };
            let token: TokenReport = self
                .client
                .post("/tokens", &request)
                .await
                .map_err(|error| error.to_string())?;
            Ok(Some(token.token))
        })
    }
}
