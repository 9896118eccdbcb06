//! Admission: what is asked of others before an object is stored. First the plugins of the server itself and the
//! mutating webhooks, then, when the object is whole, the validating ones.
//!
//! Not as in a cluster: what the cluster itself removes (dependents, a namespace's content) is not asked about.

mod call;
mod plugins;
mod rules;
mod security;

use std::borrow::Cow;
use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use self::call::{Called, Failure};
use crate::auth::User;
use crate::kinds::Kind;
use crate::server::{Server, uuid};
use crate::status::{Answer, Refusal};
use crate::write::Body;
use crate::{defaults, patch};

/// A request as webhooks are told of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The kind of the path.
    pub kind: &'a Kind,
    /// `CREATE`, `UPDATE` or `DELETE`.
    pub operation: &'static str,
    /// `status`, or empty.
    pub subresource: &'a str,
    /// Empty for kinds without.
    pub namespace: &'a str,
    /// Empty while it is to be generated.
    pub name: &'a str,
    /// The body of the request: who asks, and where warnings are kept.
    pub body: &'a Body,
    /// Nothing will be stored.
    pub dry: bool,
    /// Such as `DeleteOptions`.
    pub options: &'a Value,
}

/// A webhook that is to be called, in the version that its rules name.
#[derive(Debug, Clone)]
struct Hook<'a> {
    /// Its configuration and place there.
    id: (String, usize),
    spec: Value,
    /// The kind as the rules name it.
    kind: Cow<'a, Kind>,
}

impl Hook<'_> {
    fn name(&self) -> &str {
        self.spec["name"].as_str().unwrap_or_default()
    }
}

impl Server {
    /// Plugins and mutating webhooks; the object afterwards, nothing for a deletion.
    pub async fn mutate(
        &self,
        asked: &Asked<'_>,
        object: Option<Value>,
        old: Option<&Value>,
    ) -> Answer<Option<Value>> {
        let mut object = object;
        self.plug(asked, object.as_mut())?;
        if is_exempt(asked.kind) {
            return Ok(object);
        }
        let mut called: Vec<(String, usize)> = Vec::new();
        let mut again: BTreeSet<(String, usize)> = BTreeSet::new();
        for round in 0..2 {
            // The order of names and places; what matches is judged anew for each, as labels may have changed.
            for hook in self.hooks("mutatingwebhookconfigurations", asked.kind) {
                if round == 1 && !again.contains(&hook.id) {
                    continue;
                }
                let Some(hook) = self.matched(hook, asked, object.as_ref(), old)? else {
                    continue;
                };
                let Some(answer) = self.ask(&hook, asked, object.as_ref(), old).await? else {
                    continue;
                };
                called.push(hook.id.clone());
                let Some(before) = object.as_ref() else {
                    continue;
                };
                let patched = patched(&hook, asked.kind, before, &answer)?;
                if patched == *before {
                    continue;
                }
                object = Some(patched);
                self.plug(asked, object.as_mut())?;
                if let Some(object) = object.as_mut() {
                    defaults::default(asked.kind, object, "");
                }
                // Who had looked before this change may want to look again, once.
                if round == 0 {
                    again.extend(called.iter().filter(|id| **id != hook.id).cloned());
                }
            }
            again.retain(|id| self.wants_again(id));
        }
        Ok(object)
    }

    /// Validating webhooks, all of them at once; the first refusal counts.
    pub async fn validate(
        &self,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<()> {
        if is_exempt(asked.kind) {
            return Ok(());
        }
        if let Some(pod) = object
            && asked.kind.key() == "pods"
            && asked.operation == "CREATE"
            && asked.subresource.is_empty()
        {
            security::admit(&self.state().store, pod)?;
        }
        let mut hooks = Vec::new();
        for hook in self.hooks("validatingwebhookconfigurations", asked.kind) {
            hooks.extend(self.matched(hook, asked, object, old)?);
        }
        let asked_all = hooks.iter().map(|hook| self.ask(hook, asked, object, old));
        for answer in join_all(asked_all).await {
            answer?;
        }
        Ok(())
    }

    fn plug(&self, asked: &Asked<'_>, object: Option<&mut Value>) -> Answer<()> {
        match object {
            Some(object) if asked.operation == "CREATE" && asked.subresource.is_empty() => {
                plugins::admit(&self.state().store, asked.kind, object)
            }
            _ => Ok(()),
        }
    }

    fn hooks<'a>(&self, plural: &str, kind: &'a Kind) -> Vec<Hook<'a>> {
        let resource = format!("{plural}.admissionregistration.k8s.io");
        let state = self.state();
        let mut hooks = Vec::new();
        for (key, configuration) in state.store.list(&resource, "") {
            let listed = configuration["webhooks"].as_array();
            for (place, spec) in listed.into_iter().flatten().enumerate() {
                hooks.push(Hook {
                    id: (key.name.clone(), place),
                    spec: spec.clone(),
                    kind: Cow::Borrowed(kind),
                });
            }
        }
        hooks
    }

    fn wants_again(&self, (name, place): &(String, usize)) -> bool {
        let key = crate::store::Key {
            resource: "mutatingwebhookconfigurations.admissionregistration.k8s.io".into(),
            namespace: String::new(),
            name: name.clone(),
        };
        let found = self.state().store.get(&key);
        found.is_some_and(|c| c["webhooks"][*place]["reinvocationPolicy"] == "IfNeeded")
    }

    /// The hook if it is meant, in the version that it wants.
    fn matched<'a>(
        &self,
        hook: Hook<'a>,
        asked: &Asked<'a>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Option<Hook<'a>>> {
        let state = self.state();
        let Some(kind) = rules::version(&hook.spec, asked, &state.kinds) else {
            return Ok(None);
        };
        if !rules::selected(&hook.spec, asked, &state.store, object, old)? {
            return Ok(None);
        }
        Ok(Some(Hook { kind, ..hook }))
    }

    /// Calls one. Nothing if it cannot be asked, and need not be.
    async fn ask(
        &self,
        hook: &Hook<'_>,
        asked: &Asked<'_>,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Answer<Option<Called>> {
        let quiet = matches!(
            hook.spec["sideEffects"].as_str(),
            Some("None" | "NoneOnDryRun")
        );
        if asked.dry && !quiet {
            return Err(Refusal::bad(format!(
                "admission webhook \"{}\" does not support dry run",
                hook.name()
            )));
        }
        let uid = uuid();
        let review = review(&uid, hook, asked, object, old);
        match call::call(self, &hook.spec, &uid, &review).await {
            Ok(called) => {
                let marked = called
                    .warnings
                    .iter()
                    .map(|w| w.chars().take(256).collect());
                asked.body.warn(marked);
                match called.denied {
                    Some(status) => Err(denied(hook.name(), &status)),
                    None => Ok(Some(called)),
                }
            }
            Err(failure) if hook.spec["failurePolicy"] == "Ignore" => {
                drop(failure);
                Ok(None)
            }
            Err(Failure(why)) => Err(Refusal::new(
                500,
                "InternalError",
                format!(
                    "Internal error occurred: failed calling webhook \"{}\": {why}",
                    hook.name()
                ),
            )),
        }
    }
}

/// Who could otherwise not be mended any more.
fn is_exempt(kind: &Kind) -> bool {
    kind.group == "admissionregistration.k8s.io"
}

fn review(
    uid: &str,
    hook: &Hook<'_>,
    asked: &Asked<'_>,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let kind =
        |kind: &Kind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let in_version = |object: Option<&Value>| {
        object.map_or(Value::Null, |object| {
            let mut object = object.clone();
            object["apiVersion"] = hook.kind.api_version().into();
            object
        })
    };
    let mut request = json!({
        "uid": uid,
        "kind": kind(&hook.kind), "resource": resource(&hook.kind),
        "requestKind": kind(asked.kind), "requestResource": resource(asked.kind),
        "name": asked.name, "namespace": asked.namespace,
        "operation": asked.operation, "userInfo": asked.body.user.info(),
        "object": in_version(object), "oldObject": in_version(old),
        "dryRun": asked.dry, "options": asked.options,
    });
    if !asked.subresource.is_empty() {
        request["subResource"] = asked.subresource.into();
        request["requestSubResource"] = asked.subresource.into();
    }
    if let Some(request) = request.as_object_mut() {
        request.retain(|_, value| !(value.is_null() || value == ""));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
}

fn patched(hook: &Hook<'_>, kind: &Kind, before: &Value, answer: &Called) -> Answer<Value> {
    let Some(changes) = &answer.patch else {
        return Ok(before.clone());
    };
    let mut object = before.clone();
    object["apiVersion"] = hook.kind.api_version().into();
    patch::json::apply(&mut object, changes).map_err(|why| {
        Refusal::new(
            500,
            "InternalError",
            format!(
                "Internal error occurred: the patch of webhook \"{}\" cannot be applied: {why}",
                hook.name()
            ),
        )
    })?;
    object["apiVersion"] = kind.api_version().into();
    Ok(object)
}

/// A webhook's refusal, as the client gets it.
fn denied(name: &str, status: &Value) -> Refusal {
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let by = format!("admission webhook \"{name}\" denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|c| u16::try_from(c).ok())
        .filter(|c| *c >= 400)
        .unwrap_or(400);
    let reason = match text("reason") {
        "Forbidden" => "Forbidden",
        "Invalid" => "Invalid",
        "BadRequest" => "BadRequest",
        "Conflict" => "Conflict",
        "TooManyRequests" => "TooManyRequests",
        _ => "",
    };
    let mut refusal = Refusal::new(code, reason, message);
    if status["details"].is_object() {
        refusal.details = status["details"].clone();
    }
    refusal
}

/// Who makes what the cluster makes itself: a controller of `kube-system`.
pub fn controller(name: &str) -> User {
    let mut user = User::new(
        &format!("system:serviceaccount:kube-system:{name}-controller"),
        &[
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
        ],
    );
    user.uid = uuid();
    user
}
