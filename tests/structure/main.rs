//! Which file imports which: the rooms are held to the table in src/lib.rs, and no file imports itself by way of others.

#![allow(clippy::expect_used, reason = "a failed expectation is the report")]

mod imports;

use std::collections::{BTreeMap, BTreeSet};

use imports::{Module, imports};

/// What each room may import, by the last column of the table in src/lib.rs.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let source =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).expect("src/lib.rs");
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = source.lines().filter_map(|line| line.strip_prefix("//! | "));
    rows.map(|row| row.split('|').collect::<Vec<_>>())
        .filter_map(|cells| Some((names(cells.first()?).pop()?, names(cells.get(2)?).into_iter().collect())))
        .collect()
}

#[test]
fn rooms_import_what_the_table_says() {
    let table = table();
    let mut wrong = Vec::new();
    let mut used: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (module, targets) in imports() {
        // lib.rs and main.rs put the rooms together.
        let Some(room) = module.first() else { continue };
        let Some(may) = table.get(room) else {
            wrong.push(format!("the table has no room {room}"));
            continue;
        };
        for target in targets {
            match target.first() {
                Some(other) if other != room && may.contains(other) => {
                    used.entry(room.clone()).or_default().insert(other.clone());
                }
                Some(other) if other != room => {
                    wrong.push(format!("{} imports {}", module.join("::"), target.join("::")));
                }
                Some(_) | None => {}
            }
        }
    }
    for (room, may) in &table {
        for other in may.difference(used.get(room).unwrap_or(&BTreeSet::new())) {
            wrong.push(format!("the table lets {room} import {other}, which it does not"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_import_only_rooms_below() {
    let table = table();
    let mut lower: BTreeSet<&str> = BTreeSet::new();
    while lower.len() < table.len() {
        let next: Vec<_> = table
            .iter()
            .filter(|(room, may)| {
                !lower.contains(room.as_str()) && may.iter().all(|other| lower.contains(other.as_str()))
            })
            .map(|(room, _)| room.as_str())
            .collect();
        assert!(!next.is_empty(), "a circle among the rooms above {lower:?}");
        lower.extend(next);
    }
}

/// The modules of each circle: those that import each other, directly or by way of others.
fn circles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<BTreeSet<&Module>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|start| {
            let mut seen = BTreeSet::new();
            let mut open: Vec<&Module> = vec![start];
            while let Some(module) = open.pop() {
                for next in imports.get(module).into_iter().flatten() {
                    if seen.insert(next) {
                        open.push(next);
                    }
                }
            }
            (start, seen)
        })
        .collect();
    let together = |a: &Module, b: &Module| {
        let reaches = |from, to| reached.get(from).is_some_and(|seen: &BTreeSet<&Module>| seen.contains(to));
        reaches(a, b) && reaches(b, a)
    };
    let all: BTreeSet<BTreeSet<&Module>> = imports
        .keys()
        .map(|module| imports.keys().filter(|other| together(module, other)).collect())
        .filter(|circle: &BTreeSet<&Module>| circle.len() > 1)
        .collect();
    all.into_iter().collect()
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    // A document can hold documents of any format: what reads commands asks the table of all formats.
    let registry: Module = vec!["sources".to_owned(), "registry".to_owned()];
    let imports = imports();
    let found: Vec<_> = circles(&imports)
        .iter()
        .filter(|circle| !circle.contains(&registry))
        .map(|circle| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(found.is_empty(), "these files import each other:\n{}", found.join("\n"));
}
