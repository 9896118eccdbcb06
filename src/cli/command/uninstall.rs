//! `uninstall`: takes a mesh off this machine.

use std::fs;
use std::io;

use serde::Serialize;

use crate::api::Version;
use crate::cli::client::{Client, path};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::home::Installed;
use crate::cli::progress::Progress;
use crate::cli::render::{Page, Render, number};
use crate::cli::systemd;

use super::cluster::{self, ClusterArgs};
use super::install::Target;

/// Remove the service and, with --purge, everything stored
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl uninstall                 remove the service; the state stays
  meshctl uninstall --purge         remove the home with everything in it
  meshctl uninstall --purge --dry-run
  meshctl uninstall --target kubernetes
  meshctl uninstall --target kubernetes --purge   and configuration, root, CRDs")]
pub(crate) struct Args {
    /// Where from
    #[arg(long, value_enum, default_value_t, value_name = "TARGET")]
    target: Target,
    /// Also remove the home: store, keys, logs; in a cluster the root, all kinds of the mesh and what
    /// people wrote of them. There is no way back
    #[arg(long)]
    purge: bool,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) home: String,
    pub(crate) dry_run: bool,
    pub(crate) removed: Vec<String>,
    pub(crate) kept: Vec<String>,
}

impl Render for Report {
    fn text(&self, _: &Page) -> String {
        let would = if self.dry_run { " (dry run)" } else { "" };
        let removed = self
            .removed
            .iter()
            .map(|path| format!("{path} removed{would}\n"));
        let kept = self.kept.iter().map(|path| format!("{path} kept\n"));
        removed.chain(kept).collect()
    }

    fn names(&self) -> Vec<String> {
        self.removed.clone()
    }

    fn empty(&self) -> Option<&'static str> {
        (self.removed.is_empty() && self.kept.is_empty()).then_some("Nothing is installed there")
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.target == Target::Kubernetes {
        return cluster::uninstall::run(args.cluster, args.purge, args.dry_run, cx).await;
    }
    args.cluster.only_for_clusters()?;
    let home = cx.settings.home.as_path();
    let unit = systemd::unit_path(&cx.settings)
        .ok()
        .filter(|unit| unit.exists());
    let mut report = Report {
        home: home.display().to_string(),
        dry_run: args.dry_run,
        removed: Vec::new(),
        kept: Vec::new(),
    };
    // Any home that holds something; only one that we made is ever removed.
    let there = home.exists();
    if args.purge && there && Installed::load(home)?.is_none() {
        return Err(CliError::failed(format!(
            "{} was not made by `meshctl install`, so it is not removed",
            home.display()
        ))
        .hint(format!(
            "it lacks {}; remove it yourself",
            Installed::path(home).display()
        )));
    }
    let progress = Progress::new(&cx.out);
    if let Some(unit) = unit {
        report.removed.push(unit.display().to_string());
        if !args.dry_run {
            let step = progress.step("service");
            systemd::systemctl(&["disable", "--now", &systemd::unit_name(&cx.settings)])?;
            fs::remove_file(&unit).map_err(CliError::file("remove", &unit))?;
            systemd::systemctl(&["daemon-reload"])?;
            step.done("stopped and removed");
        }
    }
    if !args.dry_run {
        nothing_runs(cx).await?;
    }
    match (there, args.purge) {
        (true, true) => {
            report.removed.push(home.display().to_string());
            if !args.dry_run {
                let step = progress.step("home");
                fs::remove_dir_all(home).map_err(CliError::file("remove", home))?;
                step.done("removed");
            }
        }
        (true, false) => report.kept.push(home.display().to_string()),
        (false, _) => {}
    }
    cx.out.report(&report)?;
    Ok(Exit::Ok)
}

/// Refuses while a control plane or pods use the home.
async fn nothing_runs(cx: &Context) -> Result<(), CliError> {
    if let Ok(status) = super::local::status(cx).await {
        return Err(CliError::failed(format!(
            "{} up in {}",
            number::count(status.pods.len(), "pod"),
            cx.settings.home.display()
        ))
        .hint("end them with `meshctl down`"));
    }
    // The one of this home, whichever is asked otherwise.
    let own = Client::new(cx.settings.socket());
    match own.get::<Version>(&path(&["version"], &[])).await {
        Err(CliError::Unreachable { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(())
        }
        Ok(version) => Err(CliError::failed(format!(
            "a control plane runs in {} (process {})",
            cx.settings.home.display(),
            version.pid
        ))
        .hint(format!(
            "end it with `kill {}`, or `meshctl down`",
            version.pid
        ))),
        Err(error) => Err(error),
    }
}
