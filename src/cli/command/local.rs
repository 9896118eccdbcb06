//! The one place that calls the layer that runs pods: `up`, `down`, `ps`, `logs` and the hidden
//! commands go through here.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
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
use crate::cli::home::Installed;
use crate::cli::progress::Progress;
use crate::cli::render::number;
use crate::cli::{logging, settings};
use crate::local::client::{self, Down};
use crate::local::plan::{Isolation, Pod};
use crate::local::spec::Workload;
use crate::local::supervisor::{self, ControlPlane, Daemon, Mesh, Options, Supervisor};
use crate::local::{LocalError, entry, netns};
use crate::rt;

use super::up::{Args, How};
use super::{manifests, workloads};

/// How long the control plane may take to become ready.
const CONTROL_PLANE: Duration = Duration::from_secs(20);

/// A sidecar joins at once; a token that lies about is of no use for long.
const TOKEN_SECONDS: u64 = 120;

/// Runs what `up` starts us again for (`sample-app`, `pod-exec`, `pod-guard`); `args` are without
/// the program. Before anything is parsed and any thread started.
pub(crate) fn hidden(args: &[OsString]) -> Option<ExitCode> {
    entry::run(args, settings::variable)
}

/// What is up.
pub(crate) async fn status(cx: &Context) -> Result<LocalStatus, CliError> {
    client::ps(&cx.settings.home).await.map_err(told)
}

/// Gives each log line to `each` until there are no more or `each` says false.
pub(crate) async fn logs(
    cx: &Context,
    query: LogsQuery,
    each: impl FnMut(LogLine) -> bool,
) -> Result<(), CliError> {
    client::logs(&cx.settings.home, query, each)
        .await
        .map_err(told)
}

/// Ends what is up.
pub(crate) async fn down(cx: &Context, deadline: Duration) -> Result<Down, CliError> {
    client::down(&cx.settings.home, deadline)
        .await
        .map_err(told)
}

/// Runs the pods until told to end, or hands over to a supervisor in the background.
pub(crate) async fn up(args: Args, cx: &Context) -> Result<(), CliError> {
    let home = cx.settings.home.as_path();
    let installed = Installed::load(home)?.ok_or_else(|| {
        CliError::failed(format!("nothing is installed in {}", home.display()))
            .hint("run `meshctl install` first")
    })?;
    if args.detach && args.file.iter().any(|file| file.as_os_str() == "-") {
        return Err(CliError::usage("-d cannot read standard input")
            .hint("write it to a file, or leave -d out"));
    }
    // Read in front of the background, too, so that mistakes are told here.
    let sources = manifests::read(&args.file, args.recursive)?;
    let (pods, findings) = workloads::read(&sources, cx.settings.namespace())?;
    if !args.child {
        for finding in &findings {
            cx.out.finding(finding);
        }
    }
    if pods.is_empty() {
        return Err(CliError::failed(
            "the files hold no Deployment, StatefulSet or Pod",
        ));
    }
    let executable = std::env::current_exe().map_err(CliError::file("find", "meshctl"))?;
    if args.detach {
        detach(&args, cx, executable).await
    } else {
        let options = options(cx, &args, &installed, executable, pods).await?;
        let mesh = Lent {
            client: cx.client.clone(),
            sources,
            namespace: cx.settings.namespace().to_owned(),
        };
        foreground(options, mesh, args.timeout, cx).await
    }
}

async fn options(
    cx: &Context,
    args: &Args,
    installed: &Installed,
    executable: PathBuf,
    pods: Vec<Workload>,
) -> Result<Options, CliError> {
    let home = cx.settings.home.clone();
    let isolation = match args.isolation {
        How::Netns => Isolation::Netns,
        How::Auto if netns::available().is_ok() => Isolation::Netns,
        How::Auto | How::Process => Isolation::Process,
    };
    let mut control = vec![
        "--home".to_owned(),
        utf8(&home)?,
        "control-plane".to_owned(),
        "--listen".to_owned(),
        "$(LISTEN_IP)".to_owned(),
    ];
    if isolation == Isolation::Netns {
        // What stays on 127.0.0.1 must not be in the way of another mesh.
        control.extend(["--xds-port=0", "--api-port=0", "--metrics-port=0"].map(ToOwned::to_owned));
    }
    // One that runs already is used rather than fought.
    let control_plane = match cx.client.get::<Version>(&path(&["version"], &[])).await {
        Ok(version) => ControlPlane {
            args: None,
            address: version.tls_address,
        },
        Err(CliError::Unreachable { .. }) => ControlPlane {
            args: Some(control),
            address: format!(
                "$(LISTEN_IP):{}",
                installed.port("tlsPort").unwrap_or(15_012)
            ),
        },
        Err(error) => return Err(error),
    };
    let inherited = |names: &[&str]| -> Vec<(String, String)> {
        names
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), settings::variable(name)?)))
            .collect()
    };
    Ok(Options {
        home,
        executable,
        isolation,
        workloads: pods,
        base_env: inherited(&supervisor::INHERITED),
        own_env: inherited(&["RUST_LOG"]),
        control_plane,
        patience: CONTROL_PLANE,
    })
}

fn utf8(path: &Path) -> Result<String, CliError> {
    path.to_str().map(ToOwned::to_owned).ok_or_else(|| {
        CliError::usage(format!("{} is not UTF-8", path.display())).hint("choose another --home")
    })
}

/// Looks after the pods until a signal or a `down`.
async fn foreground(
    options: Options,
    mesh: Lent,
    patience: Duration,
    cx: &Context,
) -> Result<(), CliError> {
    logging::start(cx, "info");
    let count = options.workloads.len();
    // Listened for from the beginning: a Ctrl-C while pods start ends them as well.
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let supervisor = Supervisor::start(options, Arc::new(mesh))
        .await
        .map_err(told)?;
    let ready = tokio::select! {
        () = &mut end => return supervisor.stop().await.map_err(told),
        ready = supervisor.wait_ready(patience) => ready,
    };
    match ready {
        Ok(()) => cx.out.note(&format!(
            "{} ready; Ctrl-C ends them",
            number::count(count, "workload")
        )),
        // They may become ready yet, and their logs say more while they run.
        Err(error @ LocalError::NotReady { .. }) => cx.out.warn(&told(error).chain()),
        Err(error) => {
            supervisor.stop().await.map_err(told)?;
            return Err(told(error));
        }
    }
    supervisor.run(end).await.map_err(told)
}

/// Starts the same command in the background and waits until its pods are ready.
async fn detach(args: &Args, cx: &Context, executable: PathBuf) -> Result<(), CliError> {
    let home = cx.settings.home.clone();
    let mut again: Vec<OsString> = vec!["--home".into(), home.clone().into()];
    again.extend(["--namespace".into(), cx.settings.namespace().into()]);
    again.extend(["up".into(), "--child".into()]);
    again.extend(["--isolation".into(), args.isolation.name().into()]);
    again.extend([
        "--timeout".into(),
        format!("{}ms", args.timeout.as_millis()).into(),
    ]);
    if args.recursive {
        again.push("--recursive".into());
    }
    again.push("--".into());
    again.extend(args.file.iter().map(|file| file.clone().into_os_string()));
    let step = Progress::new(&cx.out).step("pods");
    let daemon = Daemon {
        home: home.clone(),
        executable,
        args: again,
    };
    if let Err(error) = supervisor::daemonise(&daemon).await {
        step.failed();
        return Err(told(error));
    }
    let deadline = rt::now() + args.timeout;
    loop {
        let status = match client::ps(&home).await {
            Ok(status) => status,
            Err(error) => {
                step.failed();
                let log = home.join("local").join("supervisor.log");
                let words = std::fs::read_to_string(&log).unwrap_or_default();
                let words: Vec<&str> = words.lines().rev().take(5).collect();
                return Err(if words.is_empty() {
                    told(error)
                } else {
                    CliError::failed(format!(
                        "the supervisor ended; it said:\n{}",
                        words.into_iter().rev().collect::<Vec<_>>().join("\n")
                    ))
                    .hint(format!("all of it is in {}", log.display()))
                });
            }
        };
        let ready = status.pods.iter().filter(|pod| pod.ready).count();
        if !status.pods.is_empty() && ready == status.pods.len() {
            step.done(&format!("{ready} ready ({})", status.isolation));
            cx.out.note(
                "next: `meshctl ps`, `meshctl routes`, `meshctl top`; `meshctl down` ends them",
            );
            return Ok(());
        }
        if rt::now() >= deadline {
            step.failed();
            let late = status.pods.iter().filter(|pod| !pod.ready);
            let names: Vec<&str> = late.map(|pod| pod.name.as_str()).collect();
            return Err(told(LocalError::NotReady {
                seconds: args.timeout.as_secs(),
                pods: names.into_iter().map(ToOwned::to_owned).collect(),
            }));
        }
        step.update(&format!("{ready} of {} ready", status.pods.len()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The control plane, as the supervisor needs it.
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
                self.client.post(&path(&["resources"], &[]), &request).await;
            applied.map(drop).map_err(|error| {
                let mut words = error.chain();
                if let CliError::Problem(problem) = &error {
                    for finding in &problem.findings {
                        words.push_str(&format!("\n{finding}"));
                    }
                }
                words
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
            let report: Result<TokenReport, CliError> =
                self.client.post(&path(&["tokens"], &[]), &request).await;
            report
                .map(|report| Some(report.token))
                .map_err(|error| error.chain())
        })
    }
}

/// An error of the layer below, with its causes and its hint.
fn told(error: LocalError) -> CliError {
    let late = matches!(error, LocalError::NotReady { .. });
    let hint = error.hint();
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        message.push_str(&format!(": {error}"));
        cause = error.source();
    }
    if late {
        CliError::Late { message, hint }
    } else {
        CliError::Failed { message, hint }
    }
}
