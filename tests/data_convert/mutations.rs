//! Every kind of damage to journals in every state, over an export in that state: no command ends with 0 unless it says what it says
//! by the journal that is not damaged, and none panics.
//!
//! `CRASH_POINTS=all` tries all of it, which takes hours; otherwise so many of each kind, evenly spread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::crash::{alone, is_all, points};
use crate::injector::{Meddling, run, run_watched};
use crate::stage::{OWNER, Stage, success};

/// How many of each kind are tried.
const TRIED: usize = 2;

/// A small export: its journal is short.
fn small() -> Stage {
    let stage = Stage::new();
    let export = stage.export();
    for folder in ["", "d"] {
        fs::create_dir(export.join(folder)).unwrap();
    }
    fs::write(export.join("file"), "content").unwrap();
    symlink("target", export.join("d/link")).unwrap();
    rustix::fs::lsetxattr(
        export.join("file"),
        "security.capability",
        crate::knot::CAPABILITY,
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    stage
}

fn convert(stage: &Stage) -> Command {
    stage.convert("mapped-xattr")
}

/// Kills a command at the call that comes `calls` after the one that puts its `sync`th record on stable storage; 0 stands for the
/// call that puts the export there.
fn killed(
    stage: &Stage,
    begin: impl Fn() -> Stage,
    command: impl Fn(&Stage) -> Command,
    sync: usize,
    calls: usize,
) {
    let (mut made, mut syncs, mut last) = (0, Vec::new(), 0);
    run_watched(alone(command(&begin())), Meddling::Count, &mut |call| {
        made += 1;
        match call {
            libc::SYS_fdatasync => syncs.push(made),
            libc::SYS_syncfs => last = made,
            _ => {}
        }
    });
    let point = if sync == 0 { last } else { syncs[sync - 1] + calls };
    assert_eq!(run(alone(command(stage)), Meddling::Kill(point)).status, None);
}

fn converted() -> Stage {
    let stage = small();
    success(&mut convert(&stage));
    stage
}

/// The exports: what was done to each. One has the journal of an earlier conversion beside its own.
fn states() -> Vec<(&'static str, Stage)> {
    let mut states = vec![("converted", converted())];
    // The beginning, the listings and the note that says that they are all are put on stable storage one by one; four calls mark the
    // journal and the export.
    for (name, sync, calls) in
        [("recording", 3, 0), ("recorded", 3, 5), ("converted in part", 3, 16), ("nearly converted", 0, 0)]
    {
        let stage = small();
        killed(&stage, small, convert, sync, calls);
        states.push((name, stage));
    }
    for (name, sync, calls) in [("rolled back in part", 2, 20), ("nearly rolled back", 0, 0)] {
        let stage = converted();
        killed(&stage, converted, Stage::rollback, sync, calls);
        states.push((name, stage));
    }
    let stage = converted();
    success(&mut stage.rollback());
    states.push(("rolled back", stage));
    let again = small();
    success(&mut convert(&again));
    success(&mut again.rollback());
    fs::copy(again.journal(), again.folder().join("earlier")).unwrap();
    success(&mut convert(&again));
    states.push(("converted again", again));
    if is_all() {
        states.extend(adoptions());
        states.extend(unmappings());
    }
    states
}

fn adopt(stage: &Stage) -> Command {
    let mut adopt = crate::adopt::adopt(stage);
    adopt.arg("--settle=0");
    adopt
}

/// Converted, with files that the host has added since.
fn added() -> Stage {
    let stage = converted();
    let folder = stage.export().join("new");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "added").unwrap();
    symlink("target", folder.join("link")).unwrap();
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(folder.join("file"), "security.capability", crate::knot::CAPABILITY, none).unwrap();
    stage
}

/// Adoptions; the listings and the note that says that they are all are put on stable storage together.
fn adoptions() -> Vec<(&'static str, Stage)> {
    let mut states = Vec::new();
    for (name, sync, calls) in [("adopted in part", 1, 12), ("nearly adopted", 0, 0)] {
        let stage = added();
        killed(&stage, added, adopt, sync, calls);
        states.push((name, stage));
    }
    let stage = added();
    success(&mut adopt(&stage));
    states.push(("adopted", stage));
    states
}

/// Converted, without the journal.
fn left_alone() -> Stage {
    let stage = converted();
    fs::remove_file(stage.journal()).unwrap();
    stage
}

fn unmap(stage: &Stage) -> Command {
    let mut unmap = crate::unmap::unmap(stage, "mapped-xattr");
    unmap.arg("--apply");
    unmap
}

/// Unmappings, which have a journal of their own.
fn unmappings() -> Vec<(&'static str, Stage)> {
    let mut states = Vec::new();
    for (name, sync, calls) in [("unmapped in part", 1, 20), ("nearly unmapped", 0, 0)] {
        let stage = left_alone();
        killed(&stage, left_alone, unmap, sync, calls);
        states.push((name, stage));
    }
    let stage = left_alone();
    success(&mut unmap(&stage));
    states.push(("unmapped", stage));
    states
}

/// The journal of what was done to an export last.
fn journal(stage: &Stage) -> PathBuf {
    let unmapping = stage.folder().join("export.virtfs-unmap-journal");
    if unmapping.exists() { unmapping } else { stage.journal() }
}

/// Where the frames of a journal start, and where it ends or is torn.
fn frames(journal: &[u8]) -> Vec<usize> {
    let mut at = 16;
    let mut found = vec![at];
    while let Some(head) = journal.get(at..at + 9) {
        let next = at + 9 + u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        if next > journal.len() {
            break;
        }
        at = next;
        found.push(at);
    }
    found
}

/// So many of `0..count`, or all.
fn some(count: usize) -> Vec<usize> {
    points(count, TRIED).into_iter().map(|point| point - 1).collect()
}

/// Damaged journals, by the kind of damage.
fn damaged(whole: &[u8], others: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for at in some(whole.len()) {
        found.push((format!("cut at {at}"), whole[..at].to_vec()));
        let mut zeroed = whole[..at].to_vec();
        zeroed.resize(whole.len(), 0);
        found.push((format!("zeros from {at} on"), zeroed));
    }
    for bit in some(whole.len() * 8) {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        found.push((format!("flipped bit {bit}"), flipped));
    }
    for length in [1, 8, 64, 512] {
        for number in some(whole.len() / length) {
            let mut zeroed = whole.to_vec();
            zeroed[number * length..][..length].fill(0);
            found.push((format!("{length} zeros from {}", number * length), zeroed));
        }
    }
    let starts = frames(whole);
    let count = starts.len() - 1;
    let pairs: Vec<_> = (0..count).flat_map(|one| (one + 1..count).map(move |two| (one, two))).collect();
    let frame = |number: usize| whole[starts[number]..starts[number + 1]].to_vec();
    let join =
        |order: Vec<usize>| [whole[..16].to_vec(), order.into_iter().flat_map(frame).collect()].concat();
    for (one, two) in some(pairs.len()).into_iter().map(|number| pairs[number]) {
        let mut order: Vec<_> = (0..count).collect();
        order.swap(one, two);
        found.push((format!("records {one} and {two} swapped"), join(order)));
    }
    for number in some(count) {
        found.push((
            format!("without record {number}"),
            join((0..count).filter(|&other| other != number).collect()),
        ));
        let twice = (0..=number).chain(number..count).collect();
        found.push((format!("record {number} twice"), join(twice)));
    }
    for (number, other) in others.iter().enumerate() {
        found.push((format!("another journal {number}"), other.clone()));
        let ends = frames(other);
        for at in some(starts.len().min(ends.len())) {
            for (first, second, name) in [(whole, other.as_slice(), "whole"), (other, whole, "other")] {
                let (from, to) =
                    if name == "whole" { (starts[at], ends[at]) } else { (ends[at], starts[at]) };
                let halves = [&first[..from], &second[to..]].concat();
                found.push((format!("{name} up to record {at}, then another journal {number}"), halves));
            }
        }
        for at in some(whole.len().min(other.len())) {
            found.push((
                format!("bytes up to {at}, then another journal {number}"),
                [&whole[..at], &other[at..]].concat(),
            ));
        }
    }
    found.retain(|(_, journal)| journal != whole);
    found
}

/// The end of every command that reads the journal `path` of a stage and changes nothing, and what it says: with what is a word
/// about the journal's file alone left out.
fn answers(stage: &Stage, path: &Path) -> Vec<(&'static str, Option<i32>, String)> {
    let command = |verb: &str| {
        let mut command = stage.command(verb);
        command.arg("--journal").arg(path);
        command
    };
    let mut convert = command("convert");
    convert.args([OWNER]).args(crate::knot::ACCEPT);
    let mut adopt = command("convert");
    adopt.args(["--adopt", "--settle=0"]).args(crate::knot::ACCEPT);
    let mut unmap = command("unmap");
    unmap.args(["--from", "mapped-xattr"]);
    [("rollback", command("rollback")), ("verify", command("verify")), ("convert", convert)]
        .into_iter()
        .chain([if journal(stage) == stage.journal() { ("adopt", adopt) } else { ("unmap", unmap) }])
        .map(|(verb, mut command)| {
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).replace(&*path.to_string_lossy(), "JOURNAL");
            (verb, output.status.code(), said)
        })
        .collect()
}

/// The end of `migrate journal`, and what it says of what the journal tells.
fn inspected(path: &Path) -> (Option<i32>, String) {
    let mut look = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    let output = look.args(["migrate", "journal", "--format=json"]).arg(path).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let fields = ["id", "state", "entries", "directories", "times", "owner", "security_model", "export"];
    (output.status.code(), fields.map(|field| told[field].to_string()).join(" "))
}

/// What is told of a journal that lost its end, at the end of a record.
fn prefixes(journal: &[u8], path: &Path) -> Vec<String> {
    frames(journal)
        .into_iter()
        .skip(1)
        .map(|end| {
            fs::write(path, &journal[..end]).unwrap();
            inspected(path).1
        })
        .collect()
}

/// What is as true as what was said by the journal that is not damaged.
fn is_as_true(state: &str, verb: &str, said: &str) -> bool {
    // Nothing was changed yet, or nothing is any more, whichever part of the recording is left.
    let is_original = ["recording", "rolled back", "unmapped"].contains(&state);
    let is_told =
        verb == "rollback" && said.contains("nothing to do") || verb == "convert" && said.contains("Dry run");
    is_original && is_told
}

#[test]
fn no_damage_of_a_journal_makes_a_command_say_what_is_not_true() {
    if crate::stage::elsewhere() {
        return;
    }
    let stranger = fs::read(converted().journal()).unwrap();
    let mut counts: BTreeMap<(&str, &str, Option<i32>), usize> = BTreeMap::new();
    for (state, stage) in states() {
        let path = stage.folder().join("damaged");
        let whole = fs::read(journal(&stage)).unwrap();
        fs::write(&path, &whole).unwrap();
        let truth = answers(&stage, &path);
        let before = stage.snapshot();
        let earlier = fs::read(stage.folder().join("earlier"));
        let others: Vec<_> = earlier.into_iter().chain([stranger.clone()]).collect();
        let good: BTreeSet<_> =
            others.iter().chain([&whole]).flat_map(|journal| prefixes(journal, &path)).collect();
        for (what, journal) in damaged(&whole, &others) {
            fs::write(&path, &journal).unwrap();
            for ((verb, status, said), (_, expected, truth)) in answers(&stage, &path).into_iter().zip(&truth)
            {
                *counts.entry((state, verb, status)).or_default() += 1;
                assert!(
                    matches!(status, Some(0 | 1 | 3)),
                    "{state}, {what}: {verb} ended with {status:?}: {said}"
                );
                let is_true = (status, &said) == (*expected, truth) || is_as_true(state, verb, &said);
                assert!(
                    status != Some(0) || is_true,
                    "{state}, {what}: {verb} says: {said}\ninstead of {expected:?}: {truth}"
                );
            }
            // The journal alone does not show that its end is missing, nor which export it is of.
            let (status, told) = inspected(&path);
            *counts.entry((state, "journal", status)).or_default() += 1;
            assert!(matches!(status, Some(0 | 1)), "{state}, {what}: journal ended with {status:?}");
            assert!(status == Some(1) || good.contains(&told), "{state}, {what}: journal says: {told}");
        }
        crate::snapshot::assert_same(&before, &stage.snapshot(), state);
    }
    for ((state, verb, status), count) in counts {
        println!("{state}: {verb} ended {count} times with {status:?}");
    }
}
