//! `install --target kubernetes`: applies what an installation consists of, all of it or nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::rollout::wait;
use super::upgrade::{OURS, is_newer};
use super::{ClusterArgs, failed, preflight};
use crate::api::check::{CheckReport, CheckStatus};
use crate::cli::command::install::{Report, StepReport};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::progress::{Progress, Step};
use crate::cli::settings::Format;
use crate::install::{self, NAME, Profile, SETTINGS_FILE, SettingError, Settings, of_revision};
use crate::resource::json;
use crate::source::kubernetes::cluster::{Cluster, ClusterError, ObjectRef, Outcome, PLACES};

/// How long `--wait` waits.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);
/// Pause between two looks.
const ROUND: Duration = Duration::from_millis(500);

/// What the command line asks for.
pub(crate) struct Wanted {
    pub(crate) place: ClusterArgs,
    pub(crate) profile: Option<Profile>,
    pub(crate) set: Vec<(String, String)>,
    pub(crate) dry_run: bool,
    pub(crate) wait: bool,
    /// Also over what a newer release installed.
    pub(crate) allow_downgrade: bool,
}

pub(crate) async fn run(wanted: Wanted, cx: &Context) -> Result<Exit, CliError> {
    if wanted.dry_run {
        // Asks no cluster: what is printed depends on the command line only.
        let settings = settings(&wanted, None)?;
        return print(&settings, cx);
    }
    let cluster = wanted.place.connect(cx).await?;
    let before = noted(&cluster, &wanted.place).await?;
    if let Some((_, there)) = &before
        && is_newer(there)
        && !wanted.allow_downgrade
    {
        return Err(CliError::failed(format!(
            "revision {:?} is of release {there}, which is newer than this one ({OURS})",
            wanted.place.revision()
        ))
        .hint("use the newer meshctl, or insist with --allow-downgrade: what only the newer one knows is lost"));
    }
    let settings = settings(&wanted, before.map(|(settings, _)| settings))?;
    let progress = Progress::new(&cx.out);

    let step = progress.step("cluster");
    judged(&cluster, &settings, cx, step).await?;

    let newer = wanted.allow_downgrade;
    let (mut steps, _) = apply(&cluster, &settings, newer, &progress).await?;
    steps.extend(prune(&cluster, &settings, &progress).await?);
    if wanted.wait {
        wait(&cluster, &settings, &progress, PATIENCE).await?;
    }
    finish(&cluster, steps, cx)?;
    wanted.place.remember(cx)?;
    Ok(Exit::Ok)
}

/// Says what was done.
pub(super) fn finish(
    cluster: &Cluster,
    steps: Vec<StepReport>,
    cx: &Context,
) -> Result<Exit, CliError> {
    if cx.out.for_people() {
        let changed = steps
            .iter()
            .filter(|step| !matches!(step.outcome, "unchanged" | "kept"));
        if changed.count() == 0 {
            cx.out.note("nothing had to be changed");
        }
        return Ok(Exit::Ok);
    }
    cx.out.report(&Report {
        home: cluster.name().to_owned(),
        dry_run: false,
        steps,
    })?;
    Ok(Exit::Ok)
}

/// Whether the cluster can take it.
pub(super) async fn judged(
    cluster: &Cluster,
    settings: &Settings,
    cx: &Context,
    step: Step<'_>,
) -> Result<(), CliError> {
    let section = preflight::section(cluster, settings).await;
    let fault = section
        .checks
        .iter()
        .find(|check| check.status == CheckStatus::Failed);
    if let Some(fault) = fault {
        step.failed();
        let error = CliError::failed(format!("{}: {}", fault.text, fault.detail));
        let report = CheckReport {
            sections: vec![section.clone()],
        };
        cx.out.warn(&format!(
            "{} of {} checks failed; `meshctl check --pre --target kubernetes` shows them",
            report
                .sections
                .iter()
                .flat_map(|section| &section.checks)
                .filter(|check| check.status == CheckStatus::Failed)
                .count(),
            section.checks.len()
        ));
        return Err(match &fault.hint {
            Some(hint) => error.hint(hint.clone()),
            None => error,
        });
    }
    for check in &section.checks {
        if check.status == CheckStatus::Warning {
            cx.out.warn(&format!("{}: {}", check.text, check.detail));
        }
    }
    step.done(cluster.name());
    Ok(())
}

/// The manifests, as `kubectl apply -f -` takes them.
pub(super) fn print(settings: &Settings, cx: &Context) -> Result<Exit, CliError> {
    let objects = install::objects(settings);
    if cx.out.format() == Format::Json {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
        cx.out.structure(&list)?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    for object in &objects {
        text.push_str("---\n");
        text.push_str(&json::write(object));
    }
    cx.out.data(&text)?;
    Ok(Exit::Ok)
}

/// What was installed there before, and the release that installed it.
pub(super) async fn noted(
    cluster: &Cluster,
    place: &ClusterArgs,
) -> Result<Option<(Settings, String)>, CliError> {
    let which = ObjectRef {
        kind: "ConfigMap".to_owned(),
        namespace: Some(place.system_namespace().to_owned()),
        name: of_revision(NAME, place.revision()),
    };
    let found = cluster
        .get(&which)
        .await
        .map_err(|error| failed("cannot read what is installed", &error))?;
    let Some(found) = found else {
        return Ok(None);
    };
    let note = found
        .get("data")
        .and_then(|data| data.get(SETTINGS_FILE)?.as_str());
    let read = |note| Some((Settings::noted(note)?, Settings::noted_version(note)?));
    let (mut settings, version) = note.and_then(read).ok_or_else(|| {
        CliError::failed(format!(
            "{which} is damaged: its {SETTINGS_FILE} cannot be read"
        ))
        .hint(
            "`meshctl uninstall --target kubernetes` and install anew; the root certificate stays",
        )
    })?;
    place.revision().clone_into(&mut settings.revision);
    place.system_namespace().clone_into(&mut settings.namespace);
    Ok(Some((settings, version)))
}

/// What is there, with what this command line changes.
fn settings(wanted: &Wanted, before: Option<Settings>) -> Result<Settings, CliError> {
    let mut settings = match (wanted.profile, before) {
        (None, Some(before)) => before,
        // Another profile begins anew, with what was chosen over the old one.
        (profile, before) => {
            let mut settings = Settings::new(profile.unwrap_or_default());
            for (key, value) in before.map(|before| before.chosen).unwrap_or_default() {
                settings.set(&key, &value).map_err(wrong)?;
            }
            settings
        }
    };
    for (key, value) in &wanted.set {
        settings.set(key, value).map_err(wrong)?;
    }
    settings.check().map_err(wrong)?;
    wanted.place.revision().clone_into(&mut settings.revision);
    let namespace = wanted.place.system_namespace();
    namespace.clone_into(&mut settings.namespace);
    Ok(settings)
}

pub(super) fn wrong(error: SettingError) -> CliError {
    let usage = CliError::usage(error.to_string());
    match error {
        SettingError::Unknown(_) => {
            let known: Vec<&str> = install::KEYS.iter().map(|(key, _)| *key).collect();
            usage.hint(format!("settings in a cluster are {}", known.join(", ")))
        }
        SettingError::Value { .. } | SettingError::Signer(..) => usage,
    }
}

/// What was changed, and how it was before; none where it was not there.
pub(super) type Undo = Vec<(ObjectRef, Option<Value>)>;

/// Applies everything. What fails leaves the cluster as it was. Definitions of a newer release stay, unless
/// `over_newer`: revisions share them, and objects may have what only that release knows.
pub(super) async fn apply(
    cluster: &Cluster,
    settings: &Settings,
    over_newer: bool,
    progress: &Progress<'_>,
) -> Result<(Vec<StepReport>, Undo), CliError> {
    let mut steps = Vec::new();
    let mut undo = Undo::new();
    for object in install::objects(settings) {
        let which = ObjectRef::of(&object);
        let step = progress.step(which.to_string());
        if which.kind == "CustomResourceDefinition"
            && let Some(detail) = kept(cluster, &which, over_newer).await?
        {
            step.done("kept");
            steps.push(StepReport {
                name: which.to_string(),
                outcome: "kept",
                detail,
            });
            continue;
        }
        match one(cluster, &which, &object).await {
            Ok((outcome, before)) => {
                if outcome != Outcome::Unchanged {
                    undo.push((which.clone(), before));
                }
                step.done(outcome.name());
                steps.push(StepReport {
                    name: which.to_string(),
                    outcome: outcome.name(),
                    detail: String::new(),
                });
            }
            Err(error) => {
                step.failed();
                let error = failed(&format!("{which} cannot be applied"), &error);
                return Err(roll_back(cluster, undo, progress, error).await);
            }
        }
    }
    Ok((steps, undo))
}

/// Why the definition that is there stays: somebody else's, as an Istio that is there goes on with its own, or a
/// newer release's.
async fn kept(
    cluster: &Cluster,
    which: &ObjectRef,
    over_newer: bool,
) -> Result<Option<String>, CliError> {
    let found = cluster
        .get(which)
        .await
        .map_err(|error| failed(&format!("{which} cannot be read"), &error))?;
    let Some(found) = found else {
        return Ok(None);
    };
    if !install::is_ours(&found) {
        return Ok(Some("somebody else defines this kind".to_owned()));
    }
    let release = found
        .pointer("/metadata/labels")
        .and_then(|labels| labels.get("app.kubernetes.io/version")?.as_str());
    let newer = release.filter(|release| !over_newer && is_newer(release));
    Ok(newer.map(|release| format!("release {release}, which is newer, defines this kind")))
}

async fn one(
    cluster: &Cluster,
    which: &ObjectRef,
    object: &Value,
) -> Result<(Outcome, Option<Value>), ClusterError> {
    let before = cluster.get(which).await?;
    let outcome = match cluster.apply(object, true).await {
        // A namespace that is made takes its first objects a moment later.
        Err(ClusterError::Refused { code: 404, .. }) if before.is_none() => {
            tokio::time::sleep(ROUND).await;
            cluster.apply(object, true).await?
        }
        applied => applied?,
    };
    Ok((outcome, before))
}

/// Takes back what was applied, the last first; the error says whether that worked.
pub(super) async fn roll_back(
    cluster: &Cluster,
    undo: Undo,
    progress: &Progress<'_>,
    error: CliError,
) -> CliError {
    let step = progress.step("rollback");
    let mut left = Vec::new();
    for (which, before) in undo.into_iter().rev() {
        let undone = match before {
            None => cluster.delete(&which).await.map(drop),
            Some(before) => put_back(cluster, &which, before).await,
        };
        if let Err(error) = undone {
            left.push(format!("{which} ({error})"));
        }
    }
    if left.is_empty() {
        step.done("the cluster is as it was");
        error
    } else {
        step.failed();
        error.hint(format!(
            "not everything could be taken back: {}; mend the cause and install again, or `meshctl uninstall --target kubernetes`",
            left.join(", ")
        ))
    }
}

async fn put_back(
    cluster: &Cluster,
    which: &ObjectRef,
    mut before: Value,
) -> Result<(), ClusterError> {
    // Over whatever it is now: it was changed by us a moment ago.
    if let Some(now) = cluster.get(which).await?
        && let (Some(Value::Object(metadata)), Some(version)) = (
            before.get_mut("metadata"),
            now.pointer("/metadata/resourceVersion"),
        )
    {
        metadata.insert("resourceVersion".to_owned(), version.clone());
    }
    cluster.replace(&before).await.map(drop)
}

/// Removes what an earlier installation applied and this one does not.
pub(super) async fn prune(
    cluster: &Cluster,
    settings: &Settings,
    progress: &Progress<'_>,
) -> Result<Vec<StepReport>, CliError> {
    let kept: BTreeSet<ObjectRef> = install::objects(settings)
        .iter()
        .map(ObjectRef::of)
        .collect();
    let selector = install::selector(&settings.revision);
    let mut steps = Vec::new();
    for place in PLACES.iter().rev() {
        // Pods are their Deployments', and definitions of kinds stay while there may be objects.
        if matches!(place.kind, "Pod" | "CustomResourceDefinition" | "Namespace") {
            continue;
        }
        let namespace = place.namespaced.then_some(settings.namespace.as_str());
        let found = cluster
            .list(place.kind, namespace, &selector)
            .await
            .map_err(|error| failed(&format!("cannot list {}", place.plural), &error))?;
        for object in found {
            let which = ObjectRef::of(&object);
            if kept.contains(&which) || install::is_written(&object) {
                continue;
            }
            let step = progress.step(which.to_string());
            delete(cluster, &which, step).await?;
            steps.push(StepReport {
                name: which.to_string(),
                outcome: "removed",
                detail: String::new(),
            });
        }
    }
    Ok(steps)
}

/// Deletes an object.
pub(super) async fn delete(
    cluster: &Cluster,
    which: &ObjectRef,
    step: Step<'_>,
) -> Result<(), CliError> {
    match cluster.delete(which).await {
        Ok(_) => {
            step.done("removed");
            Ok(())
        }
        Err(error) => {
            step.failed();
            Err(failed(&format!("{which} cannot be removed"), &error))
        }
    }
}
