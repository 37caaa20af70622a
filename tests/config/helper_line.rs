//! The helper's own line, where the same file has the shares.

use std::fs;
use std::process::Command;

use crate::{config, text};

const HELPER: &str = "/usr/lib/qemu/virtfs-proxy-helper -p /srv/x -s /run/n.sock -u 0 -g 0";
const QEMU: &str = "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n.sock,mount_tag=n";

/// A script after `--in-place`, and what was said.
fn in_place(name: &str, content: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, content.replace("HELPER", HELPER).replace("QEMU", QEMU)).unwrap();
    let output = config(["--in-place".as_ref(), file.as_os_str()], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    (fs::read_to_string(&file).unwrap(), text(&output.stderr))
}

/// Whether a shell that has no helper runs the script to its end.
fn runs(script: &str) -> bool {
    let script = script.replace("qemu-system-x86_64", "echo");
    Command::new("/bin/sh").args(["-c", &script]).output().unwrap().status.success()
}

#[test]
fn a_line_that_stands_alone_is_commented_out() {
    for script in [
        "#!/bin/sh\nset -e\nHELPER\nQEMU\n",
        "#!/bin/sh\nset -e\nsudo HELPER &\nQEMU\n",
        "#!/bin/sh\nset -e\nHELPER >/dev/null 2>&1\nQEMU\n",
        "#!/bin/sh\nset -e\n/usr/lib/qemu/virtfs-proxy-helper \\\n  -p /srv/x \\\n  -s /run/n.sock\nQEMU\n",
        "#!/bin/sh\nset -e\nif true; then\n\tHELPER\nfi\nQEMU\n",
        "#!/bin/sh\nset -e\nstart() {\n  HELPER\n}\nstart\nQEMU\n",
        "#!/bin/sh\nset -e\nSOCK=/run/n.sock\nvirtfs-proxy-helper -p /srv/x -s \"$SOCK\"\nqemu-system-x86_64 -virtfs proxy,id=n,socket=$SOCK,mount_tag=n\n",
    ] {
        let (new, told) = in_place("vm.sh", script);
        assert!(new.contains("# QEMU opens the directory itself") && new.contains("local,id=n"), "{new}");
        let active = new.lines().filter(|line| !line.trim_start().starts_with('#'));
        assert!(
            active.clone().all(|line| !line.contains("virtfs-proxy-helper") && !line.contains("-p /srv")),
            "{new}"
        );
        assert!(runs(&new), "{new}");
        assert!(
            told.contains("[helper-started]") && told.contains("comments the helper's line out"),
            "{told}"
        );
    }
    let unit = "[Service]\nExecStartPre=HELPER\nExecStart=/usr/bin/QEMU\n";
    let (new, _) = in_place("vm.service", unit);
    assert!(
        new.contains("\n# ExecStartPre=/usr/lib/qemu/virtfs-proxy-helper") && !new.contains("\nExecStartPre"),
        "{new}"
    );
}

#[test]
fn a_line_with_more_on_it_is_named() {
    for (script, line) in [
        ("#!/bin/sh\nmkdir -p /run; HELPER\nQEMU\n", "vm.sh:2: this line starts"),
        ("#!/bin/sh\nHELPER || exit 1\nQEMU\n", "vm.sh:2: this line starts"),
        ("#!/bin/sh\n[ -S /run/n.sock ] || HELPER\nQEMU\n", "vm.sh:2: this line starts"),
        ("#!/bin/sh\nHELPER &\nhelper=$!\nQEMU\nkill $helper\n", "vm.sh:2: this line starts"),
        ("#!/bin/sh\nif HELPER; then\nQEMU\nfi\n", "vm.sh:2: this line starts"),
        ("#!/bin/sh\nHELPER\nuntil [ -S /run/n.sock ]; do sleep 1; done\nQEMU\n", "vm.sh:3: this line uses"),
        ("#!/bin/sh\nS=/run/n.sock\nHELPER\nchown games $S\nQEMU\n", "vm.sh:4: this line uses"),
    ] {
        let (new, told) = in_place("vm.sh", script);
        assert!(told.contains(line), "{told}");
        if line.contains("starts") {
            assert!(
                new.lines().any(|line| !line.starts_with('#') && line.contains("virtfs-proxy-helper")),
                "{new}"
            );
        }
    }
}

#[test]
fn another_guests_helper_stays() {
    let other = "virtfs-proxy-helper -p /srv/y -s /run/other.sock";
    let (new, told) = in_place("vm.sh", &format!("#!/bin/sh\nHELPER\n{other}\nQEMU\n"));
    assert!(new.contains(&format!("\n{other}\n")), "{new}");
    assert!(!told.contains("vm.sh:3"), "{told}");
}

#[test]
fn without_in_place_the_line_stays() {
    let script = format!("#!/bin/sh\n{HELPER}\n{QEMU}\n");
    let output = config(["-"], script.as_bytes());
    assert!(text(&output.stdout).contains(&format!("\n{HELPER}\n")), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("standard input:2: this line starts"), "{}", text(&output.stderr));
}

/// The steps tell what the journal beside the export says.
#[test]
fn a_converted_export_is_not_to_be_converted_again() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let export = folder.path().join("x");
    fs::create_dir(&export).unwrap();
    fs::write(export.join("a"), "a").unwrap();
    let script = QEMU;
    let argument = format!("n={}", export.display());
    let said = |options: &[&str]| {
        let output = config(["--export", &argument, "-"].iter().chain(options), script.as_bytes());
        text(&output.stderr)
    };
    assert!(said(&[]).contains("Convert its files"), "{}", said(&[]));
    let order =
        ["Shut down", "Stop and disable", "Convert its files", "Verify them", "in place", "Start the guest"];
    let places: Vec<_> =
        order.iter().map(|step| said(&[]).find(step).unwrap_or_else(|| panic!("{step}"))).collect();
    assert!(places.is_sorted(), "{}", said(&[]));
    let converted = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"))
        // The way to this build's folder may be closed to others.
        .args(["migrate", "convert", "--owner", "games", "--accept=owner-kept-out", "--apply"])
        .arg(&export)
        .output()
        .unwrap();
    assert!(converted.status.success(), "{}", text(&converted.stderr));
    let after = said(&[]);
    assert!(
        !after.contains("Convert its files") && after.contains("is converted already, to mapped-xattr"),
        "{after}"
    );
    let other = said(&["--security-model", "mapped-file"]);
    assert!(other.contains("rewrite it with --security-model mapped-xattr"), "{other}");
}
