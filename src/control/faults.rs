//! Faults that are injected for a while: kept as objects of their own, so that what people wrote stays
//! as it is, and removed when their time has come.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::faults::{FaultSet, FaultStatus};
use crate::api::{Problem, Reason};
use crate::mesh::Service;
use crate::mesh::filter::AbortWith;
use crate::mesh::route::TextMatch;
use crate::resource::policy::{FaultInjection, grpc_name, grpc_status};
use crate::resource::{Key, Kind, Object};

use super::index::{Edit, Index, Tolerance};
use super::known::State;

/// The longest that a fault lasts. What is to stay is written in a VirtualService.
const LONGEST: Duration = Duration::from_hours(24 * 7);
/// How often is looked for those whose time has come.
const LOOK: Duration = Duration::from_secs(1);
/// Who ends them.
const MESH: &str = "meshctl";

/// The object that keeps the fault of a service.
pub(super) const KIND: &str = "FaultInjection";

/// The object that `set` asks for.
pub(super) fn object(
    service: &Service,
    set: &FaultSet,
    now_unix_ms: u64,
) -> Result<Value, Problem> {
    let invalid = |message: String| Problem::new(Reason::Invalid, message);
    let lasts = Duration::from_millis(set.for_ms);
    if lasts.is_zero() || lasts > LONGEST {
        return Err(invalid(format!(
            "a fault lasts for at most {} hours",
            LONGEST.as_secs() / 3600
        ))
        .hint("write a fault that is to stay in a VirtualService"));
    }
    let until = i64::try_from(now_unix_ms.saturating_add(set.for_ms))
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .ok_or_else(|| invalid("its end is no time".to_owned()))?;
    let mut spec = Map::new();
    let mut say = |field: &str, value: Value| spec.insert(field.to_owned(), value);
    say("service", json!(service.name));
    say("until", json!(until.to_string()));
    say("percent", json!(set.percent));
    if let Some(delay) = set.delay_ms {
        say("delay", json!(format!("{delay}ms")));
    }
    match &set.abort {
        None => {}
        Some(text) => {
            let number = text.parse::<u16>().ok();
            let grpc = text.strip_prefix("grpc:").unwrap_or(text);
            let abort = match (number, grpc_status(grpc).and_then(grpc_name)) {
                (Some(status), _) => json!({"httpStatus": status}),
                (None, Some(name)) => json!({"grpcStatus": name}),
                (None, None) => {
                    return Err(invalid(format!("{text:?} is no status")).hint(
                        "a status of HTTP such as 503, or of gRPC such as UNAVAILABLE or grpc:14",
                    ));
                }
            };
            say("abort", abort);
        }
    }
    let mut headers = Map::new();
    for condition in &set.matches {
        let (name, value) = condition
            .strip_prefix("header:")
            .and_then(|rest| rest.split_once('='))
            .ok_or_else(|| {
                invalid(format!("{condition:?} is no condition")).hint("header:NAME=VALUE")
            })?;
        headers.insert(name.to_owned(), json!({"exact": value}));
    }
    if !headers.is_empty() {
        say("headers", Value::Object(headers));
    }
    Ok(json!({
        "apiVersion": "policy.meshctl.dev/v1alpha1",
        "kind": KIND,
        "metadata": {"name": service.name, "namespace": service.namespace},
        "spec": spec,
    }))
}

/// What is known of a fault.
pub(super) fn status(object: &Object) -> Option<FaultStatus> {
    let Kind::FaultInjection(injection) = &object.body else {
        return None;
    };
    let FaultInjection { fault, .. } = injection;
    let share = fault
        .delay
        .map(|delay| delay.share)
        .or(fault.abort.map(|abort| abort.share))
        .unwrap_or_default();
    let (parts, of) = (u64::from(share.parts), u64::from(share.of));
    Some(FaultStatus {
        service: format!("{}.{}", injection.service, object.metadata.namespace),
        delay_ms: fault
            .delay
            .map(|delay| u64::try_from(delay.time.as_millis()).unwrap_or(u64::MAX)),
        abort: fault.abort.map(|abort| match abort.with {
            AbortWith::Http(status) => status.to_string(),
            AbortWith::Grpc(status) => match grpc_name(status) {
                Some(name) => name.to_owned(),
                None => format!("grpc:{status}"),
            },
        }),
        percent: crate::aggregate::report::percent(parts, of).unwrap_or(0.0),
        matches: fault
            .headers
            .iter()
            .map(|header| match &header.value {
                TextMatch::Exact(value) => format!("header:{}={value}", header.name),
                other => format!("header:{} {other}", header.name),
            })
            .collect(),
        until_unix_ms: injection.until_unix_ms,
    })
}

/// When the fault that `object` keeps ends.
fn ends(object: &Object) -> Option<u64> {
    match &object.body {
        Kind::FaultInjection(injection) => Some(injection.until_unix_ms),
        _ => None,
    }
}

impl Index {
    /// Every fault, by service.
    pub(super) async fn faults(&self) -> Vec<FaultStatus> {
        let state = self.state.lock().await;
        state.written().filter_map(status).collect()
    }

    /// Faults of the cluster whose time has come.
    pub(super) async fn faults_over(&self) -> Vec<Key> {
        let now = self.wall.millis();
        let state = self.state.lock().await;
        let followed = state.followed.objects.iter();
        followed
            .filter(|(_, object)| ends(object).is_some_and(|until| until <= now))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Removes the faults whose time has come; gives their names.
    pub async fn end_faults(&self) -> Result<Vec<String>, Problem> {
        let now = self.wall.millis();
        let mut state = self.state.lock().await;
        let over = over(&state, now);
        if over.is_empty() {
            return Ok(Vec::new());
        }
        let names = over
            .iter()
            .map(|key| format!("{}.{}", key.name, key.namespace))
            .collect();
        let edit = Edit {
            remove: over,
            who: MESH.to_owned(),
            what: "fault ended".to_owned(),
            tolerance: Tolerance::Everything,
            ..Edit::default()
        };
        self.change_in(&mut state, edit).await?;
        Ok(names)
    }

    /// Removes faults when their time has come, for ever.
    pub(super) async fn watch_faults(&self) {
        loop {
            match self.end_faults().await {
                Ok(ended) if ended.is_empty() => {}
                Ok(ended) => tracing::info!(?ended, "faults ended"),
                Err(problem) => tracing::error!(error = %problem.message, "cannot end faults"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn over(state: &State, now: u64) -> Vec<Key> {
    let all = state.objects.iter();
    all.filter(|(_, object)| ends(object).is_some_and(|until| until <= now))
        .map(|(key, _)| key.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources::{ApplyRequest, SourceText};
    use crate::mesh::Hostname;
    use crate::rt::Wall;
    use crate::source::store::Store;

    const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{name: http, port: 80}]}";
    const NOW: u64 = 1_800_000_000_000;

    async fn index(store: &Store, wall: &Wall) -> Index {
        let index = Index::open(store.clone(), wall.clone()).unwrap();
        let request = ApplyRequest {
            sources: vec![SourceText {
                name: "x".to_owned(),
                text: SERVICE.to_owned(),
            }],
            namespace: "default".to_owned(),
            dry_run: false,
            force: false,
            who: String::new(),
        };
        index.apply(request).await.unwrap();
        index
    }

    fn set() -> FaultSet {
        FaultSet {
            delay_ms: Some(2_000),
            abort: Some("UNAVAILABLE".to_owned()),
            percent: 10.0,
            for_ms: 60_000,
            matches: vec!["header:end-user=jason".to_owned()],
            who: String::new(),
        }
    }

    async fn inject(index: &Index) {
        let world = index.world();
        let host = Hostname::service("reviews", "default");
        let service = &world.config.services[&host];
        let object = object(service, &set(), NOW).unwrap();
        let (object, findings) = crate::resource::from_value(&object, "fault inject");
        assert!(findings.is_empty(), "{findings:?}");
        let edit = Edit {
            put: vec![object.unwrap()],
            what: "fault inject reviews".to_owned(),
            ..Edit::default()
        };
        index.change(edit).await.unwrap();
    }

    #[tokio::test]
    async fn a_fault_survives_a_restart_and_ends_at_its_time() {
        let (store, wall) = (Store::memory(), Wall::fixed(NOW));
        let first = index(&store, &wall).await;
        inject(&first).await;
        let told = FaultStatus {
            service: "reviews.default".to_owned(),
            delay_ms: Some(2_000),
            abort: Some("UNAVAILABLE".to_owned()),
            percent: 10.0,
            matches: vec!["header:end-user=jason".to_owned()],
            until_unix_ms: NOW + 60_000,
        };
        assert_eq!(first.faults().await, std::slice::from_ref(&told));
        drop(first);
        let again = Index::open(store.clone(), wall.clone()).unwrap();
        assert_eq!(again.faults().await, [told]);
        assert_eq!(again.world().config.faults.len(), 1);
        wall.advance(Duration::from_millis(59_999));
        assert!(again.end_faults().await.unwrap().is_empty());
        wall.advance(Duration::from_millis(1));
        assert_eq!(again.end_faults().await.unwrap(), ["reviews.default"]);
        assert!(again.world().config.faults.is_empty());
        // One whose time came while nobody was there ends before anybody is served.
        inject(&again).await;
        assert_eq!(again.end_faults().await.unwrap(), ["reviews.default"]);
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let index = index(&Store::memory(), &Wall::fixed(NOW)).await;
        let world = index.world();
        let host = Hostname::service("reviews", "default");
        let service = &world.config.services[&host];
        let refused = |change: fn(&mut FaultSet)| {
            let mut set = set();
            change(&mut set);
            object(service, &set, NOW).unwrap_err().hint.is_some()
        };
        assert!(refused(|set| set.for_ms = 0));
        assert!(refused(|set| set.for_ms = u64::MAX));
        assert!(refused(|set| set.abort = Some("sometimes".to_owned())));
        assert!(refused(|set| set.matches = vec!["cookie:a=b".to_owned()]));
    }
}
