//! Rooms: which module may know which.
//!
//! A room is a folder of `src`, or one of four files beside them. It imports only from
//! rooms below it in [`ROOMS`], and inside of a folder no circle is closed: parent and
//! child may know each other, siblings only one the other.
//!
//! No function is longer than [`MOST_LINES`], but for those in `long.txt`: flat tables, and
//! what is to become shorter.

mod source;
mod surface;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

use source::{Names, Source};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// From the top to the bottom; and, if not all below may be known, which.
const ROOMS: &[(&str, Option<&[&str]>)] = &[
    ("operate", None),
    ("result_size", None),
    ("http", Some(HTTP_KNOWS)),
    ("account", None),
    ("guard", None),
    ("policy", None),
    ("config", None),
    ("forecast", None),
    ("memory", None),
    ("running", None),
    ("telemetry", None),
    ("classify", None),
    ("limiter", None),
    ("class", None),
    ("error", None),
    ("pressure", None),
    ("units", None),
    ("sync", None),
];
const HTTP_KNOWS: &[&str] = &[
    "account",
    "guard",
    "config",
    "classify",
    "telemetry",
    "class",
    "error",
    "pressure",
    "units",
    "sync",
];

/// Files that stand beside the folders, and beside `lib.rs`.
const LOOSE: &[&str] = &["error", "pressure", "units"];

/// Of a function.
const MOST_LINES: usize = 60;

struct Found {
    /// In which file, which line, imports what.
    at: String,
    from: Names,
    to: Names,
}

fn level(room: &str) -> Option<usize> {
    ROOMS.iter().position(|(name, _)| *name == room)
}

fn may_know(room: &str, other: &str) -> bool {
    let (Some(own), Some(below)) = (level(room), level(other)) else {
        return false;
    };
    let only = ROOMS[own].1;
    own == below || (own < below && only.is_none_or(|only| only.contains(&other)))
}

fn source() -> Source {
    Source::read(Path::new(ROOT))
}

/// Everything that one module imports from another one.
fn imports(source: &Source) -> Vec<Found> {
    let mut found = Vec::new();
    for module in source.inside() {
        let from = &module.names;
        for import in &module.imports {
            let to = source.defined_in(&import.path);
            if to.is_empty() || to == *from {
                continue;
            }
            let (file, path) = (module.file.display(), import.path.join("::"));
            found.push(Found {
                at: format!("{file}:{}: imports {path}", import.line),
                from: from.clone(),
                to,
            });
        }
    }
    found
}

fn entries(list: &str) -> BTreeSet<&str> {
    let lines = list.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Imports from rooms that may not be known.
fn upwards(found: &[Found]) -> Vec<String> {
    let wrong = found
        .iter()
        .filter(|found| !may_know(&found.from[0], &found.to[0]));
    wrong
        .map(|Found { at, from, to }| format!("{at}: {}/ may not know {}/", from[0], to[0]))
        .collect()
}

/// Who imports whom among the children of one folder, and where.
type Siblings = BTreeMap<(String, String), Vec<String>>;

fn siblings(found: &[Found]) -> BTreeMap<String, Siblings> {
    let mut folders: BTreeMap<String, Siblings> = BTreeMap::new();
    for Found { at, from, to } in found {
        let shared = from
            .iter()
            .zip(to)
            .take_while(|(from, to)| from == to)
            .count();
        let (Some(own), Some(other)) = (from.get(shared), to.get(shared)) else {
            continue;
        };
        if shared > 0 {
            let siblings = folders.entry(from[..shared].join("/")).or_default();
            let pair = (own.clone(), other.clone());
            siblings.entry(pair).or_default().push(at.clone());
        }
    }
    folders
}

/// The shortest way along the imports, itself included.
fn way<'a>(
    pairs: &BTreeSet<&'a (String, String)>,
    from: &'a str,
    to: &str,
) -> Option<Vec<&'a str>> {
    let mut ways = VecDeque::from([vec![from]]);
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop_front() {
        let last = *way.last().unwrap();
        if last == to {
            return Some(way);
        }
        for (_, next) in pairs.iter().filter(|(own, _)| own == last) {
            if seen.insert(next) {
                ways.push_back(way.iter().copied().chain([next.as_str()]).collect());
            }
        }
    }
    None
}

fn circles(found: &[Found]) -> Vec<String> {
    let mut circles = Vec::new();
    for (folder, pairs) in siblings(found) {
        let mut kept: BTreeSet<_> = pairs.keys().collect();
        while let Some((pair, way)) = kept
            .iter()
            .find_map(|pair| Some((*pair, way(&kept, &pair.1, &pair.0)?)))
        {
            let back = way.windows(2);
            let back = back.map(|step| (step[0].to_owned(), step[1].to_owned()));
            let line = |pair: (String, String)| {
                format!(
                    "  {folder}: {} -> {}, in {}",
                    pair.0, pair.1, pairs[&pair][0]
                )
            };
            let lines: Vec<String> = [pair.clone()].into_iter().chain(back).map(line).collect();
            circles.push(format!("a circle in {folder}/:\n{}", lines.join("\n")));
            kept.remove(pair);
        }
    }
    circles
}

fn count(source: &Source, found: &[Found]) {
    let boxes = source.modules.keys().filter(|names| names.len() == 1);
    let mut arrows = BTreeSet::new();
    for module in source.inside() {
        for import in &module.imports {
            let to = source.defined_in(&import.path);
            if to.first().is_some_and(|to| *to != module.names[0]) {
                arrows.insert((module.names[0].clone(), to[0].clone()));
            }
        }
    }
    let rooms: BTreeSet<_> = found
        .iter()
        .map(|found| (&found.from[0], &found.to[0]))
        .collect();
    let between = rooms.iter().filter(|(from, to)| from != to).count();
    let (boxes, arrows) = (boxes.count(), arrows.len());
    println!("{boxes} boxes and {arrows} arrows between them; {between} between rooms");
}

#[test]
fn a_room_knows_only_rooms_below_it_and_siblings_form_no_circle() {
    let source = source();
    let found = imports(&source);
    count(&source, &found);
    let wrong = [upwards(&found), circles(&found)].concat();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_room_that_says_what_it_knows() {
    let source = source();
    let mut wrong = Vec::new();
    for module in source.inside().filter(|module| module.names.len() == 1) {
        let (name, file) = (module.names[0].as_str(), module.file.display());
        let is_placed = module.file.ends_with("mod.rs") || LOOSE.contains(&name);
        if level(name).is_none() {
            wrong.push(format!("{file} is no room"));
        } else if !is_placed {
            wrong.push(format!("{file} stands in no room"));
        }
        let text = std::fs::read_to_string(Path::new(ROOT).join(&module.file)).unwrap();
        if !text.starts_with("//! ") {
            wrong.push(format!("{file} does not say what it knows"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_function_is_long_but_flat_tables() {
    let allowed = entries(include_str!("long.txt"));
    let (mut wrong, mut needed) = (Vec::new(), BTreeSet::new());
    for module in source().inside() {
        let long = module.functions.iter();
        for function in long.filter(|function| function.lines > MOST_LINES) {
            let entry = format!("{}: {}", module.names.join("/"), function.name);
            let (file, line, lines) = (module.file.display(), function.line, function.lines);
            if !allowed.contains(entry.as_str()) {
                wrong.push(format!("{file}:{line}: {entry} has {lines} lines"));
            }
            needed.insert(entry);
        }
    }
    let unneeded = allowed.iter().filter(|entry| !needed.contains(**entry));
    wrong.extend(unneeded.map(|entry| format!("not needed any more in long.txt: {entry}")));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
