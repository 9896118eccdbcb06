//! `check`: whether this machine and the control plane are as they should be.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use crate::api::Version;
use crate::api::check::{Check, CheckReport, CheckSection, CheckStatus};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::home::Installed;
use crate::cli::parse;
use crate::install::{Profile, Settings};
use crate::net;
use crate::rt;

use super::cluster::{ClusterArgs, health, preflight};
use super::install::Target;

/// Check this machine and the control plane
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl check --pre               can this machine run a mesh?
  meshctl check                     is the mesh well?
  meshctl check --wait 5m           wait until it is
  meshctl check --pre --target kubernetes   can this cluster?

Exits 1 when a check failed, 3 when waiting was in vain, 4 when no control
plane answers.")]
pub(crate) struct Args {
    /// Only what must be so before the control plane is started
    #[arg(long)]
    pre: bool,
    /// Repeat until nothing fails, at most this long
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "pre")]
    wait: Option<Duration>,
    /// Where: with --pre, whether a cluster can take an installation
    #[arg(long, value_enum, default_value_t, value_name = "TARGET")]
    target: Target,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Pause between two rounds of `--wait`.
const ROUND: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.target == Target::Kubernetes {
        return in_cluster(&args, cx).await;
    }
    args.cluster.only_for_clusters()?;
    let deadline = args.wait.map(|wait| (rt::now() + wait, wait));
    let (report, exit) = loop {
        let (report, exit) = if args.pre {
            let report = CheckReport {
                sections: vec![home_section(cx), machine_section(cx)],
            };
            let exit = if report.passed() {
                Exit::Ok
            } else {
                Exit::Problem
            };
            (report, exit)
        } else {
            once(cx).await?
        };
        match deadline {
            Some((deadline, _)) if exit != Exit::Ok && rt::now() < deadline => {
                tokio::time::sleep(ROUND).await;
            }
            Some(_) if exit != Exit::Ok => break (report, Exit::Timeout),
            _ => break (report, exit),
        }
    };
    cx.out.report(&report)?;
    if exit == Exit::Timeout
        && let Some((_, wait)) = deadline
    {
        cx.out.warn(&format!(
            "still failing after {}",
            crate::cli::render::number::duration(wait)
        ));
    }
    Ok(exit)
}

/// What must be so before an installation in a cluster.
async fn in_cluster(args: &Args, cx: &Context) -> Result<Exit, CliError> {
    if !args.pre {
        return Err(CliError::usage("only --pre is checked in a cluster"));
    }
    let cluster = args.cluster.connect(cx).await?;
    let mut settings = Settings::new(Profile::Default);
    args.cluster.revision().clone_into(&mut settings.revision);
    let namespace = args.cluster.system_namespace();
    namespace.clone_into(&mut settings.namespace);
    let report = CheckReport {
        sections: vec![preflight::section(&cluster, &settings).await],
    };
    cx.out.report(&report)?;
    Ok(if report.passed() {
        Exit::Ok
    } else {
        Exit::Problem
    })
}

/// Waits until the control plane serves.
pub(crate) async fn until_ready(cx: &Context, patience: Duration) -> Result<(), CliError> {
    let deadline = rt::now() + patience;
    loop {
        if cx.client.ready().await.unwrap_or(false) {
            return Ok(());
        }
        if rt::now() >= deadline {
            return Err(CliError::Timeout {
                what: "the control plane's start".to_owned(),
                after: patience,
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn once(cx: &Context) -> Result<(CheckReport, Exit), CliError> {
    if let Some(mesh) = cx.client.mesh() {
        let report = health::report(mesh, cx).await?;
        let exit = match mesh.session().await {
            Err(error) => error.exit(),
            Ok(_) if report.passed() => Exit::Ok,
            Ok(_) => Exit::Problem,
        };
        return Ok((report, exit));
    }
    let mut sections = vec![home_section(cx)];
    let version = cx.client.get::<Version>(&path(&["version"], &[])).await;
    let mut section = CheckSection {
        name: "control plane".to_owned(),
        checks: Vec::new(),
    };
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            section.checks.push(Check {
                text: "the control plane answers".to_owned(),
                status: CheckStatus::Failed,
                detail: error.chain(),
                hint: error.advice(),
            });
            sections.push(section);
            return Ok((CheckReport { sections }, error.exit()));
        }
    };
    section.checks.push(ok(format!(
        "the control plane answers (process {})",
        version.pid
    )));
    let own = env!("CARGO_PKG_VERSION");
    section.checks.push(Check {
        text: "client and control plane have the same version".to_owned(),
        status: if version.version == own {
            CheckStatus::Ok
        } else {
            CheckStatus::Warning
        },
        detail: if version.version == own {
            String::new()
        } else {
            format!("client {own}, control plane {}", version.version)
        },
        hint: (version.version != own).then(|| "restart the control plane".to_owned()),
    });
    sections.push(section);
    let server: CheckReport = cx.client.get(&path(&["check"], &[])).await?;
    sections.extend(server.sections);
    let report = CheckReport { sections };
    let exit = if report.passed() {
        Exit::Ok
    } else {
        Exit::Problem
    };
    Ok((report, exit))
}

fn home_section(cx: &Context) -> CheckSection {
    let home = cx.settings.home.as_path();
    let mut checks = Vec::new();
    match std::fs::metadata(home) {
        Ok(found) if !found.is_dir() => checks.push(failed(
            "the home is a directory",
            format!("{} is something else", home.display()),
            "choose another --home",
        )),
        Ok(found) => {
            let open = found.mode() & 0o077;
            checks.push(if open == 0 {
                ok(format!("{} is for its owner only", home.display()))
            } else {
                warning(
                    "the home is for its owner only",
                    format!("{} has mode {:o}", home.display(), found.mode() & 0o777),
                    format!("chmod 700 {}", home.display()),
                )
            });
            checks.push(match writable(home) {
                Ok(()) => ok("the home can be written".to_owned()),
                Err(reason) => failed("the home can be written", reason, "choose another --home"),
            });
            checks.push(match Installed::load(home) {
                Ok(Some(note)) => ok(format!("installed with profile {}", note.profile)),
                Ok(None) => warning(
                    "a mesh is installed there",
                    format!("{} has no settings", home.display()),
                    "run `meshctl install`",
                ),
                Err(error) => failed(
                    "the settings can be read",
                    error.chain(),
                    "run `meshctl install` again",
                ),
            });
        }
        Err(_) => {
            let parent = home.ancestors().find(|path| path.is_dir()).unwrap_or(home);
            checks.push(match writable(parent) {
                Ok(()) => ok(format!("{} can be made", home.display())),
                Err(reason) => failed("the home can be made", reason, "choose another --home"),
            });
        }
    }
    // Unix sockets take 107 bytes; said now rather than when the control plane starts.
    let socket = cx.settings.socket();
    if socket.as_os_str().len() > 107 {
        checks.push(failed(
            "the socket's path is short enough",
            format!("{} has more than 107 bytes", socket.display()),
            "choose a shorter --home",
        ));
    }
    CheckSection {
        name: "home".to_owned(),
        checks,
    }
}

fn machine_section(cx: &Context) -> CheckSection {
    let note = Installed::load(&cx.settings.home)
        .ok()
        .flatten()
        .unwrap_or_default();
    let mut checks = Vec::new();
    for (key, default, what) in [
        ("xdsPort", 15_010, "xDS"),
        ("tlsPort", 15_012, "xDS and CA over TLS"),
        ("apiPort", 15_080, "/ready"),
        ("metricsPort", 15_014, "metrics"),
    ] {
        let port = note.port(key).unwrap_or(default);
        checks.push(match free(port) {
            Ok(()) => ok(format!("port {port} is free for {what}")),
            Err(reason) => failed(
                format!("port {port} is free for {what}"),
                reason,
                format!("end what uses it, or `meshctl install --set {key}=PORT`"),
            ),
        });
    }
    checks.push(files());
    let root = nix::unistd::geteuid().is_root();
    let nft = on_path(cx, "nft");
    checks.push(if root && nft {
        ok("pods can have network namespaces (root, nft)".to_owned())
    } else {
        let why = if root {
            "nft is not installed"
        } else {
            "not root"
        };
        Check {
            text: format!("pods run as processes on loopback addresses ({why})"),
            status: CheckStatus::Ok,
            detail: String::new(),
            hint: None,
        }
    });
    CheckSection {
        name: "machine".to_owned(),
        checks,
    }
}

/// Open files, since every connection takes one on each side of a sidecar.
fn files() -> Check {
    const ENOUGH: u64 = 4_096;
    let text = "enough files can be open".to_owned();
    // The kernel's own account of this process.
    let limit = std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| {
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max open files"))?;
            let hard = line.split_whitespace().nth(4)?;
            if hard == "unlimited" {
                Some(u64::MAX)
            } else {
                hard.parse().ok()
            }
        });
    match limit {
        Some(limit) if limit < ENOUGH => warning(
            text,
            format!("at most {limit}; each request through a sidecar takes two"),
            format!("ulimit -n {ENOUGH}"),
        ),
        _ => ok(text),
    }
}

fn writable(dir: &Path) -> Result<(), String> {
    nix::unistd::access(
        dir,
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
    )
    .map_err(|error| format!("{}: {}", dir.display(), error.desc()))?;
    // Root may everything, and yet there are places where nothing can be made.
    let probe = dir.join(format!(".meshctl-check-{}", std::process::id()));
    std::fs::create_dir(&probe)
        .and_then(|()| std::fs::remove_dir(&probe))
        .map_err(|error| {
            let words = error.to_string();
            let words = words.split(" (os error ").next().unwrap_or(&words);
            format!("{}: {words}", dir.display())
        })
}

fn free(port: u16) -> Result<(), String> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    net::available(address).map_err(|error| format!("{address}: {error}"))
}

fn on_path(cx: &Context, program: &str) -> bool {
    let path = cx.settings.environment.path.clone().unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

fn ok(text: String) -> Check {
    Check {
        text,
        status: CheckStatus::Ok,
        detail: String::new(),
        hint: None,
    }
}

fn warning(text: impl Into<String>, detail: String, hint: impl Into<String>) -> Check {
    Check {
        text: text.into(),
        status: CheckStatus::Warning,
        detail,
        hint: Some(hint.into()),
    }
}

fn failed(text: impl Into<String>, detail: String, hint: impl Into<String>) -> Check {
    Check {
        status: CheckStatus::Failed,
        ..warning(text, detail, hint)
    }
}
