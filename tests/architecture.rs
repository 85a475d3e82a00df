//! Holds the import rule that ARCHITECTURE.md draws: which room may know which.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed, and says where")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may import.
const RULE: [(&str, &[&str]); 10] = [
    ("record", &[]),
    ("log", &[]),
    ("service", &["log", "record"]),
    ("ingest", &["log", "record", "service"]),
    ("score", &["log", "record", "service"]),
    ("sink", &["log", "record", "service"]),
    ("control", &["ingest", "log", "record", "score", "service", "sink"]),
    ("config", &["ingest", "record"]),
    ("telemetry", &[]),
    ("cli", &["config", "control", "ingest", "record", "score", "service", "sink", "telemetry"]),
];

/// Crates that only one room may name.
const OWNED: [(&str, &str); 4] =
    [("ort", "score"), ("clap", "cli"), ("config", "config"), ("indicatif", "cli telemetry")];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(src()).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The code without comments, for a mention in words is no import.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms named behind `crate::`, in `use` items and in paths, groups included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

#[test]
fn rooms_import_only_what_they_may() {
    let mut faults = Vec::new();
    for path in sources(&src()) {
        let from = room(&path);
        if from == "lib" || from == "main" {
            continue;
        }
        let (_, allowed) = RULE.iter().find(|(name, _)| *name == from).unwrap_or_else(|| panic!("{from} has no rule"));
        for to in imports(&code(&path)) {
            let is_room = RULE.iter().any(|(name, _)| *name == to);
            if is_room && to != from && !allowed.contains(&to.as_str()) {
                faults.push(format!("{} imports {to}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "forbidden imports:\n{}", faults.join("\n"));
}

#[test]
fn crates_stay_in_the_rooms_that_own_them() {
    let mut faults = Vec::new();
    for path in sources(&src()) {
        let (from, text) = (room(&path), code(&path));
        for (name, owners) in OWNED {
            let is_named = text.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("use {name}::"))
                    || line.contains(&format!(" {name}::")) && !line.contains("crate::")
            });
            if is_named && !owners.split(' ').any(|owner| owner == from) {
                faults.push(format!("{} names the crate {name}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "crates outside their rooms:\n{}", faults.join("\n"));
}

#[test]
fn the_rule_is_about_rooms_that_are_there() {
    let rooms: BTreeSet<String> = sources(&src()).iter().map(|path| room(path)).collect();
    for (name, _) in RULE {
        assert!(rooms.contains(name), "there is no room {name}");
    }
}
