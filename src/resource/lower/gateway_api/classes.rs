//! Which GatewayClasses are served here.

use std::collections::BTreeMap;

use super::verdict::{Condition, Verdict, Verdicts};
use crate::mesh::{Finding, Severity};
use crate::resource::codes;
use crate::resource::gateway_api::{Gateway, GatewayClass};
use crate::resource::object::{Kind, Object, Objects};

/// Our name among controllers of Gateways.
pub const CONTROLLER: &str = "meshctl.dev/gateway-controller";
/// Istio's. People bring manifests for it, and we serve them.
const ISTIO: &str = "istio.io/gateway-controller";
/// Classes that are there without an object.
const BUILT_IN: [(&str, &str); 2] = [("meshctl", CONTROLLER), ("istio", ISTIO)];

/// GatewayClasses by name.
pub(super) struct Classes<'a>(BTreeMap<&'a str, (&'a Object, &'a GatewayClass)>);

impl<'a> Classes<'a> {
    pub(super) fn of(objects: &'a Objects) -> Self {
        let classes = objects.values().filter_map(|object| match &object.body {
            Kind::GatewayClass(class) => Some((object.metadata.name.as_str(), (&**object, class))),
            _ => None,
        });
        Self(classes.collect())
    }

    /// What is said of those that are ours.
    pub(super) fn judge(&self, verdicts: &mut Verdicts, findings: &mut Vec<Finding>) {
        for (object, class) in self.0.values() {
            if ![CONTROLLER, ISTIO].contains(&class.controller.as_str()) {
                let message = format!(
                    "controller {} is none of ours, so Gateways of this class are not served here",
                    class.controller
                );
                let path = "spec.controllerName";
                let finding = object.finding(Severity::Info, codes::UNKNOWN_CLASS, path, message);
                findings.push(finding.hint(format!("write controllerName: {CONTROLLER}")));
                continue;
            }
            let fault = class.parameters.then(|| {
                let message = "parameters of a class are not honoured: there are none here";
                let path = "spec.parametersRef";
                let severity = Severity::Warning;
                let finding = object.finding(severity, codes::NOT_ACCEPTED, path, message);
                let hint = "remove parametersRef; until then no Gateway of this class is served";
                findings.push(finding.hint(hint));
                ("InvalidParameters", message.to_owned())
            });
            let conditions = vec![
                Condition::new("Accepted", fault, "Accepted"),
                Condition::new("SupportedVersion", None, "SupportedVersion"),
            ];
            verdicts.of.insert(object.key(), Verdict::Class(conditions));
        }
    }

    /// Who of us serves `gateway`; a class that is unknown is reported.
    pub(super) fn controller(
        &self,
        object: &Object,
        gateway: &Gateway,
        findings: &mut Vec<Finding>,
    ) -> Option<&'static str> {
        let name = gateway.class.as_str();
        let ours = |controller: &str| {
            let all = [CONTROLLER, ISTIO];
            all.into_iter().find(|own| *own == controller)
        };
        if let Some((_, class)) = self.0.get(name) {
            return ours(&class.controller).filter(|_| !class.parameters);
        }
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        if built_in.is_none() {
            let message =
                format!("GatewayClass {name} does not exist, so the Gateway is not served");
            let path = "spec.gatewayClassName";
            let finding = object.finding(Severity::Warning, codes::UNKNOWN_CLASS, path, message);
            findings.push(finding.hint("write gatewayClassName: meshctl"));
        }
        built_in.map(|(_, controller)| *controller)
    }
}
