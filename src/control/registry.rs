//! Instances: registration, heartbeat, eviction.
//!
//! A registration is kept in the store before it is acknowledged; heartbeats are not, so after a
//! restart every instance has one whole term to show itself again.

use std::sync::Arc;
use std::time::Duration;

use crate::api::registry::{InstanceReport, Lease, Registration};
use crate::api::{Problem, Reason};
use crate::mesh::{Health, Instance, Locality, World};
use crate::resource::{Key, Kind};
use crate::source::store::{Batch, Tree};

use super::index::{Index, encode, problem};
use super::known::{KeptInstance, Registered, State};

/// How often terms are looked at.
pub const SWEEP: Duration = Duration::from_millis(500);

impl Index {
    /// Registers or renews an instance.
    pub async fn register(&self, registration: Registration) -> Result<Lease, Problem> {
        let Registration {
            instance,
            pod,
            ttl_seconds,
        } = registration;
        check(&instance)?;
        let mut state = self.state.lock().await;
        let running = &state.followed.running;
        if (pod && running.has_pods()) || running.has_pod(&instance.namespace, &instance.name) {
            return self.leave_to_cluster(&mut state, &instance).await;
        }
        let instance = completed(&state, instance)?;
        let mut registered = Registered {
            instance: Arc::new(instance),
            ttl_seconds,
            seen_unix_ms: self.wall.millis(),
        };
        let key = registered.key();
        let lease = registered.lease();
        let known = state.enrolled().get(&key);
        let same = known.is_some_and(|known| {
            known.instance == registered.instance && known.ttl_seconds == ttl_seconds
        });
        if let (true, Some(known)) = (same, known) {
            registered.instance = Arc::clone(&known.instance);
        }
        if !same {
            let enrolled = state.enrolled();
            if let Some(other) = enrolled.at_the_same_place(&registered.instance) {
                let (name, namespace) = (&other.name, &other.namespace);
                let address = registered.instance.address;
                return Err(Problem::new(
                    Reason::Conflict,
                    format!("{address} is in use by instance {name}.{namespace}"),
                )
                .hint("deregister that one first, or wait until its term ends"));
            }
            let kept = KeptInstance {
                instance: (*registered.instance).clone(),
                ttl_seconds,
            };
            let mut batch = Batch::new();
            batch.put(Tree::Registry, store_key(&key), encode(&kept)?);
            self.store
                .commit_async(batch)
                .await
                .map_err(|error| problem(&error))?;
        }
        state.enroll(registered);
        if !same {
            self.publish_instances(&mut state);
        }
        Ok(lease)
    }

    /// What the cluster says of a pod counts, and it alone: one that was killed is gone when its slice says so, not
    /// when a term ends. What was kept of it, from when no cluster was followed, goes.
    async fn leave_to_cluster(
        &self,
        state: &mut State,
        instance: &Instance,
    ) -> Result<Lease, Problem> {
        let key = (instance.namespace.clone(), instance.name.clone());
        if state.enrolled().get(&key).is_some() {
            self.remove(state, vec![key]).await?;
        }
        Ok(Lease { expires_unix_ms: 0 })
    }

    /// A sign of life, with the health of the application behind it.
    pub async fn heartbeat(
        &self,
        namespace: &str,
        name: &str,
        health: Option<Health>,
    ) -> Result<Lease, Problem> {
        let mut state = self.state.lock().await;
        let key = (namespace.to_owned(), name.to_owned());
        let now = self.wall.millis();
        let Some(registered) = state.enrolled().get(&key) else {
            return Err(not_found(namespace, name));
        };
        let changed = health.filter(|health| *health != registered.instance.health);
        let mut lease = registered.lease();
        state.revise(&key, |registered| {
            registered.seen_unix_ms = now;
            if let Some(health) = changed {
                Arc::make_mut(&mut registered.instance).health = health;
            }
            lease = registered.lease();
        });
        if changed.is_some() {
            self.publish_instances(&mut state);
        }
        Ok(lease)
    }

    /// Removes an instance.
    pub async fn deregister(&self, namespace: &str, name: &str) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        let key = (namespace.to_owned(), name.to_owned());
        if state.enrolled().get(&key).is_none() {
            return Err(not_found(namespace, name));
        }
        self.remove(&mut state, vec![key]).await
    }

    /// Removes instances whose term has ended; gives their names.
    pub async fn evict(&self) -> Result<Vec<String>, Problem> {
        let now = self.wall.millis();
        let mut state = self.state.lock().await;
        let gone: Vec<(String, String)> = state.ended(now).into_iter().collect();
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        let names = gone
            .iter()
            .map(|(namespace, name)| format!("{name}.{namespace}"))
            .collect();
        self.remove(&mut state, gone).await?;
        Ok(names)
    }

    async fn remove(&self, state: &mut State, keys: Vec<(String, String)>) -> Result<(), Problem> {
        let mut batch = Batch::new();
        for key in &keys {
            batch.remove(Tree::Registry, store_key(key));
        }
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        for key in &keys {
            state.dismiss(key);
        }
        self.publish_instances(state);
        Ok(())
    }

    /// The service account of an instance, if there is such an instance.
    pub async fn account_of(&self, namespace: &str, name: &str) -> Option<String> {
        let state = self.state.lock().await;
        state
            .enrolled()
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(|registered| registered.instance.service_account.clone())
    }

    /// As the WorkloadGroup of its workload completes `instance`; refuses one of another account.
    pub async fn completed(&self, instance: &Instance) -> Result<Instance, Problem> {
        let state = self.state.lock().await;
        completed(&state, instance.clone())
    }

    /// Why an instance may not be what it says: see [`attest`](super::attest).
    pub fn impostor(&self, instance: &Instance) -> Option<Problem> {
        let (attested, world) = (self.attested.load(), self.world());
        let refused = attested.refuses(&world, &instance.into())?;
        Some(Problem::new(Reason::Denied, refused.reason).hint(refused.hint))
    }

    /// All instances with their terms.
    pub async fn instances(&self) -> Vec<InstanceReport> {
        let state = self.state.lock().await;
        let enrolled = state.enrolled().iter();
        enrolled
            .map(|(_, registered)| InstanceReport {
                instance: (*registered.instance).clone(),
                seen_unix_ms: registered.seen_unix_ms,
                expires_unix_ms: registered.expires_unix_ms(),
            })
            .collect()
    }

    /// Publishes a world that differs in its instances only.
    fn publish_instances(&self, state: &mut State) {
        let world = World {
            config: Arc::clone(&self.world.load().world.config),
            instances: state.running(),
        };
        self.publish(state, world);
    }
}

/// What an instance says of itself goes before what the group of its workload, or else of its service,
/// says of all of them; only its account is the group's to say.
fn completed(state: &State, mut instance: Instance) -> Result<Instance, Problem> {
    let group = |name: &str| {
        let key = Key {
            kind: "WorkloadGroup".to_owned(),
            namespace: instance.namespace.clone(),
            name: name.to_owned(),
        };
        let applied = state.objects.get(&key);
        let object = applied.or_else(|| state.followed.objects.get(&key))?;
        match &object.body {
            Kind::WorkloadGroup(group) => Some(&group.about),
            _ => None,
        }
    };
    let found = group(&instance.workload).or_else(|| group(instance.canonical_service()));
    let Some(group) = found else {
        return Ok(instance);
    };
    if !group.account.is_empty() && group.account != instance.service_account {
        return Err(Problem::new(
            Reason::Denied,
            format!(
                "workloads of this group run as account {}, not as {}",
                group.account, instance.service_account
            ),
        )
        .hint(format!("join with --service-account {}", group.account)));
    }
    for (label, value) in &group.labels {
        let said = instance.labels.entry(label.clone());
        said.or_insert_with(|| value.clone());
    }
    if instance.locality == Locality::default() {
        instance.locality = group.locality.clone();
    }
    if instance.weight == 1 {
        instance.weight = group.weight.unwrap_or(1);
    }
    if instance.service_ports.is_empty() {
        instance.service_ports.clone_from(&group.ports);
    }
    Ok(instance)
}

fn check(instance: &Instance) -> Result<(), Problem> {
    let label = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    for (what, text) in [
        ("name", &instance.name),
        ("namespace", &instance.namespace),
        ("service account", &instance.service_account),
        ("workload", &instance.workload),
    ] {
        if !label(text) {
            return Err(Problem::new(
                Reason::Invalid,
                format!("{what} {text:?} is not a name"),
            ));
        }
    }
    if instance.address.is_unspecified() || instance.address.is_multicast() {
        return Err(Problem::new(
            Reason::Invalid,
            format!(
                "{} is not an address that peers can reach",
                instance.address
            ),
        ));
    }
    Ok(())
}

fn not_found(namespace: &str, name: &str) -> Problem {
    Problem::new(
        Reason::NotFound,
        format!("there is no instance {name} in namespace {namespace}"),
    )
    .hint("`meshctl register --list` shows those that are")
}

fn store_key((namespace, name): &(String, String)) -> String {
    format!("{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource;

    const GROUP: &str = "apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: cart}
spec:
  metadata: {labels: {app: cart, tier: web, version: v1}}
  template: {serviceAccount: cart, locality: r1/z1, weight: 5, ports: {http: 9000}}";

    fn instance(workload: &str, account: &str) -> Instance {
        let json = serde_json::json!({
            "name": "vm-1", "namespace": "default", "workload": workload, "serviceAccount": account,
            "labels": {"app": "cart", "version": "v2"}, "address": "192.0.2.1", "health": "healthy",
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_group_completes_what_registers_under_its_account() {
        let (objects, findings) = resource::parse(GROUP, "x", "default");
        assert!(findings.is_empty(), "{findings:?}");
        let (objects, _) = resource::collect(objects);
        let mut state = State::default();
        state.objects = objects;
        for workload in ["cart", "cart-v2"] {
            let made = completed(&state, instance(workload, "cart")).unwrap();
            // What the instance says itself stays.
            assert_eq!(made.labels["version"], "v2");
            assert_eq!(made.labels["tier"], "web");
            assert_eq!((made.weight, made.locality.zone.as_str()), (5, "z1"));
            assert_eq!(made.service_ports["http"], 9000);
            assert_eq!(completed(&state, made.clone()).unwrap(), made);
        }
        let refused = completed(&state, instance("cart", "thief")).unwrap_err();
        assert_eq!(refused.reason, Reason::Denied);
        let other = Instance {
            namespace: "other".to_owned(),
            ..instance("cart", "thief")
        };
        assert_eq!(completed(&state, other.clone()).unwrap(), other);
    }
}
