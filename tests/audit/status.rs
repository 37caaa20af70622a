//! `migrate status`: shares against their exports, which `migrate convert` has really converted.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::program::ours;
use crate::run::{domain, write};

fn migrate(arguments: &[&str]) -> Output {
    Command::new(ours()).arg("migrate").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn status(root: &Path, more: &[&str]) -> (i32, Value) {
    let output = migrate(&[&["status", "--format=json", "--root", root.to_str().unwrap()], more].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().unwrap(), document)
}

/// A domain whose share libvirt makes over the local backend.
fn local(name: &str, mode: &str, export: &str) -> String {
    format!(
        "<domain type='kvm'><name>{name}</name><devices><filesystem type='mount' accessmode='{mode}'>\
         <source dir='{export}'/><target dir='data'/></filesystem></devices></domain>"
    )
}

/// A helper that says what the proxy shares of the domain export.
fn helper(socket: &str, export: &str) -> String {
    format!("#!/bin/sh\nvirtfs-proxy-helper -p {export} -s {socket} -u 0 -g 0\n")
}

fn export(root: &Path, name: &str) -> String {
    let path = root.join("srv").join(name);
    fs::create_dir_all(path.join("folder")).unwrap();
    fs::write(path.join("folder/file"), "x").unwrap();
    path.to_str().unwrap().to_owned()
}

fn must(arguments: &[&str]) {
    let output = migrate(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn row<'a>(document: &'a Value, guest: &str) -> &'a Value {
    let rows = document["shares"].as_array().unwrap();
    rows.iter().find(|row| row["guest"] == guest).unwrap_or_else(|| panic!("no {guest}: {document:#}"))
}

#[test]
fn each_share_is_compared_with_its_export() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["plain", "converted", "rolled", "lost", "copied", "orphan"] {
        let path = export(root, name);
        if name != "plain" {
            must(&["convert", &path, "--owner", "64055:64055", "--apply"]);
        }
    }
    fs::create_dir(root.join("srv/empty")).unwrap();
    must(&["rollback", root.join("srv/rolled").to_str().unwrap(), "--apply"]);
    fs::remove_file(root.join("srv/lost.virtfs-journal")).unwrap();
    // Restored from a backup: other inodes.
    let copied = root.join("srv/copied");
    fs::rename(&copied, root.join("old")).unwrap();
    let copy = Command::new("cp").arg("-a").arg(root.join("old")).arg(&copied).status().unwrap();
    assert!(copy.success());
    for (name, mode, export) in [
        ("good", "mapped", "/srv/converted"),
        ("too-soon", "mapped", "/srv/plain"),
        ("half-undone", "mapped", "/srv/rolled"),
        ("no-journal", "mapped", "/srv/lost"),
        ("restored", "mapped", "/srv/copied"),
        ("fresh", "mapped", "/srv/empty"),
        ("as-root", "passthrough", "/srv/plain"),
        ("other-model", "passthrough", "/srv/converted"),
    ] {
        write(&root.join(format!("etc/libvirt/qemu/{name}.xml")), local(name, mode, export));
    }
    for (name, export) in
        [("old", "/srv/plain"), ("left-behind", "/srv/converted"), ("undone", "/srv/rolled")]
    {
        let socket = format!("/run/{name}.sock");
        write(&root.join(format!("etc/libvirt/qemu/{name}.xml")), domain(name, "data", &socket));
        write(&root.join(format!("opt/{name}.sh")), helper(&socket, export));
    }
    let (code, document) = status(root, &[]);
    assert_eq!(code, 3);
    for (guest, phase, problem) in [
        ("good", "converted", None),
        ("too-soon", "local", Some("entries without mapped attributes are in it (2 of 2 entries looked at)")),
        ("half-undone", "local", Some("was rolled back")),
        ("no-journal", "local", Some("which is not at /srv/lost.virtfs-journal")),
        ("restored", "local", Some("is the journal of another directory")),
        ("fresh", "local", None),
        ("other-model", "local", Some("security_model=passthrough")),
        ("old", "proxy", None),
        ("left-behind", "proxy", Some("the share still uses the proxy")),
        ("undone", "undone", None),
    ] {
        let row = row(&document, guest);
        assert_eq!(row["phase"], phase, "{row:#}");
        match problem {
            Some(part) => assert!(row["problem"].as_str().unwrap().contains(part), "{row:#}"),
            None => assert!(row["problem"].is_null(), "{row:#}"),
        }
    }
    let rows = document["shares"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["guest"] != "as-root"), "{document:#}");
    let exports = document["exports"].as_array().unwrap();
    let orphan = exports.iter().find(|row| row["export"] == "/srv/orphan").unwrap();
    assert!(orphan["problem"].as_str().unwrap().contains("no share over the local backend"), "{orphan:#}");
    assert!(!document.to_string().contains(root.to_str().unwrap()), "paths are as on the host: {document:#}");
    assert_eq!(document["summary"]["converted"], 1);
}

#[test]
fn only_a_consistent_host_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert_eq!(status(root, &[]).0, 0, "nothing is there");
    let path = export(root, "a");
    let file = root.join("etc/libvirt/qemu/web.xml");
    write(&file, local("web", "mapped", "/srv/a"));
    assert_eq!(status(root, &[]).0, 3, "the tree was never converted");
    must(&["convert", &path, "--owner", "64055:64055", "--apply"]);
    let (code, document) = status(root, &[]);
    assert_eq!(code, 0, "{document:#}");
    // QEMU's own words, in a file that is named.
    write(
        &root.join("vm.sh"),
        "qemu-system-x86_64 -name shop -virtfs local,path=/srv/a,mount_tag=t,id=f,security_model=mapped-xattr\n",
    );
    let (code, document) = status(root, &["/vm.sh"]);
    assert_eq!((code, &row(&document, "shop")["phase"]), (0, &Value::from("converted")));
    // A directory that is not there is not consistent.
    write(&file, local("web", "mapped", "/srv/b"));
    fs::remove_file(root.join("srv/a.virtfs-journal")).unwrap();
    let (code, document) = status(root, &["/etc"]);
    assert_eq!(code, 4, "{document:#}");
    write(&file, "<domain><name>web</name><devices><filesystem accessmode='mapped'></domain>");
    let (code, document) = status(root, &["/etc"]);
    assert_eq!(code, 4, "{document:#}");
    assert_eq!(migrate(&["status", "--root", "/nowhere-at-all"]).status.code(), Some(1));
}
