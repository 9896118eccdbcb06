//! How endpoints are chosen.

use std::time::Duration;

use super::super::pb::{self, Any, PeakEwma, Percent, UInt64Value, cluster, core, lb};
use super::super::structs::{MESHCTL, as_text, part};
use super::fields::Fields;
use super::{Fault, duration_or, unpack};
use crate::mesh::Health;
use crate::mesh::balancing::{
    Balancing, HashFunction, LoadBalancer, LocalityBalancing, RingHash, SlowStart, ZoneAware,
};
use crate::mesh::session::SessionHealth;
use cluster::cluster as of;
use of::common_lb_config as common;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[
    &COMMON, &HASHING, &ZONES, &LEAST, &ROUND, &RANDOM, &RING, &MAGLEV, &PEAK,
];

const COMMON: Fields = Fields {
    message: "CommonLbConfig",
    understood: &[
        (1, "healthy_panic_threshold"),
        (2, "zone_aware_lb_config"),
        (3, "locality_weighted_lb_config"),
        (5, "ignore_new_hosts_until_first_hc"),
        (7, "consistent_hashing_lb_config"),
        (8, "override_host_status"),
    ],
    tuning: &[
        (4, "update_merge_window"),
        (6, "close_connections_on_host_set_change"),
    ],
    refused: &[],
};
const HASHING: Fields = Fields {
    message: "ConsistentHashingLbConfig",
    understood: &[(2, "hash_balance_factor")],
    tuning: &[],
    refused: &[(1, "use_hostname_for_hashing"), (3, "hash_policy")],
};
const ZONES: Fields = Fields {
    message: "ZoneAwareLbConfig",
    understood: &[
        (1, "routing_enabled"),
        (2, "min_cluster_size"),
        (3, "fail_traffic_on_panic"),
    ],
    tuning: &[],
    refused: &[
        (4, "force_locality_direct_routing"),
        (5, "force_local_zone"),
        (6, "locality_basis"),
    ],
};
const LEAST: Fields = Fields {
    message: "LeastRequest",
    understood: &[
        (1, "choice_count"),
        (2, "active_request_bias"),
        (3, "slow_start_config"),
        (4, "locality_lb_config"),
        (5, "enable_full_scan"),
        (6, "selection_method"),
    ],
    tuning: &[],
    refused: &[],
};
const ROUND: Fields = Fields {
    message: "RoundRobin",
    understood: &[(1, "slow_start_config"), (2, "locality_lb_config")],
    tuning: &[],
    refused: &[],
};
const RANDOM: Fields = Fields {
    message: "Random",
    understood: &[(1, "locality_lb_config")],
    tuning: &[],
    refused: &[],
};
const RING: Fields = Fields {
    message: "RingHash",
    understood: &[
        (1, "hash_function"),
        (2, "minimum_ring_size"),
        (3, "maximum_ring_size"),
        (5, "hash_balance_factor"),
        (6, "consistent_hashing_lb_config"),
        (7, "locality_weighted_lb_config"),
    ],
    tuning: &[],
    refused: &[(4, "use_hostname_for_hashing")],
};
const MAGLEV: Fields = Fields {
    message: "Maglev",
    understood: &[
        (1, "table_size"),
        (2, "consistent_hashing_lb_config"),
        (3, "locality_weighted_lb_config"),
    ],
    tuning: &[],
    refused: &[],
};
const PEAK: Fields = Fields {
    message: "PeakEwma",
    understood: &[(1, "decay_time")],
    tuning: &[(2, "aggregation_interval"), (3, "max_samples_per_host")],
    refused: &[],
};
/// Envoy refuses larger tables.
const LARGEST_TABLE: u32 = 5_000_011;

fn unsupported<T>(field: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported {
        message: "Cluster",
        field: field.into(),
    })
}

/// What is not known is taken for healthy, and what does not answer for unhealthy, as everywhere here.
fn session_health(from: &core::HealthStatusSet) -> SessionHealth {
    let of = |status: &i32| match core::HealthStatus::try_from(*status) {
        Ok(core::HealthStatus::Unknown | core::HealthStatus::Healthy) => Some(Health::Healthy),
        Ok(core::HealthStatus::Degraded) => Some(Health::Degraded),
        Ok(core::HealthStatus::Draining) => Some(Health::Draining),
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Some(Health::Unhealthy),
        Err(_) => None,
    };
    SessionHealth(from.statuses.iter().filter_map(of).collect())
}

/// The policy of a cluster and its parameters; `original` is one that goes where callers mean.
pub(super) fn decode(
    from: &cluster::Cluster,
    original: bool,
    ignored: &mut Vec<String>,
) -> Result<(LoadBalancer, Balancing), Fault> {
    let mut balancing = Balancing::default();
    if let Some(common) = &from.common_lb_config {
        COMMON.audit(common, ignored)?;
        balancing.panic_threshold = percent(
            "healthy_panic_threshold",
            common.healthy_panic_threshold.as_ref(),
            0,
        )?;
        if let Some(statuses) = common.override_host_status.as_ref().filter(|_| !original) {
            balancing.session_health = session_health(statuses);
        }
    }
    if original {
        // Which endpoint is no question there; `loadBalancer` is what ours said it is.
        return match of::LbPolicy::try_from(from.lb_policy) {
            Ok(of::LbPolicy::ClusterProvided) => Ok((original_balancer(from), balancing)),
            other => unsupported(policy_name(other.ok())),
        };
    }
    if let Some(policies) = &from.load_balancing_policy {
        let Some(found) = first_known(policies) else {
            let names = policies.policies.iter().map(|policy| {
                let config = policy.typed_extension_config.as_ref();
                config.map_or("", |config| &config.name)
            });
            return unsupported(format!(
                "load_balancing_policy {}",
                names.collect::<Vec<_>>().join(", ")
            ));
        };
        let balancer = extension(found, &mut balancing, ignored)?;
        return Ok((balancer, balancing));
    }
    if let Some(common) = &from.common_lb_config {
        balancing.locality = locality(common, ignored)?;
        if let Some(hashing) = &common.consistent_hashing_lb_config {
            HASHING.audit(hashing, ignored)?;
            balancing.balance_factor = factor(
                hashing
                    .hash_balance_factor
                    .as_ref()
                    .map(|factor| factor.value),
            )?;
        }
    }
    let balancer = match of::LbPolicy::try_from(from.lb_policy) {
        Ok(of::LbPolicy::RoundRobin) => LoadBalancer::RoundRobin,
        Ok(of::LbPolicy::LeastRequest) => LoadBalancer::LeastRequest,
        Ok(of::LbPolicy::Random) => LoadBalancer::Random,
        Ok(of::LbPolicy::RingHash) => LoadBalancer::RingHash,
        Ok(of::LbPolicy::Maglev) => LoadBalancer::Maglev,
        other => return unsupported(policy_name(other.ok())),
    };
    config(from.lb_config.as_ref(), balancer, &mut balancing)?;
    Ok((balancer, balancing))
}

fn policy_name(policy: Option<of::LbPolicy>) -> String {
    format!(
        "lb_policy {}",
        policy.map_or("unknown", |policy| policy.as_str_name())
    )
}

/// The parameters in a cluster itself; those of another policy say nothing.
fn config(
    from: Option<&of::LbConfig>,
    balancer: LoadBalancer,
    into: &mut Balancing,
) -> Result<(), Fault> {
    match (from, balancer) {
        (Some(of::LbConfig::RoundRobinLbConfig(from)), LoadBalancer::RoundRobin) => {
            into.slow_start = from
                .slow_start_config
                .as_ref()
                .map(slow_start)
                .transpose()?;
        }
        (Some(of::LbConfig::LeastRequestLbConfig(from)), LoadBalancer::LeastRequest) => {
            into.choices = choices(from.choice_count.as_ref())?;
            into.request_bias = thousandths(from.active_request_bias.as_ref())?;
            into.slow_start = from
                .slow_start_config
                .as_ref()
                .map(slow_start)
                .transpose()?;
        }
        (Some(of::LbConfig::RingHashLbConfig(from)), LoadBalancer::RingHash) => {
            use of::ring_hash_lb_config::HashFunction as Function;
            let function = match Function::try_from(from.hash_function) {
                Ok(Function::XxHash) => HashFunction::Xx,
                Ok(Function::MurmurHash2) => HashFunction::Murmur2,
                Err(_) => return unsupported("hash_function"),
            };
            into.ring = ring(
                from.minimum_ring_size.as_ref(),
                from.maximum_ring_size.as_ref(),
                function,
            )?;
        }
        (Some(of::LbConfig::MaglevLbConfig(from)), LoadBalancer::Maglev) => {
            into.table_size = table_size(from.table_size.as_ref())?;
        }
        (Some(of::LbConfig::OriginalDstLbConfig(_)), _) => {
            return unsupported("original_dst_lb_config");
        }
        _ => {}
    }
    Ok(())
}

/// The first policy of a list that is known.
fn first_known(policies: &cluster::LoadBalancingPolicy) -> Option<&Any> {
    policies
        .policies
        .iter()
        .filter_map(|policy| {
            policy
                .typed_extension_config
                .as_ref()?
                .typed_config
                .as_ref()
        })
        .find(|config| {
            pb::is::<lb::round_robin::RoundRobin>(config)
                || pb::is::<lb::least_request::LeastRequest>(config)
                || pb::is::<lb::random::Random>(config)
                || pb::is::<lb::ring_hash::RingHash>(config)
                || pb::is::<lb::maglev::Maglev>(config)
                || pb::is::<lb::wrr_locality::WrrLocality>(config)
                || pb::is::<PeakEwma>(config)
        })
}

fn extension(
    from: &Any,
    into: &mut Balancing,
    ignored: &mut Vec<String>,
) -> Result<LoadBalancer, Fault> {
    if pb::is::<lb::wrr_locality::WrrLocality>(from) {
        let around: lb::wrr_locality::WrrLocality = unpack(from)?;
        let inner = around.endpoint_picking_policy.unwrap_or_default();
        let Some(inner) =
            first_known(&inner).filter(|inner| !pb::is::<lb::wrr_locality::WrrLocality>(inner))
        else {
            return unsupported("load_balancing_policy in WrrLocality");
        };
        let balancer = extension(inner, into, ignored)?;
        into.locality = LocalityBalancing::Weighted;
        return Ok(balancer);
    }
    if pb::is::<PeakEwma>(from) {
        let peak: PeakEwma = unpack(from)?;
        PEAK.audit_bytes(&from.value, ignored)?;
        into.decay = duration_or("decay_time", peak.decay_time.as_ref(), into.decay)?;
        return Ok(LoadBalancer::PeakEwma);
    }
    if pb::is::<lb::round_robin::RoundRobin>(from) {
        let round: lb::round_robin::RoundRobin = unpack(from)?;
        ROUND.audit(&round, ignored)?;
        into.slow_start = typed_slow_start(round.slow_start_config)?;
        into.locality = typed_locality(round.locality_lb_config.as_ref(), ignored)?;
        return Ok(LoadBalancer::RoundRobin);
    }
    if pb::is::<lb::random::Random>(from) {
        let random: lb::random::Random = unpack(from)?;
        RANDOM.audit(&random, ignored)?;
        into.locality = typed_locality(random.locality_lb_config.as_ref(), ignored)?;
        return Ok(LoadBalancer::Random);
    }
    if pb::is::<lb::ring_hash::RingHash>(from) {
        use lb::ring_hash::ring_hash::HashFunction as Function;
        let hash: lb::ring_hash::RingHash = unpack(from)?;
        RING.audit(&hash, ignored)?;
        let function = match Function::try_from(hash.hash_function) {
            Ok(Function::DefaultHash | Function::XxHash) => HashFunction::Xx,
            Ok(Function::MurmurHash2) => HashFunction::Murmur2,
            Err(_) => return unsupported("hash_function"),
        };
        into.ring = ring(
            hash.minimum_ring_size.as_ref(),
            hash.maximum_ring_size.as_ref(),
            function,
        )?;
        #[expect(deprecated, reason = "older control planes still send it")]
        let older = hash.hash_balance_factor.map(|factor| factor.value);
        into.balance_factor = factor(older)?;
        hashing(hash.consistent_hashing_lb_config.as_ref(), into, ignored)?;
        if hash.locality_weighted_lb_config.is_some() {
            into.locality = LocalityBalancing::Weighted;
        }
        return Ok(LoadBalancer::RingHash);
    }
    if pb::is::<lb::maglev::Maglev>(from) {
        let maglev: lb::maglev::Maglev = unpack(from)?;
        MAGLEV.audit(&maglev, ignored)?;
        into.table_size = table_size(maglev.table_size.as_ref())?;
        hashing(maglev.consistent_hashing_lb_config.as_ref(), into, ignored)?;
        if maglev.locality_weighted_lb_config.is_some() {
            into.locality = LocalityBalancing::Weighted;
        }
        return Ok(LoadBalancer::Maglev);
    }
    least_request(from, into, ignored)
}

fn least_request(
    from: &Any,
    into: &mut Balancing,
    ignored: &mut Vec<String>,
) -> Result<LoadBalancer, Fault> {
    use lb::least_request::least_request::SelectionMethod;
    let least: lb::least_request::LeastRequest = unpack(from)?;
    LEAST.audit(&least, ignored)?;
    into.choices = choices(least.choice_count.as_ref())?;
    into.request_bias = thousandths(least.active_request_bias.as_ref())?;
    into.slow_start = typed_slow_start(least.slow_start_config)?;
    into.locality = typed_locality(least.locality_lb_config.as_ref(), ignored)?;
    #[expect(deprecated, reason = "older control planes still send it")]
    let scan = least.enable_full_scan.is_some_and(|scan| scan.value);
    into.full_scan =
        scan || SelectionMethod::try_from(least.selection_method) == Ok(SelectionMethod::FullScan);
    Ok(LoadBalancer::LeastRequest)
}

fn hashing(
    from: Option<&lb::common::ConsistentHashingLbConfig>,
    into: &mut Balancing,
    ignored: &mut Vec<String>,
) -> Result<(), Fault> {
    let Some(from) = from else { return Ok(()) };
    HASHING.audit(from, ignored)?;
    if let Some(bound) = &from.hash_balance_factor {
        into.balance_factor = factor(Some(bound.value))?;
    }
    Ok(())
}

fn original_balancer(from: &cluster::Cluster) -> LoadBalancer {
    let named =
        part(from.metadata.as_ref(), MESHCTL).and_then(|fields| as_text(fields, "loadBalancer"));
    match named.as_deref() {
        Some("roundRobin") => LoadBalancer::RoundRobin,
        Some("random") => LoadBalancer::Random,
        Some("peakEwma") => LoadBalancer::PeakEwma,
        Some("ringHash") => LoadBalancer::RingHash,
        Some("maglev") => LoadBalancer::Maglev,
        _ => LoadBalancer::default(),
    }
}

fn locality(
    from: &of::CommonLbConfig,
    ignored: &mut Vec<String>,
) -> Result<LocalityBalancing, Fault> {
    use common::LocalityConfigSpecifier as Specifier;
    match &from.locality_config_specifier {
        None => Ok(LocalityBalancing::None),
        Some(Specifier::LocalityWeightedLbConfig(_)) => Ok(LocalityBalancing::Weighted),
        Some(Specifier::ZoneAwareLbConfig(zones)) => {
            ZONES.audit(zones, ignored)?;
            zone_aware(
                zones.routing_enabled.as_ref(),
                zones.min_cluster_size.as_ref(),
                zones.fail_traffic_on_panic,
            )
        }
    }
}

fn typed_locality(
    from: Option<&lb::common::LocalityLbConfig>,
    ignored: &mut Vec<String>,
) -> Result<LocalityBalancing, Fault> {
    use lb::common::locality_lb_config::LocalityConfigSpecifier as Specifier;
    match from.and_then(|from| from.locality_config_specifier.as_ref()) {
        None => Ok(LocalityBalancing::None),
        Some(Specifier::LocalityWeightedLbConfig(_)) => Ok(LocalityBalancing::Weighted),
        Some(Specifier::ZoneAwareLbConfig(zones)) => {
            ZONES.audit(zones, ignored)?;
            zone_aware(
                zones.routing_enabled.as_ref(),
                zones.min_cluster_size.as_ref(),
                zones.fail_traffic_on_panic,
            )
        }
    }
}

fn zone_aware(
    enabled: Option<&Percent>,
    least: Option<&UInt64Value>,
    fail_on_panic: bool,
) -> Result<LocalityBalancing, Fault> {
    match percent("routing_enabled", enabled, 100)? {
        0 => Ok(LocalityBalancing::None),
        100 => Ok(LocalityBalancing::ZoneAware(ZoneAware {
            min_cluster_size: least.map_or(6, |least| least.value),
            fail_on_panic,
        })),
        _ => Err(Fault::Unsupported {
            message: "ZoneAwareLbConfig",
            field: "routing_enabled of a part of requests".to_owned(),
        }),
    }
}

fn typed_slow_start(from: Option<lb::common::SlowStartConfig>) -> Result<Option<SlowStart>, Fault> {
    from.map(|from| {
        slow_start(&of::SlowStartConfig {
            slow_start_window: from.slow_start_window,
            aggression: from.aggression,
            min_weight_percent: from.min_weight_percent,
        })
    })
    .transpose()
}

fn slow_start(from: &of::SlowStartConfig) -> Result<SlowStart, Fault> {
    let aggression = thousandths(from.aggression.as_ref())?;
    if aggression == 0 {
        return Err(Fault::Invalid("aggression is not above 0".to_owned()));
    }
    Ok(SlowStart {
        window: duration_or(
            "slow_start_window",
            from.slow_start_window.as_ref(),
            Duration::ZERO,
        )?,
        aggression,
        min_weight_percent: percent("min_weight_percent", from.min_weight_percent.as_ref(), 10)?,
    })
}

fn choices(from: Option<&pb::UInt32Value>) -> Result<u32, Fault> {
    match from.map_or(2, |count| count.value) {
        count @ 2.. => Ok(count),
        _ => Err(Fault::Invalid("choice_count is below 2".to_owned())),
    }
}

/// Whole percents; Envoy's own decisions are made in them.
fn percent(field: &str, from: Option<&Percent>, default: u32) -> Result<u32, Fault> {
    let Some(from) = from else {
        return Ok(default);
    };
    whole(from.value)
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| Fault::Invalid(format!("{field} is not a percentage")))
}

fn thousandths(from: Option<&core::RuntimeDouble>) -> Result<u32, Fault> {
    from.map_or(Ok(1000), |from| {
        whole(from.default_value * 1000.0).ok_or_else(|| {
            Fault::Invalid(format!("{} is not a number from 0 on", from.default_value))
        })
    })
}

/// The nearest whole number, if it is one from 0 on.
fn whole(number: f64) -> Option<u32> {
    format!("{:.0}", number.abs())
        .parse()
        .ok()
        .filter(|_| number >= 0.0)
}

fn ring(
    least: Option<&UInt64Value>,
    most: Option<&UInt64Value>,
    function: HashFunction,
) -> Result<RingHash, Fault> {
    let default = RingHash::default();
    let ring = RingHash {
        min_size: least.map_or(default.min_size, |size| size.value),
        max_size: most.map_or(default.max_size, |size| size.value),
        function,
    };
    if ring.min_size > ring.max_size || ring.max_size > RingHash::LARGEST {
        return Err(Fault::Invalid(
            "minimum_ring_size and maximum_ring_size are no range up to 8388608".to_owned(),
        ));
    }
    Ok(ring)
}

fn table_size(from: Option<&UInt64Value>) -> Result<u32, Fault> {
    let size = from.map_or(65_537, |size| size.value);
    u32::try_from(size)
        .ok()
        .filter(|size| *size <= LARGEST_TABLE && Balancing::is_table_size(*size))
        .ok_or_else(|| Fault::Invalid(format!("table_size {size} is no prime up to 5000011")))
}

fn factor(from: Option<u32>) -> Result<u32, Fault> {
    match from.unwrap_or(0) {
        0 => Ok(0),
        factor @ 100.. => Ok(factor),
        _ => Err(Fault::Invalid(
            "hash_balance_factor is below 100".to_owned(),
        )),
    }
}
