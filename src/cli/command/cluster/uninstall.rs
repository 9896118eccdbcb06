//! `uninstall --target kubernetes`: removes what an installation applied and what its control plane wrote.

use std::time::Duration;

use serde_json::Value;

use super::install::delete;
use super::{ClusterArgs, failed};
use crate::cli::command::uninstall::Report;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::progress::Progress;
use crate::install::{self, AUTHORITY, INJECTOR, NAME, REVISION, VALIDATOR};
use crate::rt;
use crate::source::kubernetes::cluster::{Cluster, ObjectRef, PLACES};

/// A control plane has so long to end: longer than its pods' grace.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) async fn run(
    place: ClusterArgs,
    purge: bool,
    dry_run: bool,
    cx: &Context,
) -> Result<Exit, CliError> {
    let cluster = place.connect(cx).await?;
    let mut report = Report {
        home: cluster.name().to_owned(),
        dry_run,
        removed: Vec::new(),
        kept: Vec::new(),
    };
    let last = others(&cluster, place.revision()).await?.is_empty();
    let progress = Progress::new(&cx.out);
    // What takes a while to go: namespaces with all that is in them, kinds with all of their objects.
    let mut going = Vec::new();
    if !dry_run {
        quiet(&cluster, &place, &mut report, &progress).await?;
    }
    // What others need goes last, so that webhooks are gone before who answers them.
    for kind in PLACES.iter().rev() {
        if kind.kind == "Pod" {
            continue;
        }
        let of_all = matches!(kind.kind, "CustomResourceDefinition" | "Namespace");
        let selector = if of_all {
            format!("app.kubernetes.io/managed-by={NAME}")
        } else {
            install::selector(place.revision())
        };
        let found = cluster
            .list(kind.kind, None, &selector)
            .await
            .map_err(|error| failed(&format!("cannot list {}", kind.plural), &error))?;
        for object in found {
            let which = ObjectRef::of(&object);
            let stays = match kind.kind {
                "CustomResourceDefinition" => !(purge && last),
                // It holds the root, by which workloads are known that still run.
                "Namespace" => !(purge && last && which.name == place.system_namespace()),
                _ => is_root(&object) && !purge,
            };
            if stays {
                report.kept.push(which.to_string());
                continue;
            }
            report.removed.push(which.to_string());
            if !dry_run {
                delete(&cluster, &which, progress.step(which.to_string())).await?;
                if of_all {
                    going.push(which);
                }
            }
        }
    }
    gone(&cluster, &going, &progress).await?;
    cx.out.report(&report)?;
    Ok(Exit::Ok)
}

/// Ends the control plane, and waits until none of it runs: it would write anew what is removed. Who asks its webhooks
/// asks no more before that.
async fn quiet(
    cluster: &Cluster,
    place: &ClusterArgs,
    report: &mut Report,
    progress: &Progress<'_>,
) -> Result<(), CliError> {
    let (namespace, revision) = (place.system_namespace(), place.revision());
    let named = |kind: &str, namespace: Option<&str>, name: &str| ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: install::of_revision(name, revision),
    };
    for which in [
        named("ValidatingWebhookConfiguration", None, VALIDATOR),
        named("MutatingWebhookConfiguration", None, INJECTOR),
        named("Deployment", Some(namespace), NAME),
    ] {
        let found = cluster.get(&which).await;
        let found = found.map_err(|error| failed(&format!("cannot read {which}"), &error))?;
        if found.as_ref().is_some_and(install::is_ours) {
            report.removed.push(which.to_string());
            delete(cluster, &which, progress.step(which.to_string())).await?;
        }
    }
    let selector = format!("app={NAME},{REVISION}={revision}");
    let ended = async {
        loop {
            let pods = cluster.list("Pod", Some(namespace), &selector).await;
            let pods = pods.map_err(|error| failed("cannot list pods", &error))?;
            if pods.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            let message = format!("the control plane in {namespace} still runs after {seconds} s");
            Err(CliError::failed(message).hint(format!(
                "see `kubectl -n {namespace} get pods -l {selector}`, and run the command again"
            )))
        })
}

/// Waits until nothing of `going` is there any more: an installation that follows would meet it.
async fn gone(
    cluster: &Cluster,
    going: &[ObjectRef],
    progress: &Progress<'_>,
) -> Result<(), CliError> {
    if going.is_empty() {
        return Ok(());
    }
    let step = progress.step("all of it gone".to_owned());
    let deadline = rt::now() + PATIENCE;
    for which in going {
        loop {
            let found = cluster.get(which).await;
            let found = found.map_err(|error| failed(&format!("cannot read {which}"), &error))?;
            if found.is_none() {
                break;
            }
            if rt::now() >= deadline {
                step.failed();
                let message = format!("{which} is deleted and still there");
                let hint = format!(
                    "`kubectl get {} {} -o yaml` says in its status what holds it",
                    which.kind.to_lowercase(),
                    which.name
                );
                return Err(CliError::failed(message).hint(hint));
            }
            step.update(&which.to_string());
            tokio::time::sleep(LOOK).await;
        }
    }
    step.done("");
    Ok(())
}

/// The authority's key: without it nobody believes the certificates that are in use.
fn is_root(object: &Value) -> bool {
    let which = ObjectRef::of(object);
    which.kind == "Secret" && which.name == AUTHORITY
}

/// Other revisions that are installed.
async fn others(cluster: &Cluster, revision: &str) -> Result<Vec<String>, CliError> {
    let selector = format!("app.kubernetes.io/managed-by={NAME},{REVISION}!={revision}");
    let found = cluster
        .list("Deployment", None, &selector)
        .await
        .map_err(|error| failed("cannot list deployments", &error))?;
    let label = |object: &Value| {
        let labels = object.pointer("/metadata/labels")?;
        Some(labels.get(REVISION)?.as_str()?.to_owned())
    };
    Ok(found.iter().filter_map(label).collect())
}
