//! Which of Envoy's fields are supported, as a page for people, from the tables that the decoder runs.

use std::fmt::Write as _;

use super::fields::Fields;
use super::{
    access_log, balancing, cluster, compressor, cors, dns, endpoint, ext_authz, fault, filter,
    health, http, http2, jwt_authn, limits, listener, mtls, origination, rbac, route_fields,
    server_tls, session, sockets,
};

/// Every table, in the order of the page.
const TABLES: &[&[&Fields]] = &[
    listener::FIELDS,
    access_log::FIELDS,
    http::FIELDS,
    filter::FIELDS,
    fault::FIELDS,
    compressor::FIELDS,
    cors::FIELDS,
    session::FIELDS,
    jwt_authn::FIELDS,
    rbac::FIELDS,
    ext_authz::FIELDS,
    route_fields::FIELDS,
    cluster::FIELDS,
    dns::FIELDS,
    http2::FIELDS,
    balancing::FIELDS,
    limits::FIELDS,
    health::FIELDS,
    endpoint::FIELDS,
    mtls::FIELDS,
    server_tls::FIELDS,
    origination::FIELDS,
    sockets::FIELDS,
];

const HEAD: &str = "\
# Supported xDS fields

Generated from the tables in `src/xds/decode` by the test `xds::decode::support`; do not edit.

What is *supported* has its effect. What only *tunes* has none here and is harmless: it is accepted, and named in
`ignored` of the proxy's admin endpoint. Everything else of a message could change where a request goes or who may
send it, so a resource that sets it is rejected with the field's name (a NACK), and the last good one stays in force;
fields that are known and refused are listed.

";

/// The page, in Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for fields in TABLES.iter().copied().flatten() {
        let _written = writeln!(page, "## {}\n", fields.message);
        line(&mut page, "Supported", fields.understood);
        line(&mut page, "Only tunes", fields.tuning);
        line(&mut page, "Refused", fields.refused);
    }
    while page.ends_with("\n\n") {
        page.pop();
    }
    page
}

fn line(page: &mut String, what: &str, fields: &[(u32, &str)]) {
    if fields.is_empty() {
        return;
    }
    let mut names: Vec<String> = fields.iter().map(|(_, name)| format!("`{name}`")).collect();
    names.sort();
    let _written = writeln!(page, "{what}: {}.\n", names.join(", "));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn the_page_is_what_the_decoder_does() {
        let path = root().join("docs/xds-support.md");
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        let generated = page();
        if written != generated {
            // For whoever changed a table: the page is right from now on, and this run says so.
            std::fs::write(&path, &generated).unwrap();
            panic!("docs/xds-support.md was not up to date; it has been written again");
        }
    }

    #[test]
    fn every_table_is_on_the_page() {
        let directory = root().join("src/xds/decode");
        let tables: usize = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
            .map(|text| text.matches(concat!("Fields = ", "Fields {")).count())
            .sum();
        let listed: usize = TABLES.iter().map(|tables| tables.len()).sum();
        assert_eq!(tables, listed);
    }

    #[test]
    fn no_field_is_in_two_lists() {
        for fields in TABLES.iter().copied().flatten() {
            let mut numbers: Vec<u32> = [fields.understood, fields.tuning, fields.refused]
                .concat()
                .iter()
                .map(|(number, _)| *number)
                .collect();
            let count = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{}", fields.message);
        }
    }
}
