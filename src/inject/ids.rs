//! User and group of the proxy, by which its own traffic is told from the application's.

use serde_json::Value;

use super::Pod;
use super::report::Report;
use super::strip::Override;

/// The user that the proxy runs as; its own connections are not sent back to it. Istio's number.
const PROXY_USER: u32 = 1337;
/// Annotations of OpenShift on namespaces: the ids that their pods may have, `FIRST/COUNT`.
const OPENSHIFT: [&str; 2] = [
    "openshift.io/sa.scc.uid-range",
    "openshift.io/sa.scc.supplemental-groups",
];

/// User and group of the proxy: what is laid over it, what OpenShift gives, or Istio's.
pub(super) fn ids(pod: Pod<'_>, own: Option<&Override>, report: &mut Report) -> (u32, u32) {
    let mut range = |annotation: &str| {
        let text = pod.namespace.annotations.get(annotation)?;
        // Groups may be several ranges; the first is as good as any.
        let first = text.split(',').next().unwrap_or_default();
        let read = first.split_once(['/', '-']).and_then(|(start, end)| {
            let (start, end): (u32, u32) = (start.parse().ok()?, end.parse().ok()?);
            let count = if first.contains('-') {
                end.checked_sub(start)?.checked_add(1)?
            } else {
                end
            };
            // The first is the application's own.
            let offset = PROXY_USER.min(count.checked_sub(1)?);
            start.checked_add(offset).filter(|id| *id > 0)
        });
        if read.is_none() {
            report.wrong(
                format!("annotation {annotation}: {text:?} of the namespace is no range of ids"),
                "OpenShift writes FIRST/COUNT, as 1000620000/10000",
            );
        }
        read
    };
    let [users, groups] = OPENSHIFT;
    let (user, group) = (range(users), range(groups));
    let said = |field: &str| {
        let context = own?.container.get("securityContext")?;
        u32::try_from(context.get(field)?.as_u64()?).ok()
    };
    let user = said("runAsUser").or(user).unwrap_or(PROXY_USER);
    let group = said("runAsGroup").or(group).unwrap_or(PROXY_USER);
    (user, group)
}

/// What runs as the proxy does is not captured.
pub(super) fn refuse_shared_ids(template: &Value, (user, group): (u32, u32), report: &mut Report) {
    let mut check = |context: Option<&Value>, who: &str| {
        for (field, id) in [("runAsUser", user), ("runAsGroup", group)] {
            let own = context.and_then(|context| context.get(field)?.as_u64());
            if own == Some(u64::from(id)) {
                report.refuse(
                    format!("{who} has {field}: {id}, which is the proxy's: its traffic would not be captured"),
                    "give it another id",
                );
            }
        }
    };
    check(template.pointer("/spec/securityContext"), "the pod");
    for list in ["containers", "initContainers"] {
        let items = template
            .pointer(&format!("/spec/{list}"))
            .and_then(Value::as_array);
        for container in items.into_iter().flatten() {
            let name = container
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            check(
                container.get("securityContext"),
                &format!("container {name:?}"),
            );
        }
    }
}
