//! `install`: makes a home for a mesh on this machine.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::cli::authority::AuthorityArgs;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::home::{self, Installed};
use crate::cli::progress::Progress;
use crate::cli::render::{Page, Render, number};
use crate::cli::{parse, systemd};
use crate::control::{store_dir, trust, trust_dir};
use crate::rt;
use crate::rt::disk::private_dir;
use crate::source::store::{self, Store, StoreError};

use super::cluster::{self, ClusterArgs};

/// Make a home for the mesh: directory, store and root certificate
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl install                        a home, a store, a root certificate
  meshctl install --service --wait       and a systemd user service
  meshctl install --set xdsPort=16010    another port
  meshctl install --dry-run -o json      what would be done
  meshctl install --target kubernetes --wait
  meshctl install --target kubernetes --dry-run | kubectl apply -f -

Profiles: default (mTLS where the caller can), demo (mTLS required, a talkative
log), minimal (as default, logs only what is wrong). In a cluster default has
two control planes and an ingress gateway, demo one and an egress gateway, too,
minimal a control plane and nothing else.
Settings: trustDomain, listen, xdsPort, tlsPort, apiPort, metricsPort, mtls
(strict or permissive), logLevel, caKeyType, caCerts, caPassphraseFile,
caSigner, caSignerRoot, caSignerCrl, caSignerToken, caSignerCert, caSignerKey,
caSignerName, caTrustedAccounts
Settings in a cluster: image, imagePullPolicy, replicas, gatewayReplicas,
ingress, egress, ingressType, injector, validator, failurePolicy, cpu, memory,
memoryLimit, trustDomain, mtls, logLevel, caKeyType, caSigner, caSignerRoots,
caSignerName
Installing again changes only what --profile and --set name.")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own, as people set them"
)]
pub(crate) struct Args {
    /// Where to
    #[arg(long, value_enum, default_value_t, value_name = "TARGET")]
    target: Target,
    /// Which set of settings to begin with
    #[arg(long, value_enum, value_name = "PROFILE")]
    profile: Option<Profile>,
    /// A setting over the profile's; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    set: Vec<(String, String)>,
    /// Also make a systemd user service of the control plane, and start it
    #[arg(long)]
    service: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Wait until the control plane of the service is ready, at most a minute; in a cluster
    /// until everything runs, at most five
    #[arg(long)]
    wait: bool,
    /// In a cluster: also over what a newer release installed
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Istio's default.
const TRUST_DOMAIN: &str = "cluster.local";

/// Where a mesh can be installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    // This machine
    #[default]
    Local,
    // A Kubernetes cluster
    Kubernetes,
}

/// A set of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    // mTLS where the caller can, plaintext from others
    Default,
    // mTLS required, and a talkative log: to see what happens
    Demo,
    // As default, logging only what is wrong
    Minimal,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Demo => "demo",
            Self::Minimal => "minimal",
        }
    }

    fn values(self) -> BTreeMap<String, String> {
        let values: &[(&str, &str)] = match self {
            Self::Default => &[("mtls", "permissive")],
            Self::Demo => &[("mtls", "strict"), ("logLevel", "debug")],
            Self::Minimal => &[("mtls", "permissive"), ("logLevel", "warn")],
        };
        values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) home: String,
    pub(crate) dry_run: bool,
    pub(crate) steps: Vec<StepReport>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StepReport {
    pub(crate) name: String,
    /// `created`, `changed`, `unchanged`, `removed`, or, in a dry run, what it would be.
    pub(crate) outcome: &'static str,
    pub(crate) detail: String,
}

impl Render for Report {
    fn text(&self, _: &Page) -> String {
        let would = if self.dry_run { " (dry run)" } else { "" };
        self.steps
            .iter()
            .map(|step| format!("{} {}{would}\n", step.name, step.outcome))
            .collect()
    }

    fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name.clone()).collect()
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.target == Target::Kubernetes {
        if args.service {
            return Err(CliError::usage("--service is for this machine"));
        }
        let profile = args.profile.map(Profile::name);
        let wanted = cluster::install::Wanted {
            place: args.cluster,
            profile: profile.and_then(crate::install::Profile::named),
            set: args.set,
            dry_run: args.dry_run,
            wait: args.wait,
            allow_downgrade: args.allow_downgrade,
        };
        return cluster::install::run(wanted, cx).await;
    }
    args.cluster.only_for_clusters()?;
    if args.allow_downgrade {
        return Err(
            CliError::usage("--allow-downgrade is for clusters").hint("add --target kubernetes")
        );
    }
    if args.wait && !args.service {
        return Err(CliError::usage(
            "--wait waits for the control plane of --service",
        ));
    }
    for (key, value) in &args.set {
        home::check_value(key, value)?;
    }
    let home = cx.settings.home.as_path();
    let before = Installed::load(home)?;
    let wanted = wanted(&args, before.as_ref());
    if let Some(before) = &before
        && before.value("trustDomain").unwrap_or(TRUST_DOMAIN)
            != wanted.value("trustDomain").unwrap_or(TRUST_DOMAIN)
    {
        return Err(CliError::failed(
            "the trust domain cannot be changed: every identity bears it",
        )
        .hint("`meshctl uninstall --purge` first, or another --home"));
    }
    let mut report = Report {
        home: home.display().to_string(),
        dry_run: args.dry_run,
        steps: Vec::new(),
    };
    let mut note = |name: &str, outcome, detail: String| {
        report.steps.push(StepReport {
            name: name.to_owned(),
            outcome,
            detail,
        });
    };
    let changed = |there: bool, same: bool| match (there, same) {
        (false, _) => "created",
        (true, true) => "unchanged",
        (true, false) => "changed",
    };
    let settings_outcome = changed(before.is_some(), before.as_ref() == Some(&wanted));
    let unit = args
        .service
        .then(|| systemd::unit_path(&cx.settings))
        .transpose()?;
    if args.dry_run {
        note(
            "home",
            changed(home.is_dir(), true),
            home.display().to_string(),
        );
        let store = store_dir(home);
        note(
            "store",
            changed(store.is_dir(), true),
            store.display().to_string(),
        );
        let root = trust_dir(home).join("root-cert.pem");
        note(
            "root certificate",
            changed(root.is_file(), true),
            root.display().to_string(),
        );
        note(
            "settings",
            settings_outcome,
            Installed::path(home).display().to_string(),
        );
        if let Some(unit) = &unit {
            note(
                "service",
                changed(unit.exists(), true),
                unit.display().to_string(),
            );
        }
        cx.out.report(&report)?;
        return Ok(Exit::Ok);
    }

    let progress = Progress::new(&cx.out);
    let step = progress.step("home");
    let made = private_dir(home).map_err(CliError::file("make", home))?;
    step.done(&home.display().to_string());
    note(
        "home",
        if made { "created" } else { "unchanged" },
        home.display().to_string(),
    );

    let step = progress.step("store and root certificate");
    match prepare_state(cx, home, &wanted) {
        Ok(state) => {
            step.done(&state.root);
            let outcome = |made| if made { "created" } else { "unchanged" };
            note(
                "store",
                outcome(state.store_made),
                store_dir(home).display().to_string(),
            );
            note("root certificate", outcome(state.root_made), state.root);
        }
        Err(error) => {
            step.failed();
            return Err(error);
        }
    }

    let step = progress.step("settings");
    if before.as_ref() != Some(&wanted) {
        wanted.store(home)?;
    }
    step.done(&wanted.profile);
    note(
        "settings",
        settings_outcome,
        Installed::path(home).display().to_string(),
    );

    if let Some(unit) = unit {
        let step = progress.step("service");
        let executable = std::env::current_exe().map_err(CliError::file("find", "meshctl"))?;
        let there = unit.exists();
        let written = systemd::write(&unit, &systemd::unit_text(&executable, home))?;
        note(
            "service",
            changed(there, !written),
            unit.display().to_string(),
        );
        systemd::systemctl(&["daemon-reload"])?;
        systemd::systemctl(&["enable", "--now", &systemd::unit_name(&cx.settings)])?;
        step.done(&unit.display().to_string());
    }
    if args.wait {
        let step = progress.step("control plane ready");
        super::check::until_ready(cx, Duration::from_mins(1)).await?;
        step.done("");
    }
    if cx.out.for_people() {
        if !args.service {
            cx.out
                .note("next: `meshctl control-plane`, or `meshctl up -d FILE…` to run pods");
        }
        return Ok(Exit::Ok);
    }
    cx.out.report(&report)?;
    Ok(Exit::Ok)
}

/// What is there, with what this command line changes.
fn wanted(args: &Args, before: Option<&Installed>) -> Installed {
    let mut values = before
        .map(|before| before.values.clone())
        .unwrap_or_default();
    let profile = match (args.profile, before) {
        (None, Some(before)) => before.profile.clone(),
        (profile, _) => {
            let profile = profile.unwrap_or(Profile::Default);
            values.extend(profile.values());
            profile.name().to_owned()
        }
    };
    values.extend(args.set.iter().cloned());
    Installed {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile,
        values,
    }
}

/// What [`prepare_state`] found or made.
struct State {
    store_made: bool,
    root_made: bool,
    /// The root in words.
    root: String,
}

/// Opens the store once, which makes or checks and mends it, and makes the root certificate unless
/// there is one.
fn prepare_state(cx: &Context, home: &Path, wanted: &Installed) -> Result<State, CliError> {
    let trust_domain = wanted.value("trustDomain").unwrap_or(TRUST_DOMAIN);
    let passphrase = cx.settings.environment.ca_passphrase.as_ref();
    let ca = AuthorityArgs::default().options(wanted, passphrase)?;
    let dir = store_dir(home);
    private_dir(&home.join("control")).map_err(CliError::file("make", home))?;
    let options = store::Options::default();
    let store_made = match Store::open(&dir, &options) {
        Ok((_, report)) => {
            if let Some(repair) = &report.repaired {
                for words in repair.what.iter().chain(&repair.done) {
                    cx.out.warn(&format!("store: {words}"));
                }
            }
            report.created
        }
        // A control plane has it open, so it is there and sound.
        Err(StoreError::Locked { .. }) => false,
        Err(error) => {
            let hint = error.hint();
            let failed = CliError::failed(error.to_string());
            return Err(hint.map_or_else(
                || failed,
                |hint| CliError::failed(error.to_string()).hint(hint),
            ));
        }
    };
    let dir = trust_dir(home);
    let root_made = ca.plugged.is_none() && ca.signer.is_none() && !dir.join("ca-key.pem").exists();
    let authority = trust::authority(&dir, trust_domain, &ca, &cx.wall)
        .map_err(|error| CliError::failed(rt::chain(&error)))?;
    let fingerprint = authority.root_fingerprint();
    let short = fingerprint.get(..16).unwrap_or(&fingerprint);
    Ok(State {
        store_made,
        root_made,
        root: format!(
            "{}, SHA-256 {short}…, until {}",
            authority.trust_domain(),
            number::moment(authority.not_after())
        ),
    })
}

/// Installs with the usual settings unless something is installed already.
pub(crate) fn ensure(cx: &Context) -> Result<(), CliError> {
    let home = cx.settings.home.as_path();
    if Installed::load(home)?.is_some() {
        return Ok(());
    }
    private_dir(home).map_err(CliError::file("make", home))?;
    let profile = Profile::Default;
    let wanted = Installed {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        values: profile.values(),
        profile: profile.name().to_owned(),
    };
    prepare_state(cx, home, &wanted)?;
    wanted.store(home)
}
