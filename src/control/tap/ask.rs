//! What is asked of a tap, and what of it each proxy is told.

use std::fmt::Write as _;
use std::time::Duration;

use crate::mesh::expression::{Expression, quoted};
use crate::mesh::tap::{Tap, rate};
use crate::mesh::world::selects;
use crate::mesh::{Node, World};

use super::super::report::find_service;

/// Told of every call, since traces are told by them.
pub(super) const TRACE: [&str; 2] = ["traceparent", "x-b3-traceid"];

/// Calls a second where nothing else is said.
pub const RATE: u32 = 100;
/// Most calls a second that can be asked for.
pub const MOST_RATE: u32 = 10_000;

/// One end of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A service: its fully qualified name.
    Service(String),
    /// A workload and its namespace.
    Workload(String, String),
}

impl End {
    /// The service or workload that a person names.
    pub fn named(world: &World, name: &str, namespace: &str) -> Option<Self> {
        if let Some(service) = find_service(world, name, namespace) {
            return Some(Self::Service(service.host.to_string()));
        }
        let (name, namespace) = name.split_once('.').unwrap_or((name, namespace));
        let runs = world
            .instances
            .values()
            .any(|instance| instance.workload == name && instance.namespace == namespace);
        runs.then(|| Self::Workload(name.to_owned(), namespace.to_owned()))
    }

    /// Whether `node` is of it.
    fn has(&self, node: &Node, world: &World) -> bool {
        match self {
            Self::Workload(workload, namespace) => {
                node.workload == *workload && node.namespace == *namespace
            }
            Self::Service(host) => {
                let mut services = world.config.services.values();
                services
                    .find(|service| service.host.as_str() == host)
                    .is_some_and(|service| {
                        let by_name = node.labels.get("app") == Some(&service.name);
                        service.namespace == node.namespace
                            && if service.selector.is_empty() {
                                by_name
                            } else {
                                selects(&service.selector, &node.labels)
                            }
                    })
            }
        }
    }

    /// The condition on calls that it is called by.
    fn called(&self) -> String {
        match self {
            Self::Service(host) => {
                format!("xds.cluster_name.endsWith({})", quoted(&format!("|{host}")))
            }
            Self::Workload(workload, namespace) => format!(
                "upstream_peer.workload == {} && upstream_peer.namespace == {}",
                quoted(workload),
                quoted(namespace)
            ),
        }
    }
}

/// Which calls somebody wants to see, and what of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// At either end.
    pub around: Option<End>,
    /// Who calls.
    pub from: Option<End>,
    /// Who is called.
    pub to: Option<End>,
    /// What paths begin with.
    pub path: Option<String>,
    /// The method.
    pub method: Option<String>,
    /// First and last status.
    pub status: Option<(u16, u16)>,
    /// A field of the request and its value.
    pub header: Option<(String, String)>,
    /// The least duration.
    pub min_latency: Option<Duration>,
    /// Fields of requests that are shown.
    pub show: Vec<String>,
    /// Paths are shown with their queries.
    pub query: bool,
    /// Calls a second.
    pub rate: u32,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            around: None,
            from: None,
            to: None,
            path: None,
            method: None,
            status: None,
            header: None,
            min_latency: None,
            show: Vec::new(),
            query: false,
            rate: RATE,
        }
    }
}

impl Asked {
    /// What the proxy of `node` is to tell of; nothing where it is not concerned.
    pub fn tap(&self, name: &str, node: &Node, world: &World) -> Option<Tap> {
        let has = |end: &Option<End>| end.as_ref().is_none_or(|end| end.has(node, world));
        let mut ways = Vec::new();
        if has(&self.from) {
            let mut out = vec!["xds.listener_direction == 2".to_owned()];
            out.extend(self.to.as_ref().map(End::called));
            let called = self.around.as_ref().filter(|end| !end.has(node, world));
            out.extend(called.map(End::called));
            ways.push(out.join(" && "));
        }
        // Where nobody of the mesh calls, there is only this end to tell of it.
        if self.from.is_none() && has(&self.to) && has(&self.around) {
            ways.push("xds.listener_direction == 1 && downstream_peer.workload == ''".to_owned());
        }
        if ways.is_empty() {
            return None;
        }
        let mut all = self.common();
        all.push(
            ways.iter()
                .map(|way| format!("({way})"))
                .collect::<Vec<_>>()
                .join(" || "),
        );
        let text: Vec<String> = all.iter().map(|one| format!("({one})")).collect();
        // What cannot be read is asked of nobody: all of it was checked when it was asked.
        let condition = Expression::new(&text.join(" && ")).ok()?;
        let headers = self.show.iter().map(String::as_str).chain(TRACE);
        Some(Tap {
            name: name.to_owned(),
            condition,
            headers: headers.map(str::to_owned).collect(),
            rate: rate(self.rate),
        })
    }

    /// Conditions that do not depend on the proxy; what a head decides comes first.
    fn common(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(method) = &self.method {
            all.push(format!("request.method == {}", quoted(method)));
        }
        if let Some(path) = &self.path {
            all.push(format!("request.url_path.startsWith({})", quoted(path)));
        }
        if let Some((name, value)) = &self.header {
            all.push(format!(
                "request.headers[{}] == {}",
                quoted(name),
                quoted(value)
            ));
        }
        if let Some((first, last)) = self.status {
            all.push(format!(
                "response.code >= {first} && response.code <= {last}"
            ));
        }
        if let Some(least) = self.min_latency {
            let mut text = String::new();
            // Writing into a String cannot fail.
            let _infallible = write!(
                text,
                "request.duration >= duration('{}us')",
                least.as_micros()
            );
            all.push(text);
        }
        all
    }

    /// Whether it can be asked of proxies at all.
    pub fn fits(&self) -> bool {
        let mut all = self.common();
        all.extend(
            [&self.around, &self.from, &self.to]
                .into_iter()
                .flatten()
                .map(End::called),
        );
        // And what is said besides, at most.
        let text = all.join(") && (");
        text.len() + 512 <= crate::mesh::expression::MAX_BYTES
            && (all.is_empty() || Expression::new(&format!("({text})")).is_ok())
    }
}

/// `503`, `5xx` or `200-299`, as first and last.
pub fn status(text: &str) -> Option<(u16, u16)> {
    let bounded = |code: u16| (100..600).contains(&code).then_some(code);
    if let Some(class) = text.strip_suffix("xx") {
        let class: u16 = class.parse().ok()?;
        return Some((bounded(class.checked_mul(100)?)?, class * 100 + 99));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (bounded(first.parse().ok()?)?, bounded(last.parse().ok()?)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::super::super::report::caller;
    use super::*;
    use crate::mesh::expression::{Attribute, Attributes, Fields, Value};

    #[test]
    fn statuses_are_read_in_three_ways() {
        for (text, expected) in [
            ("503", Some((503, 503))),
            ("5xx", Some((500, 599))),
            ("200-299", Some((200, 299))),
            ("299-200", None),
            ("xx", None),
            ("9xx", None),
            ("99999xx", None),
            ("", None),
        ] {
            assert_eq!(status(text), expected, "{text}");
        }
    }

    fn node(workload: &str) -> Node {
        Node {
            workload: workload.to_owned(),
            ..caller(&World::default(), "", "default").unwrap()
        }
    }

    fn workload(name: &str) -> End {
        End::Workload(name.to_owned(), "default".to_owned())
    }

    /// An outbound or inbound call of a proxy.
    struct Call(i64, &'static str);

    impl Attributes for Call {
        fn attribute(&self, which: Attribute) -> Value<'_> {
            match which {
                Attribute::Direction => Value::Int(self.0),
                Attribute::UpstreamWorkload => Value::Text(self.1.into()),
                Attribute::UpstreamNamespace => Value::Text("default".into()),
                Attribute::DownstreamWorkload => Value::Text("".into()),
                _ => Value::Absent,
            }
        }

        fn field(&self, _of: Fields, _name: &str) -> Value<'_> {
            Value::Absent
        }
    }

    fn tells(asked: &Asked, of: &str, call: &Call) -> bool {
        let tap = asked.tap("tap/1", &node(of), &World::default());
        tap.is_some_and(|tap| tap.condition.holds(call) == Some(true))
    }

    #[test]
    fn each_call_is_told_by_one_proxy() {
        let around = Asked {
            around: Some(workload("b")),
            ..Asked::default()
        };
        assert!(tells(&around, "a", &Call(2, "b")));
        assert!(!tells(&around, "a", &Call(2, "c")));
        assert!(tells(&around, "b", &Call(2, "c")));
        assert!(tells(&around, "b", &Call(1, "")));
        assert!(!tells(&around, "a", &Call(1, "")));
        let between = Asked {
            from: Some(workload("a")),
            to: Some(workload("b")),
            ..Asked::default()
        };
        assert!(tells(&between, "a", &Call(2, "b")));
        assert!(!tells(&between, "a", &Call(2, "c")));
        assert!(
            between
                .tap("tap/1", &node("b"), &World::default())
                .is_none()
        );
        assert!(
            between
                .tap("tap/1", &node("c"), &World::default())
                .is_none()
        );
        let to = Asked {
            to: Some(workload("b")),
            ..Asked::default()
        };
        assert!(tells(&to, "c", &Call(2, "b")));
        assert!(tells(&to, "b", &Call(1, "")));
        assert!(!tells(&to, "b", &Call(2, "c")));
    }

    #[test]
    fn what_is_asked_cannot_break_out_of_its_condition() {
        let asked = Asked {
            path: Some("/a' || true || '".to_owned()),
            header: Some(("x\\".to_owned(), "'".to_owned())),
            ..Asked::default()
        };
        assert!(asked.fits());
        assert!(!tells(&asked, "a", &Call(2, "b")));
        let long = Asked {
            path: Some("x".repeat(5_000)),
            ..Asked::default()
        };
        assert!(!long.fits());
    }
}
