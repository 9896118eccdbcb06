//! Whose an Ingress is: classes, and the proxies that serve them.

use std::collections::BTreeMap;

use crate::mesh::world::Config;
use crate::mesh::{Finding, Severity};
use crate::resource::codes;
use crate::resource::kube::{ClassParameters, Ingress, IngressClass};
use crate::resource::lower::of_kind;
use crate::resource::object::{Kind, Object, Objects};

/// Controllers of classes that are served here: ours, and Istio's.
const CONTROLLERS: [&str; 2] = [
    "meshctl.dev/ingress-controller",
    "istio.io/ingress-controller",
];
/// Classes that are served here though no IngressClass says so.
const NAMES: [&str; 2] = ["meshctl", "istio"];
/// By which an Ingress named its class before there was a field for it.
pub(super) const ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Labels of the proxies that serve Ingresses.
pub(super) type Selector = BTreeMap<String, String>;

/// The classes of a mesh.
pub(super) struct Classes<'a> {
    by_name: BTreeMap<&'a str, Class>,
    default: Option<&'a str>,
    /// Labels of the proxies that serve what says nothing else.
    selector: Selector,
}

/// Who serves a class.
enum Class {
    /// Proxies of the mesh with these labels; none when its parameters are no good.
    Ours(Option<Selector>),
    /// Another controller.
    Other(String),
}

impl<'a> Classes<'a> {
    pub(super) fn new(
        objects: &'a Objects,
        config: &Config,
        selector: Selector,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let written = of_kind(objects, |kind| match kind {
            Kind::IngressClass(class) => Some(class),
            _ => None,
        });
        let mut classes = Self {
            by_name: BTreeMap::new(),
            default: None,
            selector,
        };
        // Of several the newest, and of those of one age the first by name (Kubernetes).
        let by_default = written.iter().map(|(object, _)| *object).filter(|object| {
            let marked = object.metadata.annotations.get(DEFAULT);
            marked.is_some_and(|value| value == "true")
        });
        let age = |object: &&Object| {
            let metadata = &object.metadata;
            (
                metadata.created.clone(),
                std::cmp::Reverse(metadata.name.clone()),
            )
        };
        let default = by_default.clone().max_by_key(age);
        classes.default = default.map(|object| object.metadata.name.as_str());
        for object in by_default {
            if let Some(first) = default.filter(|first| first.metadata.name != object.metadata.name)
            {
                let path = format!("metadata.annotations[{DEFAULT:?}]");
                let message = format!(
                    "another IngressClass is the default already ({})",
                    first.origin
                );
                let code = codes::SCHEMA_WARNING;
                let finding = object.finding(Severity::Warning, code, &path, message);
                findings.push(finding.hint("mark one of them only"));
            }
        }
        for (object, class) in written {
            let ours = CONTROLLERS.contains(&class.controller.as_str());
            let class = if ours {
                Class::Ours(classes.chosen(object, class, config, findings))
            } else {
                Class::Other(class.controller.clone())
            };
            classes.by_name.insert(&object.metadata.name, class);
        }
        classes
    }

    /// Labels of the proxies that serve `class`: those of the Gateway that its parameters name.
    fn chosen(
        &self,
        object: &Object,
        class: &IngressClass,
        config: &Config,
        findings: &mut Vec<Finding>,
    ) -> Option<Selector> {
        let Some(parameters) = &class.parameters else {
            return Some(self.selector.clone());
        };
        let ClassParameters {
            group,
            kind,
            name,
            namespace,
        } = parameters;
        let (severity, code, message, hint) = if group == "networking.istio.io" && kind == "Gateway"
        {
            let key = (namespace.clone().unwrap_or_default(), name.clone());
            if let Some(gateway) = config.gateways.get(&key) {
                return Some(gateway.selector.clone());
            }
            (
                Severity::Warning,
                codes::MISSING_REFERENCE,
                format!(
                    "Gateway {}/{name} does not exist, so nobody serves Ingresses of this class",
                    key.0
                ),
                "write the Gateway, or correct its name, with scope: Namespace and its namespace",
            )
        } else {
            (
                Severity::Error,
                codes::NOT_HONOURED,
                format!("parameters of kind {kind} ({group}) are not honoured by meshctl"),
                "apiGroup: networking.istio.io, kind: Gateway, scope: Namespace, namespace and name of the Gateway whose selector chooses the proxies; or remove the parameters",
            )
        };
        let finding = object.finding(severity, code, "spec.parameters", message);
        findings.push(finding.hint(hint));
        None
    }

    /// Labels of the proxies that serve `ingress`; `None` when nobody here does, which is said.
    pub(super) fn of(
        &self,
        object: &Object,
        ingress: &Ingress,
        findings: &mut Vec<Finding>,
    ) -> Option<Selector> {
        let annotated = object.metadata.annotations.get(ANNOTATION);
        let field = ingress.class.as_ref();
        let mut say = |severity, code, path: &str, message: String, hint: &str| {
            findings.push(object.finding(severity, code, path, message).hint(hint));
        };
        let place = format!("metadata.annotations[{ANNOTATION:?}]");
        let (name, path) = match (field, annotated) {
            // The annotation goes before the field, as it was there first (Istio's choice).
            (_, Some(name)) => (name.as_str(), place.as_str()),
            (Some(name), None) => (name.as_str(), "spec.ingressClassName"),
            (None, None) => match self.default {
                Some(name) => (name, "spec"),
                None => return self.classless(object, findings),
            },
        };
        match self.by_name.get(name) {
            Some(Class::Ours(selector)) => {
                if selector.is_none() {
                    say(
                        Severity::Warning,
                        codes::NOT_SERVED,
                        path,
                        format!("nobody serves IngressClass {name}, whose parameters are no good"),
                        "correct the parameters of the IngressClass",
                    );
                }
                selector.clone()
            }
            Some(Class::Other(controller)) => {
                say(
                    Severity::Info,
                    codes::NOT_SERVED,
                    path,
                    format!("class {name} is served by {controller}, and not by the mesh"),
                    "write ingressClassName: meshctl to have it served by a gateway of the mesh",
                );
                None
            }
            None if NAMES.contains(&name) => Some(self.selector.clone()),
            // An annotation names a controller, and no object needs to say so.
            None if annotated.is_some() => {
                say(
                    Severity::Info,
                    codes::NOT_SERVED,
                    path,
                    format!("class {name} is served by another controller, and not by the mesh"),
                    "remove the annotation and write ingressClassName: meshctl to have it served by a gateway of the mesh",
                );
                None
            }
            None => {
                say(
                    Severity::Warning,
                    codes::NOT_SERVED,
                    path,
                    format!("IngressClass {name} does not exist, so nobody serves it"),
                    "write the IngressClass, with controller: meshctl.dev/ingress-controller, or ingressClassName: meshctl",
                );
                None
            }
        }
    }

    /// As [`Self::of`], for one that names no class where none is the default: whoever is there serves
    /// it, and that is the mesh where no class says of another controller.
    fn classless(&self, object: &Object, findings: &mut Vec<Finding>) -> Option<Selector> {
        let other = |(name, class): (&&'a str, &Class)| match class {
            Class::Other(controller) => Some(format!("{name} ({controller})")),
            Class::Ours(_) => None,
        };
        let Some(other) = self.by_name.iter().find_map(other) else {
            return Some(self.selector.clone());
        };
        let message = format!(
            "it names no class, and IngressClass {other} is of another controller, so the mesh does not serve it"
        );
        let code = codes::NOT_SERVED;
        let finding = object.finding(Severity::Warning, code, "spec", message);
        findings
            .push(finding.hint(
                "write ingressClassName: meshctl to have it served by a gateway of the mesh",
            ));
        None
    }
}
