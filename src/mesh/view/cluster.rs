//! Clusters and endpoints: every port of every service, whole and by subset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::common::Scope;
use super::external;
use super::plan::Standpoint;
use crate::mesh::cluster::{ClientTls, Limits, LocalityBalancing, ServiceRef, UpstreamProtocol};
use crate::mesh::locality::{Called, Place, Ranks, rank};
use crate::mesh::origination::{NameMatch, Named, Origination};
use crate::mesh::service::TargetPort;
use crate::mesh::world::{
    Config, ConnectionPool, Destination, H2Upgrade, MtlsMode, Subset, TlsPolicy, TrafficPolicy,
    selects,
};
use crate::mesh::{
    Assignment, Balancing, Cluster, ClusterKind, Endpoint, Instance, Protocol, Service,
    ServicePort, SpiffeId, WorkloadRef,
};

/// Istio's default.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A service, and what stands behind it.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) service: Arc<Service>,
    pub(super) backends: Vec<Arc<Instance>>,
    /// Who they may be.
    accounts: Vec<SpiffeId>,
}

/// Instances by namespace and name, as they are now; none is gone.
pub(super) type Moved<'a> = BTreeMap<(&'a str, &'a str), Option<Arc<Instance>>>;

impl Parts {
    pub(super) fn new(
        config: &Config,
        service: &Arc<Service>,
        mut backends: Vec<Arc<Instance>>,
    ) -> Self {
        // However it came to these.
        backends.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let domain = &config.trust_domain;
        // Most say the same of themselves.
        let said = backends.iter();
        let said: BTreeSet<(&str, &str)> = said
            .map(|own| (own.namespace.as_str(), own.service_account.as_str()))
            .collect();
        let mut accounts: Vec<SpiffeId> = said
            .into_iter()
            .map(|(namespace, account)| SpiffeId::new(domain, namespace, account))
            .chain(external::accounts(service, domain))
            .collect();
        accounts.sort();
        accounts.dedup();
        Self {
            service: Arc::clone(service),
            backends,
            accounts,
        }
    }

    /// The same after instances became others, or went.
    pub(super) fn with(&self, config: &Config, moved: &Moved<'_>) -> Self {
        let stays = |own: &&Arc<Instance>| {
            !moved.contains_key(&(own.namespace.as_str(), own.name.as_str()))
        };
        let mut backends: Vec<Arc<Instance>> =
            self.backends.iter().filter(stays).cloned().collect();
        let service = &self.service;
        let chosen = moved.values().flatten().filter(|new| {
            new.namespace == service.namespace && selects(&service.selector, &new.labels)
        });
        backends.extend(chosen.cloned());
        Self::new(config, service, backends)
    }

    pub(super) fn add_for(&self, config: &Config, standpoint: &Standpoint, into: &mut Scope) {
        let rule = config.destination(&self.service.host, standpoint.caller());
        let rule = rule.map(|rule| &**rule);
        self.add(config, rule, (standpoint.place(), standpoint.gateway), into);
    }

    /// Every name that its clusters have for some caller.
    pub(super) fn names(&self, config: &Config) -> Vec<Arc<str>> {
        let host = &self.service.host;
        let rules = config.destinations.around(host);
        let named = rules.flat_map(|rule| rule.subsets.keys());
        let subsets: BTreeSet<&str> = named.map(String::as_str).chain([""]).collect();
        let ports = self.service.ports.iter();
        ports
            .flat_map(|port| {
                let named = subsets.iter();
                named.map(|subset| Cluster::outbound_name(port.port, subset, host).into())
            })
            .collect()
    }

    /// Adds its clusters as `rule` has them for callers at `place`, which may be gateways.
    pub(super) fn add(
        &self,
        config: &Config,
        rule: Option<&Destination>,
        (place, gateway): (Place<'_>, bool),
        into: &mut Scope,
    ) {
        let call = (rule, place, gateway);
        for port in &self.service.ports {
            if port.protocol == Protocol::Udp {
                continue;
            }
            self.add_cluster(config, port, ("", None), call, into);
            for (name, subset) in rule.iter().flat_map(|rule| &rule.subsets) {
                self.add_cluster(config, port, (name, Some(subset)), call, into);
            }
        }
    }

    fn add_cluster(
        &self,
        config: &Config,
        port: &ServicePort,
        (name, subset): (&str, Option<&Subset>),
        (rule, place, gateway): (Option<&Destination>, Place<'_>, bool),
        into: &mut Scope,
    ) {
        let policy = rule
            .map(|rule| effective(rule, subset, port.port))
            .unwrap_or_default();
        let mut policy = config.baseline.under(&self.service, policy);
        // Without a choice of workloads a Secret is for gateways alone: `super::credentials`.
        if rule.is_some_and(|rule| rule.selector.is_empty())
            && policy.tls.as_ref().is_some_and(TlsPolicy::credential)
        {
            policy.tls = Some(TlsPolicy::Disable);
        }
        let labels = subset.map(|subset| &subset.labels);
        let mut cluster = cluster(&self.service, port, name, &policy, &self.accounts);
        let pool = policy.connection_pool.as_ref();
        let asked = pool.is_some_and(|pool| pool.use_client_protocol);
        if gateway && port.protocol == Protocol::Auto && !asked {
            cluster.protocol = unnamed(config, (&self.service, port), cluster.protocol);
        }
        let called = Called {
            policy: &policy,
            distribution: self.service.distribution,
        };
        let ranking = Ranking { called, place };
        let assignment = if let Some(outside) = &self.service.external {
            external::place(&mut cluster, outside, port, (labels, ranking))
        } else {
            let members = self
                .backends
                .iter()
                .filter(|instance| labels.is_none_or(|l| selects(l, &instance.labels)))
                .filter_map(|instance| {
                    let endpoint = endpoint(config, instance, port)?;
                    Some((endpoint, &instance.labels))
                });
            let discovered = cluster.kind == ClusterKind::Discovered;
            discovered.then(|| ranking.assign(members.collect()))
        };
        let name: Arc<str> = cluster.name.as_str().into();
        into.endpoints
            .extend(assignment.map(|endpoints| (Arc::clone(&name), Arc::new(endpoints))));
        into.clusters.insert(name, Arc::new(cluster));
    }
}

/// How endpoints are ranked for a caller.
#[derive(Clone, Copy)]
pub(super) struct Ranking<'a> {
    called: Called<'a>,
    place: Place<'a>,
}

impl Ranking<'_> {
    /// The endpoints that get something, each with the labels of its workload, in their ranks.
    pub(super) fn assign(&self, members: Vec<(Endpoint, &BTreeMap<String, String>)>) -> Assignment {
        let Ranks {
            priorities,
            weights,
        } = self.ranks(members.iter().map(|(endpoint, labels)| (endpoint, *labels)));
        let ranked = members.into_iter().zip(priorities);
        let endpoints = ranked.filter_map(|((endpoint, _), priority)| {
            Some(Endpoint {
                priority: priority?,
                ..endpoint
            })
        });
        Assignment {
            locality_weights: weights,
            ..Assignment::new(endpoints.collect())
        }
    }

    pub(super) fn ranks<'b>(
        &self,
        members: impl Iterator<Item = (&'b Endpoint, &'b BTreeMap<String, String>)>,
    ) -> Ranks {
        let members: Vec<(Place<'b>, u32)> = members
            .map(|(endpoint, labels)| {
                let locality = &endpoint.locality;
                (Place { locality, labels }, endpoint.weight)
            })
            .collect();
        rank(self.called, self.place, &members)
    }
}

fn endpoint(config: &Config, instance: &Instance, of: &ServicePort) -> Option<Endpoint> {
    let port = match (instance.service_ports.get(&of.name), &of.target) {
        (Some(own), _) => *own,
        (None, TargetPort::Number(port)) => *port,
        (None, TargetPort::Name(name)) => *instance.port_names.get(name)?,
    };
    let mode = config
        .authentication
        .mode(&instance.namespace, &instance.labels, port);
    Some(Endpoint {
        priority: 0,
        locality: instance.locality.clone(),
        address: instance.reach(port),
        weight: instance.weight.max(1),
        health: instance.health,
        mtls: instance.mtls && mode != MtlsMode::Disable,
        additional: instance.also_reach(port),
        workload: WorkloadRef {
            instance: instance.name.clone(),
            workload: instance.workload.clone(),
            namespace: instance.namespace.clone(),
            service: instance.canonical_service().to_owned(),
            version: instance.canonical_revision().to_owned(),
        },
        health_check: None,
    })
}

fn cluster(
    service: &Service,
    port: &ServicePort,
    subset: &str,
    policy: &TrafficPolicy,
    accounts: &[SpiffeId],
) -> Cluster {
    let called = Called {
        policy,
        distribution: service.distribution,
    };
    let pool = policy.connection_pool.clone().unwrap_or_default();
    let balancer = *policy.load_balancer.clone().unwrap_or_default();
    let tls = |sni: &str, principals: &[SpiffeId], required| ClientTls {
        sni: if sni.is_empty() {
            Cluster::server_name(port.port, subset, &service.host)
        } else {
            sni.to_owned()
        },
        principals: if principals.is_empty() {
            accounts.to_vec()
        } else {
            principals.to_vec()
        },
        required,
    };
    // Outside the mesh nobody has a certificate of it.
    let outside = service
        .external
        .as_ref()
        .filter(|outside| !outside.internal);
    let secured = policy.tls.clone().or(outside.map(|_| TlsPolicy::Disable));
    Cluster {
        name: Cluster::outbound_name(port.port, subset, &service.host),
        kind: if balancer.passthrough {
            ClusterKind::OriginalDestination
        } else {
            ClusterKind::Discovered
        },
        service: Some(ServiceRef {
            host: service.host.clone(),
            name: service.name.clone(),
            namespace: service.namespace.clone(),
            port: port.port,
            subset: subset.to_owned(),
        }),
        load_balancer: balancer.policy,
        balancing: Balancing {
            panic_threshold: policy.panic_threshold.unwrap_or_default(),
            locality: if called.is_weighted() {
                LocalityBalancing::Weighted
            } else {
                LocalityBalancing::None
            },
            ..balancer.balancing
        },
        protocol: upstream(port.protocol, &pool, secured.as_ref()),
        tls: match &secured {
            Some(TlsPolicy::Disable | TlsPolicy::Originate(_)) => None,
            Some(TlsPolicy::Mutual { sni, principals }) => Some(tls(sni, principals, true)),
            None => Some(tls("", &[], false)),
        },
        origination: match secured {
            Some(TlsPolicy::Originate(how)) => Some(originate(*how, service)),
            _ => None,
        },
        connect_timeout: pool.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
        limits: Limits {
            retry_budget: policy.retry_budget,
            ..pool.limits
        },
        outlier: policy.outlier.clone(),
        proxy_protocol: policy.proxy_protocol,
        ..Cluster::default()
    }
}

/// The names that an entry gives its hosts count where the rule gives none.
pub(super) fn originate(mut how: Origination, service: &Service) -> Box<Origination> {
    let known = service.external.iter().flat_map(|own| &own.names);
    let known: Vec<NameMatch> = known.cloned().map(NameMatch::Exact).collect();
    if let Some(verify) = &mut how.verify
        && !known.is_empty()
    {
        match &mut verify.names {
            Named::Any(names) if !names.is_empty() => {}
            names => *names = Named::Any(known),
        }
    }
    Box::new(how)
}

/// What a gateway speaks to a port that does not say what it speaks: HTTP/1.1, whatever the caller
/// speaks (as Istio's gateways), unless calls of gRPC are routed there.
fn unnamed(
    config: &Config,
    (service, port): (&Service, &ServicePort),
    otherwise: UpstreamProtocol,
) -> UpstreamProtocol {
    let calls = config.grpc.contains(&(service.host.clone(), port.port));
    match otherwise {
        UpstreamProtocol::Downstream if calls => UpstreamProtocol::Http2,
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        said => said,
    }
}

fn upstream(
    protocol: Protocol,
    pool: &ConnectionPool,
    tls: Option<&TlsPolicy>,
) -> UpstreamProtocol {
    match (protocol, pool.h2_upgrade) {
        (Protocol::Http2 | Protocol::Grpc | Protocol::GrpcWeb, _) => UpstreamProtocol::Http2,
        _ if pool.use_client_protocol => UpstreamProtocol::Downstream,
        (_, H2Upgrade::Always) => UpstreamProtocol::Http2,
        (Protocol::Auto, _) => UpstreamProtocol::Downstream,
        (Protocol::Http, H2Upgrade::Default)
            if matches!(tls, None | Some(TlsPolicy::Mutual { .. })) =>
        {
            UpstreamProtocol::Negotiated
        }
        _ => UpstreamProtocol::Http1,
    }
}

/// Istio's inheritance: a subset overrides the service group by group; settings of a port take the
/// place of all groups of their level that ports can have.
pub(super) fn effective(
    destination: &Destination,
    subset: Option<&Subset>,
    port: u16,
) -> TrafficPolicy {
    let all = &destination.policy;
    let mut base = destination.ports.get(&port).unwrap_or(all).clone();
    base.proxy_protocol = all.proxy_protocol;
    base.retry_budget = all.retry_budget;
    // Of chains, not of clusters: `Destination::tunnel`.
    base.tunnel = None;
    let Some(subset) = subset else { return base };
    let own = subset.policy.clone();
    let proxy_protocol = own.proxy_protocol.or(base.proxy_protocol);
    let retry_budget = own.retry_budget.or(base.retry_budget);
    if let Some(own) = subset.ports.get(&port) {
        return TrafficPolicy {
            proxy_protocol,
            retry_budget,
            ..own.clone()
        };
    }
    TrafficPolicy {
        load_balancer: own.load_balancer.or(base.load_balancer),
        connection_pool: own.connection_pool.or(base.connection_pool),
        // One group of Istio's: whose outlier detection it is, theirs is the threshold.
        panic_threshold: match &own.outlier {
            Some(_) => own.panic_threshold,
            None => base.panic_threshold,
        },
        outlier: own.outlier.or(base.outlier),
        tls: own.tls.or(base.tls),
        proxy_protocol,
        retry_budget,
        tunnel: None,
    }
}
