//! Two rounds of audits, and what makes an audit doubtful.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{audit, document, host, printed, report, share};

/// RFC 3339 for this many days from now.
fn days(from_now: i64) -> String {
    let day = Duration::from_secs(24 * 60 * 60) * u32::try_from(from_now.unsigned_abs()).unwrap();
    let now = SystemTime::now();
    let seconds = if from_now < 0 { now - day } else { now + day }.duration_since(SystemTime::UNIX_EPOCH);
    let output = Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%SZ", "-d", &format!("@{}", seconds.unwrap().as_secs())])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// An audit with these fields in place of its own.
fn with(mut audit: Value, fields: &[(&str, Value)]) -> Value {
    for (name, value) in fields {
        audit[name] = value.clone();
    }
    audit
}

/// Two directories, `before` and `now`, with one host, `web`.
fn rounds(before: &Value, now: &Value) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for (name, audit) in [("before", before), ("now", now)] {
        fs::create_dir(place.path().join(name)).unwrap();
        fs::write(place.path().join(name).join("web.json"), audit.to_string()).unwrap();
    }
    place
}

fn compared(place: &Path) -> Value {
    let output = report(place, &["--format=json", "--exit-zero", "--since", "before", "now"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn remarks(document: &Value, name: &str) -> String {
    let remarks = host(document, name)["remarks"].as_array().unwrap().clone();
    remarks.iter().map(|remark| remark.as_str().unwrap().to_owned()).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_removed_share_keeps_its_owner() {
    let place = rounds(&audit(&[share("shop", Some("/srv/shop"), true)], 0), &audit(&[], 0));
    let path = place.path();
    // The report's file has another name than the host, in both rounds.
    fs::write(
        path.join("inventory.yaml"),
        "hosts: {shop: {owner: Ann, report: web.json}, other: {owner: Bob}}",
    )
    .unwrap();
    let words = ["--since", "before", "--inventory", "inventory.yaml", "now"];
    let document = document(path, &words, 4);
    let share = &document["shares"][0];
    assert_eq!((&share["owner"], &share["change"]), (&json!("Ann"), &json!("gone")), "{document:#}");
    assert_eq!(document["hosts"].as_array().unwrap().len(), 2, "{document:#}");
    let by_owner = printed(path, &[&["--by", "owner"], &words[..]].concat(), 4);
    assert!(by_owner.contains("Ann: 1 share\n") && !by_owner.contains("unknown)"), "{by_owner}");
    let page = printed(path, &[&["--format", "html"], &words[..]].concat(), 4);
    let row = page.lines().find(|line| line.contains("/srv/shop")).expect("the share's row");
    assert!(row.contains("Ann"), "{row}");

    // Two single files, whatever they are called.
    fs::copy(path.join("before/web.json"), path.join("then.json")).unwrap();
    let words = ["--since", "then.json", "--inventory", "inventory.yaml", "--by", "owner", "now/web.json"];
    fs::write(path.join("inventory.yaml"), "hosts: {web: {owner: Ann}}").unwrap();
    let text = printed(path, &words, 0);
    assert!(text.contains("Ann: 1 share\n"), "{text}");
}

#[test]
fn findings_of_one_kind_are_counted_by_severity() {
    let place = tempfile::tempdir().unwrap();
    for (name, severity) in [("a", "info"), ("b", "error"), ("c", "error")] {
        let mut audit = audit(&[share("shop", Some("/srv/shop"), true)], 0);
        audit["findings"][0]["severity"] = json!(severity);
        fs::write(place.path().join(format!("{name}.json")), audit.to_string()).unwrap();
    }
    let document = document(place.path(), &["."], 3);
    assert_eq!(
        document["findings"],
        json!([
            {"id": "proxy-share", "severity": "error", "count": 2, "hosts": 2},
            {"id": "proxy-share", "severity": "info", "count": 1, "hosts": 1},
        ])
    );
    let severities: Vec<_> =
        document["shares"].as_array().unwrap().iter().map(|share| share["severity"].clone()).collect();
    assert_eq!(severities, ["info", "error", "error"]);
}

/// A share is gone only if the audit looked where it was, and could read it.
#[test]
fn a_share_is_gone_only_where_the_audit_looked() {
    let old = audit(&[share("shop", Some("/srv/shop"), true)], 0);
    let running = {
        let mut share = share("shop", Some("/srv/shop"), false);
        share["file"] = json!("/proc/77/cmdline");
        share["pid"] = json!(77);
        audit(&[share], 0)
    };
    let unread = |file: &str| {
        let mut audit = audit(&[], 1);
        audit["unread"][0]["file"] = json!(file);
        audit
    };
    let not_all_seen = {
        let mut audit = audit(&[], 0);
        audit["findings"] = json!([{"id": "not-seen", "severity": "warning", "message": "m", "remedy": "r"}]);
        audit["summary"]["findings"]["warnings"] = json!(1);
        audit
    };
    let no_processes = {
        let mut audit = audit(&[], 0);
        audit["summary"]["processes"] = json!(0);
        audit
    };
    let looked_in = |places: Value| with(audit(&[], 0), &[("looked_in", places)]);
    for (old, now, change) in [
        (&old, audit(&[], 0), "gone"),
        (&old, looked_in(json!(["/etc"])), "gone"),
        (&old, looked_in(json!(["/home"])), "unknown"),
        (&old, with(looked_in(json!(["/etc"])), &[("left_out", json!(["/etc/libvirt"]))]), "unknown"),
        (&old, unread("/etc/libvirt/qemu/shop.xml"), "unknown"),
        (&old, unread("/etc/libvirt"), "unknown"),
        (&old, unread("/etc/other"), "gone"),
        (&running, audit(&[], 0), "gone"),
        (&running, unread("/proc/12"), "unknown"),
        (&running, not_all_seen, "unknown"),
        (&running, no_processes, "unknown"),
    ] {
        let place = rounds(old, &now);
        let document = compared(place.path());
        assert_eq!(document["shares"][0]["change"], change, "{now}");
        assert_eq!(document["summary"]["since"][change], 1, "{now}");
    }
}

#[test]
fn nothing_is_gone_where_the_rounds_are_the_wrong_way_round() {
    let at = |shares: &[Value], day| with(audit(shares, 0), &[("time", json!(days(day)))]);
    let shares = [share("shop", Some("/srv/shop"), true)];
    let place = rounds(&at(&shares, -2), &at(&[], -1));
    assert_eq!(compared(place.path())["summary"]["since"]["gone"], 1);
    let place = rounds(&at(&shares, -1), &at(&[], -2));
    let document = compared(place.path());
    assert_eq!(document["summary"]["since"]["unknown"], 1, "{document:#}");
    assert!(remarks(&document, "web").contains("older than the one that --since names"), "{document:#}");
}

#[test]
fn a_doubtful_audit_is_marked() {
    let place = tempfile::tempdir().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let made = |day, name: &str, version: &str| {
        [
            ("time", json!(days(day))),
            ("host_name", json!(name)),
            ("tool_version", json!(version)),
            ("kernel", json!("6.1.0")),
        ]
    };
    for (file, fields) in [
        ("good", made(0, "GOOD", version).to_vec()),
        ("old", made(-40, "old", version).to_vec()),
        ("future", made(2, "future", version).to_vec()),
        ("other", made(0, "other", "0.0.1").to_vec()),
        ("swapped", made(0, "good", version).to_vec()),
        ("twin1", made(0, "twin", version).to_vec()),
        ("twin2", made(0, "twin", version).to_vec()),
        ("local1", made(0, "localhost", version).to_vec()),
        ("local2", made(0, "localhost", version).to_vec()),
        ("plain", vec![]),
        ("wrong", vec![("time", json!("yesterday\u{202e}"))]),
    ] {
        let text = with(audit(&[], 0), &fields).to_string();
        fs::write(place.path().join(format!("{file}.json")), text).unwrap();
    }
    let document = document(place.path(), &["."], 0);
    for (name, remark) in [
        ("old", "the audit is 40 days old"),
        ("future", "is in the future: a clock is wrong"),
        ("other", "version 0.0.1 of this program made the audit"),
        ("swapped", "of the host 'good', by its own word"),
        ("twin1", "the audits of 'twin2' name the host 'twin', too"),
        ("twin2", "the audits of 'twin1' name the host 'twin', too"),
        ("plain", "an older version of this program made it"),
        ("wrong", "is not a time in RFC 3339"),
    ] {
        assert!(remarks(&document, name).contains(remark), "{name}: {}", remarks(&document, name));
    }
    for name in ["good", "local1", "local2"] {
        assert_eq!(remarks(&document, name), "", "{name}");
    }
    assert_eq!(document["summary"]["doubtful"], 8);
    assert_eq!(host(&document, "good")["kernel"], "6.1.0");
    let text = printed(place.path(), &["."], 0);
    assert!(text.contains("note: the audit is 40 days old: old\n"), "{text}");
    let text = printed(place.path(), &["--max-age", "41", "."], 0);
    assert!(!text.contains("days old"), "{text}");
    let csv = printed(place.path(), &["--format=csv", "."], 0);
    assert!(
        csv.lines().any(|line| line.starts_with("old,") && line.contains("the audit is 40 days old")),
        "{csv}"
    );
    let metrics = printed(place.path(), &["--format=prometheus", "."], 0);
    assert!(metrics.contains("virtfs_proxy_host_audit_time_seconds{host=\"good\""), "{metrics}");
}

/// An audit that looked at nothing, or at a part of the host, is no proof that the host is clean.
#[test]
fn an_audit_of_a_part_of_a_host_is_marked() {
    let place = tempfile::tempdir().unwrap();
    let now = [("time", json!(days(0)))];
    for (name, looked_at, processes) in [("nothing", 0, 0), ("part", 9, 0), ("whole", 9, 3)] {
        let mut audit = with(with(audit(&[], 0), &now), &[("looked_in", json!(["/etc/libvirt"]))]);
        audit["summary"]["looked_at"] = json!(looked_at);
        audit["summary"]["processes"] = json!(processes);
        fs::write(place.path().join(format!("{name}.json")), audit.to_string()).unwrap();
    }
    let document = document(place.path(), &["."], 4);
    for (name, status, remark) in [
        ("nothing", "unread", "the audit looked at nothing: no file and no process was read"),
        ("part", "clean", "the audit looked at no process; it looked in '/etc/libvirt'"),
        ("whole", "clean", ""),
    ] {
        assert_eq!(host(&document, name)["status"], status, "{name}");
        assert_eq!(remarks(&document, name), remark, "{name}");
    }
}

/// What this program's own audit says of its making is read back, and the earlier round's is beside it.
#[test]
fn an_audit_says_where_and_when_it_was_made() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("proc/sys/kernel")).unwrap();
    fs::write(root.join("etc/hostname"), "# of the image\nweb7.example.com\n").unwrap();
    fs::write(root.join("proc/sys/kernel/osrelease"), "6.1.0-test\n").unwrap();
    for format in ["json", "yaml"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
        command.args(["migrate", "audit", "--format", format, "--root"]).arg(&root);
        let output = command.output().unwrap();
        fs::write(place.path().join(format!("web7.{format}")), output.stdout).unwrap();
    }
    // Nothing there is of interest to an audit.
    let document = document(place.path(), &["--since", "web7.json", "web7.yaml", "--exit-zero"], 0);
    let host = host(&document, "web7");
    for facts in [host, &host["before"]] {
        assert_eq!(facts["host_name"], "web7.example.com", "{host:#}");
        assert_eq!(facts["kernel"], "6.1.0-test", "{host:#}");
        assert_eq!(facts["tool_version"], env!("CARGO_PKG_VERSION"), "{host:#}");
    }
    let said = remarks(&document, "web7");
    assert_eq!(said, "the audit looked at no process; it looked in '/etc'");
    // Another kernel's name is no word about this host where its /proc is not mounted.
    fs::remove_dir_all(root.join("proc")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    command.args(["migrate", "audit", "--format", "json", "--root"]).arg(&root);
    let document: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert_eq!(document["kernel"], Value::Null);
}
