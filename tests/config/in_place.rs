//! `--in-place`: one step, nothing lost.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::{cases, config, text};

pub fn sample() -> (Vec<u8>, Vec<u8>) {
    let folder = cases().join("plain");
    (fs::read(folder.join("in.xml")).unwrap(), fs::read(folder.join("out.xml")).unwrap())
}

fn rewrite(file: &Path) -> std::process::Output {
    config([file.as_os_str(), "--in-place".as_ref(), "--export".as_ref(), "share=/srv/share".as_ref()], b"")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_changes_and_the_old_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.xml");
    let (before, after) = sample();
    fs::write(&file, &before).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).unwrap();
    }
    let label = rustix::fs::setxattr(&file, "user.kept", b"yes", rustix::fs::XattrFlags::empty());
    let old = fs::metadata(&file).unwrap();
    let output = rewrite(&file);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read(&file).unwrap(), after);
    assert_eq!(fs::read(folder.path().join("vm.xml.orig")).unwrap(), before);
    assert_eq!(names(folder.path()), ["vm.xml", "vm.xml.orig"]);
    let new = fs::metadata(&file).unwrap();
    assert_eq!((new.mode(), new.uid(), new.gid()), (old.mode(), old.uid(), old.gid()));
    // The old file is the same file, not a copy.
    assert_eq!(fs::metadata(folder.path().join("vm.xml.orig")).unwrap().ino(), old.ino());
    if label.is_ok() {
        let mut value = [0; 8];
        let length = rustix::fs::getxattr(&file, "user.kept", &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"yes");
    }
}

#[test]
fn a_second_rewrite_changes_nothing_and_a_third_version_is_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.xml");
    let (before, after) = sample();
    fs::write(&file, &before).unwrap();
    assert!(rewrite(&file).status.success());
    let inode = fs::metadata(&file).unwrap().ino();
    assert!(rewrite(&file).status.success());
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    assert_eq!(names(folder.path()), ["vm.xml", "vm.xml.orig"]);
    fs::write(&file, &before).unwrap();
    assert!(rewrite(&file).status.success());
    assert_eq!(fs::read(&file).unwrap(), after);
    assert_eq!(names(folder.path()), ["vm.xml", "vm.xml.orig", "vm.xml.orig.2"]);
}

#[test]
fn a_link_leads_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.xml");
    let link = folder.path().join("link.xml");
    fs::write(&file, sample().0).unwrap();
    symlink("vm.xml", &link).unwrap();
    assert!(rewrite(&link).status.success());
    assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    assert_eq!(fs::read(&file).unwrap(), sample().1);
}

#[test]
fn a_refusal_leaves_the_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("vm.xml");
    fs::write(&file, sample().0).unwrap();
    let output = config([file.as_os_str(), "--in-place".as_ref()], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--export share=PATH"), "{}", text(&output.stderr));
    assert_eq!(names(folder.path()), ["vm.xml"]);
    assert_eq!(fs::read(&file).unwrap(), sample().0);
}
