use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;

/// Name and code of each `NAME: &str = "IST0101"` below `dir`.
fn constants(dir: &Path, found: &mut BTreeSet<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            constants(&path, found);
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let Some((head, rest)) = line.split_once(": &str = \"") else {
                continue;
            };
            let code: String = rest.chars().take_while(|c| *c != '"').collect();
            let prefix = code.starts_with("IST") || code.starts_with("MSH");
            let name = head.rsplit(' ').next().unwrap();
            let constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            if prefix && constant && code.len() == 7 {
                found.insert((code, name.to_owned()));
            }
        }
    }
}

#[test]
fn the_table_has_every_code_once_and_each_means_one_thing() {
    let mut found = BTreeSet::new();
    constants(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (code, name) in &found {
        names.entry(code).or_default().push(name);
    }
    for (code, names) in &names {
        assert_eq!(names.len(), 1, "{code} means several things: {names:?}");
        assert!(find(code).is_some(), "{code} is missing in codes::ALL");
    }
    let listed: Vec<&str> = ALL.iter().map(|known| known.code).collect();
    let once: BTreeSet<&str> = listed.iter().copied().collect();
    assert_eq!(listed.len(), once.len(), "{listed:?}");
    for code in listed {
        assert!(names.contains_key(code), "nothing gives {code}");
    }
}

#[test]
fn what_may_be_forced_is_an_error() {
    for known in ALL.iter().filter(|known| known.forced) {
        assert_eq!(known.severity, Severity::Error, "{}", known.code);
    }
}
