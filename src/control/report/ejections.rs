//! Endpoints that proxies have ejected, with the names that people know them by.

use std::collections::BTreeMap;

use super::services::endpoints;
use super::short;
use crate::aggregate::ejections::Ejection;
use crate::api::ejections::{EjectedBy, EjectionReport};
use crate::mesh::{Hostname, Service, World};
use crate::xds::node::id_name;

/// What `said` comes to in `world`: each with the proxy's node. Services that are not there any more are left out.
pub fn ejected<'a>(
    world: &World,
    said: impl Iterator<Item = (&'a str, &'a Ejection)>,
    only: Option<&Service>,
) -> Vec<EjectionReport> {
    let mut known: BTreeMap<&str, Option<&Service>> = BTreeMap::new();
    let mut found = Vec::new();
    for (node, one) in said {
        let service = *known.entry(one.host.as_str()).or_insert_with(|| {
            let host = one.host.parse::<Hostname>().ok()?;
            world.config.services.get(&host).map(AsRef::as_ref)
        });
        let Some(service) = service.filter(|of| only.is_none_or(|only| only.host == of.host))
        else {
            continue;
        };
        let (name, namespace) = id_name(node).unwrap_or((node, ""));
        let key = (namespace.to_owned(), name.to_owned());
        let workload = world.instances.get(&key).map_or_else(String::new, |proxy| {
            format!("{}.{namespace}", proxy.workload)
        });
        found.push(EjectionReport {
            service: short(service),
            port: one.port,
            subset: one.subset.clone(),
            address: one.endpoint.clone(),
            by: EjectedBy {
                proxy: format!("{name}.{namespace}"),
                workload,
                reason: one.reason.clone(),
                since_unix_ms: one.since_unix_ms,
                until_unix_ms: one.until_unix_ms,
            },
            ..EjectionReport::default()
        });
    }
    if found.is_empty() {
        return found;
    }
    let all = endpoints(world, only);
    let at: BTreeMap<&str, _> = all.iter().map(|one| (one.address.as_str(), one)).collect();
    for one in &mut found {
        if let Some(endpoint) = at.get(one.address.as_str()) {
            one.instance.clone_from(&endpoint.instance);
            one.version.clone_from(&endpoint.version);
        }
    }
    found.sort_by(|a, b| (&a.service, &a.address, &a.by).cmp(&(&b.service, &b.address, &b.by)));
    found
}
