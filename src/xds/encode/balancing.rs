//! How endpoints are chosen.

use super::super::pb::{
    Any, PeakEwma, Percent, UInt64Value, any, cluster, core, duration, lb, u32_value,
};
use crate::mesh::balancing::{
    Balancing, HashFunction, LocalityBalancing, RingHash, SlowStart, ZoneAware,
};
use crate::mesh::session::SessionHealth;
use crate::mesh::{Client, Cluster, ClusterKind, Health, LoadBalancer};
use cluster::cluster as of;
use of::LbConfig;
use of::common_lb_config as common;

/// Fills in the policy and its parameters; those that are Envoy's defaults say nothing.
pub(super) fn add(from: &Cluster, client: Client, to: &mut cluster::Cluster) {
    if from.kind == ClusterKind::OriginalDestination {
        to.lb_policy = of::LbPolicy::ClusterProvided.into();
        to.common_lb_config = common(&Balancing::default(), client);
        return;
    }
    let balancing = &from.balancing;
    to.lb_policy = match from.load_balancer {
        LoadBalancer::RoundRobin => of::LbPolicy::RoundRobin,
        LoadBalancer::LeastRequest => of::LbPolicy::LeastRequest,
        LoadBalancer::Random => of::LbPolicy::Random,
        LoadBalancer::PeakEwma => of::LbPolicy::LoadBalancingPolicyConfig,
        LoadBalancer::RingHash => of::LbPolicy::RingHash,
        LoadBalancer::Maglev => of::LbPolicy::Maglev,
    }
    .into();
    to.lb_config = config(from.load_balancer, balancing);
    to.load_balancing_policy = extension(from.load_balancer, balancing, client);
    // Envoy refuses clusters that say it in both forms.
    let said = match to.load_balancing_policy {
        None => balancing.clone(),
        Some(_) => Balancing {
            panic_threshold: balancing.panic_threshold,
            session_health: balancing.session_health.clone(),
            ..Balancing::default()
        },
    };
    to.common_lb_config = common(&said, client);
}

fn config(balancer: LoadBalancer, balancing: &Balancing) -> Option<LbConfig> {
    let slow = balancing.slow_start.as_ref().map(slow_start);
    match balancer {
        LoadBalancer::RoundRobin => slow.map(|slow| {
            LbConfig::RoundRobinLbConfig(of::RoundRobinLbConfig {
                slow_start_config: Some(slow),
            })
        }),
        LoadBalancer::LeastRequest => {
            let config = of::LeastRequestLbConfig {
                choice_count: choices(balancing),
                active_request_bias: bias(balancing),
                slow_start_config: slow,
            };
            (config != of::LeastRequestLbConfig::default())
                .then_some(LbConfig::LeastRequestLbConfig(config))
        }
        LoadBalancer::RingHash => {
            let RingHash {
                min_size,
                max_size,
                function,
            } = balancing.ring;
            let default = RingHash::default();
            let config = of::RingHashLbConfig {
                minimum_ring_size: (min_size != default.min_size)
                    .then_some(UInt64Value { value: min_size }),
                hash_function: match function {
                    HashFunction::Xx => of::ring_hash_lb_config::HashFunction::XxHash,
                    HashFunction::Murmur2 => of::ring_hash_lb_config::HashFunction::MurmurHash2,
                }
                .into(),
                maximum_ring_size: (max_size != default.max_size)
                    .then_some(UInt64Value { value: max_size }),
            };
            (config != of::RingHashLbConfig::default())
                .then_some(LbConfig::RingHashLbConfig(config))
        }
        LoadBalancer::Maglev => {
            (balancing.table_size != Balancing::default().table_size).then(|| {
                LbConfig::MaglevLbConfig(of::MaglevLbConfig {
                    table_size: Some(UInt64Value {
                        value: balancing.table_size.into(),
                    }),
                })
            })
        }
        LoadBalancer::Random | LoadBalancer::PeakEwma => None,
    }
}

/// What only the newer form can say. Of several policies a client takes the first that it knows.
fn extension(
    balancer: LoadBalancer,
    balancing: &Balancing,
    client: Client,
) -> Option<cluster::LoadBalancingPolicy> {
    let least = || lb::least_request::LeastRequest {
        choice_count: choices(balancing),
        active_request_bias: bias(balancing),
        slow_start_config: balancing.slow_start.as_ref().map(|slow| {
            let of::SlowStartConfig {
                slow_start_window,
                aggression,
                min_weight_percent,
            } = slow_start(slow);
            lb::common::SlowStartConfig {
                slow_start_window,
                aggression,
                min_weight_percent,
            }
        }),
        locality_lb_config: typed_locality(balancing.locality),
        selection_method: if balancing.full_scan {
            lb::least_request::least_request::SelectionMethod::FullScan
        } else {
            lb::least_request::least_request::SelectionMethod::NChoices
        }
        .into(),
        ..Default::default()
    };
    let policies = match balancer {
        LoadBalancer::LeastRequest if balancing.full_scan => {
            vec![("least_request", any(&least()))]
        }
        LoadBalancer::PeakEwma => {
            let peak = any(&PeakEwma {
                decay_time: duration(balancing.decay),
            });
            match balancing.locality {
                // It has no field for localities: a policy around it chooses them first. Envoy's takes
                // one other policy only.
                LocalityBalancing::Weighted if client == Client::Meshctl => {
                    let around = lb::wrr_locality::WrrLocality {
                        endpoint_picking_policy: Some(policy(vec![("peak_ewma", peak)])),
                    };
                    vec![("wrr_locality", any(&around))]
                }
                _ => vec![("peak_ewma", peak), ("least_request", any(&least()))],
            }
        }
        _ => return None,
    };
    Some(policy(policies))
}

fn policy(policies: Vec<(&str, Any)>) -> cluster::LoadBalancingPolicy {
    cluster::LoadBalancingPolicy {
        policies: policies
            .into_iter()
            .map(|(name, config)| cluster::load_balancing_policy::Policy {
                typed_extension_config: Some(core::TypedExtensionConfig {
                    name: format!("envoy.load_balancing_policies.{name}"),
                    typed_config: Some(config),
                }),
            })
            .collect(),
    }
}

fn choices(balancing: &Balancing) -> Option<super::super::pb::UInt32Value> {
    (balancing.choices != Balancing::default().choices)
        .then_some(balancing.choices)
        .and_then(u32_value)
}

fn bias(balancing: &Balancing) -> Option<core::RuntimeDouble> {
    (balancing.request_bias != Balancing::default().request_bias)
        .then(|| thousandths(balancing.request_bias, "least_request.active_request_bias"))
}

/// Envoy wants a name to find another value at run time by; nobody sets one.
fn thousandths(value: u32, name: &str) -> core::RuntimeDouble {
    core::RuntimeDouble {
        default_value: f64::from(value) / 1000.0,
        runtime_key: format!("meshctl.{name}"),
    }
}

fn slow_start(from: &SlowStart) -> of::SlowStartConfig {
    of::SlowStartConfig {
        slow_start_window: duration(from.window),
        aggression: (from.aggression != 1000)
            .then(|| thousandths(from.aggression, "slow_start.aggression")),
        min_weight_percent: (from.min_weight_percent != 10).then(|| Percent {
            value: from.min_weight_percent.into(),
        }),
    }
}

/// `None` for what is Envoy's default.
fn session_health(from: &SessionHealth) -> Option<core::HealthStatusSet> {
    use core::HealthStatus as Status;
    let of = |health: &Health| match health {
        Health::Healthy => &[Status::Unknown, Status::Healthy][..],
        Health::Unhealthy => &[Status::Unhealthy, Status::Timeout],
        Health::Degraded => &[Status::Degraded],
        Health::Draining => &[Status::Draining],
    };
    let statuses = from.0.iter().flat_map(of);
    (*from != SessionHealth::default()).then(|| core::HealthStatusSet {
        statuses: statuses.map(|status| i32::from(*status)).collect(),
    })
}

fn common(from: &Balancing, client: Client) -> Option<of::CommonLbConfig> {
    use common::LocalityConfigSpecifier as Specifier;
    let config = of::CommonLbConfig {
        // Ours never calls instances that are known to be ill unless told to; an Envoy would, when
        // most are.
        healthy_panic_threshold: (client == Client::Envoy || from.panic_threshold > 0).then(|| {
            Percent {
                value: from.panic_threshold.min(100).into(),
            }
        }),
        locality_config_specifier: match from.locality {
            LocalityBalancing::None => None,
            LocalityBalancing::Weighted => Some(Specifier::LocalityWeightedLbConfig(
                common::LocalityWeightedLbConfig {},
            )),
            LocalityBalancing::ZoneAware(zones) => {
                Some(Specifier::ZoneAwareLbConfig(common::ZoneAwareLbConfig {
                    min_cluster_size: least(zones),
                    fail_traffic_on_panic: zones.fail_on_panic,
                    ..Default::default()
                }))
            }
        },
        consistent_hashing_lb_config: (from.balance_factor > 0).then(|| {
            common::ConsistentHashingLbConfig {
                hash_balance_factor: u32_value(from.balance_factor),
                ..Default::default()
            }
        }),
        override_host_status: session_health(&from.session_health),
        ..Default::default()
    };
    (config != of::CommonLbConfig::default()).then_some(config)
}

fn typed_locality(from: LocalityBalancing) -> Option<lb::common::LocalityLbConfig> {
    use lb::common::locality_lb_config as typed;
    let specifier = match from {
        LocalityBalancing::None => return None,
        LocalityBalancing::Weighted => typed::LocalityConfigSpecifier::LocalityWeightedLbConfig(
            typed::LocalityWeightedLbConfig {},
        ),
        LocalityBalancing::ZoneAware(zones) => {
            typed::LocalityConfigSpecifier::ZoneAwareLbConfig(typed::ZoneAwareLbConfig {
                min_cluster_size: least(zones),
                fail_traffic_on_panic: zones.fail_on_panic,
                ..Default::default()
            })
        }
    };
    Some(lb::common::LocalityLbConfig {
        locality_config_specifier: Some(specifier),
    })
}

fn least(zones: ZoneAware) -> Option<UInt64Value> {
    let value = zones.min_cluster_size;
    (value != ZoneAware::default().min_cluster_size).then_some(UInt64Value { value })
}
