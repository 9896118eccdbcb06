//! Runs every fuzz target on its seeds, on what is left of them when cut, and on mixtures.
//!
//! This finds what is near; `tests/fuzz/run` looks further.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed step should fail the test"
)]

mod logic;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Reads the seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let seeds: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} has no seed", dir.display());
    seeds
}

fn run(target: &str, cases: u32) {
    let (_, logic) = logic::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .unwrap();
    let seeds = seeds(target);
    for seed in &seeds {
        // At most 128 cuts: a debug build takes its time with long manifests.
        for end in (0..=seed.len()).step_by(1 + seed.len() / 128) {
            logic(&seed[..end]);
        }
        logic(seed);
    }
    // Pieces of seeds, bytes that mean something to most parsers, and any bytes, glued together.
    let piece = (
        any::<prop::sample::Index>(),
        any::<[prop::sample::Index; 2]>(),
    )
        .prop_map(move |(seed, ends)| {
            let seed = seed.get(&seeds);
            let [a, b] = ends.map(|end| end.index(seed.len() + 1));
            seed[a.min(b)..a.max(b)].to_vec()
        });
    let punctuation = prop::sample::select(b"\n\r \t\0.:/*-_?&=#%[](){}|^$\\+\"',<>\xff".to_vec())
        .prop_map(|byte| vec![byte]);
    let any_bytes = prop::collection::vec(any::<u8>(), 0..4);
    let input = prop::collection::vec(
        prop_oneof![4 => piece, 3 => punctuation, 1 => any_bytes],
        0..6,
    )
    .prop_map(|pieces| pieces.concat());
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&input.prop_map(Bytes), |input| {
            logic(&input.0);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{target}: {error}"));
}

/// Printed as text when a case fails, ready to become a seed.
struct Bytes(Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[test]
fn names() {
    run("names", 2000);
}

#[test]
fn hosts() {
    run("hosts", 2000);
}

#[test]
fn routes() {
    // Compiling its patterns costs more than everything else together.
    run("routes", 400);
}

#[test]
fn peers() {
    run("peers", 2000);
}

#[test]
fn manifests() {
    run("manifests", 200);
}

#[test]
fn introductions() {
    run("introductions", 2000);
}

#[test]
fn hellos() {
    run("hellos", 2000);
}

#[test]
fn tokens() {
    run("tokens", 2000);
}

#[test]
fn api() {
    run("api", 1000);
}

#[test]
fn xds() {
    run("xds", 2000);
}

#[test]
fn requests() {
    run("requests", 4000);
}

#[test]
fn responses() {
    run("responses", 4000);
}

#[test]
fn chunked() {
    run("chunked", 4000);
}

#[test]
fn paths() {
    run("paths", 4000);
}

/// Writes the seeds of `xds` anew from a view that has something of everything.
#[test]
#[ignore = "writes into the source tree; for whoever changes what is encoded"]
fn write_seeds_of_xds() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let text = fs::read_to_string(seeds.join("manifests/mesh.yaml")).unwrap();
    let snapshot = logic::snapshot_of(&text);
    for (at, kind) in meshctl::xds::Kind::ALL.into_iter().enumerate() {
        let longest = snapshot
            .of(kind)
            .max_by_key(|(_, resource)| resource.bytes.len());
        if let Some((name, resource)) = longest {
            let mut seed = vec![u8::try_from(at).unwrap()];
            seed.extend_from_slice(name.as_bytes());
            seed.push(b'\n');
            seed.extend_from_slice(&resource.bytes);
            fs::write(seeds.join("xds").join(kind.short()), seed).unwrap();
        }
    }
}

/// Seeds are of use only as long as they get past the first check of what they are given to.
#[test]
fn the_seeds_of_peers_are_accepted() {
    let seed = |name: &str| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds/peers");
        fs::read(dir.join(name)).unwrap()
    };
    let text = |name: &str| String::from_utf8(seed(name)).unwrap();
    let id = meshctl::tls::peer_id(&[seed("leaf.der").into()]).unwrap();
    assert_eq!(id.service_account, "reviews");
    assert!(meshctl::tls::issuer::request_key(&text("request.pem")).is_ok());
    assert!(meshctl::tls::material::certificates(&text("leaf.pem")).is_ok());
    assert!(text("token").parse::<meshctl::tls::JoinToken>().is_ok());
}

/// Each target is a program of the fuzz crate too, or nobody would ever fuzz it.
#[test]
fn every_target_is_in_the_fuzz_crate() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    for (name, _) in logic::TARGETS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "tests/fuzz/Cargo.toml has no [[bin]] for {name}"
        );
        assert!(
            dir.join(format!("fuzz_targets/{name}.rs")).exists(),
            "{name}"
        );
    }
}
