//! What is said of access logs, and for whom.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Filter, Logger};
use crate::mesh::expression::Expression;
use crate::mesh::told::Told;

/// What is said of access logs in the mesh.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// For everybody, under all else.
    pub base: Vec<Named>,
    /// By Telemetries, the oldest first.
    pub all: Vec<Arc<Told<Rule>>>,
}

/// A log by the name of its provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The provider.
    pub name: String,
    /// What it is.
    pub logger: Logger,
}

/// One thing that is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rule {
    /// Of the calls of applications, and of gateways.
    pub client: bool,
    /// Of the calls to applications.
    pub server: bool,
    /// Which logs; those that were there before where none are named.
    pub loggers: Option<Vec<Named>>,
    /// Nothing is logged by these.
    pub off: bool,
    /// Only calls for which this holds.
    pub filter: Option<Expression>,
}

/// What is logged where `told` holds, each narrower than the one before; nothing where nothing is said at all.
pub fn logs(base: &[Named], told: &[&Told<Rule>], client: bool) -> Option<Vec<Logger>> {
    let mut current: Vec<(Named, bool)> = base.iter().map(|named| (named.clone(), true)).collect();
    let mut said = !base.is_empty();
    for told in told {
        let holds = |rule: &&Rule| if client { rule.client } else { rule.server };
        let rules: Vec<&Rule> = told.rules.iter().filter(holds).collect();
        if rules.is_empty() {
            continue;
        }
        said = true;
        // Whoever names logs names all of them.
        if rules.iter().any(|rule| rule.loggers.is_some()) {
            let named = rules
                .iter()
                .filter_map(|rule| rule.loggers.as_ref())
                .flatten();
            let mut seen = BTreeSet::new();
            current = named
                .filter(|named| seen.insert(named.name.clone()))
                .map(|named| (named.clone(), true))
                .collect();
        }
        for rule in rules {
            let meant = |named: &Named| {
                rule.loggers
                    .as_ref()
                    .is_none_or(|of| of.iter().any(|other| other.name == named.name))
            };
            for (named, on) in current.iter_mut().filter(|(named, _)| meant(named)) {
                *on = !rule.off;
                if let Some(filter) = &rule.filter {
                    named.logger.filter = Some(Filter::Expression(filter.clone()));
                }
            }
        }
    }
    let on = current.into_iter().filter(|(_, on)| *on);
    said.then(|| {
        let logs: Vec<Logger> = on.map(|(named, _)| named.logger).collect();
        if logs.is_empty() {
            vec![Logger::off()]
        } else {
            logs
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::access_log::{Format, Sink};
    use crate::mesh::finding::Origin;
    use crate::mesh::policy::Whom;

    fn named(name: &str) -> Named {
        Named {
            name: name.to_owned(),
            logger: Logger::file(format!("/var/log/{name}"), Format::Text("x\n".to_owned())),
        }
    }

    fn told(rules: Vec<Rule>) -> Told<Rule> {
        Told {
            namespace: "default".to_owned(),
            whom: Whom::All,
            rules,
            origin: Origin::default(),
        }
    }

    fn rule() -> Rule {
        Rule {
            client: true,
            server: true,
            ..Rule::default()
        }
    }

    fn paths(base: &[Named], told: &[&Told<Rule>], client: bool) -> Option<Vec<String>> {
        let logs = logs(base, told, client)?;
        let path = |log: Logger| match log.to {
            Sink::File { path, .. } => path,
            Sink::Service(service) => service.name.clone(),
        };
        Some(logs.into_iter().map(path).collect())
    }

    #[test]
    fn the_narrowest_says_which_and_whether() {
        assert_eq!(paths(&[], &[], true), None);
        let base = [named("a")];
        assert_eq!(paths(&base, &[], true).unwrap(), ["/var/log/a"]);
        let others = told(vec![Rule {
            loggers: Some(vec![named("b"), named("c")]),
            ..rule()
        }]);
        assert_eq!(
            paths(&base, &[&others], true).unwrap(),
            ["/var/log/b", "/var/log/c"]
        );
        let off = told(vec![Rule {
            off: true,
            ..rule()
        }]);
        assert_eq!(paths(&base, &[&others, &off], true).unwrap(), ["/dev/null"]);
        let one_off = told(vec![Rule {
            loggers: Some(vec![named("b")]),
            off: true,
            client: true,
            ..Rule::default()
        }]);
        assert_eq!(
            paths(&base, &[&others, &one_off], true).unwrap(),
            ["/dev/null"]
        );
        assert_eq!(
            paths(&base, &[&others, &one_off], false).unwrap(),
            ["/var/log/b", "/var/log/c"]
        );
        let on_again = told(vec![rule()]);
        assert_eq!(
            paths(&base, &[&off, &on_again], true).unwrap(),
            ["/var/log/a"]
        );
    }

    #[test]
    fn a_filter_is_for_those_that_its_entry_names() {
        let filter = Expression::new("response.code >= 500").unwrap();
        let some = told(vec![Rule {
            filter: Some(filter.clone()),
            ..rule()
        }]);
        let logs = logs(&[named("a")], &[&some], false).unwrap();
        assert_eq!(logs[0].filter, Some(Filter::Expression(filter)));
    }
}
