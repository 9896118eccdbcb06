//! Instances: registration, heartbeat, eviction.
//!
//! A registration is kept in the store before it is acknowledged; heartbeats are not, so after a
//! restart every instance has one whole term to show itself again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::api::registry::{InstanceReport, Lease, Registration};
use crate::api::{Problem, Reason};
use crate::mesh::world::selects;
use crate::mesh::{Health, Instance, World};
use crate::resource::Kind;
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
            ttl_seconds,
        } = registration;
        check(&instance)?;
        let mut state = self.state.lock().await;
        let registered = Registered {
            instance: Arc::new(instance),
            ttl_seconds,
            seen_unix_ms: self.wall.millis(),
        };
        let key = registered.key();
        let lease = registered.lease();
        let same = state.instances.get(&key).is_some_and(|known| {
            known.instance == registered.instance && known.ttl_seconds == ttl_seconds
        });
        if !same {
            if let Some(other) = claims_same_address(&state, &registered.instance) {
                return Err(Problem::new(
                    Reason::Conflict,
                    format!(
                        "{} is in use by instance {}",
                        registered.instance.address, other
                    ),
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
        state.instances.insert(key, registered);
        if !same {
            self.publish_instances(&mut state);
        }
        Ok(lease)
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
        let Some(registered) = state.instances.get_mut(&key) else {
            return Err(not_found(namespace, name));
        };
        registered.seen_unix_ms = now;
        let lease = registered.lease();
        let changed = health.is_some_and(|health| health != registered.instance.health);
        if let (true, Some(health)) = (changed, health) {
            Arc::make_mut(&mut registered.instance).health = health;
            self.publish_instances(&mut state);
        }
        Ok(lease)
    }

    /// Removes an instance.
    pub async fn deregister(&self, namespace: &str, name: &str) -> Result<(), Problem> {
        let mut state = self.state.lock().await;
        let key = (namespace.to_owned(), name.to_owned());
        if !state.instances.contains_key(&key) {
            return Err(not_found(namespace, name));
        }
        self.remove(&mut state, vec![key]).await
    }

    /// Removes instances whose term has ended; gives their names.
    pub async fn evict(&self) -> Result<Vec<String>, Problem> {
        let now = self.wall.millis();
        let mut state = self.state.lock().await;
        let gone: Vec<(String, String)> = state
            .instances
            .values()
            .filter(|registered| {
                let expires = registered.expires_unix_ms();
                expires > 0 && expires < now
            })
            .map(Registered::key)
            .collect();
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
            state.instances.remove(key);
        }
        self.publish_instances(state);
        Ok(())
    }

    /// The service account of an instance, if there is such an instance.
    pub async fn account_of(&self, namespace: &str, name: &str) -> Option<String> {
        let state = self.state.lock().await;
        state
            .instances
            .get(&(namespace.to_owned(), name.to_owned()))
            .map(|registered| registered.instance.service_account.clone())
    }

    /// Why an instance of `account` may not stand behind a service that its labels claim: the
    /// manifests name the accounts that the service's workloads run under, and it is none of them.
    /// A service without workloads in the manifests is open to every account of its namespace.
    pub async fn impostor(&self, instance: &Instance) -> Option<Problem> {
        let world = self.world();
        let state = self.state.lock().await;
        let claimed = world.config.services.values().filter(|service| {
            service.namespace == instance.namespace
                && !service.selector.is_empty()
                && selects(&service.selector, &instance.labels)
        });
        for service in claimed {
            let accounts: BTreeSet<&str> = state
                .written()
                .filter(|object| object.metadata.namespace == service.namespace)
                .filter_map(|object| match &object.body {
                    Kind::Pod(pod) => Some(&pod.template),
                    Kind::Workload(workload) => Some(&workload.template),
                    _ => None,
                })
                .filter(|template| selects(&service.selector, &template.labels))
                .map(|template| match template.spec.service_account.as_str() {
                    "" => "default",
                    account => account,
                })
                .collect();
            if accounts.is_empty() || accounts.contains(instance.service_account.as_str()) {
                continue;
            }
            let accounts: Vec<&str> = accounts.into_iter().collect();
            let accounts = accounts.join(", ");
            return Some(
                Problem::new(
                    Reason::Denied,
                    format!(
                        "service {}.{} is run by account {accounts}, not by {}",
                        service.name, service.namespace, instance.service_account
                    ),
                )
                .hint(format!(
                    "join as its account, choose another --service, or apply a workload of the service with serviceAccountName: {}",
                    instance.service_account
                )),
            );
        }
        None
    }

    /// All instances with their terms.
    pub async fn instances(&self) -> Vec<InstanceReport> {
        let state = self.state.lock().await;
        state
            .instances
            .values()
            .map(|registered| InstanceReport {
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
            instances: Arc::new(state.running()),
        };
        self.publish(state, world);
    }
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

/// Another instance that is reached at one of the same sockets.
fn claims_same_address(state: &State, instance: &Instance) -> Option<String> {
    state
        .instances
        .values()
        .map(|registered| &registered.instance)
        .filter(|other| (&other.namespace, &other.name) != (&instance.namespace, &instance.name))
        .find(|other| {
            if instance.ports.is_empty() || other.ports.is_empty() {
                instance.address == other.address
            } else {
                instance
                    .ports
                    .values()
                    .any(|socket| other.ports.values().any(|taken| taken == socket))
            }
        })
        .map(|other| format!("{}.{}", other.name, other.namespace))
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
