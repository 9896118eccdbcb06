//! What a proven identity may say of itself.
//!
//! A certificate proves a namespace and a service account, and nothing else. A name, a workload, labels and
//! being a gateway are claims, and some of them give a right: a place behind a service, what is told to
//! another's instance, the Secrets that gateways hold. So each is held against what somebody else said:
//!
//! | claim | who must have said it |
//! |---|---|
//! | namespace, account | the certificate |
//! | the name of an instance | nobody else's account has it |
//! | a workload | its WorkloadGroup, if there is one, names the account |
//! | labels that a Service chooses | workloads that are written down, or run in the cluster, under the account; else no other account runs it |
//! | labels that a Gateway chooses | workloads as above, or a token for the gateway; without either nobody |
//! | labels that a rule with a Secret chooses | as for a Gateway |
//!
//! What registers itself is never a witness for a right to a Secret. Pure: what is written and who was given a
//! token are arguments.

mod counted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use self::counted::{Counted, Running};

use crate::mesh::gateway::Gateway;
use crate::mesh::world::{of_namespace, selects};
use crate::mesh::{Hostname, Instance, Node, NodeKind, SpiffeId, World};
use crate::resource::kube::PodTemplate;
use crate::resource::{Kind, Object};

/// Somebody said so: workloads with these labels run under this account.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Workload {
    account: String,
    labels: BTreeMap<String, String>,
}

/// A label of a namespace.
type Pair = (String, String, String);

/// What is written down or runs in the cluster, by a label of it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Attested {
    written: Arc<Written>,
    running: Running,
}

/// What is written down.
#[derive(Debug, Default)]
struct Written {
    workloads: BTreeMap<Pair, BTreeSet<Arc<Workload>>>,
    services: BTreeMap<Pair, Vec<Hostname>>,
    /// Accounts of WorkloadGroups by namespace and name.
    groups: BTreeMap<(String, String), String>,
}

/// Names of gateways that tokens were made for, of one account.
pub type Granted = BTreeSet<String>;

/// Who claims something.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// Namespace, which is proven.
    pub namespace: &'a str,
    /// Service account, which is proven.
    pub account: &'a str,
    /// The name of its instance.
    pub name: &'a str,
    /// What it says that it is part of.
    pub workload: &'a str,
    /// What it says of itself.
    pub labels: &'a BTreeMap<String, String>,
}

impl<'a> From<&'a Instance> for Claim<'a> {
    fn from(instance: &'a Instance) -> Self {
        Self {
            namespace: &instance.namespace,
            account: &instance.service_account,
            name: &instance.name,
            workload: &instance.workload,
            labels: &instance.labels,
        }
    }
}

/// What a client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All that is for what it says it is.
    Everything,
    /// The same without Secrets, and why.
    NoSecrets(String),
    /// Nothing, and why.
    Nothing(Refused),
}

/// Why a claim is refused, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The claim and what speaks against it.
    pub reason: String,
    /// What a person can do.
    pub hint: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.hint)
    }
}

impl Written {
    fn add(&mut self, namespace: &str, (labels, account): (&BTreeMap<String, String>, &str)) {
        let workload = Arc::new(Workload {
            labels: labels.clone(),
            account: account.to_owned(),
        });
        for pair in workload.pairs(namespace) {
            let known = self.workloads.entry(pair).or_default();
            known.insert(Arc::clone(&workload));
        }
    }
}

impl Workload {
    /// Its labels, each as one of its namespace.
    fn pairs(&self, namespace: &str) -> impl Iterator<Item = Pair> {
        let labels = self.labels.iter();
        labels.map(|(key, value)| (namespace.to_owned(), key.clone(), value.clone()))
    }
}

impl Attested {
    /// What `written` and what is `running` in the cluster say, of the services of `world`.
    pub(super) fn new<'a>(
        written: impl Iterator<Item = &'a Object>,
        running: &Running,
        world: &World,
    ) -> Self {
        let mut made = Written::default();
        for object in written {
            let namespace = &object.metadata.namespace;
            match &object.body {
                Kind::Pod(pod) => made.add(namespace, account_of(&pod.template)),
                Kind::Workload(workload) => made.add(namespace, account_of(&workload.template)),
                Kind::WorkloadGroup(group) if !group.about.account.is_empty() => {
                    made.add(namespace, (&group.about.labels, &group.about.account));
                    let key = (namespace.clone(), object.metadata.name.clone());
                    made.groups.insert(key, group.about.account.clone());
                }
                _ => {}
            }
        }
        for (host, service) in &world.config.services {
            // Whoever carries all labels carries the first.
            if let Some((key, value)) = service.selector.first_key_value() {
                let pair = (service.namespace.clone(), key.clone(), value.clone());
                made.services.entry(pair).or_default().push(host.clone());
            }
        }
        Self {
            written: Arc::new(made),
            running: running.clone(),
        }
    }

    /// The same, with what is `running` in the cluster now.
    pub(super) fn with(&self, running: &Running) -> Self {
        Self {
            written: Arc::clone(&self.written),
            running: running.clone(),
        }
    }

    /// Accounts that the workloads which `selector` chooses run under.
    fn accounts(&self, namespace: &str, selector: &BTreeMap<String, String>) -> BTreeSet<&str> {
        let Some((key, value)) = selector.first_key_value() else {
            return BTreeSet::new();
        };
        let pair = (namespace.to_owned(), key.clone(), value.clone());
        let written = self.written.workloads.get(&pair).into_iter().flatten();
        written
            .chain(self.running.with(&pair))
            .filter(|workload| selects(selector, &workload.labels))
            .map(|workload| workload.account.as_str())
            .collect()
    }

    /// Why `claim` does not hold: the name or the workload is another account's, or the labels put it behind
    /// a service that others run.
    pub fn refuses(&self, world: &World, claim: &Claim<'_>) -> Option<Refused> {
        let named = (claim.namespace.to_owned(), claim.name.to_owned());
        if let Some(other) = world.instances.get(&named)
            && other.service_account != claim.account
        {
            return Some(Refused {
                reason: format!(
                    "instance {}.{} is of account {}, not of {}",
                    claim.name, claim.namespace, other.service_account, claim.account
                ),
                hint: "give the proxy another --name, or join as that account".to_owned(),
            });
        }
        let group = (claim.namespace.to_owned(), claim.workload.to_owned());
        if let Some(account) = self.written.groups.get(&group)
            && account != claim.account
        {
            return Some(Refused {
                reason: format!(
                    "workload {}.{} runs as account {account}, not as {}",
                    claim.workload, claim.namespace, claim.account
                ),
                hint: format!("join with --service-account {account}"),
            });
        }
        for (key, value) in claim.labels {
            let pair = (claim.namespace.to_owned(), key.clone(), value.clone());
            for host in self.written.services.get(&pair).into_iter().flatten() {
                let Some(service) = world.config.services.get(host) else {
                    continue;
                };
                if !selects(&service.selector, claim.labels) {
                    continue;
                }
                let mut accounts = self.accounts(claim.namespace, &service.selector);
                let mut written = true;
                if accounts.is_empty() {
                    written = false;
                    accounts = running(world, claim, &service.selector);
                }
                if accounts.is_empty() || accounts.contains(claim.account) {
                    continue;
                }
                let accounts: Vec<&str> = accounts.into_iter().collect();
                let accounts = accounts.join(", ");
                let account = claim.account;
                return Some(Refused {
                    reason: format!(
                        "service {}.{} is run by account {accounts}, not by {account}",
                        service.name, service.namespace
                    ),
                    hint: if written {
                        format!(
                            "join as its account, choose another --service, or apply a workload of the service with serviceAccountName: {account}"
                        )
                    } else {
                        format!(
                            "join as its account, choose another --service, or apply a WorkloadGroup with its labels for each account, {account} too"
                        )
                    },
                });
            }
        }
        None
    }

    /// What `node`, of the proven identity `id`, may have of `world`. `granted` are the gateways that a
    /// token was made for.
    pub fn judge(&self, world: &World, node: &Node, id: &SpiffeId, granted: &Granted) -> Verdict {
        let claim = Claim {
            namespace: &id.namespace,
            account: &id.service_account,
            name: &node.name,
            workload: &node.workload,
            labels: &node.labels,
        };
        if let Some(refused) = self.refuses(world, &claim) {
            return Verdict::Nothing(refused);
        }
        let config = &*world.config;
        let mut serves = false;
        if node.kind == NodeKind::Gateway {
            for gateway in config.gateways.values().chain(config.listening.values()) {
                if !gateway.is_served_by(&node.namespace, &node.labels) {
                    continue;
                }
                serves = true;
                if !self.may_serve(gateway, &claim, granted) {
                    return Verdict::Nothing(stranger(gateway, &claim));
                }
            }
        }
        let chosen = config.destinations.credentialed().iter();
        let mut chosen =
            chosen.filter(|rule| !rule.selector.is_empty() && rule.is_for(node.into()));
        let stranger = chosen.find(|rule| {
            let accounts = self.accounts(claim.namespace, &rule.selector);
            !accounts.contains(claim.account)
        });
        if let Some(rule) = stranger {
            return Verdict::NoSecrets(format!(
                "nothing says that account {} runs the workloads that a DestinationRule of namespace {} chooses, so its Secret is not given out; apply a WorkloadGroup with these labels and that account",
                claim.account, rule.namespace
            ));
        }
        // Being a gateway is a claim too, which gives what rules tell all gateways.
        if node.kind == NodeKind::Gateway && !serves && granted.is_empty() {
            return Verdict::NoSecrets(format!(
                "no Gateway is served by proxy {}.{}, so it is given no Secrets",
                claim.name, claim.namespace
            ));
        }
        Verdict::Everything
    }

    fn may_serve(&self, gateway: &Gateway, claim: &Claim<'_>, granted: &Granted) -> bool {
        let by_token = |name: &String| {
            let own = (claim.namespace == gateway.namespace) && *name == gateway.name;
            own || gateway.selector.is_empty() || selects(&gateway.selector, &labels_of(name))
        };
        if granted.iter().any(by_token) {
            return true;
        }
        if !gateway.selector.is_empty() {
            let accounts = self.accounts(claim.namespace, &gateway.selector);
            return accounts.contains(claim.account);
        }
        // A Gateway for all gateway proxies: for what is written down as one.
        GATEWAY_LABELS.iter().any(|label| {
            let own = claim.labels.get_key_value(*label);
            own.is_some_and(|(key, value)| {
                let only = BTreeMap::from([(key.clone(), value.clone())]);
                self.accounts(claim.namespace, &only)
                    .contains(claim.account)
            })
        })
    }
}

/// Labels by which a workload says that it is a gateway: Istio's, and those of the Gateway API.
const GATEWAY_LABELS: [&str; 2] = ["istio", "gateway.networking.k8s.io/gateway-name"];

/// The labels of a proxy of gateway `name`, as `meshctl proxy --gateway NAME` carries them.
pub fn labels_of(name: &str) -> BTreeMap<String, String> {
    let short = name.strip_prefix("istio-").unwrap_or(name);
    let [istio, api] = GATEWAY_LABELS;
    [(istio, short), (api, name), ("app", name)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn stranger(gateway: &Gateway, claim: &Claim<'_>) -> Refused {
    let labels: Vec<String> = gateway
        .selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let by = match labels.join(",") {
        labels if labels.is_empty() => "as every gateway does".to_owned(),
        labels => format!("by its labels {labels}"),
    };
    Refused {
        reason: format!(
            "proxy {}.{} claims Gateway {}.{} {by}, but nothing says that account {} serves it",
            claim.name, claim.namespace, gateway.name, gateway.namespace, claim.account
        ),
        hint: format!(
            "join with a token from `meshctl token create --namespace {} --gateway {}`, or apply a workload with these labels and serviceAccountName: {}",
            claim.namespace, gateway.name, claim.account
        ),
    }
}

/// Accounts that run what `selector` chooses beside the instance of `claim`. Account `default` stands for
/// whoever was given no other, and holds nothing.
fn running<'a>(
    world: &'a World,
    claim: &Claim<'_>,
    selector: &BTreeMap<String, String>,
) -> BTreeSet<&'a str> {
    of_namespace(&world.instances, claim.namespace)
        .filter(|other| other.name != claim.name)
        .filter(|other| other.service_account != "default" && selects(selector, &other.labels))
        .map(|other| other.service_account.as_str())
        .collect()
}

/// Whether workload `name` runs under other accounts only.
pub(super) fn is_anothers(world: &World, id: &SpiffeId, name: &str) -> bool {
    let mut accounts = of_namespace(&world.instances, &id.namespace)
        .filter(|one| one.workload == name)
        .map(|one| one.service_account.as_str())
        .peekable();
    accounts.peek().is_some() && !accounts.any(|account| account == id.service_account)
}

/// Labels and account of a pod.
fn account_of(template: &PodTemplate) -> (&BTreeMap<String, String>, &str) {
    let account = match template.spec.service_account.as_str() {
        "" => "default",
        account => account,
    };
    (&template.labels, account)
}

#[cfg(test)]
mod tests;
