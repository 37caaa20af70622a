//! Copies of an export that is still there: a journal is of one of them.

use std::fs;
use std::process::Command;

use crate::disk::{Disk, folder};
use crate::snapshot::assert_same;
use crate::stage::{Disks, MODELS, Stage, ended, success};

/// `migrate VERB TREE` with a journal.
fn migrate(verb: &str, tree: &std::path::Path, journal: &std::path::Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    command.args(["migrate", verb]).arg(tree).arg("--journal").arg(journal).args(options);
    command
}

#[test]
fn the_journal_of_an_export_that_is_there_rolls_no_copy_of_its_file_system_back() {
    let format = || Disk::format("ext4", 12, "data=ordered");
    let stage = Stage::on(Disks { export: format(), journal: Some(format()) });
    crate::knot::tie(&stage.export());
    let before = stage.snapshot();
    success(&mut stage.convert("mapped-xattr"));
    let copies = folder();
    let image = copies.path().join("image");
    stage.disks().export.sync();
    stage.disks().export.cut(&image);
    let copy = Disk::left(&image, "data=ordered");
    let tree = copy.root().join("export");
    for options in [&[][..], &["--apply", "--progress=never"]] {
        let said = ended(&mut migrate("rollback", &tree, &stage.journal(), options), 1);
        assert!(said.contains("still there") && said.contains("--by-path"), "{said}");
    }
    let said = ended(&mut migrate("convert", &tree, &stage.journal(), &["--adopt", "--apply"]), 1);
    assert!(said.contains("still there"), "{said}");
    // The way forward that the message names.
    let copied = copies.path().join("journal");
    fs::copy(stage.journal(), &copied).unwrap();
    success(&mut migrate("rollback", &tree, &copied, &["--by-path", "--apply", "--progress=never"]));
    stage.verify("the export itself");
    success(&mut stage.rollback());
    let timeless = crate::crash::timeless;
    assert_same(&timeless(&before), &timeless(&stage.snapshot()), "the export itself");
}

#[test]
fn a_journal_that_lies_elsewhere_rolls_no_copy_back_by_paths_while_the_export_is_there() {
    for model in MODELS {
        let stage = Stage::knotted();
        let journal = stage.folder().join("elsewhere");
        success(stage.convert(model).arg("--journal").arg(&journal));
        let copy = stage.folder().join("copy");
        crate::disk::run("cp", &[&"-a", &stage.export(), &copy]);
        let options = ["--by-path", "--apply", "--progress=never"];
        let said = ended(&mut migrate("rollback", &copy, &journal, &options), 1);
        assert!(said.contains("still there") && said.contains("copy the journal"), "{model}: {said}");
        let copied = stage.folder().join("copied");
        fs::copy(&journal, &copied).unwrap();
        success(&mut migrate("rollback", &copy, &copied, &options));
        success(stage.rollback().arg("--journal").arg(&journal));
    }
}
