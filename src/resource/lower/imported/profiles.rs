//! ServiceProfiles, by the host that they are named for.

use super::{ByHost, Care, target};
use crate::mesh::baseline::ServiceBaseline;
use crate::mesh::route::{Match, Retry, RetryOn};
use crate::mesh::world::{Config, RouteTarget};
use crate::mesh::{Finding, Hostname, Severity};
use crate::resource::codes;
use crate::resource::linkerd::{DestinationOverride, ProfileRoute};
use crate::resource::lower::{of_kind, similar};
use crate::resource::object::{Kind, Object, Objects};

/// Tries after the first: Linkerd has none but its budget, and a budget says nothing of one request.
const TRIES: u32 = 5;

/// The profiles of one host.
pub(super) struct Profiles<'a> {
    /// Of callers' namespaces, for these callers.
    clients: Vec<Profile<'a>>,
    /// Of the service's namespace, for all others.
    pub(super) own: Option<Profile<'a>>,
}

impl<'a> Profiles<'a> {
    /// Those that go before others first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Profile<'a>> {
        self.clients.iter().chain(&self.own)
    }
}

/// One profile.
pub(super) struct Profile<'a> {
    pub(super) object: &'a Object,
    /// The namespace whose callers it is for; `None` is all.
    pub(super) client: Option<String>,
    /// Each with the conditions of which any suffices.
    pub(super) routes: Vec<(Care, Vec<Match>)>,
    /// Where calls go in place of the service.
    pub(super) targets: Option<Vec<RouteTarget>>,
}

impl Profile<'_> {
    /// Whether it says anything of requests.
    pub(super) fn routes_any(&self) -> bool {
        !self.routes.is_empty() || self.targets.is_some()
    }
}

pub(super) fn read<'a>(
    objects: &'a Objects,
    config: &mut Config,
    findings: &mut Vec<Finding>,
) -> ByHost<Profiles<'a>> {
    let written = of_kind(objects, |kind| match kind {
        Kind::ServiceProfile(profile) => Some(profile),
        _ => None,
    });
    let mut by_host: ByHost<Profiles<'a>> = ByHost::new();
    for (object, profile) in written {
        let name = &object.metadata.name;
        let host = name.parse::<Hostname>().ok();
        let known = host.as_ref().and_then(|host| config.services.get(host));
        let (Some(host), Some(service)) = (host, known) else {
            let message = format!(
                "a ServiceProfile is named for the host that it is about, and {name} is no service of the mesh, so it has no effect"
            );
            let code = codes::UNKNOWN_ROUTE_HOST;
            let mut finding = object.finding(Severity::Warning, code, "metadata.name", message);
            let namespace = &object.metadata.namespace;
            let near = similar(&Hostname::service(name, namespace), &config.services)
                .map(|service| format!("did you mean {}?", service.host));
            finding.hint =
                near.or_else(|| Some(format!("such as shop.{namespace}.svc.cluster.local")));
            findings.push(finding);
            continue;
        };
        let client = (service.namespace != object.metadata.namespace)
            .then(|| object.metadata.namespace.clone());
        if let Some(budget) = profile.budget {
            if client.is_some() {
                let message = "the retry budget of a service is that of its own namespace, so this one has no effect";
                let code = codes::IGNORED;
                let path = "spec.retryBudget";
                let finding = object.finding(Severity::Warning, code, path, message);
                findings.push(finding.hint("write it into the profile of the service's namespace"));
            } else {
                let baseline = &mut config.baseline.services;
                let own: &mut ServiceBaseline = baseline.entry(host.clone()).or_default();
                own.retry_budget = Some(budget);
            }
        }
        let routes = profile.routes.iter().enumerate();
        let routes = routes.map(|(index, route)| {
            let origin = object.origin_of(&format!("spec.routes[{index}]"));
            let care = Care {
                name: route.name.clone(),
                timeout: Some(route.timeout),
                retry: retry(route, config.baseline.retry.as_ref()),
                origin,
                ..Care::default()
            };
            (care, route.matches.clone())
        });
        let overrides = profile.overrides.iter().enumerate();
        let targets: Vec<RouteTarget> = overrides
            .map(|(index, to)| called(object, index, to, config, findings))
            .collect();
        let made = Profile {
            object,
            client: client.clone(),
            routes: routes.collect(),
            targets: (!targets.is_empty()).then_some(targets),
        };
        let profiles = by_host.entry(host).or_insert(Profiles {
            clients: Vec::new(),
            own: None,
        });
        // Two of one namespace would have one name.
        if client.is_some() {
            profiles.clients.push(made);
        } else {
            profiles.own = Some(made);
        }
    }
    by_host
}

/// What is tried again: what fails, where the route says so, beside what is anyhow.
fn retry(route: &ProfileRoute, usual: Option<&Retry>) -> Option<Retry> {
    if !route.retryable {
        return usual.cloned();
    }
    let mut retry = usual.cloned().unwrap_or_default();
    retry.attempts = TRIES;
    // Nearly always, and shorter.
    if route.failures.iter().copied().eq(500..600) {
        retry.on.push(RetryOn::ServerError);
    } else {
        retry.status_codes.clone_from(&route.failures);
        retry.on.push(RetryOn::RetriableStatusCodes);
    }
    // Statuses of gRPC that Linkerd takes for failures, as far as they can be told.
    retry.on.extend([
        RetryOn::Reset,
        RetryOn::DeadlineExceeded,
        RetryOn::Internal,
        RetryOn::Unavailable,
    ]);
    retry.on.sort_unstable();
    retry.on.dedup();
    Some(retry)
}

fn called(
    object: &Object,
    index: usize,
    to: &DestinationOverride,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> RouteTarget {
    let mut found = target(to.host.clone(), to.port, to.weight);
    let service = config.services.get(&to.host);
    let has = |port: u16| service.is_some_and(|of| of.ports.iter().any(|known| known.port == port));
    let message = match (service, to.port) {
        (None, _) => format!("service {} does not exist", to.host),
        (Some(_), Some(port)) if !has(port) => format!("service {} has no port {port}", to.host),
        _ => return found,
    };
    found.invalid = Some(message.clone());
    let path = format!("spec.dstOverrides[{index}].authority");
    let code = codes::MISSING_REFERENCE;
    let mut finding = object.finding(Severity::Error, code, &path, message);
    finding.hint = Some(match service {
        None => similar(&to.host, &config.services).map_or_else(
            || "write the Service, or correct its name".to_owned(),
            |service| format!("did you mean {}?", service.host),
        ),
        Some(service) => {
            let known = service.ports.iter().map(|port| port.port.to_string());
            format!("its ports: {}", known.collect::<Vec<_>>().join(", "))
        }
    });
    findings.push(finding);
    found
}
