//! Finding the route of a request.

#![expect(
    clippy::disallowed_types,
    reason = "a lookup on the data path; nothing iterates over it"
)]

use std::collections::HashMap;
use std::sync::Arc;

use super::{Request, Route, RouteTable, VirtualHost};

/// A route table with an index over its host names.
#[derive(Debug, Clone)]
pub struct Router {
    table: Arc<RouteTable>,
    exact: HashMap<Box<[u8]>, usize>,
    /// `.example.com`.
    suffixes: HashMap<Box<[u8]>, usize>,
    /// How long suffixes are, longest first: one look a length, however many there are.
    lengths: Vec<usize>,
    any: Option<usize>,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The virtual host.
    pub host: &'a VirtualHost,
    /// Its index in the table.
    pub host_index: usize,
    /// The route.
    pub route: &'a Route,
    /// Its index in the virtual host.
    pub route_index: usize,
}

impl Router {
    /// Indexes `table`. Of two virtual hosts that claim one name the first keeps it.
    pub fn new(table: &Arc<RouteTable>) -> Self {
        let mut router = Self {
            table: Arc::clone(table),
            exact: [].into(),
            suffixes: [].into(),
            lengths: Vec::new(),
            any: None,
        };
        for (index, host) in table.hosts.iter().enumerate() {
            for domain in &host.domains {
                let domain = domain.to_ascii_lowercase();
                if domain == "*" {
                    router.any.get_or_insert(index);
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    router
                        .suffixes
                        .entry(suffix.as_bytes().into())
                        .or_insert(index);
                    router.lengths.push(suffix.len());
                } else {
                    router
                        .exact
                        .entry(domain.as_bytes().into())
                        .or_insert(index);
                }
            }
        }
        router.lengths.sort_unstable_by(|a, b| b.cmp(a));
        router.lengths.dedup();
        router
    }

    /// The table that it was made from.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }

    /// The virtual host for `authority`, which may have a port. Where the table ignores ports, the
    /// name with its port is tried first, then the name alone.
    pub fn host(&self, authority: &[u8]) -> Option<usize> {
        let mut lowered = [0_u8; 264];
        let authority = match lowered.get_mut(..authority.len()) {
            // Host names are matched without case; most come lowered already.
            Some(copy) => {
                copy.copy_from_slice(authority);
                copy.make_ascii_lowercase();
                &*copy
            }
            None => return self.any,
        };
        let name = if self.table.ignore_port {
            without_port(authority)
        } else {
            authority
        };
        self.exact
            .get(authority)
            .or_else(|| self.exact.get(name))
            .copied()
            .or_else(|| {
                self.lengths.iter().find_map(|length| {
                    // A suffix is not the whole name.
                    let at = name.len().checked_sub(*length).filter(|at| *at > 0)?;
                    self.suffixes.get(name.get(at..)?).copied()
                })
            })
            .or(self.any)
    }

    /// The first route whose conditions all hold for `request`.
    pub fn find(&self, request: &dyn Request) -> Option<Found<'_>> {
        let host_index = self.host(request.authority())?;
        let host = self.table.hosts.get(host_index)?;
        let (route_index, route) = host
            .routes
            .iter()
            .enumerate()
            .find(|(_, route)| route.matches.holds(request))?;
        Some(Found {
            host,
            host_index,
            route,
            route_index,
        })
    }
}

/// `name` of `name:port`, `[v6]:port` or `name`.
pub fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(at)
            if authority
                .get(at + 1..)
                .is_some_and(|port| port.iter().all(u8::is_ascii_digit))
                && !authority
                    .get(..at)
                    .is_some_and(|name| name.contains(&b':') && !name.ends_with(b"]")) =>
        {
            authority.get(..at).unwrap_or(authority)
        }
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(domains: &[&[&str]]) -> Router {
        Router::new(&Arc::new(RouteTable {
            name: "9080".to_owned(),
            ignore_port: true,
            hosts: domains
                .iter()
                .map(|domains| VirtualHost {
                    name: String::new(),
                    domains: domains.iter().map(|d| (*d).to_owned()).collect(),
                    routes: Vec::new(),
                    ..VirtualHost::default()
                })
                .collect(),
        }))
    }

    #[test]
    fn exact_beats_longest_suffix_beats_any() {
        let router = router(&[
            &["*"],
            &["*.com"],
            &["*.example.com"],
            &["a.example.com", "b:80"],
        ]);
        for (authority, host) in [
            ("a.example.com", 3),
            ("A.Example.COM:8080", 3),
            ("x.example.com", 2),
            ("example.com", 1),
            ("b:80", 3),
            ("b", 0),
            ("[::1]:80", 0),
        ] {
            assert_eq!(router.host(authority.as_bytes()), Some(host), "{authority}");
        }
    }

    #[test]
    fn a_bare_name_is_no_other_port_where_ports_count() {
        let mut table = RouteTable::clone(router(&[&["*"], &["b", "b:80"], &["*.c"]]).table());
        table.ignore_port = false;
        let router = Router::new(&Arc::new(table));
        for (authority, host) in [
            ("b", 1),
            ("b:80", 1),
            ("B:80", 1),
            ("b:1234", 0),
            ("a.c", 2),
            ("a.c:1234", 0),
        ] {
            assert_eq!(router.host(authority.as_bytes()), Some(host), "{authority}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_longest_suffix_is_found(
            suffixes in proptest::collection::vec("[ab.]{1,4}", 0..8),
            name in "[ab.]{1,6}",
        ) {
            let domains: Vec<String> = suffixes.iter().map(|s| format!("*{s}")).collect();
            let lists: Vec<[&str; 1]> = domains.iter().map(|d| [d.as_str()]).collect();
            let lists: Vec<&[&str]> = lists.iter().map(|list| &list[..]).collect();
            let mut expected: Vec<(usize, usize)> = suffixes
                .iter()
                .enumerate()
                .filter(|(_, s)| name.len() > s.len() && name.ends_with(s.as_str()))
                .map(|(at, s)| (usize::MAX - s.len(), at))
                .collect();
            expected.sort_unstable();
            let expected = expected.first().map(|(_, at)| *at);
            proptest::prop_assert_eq!(router(&lists).host(name.as_bytes()), expected);
        }
    }

    #[test]
    fn ports_are_cut_off_names_and_bracketed_addresses_only() {
        for (authority, name) in [
            ("a:1", "a"),
            ("[::1]:1", "[::1]"),
            ("::1", "::1"),
            ("a", "a"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(
                without_port(authority.as_bytes()),
                name.as_bytes(),
                "{authority}"
            );
        }
    }
}
