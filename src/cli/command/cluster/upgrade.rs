//! `upgrade`: an installation in a cluster becomes one of this release, or stays what it was.

use std::time::Duration;

use super::ClusterArgs;
use super::install::{Undo, apply, finish, judged, noted, print, prune, roll_back, wrong};
use super::rollout::wait;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::progress::Progress;
use crate::source::kubernetes::cluster::Cluster;

/// This release.
pub(super) const OURS: &str = env!("CARGO_PKG_VERSION");

/// What the command line asks for.
pub(crate) struct Wanted {
    pub(crate) place: ClusterArgs,
    pub(crate) set: Vec<(String, String)>,
    pub(crate) allow_downgrade: bool,
    pub(crate) dry_run: bool,
    /// How long it may take until everything runs.
    pub(crate) patience: Duration,
}

pub(crate) async fn run(wanted: Wanted, cx: &Context) -> Result<Exit, CliError> {
    let cluster = wanted.place.connect(cx).await?;
    let revision = wanted.place.revision();
    let Some((mut settings, version)) = noted(&cluster, &wanted.place).await? else {
        return Err(CliError::failed(format!(
            "there is no revision {revision:?} in {} to upgrade",
            wanted.place.system_namespace()
        ))
        .hint("`meshctl install --target kubernetes` installs one; `meshctl tag list` shows those that are there"));
    };
    let way = way(&version, OURS).map_err(|refused| {
        let refused = CliError::failed(refused);
        refused.hint(format!(
            "upgrade with each release in between, or install this one beside it and move namespaces: `meshctl install --target kubernetes --revision next`, `meshctl tag set TAG --revision next`; the one there is {version}"
        ))
    })?;
    if way == Way::Down && !wanted.allow_downgrade {
        return Err(CliError::failed(format!(
            "revision {revision:?} is of release {version}, which is newer than this one ({OURS})"
        ))
        .hint("use the newer meshctl, or insist with --allow-downgrade: what only the newer one knows is lost"));
    }
    for (key, value) in &wanted.set {
        settings.set(key, value).map_err(wrong)?;
    }
    if wanted.dry_run {
        return print(&settings, cx);
    }
    let progress = Progress::new(&cx.out);
    let step = progress.step("cluster");
    judged(&cluster, &settings, cx, step).await?;
    let step = progress.step("release");
    step.done(&format!("{version} to {OURS}"));

    let (mut steps, undo) = apply(&cluster, &settings, wanted.allow_downgrade, &progress).await?;
    if let Err(error) = wait(&cluster, &settings, &progress, wanted.patience).await {
        return Err(back(&cluster, undo, &progress, error).await);
    }
    // Only now: before, what is no longer wanted may still be needed.
    steps.extend(prune(&cluster, &settings, &progress).await?);
    finish(&cluster, steps, cx)
}

/// Takes all of it back, since it does not run.
async fn back(cluster: &Cluster, undo: Undo, progress: &Progress<'_>, error: CliError) -> CliError {
    let why = CliError::failed(format!("the upgrade was taken back: {error}"));
    let why = why.hint("see what `kubectl -n meshctl-system describe pods` says of the new pods; --timeout gives them more time");
    roll_back(cluster, undo, progress, why).await
}

/// Whether what release `there` installed is newer than this one; what is no release is not.
pub(super) fn is_newer(there: &str) -> bool {
    matches!((release(there), release(OURS)), (Some(there), Some(ours)) if there > ours)
}

/// Which way a change of releases goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Same,
    Up,
    Down,
}

/// From one release to another; refused where they are more than one minor release apart, as proxies of the
/// one would be served by a control plane that was never tried with them.
fn way(from: &str, to: &str) -> Result<Way, String> {
    let (Some(old), Some(new)) = (release(from), release(to)) else {
        return Err(format!("release {from:?} is not understood"));
    };
    if old.0 != new.0 || old.1.abs_diff(new.1) > 1 {
        return Err(format!(
            "from release {from} to {to} is more than one minor release at a time"
        ));
    }
    Ok(match new.cmp(&old) {
        std::cmp::Ordering::Equal => Way::Same,
        std::cmp::Ordering::Greater => Way::Up,
        std::cmp::Ordering::Less => Way::Down,
    })
}

/// Major, minor and patch of `1.2.3-rc.1`.
fn release(text: &str) -> Option<(u64, u64, u64)> {
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let mut parts = text.get(..end)?.split('.').map(str::parse);
    let mut part = || parts.next()?.ok();
    let found = (part()?, part()?, part()?);
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_release_at_a_time() {
        for (from, to, expected) in [
            ("1.4.2", "1.5.0", Some(Way::Up)),
            ("1.4.2", "1.4.3", Some(Way::Up)),
            ("1.5.0-rc.1", "1.5.0", Some(Way::Same)),
            ("1.5.0", "1.5.0+dirty", Some(Way::Same)),
            ("1.5.1", "1.5.0", Some(Way::Down)),
            ("1.5.1", "1.4.9", Some(Way::Down)),
            ("1.3.9", "1.5.0", None),
            ("1.5.0", "1.3.0", None),
            ("0.9.0", "1.0.0", None),
            ("latest", "1.0.0", None),
            ("1.0", "1.0.0", None),
        ] {
            assert_eq!(way(from, to).ok(), expected, "{from} to {to}");
        }
    }
}
