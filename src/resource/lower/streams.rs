//! Where bytes go: TCP and TLS routes of VirtualServices.

use super::resolve;
use super::routes::Lowering;
use crate::mesh::world::{SourceMatch, StreamRule};
use crate::mesh::{Hostname, Protocol, Service, ServicePort, Severity};
use crate::resource::codes;
use crate::resource::istio::{StreamMatch, VirtualService};

impl Lowering<'_, '_> {
    /// The rules for bytes.
    pub(super) fn streams(&mut self, service: &VirtualService) -> Vec<StreamRule> {
        let mesh = self.here(service);
        let mut rules = Vec::new();
        let tls = service.tls.iter().enumerate().map(|route| (true, route));
        let tcp = service.tcp.iter().enumerate().map(|route| (false, route));
        for (tls, (index, route)) in tls.chain(tcp) {
            let path = format!("spec.{}[{index}]", if tls { "tls" } else { "tcp" });
            let mut matches = Vec::new();
            if route.matches.is_empty() {
                matches.extend(mesh.then(StreamMatch::default));
            }
            for (number, found) in route.matches.iter().enumerate() {
                let at = format!("{path}.match[{number}]");
                let gateways = format!("{at}.gateways");
                let wanted = if found.gateways.is_empty() {
                    mesh
                } else {
                    self.for_place(&found.gateways, &gateways)
                };
                if wanted {
                    self.named(service, found, &at);
                    matches.push(found.clone());
                }
            }
            if matches.is_empty() {
                continue;
            }
            if self.is_mesh() {
                self.carried(service, (tls, &matches), &path);
            }
            let targets = self.targets(&route.destinations, &path);
            rules.extend(matches.into_iter().map(|found| StreamRule {
                server_names: found.server_names,
                destinations: found.destinations,
                port: found.port,
                source: SourceMatch {
                    labels: found.source_labels,
                    namespace: found.source_namespace,
                    ..SourceMatch::default()
                },
                targets: targets.clone(),
                origin: self.object.origin_of(&path),
            }));
        }
        rules
    }

    /// Server names must be among the hosts.
    fn named(&mut self, service: &VirtualService, found: &StreamMatch, path: &str) {
        let namespace = &self.object.metadata.namespace;
        let hosts: Vec<Hostname> = service
            .hosts
            .iter()
            .filter_map(|host| resolve(host, namespace, &self.config.services))
            .collect();
        for (index, name) in found.server_names.iter().enumerate() {
            let Ok(name) = name.parse::<Hostname>() else {
                continue;
            };
            if !hosts.iter().any(|host| *host == name || host.covers(&name)) {
                let path = format!("{path}.sniHosts[{index}]");
                let message = format!("server name {name} is none of the hosts");
                let hint = "add it to the hosts of the VirtualService";
                let finding = self
                    .object
                    .finding(Severity::Error, codes::SCHEMA, &path, message);
                self.findings.push(finding.hint(hint));
            }
        }
    }

    /// Whether any port of a host carries what a route for bytes is for; else it is reported.
    fn carried(
        &mut self,
        service: &VirtualService,
        (tls, matches): (bool, &[StreamMatch]),
        path: &str,
    ) {
        let services = &self.config.services;
        let namespace = &self.object.metadata.namespace;
        let hosts = service.hosts.iter();
        let known: Vec<&Service> = hosts
            .filter_map(|host| resolve(host, namespace, services))
            .flat_map(|host| {
                let of = services.iter().filter(move |(own, _)| host.covers(own));
                of.map(|(_, service)| &**service)
            })
            .collect();
        let carries = |port: &ServicePort| match port.protocol {
            Protocol::Tls => tls,
            Protocol::Tcp => !tls,
            // Where requests have rules, what is none of them goes to the service itself.
            Protocol::Auto => !tls && service.http.is_empty(),
            Protocol::Http
            | Protocol::Http2
            | Protocol::Grpc
            | Protocol::GrpcWeb
            | Protocol::Udp => false,
        };
        let meant = |port: &ServicePort| {
            let mut ports = matches.iter().map(|found| found.port);
            ports.any(|wanted| wanted.is_none_or(|wanted| wanted == port.port))
        };
        let mut ports = known.iter().flat_map(|service| &service.ports);
        if known.is_empty() || ports.any(|port| meant(port) && carries(port)) {
            return;
        }
        let (what, hint) = if tls {
            (
                "no port of the hosts carries TLS of the application's own, so the route has no effect",
                "name the port tls-… or https-…, or write an http or tcp route",
            )
        } else {
            (
                "no port of the hosts carries bytes, so the route has no effect",
                "name the port tcp-…, or write an http or tls route",
            )
        };
        self.findings.push(
            self.object
                .finding(Severity::Warning, codes::SCHEMA_WARNING, path, what)
                .hint(hint),
        );
    }
}
