//! A hint for each code, and what comes of following it.
//!
//! `hints/CODE/bad.yaml` is a mistake that gives this code and no other; `good.yaml` is what became of
//! it by doing what the hint says, and gives none. A code without such a pair says in [`WITHOUT`] why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use meshctl::mesh::Finding;
use meshctl::resource::{Instances, Objects, analyze, codes, collect, parse};

use crate::mesh::instances;

/// Codes that no file gives alone, and why.
const WITHOUT: &[(&str, &str)] = &[(
    "MSH0306",
    "rules that others stand before are out of reach, which IST0130 says beside it",
)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hints")
}

/// What is found in `CODE/NAME`, over the pods that it has.
fn found(code: &str, name: &str) -> Result<Vec<Finding>, String> {
    let path = root().join(code).join(name);
    let text = fs::read_to_string(&path).map_err(|_| format!("{code}/{name} is missing"))?;
    let (objects, _) = collect(parse(&text, name, "default").0);
    let running = instances(&objects);
    let analysis = analyze(
        [(name, text.as_str())],
        "default",
        &Objects::default(),
        running,
    );
    let all = [&analysis.reading, &analysis.meaning, &analysis.checks];
    Ok(all.into_iter().flatten().cloned().collect())
}

/// What is wrong with the pair of `code`.
fn judge(code: &str) -> Result<(), String> {
    let bad = found(code, "bad.yaml")?;
    let named: BTreeSet<&str> = bad.iter().map(|finding| finding.code.as_str()).collect();
    if named != BTreeSet::from([code]) {
        return Err(format!("{code}/bad.yaml gives {bad:#?}"));
    }
    for finding in &bad {
        let hint = finding.hint.as_deref().unwrap_or_default();
        if finding.origin.line == 0 || finding.origin.column == 0 || hint.trim().is_empty() {
            return Err(format!("{code} has no place or no hint: {finding}"));
        }
    }
    let good = found(code, "good.yaml")?;
    if !good.is_empty() {
        return Err(format!("{code}/good.yaml still gives {good:#?}"));
    }
    Ok(())
}

#[test]
fn each_code_has_a_hint_and_following_it_helps() {
    let without = |code: &str| WITHOUT.iter().any(|(known, _)| *known == code);
    let faults: Vec<String> = codes::ALL
        .iter()
        .filter(|known| !without(known.code))
        .filter_map(|known| judge(known.code).err())
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // Neither a pair nor an excuse outlives its code.
    let pairs = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let excused = WITHOUT.iter().map(|(code, _)| (*code).to_owned());
    for code in pairs.map(|name| name.into_string().unwrap()).chain(excused) {
        assert!(codes::find(&code).is_some(), "there is no code {code}");
    }
    for (code, why) in WITHOUT {
        assert!(!why.is_empty() && !root().join(code).exists(), "{code}");
    }
}

/// What runs has a part in some of them, so that without it fewer are found, and never others.
#[test]
fn files_alone_give_no_more_than_files_over_what_runs() {
    for entry in fs::read_dir(root()).unwrap() {
        let code = entry.unwrap().file_name().into_string().unwrap();
        let text = fs::read_to_string(root().join(&code).join("bad.yaml")).unwrap();
        let alone = analyze(
            [("x", text.as_str())],
            "default",
            &Objects::default(),
            Instances::default(),
        );
        let all = [&alone.reading, &alone.meaning, &alone.checks];
        for finding in all.into_iter().flatten() {
            assert_eq!(finding.code, code, "{finding}");
        }
    }
}
