//! Clusters and endpoints.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{duration, health, positive, socket, text, word};
use crate::mesh::balancing::{
    Balancing, HashFunction, LocalityBalancing, RingHash, SlowStart, ZoneAware,
};
use crate::mesh::cluster::{ClientTls, Limits, RetryBudget, ServiceRef, Thresholds};
use crate::mesh::dns::{Family, Lookup, Names, Target};
use crate::mesh::listener::ProxyVersion;
use crate::mesh::{
    Assignment, Cluster, ClusterKind, DropOverload, Endpoint, Health, Hostname, LoadBalancer,
    Locality, LocalityWeight, SpiffeId, WorkloadRef,
};

/// A policy with parameters of its own.
fn balancing() -> impl Strategy<Value = (LoadBalancer, Balancing)> {
    let slow = (positive(), 1..5_000_u32, 0..=100_u32).prop_map(
        |(window, aggression, min_weight_percent)| SlowStart {
            window,
            aggression,
            min_weight_percent,
        },
    );
    let zones = (0..20_u64, any::<bool>()).prop_map(|(min_cluster_size, fail_on_panic)| {
        LocalityBalancing::ZoneAware(ZoneAware {
            min_cluster_size,
            fail_on_panic,
        })
    });
    let locality = prop_oneof![
        2 => Just(LocalityBalancing::None),
        1 => Just(LocalityBalancing::Weighted),
        1 => zones,
    ];
    let ring = (0..5_000_u64, 5_000..=RingHash::LARGEST, any::<bool>()).prop_map(
        |(min_size, max_size, xx)| RingHash {
            min_size,
            max_size,
            function: if xx {
                HashFunction::Xx
            } else {
                HashFunction::Murmur2
            },
        },
    );
    let factor = prop_oneof![Just(0), 100..1000_u32];
    (
        (select(&LoadBalancer::ALL[..]), 0..=100_u32, locality),
        (
            2..10_u32,
            any::<bool>(),
            0..3_000_u32,
            duration(),
            option::of(slow),
        ),
        (ring, select(vec![7_u32, 65_537, 5_000_011]), factor),
    )
        .prop_map(
            |(
                (balancer, panic_threshold, locality),
                (choices, full_scan, request_bias, decay, slow_start),
                (ring, table_size, balance_factor),
            )| {
                let mut balancing = Balancing {
                    locality,
                    panic_threshold,
                    ..Balancing::default()
                };
                match balancer {
                    LoadBalancer::RoundRobin => balancing.slow_start = slow_start,
                    LoadBalancer::LeastRequest => {
                        balancing.choices = choices;
                        balancing.full_scan = full_scan;
                        balancing.request_bias = request_bias;
                        balancing.slow_start = slow_start;
                    }
                    LoadBalancer::Random => {}
                    LoadBalancer::PeakEwma => {
                        balancing.decay = decay;
                        if locality != LocalityBalancing::Weighted {
                            balancing.locality = LocalityBalancing::None;
                        }
                    }
                    LoadBalancer::RingHash | LoadBalancer::Maglev => {
                        balancing.balance_factor = balance_factor;
                        if balancer == LoadBalancer::Maglev {
                            balancing.table_size = table_size;
                        } else {
                            balancing.ring = ring;
                        }
                    }
                }
                (balancer, balancing)
            },
        )
}

pub(super) fn cluster() -> impl Strategy<Value = Cluster> {
    let service =
        (word(), word(), any::<u16>(), text()).prop_map(|(name, namespace, port, subset)| {
            ServiceRef {
                host: Hostname::service(
                    name.trim_end_matches('-'),
                    namespace.trim_end_matches('-'),
                ),
                name,
                namespace,
                port,
                subset,
            }
        });
    let tls = (
        text(),
        vec(
            (word(), word(), word()).prop_map(|(td, ns, sa)| SpiffeId::new(&td, &ns, &sa)),
            0..3,
        ),
        any::<bool>(),
    )
        .prop_map(|(sni, principals, required)| ClientTls {
            sni,
            principals,
            required,
        });
    let secured = prop_oneof![
        Just((None, None)),
        tls.prop_map(|tls| (Some(tls), None)),
        super::origination::origination().prop_map(|how| (None, Some(Box::new(how)))),
    ];
    let budget =
        || {
            option::of((0..=100_000_u32, any::<u32>()).prop_map(
                |(percent_milli, min_concurrency)| RetryBudget {
                    percent_milli,
                    min_concurrency,
                },
            ))
        };
    let high = (any::<[u32; 4]>(), budget()).prop_map(|([a, b, c, d], retry_budget)| Thresholds {
        max_connections: a,
        max_pending_requests: b,
        max_requests: c,
        max_retries: d,
        retry_budget,
    });
    let limits = (any::<[u32; 6]>(), budget(), option::of(high), any::<bool>()).prop_map(
        |([a, b, c, d, e, f], retry_budget, high, track_remaining)| Limits {
            max_connections: a,
            max_pending_requests: b,
            max_requests: c,
            max_retries: d,
            max_requests_per_connection: e,
            max_connections_per_endpoint: f,
            retry_budget,
            high,
            track_remaining,
        },
    );
    let kind = prop_oneof![
        2 => Just(ClusterKind::Discovered),
        1 => vec(socket(), 0..3).prop_map(ClusterKind::Static),
        1 => Just(ClusterKind::OriginalDestination),
        1 => names().prop_map(|names| ClusterKind::Dns(Box::new(names))),
    ];
    (
        prop_oneof![
            word(),
            Just("outbound|9080|v1|reviews.default.svc.cluster.local".to_owned())
        ],
        kind,
        option::of(service),
        balancing(),
        super::http2::upstream(),
        secured,
        duration(),
        limits,
        option::of(health::outlier()),
        option::of(health::check()),
        option::of(select(vec![ProxyVersion::V1, ProxyVersion::V2])),
    )
        .prop_map(
            |(
                name,
                kind,
                service,
                (load_balancer, mut balancing),
                (protocol, http2),
                (tls, origination),
                connect_timeout,
                limits,
                outlier,
                health_check,
                proxy_protocol,
            )| {
                if kind == ClusterKind::OriginalDestination {
                    balancing = Balancing::default();
                }
                Cluster {
                    name,
                    kind,
                    service,
                    load_balancer,
                    balancing,
                    protocol,
                    http2,
                    tls,
                    origination,
                    connect_timeout,
                    limits,
                    outlier,
                    proxy_protocol,
                    health_check,
                }
            },
        )
}

/// Endpoints that are names; several only where each address is an endpoint.
fn names() -> impl Strategy<Value = Names> {
    let family = select(vec![
        Family::Auto,
        Family::V4Only,
        Family::V6Only,
        Family::V4Preferred,
        Family::All,
    ]);
    let tick = || positive().prop_map(|pause| pause.max(Duration::from_millis(1)));
    let failed = (tick(), 1..5_u32).prop_map(|(base, times)| (base, base * times));
    let lookup = (
        family,
        tick(),
        option::of(failed),
        any::<bool>(),
        duration(),
    )
        .prop_map(|(family, refresh, failed, respect_ttl, jitter)| Lookup {
            family,
            refresh,
            failed,
            respect_ttl,
            jitter,
        });
    (any::<bool>(), lookup, assignment()).prop_map(|(logical, lookup, mut rest)| {
        let targets: Vec<Target> = std::mem::take(&mut rest.endpoints)
            .into_iter()
            .enumerate()
            .map(|(at, mut endpoint)| {
                endpoint.address.set_ip(Target::NOWHERE);
                endpoint.additional.clear();
                Target {
                    host: format!("host-{at}.example"),
                    endpoint,
                }
            })
            .collect();
        Names {
            logical: logical && targets.len() == 1,
            lookup,
            targets,
            rest,
        }
    })
}

pub(super) fn assignment() -> impl Strategy<Value = Assignment> {
    let locality = (text(), text(), text()).prop_map(|(region, zone, subzone)| Locality {
        region,
        zone,
        subzone,
    });
    let workload = prop_oneof![
        Just(WorkloadRef::default()),
        (word(), word(), word(), word(), word()).prop_map(
            |(instance, workload, namespace, service, version)| WorkloadRef {
                instance,
                workload,
                namespace,
                service,
                version,
            }
        ),
    ];
    let endpoint = (
        0..4_u32,
        prop_oneof![Just(Locality::default()), locality],
        socket(),
        1..1000_u32,
        select(vec![
            Health::Healthy,
            Health::Unhealthy,
            Health::Degraded,
            Health::Draining,
        ]),
        any::<bool>(),
        vec(socket(), 0..2),
        workload,
        prop_oneof![3 => Just(None), 1 => health::endpoint()],
    )
        .prop_map(
            |(
                priority,
                locality,
                address,
                weight,
                health,
                mtls,
                additional,
                workload,
                health_check,
            )| Endpoint {
                priority,
                locality,
                address,
                weight,
                health,
                mtls,
                additional,
                workload,
                health_check,
            },
        );
    let drop = (word(), 0..=1_000_000_u32).prop_map(|(category, per_million)| DropOverload {
        category,
        per_million,
    });
    (
        vec(endpoint, 0..6),
        prop_oneof![Just(140_u32), any::<u32>()],
        any::<bool>(),
        vec(option::of(any::<u16>()), 6),
        vec(drop, 0..2),
    )
        .prop_map(
            |(endpoints, overprovisioning, weighted_health, weights, drops)| {
                let assignment = Assignment::new(endpoints);
                let places = assignment
                    .endpoints
                    .chunk_by(|a, b| (a.priority, &a.locality) == (b.priority, &b.locality));
                let locality_weights = places
                    .zip(weights)
                    .filter_map(|(members, weight)| {
                        let weight = u32::from(weight?);
                        let sum: u32 = members.iter().map(|endpoint| endpoint.weight).sum();
                        (weight != sum).then(|| LocalityWeight {
                            priority: members[0].priority,
                            locality: members[0].locality.clone(),
                            weight,
                        })
                    })
                    .collect();
                Assignment {
                    overprovisioning,
                    weighted_health,
                    locality_weights,
                    drops,
                    ..assignment
                }
            },
        )
}
