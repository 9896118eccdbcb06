//! Which of several rules comes first.

use std::cmp::Reverse;

use crate::mesh::Hostname;
use crate::mesh::route::{Match, PathMatch};
use crate::resource::gateway_api::GrpcMatch;

/// How narrow the conditions of a rule are, the narrowest first: the API's order for the matches of an
/// HTTPRoute, and for those of a GRPCRoute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Width(Reverse<[usize; 5]>);

impl Width {
    /// Exact paths, then the longest prefix, then a method, then the most headers, then the most query
    /// parameters. Patterns come last (Istio's choice, which the API leaves open).
    pub(super) fn http(of: &Match) -> Self {
        let (rank, length) = match &of.path {
            PathMatch::Exact(path) => (2, path.len()),
            PathMatch::Prefix(path) | PathMatch::Segments(path) => {
                (1, path.trim_end_matches('/').len())
            }
            PathMatch::Regex(pattern) => (0, pattern.as_str().len()),
        };
        let by_method = of.headers.iter().any(|header| header.name == ":method");
        let method = usize::from(by_method);
        let headers = of.headers.len() - method;
        Self(Reverse([rank, length, method, headers, of.query.len()]))
    }

    /// The longest service, then the longest method, then the most headers.
    pub(super) fn grpc(of: &GrpcMatch) -> Self {
        let headers = of.matches.headers.len();
        Self(Reverse([of.service, of.method, headers, 0, 0]))
    }
}

/// How narrow a host is, the narrowest first: a whole name, then the longest wildcard.
pub(super) fn narrowness(host: &Hostname) -> Reverse<(bool, usize)> {
    let text = host.as_str();
    Reverse((!text.starts_with('*'), text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::route::{HeaderMatch, Pattern, QueryMatch, TextMatch};

    #[test]
    fn the_order_of_matches_is_the_apis() {
        let header = |name: &str| HeaderMatch {
            name: name.to_owned(),
            value: TextMatch::Present,
            invert: false,
        };
        let by = |path: PathMatch, headers: &[&str], query: usize| Match {
            path,
            headers: headers.iter().map(|name| header(name)).collect(),
            query: vec![
                QueryMatch {
                    name: "q".to_owned(),
                    value: TextMatch::Present,
                };
                query
            ],
            ..Match::default()
        };
        let prefix = |text: &str| PathMatch::Segments(text.to_owned());
        let narrowest_first = [
            by(PathMatch::Exact("/a".to_owned()), &[], 0),
            by(prefix("/long"), &[], 0),
            by(prefix("/a"), &[":method"], 0),
            by(prefix("/a"), &["x", "y"], 0),
            by(prefix("/a"), &["x"], 2),
            by(prefix("/a"), &["x"], 1),
            by(prefix("/a"), &[], 3),
            by(prefix("/"), &[":method", "x"], 3),
            by(PathMatch::Regex(Pattern::new("/.*").unwrap()), &[], 0),
        ];
        let widths: Vec<Width> = narrowest_first.iter().map(Width::http).collect();
        let mut sorted = widths.clone();
        sorted.sort();
        assert_eq!(widths, sorted);
        assert_eq!(
            Width::http(&by(prefix("/a/"), &[], 0)),
            Width::http(&by(prefix("/a"), &[], 0))
        );
    }

    #[test]
    fn whole_names_are_narrower_than_any_wildcard() {
        let mut hosts: Vec<Hostname> = ["*", "*.example.com", "a.b", "*.com", "long.example.com"]
            .map(|host| host.parse().unwrap())
            .into();
        hosts.sort_by_key(narrowness);
        let texts: Vec<&str> = hosts.iter().map(Hostname::as_str).collect();
        let expected = ["long.example.com", "a.b", "*.example.com", "*.com", "*"];
        assert_eq!(texts, expected);
    }
}
