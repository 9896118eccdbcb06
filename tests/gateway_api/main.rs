//! Gateway API's official conformance suite, rebuilt: each of its tests under its own short name, against
//! the executable.
//!
//! A test of ours runs a group of theirs on one stand, since to start one costs more than most tests.
//! `MESHCTL_CONFORMANCE=HTTPRouteCORS,HTTPRouteWeight` runs these alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_names,
    clippy::format_push_string,
    clippy::unused_self,
    clippy::wrong_self_convention,
    reason = "a failed step should fail the test; the stand is apart from what it stands for"
)]

mod base;
mod case;
mod client;
mod echo;
mod features;
mod gateway;
mod grpc;
mod http_backends;
mod http_filters;
mod http_matching;
mod http_references;
mod manifests;
mod mesh;
mod pki;
mod policy;
#[allow(dead_code, reason = "this needs a part of what the other tests do")]
#[path = "../interop/processes.rs"]
mod processes;
mod stand;
mod status;
mod table;
mod tcp;
mod tls;

use crate::stand::Stand;
use crate::table::{GROUPS, How, Test};

/// Runs the tests of a group, one after the other, and says of all that do not do as the table says.
fn run(group: &str) {
    let only = std::env::var("MESHCTL_CONFORMANCE").unwrap_or_default();
    let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
    let tests = GROUPS.iter().find(|(name, _)| *name == group).unwrap().1;
    let tests: Vec<&Test> = tests
        .iter()
        .filter(|test| only.is_empty() || only.contains(&test.name))
        .collect();
    if tests.is_empty() {
        return;
    }
    let stand = Stand::start();
    let mut wrong = Vec::new();
    for test in tests {
        let begun = std::time::Instant::now();
        let outcome = match test.how {
            How::Runs(run) => run(&stand),
            How::Fails(run, why) => match run(&stand) {
                Ok(()) => Err(format!("it passes now, though the table says: {why}")),
                Err(_) => Ok(()),
            },
            How::Left(_) => continue,
        };
        let took = begun.elapsed().as_millis();
        match outcome {
            Ok(()) => eprintln!("{}: as expected, {took} ms", test.name),
            Err(error) => {
                eprintln!("{}: {error}, {took} ms", test.name);
                wrong.push(format!("{}: {error}", test.name));
            }
        }
        stand.clean();
    }
    assert!(
        wrong.is_empty(),
        "{} failed:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The page says what the table says.
#[test]
fn the_page_of_features_is_up_to_date() {
    let page = features::page();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gateway-api.md");
    let old = std::fs::read_to_string(path).unwrap_or_default();
    if old != page {
        std::fs::write(path, page).unwrap();
        panic!("docs/gateway-api.md was out of date; it has been written anew");
    }
}

/// Who asks a GatewayClass what is supported is told what passes, and all of it.
#[test]
fn a_class_claims_what_passes() {
    assert_eq!(features::wrong_claims(), Vec::<String>::new());
}

macro_rules! groups {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*

        #[test]
        fn every_group_is_run() {
            let run = [$(stringify!($name)),*];
            let groups = GROUPS.iter().map(|(name, _)| *name);
            assert!(groups.filter(|name| *name != "left").eq(run));
        }
    };
}

groups! { gateway http_matching http_filters http_backends http_references grpc tls tcp policy mesh }
