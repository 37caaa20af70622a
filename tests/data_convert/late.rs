//! Damage between the note that everything is recorded and what was recorded behind it, of entries that appeared meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::crash::{alone, timeless};
use crate::injector::{Meddling, run_watched};
use crate::knot::CAPABILITY;
use crate::snapshot::assert_same;
use crate::stage::{Stage, ended, success};

/// Converts up to a call while another program makes the file `late`; returns the number of the last syncfs(2).
fn convert(stage: &Stage, meddling: Meddling) -> usize {
    let late = stage.export().join("files/late");
    let (mut calls, mut syncs, mut last) = (0, 0, 0);
    run_watched(alone(stage.convert("mapped-xattr")), meddling, &mut |call| {
        calls += 1;
        match call {
            libc::SYS_fdatasync => syncs += 1,
            libc::SYS_syncfs => last = calls,
            // Everything is recorded, and nothing of the rest is converted yet.
            _ if syncs >= 3 && !late.exists() => {
                fs::write(&late, "late").unwrap();
                let none = rustix::fs::XattrFlags::empty();
                rustix::fs::lsetxattr(&late, "security.capability", CAPABILITY, none).unwrap();
            }
            _ => {}
        }
    });
    last
}

/// A conversion that was killed at its end, whose journal tells of a late entry.
fn interrupted() -> Stage {
    let point = convert(&Stage::knotted(), Meddling::Count);
    let stage = Stage::knotted();
    convert(&stage, Meddling::Kill(point));
    stage
}

/// Where each frame of a journal starts and ends, and its kind.
fn frames(journal: &[u8]) -> Vec<(usize, usize, u8)> {
    let (mut at, mut found) = (16, Vec::new());
    while let Some(head) = journal.get(at..at + 9) {
        let end = at + 9 + u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        found.push((at, end, head[8]));
        at = end;
    }
    found
}

fn inspect(journal: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    command.args(["migrate", "journal"]).arg(journal);
    command
}

#[test]
fn a_damaged_second_copy_of_a_note_hides_no_late_records() {
    let whole = |stage: &Stage| fs::read(stage.journal()).unwrap();
    let expected = {
        let stage = interrupted();
        success(&mut stage.rollback());
        timeless(&stage.snapshot())
    };
    let is_late = |line: &str| line.starts_with("./files/late ") && line.contains("security.capability");
    assert!(expected.lines().any(is_late), "{expected}");
    let mut stage = interrupted();
    let journal = whole(&stage);
    let told = frames(&journal);
    let copy = told.iter().position(|&(_, _, kind)| kind == b's').unwrap();
    let (start, end, _) = told[copy];
    let late = told[copy + 1];
    assert_eq!(late.2, b'D', "{told:?}");
    // The length, the checksum, the kind and the payload.
    for at in [start, start + 4, start + 8, start + 20, end - 1] {
        let mut damaged = journal.clone();
        damaged[at] ^= 2;
        fs::write(stage.journal(), &damaged).unwrap();
        let said = ended(&mut inspect(&stage.journal()), 1);
        assert!(said.contains("The other copy of that note counts"), "byte {at}: {said}");
    }
    // With the record behind it, nothing tells where to go on.
    let mut damaged = journal.clone();
    damaged[start..late.0 + 12].fill(0);
    fs::write(stage.journal(), &damaged).unwrap();
    let before = stage.snapshot();
    for command in [&mut stage.rollback(), &mut stage.convert("mapped-xattr"), &mut stage.command("verify")] {
        let said = ended(command, 1);
        assert!(said.contains("is damaged at byte") && said.contains("backup"), "{said}");
    }
    assert_same(&before, &stage.snapshot(), "refused");
    for damage in ["rolled back", "converted"] {
        let mut damaged = journal.clone();
        damaged[start..end].fill(0);
        if damage == "converted" {
            stage = interrupted();
            damaged = whole(&stage);
            // Its frames are as long as the stage's path.
            let (start, ..) = *frames(&damaged).iter().find(|&&(_, _, kind)| kind == b's').unwrap();
            damaged[start + 30] ^= 1;
        }
        fs::write(stage.journal(), &damaged).unwrap();
        if damage == "converted" {
            success(&mut stage.convert("mapped-xattr"));
            stage.verify(damage);
        }
        success(&mut stage.rollback());
        assert_same(&expected, &timeless(&stage.snapshot()), damage);
    }
}

/// Damage to what is behind a place in a journal, by fractions of its length.
#[derive(Debug, Clone)]
enum Damage {
    Cut(f64),
    Flip(f64, u8),
    Zero(f64, f64),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            (0.0..1.0).prop_map(Self::Cut),
            (0.0..1.0, 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (0.0..1.0, 0.0..1.0).prop_map(|(at, size)| Self::Zero(at, size)),
        ]
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a fraction of a length"
    )]
    fn of(&self, journal: &[u8], from: usize) -> Vec<u8> {
        let place = |part: f64, of: usize| (part * of as f64) as usize;
        let (mut damaged, left) = (journal.to_vec(), journal.len() - from);
        match *self {
            Self::Cut(at) => damaged.truncate(from + place(at, left)),
            Self::Flip(at, bit) => damaged[from + place(at, left)] ^= 1 << bit,
            Self::Zero(at, size) => {
                let at = place(at, left);
                let end = at + 1 + place(size, left - at - 1);
                damaged[from + at..from + end].fill(0);
            }
        }
        damaged
    }
}

#[test]
fn damaged_late_records_are_refused() {
    let stage = interrupted();
    let journal = fs::read(stage.journal()).unwrap();
    let (_, start, _) = *frames(&journal).iter().find(|&&(_, _, kind)| kind == b's').unwrap();
    let before = stage.snapshot();
    let config = ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() };
    let each_is_refused = |damage: Damage| {
        let damaged = damage.of(&journal, start);
        prop_assume!(damaged != journal);
        fs::write(stage.journal(), &damaged).unwrap();
        let mut shown = inspect(&stage.journal());
        for command in [
            &mut shown,
            &mut stage.command("verify"),
            &mut stage.rollback(),
            &mut stage.convert("mapped-xattr"),
        ] {
            let said = ended(command, 1);
            prop_assert!(
                said.contains("is damaged at byte") && said.contains("backup"),
                "{:?}: {}",
                command,
                said
            );
        }
        Ok(())
    };
    TestRunner::new(config).run(&Damage::any(), each_is_refused).unwrap();
    assert_same(&before, &stage.snapshot(), "refused");
    fs::write(stage.journal(), &journal).unwrap();
    success(&mut stage.convert("mapped-xattr"));
    stage.verify("whole");
}
