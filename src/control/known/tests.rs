use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::resources::{ApplyRequest, SourceText};
use crate::control::attest::Claim;
use crate::control::index::Index;
use crate::rt::Wall;
use crate::source::store::{Options, Store};

const NAMESPACES: [&str; 2] = ["one", "two"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Something that happens to the pod of this namespace and name.
#[derive(Debug, Clone)]
enum Event {
    /// What it says of itself: app, account; none deletes it.
    Pod(usize, usize, Option<(u8, u8)>),
    /// Slice `name` speaks of these pods of its namespace, and whether they are ready; none deletes it.
    Slice(usize, usize, Option<Vec<(usize, bool)>>),
    /// An instance of this name registers, or leaves.
    Enroll(usize, usize, Option<u8>),
    /// Whether the service of this namespace chooses by a selector.
    Service(usize, Option<bool>),
}

fn events() -> impl Strategy<Value = Vec<(Event, bool)>> {
    let (of, name) = (|| 0..NAMESPACES.len(), || 0..NAMES.len());
    let spoken = proptest::collection::vec((name(), any::<bool>()), 0..4);
    let event = prop_oneof![
        4 => (of(), name(), proptest::option::weighted(0.8, (0..2_u8, 0..2_u8))).prop_map(|(of, name, to)| Event::Pod(of, name, to)),
        4 => (of(), name(), proptest::option::weighted(0.8, spoken)).prop_map(|(of, name, to)| Event::Slice(of, name, to)),
        2 => (of(), name(), proptest::option::of(0..2_u8)).prop_map(|(of, name, to)| Event::Enroll(of, name, to)),
        1 => (of(), proptest::option::of(any::<bool>())).prop_map(|(of, to)| Event::Service(of, to)),
    ];
    proptest::collection::vec((event, any::<bool>()), 1..40)
}

fn change(kind: &str, namespace: &str, name: &str, object: Option<Value>) -> Change {
    let key = Key {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    Change {
        key,
        object: object.map(|object| object.to_string().into()),
    }
}

fn address(name: usize) -> String {
    format!("10.0.0.{name}")
}

fn pod(name: usize, (app, account): (u8, u8)) -> Value {
    json!({
        "metadata": {"name": NAMES[name], "labels": {"app": format!("app-{app}"), "tier": "t"}},
        "spec": {"serviceAccountName": format!("account-{account}")},
        "status": {"podIP": address(name)},
    })
}

fn slice(endpoints: &[(usize, bool)]) -> Value {
    let endpoints = endpoints.iter().map(|(pod, ready)| {
        json!({
            "addresses": [address(*pod)], "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": NAMES[*pod]},
        })
    });
    json!({
        "metadata": {"labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080}],
    })
}

fn service(namespace: &str, chooses: bool) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 9090}]},
    });
    if chooses {
        service["spec"]["selector"] = json!({"app": "app-0"});
    }
    service
}

fn registered(namespace: &str, name: &str, account: u8) -> Registered {
    let instance = json!({
        "name": name, "namespace": namespace, "workload": "w", "serviceAccount": format!("account-{account}"),
        "labels": {"app": "app-0"}, "address": "192.0.2.1", "health": "healthy",
    });
    Registered {
        instance: Arc::new(serde_json::from_value(instance).unwrap()),
        ttl_seconds: 0,
        seen_unix_ms: 0,
    }
}

/// What of the cluster there is, and who registered.
#[derive(Default)]
struct Held {
    cluster: BTreeMap<Key, Change>,
    enrolled: BTreeMap<(String, String), Registered>,
}

impl Held {
    fn happen(&mut self, event: Event, state: &mut State) {
        let change = match event {
            Event::Pod(of, name, to) => {
                let pod = to.map(|to| pod(name, to));
                change("Pod", NAMESPACES[of], NAMES[name], pod)
            }
            Event::Slice(of, name, to) => {
                let slice = to.map(|to| slice(&to));
                change("EndpointSlice", NAMESPACES[of], NAMES[name], slice)
            }
            Event::Service(of, to) => {
                let namespace = NAMESPACES[of];
                let service = to.map(|chooses| service(namespace, chooses));
                change("Service", namespace, "web", service)
            }
            Event::Enroll(of, name, to) => {
                let key = (NAMESPACES[of].to_owned(), NAMES[name].to_owned());
                if let Some(account) = to {
                    let registered = registered(&key.0, &key.1, account);
                    state.enroll(registered.clone());
                    self.enrolled.insert(key, registered);
                } else {
                    state.dismiss(&key);
                    self.enrolled.remove(&key);
                }
                return;
            }
        };
        state.followed.take(change.clone(), 0);
        match change.object {
            Some(_) => self.cluster.insert(change.key.clone(), change),
            None => self.cluster.remove(&change.key),
        };
    }

    /// All of it, taken in at once.
    fn anew(&self) -> State {
        let mut state = State::default();
        for change in self.cluster.values() {
            state.followed.take(change.clone(), 0);
        }
        state.take_running();
        for registered in self.enrolled.values() {
            state.enroll(registered.clone());
        }
        state
    }
}

proptest! {
    #[test]
    fn what_came_bit_by_bit_is_what_all_at_once_comes_to(events in events()) {
        let (mut held, mut state) = (Held::default(), State::default());
        let mut published = state.attested(&World::default());
        for (event, settles) in events {
            held.happen(event, &mut state);
            if !settles {
                continue;
            }
            let before = state.running();
            let new = state.take_running();
            let anew = held.anew();
            prop_assert_eq!(state.running(), anew.running());
            prop_assert!(new || before == state.running(), "it says that nothing is new");
            let world = World { instances: state.running(), ..World::default() };
            if let Some(attested) = state.attested_again(&published, &world, false) {
                published = attested;
            }
            let fresh = anew.attested(&world);
            prop_assert_eq!(format!("{published:?}"), format!("{fresh:?}"));
        }
    }
}

#[test]
fn a_status_is_kept_and_configures_nothing() {
    let mut followed = Followed::default();
    let mut object = service("one", true);
    let metadata = &mut object["metadata"];
    metadata["uid"] = "u".into();
    metadata["resourceVersion"] = "7".into();
    let mut take = |object: &Value, now: u64| {
        let change = change("Service", "one", "web", Some(object.clone()));
        let configures = followed.take(change.clone(), now);
        let stamp = followed.stamps[&change.key];
        let raw = followed.objects[&change.key].raw.clone();
        (configures, stamp.changed_unix_ms, raw)
    };
    let (configures, changed, _) = take(&object, 5);
    assert!(configures);
    object["metadata"]["resourceVersion"] = "8".into();
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    let (configures, then, raw) = take(&object, 9);
    assert!(!configures && then == changed, "{then}");
    // Who waits for a version sees it come, and who asks for the object sees its status.
    assert_eq!(raw["metadata"]["resourceVersion"], "8");
    assert_eq!(raw["status"], object["status"]);
    for (pointer, value) in [("/metadata/uid", "v"), ("/spec/selector/app", "app-1")] {
        *object.pointer_mut(pointer).unwrap() = value.into();
        let (configures, then, _) = take(&object, 11);
        assert!(configures && then == 11, "{pointer}");
    }
    object["metadata"]["labels"] = json!({"a": "b"});
    assert!(take(&object, 12).0);
}

#[tokio::test]
async fn a_group_that_is_applied_is_in_force_though_it_configures_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path(), &Options::default()).unwrap();
    let index = Index::open(store, Wall::fixed(1)).unwrap();
    let refused = || {
        let labels = BTreeMap::new();
        let claim = Claim {
            namespace: "default",
            account: "thief",
            name: "vm-1",
            workload: "vm",
            labels: &labels,
        };
        index.attested.load().refuses(&index.world(), &claim)
    };
    assert_eq!(refused(), None);
    let before = index.world();
    let request = ApplyRequest {
        sources: vec![SourceText {
            name: "x".to_owned(),
            text: "apiVersion: networking.istio.io/v1\nkind: WorkloadGroup\nmetadata: {name: vm}\nspec: {template: {serviceAccount: vm}}\n".to_owned(),
        }],
        namespace: "default".to_owned(),
        dry_run: false,
        force: false,
        who: String::new(),
    };
    index.apply(request).await.unwrap();
    assert!(Arc::ptr_eq(&before.config, &index.world().config));
    let reason = refused().unwrap().reason;
    assert_eq!(
        reason,
        "workload vm.default runs as account vm, not as thief"
    );
}
