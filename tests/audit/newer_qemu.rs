//! Real packages of QEMU: this machine's, and those of newer releases of the distribution, which are fetched once.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::audit;

/// The unpacked packages, with the version of each: `10.0.13`.
fn newer() -> Vec<(PathBuf, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/newer-qemu");
    let output = Command::new(script).output().expect("scripts/lib/newer-qemu");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let unpacked = lines.lines().map(|line| {
        let (folder, package) = line.rsplit_once(' ').unwrap();
        // EPOCH:UPSTREAM+SUFFIX-REVISION
        let upstream = package.split_once(':').map_or(package, |(_, rest)| rest);
        let upstream = upstream.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap();
        (PathBuf::from(folder), upstream.to_owned())
    });
    unpacked.collect()
}

fn programs(document: &Value) -> Vec<(&str, &str, bool)> {
    let rows = document["installed_qemu"].as_array().unwrap();
    let row = |row: &'_ Value| row["proxy_backend"].as_bool().unwrap();
    rows.iter()
        .map(|one| (one["file"].as_str().unwrap(), one["version"].as_str().unwrap(), row(one)))
        .collect()
}

#[test]
fn qemu_9_2_and_newer_is_without_the_backend() {
    let unpacked = newer();
    assert!(!unpacked.is_empty());
    for (root, version) in unpacked {
        let found = audit(["--root", root.to_str().unwrap()]);
        let programs = programs(&found.document);
        assert!(programs.iter().any(|(file, ..)| file.ends_with("/qemu-system-x86_64")), "{programs:?}");
        for (file, said, has_backend) in programs {
            assert_eq!((said, has_backend), (version.as_str(), false), "{}{file}", root.display());
        }
        assert_eq!(found.document["target_qemu"], version);
    }
}

#[test]
fn this_machines_qemu_has_the_backend_before_9_2_and_not_since() {
    let found = audit(None::<&str>);
    let programs = programs(&found.document);
    let main = programs.iter().find(|(file, ..)| file.ends_with("/qemu-system-x86_64"));
    let (_, version, has_backend) = main.expect("qemu-system-x86_64, of Debian's package qemu-system-x86");
    let numbers: Vec<u32> = version.split('.').take(2).map(|number| number.parse().unwrap()).collect();
    assert_eq!(*has_backend, numbers < vec![9, 2], "{version}");
}
