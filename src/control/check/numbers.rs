//! Whether there is room for what proxies count.

use crate::api::check::{Check, CheckStatus};
use crate::control::Control;
use crate::control::series::Size;

use super::check;

pub(super) fn all(control: &Control) -> Vec<Check> {
    let size = control.numbers.size();
    vec![room(&size), told_apart(&size)]
}

fn mebibytes(bytes: usize) -> String {
    let tenths = bytes / ((1 << 20) / 10);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

fn room(size: &Size) -> Check {
    let kept: Vec<String> = size
        .kept
        .levels
        .iter()
        .map(|(step, _)| match step / 1_000 {
            seconds @ 0..60 => format!("{seconds} s"),
            seconds @ 60..3_600 => format!("{} min", seconds / 60),
            seconds => format!("{} h", seconds / 3_600),
        })
        .collect();
    let detail = format!(
        "{} of at most {}, on disk no more; slots of {}; {} edges of at most {}; {} label sets of {} proxies",
        mebibytes(size.bytes()),
        mebibytes(size.most_bytes),
        kept.join(", "),
        size.kept.edges,
        size.kept.most_edges,
        size.followed.label_sets,
        size.followed.processes,
    );
    check("numbers keep to their bound", CheckStatus::Ok, detail, "")
}

fn told_apart(size: &Size) -> Check {
    let (folded, unfollowed) = (&size.kept.folded, size.followed.unfollowed);
    let mut said = Vec::new();
    if folded.increments > 0 {
        let mut services: Vec<(&String, &u64)> = folded.by_service.iter().collect();
        services.sort_by(|a, b| b.1.cmp(a.1));
        let most: Vec<String> = services
            .into_iter()
            .take(3)
            .map(|(service, count)| format!("{service} {count} times"))
            .collect();
        said.push(format!(
            "{} increments were counted under (other), most of {}",
            folded.increments,
            most.join(", ")
        ));
    }
    if folded.idle > 0 {
        let edges = folded.idle;
        said.push(format!("{edges} edges at rest were put together"));
    }
    if unfollowed > 0 {
        said.push(format!(
            "{unfollowed} times a proxy told a label set that there was no room for: not counted"
        ));
    }
    if said.is_empty() {
        return check("every edge is told apart", CheckStatus::Ok, "", "");
    }
    check(
        "every edge is told apart",
        CheckStatus::Warning,
        said.join("; "),
        "fewer versions, routes or workloads, or more room: `control-plane --numbers-memory`",
    )
}
