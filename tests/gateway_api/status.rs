//! What objects say of themselves.

use serde_json::Value;

use crate::case::same;
use crate::stand::{INFRA, Outcome, Stand};

/// Our controller's name.
pub(crate) const CONTROLLER: &str = "meshctl.dev/gateway-controller";

/// A condition: its type, whether it holds, and the reason, where "" is any.
pub(crate) type Condition<'a> = (&'a str, bool, &'a str);

fn check(conditions: &Value, wanted: &Condition<'_>, generation: &Value) -> Outcome {
    let (kind, holds, reason) = wanted;
    let list = conditions.as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|condition| condition["type"] == *kind);
    let found = found.ok_or_else(|| format!("no condition {kind} among {conditions}"))?;
    let status = if *holds { "True" } else { "False" };
    if found["status"] != status || (!reason.is_empty() && found["reason"] != *reason) {
        return Err(format!("{found} in place of {kind}={status} {reason:?}"));
    }
    same(
        "observedGeneration",
        generation,
        &found["observedGeneration"],
    )
}

/// What one listener must say.
#[derive(Debug, Clone)]
pub(crate) struct Listener<'a> {
    pub(crate) name: &'a str,
    /// `None` is whatever.
    pub(crate) kinds: Option<&'a [&'a str]>,
    pub(crate) routes: Option<u64>,
    pub(crate) conditions: &'a [Condition<'a>],
}

/// A listener that is accepted and whose references lead somewhere.
pub(crate) const fn sound<'a>(name: &'a str, kinds: &'a [&'a str], routes: u64) -> Listener<'a> {
    Listener {
        name,
        kinds: Some(kinds),
        routes: Some(routes),
        conditions: &[("Accepted", true, ""), ("ResolvedRefs", true, "")],
    }
}

impl Stand {
    fn watch(
        &self,
        kind: &str,
        (namespace, name): (&str, &str),
        check: impl Fn(&Value) -> Outcome,
    ) -> Outcome {
        self.until(&format!("{kind} {name}"), || {
            check(&self.object(kind, namespace, name)?)
        })
    }

    /// The Gateway as a whole has these conditions.
    pub(crate) fn gateway_has(&self, name: &str, wanted: &[Condition<'_>]) -> Outcome {
        self.watch("Gateway", (INFRA, name), |gateway| {
            let generation = &gateway["metadata"]["generation"];
            let conditions = &gateway["status"]["conditions"];
            let check = |condition| check(conditions, condition, generation);
            wanted.iter().try_for_each(check)
        })
    }

    /// The Gateway has exactly these listeners.
    pub(crate) fn listeners(&self, name: &str, wanted: &[Listener<'_>]) -> Outcome {
        self.watch("Gateway", (INFRA, name), |gateway| {
            let said = gateway["status"]["listeners"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            same("the number of listeners", &wanted.len(), &said.len())?;
            wanted.iter().try_for_each(|listener| {
                let found = said.iter().find(|one| one["name"] == listener.name);
                let found = found.ok_or_else(|| format!("no listener {}", listener.name))?;
                hold(found, listener, &gateway["metadata"]["generation"])
                    .map_err(|error| format!("listener {}: {error}", listener.name))
            })
        })
    }

    /// One listener has these conditions.
    pub(crate) fn listener_has(
        &self,
        gateway: &str,
        name: &str,
        conditions: &[Condition<'_>],
    ) -> Outcome {
        let wanted = Listener {
            name,
            kinds: None,
            routes: None,
            conditions,
        };
        self.watch("Gateway", (INFRA, gateway), |gateway| {
            let said = gateway["status"]["listeners"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let found = said.iter().find(|one| one["name"] == name);
            let found = found.ok_or_else(|| format!("no listener {name}"))?;
            hold(found, &wanted, &gateway["metadata"]["generation"])
        })
    }

    /// No route is attached.
    pub(crate) fn no_routes(&self, gateway: &str) -> Outcome {
        self.watch("Gateway", (INFRA, gateway), |gateway| {
            let said = gateway["status"]["listeners"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if said.is_empty() {
                return Err("no listeners".to_owned());
            }
            said.iter()
                .try_for_each(|one| same("attachedRoutes", &Value::from(0), &one["attachedRoutes"]))
        })
    }

    /// What a route or policy says of a Gateway.
    pub(crate) fn says(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        parent: &str,
        wanted: &[Condition<'_>],
    ) -> Outcome {
        self.watch(kind, (namespace, name), |object| {
            let list = &object["status"][if kind == "BackendTLSPolicy" {
                "ancestors"
            } else {
                "parents"
            }];
            let key = if kind == "BackendTLSPolicy" {
                "ancestorRef"
            } else {
                "parentRef"
            };
            let said = list.as_array().cloned().unwrap_or_default();
            let mut of: Vec<&Value> = said
                .iter()
                .filter(|one| one[key]["name"] == parent)
                .collect();
            of.retain(|one| one["controllerName"] == CONTROLLER);
            if of.is_empty() {
                return Err(format!("nothing is said of {parent}: {}", object["status"]));
            }
            let generation = &object["metadata"]["generation"];
            of.iter().try_for_each(|one| {
                wanted
                    .iter()
                    .try_for_each(|condition| check(&one["conditions"], condition, generation))
            })
        })
    }

    /// Routes of the usual namespace are accepted, and lead to what exists.
    pub(crate) fn accepted(&self, kind: &str, names: &[&str], gateway: &str) -> Outcome {
        let wanted = [("Accepted", true, ""), ("ResolvedRefs", true, "")];
        names
            .iter()
            .try_for_each(|name| self.says((kind, INFRA, name), gateway, &wanted))
    }

    /// HTTPRoutes of the usual namespace.
    pub(crate) fn http_accepted(&self, names: &[&str], gateway: &str) -> Outcome {
        self.accepted("HTTPRoute", names, gateway)
    }

    /// No Gateway has accepted the route.
    pub(crate) fn not_accepted(&self, (kind, namespace, name): (&str, &str, &str)) -> Outcome {
        let object = self.object(kind, namespace, name)?;
        let parents = object["status"]["parents"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let accepts = |parent: &Value| {
            let conditions = parent["conditions"].as_array().cloned().unwrap_or_default();
            conditions
                .iter()
                .any(|one| one["type"] == "Accepted" && one["status"] == "True")
        };
        match parents.iter().find(|parent| accepts(parent)) {
            None => Ok(()),
            Some(parent) => Err(format!(
                "{kind} {name} is accepted by {}",
                parent["parentRef"]
            )),
        }
    }

    /// The generation that an object is in, once all of its conditions have seen it.
    pub(crate) fn generation(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Result<i64, String> {
        self.until(&format!("{kind} {name} to be seen"), || {
            let object = self.object(kind, namespace, name)?;
            let generation = object["metadata"]["generation"].as_i64();
            let generation =
                generation.ok_or_else(|| format!("no generation: {}", object["metadata"]))?;
            let mut count = 0;
            let mut seen = true;
            each_condition(&object["status"], &mut |condition| {
                count += 1;
                seen &= condition["observedGeneration"] == generation;
            });
            if count > 0 && seen {
                Ok(generation)
            } else {
                Err(format!("{count} conditions: {}", object["status"]))
            }
        })
    }

    /// Another spec makes another generation, which all conditions see.
    pub(crate) fn generations(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        changed: &str,
    ) -> Outcome {
        let before = self.generation(kind, namespace, name)?;
        self.apply(changed)?;
        let after = self.generation(kind, namespace, name)?;
        if after > before {
            Ok(())
        } else {
            Err(format!("the generation was {before} and is {after}"))
        }
    }
}

fn each_condition(value: &Value, visit: &mut dyn FnMut(&Value)) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| each_condition(one, visit)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "conditions" {
                    value.as_array().into_iter().flatten().for_each(&mut *visit);
                } else {
                    each_condition(value, visit);
                }
            }
        }
        _ => {}
    }
}

fn hold(said: &Value, wanted: &Listener<'_>, generation: &Value) -> Outcome {
    if let Some(kinds) = wanted.kinds {
        let list = said["supportedKinds"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let got: Vec<&str> = list.iter().filter_map(|one| one["kind"].as_str()).collect();
        // A listener may take more kinds, but none where none is expected.
        let missing = kinds.iter().any(|kind| !got.contains(kind));
        if missing || (kinds.is_empty() && !got.is_empty()) {
            return Err(format!("supportedKinds are {got:?} in place of {kinds:?}"));
        }
    }
    if let Some(routes) = wanted.routes {
        same(
            "attachedRoutes",
            &Value::from(routes),
            &said["attachedRoutes"],
        )?;
    }
    let conditions = &said["conditions"];
    let check = |condition| check(conditions, condition, generation);
    wanted.conditions.iter().try_for_each(check)
}
