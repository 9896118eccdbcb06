//! Which instances slices speak of, and of which service and pod: so that what a change concerns is
//! found by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Endpoint, Name, Slice, written_name};

/// A slice, and what it is taken for.
#[derive(Debug)]
pub(super) struct Spread {
    name: String,
    pub(super) slice: Slice,
    /// Its service has no selector, so somebody wrote it by hand.
    pub(super) by_hand: bool,
}

/// Slices by what they speak of.
#[derive(Debug, Default)]
pub(super) struct Places {
    slices: BTreeMap<Name, Arc<Spread>>,
    /// Names of slices by namespace and name of the service.
    by_service: BTreeMap<Name, BTreeSet<String>>,
    /// By instance: the slices that speak of it in the order of their names, each with the place of an endpoint.
    by_instance: BTreeMap<Name, Vec<(Arc<Spread>, usize)>>,
    /// By pod: names of instances that were written by hand and name it, and how often.
    by_pod: BTreeMap<Name, BTreeMap<String, usize>>,
    /// Slices that were written by hand.
    by_hand: BTreeSet<Name>,
}

impl Spread {
    /// What the instance of `endpoint` is called, if it is one.
    fn instance(&self, endpoint: &Endpoint) -> Option<String> {
        if self.by_hand {
            Some(written_name(&self.slice.service, endpoint.address))
        } else {
            endpoint.pod.clone()
        }
    }

    /// Its endpoints by the instances that they are.
    fn groups(&self) -> BTreeMap<String, Vec<usize>> {
        let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, endpoint) in self.slice.endpoints.iter().enumerate() {
            if let Some(name) = self.instance(endpoint) {
                groups.entry(name).or_default().push(at);
            }
        }
        groups
    }

    /// Whether all of it that is not its endpoints is as in `other`.
    fn is_like(&self, other: &Self) -> bool {
        (self.by_hand, &self.slice.service, &self.slice.ports)
            == (other.by_hand, &other.slice.service, &other.slice.ports)
    }

    fn says<'a>(&'a self, places: Option<&'a Vec<usize>>) -> impl Iterator<Item = &'a Endpoint> {
        let places = places.into_iter().flatten();
        places.filter_map(|at| self.slice.endpoints.get(*at))
    }
}

impl Places {
    /// Puts a slice in place of the one of its name, or takes that out. What it says otherwise of becomes `stale`.
    pub(super) fn put(
        &mut self,
        name: Name,
        slice: Option<Slice>,
        by_hand: bool,
        stale: &mut BTreeSet<Name>,
    ) {
        let namespace = name.0.clone();
        let old = self.slices.remove(&name);
        let new = slice.map(|slice| {
            Arc::new(Spread {
                name: name.1.clone(),
                slice,
                by_hand,
            })
        });
        let (was, is) = (
            old.as_ref().map(|old| old.groups()).unwrap_or_default(),
            new.as_ref().map(|new| new.groups()).unwrap_or_default(),
        );
        let alike = matches!((&old, &new), (Some(old), Some(new)) if old.is_like(new));
        let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        for instance in names {
            let same = alike && {
                let old = old.iter().flat_map(|old| old.says(was.get(instance)));
                old.eq(new.iter().flat_map(|new| new.says(is.get(instance))))
            };
            if !same {
                stale.insert((namespace.clone(), instance.clone()));
            }
        }
        if let Some(old) = &old {
            self.forget(&name, old, &was);
        }
        if let Some(new) = new {
            self.learn(name, new, is);
        }
    }

    /// Takes the slices of a service for written by hand, or not.
    pub(super) fn judge(
        &mut self,
        namespace: &str,
        service: &str,
        by_hand: bool,
        stale: &mut BTreeSet<Name>,
    ) {
        let service = (namespace.to_owned(), service.to_owned());
        let names = self.by_service.get(&service).cloned().unwrap_or_default();
        for name in names {
            let name = (namespace.to_owned(), name);
            let Some(spread) = self.slices.get(&name) else {
                continue;
            };
            if by_hand != spread.by_hand {
                let slice = spread.slice.clone();
                self.put(name, Some(slice), by_hand, stale);
            } else if by_hand {
                // Its ports may be others.
                let all = spread.groups().into_keys();
                stale.extend(all.map(|instance| (namespace.to_owned(), instance)));
            }
        }
    }

    /// Whether nothing is known.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
            && self.by_service.is_empty()
            && self.by_instance.is_empty()
            && self.by_pod.is_empty()
            && self.by_hand.is_empty()
    }

    /// What slices say of an instance, in the order of their names.
    pub(super) fn at(&self, instance: &Name) -> impl Iterator<Item = (&Spread, &Endpoint)> {
        let all = self.by_instance.get(instance).into_iter().flatten();
        all.filter_map(|(spread, at)| Some((&**spread, spread.slice.endpoints.get(*at)?)))
    }

    /// Instances that were written by hand and name `pod`.
    pub(super) fn of_pod(&self, pod: &Name) -> impl Iterator<Item = Name> {
        let all = self.by_pod.get(pod).into_iter().flat_map(BTreeMap::keys);
        all.map(|instance| (pod.0.clone(), instance.clone()))
    }

    /// Instances that were written by hand and are on one of `nodes` become `stale`.
    pub(super) fn on_nodes(&self, nodes: &BTreeSet<String>, stale: &mut BTreeSet<Name>) {
        for name in &self.by_hand {
            let Some(spread) = self.slices.get(name) else {
                continue;
            };
            let all = spread.slice.endpoints.iter();
            let on = all.filter(|endpoint| nodes.contains(&endpoint.node));
            let named = on.filter_map(|endpoint| spread.instance(endpoint));
            stale.extend(named.map(|instance| (name.0.clone(), instance)));
        }
    }

    fn learn(&mut self, name: Name, spread: Arc<Spread>, groups: BTreeMap<String, Vec<usize>>) {
        let (namespace, own) = &name;
        let service = (namespace.clone(), spread.slice.service.clone());
        let of_service = self.by_service.entry(service).or_default();
        of_service.insert(own.clone());
        for (instance, places) in groups {
            let key = (namespace.clone(), instance);
            if spread.by_hand {
                for pod in spread
                    .says(Some(&places))
                    .filter_map(|one| one.pod.as_ref())
                {
                    let pod = (namespace.clone(), pod.clone());
                    let of_pod = self.by_pod.entry(pod).or_default();
                    *of_pod.entry(key.1.clone()).or_default() += 1;
                }
            }
            let all = self.by_instance.entry(key).or_default();
            let first = all.partition_point(|(other, _)| other.name < spread.name);
            let own = places.into_iter().map(|at| (Arc::clone(&spread), at));
            all.splice(first..first, own);
            // Most are spoken of once.
            all.shrink_to_fit();
        }
        if spread.by_hand {
            self.by_hand.insert(name.clone());
        }
        self.slices.insert(name, spread);
    }

    fn forget(&mut self, name: &Name, spread: &Spread, groups: &BTreeMap<String, Vec<usize>>) {
        let (namespace, own) = name;
        let service = (namespace.clone(), spread.slice.service.clone());
        if let Some(of_service) = self.by_service.get_mut(&service) {
            of_service.remove(own);
            if of_service.is_empty() {
                self.by_service.remove(&service);
            }
        }
        for (instance, places) in groups {
            let key = (namespace.clone(), instance.clone());
            if let Some(all) = self.by_instance.get_mut(&key) {
                all.retain(|(other, _)| other.name != *own);
                if all.is_empty() {
                    self.by_instance.remove(&key);
                }
            }
            if !spread.by_hand {
                continue;
            }
            for pod in spread.says(Some(places)).filter_map(|one| one.pod.as_ref()) {
                let pod = (namespace.clone(), pod.clone());
                let Some(of_pod) = self.by_pod.get_mut(&pod) else {
                    continue;
                };
                if let Some(count) = of_pod.get_mut(instance) {
                    *count -= 1;
                    if *count == 0 {
                        of_pod.remove(instance);
                    }
                }
                if of_pod.is_empty() {
                    self.by_pod.remove(&pod);
                }
            }
        }
        self.by_hand.remove(name);
    }
}
