//! Mounts over parts of a converted export: what they hide is never said to be done.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::snapshot::assert_same;
use crate::stage::{MODELS, Stage, ended, success};
use crate::unmap::unmap;

/// Runs a command while something is mounted at a place of the export, in a mount namespace of its own.
fn beneath(stage: &Stage, place: &str, command: &Command) -> Command {
    const SCRIPT: &str = r#"
        if [ -d "$1" ]; then mount -t tmpfs none "$1"; else mount --bind /etc/hostname "$1"; fi || exit 99
        shift
        exec "$@"
    "#;
    let mut mounted = Command::new("unshare");
    mounted.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(stage.export().join(place));
    mounted.arg(command.get_program()).args(command.get_args());
    mounted
}

#[test]
fn a_mount_over_converted_entries_stops_a_rollback_before_the_first_change() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        let modified = fs::metadata(stage.export()).unwrap().modified().unwrap();
        success(&mut stage.convert(model));
        fs::create_dir(stage.export().join("guests")).unwrap();
        std::os::unix::fs::chown(stage.export().join("guests"), Some(64055), Some(64056)).unwrap();
        let converted = stage.snapshot();
        for place in ["link", "d", "guests"] {
            for command in [stage.rollback(), stage.command("rollback")] {
                let said = ended(&mut beneath(&stage, place, &command), 1);
                assert!(said.contains("umount") && said.contains(&format!("export/{place}'")), "{said}");
                assert_same(&converted, &stage.snapshot(), &format!("{model}, {place}"));
            }
            let said = ended(&mut beneath(&stage, place, &unmap(&stage, model)), 1);
            assert!(said.contains("umount"), "{said}");
        }
        fs::remove_dir(stage.export().join("guests")).unwrap();
        fs::File::open(stage.export()).unwrap().set_modified(modified).unwrap();
        success(&mut stage.rollback());
        assert_same(&before, &stage.snapshot(), model);
    }
}

#[test]
fn a_mount_that_the_conversion_left_alone_is_left_alone_by_the_rollback() {
    if crate::stage::elsewhere() {
        return;
    }
    for model in MODELS {
        let stage = Stage::knotted();
        let before = stage.snapshot();
        let mut convert = stage.convert(model);
        convert.args(["--accept=mount-inside", "--accept=links-outside"]);
        success(&mut beneath(&stage, "d/e", &convert));
        assert_eq!(fs::symlink_metadata(stage.export().join("d")).unwrap().uid(), 64055, "{model}");
        success(&mut beneath(&stage, "d/e", &stage.rollback()));
        assert_same(&before, &stage.snapshot(), model);
    }
}
