//! The whole mesh at one moment: what people want, and what runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::backend_tls::BackendSecurity;
use super::baseline::Baseline;
use super::cluster::{Limits, OutlierDetection, RetryBudget};
use super::destinations::{Caller, Destinations};
use super::gateway::{Bound, Credential, Gateway, GatewayName};
use super::listener::ProxyVersion;
use super::locality::LocalitySetting;
use super::origination::Origination;
use super::policy::{Injected, Policy};
use super::route::{HashPolicy, Share};
use super::shadow::Comparison;
use super::shared_map::SharedMap;
use super::sidecar::Sidecar;
use super::tracing::Rules;
use super::{Balancing, Hostname, Instance, LoadBalancer, Origin, Route, Service, SpiffeId};

/// Immutable; a change makes a new one that shares what did not change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct World {
    /// What people want.
    pub config: Arc<Config>,
    /// What runs.
    pub instances: Instances,
}

/// What runs, by `(namespace, name)`.
pub type Instances = SharedMap<(String, String), Arc<Instance>>;

/// What runs in `namespace`; nothing else is looked at.
pub fn of_namespace<'a>(
    instances: &'a Instances,
    namespace: &str,
) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
    let first = (namespace.to_owned(), String::new());
    let all = instances.iter_from(&first);
    let own = all.take_while(move |((of, _), _)| *of == first.0);
    own.map(|(_, instance)| instance)
}

/// What people want, with references resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The root of identities, `cluster.local` by default.
    pub trust_domain: String,
    /// By host name.
    pub services: BTreeMap<Hostname, Arc<Service>>,
    /// Routes of the mesh's own hosts; the first match wins. A host without an entry goes to its service.
    pub routes: BTreeMap<Hostname, Arc<HostRoutes>>,
    /// Where callers from outside are taken.
    pub gateways: BTreeMap<GatewayName, Arc<Gateway>>,
    /// What is routed there: the rules of the oldest object first.
    pub bound: BTreeMap<GatewayName, Vec<Arc<Bound>>>,
    /// Gateways whose routes are attached to their servers (Gateway API).
    pub listening: BTreeMap<GatewayName, Arc<Gateway>>,
    /// How gateways speak to ports of services that have a policy of their own.
    pub backend_security: BackendSecurity,
    /// Ports of services that calls of gRPC are routed to at Gateways (GRPCRoute).
    pub grpc: BTreeSet<(Hostname, u16)>,
    /// What gateways can show, by namespace and name of the Secret.
    pub credentials: BTreeMap<(String, String), Arc<Credential>>,
    /// How services are called.
    pub destinations: Destinations,
    /// How services are called where no rule says.
    pub baseline: Baseline,
    /// Who must speak mTLS.
    pub authentication: Authentication,
    /// Policies of the mesh's own kinds, the oldest first.
    pub policies: Vec<Arc<Policy>>,
    /// Faults that are injected for a while, by service.
    pub faults: BTreeMap<Hostname, Arc<Injected>>,
    /// What answers to copies of calls are compared by, by service.
    pub comparisons: BTreeMap<Hostname, Arc<Comparison>>,
    /// What is said of spans.
    pub tracing: Rules,
    /// What is said of access logs.
    pub access_log: super::access_log::rules::Rules,
    /// What is said of metrics.
    pub metrics: super::metrics::Rules,
    /// What happens to calls to hosts outside the mesh.
    pub outbound: OutboundPolicy,
    /// Workloads that somebody wrote down, by `(namespace, name)`.
    pub workloads: BTreeMap<(String, String), Arc<Instance>>,
    /// What some proxies know of all this, in order of age.
    pub sidecars: Vec<Arc<Sidecar>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            services: BTreeMap::new(),
            gateways: BTreeMap::new(),
            bound: BTreeMap::new(),
            listening: BTreeMap::new(),
            backend_security: BackendSecurity::new(),
            grpc: BTreeSet::new(),
            credentials: BTreeMap::new(),
            routes: BTreeMap::new(),
            destinations: Destinations::default(),
            baseline: Baseline::default(),
            authentication: Authentication::default(),
            policies: Vec::new(),
            faults: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            tracing: Rules::default(),
            access_log: super::access_log::rules::Rules::default(),
            metrics: super::metrics::Rules::default(),
            outbound: OutboundPolicy::default(),
            workloads: BTreeMap::new(),
            sidecars: Vec::new(),
        }
    }
}

impl Config {
    /// The rules for calls of `host` from `namespace`: its own, else those of the longest `*.suffix`,
    /// else those of `*`.
    pub fn routes(&self, host: &Hostname, namespace: &str) -> Option<&Arc<HostRoutes>> {
        nearest(&self.routes, host)
            .filter(|routes| routes.export.is_empty() || routes.export.contains(namespace))
    }

    /// How `caller` calls `host`.
    pub fn destination(&self, host: &Hostname, caller: Caller<'_>) -> Option<&Arc<Destination>> {
        let owner = self.services.get(host);
        let owner = owner.map(|service| service.namespace.as_str());
        self.destinations.find(host, owner, caller)
    }

    /// What a service is asked for as a forward proxy when `caller` carries bytes to `subset` of it.
    pub fn tunnel(&self, host: &Hostname, subset: &str, caller: Caller<'_>) -> Option<&Arc<str>> {
        self.destination(host, caller)?.tunnel(subset)
    }

    /// What the targets of `rule` are asked for as forward proxies by `caller`; two of them where they
    /// do not agree.
    pub fn tunnels(
        &self,
        rule: &StreamRule,
        caller: Caller<'_>,
    ) -> Result<Option<&Arc<str>>, Unequal<'_>> {
        let targets = rule.targets.iter().filter(|target| target.weight > 0);
        let mut all = targets.map(|target| self.tunnel(&target.host, &target.subset, caller));
        let first = all.next().flatten();
        match all.find(|other| *other != first) {
            Some(other) => Err((first, other)),
            None => Ok(first),
        }
    }
}

/// What two targets are asked for, each as a forward proxy, or not at all.
pub type Unequal<'a> = (Option<&'a Arc<str>>, Option<&'a Arc<str>>);

fn nearest<'a, T>(of: &'a BTreeMap<Hostname, T>, host: &Hostname) -> Option<&'a T> {
    if let Some(own) = of.get(host) {
        return Some(own);
    }
    // `*.suffix` sorts before every letter, so only wildcards are looked at.
    let wildcards = of
        .iter()
        .take_while(|(name, _)| name.as_str().starts_with('*'));
    wildcards
        .filter(|(name, _)| name.covers(host))
        .max_by_key(|(name, _)| name.as_str().len())
        .map(|(_, value)| value)
}

/// The routes of one host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRoutes {
    /// In order. Clusters in them are named for the port of the request when the destination says none:
    /// see [`RouteTarget`].
    pub rules: Vec<Rule>,
    /// For bytes, in order.
    pub streams: Vec<StreamRule>,
    /// Namespaces whose workloads see them; empty is all.
    pub export: BTreeSet<String>,
    /// The object that they were written in.
    pub origin: Origin,
}

/// One route rule before ports are known.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The route; `action` holds no clusters yet when `targets` is not empty.
    pub route: Route,
    /// Only for requests to this port.
    pub port: Option<u16>,
    /// Weighted destinations; empty for redirects and direct answers.
    pub targets: Vec<RouteTarget>,
    /// Only for callers with these labels (`sourceLabels`), and in this namespace.
    pub source: SourceMatch,
    /// Where copies of requests go.
    pub mirrors: Vec<MirrorTarget>,
    /// A redirect is to the port that was asked for.
    pub redirect_to_port: bool,
}

/// Where copies of requests go.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorTarget {
    /// Where to; its weight says nothing.
    pub target: RouteTarget,
    /// Of how many requests.
    pub share: Share,
}

/// One rule for connections whose bytes nobody reads.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRule {
    /// TLS server names, exact or `*.suffix`, for ports of TLS; none is for bytes of any other kind.
    pub server_names: Vec<String>,
    /// Networks that the caller means; none is the addresses of the service.
    pub destinations: Vec<IpNet>,
    /// Only for connections to this port.
    pub port: Option<u16>,
    /// Only for these callers.
    pub source: SourceMatch,
    /// Weighted destinations.
    pub targets: Vec<RouteTarget>,
    /// Where it was written.
    pub origin: Origin,
}

/// Which callers a rule is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceMatch {
    /// Labels that the caller's workload carries.
    pub labels: BTreeMap<String, String>,
    /// The caller's namespace.
    pub namespace: Option<String>,
    /// Namespaces that see the rule, where those of one host differ; empty is all that see the host.
    pub namespaces: BTreeSet<String>,
}

/// One weighted destination of a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteTarget {
    /// The service.
    pub host: Hostname,
    /// Subset; empty for the whole service.
    pub subset: String,
    /// Service port; `None` is the port of the request, or the only port of the service.
    pub port: Option<u16>,
    /// Share of the sum of weights.
    pub weight: u32,
    /// Header edits for this destination only.
    pub headers: super::route::HeaderEdits,
    /// Why requests that are sent here fail: the reference is broken, and keeps its share of the weight.
    pub invalid: Option<String>,
}

/// How one service is called (DestinationRule).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Destination {
    /// Where it was written, which decides whom it is for.
    pub namespace: String,
    /// Labels of the callers in that namespace that it is for; none: all.
    pub selector: BTreeMap<String, String>,
    /// Namespaces whose callers it is for; empty is all.
    pub export: BTreeSet<String>,
    /// For every subset and port that says nothing else.
    pub policy: TrafficPolicy,
    /// By port.
    pub ports: BTreeMap<u16, TrafficPolicy>,
    /// By name.
    pub subsets: BTreeMap<String, Subset>,
    /// Where it was written.
    pub origin: Origin,
}

impl Destination {
    /// What its policies begin TLS with.
    pub fn originations(&self) -> impl Iterator<Item = &Origination> {
        let subsets = self.subsets.values();
        let own = std::iter::once(&self.policy).chain(self.ports.values());
        let all = own
            .chain(subsets.flat_map(|own| std::iter::once(&own.policy).chain(own.ports.values())));
        all.filter_map(|policy| match &policy.tls {
            Some(TlsPolicy::Originate(how)) => Some(&**how),
            _ => None,
        })
    }

    /// What the service is asked for as a forward proxy by those who carry bytes to `subset`.
    pub fn tunnel(&self, subset: &str) -> Option<&Arc<str>> {
        let subset = self.subsets.get(subset);
        let own = subset.and_then(|subset| subset.policy.tunnel.as_ref());
        own.or(self.policy.tunnel.as_ref())
    }
}

/// Some instances of a service, chosen by labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subset {
    /// Labels that an instance must carry.
    pub labels: BTreeMap<String, String>,
    /// What differs from the service's policy.
    pub policy: TrafficPolicy,
    /// What differs, by port.
    pub ports: BTreeMap<u16, TrafficPolicy>,
}

/// How calls are spread, limited and secured; `None` inherits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficPolicy {
    /// Load balancer.
    pub load_balancer: Option<Box<LoadBalancing>>,
    /// Connections and requests.
    pub connection_pool: Option<ConnectionPool>,
    /// Ejection.
    pub outlier: Option<OutlierDetection>,
    /// Percent of endpoints that must be well, or else all are called (`minHealthPercent`).
    pub panic_threshold: Option<u32>,
    /// TLS towards the endpoints.
    pub tls: Option<TlsPolicy>,
    /// Connections begin with a PROXY header that says who calls.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Retries at once, as a share of the requests.
    pub retry_budget: Option<RetryBudget>,
    /// The service is a forward proxy, which bytes go through to this host and port.
    pub tunnel: Option<Arc<str>>,
}

/// DestinationRule `loadBalancer`, as far as it is honoured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadBalancing {
    /// How an endpoint is chosen.
    pub policy: LoadBalancer,
    /// What the choice goes by beside.
    pub balancing: Balancing,
    /// What of a request is hashed, for the policies that do.
    pub hash: Vec<HashPolicy>,
    /// Calls go to the address that the caller meant.
    pub passthrough: bool,
    /// How localities count.
    pub locality: Option<LocalitySetting>,
}

/// DestinationRule `connectionPool`, as far as it is honoured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConnectionPool {
    /// Circuit breakers.
    pub limits: Limits,
    /// Default 10 s.
    pub connect_timeout: Option<std::time::Duration>,
    /// Whether HTTP/1 requests are carried as HTTP/2.
    pub h2_upgrade: H2Upgrade,
    /// Speak what the caller spoke.
    pub use_client_protocol: bool,
}

/// DestinationRule `h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum H2Upgrade {
    /// Where the peer agrees to it in its TLS handshake, as it is cheaper for both.
    #[default]
    Default,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// DestinationRule `tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsPolicy {
    /// Never.
    Disable,
    /// Always, with the mesh's certificates.
    Mutual {
        /// Server name to send in place of the service's; may be empty.
        sni: String,
        /// Whom the endpoints must be in place of those whose accounts are known; may be none.
        principals: Vec<SpiffeId>,
    },
    /// Always, with others: the endpoints are no peers of the mesh.
    Originate(Box<Origination>),
}

impl TlsPolicy {
    /// Whether it needs a Secret, of the namespace of whoever calls.
    pub fn credential(&self) -> bool {
        match self {
            Self::Originate(how) => how.secrets().next().is_some(),
            Self::Disable | Self::Mutual { .. } => false,
        }
    }
}

/// Who must speak mTLS (PeerAuthentication).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authentication {
    /// For the mesh.
    pub mesh: MtlsMode,
    /// By namespace.
    pub namespaces: BTreeMap<String, MtlsMode>,
    /// By workload; the first whose selector holds.
    pub workloads: Vec<WorkloadAuthentication>,
}

/// mTLS of some workloads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadAuthentication {
    /// Namespace of the workloads.
    pub namespace: String,
    /// Labels that they carry.
    pub selector: BTreeMap<String, String>,
    /// For all ports; `None` inherits from the namespace.
    pub mode: Option<MtlsMode>,
    /// By container port.
    pub ports: BTreeMap<u16, MtlsMode>,
}

/// Whether plaintext is accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Both (Istio's default).
    #[default]
    Permissive,
    /// Only mTLS.
    Strict,
    /// Only plaintext.
    Disable,
}

/// What happens to calls to hosts outside the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OutboundPolicy {
    /// They pass.
    #[default]
    AllowAny,
    /// They are refused.
    RegistryOnly,
}

impl Authentication {
    /// The mode of `port` of a workload with `labels` in `namespace`: the narrowest rule wins.
    pub fn mode(&self, namespace: &str, labels: &BTreeMap<String, String>, port: u16) -> MtlsMode {
        let inherited = self.namespaces.get(namespace).copied().unwrap_or(self.mesh);
        self.workloads
            .iter()
            .find(|rule| rule.namespace == namespace && selects(&rule.selector, labels))
            .map_or(inherited, |rule| {
                rule.ports
                    .get(&port)
                    .copied()
                    .or(rule.mode)
                    .unwrap_or(inherited)
            })
    }
}

/// Whether `labels` carry everything that `selector` asks for. An empty selector chooses all.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
