//! Where rules are for: the mesh, or gateways by name.

use std::collections::BTreeSet;

use super::resolve;
use super::routes::Lowering;
use crate::mesh::gateway::{GatewayName, Server};
use crate::mesh::{Hostname, Severity};
use crate::resource::codes;
use crate::resource::istio::VirtualService;

/// All sidecars, among gateways.
const MESH: &str = "mesh";

impl Lowering<'_, '_> {
    /// Whether rules for `gateways` are for where this lowering is for; those that do not exist are
    /// reported.
    pub(super) fn for_place(&mut self, gateways: &[String], path: &str) -> bool {
        for (index, name) in gateways.iter().enumerate() {
            let known = |name: &GatewayName| self.config.gateways.contains_key(name);
            if name != MESH && !known(&self.gateway(name)) {
                let at = match gateways.len() {
                    1 => path.to_owned(),
                    _ => format!("{path}[{index}]"),
                };
                let message = format!("Gateway {name} does not exist, so nothing is routed there");
                let hint = "write the Gateway, or correct its name: NAME or NAMESPACE/NAME";
                let code = codes::MISSING_REFERENCE;
                let finding = self.object.finding(Severity::Warning, code, &at, message);
                self.findings.push(finding.hint(hint));
            }
        }
        match &self.place {
            None => gateways.is_empty() || gateways.iter().any(|name| name == MESH),
            Some(place) => gateways
                .iter()
                .any(|name| name != MESH && self.gateway(name) == *place),
        }
    }

    /// Whether this is about calls inside the mesh.
    pub(super) fn is_mesh(&self) -> bool {
        self.place.is_none()
    }

    /// The gateway that is called `name` here.
    fn gateway(&self, name: &str) -> GatewayName {
        let (namespace, name) = name
            .split_once('/')
            .unwrap_or((&self.object.metadata.namespace, name));
        (namespace.to_owned(), name.to_owned())
    }

    /// Whether rules that say nothing else are for this place.
    pub(super) fn here(&mut self, service: &VirtualService) -> bool {
        self.for_place(&service.gateways, "spec.gateways")
    }

    /// The gateways that any of the rules is for.
    pub(super) fn gateways(&self, service: &VirtualService) -> BTreeSet<GatewayName> {
        let http = service.http.iter().flat_map(|route| &route.matches);
        let streams = service.tls.iter().chain(&service.tcp);
        let streams = streams.flat_map(|route| &route.matches);
        let conditions = http
            .flat_map(|found| &found.gateways)
            .chain(streams.flat_map(|found| &found.gateways));
        service
            .gateways
            .iter()
            .chain(conditions)
            .filter(|name| *name != MESH)
            .map(|name| self.gateway(name))
            .filter(|name| self.config.gateways.contains_key(name))
            .collect()
    }

    /// The hosts that are routed at a gateway. One that no server there is for is reported.
    pub(super) fn bound_hosts(
        &mut self,
        service: &VirtualService,
        gateway: &GatewayName,
    ) -> Vec<Hostname> {
        let own = &self.object.metadata.namespace;
        let mut hosts = Vec::new();
        for (index, written) in service.hosts.iter().enumerate() {
            let Some(host) = resolve(written, own, &self.config.services) else {
                continue;
            };
            let servers = self.config.gateways.get(gateway);
            let served = servers.iter().flat_map(|gateway| &gateway.servers);
            let meets = |server: &&Server| {
                let mut hosts = server.hosts.iter();
                hosts.any(|of| of.meets(&host, own, &gateway.0).is_some())
            };
            let mut meeting = served.filter(meets).peekable();
            let unserved = meeting.peek().is_none();
            if !meeting.any(|server| server.serves.is_routed()) {
                let path = format!("spec.hosts[{index}]");
                let name = format!("{}/{}", gateway.0, gateway.1);
                let (message, hint) = if unserved {
                    (
                        format!(
                            "no server of Gateway {name} is for host {host}, so it is not routed there"
                        ),
                        "add the host to a server of the Gateway",
                    )
                } else {
                    (
                        format!(
                            "servers of Gateway {name} for host {host} pass calls on by server names alone (AUTO_PASSTHROUGH), so it is not routed there"
                        ),
                        "remove the Gateway from gateways, or add a server with another mode of TLS for the host",
                    )
                };
                let code = codes::GATEWAY_NOT_FOUND;
                let finding = self.object.finding(Severity::Warning, code, &path, message);
                self.findings.push(finding.hint(hint));
            }
            hosts.push(host);
        }
        hosts
    }
}
