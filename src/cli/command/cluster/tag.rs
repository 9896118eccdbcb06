//! `tag`: names by which namespaces choose a revision, so that they move when the name does.
//!
//! A tag is a setting of its revision, and stands in that revision's own webhook configuration: who writes
//! authorities there needs no more rights for it. It moves by being added to the new revision before it is
//! taken from the old one; a pod that both ask about in between is given one sidecar, as asking twice is.

use serde_json::Value;

use super::install::{apply, noted, wrong};
use super::{ClusterArgs, failed};
use crate::cli::command::tag::Row;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::progress::Progress;
use crate::install::{INJECTOR, NAME, REVISION, SETTINGS_FILE, Settings, of_revision};
use crate::rt;
use crate::source::kubernetes::cluster::{Cluster, ObjectRef};

/// How long the revision's control plane may take to tell its authority.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);
/// Pause between two looks.
const ROUND: std::time::Duration = std::time::Duration::from_millis(200);

/// An installed revision.
struct Revision {
    place: ClusterArgs,
    settings: Settings,
    version: String,
}

/// Every revision in the system namespace.
async fn revisions(cluster: &Cluster, place: &ClusterArgs) -> Result<Vec<Revision>, CliError> {
    let selector = format!("app.kubernetes.io/managed-by={NAME},{REVISION}");
    let found = cluster
        .list("ConfigMap", Some(place.system_namespace()), &selector)
        .await
        .map_err(|error| failed("cannot list what is installed", &error))?;
    let mut all = Vec::new();
    for object in &found {
        let settings = object.get("data").and_then(|data| data.get(SETTINGS_FILE));
        let labels = object.pointer("/metadata/labels");
        let revision = labels.and_then(|labels| labels.get(REVISION)?.as_str());
        if let (Some(_), Some(revision)) = (settings, revision) {
            let place = place.of_revision(revision);
            if let Some((settings, version)) = noted(cluster, &place).await? {
                all.push(Revision {
                    place,
                    settings,
                    version,
                });
            }
        }
    }
    Ok(all)
}

/// All revisions and their tags.
pub(crate) async fn list(place: &ClusterArgs, cx: &Context) -> Result<Vec<Row>, CliError> {
    let cluster = place.connect(cx).await?;
    let all = revisions(&cluster, place).await?;
    let rows = all.into_iter().map(|revision| Row {
        revision: revision.settings.revision,
        version: revision.version,
        tags: revision.settings.tags,
    });
    Ok(rows.collect())
}

/// Has `tag` mean the revision of `place`, and no other any more. Gives what it meant before.
pub(crate) async fn set(
    place: &ClusterArgs,
    tag: &str,
    overwrite: bool,
    cx: &Context,
) -> Result<Option<String>, CliError> {
    let cluster = place.connect(cx).await?;
    let mut all = revisions(&cluster, place).await?;
    let named = |revision: &Revision, name: &str| revision.settings.revision == name;
    if all.iter().any(|revision| named(revision, tag)) {
        return Err(
            CliError::failed(format!("{tag:?} is the name of a revision itself"))
                .hint("choose another name, or uninstall that revision first"),
        );
    }
    let target = place.revision();
    let Some(at) = all.iter().position(|revision| named(revision, target)) else {
        return Err(CliError::failed(format!("there is no revision {target:?}"))
            .hint("`meshctl tag list` shows those that are there"));
    };
    let new = all.swap_remove(at);
    let old = all
        .into_iter()
        .find(|revision| revision.settings.tags.iter().any(|known| known == tag));
    if let Some(old) = &old
        && !overwrite
    {
        return Err(CliError::failed(format!(
            "{tag:?} means revision {:?}",
            old.settings.revision
        ))
        .hint("--overwrite moves it: pods that start from then on are of the other revision"));
    }
    let progress = Progress::new(&cx.out);
    let which = injector(&new);
    if !new.settings.tags.iter().any(|known| known == tag) {
        change(&cluster, &new, &progress, |tags| tags.push(tag.to_owned())).await?;
    }
    believed(&cluster, &which).await?;
    if let Some(old) = &old {
        change(&cluster, old, &progress, |tags| {
            tags.retain(|known| known != tag);
        })
        .await?;
    }
    Ok(old.map(|old| old.settings.revision))
}

/// Has `tag` mean nothing any more. Gives what it meant.
pub(crate) async fn remove(
    place: &ClusterArgs,
    tag: &str,
    cx: &Context,
) -> Result<String, CliError> {
    let cluster = place.connect(cx).await?;
    let all = revisions(&cluster, place).await?;
    let old = all
        .into_iter()
        .find(|revision| revision.settings.tags.iter().any(|known| known == tag));
    let Some(old) = old else {
        return Err(CliError::failed(format!("there is no tag {tag:?}"))
            .hint("`meshctl tag list` shows those that are there"));
    };
    // Pods of such namespaces would start without a sidecar, and nobody would say so.
    let chosen = cluster
        .list("Namespace", None, &format!("{REVISION}={tag}"))
        .await
        .map_err(|error| failed("cannot list namespaces", &error))?;
    let names: Vec<String> = chosen
        .iter()
        .map(|found| ObjectRef::of(found).name)
        .collect();
    if !names.is_empty() {
        return Err(CliError::failed(format!(
            "namespaces choose {tag:?}: {}",
            names.join(", ")
        ))
        .hint(format!("label them with another revision or tag first: `kubectl label namespace NAME {REVISION}=… --overwrite`")));
    }
    let progress = Progress::new(&cx.out);
    change(&cluster, &old, &progress, |tags| {
        tags.retain(|known| known != tag);
    })
    .await?;
    Ok(old.settings.revision)
}

fn injector(revision: &Revision) -> ObjectRef {
    ObjectRef {
        kind: "MutatingWebhookConfiguration".to_owned(),
        namespace: None,
        name: of_revision(INJECTOR, &revision.settings.revision),
    }
}

/// Installs a revision with other tags. One of another release would become one of ours by that.
async fn change(
    cluster: &Cluster,
    revision: &Revision,
    progress: &Progress<'_>,
    edit: impl FnOnce(&mut Vec<String>),
) -> Result<(), CliError> {
    if revision.version != env!("CARGO_PKG_VERSION") {
        return Err(CliError::failed(format!(
            "revision {:?} is of release {}, and this is {}",
            revision.place.revision(),
            revision.version,
            env!("CARGO_PKG_VERSION")
        ))
        .hint("use that release's meshctl for its tags, or `meshctl upgrade` it"));
    }
    let mut settings = revision.settings.clone();
    let mut tags = settings.tags.clone();
    edit(&mut tags);
    settings.set("tags", &tags.join(",")).map_err(wrong)?;
    apply(cluster, &settings, false, progress).await.map(drop)
}

/// The API server must believe whoever answers for the new name before the old one goes, so the authority
/// that the control plane wrote for the others of its webhooks is copied.
async fn believed(cluster: &Cluster, which: &ObjectRef) -> Result<(), CliError> {
    let deadline = rt::now() + PATIENCE;
    loop {
        let found = cluster.get(which).await;
        let found = found.map_err(|error| failed(&format!("{which} cannot be read"), &error))?;
        let Some(mut found) = found else {
            return Err(CliError::failed(format!("{which} is gone"))
                .hint("install the revision with injector=true"));
        };
        match complete(&mut found) {
            Believed::All => return Ok(()),
            Believed::Some => match cluster.replace(&found).await {
                Ok(_) => return Ok(()),
                // The control plane was faster.
                Err(error) if rt::now() >= deadline => {
                    return Err(failed(&format!("{which} cannot be changed"), &error));
                }
                Err(_) => {}
            },
            Believed::None if rt::now() >= deadline => {
                return Err(CliError::failed(
                    "the control plane of the revision does not run: it has told nobody its authority",
                )
                .hint("namespaces are where they were; see `kubectl -n meshctl-system get pods`"));
            }
            Believed::None => {}
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// How many of the webhooks have an authority.
#[derive(Debug, PartialEq, Eq)]
enum Believed {
    None,
    Some,
    All,
}

/// Gives those that have none the authority of those that have one; says how it was before.
fn complete(configuration: &mut Value) -> Believed {
    let Some(hooks) = configuration
        .get_mut("webhooks")
        .and_then(Value::as_array_mut)
    else {
        return Believed::All;
    };
    let bundle = |hook: &Value| hook.pointer("/clientConfig/caBundle").cloned();
    let Some(known) = hooks.iter().find_map(bundle) else {
        return Believed::None;
    };
    let mut all = Believed::All;
    for hook in hooks {
        if bundle(hook).is_none()
            && let Some(Value::Object(client)) = hook.get_mut("clientConfig")
        {
            client.insert("caBundle".to_owned(), known.clone());
            all = Believed::Some;
        }
    }
    all
}
