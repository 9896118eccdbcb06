//! One kind: its list, its changes, and what is done when the server does not answer.
//!
//! kube's watcher lists in pages, follows with bookmarks and lists again when its place in the
//! history has expired. A new list is compared with what is known and leaves here as changes, whole
//! at once, so that nobody downstream sees a world that is only half listed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use futures_util::StreamExt as _;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::kinds::{Kind, Without};
use super::{Change, WATCH_SECONDS};
use crate::resource::Key;
use crate::rt::{Backoff, now};

/// Waits between attempts, as kube's own back-off has them at its end.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A server that starts may not know its own kinds for a while; only a kind that stays unknown for
/// this long is taken for removed, with all its objects.
const REMOVED: Duration = Duration::from_mins(1);
/// A place in history that expires again within this time is no accident: nobody gets to watch.
const SOON: Duration = Duration::from_mins(1);
/// A watch that was begun after that and still stands now is taken to work.
const STANDS: Duration = Duration::from_secs(3);
/// No server that is busy is left alone for longer than this, whatever it asks for.
const LONGEST: u64 = 60;

/// What a kind's watch tells.
#[derive(Debug)]
pub(super) struct Word {
    /// Its place in [`super::kinds::KINDS`].
    pub(super) kind: usize,
    pub(super) said: Said,
    /// How many objects of it are known.
    pub(super) objects: usize,
}

/// What became of a kind.
#[derive(Debug)]
pub(super) enum Said {
    /// What changed; the server answers. The first has all there is.
    Changed(Vec<Change>),
    /// The server answers again.
    Answers,
    /// Lists work and watches do not, for this reason: these are what lists found.
    OnlyListed(Vec<Change>, String),
    /// The server does not have it, and so these are gone.
    Missing(Vec<Change>, String),
    /// The server has it in versions alone that are not read here; what is known stays.
    Unread(String),
    /// It cannot be followed now; what is known stays.
    Failed(String),
}

/// Namespace and name.
type Name = (String, String);
/// What a list found, as JSON.
type Listed = BTreeMap<Name, Arc<str>>;
/// Half of SHA-256 of an object's text: all that it takes to see that it is another.
type Mark = [u8; 16];

/// Follows one kind, or `only` the object of this namespace and name, for ever.
pub(super) async fn watch(
    client: Client,
    (kind, only): (&'static Kind, Option<(String, String)>),
    index: usize,
    words: mpsc::Sender<Word>,
) {
    let mut watch = Watch {
        client,
        kind,
        only,
        index,
        words,
        known: BTreeMap::new(),
        backoff: Backoff::new(RETRY.0, RETRY.1),
        missing_since: None,
        expired: None,
        doubted: None,
    };
    loop {
        let mut reason = String::new();
        for version in kind.versions {
            reason = watch.follow(version).await;
        }
        if let Some(other) = watch.otherwise_served().await {
            watch.unread(other).await;
        } else {
            watch.missing(reason).await;
        }
        watch.pause().await;
    }
}

struct Watch {
    client: Client,
    kind: &'static Kind,
    /// The one object that is followed, by namespace and name; all of them when absent.
    only: Option<(String, String)>,
    index: usize,
    words: mpsc::Sender<Word>,
    known: BTreeMap<Name, Mark>,
    backoff: Backoff,
    missing_since: Option<Instant>,
    /// When our place in history had last expired.
    expired: Option<Instant>,
    /// Why it does so again and again, and until when a watch must stand to be believed.
    doubted: Option<(String, Instant)>,
}

impl Watch {
    /// Follows the kind in `version` until the server says that there is no such thing; gives its words.
    async fn follow(&mut self, version: &str) -> String {
        let resource = self.kind.resource(version);
        let client = self.client.clone();
        let mut config = watcher::Config::default().timeout(WATCH_SECONDS);
        let api: Api<DynamicObject> = match &self.only {
            None => Api::all_with(client, &resource),
            Some((namespace, name)) => {
                config = config.fields(&format!("metadata.name={name}"));
                Api::namespaced_with(client, namespace, &resource)
            }
        };
        let mut events = pin!(watcher(api.clone(), config.clone()));
        let mut listed = Listed::new();
        // The stream has no end.
        loop {
            let event = match self.doubted.as_ref().map(|(_, until)| *until) {
                None => events.next().await,
                Some(until) => {
                    let Ok(event) = tokio::time::timeout_at(until, events.next()).await else {
                        self.stands();
                        self.say(Said::Answers).await;
                        continue;
                    };
                    event
                }
            };
            let Some(event) = event else {
                return String::new();
            };
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    if let Some((name, text)) = self.read(object, version) {
                        listed.insert(name, text);
                    }
                }
                Ok(Event::InitDone) => {
                    let changes = self.replace(std::mem::take(&mut listed));
                    match &mut self.doubted {
                        None => self.progress(changes).await,
                        Some((reason, until)) => {
                            *until = now() + STANDS;
                            let reason = reason.clone();
                            self.missing_since = None;
                            self.say(Said::OnlyListed(changes, reason)).await;
                        }
                    }
                }
                Ok(Event::Apply(object)) => {
                    let read = self.read(object, version);
                    let change = read.and_then(|(name, text)| self.put(name, text));
                    self.stands();
                    self.progress(change.into_iter().collect()).await;
                }
                Ok(Event::Delete(object)) => {
                    let read = self.read(object, version);
                    let change = read.and_then(|(name, _)| self.remove(name));
                    self.stands();
                    self.progress(change.into_iter().collect()).await;
                }
                Err(error) => {
                    if let Some(reason) = self.unavailable(&error) {
                        return reason;
                    }
                    if is_expired(&error) {
                        tracing::debug!(kind = self.kind.name, %error, "listing again");
                        self.expires(words_of(&error));
                        self.pause().await;
                        // kube lists again when a watch says so, and not when one is refused for it.
                        if matches!(error, watcher::Error::WatchStartFailed(_)) {
                            events.set(watcher(api.clone(), config.clone()));
                        }
                        continue;
                    }
                    // Who may list and not watch would seem to be let in again by each list.
                    if is_forbidden(&error) {
                        self.doubted = Some((words_of(&error), now()));
                    }
                    self.say(Said::Failed(words_of(&error))).await;
                    self.pause().await;
                    self.leave_alone(&error).await;
                    // A list says by itself that it worked. A watch is silent until something
                    // changes, so whether the server answers is asked before.
                    if !matches!(error, watcher::Error::InitialListFailed(_))
                        && let Err(reason) = self.until_it_answers(&api).await
                    {
                        return reason;
                    }
                    if let Some((_, until)) = &mut self.doubted {
                        *until = now() + STANDS;
                    }
                }
            }
        }
    }

    /// Our place in history has expired. Once in a while that is nothing; again and again, every list is
    /// followed by the next, and so they become rarer and it is said.
    fn expires(&mut self, reason: String) {
        let at = now();
        let again = self
            .expired
            .is_some_and(|last| at.duration_since(last) < SOON);
        self.expired = Some(at);
        if again {
            self.doubted = Some((reason, at + SOON));
        }
    }

    /// A watch works.
    fn stands(&mut self) {
        if self.doubted.take().is_some() {
            self.backoff.reset();
        }
    }

    /// Leaves a server alone for as long as it asks for.
    async fn leave_alone(&self, error: &watcher::Error) {
        if let watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) = error
            && let Some(details) = &status.details
        {
            let seconds = u64::from(details.retry_after_seconds).min(LONGEST);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// Waits until the server answers; an error is that it says there is no such kind.
    async fn until_it_answers(&mut self, api: &Api<DynamicObject>) -> Result<(), String> {
        loop {
            let mut first = ListParams::default().limit(1);
            if let Some((_, name)) = &self.only {
                first = first.fields(&format!("metadata.name={name}"));
            }
            match api.list(&first).await {
                Ok(_) => {
                    if self.doubted.is_none() {
                        self.say(Said::Answers).await;
                    }
                    return Ok(());
                }
                Err(error) => {
                    let error = watcher::Error::InitialListFailed(error);
                    if let Some(reason) = self.unavailable(&error) {
                        return Err(reason);
                    }
                    self.say(Said::Failed(words_of(&error))).await;
                    self.pause().await;
                    self.leave_alone(&error).await;
                }
            }
        }
    }

    /// Why the kind can be done without, if that is what `error` says.
    fn unavailable(&self, error: &watcher::Error) -> Option<String> {
        let (watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
        else {
            return None;
        };
        let name = self.kind.name;
        match self.kind.without {
            // By the code: a server that does not know the group answers in plain text.
            Without::NotInstalled | Without::Less if status.code == 404 => {
                Some(format!("{name} is not installed in the cluster"))
            }
            // What is known already stays: a right that is taken away is no reason to forget.
            Without::Less if status.code == 403 && self.known.is_empty() => {
                Some(format!("{name} may not be read: {}", status.message))
            }
            _ => None,
        }
    }

    /// Which versions the server has of a kind that it has in none of ours: a newer definition than we know.
    async fn otherwise_served(&self) -> Option<String> {
        let group = self.kind.group;
        // Only kinds that are defined by somebody are there in one version today and another tomorrow.
        if self.kind.without == Without::Nothing || group.is_empty() {
            return None;
        }
        let groups = self.client.list_api_groups().await.ok()?;
        let found = groups
            .groups
            .into_iter()
            .find(|found| found.name == group)?;
        let mut served = Vec::new();
        for version in found.versions {
            let at = version.group_version.as_str();
            let Ok(listed) = self.client.list_api_group_resources(at).await else {
                continue;
            };
            if listed
                .resources
                .iter()
                .any(|one| one.name == self.kind.plural)
            {
                served.push(version.version);
            }
        }
        // One of ours may have come back meanwhile.
        let ours = |version: &String| self.kind.versions.contains(&version.as_str());
        if served.is_empty() || served.iter().any(ours) {
            return None;
        }
        Some(format!(
            "{} is served as {}, and this release reads {}",
            self.kind.name,
            served.join(", "),
            self.kind.versions.join(", ")
        ))
    }

    /// The server has it in versions that we do not read. What was known stays: the objects are there.
    async fn unread(&mut self, reason: String) {
        self.missing_since = None;
        self.say(Said::Unread(reason)).await;
    }

    /// The server does not have the kind.
    async fn missing(&mut self, reason: String) {
        let since = *self.missing_since.get_or_insert_with(now);
        if self.known.is_empty() || now().duration_since(since) >= REMOVED {
            let changes = self.replace(Listed::new());
            self.say(Said::Missing(changes, reason)).await;
        } else {
            self.say(Said::Failed(reason)).await;
        }
    }

    async fn pause(&mut self) {
        let wait = self.backoff.next(fastrand::f64());
        tokio::time::sleep(wait).await;
    }

    async fn progress(&mut self, changes: Vec<Change>) {
        self.backoff.reset();
        self.missing_since = None;
        self.say(Said::Changed(changes)).await;
    }

    async fn say(&self, said: Said) {
        let word = Word {
            kind: self.index,
            said,
            objects: self.known.len(),
        };
        // Nobody listens any more when the control plane is ending.
        let _heard = self.words.send(word).await.is_ok();
    }

    /// Name and kept form of an object. Lists of built-in kinds do not repeat the kind in each item.
    fn read(&self, mut object: DynamicObject, version: &str) -> Option<(Name, Arc<str>)> {
        let resource = self.kind.resource(version);
        let name = object.metadata.name.clone()?;
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        object.types = Some(kube::core::TypeMeta {
            api_version: resource.api_version,
            kind: resource.kind,
        });
        match serde_json::to_value(&object) {
            Ok(value) => {
                let text = self.kind.trimmed(value).to_string();
                Some(((namespace, name), text.into()))
            }
            Err(error) => {
                tracing::error!(kind = self.kind.name, namespace, name, %error, "not understood");
                None
            }
        }
    }

    fn put(&mut self, name: Name, text: Arc<str>) -> Option<Change> {
        let mark = mark(&text);
        let before = self.known.insert(name.clone(), mark);
        (before != Some(mark)).then(|| self.change(name, Some(text)))
    }

    fn remove(&mut self, name: Name) -> Option<Change> {
        self.known.remove(&name)?;
        Some(self.change(name, None))
    }

    /// Takes `listed` for all there is.
    fn replace(&mut self, listed: Listed) -> Vec<Change> {
        let marks = listed.iter().map(|(name, text)| (name.clone(), mark(text)));
        let before = std::mem::replace(&mut self.known, marks.collect());
        let gone = before.keys().filter(|name| !self.known.contains_key(*name));
        let gone: Vec<Change> = gone.map(|name| self.change(name.clone(), None)).collect();
        let changed = listed
            .into_iter()
            .filter(|(name, _)| before.get(name) != self.known.get(name))
            .map(|(name, text)| self.change(name, Some(text)));
        gone.into_iter().chain(changed).collect()
    }

    fn change(&self, (namespace, name): Name, object: Option<Arc<str>>) -> Change {
        let key = Key {
            kind: self.kind.filed.to_owned(),
            namespace,
            name,
        };
        Change { key, object }
    }
}

fn mark(text: &str) -> Mark {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let mut mark = Mark::default();
    for (own, byte) in mark.iter_mut().zip(digest.as_ref()) {
        *own = *byte;
    }
    mark
}

/// Whether our place in the server's history has expired, which only means to list again.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 403)
}

fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status)
        | watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// An error and its causes, each once: kube repeats them in its own words.
fn words_of(error: &watcher::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    let mut words = Vec::new();
    while let Some(source) = last.source() {
        last = source;
        words.push(last.to_string());
    }
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => {
            format!("{} ({})", status.message, status.code)
        }
        watcher::Error::WatchError(status) => format!("{} ({})", status.message, status.code),
        _ => words.pop().unwrap_or_else(|| error.to_string()),
    }
}
