//! Journals that were cut, overwritten or damaged over a converted export, and journals of format 1: what they don't tell is
//! never taken for something that was not done.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use virtfs_proxy_helper::internals::data::{Format, Journal, Part, Stage as Reached, Writer};

use crate::injector::{Meddling, run};
use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, ended, success};

const MARK: &str = "trusted.virtfs-migrate.journal";

/// Where the frames of a journal start, and where it ends.
fn frames(journal: &[u8]) -> Vec<usize> {
    let mut at = 16;
    let mut found = vec![at];
    while at < journal.len() {
        at += 9 + u32::from_le_bytes(journal[at..at + 4].try_into().unwrap()) as usize;
        found.push(at);
    }
    assert_eq!(at, journal.len());
    found
}

/// A new file with this content in the place of the journal: no attribute of the old one is left.
fn replace(stage: &Stage, journal: &[u8]) {
    fs::remove_file(stage.journal()).unwrap();
    fs::write(stage.journal(), journal).unwrap();
}

/// Takes the mark of the export away, and returns it.
fn unmark(stage: &Stage) -> Vec<u8> {
    let root = File::open(stage.export()).unwrap();
    let mut mark = [0; 256];
    let length = rustix::fs::fgetxattr(&root, MARK, &mut mark[..]).unwrap();
    rustix::fs::fremovexattr(root, MARK).unwrap();
    mark[..length].to_vec()
}

fn mark_again(stage: &Stage, mark: &[u8]) {
    let root = File::open(stage.export()).unwrap();
    rustix::fs::fsetxattr(root, MARK, mark, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Panics unless every command that would work by the journal refuses it, and says how to go on.
fn must_be_refused(stage: &Stage, model: &str, what: &str) {
    let journal = fs::read(stage.journal()).unwrap();
    let mut dry = stage.command("rollback");
    dry.arg("--progress=never");
    for mut command in [dry, stage.rollback(), stage.convert(model)] {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{what}: {command:?}: {said}");
        assert!(said.contains("backup") || said.contains("not a journal"), "{what}: {said}");
    }
    assert!(stage.command("verify").output().unwrap().status.code() == Some(1), "{what}: verify");
    assert_eq!(fs::read(stage.journal()).unwrap(), journal, "{what}: the journal was touched");
}

#[test]
fn a_journal_that_was_cut_is_refused() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let (whole, converted) = (fs::read(stage.journal()).unwrap(), stage.snapshot());
        let starts = frames(&whole);
        // The second copy of the last note is one too many.
        let needed = starts[starts.len() - 2];
        for at in starts.iter().flat_map(|&at| [at.saturating_sub(20), at]).chain([0, 5, 16]) {
            if at >= needed {
                continue;
            }
            replace(&stage, &whole[..at]);
            must_be_refused(&stage, model, &format!("{model}, cut at {at} of {}", whole.len()));
        }
        assert_same(&converted, &stage.snapshot(), model);
        replace(&stage, &whole[..needed]);
        stage.verify("without the last copy");
        replace(&stage, &whole);
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
    }
}

#[test]
fn a_journal_that_was_cut_is_refused_where_nothing_can_be_marked() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    // As on a file system without such attributes: the mark is not there, and the journal says that none was made.
    unmark(&stage);
    let mut unmarked = whole[..16].to_vec();
    let mut begin: serde_json::Value = serde_json::from_slice(&whole[25..frames(&whole)[1]]).unwrap();
    begin["marks"] = false.into();
    let payload = serde_json::to_vec(&begin).unwrap();
    unmarked.extend(frame(b'B', &payload));
    let begun = unmarked.len();
    let shift = |at: usize| at - frames(&whole)[1] + begun;
    unmarked.extend(&whole[frames(&whole)[1]..]);
    let recorded = frames(&whole).into_iter().rfind(|&at| whole.get(at + 8) == Some(&b'S')).unwrap();
    for at in frames(&whole).into_iter().skip(1).filter(|&at| at <= recorded) {
        replace(&stage, &unmarked[..shift(at)]);
        must_be_refused(&stage, "mapped-xattr", &format!("cut at {at}"));
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(&[kind]);
    crc.update(payload);
    [&length[..], &crc.finalize().to_le_bytes(), &[kind], payload].concat()
}

#[test]
fn a_journal_with_a_range_of_zeros_is_refused_or_lost_nothing() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    let starts = frames(&whole);
    let copy = starts[starts.len() - 2];
    for part in 0..20 {
        let (from, length) = (whole.len() * part / 20, whole.len() / 10);
        let mut zeroed = whole.clone();
        zeroed.iter_mut().skip(from).take(length).for_each(|byte| *byte = 0);
        assert!(from < copy || part == 19);
        replace(&stage, &zeroed);
        if zeroed[..copy] == whole[..copy] {
            stage.verify("zeros in the last copy");
        } else {
            must_be_refused(&stage, "mapped-xattr", &format!("zeros from {from}"));
        }
    }
}

#[test]
fn a_flipped_bit_of_the_last_note_does_not_make_the_conversion_unfinished() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    let starts = frames(&whole);
    let first = starts[starts.len() - 3];
    let mut dry = stage.command("rollback");
    for bit in (first * 8..whole.len() * 8).step_by(5) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        replace(&stage, &damaged);
        let said = success(&mut dry);
        assert!(said.contains("recorded) is converted."), "{bit}: {said}");
    }
    // What the guest changed is kept.
    for at in [2, 20, 34, 46] {
        let stage = Stage::knotted();
        success(&mut stage.convert("mapped-xattr"));
        let mut damaged = fs::read(stage.journal()).unwrap();
        let starts = frames(&damaged);
        damaged[starts[starts.len() - 3] + at] ^= 4;
        replace(&stage, &damaged);
        let acl = stage.export().join("acl");
        rustix::fs::setxattr(&acl, "user.virtfs.uid", &7_u32.to_le_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
        success(&mut stage.rollback());
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&acl).unwrap());
        assert_eq!(owner, 7, "flipped at {at}");
    }
}

/// The same journal in format 1, up to a stage.
fn in_format_1(stage: &Stage, until: Reached) -> Vec<u8> {
    let journal = Journal::open(&stage.journal()).unwrap();
    let path = stage.folder().join("format1");
    let root = File::open(stage.export()).unwrap();
    let mut writer = Writer::create_in(Format::One, &path, journal.begin(), root.as_fd()).unwrap();
    let mut ids = HashMap::new();
    for listing in journal.listings().unwrap() {
        let (_, listing) = listing.unwrap();
        let parent = listing.parent.map(|parent| ids[&parent]);
        let mut part = Part::new(Format::One, parent, listing.name.to_bytes(), listing.own, listing.late);
        for (name, record) in &listing.entries {
            part.push(name.to_bytes(), record.as_ref());
        }
        part.end();
        writer.listing(&mut part).unwrap();
        ids.insert(listing.id, part.id().unwrap());
    }
    writer.recorded(journal.totals().unwrap()).unwrap();
    if until > Reached::Converting {
        writer.converted().unwrap();
    }
    drop(writer);
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(path).unwrap();
    let shown = String::from_utf8_lossy(&bytes[..60]).into_owned();
    assert!(shown.starts_with("virtfs-journal1\n"), "{shown}");
    strip(&bytes)
}

/// Without what `B` of format 2 alone has.
fn strip(journal: &[u8]) -> Vec<u8> {
    let begun = frames(journal)[1];
    let mut begin: serde_json::Value = serde_json::from_slice(&journal[25..begun]).unwrap();
    let fields = begin.as_object_mut().unwrap();
    for field in ["id", "host", "file_system", "root", "marks", "adopts"] {
        assert!(fields.remove(field).is_some(), "{field}");
    }
    // Directories are told apart by offsets: what comes before them must not get shorter.
    let mut payload = serde_json::to_vec(&begin).unwrap();
    payload.resize(begun - 25, b' ');
    [&journal[..16], &frame(b'B', &payload), &journal[begun..]].concat()
}

#[test]
fn journals_of_format_1_are_read_and_continued() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        success(&mut stage.convert(model));
        let journal = in_format_1(&stage, Reached::Converted);
        replace(&stage, &journal);
        unmark(&stage);
        stage.verify("format 1");
        // A bit of the last record.
        for bit in (frames(&journal)[frames(&journal).len() - 2] * 8..journal.len() * 8).step_by(9) {
            let mut damaged = journal.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            replace(&stage, &damaged);
            must_be_refused(&stage, model, &format!("{model}, format 1, bit {bit}"));
        }
        replace(&stage, &journal[..frames(&journal)[4]]);
        must_be_refused(&stage, model, &format!("{model}, format 1, cut"));
        replace(&stage, &journal);
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
        stage.verify("format 1, rolled back");
        // Interrupted, and continued.
        let stage = Stage::knotted();
        let before = stage.snapshot();
        let calls = run(Stage::knotted().convert(model), Meddling::Count).calls;
        assert_eq!(run(stage.convert(model), Meddling::Kill(calls * 3 / 4)).status, None);
        let journal = in_format_1(&stage, Reached::Converting);
        replace(&stage, &journal);
        unmark(&stage);
        success(&mut stage.convert(model));
        stage.verify("format 1, continued");
        assert!(fs::read(stage.journal()).unwrap().starts_with(&journal), "{model}: another journal");
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), &format!("{model}, continued"));
    }
}

#[test]
fn a_recording_that_was_interrupted_is_told_from_a_damaged_journal() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    success(&mut stage.rollback());
    // The same bytes, as a crash would have left them before anything was touched.
    for at in [0, 10, 16, 40, frames(&whole)[1], frames(&whole)[3], frames(&whole)[3] + 30] {
        replace(&stage, &whole[..at]);
        let said = success(&mut stage.rollback());
        assert!(said.contains("nothing to do"), "{at}: {said}");
    }
    assert_same(&before, &stage.snapshot(), "interrupted recordings");
    success(&mut stage.convert("mapped-xattr"));
    stage.verify("converted after an interrupted recording");
}

#[test]
fn another_journal_than_the_marked_one_is_refused() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let first = fs::read(stage.journal()).unwrap();
    success(&mut stage.rollback());
    success(&mut stage.convert("mapped-xattr"));
    let aside = stage.folder().join("aside");
    fs::rename(stage.journal(), &aside).unwrap();
    let said = ended(&mut stage.convert("mapped-xattr"), 1);
    assert!(said.contains("marked as converted") && said.contains("--journal"), "{said}");
    let said = ended(
        Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
            .args(["migrate", "check"])
            .arg(stage.export()),
        3,
    );
    assert!(said.contains("already-converted"), "{said}");
    // An earlier conversion's journal: it says that it was not rolled back.
    fs::write(stage.journal(), first).unwrap();
    let said = ended(&mut stage.rollback(), 1);
    assert!(said.contains("--journal"), "{said}");
    let said = ended(stage.rollback().arg("--journal").arg(Path::new("/dev/null")), 1);
    assert!(said.contains("damaged"), "{said}");
    fs::rename(&aside, stage.journal()).unwrap();
    success(&mut stage.rollback());
}

#[test]
fn a_cut_in_place_is_seen_by_the_mark_of_the_journals_file() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let mark = unmark(&stage);
    let file = File::options().read(true).write(true).open(stage.journal()).unwrap();
    let length = file.metadata().unwrap().len();
    let mut end = vec![0; 200];
    file.read_exact_at(&mut end, length - 200).unwrap();
    for cut in [60, 100, 200] {
        file.set_len(length - cut).unwrap();
        must_be_refused(&stage, "mapped-xattr", &format!("{cut} bytes cut"));
    }
    file.write_all_at(&end, length - 200).unwrap();
    must_be_refused(&stage, "mapped-xattr", "without the export's mark");
    mark_again(&stage, &mark);
    success(&mut stage.rollback());
}

#[test]
fn an_old_copy_of_a_journal_is_refused_once_its_conversion_is_rolled_back() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    let before = stage.snapshot();
    success(&mut stage.convert("mapped-xattr"));
    let copy = fs::read(stage.journal()).unwrap();
    success(&mut stage.rollback());
    replace(&stage, &copy);
    must_be_refused(&stage, "mapped-xattr", "an old copy");
    let said = ended(stage.rollback().arg("--by-path"), 1);
    assert!(said.contains("rolled back already"), "{said}");
    assert_same(&before, &stage.snapshot(), "refused");
}

#[test]
fn records_that_are_not_where_they_were_written_are_noticed() {
    if crate::stage::elsewhere() {
        return;
    }
    let stage = Stage::knotted();
    success(&mut stage.convert("mapped-xattr"));
    let whole = fs::read(stage.journal()).unwrap();
    let starts = frames(&whole);
    let record = |number: usize| &whole[starts[number]..starts[number + 1]];
    let all = starts.len() - 1;
    let mut damaged = vec![
        // One that is missing, one that is there twice.
        (1..all).filter(|&number| number != 2).collect::<Vec<_>>(),
        [1, 2, 2].into_iter().chain(3..all).collect(),
    ];
    for number in 1..4 {
        let mut swapped: Vec<_> = (1..all).collect();
        swapped.swap(number - 1, number);
        damaged.push(swapped);
    }
    for order in damaged {
        let records = order.iter().map(|&number| record(number)).collect::<Vec<_>>().concat();
        replace(&stage, &[&whole[..starts[1]], &records].concat());
        must_be_refused(&stage, "mapped-xattr", &format!("records {order:?}"));
    }
    replace(&stage, &whole);
    success(&mut stage.rollback());
}
