//! What is public is listed in `docs/surface.md`, with why it will last.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const KINDS: [&str; 6] = ["fn", "struct", "enum", "trait", "type", "const"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names that one `pub use` of a module's makes public.
fn reexported(tree: &str) -> Vec<String> {
    let leaves = match tree.split_once('{') {
        Some((_, leaves)) => leaves.trim_end().trim_end_matches('}'),
        None => tree,
    };
    assert!(
        !leaves.contains(['{', '*']),
        "not read by this test: {tree}"
    );
    let leaves = leaves.split(',').map(str::trim);
    leaves
        .filter(|leaf| !leaf.is_empty())
        .map(|leaf| {
            let leaf = leaf.rsplit(" as ").next().unwrap();
            leaf.rsplit("::").next().unwrap().to_owned()
        })
        .collect()
}

/// What a module makes public, by the path from outside.
fn public(file: &str, prefix: &str) -> BTreeSet<String> {
    let text = read(file);
    let mut found = BTreeSet::new();
    let items = text.match_indices("\npub ").map(|(at, _)| &text[at + 5..]);
    for item in items {
        let (kind, rest) = item.split_once(' ').unwrap();
        if kind == "use" {
            let tree = rest.split(';').next().unwrap();
            found.extend(reexported(tree).iter().map(|name| prefix.to_owned() + name));
            continue;
        }
        let word = |c: char| !(c.is_alphanumeric() || c == '_');
        let name = rest.split(word).next().unwrap();
        if kind == "mod" {
            let inside = public(&format!("src/{name}/mod.rs"), &format!("{name}::"));
            found.extend(inside);
        } else {
            assert!(
                KINDS.contains(&kind),
                "not read by this test: pub {kind} {name}"
            );
        }
        found.insert(prefix.to_owned() + name);
    }
    found
}

/// The rows of the page: the name, and why it will last.
fn listed() -> BTreeMap<String, String> {
    let page = read("docs/surface.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut listed = BTreeMap::new();
    for row in rows {
        let (name, rest) = row.split_once("` | ").unwrap_or_else(|| panic!("{row}"));
        let why = rest.split_once(" | ").map_or("", |(_, why)| why);
        let twice = listed.insert(name.to_owned(), why.trim_end_matches('|').trim().to_owned());
        assert!(twice.is_none(), "{name} is listed twice");
    }
    listed
}

#[test]
fn everything_public_is_listed_with_why_it_will_last() {
    let (public, listed) = (public("src/lib.rs", ""), listed());
    assert!(public.len() > 60, "found too little: {public:?}");
    for known in [
        "Guard",
        "MemoryGuardLayer",
        "account::spawn",
        "result_size::Error",
    ] {
        assert!(public.contains(known), "{known} was not found");
    }
    let names: BTreeSet<_> = listed.keys().cloned().collect();
    let missing: Vec<_> = public.difference(&names).collect();
    assert!(missing.is_empty(), "not in docs/surface.md: {missing:?}");
    let gone: Vec<_> = names.difference(&public).collect();
    assert!(
        gone.is_empty(),
        "in docs/surface.md, but not public: {gone:?}"
    );
    for (name, why) in listed {
        assert!(why.ends_with('.'), "{name}: why will it last?");
    }
}
