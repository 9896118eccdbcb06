//! Everything that is wrong with texts, by themselves or over what runs, without applying them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::lower::{Instances, lower};
use super::object::{Key, Objects};
use super::parse::{collect, parse};
use crate::mesh::{Finding, World, check};

/// The annotation by which an object's owner wants to hear nothing of some codes: `IST0130,IST0173`
/// or `*`. Istio's.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

/// Texts over what runs.
#[derive(Debug, Default)]
pub struct Analysis {
    /// Those of the texts that could be read, by key.
    pub read: Objects,
    /// The texts' objects, and those of `over` that the texts do not replace.
    pub objects: Objects,
    /// What they mean together.
    pub world: World,
    /// What is wrong with the texts in themselves; an error here leaves its object out.
    pub reading: Vec<Finding>,
    /// What does not fit together.
    pub meaning: Vec<Finding>,
    /// What is meant and what runs, looked at together.
    pub checks: Vec<Finding>,
}

/// Reads `texts` (name and text), whose objects without a namespace are of `namespace`, and lays
/// them over the objects `over`.
pub fn analyze<'a>(
    texts: impl IntoIterator<Item = (&'a str, &'a str)>,
    namespace: &str,
    over: &Objects,
    instances: Instances,
) -> Analysis {
    let mut all = Vec::new();
    let mut reading = Vec::new();
    for (name, text) in texts {
        let (objects, found) = parse(text, name, namespace);
        all.extend(objects);
        reading.extend(found);
    }
    let (read, twice) = collect(all);
    reading.extend(twice);
    let mut objects = over.clone();
    objects.extend(
        read.iter()
            .map(|(key, object)| (key.clone(), Arc::clone(object))),
    );
    let (world, meaning) = lower(&objects, instances);
    let checks = check::run(&world);
    Analysis {
        read,
        objects,
        world,
        reading,
        meaning,
        checks,
    }
}

impl Analysis {
    /// All findings, by file and line, without those that their object's annotation is silent about;
    /// and how many those are.
    pub fn findings(&self) -> (Vec<Finding>, usize) {
        let all: BTreeSet<&Finding> = self
            .reading
            .iter()
            .chain(&self.meaning)
            .chain(&self.checks)
            .collect();
        let count = all.len();
        let mut told: Vec<Finding> = all
            .into_iter()
            .filter(|finding| !self.is_silenced(finding))
            .cloned()
            .collect();
        told.sort_by(|a, b| {
            let place = |f: &Finding| (f.origin.file.clone(), f.origin.line, f.origin.column);
            place(a).cmp(&place(b)).then_with(|| a.cmp(b))
        });
        let silenced = count - told.len();
        (told, silenced)
    }

    fn is_silenced(&self, finding: &Finding) -> bool {
        let key = Key {
            kind: finding.origin.kind.clone(),
            namespace: finding.origin.namespace.clone(),
            name: finding.origin.name.clone(),
        };
        self.objects
            .get(&key)
            .and_then(|object| object.metadata.annotations.get(SUPPRESS))
            .is_some_and(|codes| {
                codes
                    .split(',')
                    .map(str::trim)
                    .any(|code| code == "*" || code == finding.code)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
";
    const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http: [{route: [{destination: {host: web, subset: v1}}]}]
";

    fn codes(analysis: &Analysis) -> Vec<String> {
        let (findings, _) = analysis.findings();
        findings.into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn texts_are_judged_over_what_runs() {
        let none = Instances::default();
        let alone = analyze(
            [("a.yaml", ROUTE)],
            "default",
            &Objects::new(),
            none.clone(),
        );
        assert_eq!(codes(&alone), ["MSH0008", "IST0101"]);
        let under = analyze(
            [("s.yaml", SERVICE)],
            "default",
            &Objects::new(),
            none.clone(),
        );
        assert_eq!(codes(&under), [""; 0]);
        let over = analyze([("a.yaml", ROUTE)], "default", &under.objects, none);
        assert_eq!(codes(&over), ["IST0101"], "the subset is missing still");
        assert_eq!((over.read.len(), over.objects.len()), (1, 2));
    }

    #[test]
    fn an_annotation_silences_its_codes() {
        for (codes_, left) in [
            ("IST0101", 1),
            ("MSH0008, IST0101", 0),
            ("*", 0),
            ("IST", 2),
        ] {
            let text = ROUTE.replace(
                "{name: web}",
                &format!(
                    "{{name: web, annotations: {{galley.istio.io/analyze-suppress: \"{codes_}\"}}}}"
                ),
            );
            let analysis = analyze(
                [("a.yaml", text.as_str())],
                "default",
                &Objects::new(),
                Instances::default(),
            );
            let (told, silenced) = analysis.findings();
            assert_eq!((told.len(), silenced), (left, 2 - left), "{codes_}");
        }
    }
}
