//! `multidevs`, by what is below the export on this machine.

use std::fs;
use std::path::Path;

use crate::disk::Disk;
use crate::{config, text};

/// What each form of a share says for an export, and whether it is told why.
fn said(export: &Path, more: &[&str]) -> Vec<String> {
    let script = b"qemu -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n";
    let export = format!("t={}", export.display());
    let forms: [&[&str]; 4] = [&[], &["--to", "qemu-args"], &["--to", "readconfig"], &["--to", "libvirt"]];
    let word = |text: &str| {
        let at = text.find("multidevs")? + "multidevs".len();
        let rest = text[at..].trim_start_matches([' ', '=', '"', '\'']);
        Some(rest.chars().take_while(char::is_ascii_lowercase).collect::<String>())
    };
    forms
        .iter()
        .map(|form| {
            let args = [&["-", "--export", &export][..], form, more].concat();
            let output = config(args, script);
            assert!(output.status.success(), "{form:?}: {}", text(&output.stderr));
            let told = text(&output.stderr).contains("file system");
            assert_eq!(told, more.is_empty(), "{form:?}: {}", text(&output.stderr));
            word(&text(&output.stdout)).unwrap_or_default()
        })
        .collect()
}

#[test]
fn one_file_system_is_warn_and_several_are_remap() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::create_dir_all(plain.join("sub")).unwrap();
    assert_eq!(said(&plain, &[]), ["warn"; 4]);
    assert_eq!(said(&plain, &["--multidevs", "forbid"]), ["forbid"; 4]);
    assert_eq!(said(&dir.path().join("missing"), &[]), [""; 4]);

    let ext4 = Disk::format("ext4", 8, "rw");
    assert_eq!(said(&ext4.root(), &[]), ["warn"; 4], "the export is a mount point");
    let around = ext4.root().parent().unwrap().to_path_buf();
    assert_eq!(said(&around, &[]), ["remap"; 4], "another file system is mounted in it");
}

#[test]
fn btrfs_subvolumes_are_several_file_systems() {
    let btrfs = Disk::format("btrfs", 128, "rw");
    fs::create_dir_all(btrfs.root().join("one/deep/er")).unwrap();
    assert_eq!(said(&btrfs.root(), &[]), ["warn"; 4]);
    let made = std::process::Command::new("btrfs")
        .args(["subvolume", "create"])
        .arg(btrfs.root().join("one/deep/volume"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    assert_eq!(said(&btrfs.root(), &[]), ["remap"; 4]);
    assert_eq!(said(&btrfs.root().join("one"), &[]), ["remap"; 4]);
    assert_eq!(said(&btrfs.root().join("one/deep/volume"), &[]), ["warn"; 4], "a subvolume alone");
    assert_eq!(said(&btrfs.root().join("one/deep/er"), &[]), ["warn"; 4]);
}
