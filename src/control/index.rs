//! The one writer of the world.
//!
//! Keeps what people applied in the store, and publishes a new world after each change that the store
//! has acknowledged. A change is refused whole when it brings an error with it. What is known meanwhile
//! is in `known`; who may ask, and how the world reaches proxies, is left to `rest`, `ads` and `push`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::api::resources::{
    ApplyReport, ApplyRequest, Convergence, HistoryEntry, ObjectOutcome, Outcome, ResourceReport,
};
use crate::api::routes::SourceReport;
use crate::api::{Problem, Reason};
use crate::inject::ProxyConfigs;
use crate::mesh::{Finding, Origin, Severity, World};
use crate::resource::{self, Key, Object, Objects, Statuses, has_status};
use crate::rt::{Published, Reader, Wall};
use crate::source::store::{Batch, Store, StoreError, Tree};

use super::attest::Attested;
use super::history::Change;
use super::key_sets::Fetching;
use super::known::{Registered, Stamp, State};
use super::push::Revised;

/// Objects, instances and the world that they make.
#[derive(Debug)]
pub struct Index {
    pub(super) store: Store,
    pub(super) wall: Wall,
    pub(super) state: Mutex<State>,
    pub(super) world: Published<Revised>,
    /// What is known of who may say what of itself.
    pub(super) attested: Published<Attested>,
    /// How key sets are fetched, once they are.
    pub(super) fetching: Fetching,
    /// Changes with what is wrong with the cluster's objects in themselves, which need not make another world.
    pub(super) wrongs: watch::Sender<u64>,
}

/// An object as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    stamp: Stamp,
    /// The file that it came from, for findings and for what is said of routes.
    file: String,
    /// Where in that each field stood.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    places: BTreeMap<String, (u32, u32)>,
    object: Value,
}

/// What to change.
#[derive(Debug, Default)]
pub struct Edit {
    /// Added or replaced.
    pub put: Vec<Object>,
    /// Removed.
    pub remove: Vec<Key>,
    /// Who asks.
    pub who: String,
    /// What for, such as `apply`.
    pub what: String,
    /// Only says what would happen.
    pub dry_run: bool,
    /// Which errors it may bring.
    pub tolerance: Tolerance,
}

/// Which errors do not stop a change. None of them is half-honoured: a broken reference is in the
/// world as a target that fails closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tolerance {
    /// None.
    #[default]
    Nothing,
    /// Those of references whose code says so ([`Code::forced`](resource::codes::Code::forced)).
    References,
    /// All: a delete may leave a reference dangling.
    Everything,
}

impl Tolerance {
    fn covers(self, finding: &Finding) -> bool {
        match self {
            Self::Nothing => false,
            Self::References => is_forced(finding),
            Self::Everything => true,
        }
    }
}

/// Says that there is a way, where all that is wrong may be forced.
fn offer_force(problem: Problem) -> Problem {
    let mut errors = problem
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .peekable();
    if errors.peek().is_none() || !errors.all(is_forced) {
        return problem;
    }
    problem.hint(
        "`meshctl apply --force` applies it all the same: until what is missing exists, requests that are sent there are answered 503",
    )
}

fn is_forced(finding: &Finding) -> bool {
    resource::codes::find(&finding.code).is_some_and(|code| code.forced)
}

impl Index {
    /// Reads what the store holds. What cannot be read any more is reported and left in the store.
    pub fn open(store: Store, wall: Wall) -> Result<Self, StoreError> {
        let mut state = State::default();
        let now = wall.millis();
        for (key, bytes) in store.iter(Tree::Resources).collect::<Result<Vec<_>, _>>()? {
            let read = serde_json::from_slice::<Kept>(&bytes)
                .ok()
                .and_then(|kept| {
                    let (object, findings) =
                        resource::from_store(&kept.object, &kept.file, &kept.places);
                    state.findings.extend(findings);
                    object.map(|object| (object, kept.stamp))
                });
            if let Some((object, stamp)) = read {
                let key = object.key();
                state.stored.insert(key.clone(), stamp);
                state.objects.insert(key, Arc::new(object));
            } else {
                tracing::error!(
                    key = %String::from_utf8_lossy(&key),
                    "this object cannot be read by this version; it is kept, but not in force"
                );
            }
        }
        for (_, bytes) in store.iter(Tree::Registry).collect::<Result<Vec<_>, _>>()? {
            if let Some(registered) = Registered::from_bytes(&bytes, now) {
                state.enroll(registered);
            }
        }
        for (key, bytes) in store.iter(Tree::History).collect::<Result<Vec<_>, _>>()? {
            if let Ok(number) = key.as_slice().try_into() {
                state.revision = u64::from_be_bytes(number);
                state.history.add(state.revision, bytes.len());
            }
        }
        (state.keys, state.keys_had) = super::key_sets::kept(&store, now)?;
        let (world, findings) = state.lower(&state.objects);
        state.findings = findings;
        Ok(Self {
            store,
            wall,
            attested: Published::new(state.attested(&world)),
            world: Published::new(Revised {
                revision: 0,
                world: Arc::new(world),
            }),
            state: Mutex::new(state),
            fetching: Fetching::default(),
            wrongs: watch::Sender::new(0),
        })
    }

    /// The world as it changes.
    pub fn reader(&self) -> Reader<Revised> {
        self.world.reader()
    }

    /// The world as it is.
    pub fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.load().world)
    }

    /// The store below, for what is kept beside objects and instances.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Number of the newest change of configuration.
    pub async fn revision(&self) -> u64 {
        self.state.lock().await.revision
    }

    /// What is wrong with the configuration in force.
    pub async fn findings(&self) -> Vec<Finding> {
        let state = self.state.lock().await;
        let own = state.followed.findings();
        own.chain(&state.findings).cloned().collect()
    }

    /// Applies manifests: all of them or none.
    pub async fn apply(&self, request: ApplyRequest) -> Result<(ApplyReport, u64), Problem> {
        let mut put = Vec::new();
        let mut findings = Vec::new();
        for source in &request.sources {
            let (objects, found) = resource::parse(&source.text, &source.name, &request.namespace);
            put.extend(objects);
            findings.extend(found);
        }
        let (_, doubles) = resource::collect(put.clone());
        findings.extend(doubles);
        // What cannot be read cannot be applied, whoever insists.
        refuse_errors(&findings, Tolerance::Nothing)?;
        let (what, tolerance) = if request.force {
            ("apply --force", Tolerance::References)
        } else {
            ("apply", Tolerance::Nothing)
        };
        let warming = if request.dry_run {
            None
        } else {
            self.warm_keys(&put).await
        };
        let changed = self
            .change(Edit {
                put,
                who: request.who,
                what: what.to_owned(),
                dry_run: request.dry_run,
                tolerance,
                ..Edit::default()
            })
            .await;
        self.warmed(warming).await;
        let (mut report, generation) = changed.map_err(offer_force)?;
        report.findings.splice(0..0, findings);
        Ok((report, generation))
    }

    /// Does one change: checks it, keeps it, publishes it. Gives the report and the number of the
    /// world that holds it.
    pub async fn change(&self, edit: Edit) -> Result<(ApplyReport, u64), Problem> {
        let mut state = self.state.lock().await;
        self.change_in(&mut state, edit).await
    }

    /// The same, by whoever looked at the state to decide what to change.
    pub(super) async fn change_in(
        &self,
        state: &mut State,
        edit: Edit,
    ) -> Result<(ApplyReport, u64), Problem> {
        let put: Vec<Key> = edit.put.iter().map(Object::key).collect();
        state.followed.refuse(put.iter().chain(&edit.remove))?;
        let mut objects = state.objects.clone();
        let mut outcomes = Vec::new();
        let mut before = Vec::new();
        let mut touched = Vec::new();
        for object in edit.put {
            let key = object.key();
            let old = objects.get(&key);
            let outcome = match old {
                None => Outcome::Created,
                Some(old) if old.raw == object.raw => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
            outcomes.push(outcome_of(&key, outcome));
            if outcome != Outcome::Unchanged {
                before.push(old.map(|old| old.raw.clone()));
                touched.push(key.clone());
                objects.insert(key, Arc::new(object));
            }
        }
        for key in edit.remove {
            let Some(old) = objects.remove(&key) else {
                return Err(Problem::new(Reason::NotFound, format!("there is no {key}")));
            };
            outcomes.push(outcome_of(&key, Outcome::Deleted));
            before.push(Some(old.raw.clone()));
            touched.push(key);
        }
        let (world, findings) = self.lower(state, &objects);
        let known: BTreeSet<&Finding> = state.findings.iter().collect();
        let new: Vec<Finding> = findings
            .iter()
            .filter(|finding| !known.contains(finding))
            .cloned()
            .collect();
        refuse_errors(&new, edit.tolerance)?;
        let mut new = new;
        new.extend(brought(&self.world(), &world));
        let mut report = ApplyReport {
            revision: state.revision,
            objects: outcomes,
            findings: new,
            convergence: Convergence::default(),
        };
        if edit.dry_run || touched.is_empty() {
            return Ok((report, state.generation));
        }
        let revision = state.revision + 1;
        let now = self.wall.millis();
        let mut batch = Batch::new();
        let mut stamps = Vec::new();
        for key in &touched {
            let Some(object) = objects.get(key) else {
                batch.remove(Tree::Resources, store_key(key));
                stamps.push((key.clone(), None));
                continue;
            };
            let created = state.stored.get(key).map(|stamp| stamp.created_unix_ms);
            let stamp = Stamp {
                created_unix_ms: created.unwrap_or(now),
                changed_unix_ms: now,
                revision,
            };
            let kept = Kept {
                stamp,
                file: object.origin.file.as_deref().unwrap_or_default().to_owned(),
                places: object.places(),
                object: object.raw.clone(),
            };
            batch.put(Tree::Resources, store_key(key), encode(&kept)?);
            stamps.push((key.clone(), Some(stamp)));
        }
        let changed = report
            .objects
            .iter()
            .filter(|object| object.outcome != Outcome::Unchanged);
        let change = Change {
            entry: HistoryEntry {
                revision,
                at_unix_ms: now,
                who: edit.who,
                what: edit.what,
                objects: changed.cloned().collect(),
            },
            before,
        };
        let change = encode(&change)?;
        let size = change.len();
        let forgotten = state.history.surplus(size);
        for old in &forgotten {
            batch.remove(Tree::History, old.to_be_bytes());
        }
        batch.put(Tree::History, revision.to_be_bytes(), change);
        self.store
            .commit_async(batch)
            .await
            .map_err(|error| problem(&error))?;
        for (key, stamp) in stamps {
            match stamp {
                Some(stamp) => state.stored.insert(key, stamp),
                None => state.stored.remove(&key),
            };
        }
        state.history.forget(forgotten.len());
        state.history.add(revision, size);
        state.objects = objects;
        state.rewritten = true;
        state.findings = findings;
        state.revision = revision;
        report.revision = revision;
        self.publish(state, world);
        Ok((report, state.generation))
    }

    /// The world that `objects` and what runs make; what of it is equal to the one in force is the same.
    pub(super) fn lower(&self, state: &State, objects: &Objects) -> (World, Vec<Finding>) {
        let (mut world, findings) = state.lower(objects);
        let now = self.world();
        world.config = Arc::unwrap_or_clone(world.config).sharing(&now.config);
        (world, findings)
    }

    /// Publishes `world` as the newest.
    pub(super) fn publish(&self, state: &mut State, world: World) {
        state.generation += 1;
        let configured = !Arc::ptr_eq(&self.world.load().world.config, &world.config);
        let attested = state.attested_again(&self.attested.load(), &world, configured);
        // First, so that nobody is judged by what was known before.
        if let Some(attested) = attested {
            self.attested.publish(attested);
        }
        self.world.publish(Revised {
            revision: state.generation,
            world: Arc::new(world),
        });
    }

    /// How proxies of pods are started, as it is written now.
    pub(super) async fn proxy_configs(&self) -> ProxyConfigs {
        let state = self.state.lock().await;
        let all = state.objects.iter().chain(&state.followed.objects);
        let said = all.filter(|(key, _)| matches!(key.kind.as_str(), "ProxyConfig" | "ConfigMap"));
        // What the cluster holds comes last, and wins.
        let said: Objects = said
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        ProxyConfigs::of(&said)
    }

    /// Objects of `kind`, filtered by namespace and name.
    pub async fn objects(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> Vec<ResourceReport> {
        let state = self.state.lock().await;
        let union = state.union(&state.objects);
        let found: Vec<(&Key, &Arc<Object>)> = union
            .iter()
            .filter(|(key, _)| {
                key.kind == kind
                    && namespace.is_none_or(|namespace| key.namespace == namespace)
                    && name.is_none_or(|name| key.name == name)
            })
            .collect();
        let told = |(_, object): &(&Key, &Arc<Object>)| has_status(&object.api_version);
        let statuses = if found.iter().any(told) {
            Statuses::of(&union, &state.running())
        } else {
            Statuses::default()
        };
        found
            .into_iter()
            .map(|(key, object)| {
                let followed = state.followed.stamps.get(key);
                let stamp = followed.or_else(|| state.stored.get(key));
                let stamp = stamp.copied().unwrap_or_default();
                let since = i64::try_from(stamp.changed_unix_ms / 1_000).unwrap_or_default();
                let since = jiff::Timestamp::from_second(since).unwrap_or_default();
                ResourceReport {
                    kind: key.kind.clone(),
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    created_unix_ms: stamp.created_unix_ms,
                    changed_unix_ms: stamp.changed_unix_ms,
                    revision: stamp.revision,
                    object: statuses.complete(object, stamp.revision, &since.to_string()),
                }
            })
            .collect()
    }

    /// The state of each object that `origins` name.
    pub async fn sources(&self, origins: &[&Origin]) -> Vec<SourceReport> {
        let state = self.state.lock().await;
        let named: BTreeSet<Key> = origins
            .iter()
            .map(|origin| Key {
                kind: origin.kind.clone(),
                namespace: origin.namespace.clone(),
                name: origin.name.clone(),
            })
            .collect();
        let union = named.into_iter().filter_map(|key| {
            let followed = state.followed.objects.get(&key);
            let object = followed.or_else(|| state.objects.get(&key))?;
            let generation = object.raw.pointer("/metadata/generation");
            let file = object
                .origin
                .file
                .as_deref()
                .filter(|file| !file.is_empty());
            Some(SourceReport {
                file: file.map(str::to_owned),
                revision: state.stored.get(&key).map_or(0, |stamp| stamp.revision),
                generation: followed.and(generation).and_then(serde_json::Value::as_u64),
                kind: key.kind,
                namespace: key.namespace,
                name: key.name,
            })
        });
        union.collect()
    }

    /// Every kind of which there is an object.
    pub async fn kinds(&self) -> BTreeSet<String> {
        let state = self.state.lock().await;
        let union = state.union(&state.objects);
        union.keys().map(|key| key.kind.clone()).collect()
    }
}

pub(super) fn outcome_of(key: &Key, outcome: Outcome) -> ObjectOutcome {
    ObjectOutcome {
        kind: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        outcome,
    }
}

/// What only the whole world shows. None of it stops a change: what is missing may be on its way.
pub(super) fn analyses(world: &World) -> BTreeSet<Finding> {
    let mut findings = crate::mesh::check::run(world);
    findings.retain(|finding| finding.severity == Severity::Warning);
    findings.into_iter().collect()
}

/// What of it `world` brings that was not there `before`.
pub(super) fn brought(before: &World, world: &World) -> BTreeSet<Finding> {
    let mut findings = crate::mesh::check::brought(before, world);
    findings.retain(|finding| finding.severity == Severity::Warning);
    findings
}

fn store_key(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.namespace, key.name)
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, Problem> {
    serde_json::to_vec(value)
        .map_err(|error| Problem::new(Reason::Internal, format!("cannot be written: {error}")))
}

pub(super) fn refuse_errors(findings: &[Finding], tolerance: Tolerance) -> Result<(), Problem> {
    let errors: Vec<&Finding> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error && !tolerance.covers(finding))
        .collect();
    if errors.is_empty() {
        return Ok(());
    }
    let noun = if errors.len() == 1 { "error" } else { "errors" };
    let mut problem = Problem::new(
        Reason::Invalid,
        format!("{} {noun}; nothing was applied", errors.len()),
    );
    problem.findings = findings.to_vec();
    Err(problem)
}

/// What a caller is told when the store did not take a write.
pub(super) fn problem(error: &StoreError) -> Problem {
    let reason = if error.is_rejection() {
        match error {
            StoreError::Full { .. } | StoreError::ReadOnly { .. } => Reason::ReadOnly,
            StoreError::TooLarge { .. } => Reason::Invalid,
            _ => Reason::Internal,
        }
    } else {
        Reason::Unknown
    };
    let hint = error.hint();
    let problem = Problem::new(reason, error.to_string());
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}
