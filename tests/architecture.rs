//! Keeps `src/` a one-way street: a layer may use only the layers named beside it. Also keeps layers
//! explained and files short.

#![allow(clippy::unwrap_used, reason = "a failed read should fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Ident, TokenStream, TokenTree};

/// Each layer and what it may use. `proxy` and `control` never appear on each
/// other's lines: they meet only on the wire, in `xds`.
const LAYERS: &[(&str, &str)] = &[
    ("rt", ""),
    ("net", "rt"),
    ("mesh", ""),
    ("api", "mesh"),
    ("jwt", ""),
    ("telemetry", "rt mesh"),
    ("tls", "rt net mesh"),
    ("resource", "mesh jwt"),
    ("source", "rt net mesh tls resource"),
    ("xds", "rt mesh"),
    ("proxy", "rt net mesh api jwt telemetry tls xds"),
    ("aggregate", "rt net mesh api telemetry"),
    ("inject", "mesh resource"),
    ("install", "mesh resource inject"),
    (
        "control",
        "rt net mesh api jwt telemetry tls resource source xds aggregate inject install",
    ),
    ("local", "rt net resource api"),
    ("dashboard", "rt net mesh api"),
    (
        "cli",
        "rt net mesh api telemetry tls resource source xds proxy aggregate inject install control local dashboard",
    ),
];

/// Layers that only compute: they take time, chance and bytes as arguments.
const PURE: &str = "mesh api jwt resource xds inject install";
const IMPURE: &str = "tokio tonic hyper kube sled";

/// Made by tools, so not held to the rules.
const GENERATED: &str = "src/xds/proto";

#[test]
fn layers_point_one_way() {
    let layers: BTreeMap<&str, &str> = LAYERS.iter().copied().collect();
    let mut faults = String::new();
    for file in rust_files(Path::new("src")) {
        let Some(layer) = layer_of(&file) else {
            continue;
        };
        let Some(may_use) = layers.get(layer.as_str()) else {
            writeln!(
                faults,
                "{}: layer `{layer}` is not in LAYERS",
                file.display()
            )
            .unwrap();
            continue;
        };
        let tokens: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
        let mut used = BTreeSet::new();
        roots(tokens, &mut used);
        let own = modules_of(&layer);
        for Root {
            name: root,
            line,
            of_crate,
        } in used
        {
            // A layer may have a module of its own that is named as another layer.
            let is_own = !of_crate && own.contains(&root);
            let is_layer = layers.contains_key(root.as_str()) && root != layer && !is_own;
            if is_layer && !names(may_use, &root) {
                writeln!(
                    faults,
                    "{}:{line}: `{layer}` may not use `{root}`",
                    file.display()
                )
                .unwrap();
            }
            if names(PURE, &layer) && names(IMPURE, &root) {
                writeln!(
                    faults,
                    "{}:{line}: `{layer}` is pure; `{root}` does I/O",
                    file.display()
                )
                .unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// The list reads top to bottom: a layer uses only layers above it.
#[test]
fn layers_are_listed_in_order() {
    for (i, (layer, may_use)) in LAYERS.iter().enumerate() {
        for used in may_use.split_whitespace() {
            let at = LAYERS.iter().position(|(l, _)| *l == used);
            assert!(
                at.is_some_and(|at| at < i),
                "`{layer}` uses `{used}`, which is not above it"
            );
        }
    }
}

/// Somebody new reads the module doc first: it says what the layer owns, and so what it does not.
#[test]
fn every_layer_says_what_it_owns() {
    let mut faults = String::new();
    for (layer, _) in LAYERS {
        let file = Path::new("src").join(layer).join("mod.rs");
        let Ok(text) = fs::read_to_string(&file) else {
            writeln!(faults, "{}: not there", file.display()).unwrap();
            continue;
        };
        if let Some(fault) = fault_of_doc(&text) {
            writeln!(faults, "{}:1: {fault}", file.display()).unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// What is wrong with the module doc at the top of `text`.
fn fault_of_doc(text: &str) -> Option<&'static str> {
    let doc: Vec<&str> = text.lines().take_while(|l| l.starts_with("//!")).collect();
    let owns = |line: &&str| {
        line.split(|c: char| !c.is_alphanumeric())
            .any(|w| w == "Owns")
    };
    if doc.is_empty() {
        Some("the first line is not a module doc (`//!`)")
    } else if !doc.iter().any(owns) {
        Some("the module doc does not say what the layer \"Owns\" and leaves to others")
    } else {
        None
    }
}

#[test]
fn no_file_is_long_without_a_reason() {
    let mut faults = String::new();
    for file in rust_files(Path::new("src")) {
        if file.starts_with(GENERATED) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().count();
        if is_too_long(&text) {
            writeln!(
                faults,
                "{}: {lines} lines; split it at {LONGEST}, or say in its first comment why it is long",
                file.display()
            )
            .unwrap();
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Lines of a file that nobody has to explain.
const LONGEST: usize = 600;

fn is_too_long(text: &str) -> bool {
    let mut first_comment = text.lines().take_while(|line| line.starts_with("//"));
    let has_reason = first_comment.any(|line| {
        line.split(|c: char| !c.is_alphanumeric())
            .any(|w| w == "long")
    });
    text.lines().count() > LONGEST && !has_reason
}

/// The checks of documents and lengths can fail.
#[test]
fn bad_documents_and_long_files_are_noticed() {
    assert_eq!(
        fault_of_doc("//! Clocks.\n//!\n//! Owns time.\nmod a;"),
        None
    );
    assert!(fault_of_doc("use std::fmt;\n//! Owns it.").is_some());
    assert!(fault_of_doc("//! Clocks, which nobody Ownsx.\nmod a;").is_some());
    let body = "fn f() {}\n".repeat(LONGEST);
    assert!(!is_too_long(&body));
    assert!(is_too_long(&format!("//! A table.\n{body}")));
    assert!(!is_too_long(&format!(
        "//! A table, long because it is one.\n{body}"
    )));
}

/// A page about security is believed, so it may not speak of tests that are gone.
#[test]
fn every_test_that_the_threat_model_names_exists() {
    let page = fs::read_to_string("docs/threat-model.md").unwrap();
    let named = named_tests(&page);
    assert!(named.len() > 30, "only {} tests are named", named.len());
    let mut faults = String::new();
    for (file, test) in named {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if !has_test(&text, &test) {
            writeln!(faults, "docs/threat-model.md: no test `{test}` in {file}").unwrap();
        }
    }
    // Each row of a table of attacks has one.
    for line in attacks_without_test(&page) {
        writeln!(faults, "docs/threat-model.md: no test is named: {line}").unwrap();
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// Tests as ``file.rs::name`` in back quotes.
fn named_tests(page: &str) -> Vec<(String, String)> {
    page.split('`')
        .filter_map(|word| word.split_once(".rs::"))
        .map(|(file, test)| (format!("{file}.rs"), test.to_owned()))
        .collect()
}

/// Rows below a heading "Attacks …" that name no test.
fn attacks_without_test(page: &str) -> Vec<&str> {
    let mut of_attacks = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            of_attacks = heading.starts_with("Attacks");
        }
        let is_row = line.starts_with("| ") && !line.starts_with("| attack |");
        if of_attacks && is_row && named_tests(line).is_empty() {
            found.push(line);
        }
    }
    found
}

/// Whether `text` has a function `name` under an attribute that makes it a test.
fn has_test(text: &str, name: &str) -> bool {
    let begins = [format!("fn {name}("), format!("async fn {name}(")];
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if is_test && begins.iter().any(|begin| line.starts_with(begin.as_str())) {
            return true;
        } else if line.contains("fn ") {
            is_test = false;
        }
    }
    false
}

/// Each `unsafe` is explained in `docs/threat-model.md`, and counted there.
#[test]
fn unsafe_code_is_counted_and_explained() {
    let page = fs::read_to_string("docs/threat-model.md").unwrap();
    let (_, table) = page.split_once("## Unsafe code").unwrap();
    let explained: BTreeMap<String, usize> = table.lines().filter_map(unsafe_row).collect();
    let mut found = BTreeMap::new();
    for dir in ["src", "tests"] {
        for file in rust_files(Path::new(dir)) {
            let tokens: TokenStream = fs::read_to_string(&file).unwrap().parse().unwrap();
            let count = count_unsafe(tokens);
            if count > 0 {
                found.insert(file.display().to_string(), count);
            }
        }
    }
    assert_eq!(
        found, explained,
        "what the code has, and what docs/threat-model.md explains"
    );
}

/// File and number of a row of the table; rows without a reason do not count.
fn unsafe_row(line: &str) -> Option<(String, usize)> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [file, uses, why] = cells.as_slice() else {
        return None;
    };
    let uses = uses.parse().ok().filter(|_| !why.is_empty())?;
    Some((file.trim_matches('`').to_owned(), uses))
}

/// Blocks, functions, implementations and attributes that say `unsafe`, also within macros.
fn count_unsafe(tokens: TokenStream) -> usize {
    tokens
        .into_iter()
        .map(|token| match token {
            TokenTree::Ident(word) => usize::from(word == "unsafe"),
            TokenTree::Group(group) => count_unsafe(group.stream()),
            _ => 0,
        })
        .sum()
}

/// The checks of the threat model can fail.
#[test]
fn tests_that_are_gone_and_unsafe_code_are_noticed() {
    let text =
        "#[test]\nfn a() {}\nfn b() {}\n#[tokio::test(flavor = \"x\")]\n#[ignore]\nasync fn c() {}";
    assert!(has_test(text, "a") && has_test(text, "c"));
    assert!(!has_test(text, "b") && !has_test(text, "d"));
    let page =
        "## Attacks\n| attack | x |\n|---|---|\n| y | `a/b.rs::c` |\n| z | |\n## Unsafe\n| w | |";
    assert_eq!(named_tests(page), [("a/b.rs".to_owned(), "c".to_owned())]);
    assert_eq!(attacks_without_test(page), ["| z | |"]);
    let code =
        "fn f() { m!(unsafe { g() }); } unsafe fn h() {} // unsafe\nconst S: &str = \"unsafe\";";
    assert_eq!(count_unsafe(code.parse().unwrap()), 2);
    let row = unsafe_row("| `src/a.rs` | 2 | because |");
    assert_eq!(row, Some(("src/a.rs".to_owned(), 2)));
    assert_eq!(unsafe_row("| `src/a.rs` | 2 | |"), None);
}

fn names(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|n| n == name)
}

/// The first name of a path, and where it is written.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Root {
    name: String,
    line: usize,
    /// It follows `crate::`, so it can be nothing but a layer.
    of_crate: bool,
}

impl Root {
    fn new(name: &Ident, of_crate: bool) -> Self {
        Self {
            name: name.to_string(),
            line: name.span().start().line,
            of_crate,
        }
    }
}

/// Collects the leading segment of every path, or the one after `crate::`. Works on tokens, so code
/// inside macros such as `select!` is seen too.
fn roots(tokens: TokenStream, out: &mut BTreeSet<Root>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (i, token) in tokens.iter().enumerate() {
        let is_colon =
            |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
        let after_colons = i >= 2 && is_colon(i - 1) && is_colon(i - 2);
        let before_colons = is_colon(i + 1) && is_colon(i + 2);
        match token {
            TokenTree::Group(group) => roots(group.stream(), out),
            TokenTree::Ident(name) if before_colons && !after_colons => match tokens.get(i + 3) {
                Some(TokenTree::Ident(root)) if name == "crate" => {
                    out.insert(Root::new(root, true));
                }
                Some(TokenTree::Group(group)) if name == "crate" => heads(group.stream(), out),
                _ => {
                    out.insert(Root::new(name, false));
                }
            },
            _ => {}
        }
    }
}

/// The first identifier of each comma-separated item: `{a::B, c}` gives `a`, `c`.
fn heads(tokens: TokenStream, out: &mut BTreeSet<Root>) {
    let mut fresh = true;
    for token in tokens {
        match token {
            TokenTree::Ident(name) if fresh => {
                out.insert(Root::new(&name, true));
                fresh = false;
            }
            TokenTree::Punct(p) if p.as_char() == ',' => fresh = true,
            _ => fresh = false,
        }
    }
}

/// The names of all modules inside a layer.
fn modules_of(layer: &str) -> BTreeSet<String> {
    rust_files(&Path::new("src").join(layer))
        .iter()
        .flat_map(|file| file.iter().skip(2))
        .filter_map(|part| Some(part.to_str()?.trim_end_matches(".rs").to_owned()))
        .collect()
}

/// Paths are told apart as the compiler does.
#[test]
fn paths_of_the_crate_are_told_from_others() {
    let mut out = BTreeSet::new();
    let code =
        "use crate::tls::A; use crate::{net, mesh::B}; fn f() { tls::g(); m!(a => tokio::h()) }";
    roots(code.parse().unwrap(), &mut out);
    let found: Vec<(&str, bool)> = out.iter().map(|r| (r.name.as_str(), r.of_crate)).collect();
    let expected = [
        ("mesh", false),
        ("mesh", true),
        ("net", true),
        ("tls", false),
        ("tls", true),
        ("tokio", false),
    ];
    assert_eq!(found, expected);
    assert!(modules_of("xds").contains("decode"));
}

/// `src/proxy/http/server.rs` and `src/proxy.rs` both belong to `proxy`.
fn layer_of(file: &Path) -> Option<String> {
    if file.starts_with(GENERATED) {
        return None;
    }
    let first = file.strip_prefix("src").ok()?.iter().next()?.to_str()?;
    let name = first.trim_end_matches(".rs");
    (name != "lib" && name != "main").then(|| name.to_owned())
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
