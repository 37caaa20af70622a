//! `migrate report`: the audits of many hosts in one.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a failed expectation is the report")]

mod page;
mod rounds;
mod statuses;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use tempfile::TempDir;

/// Runs `migrate report WORD…` in a directory.
fn report(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    command.args(["migrate", "report"]).args(words).current_dir(directory).output().unwrap()
}

/// What it printed, with the exit status expected.
#[track_caller]
fn printed(directory: &Path, words: &[&str], status: i32) -> String {
    let output = report(directory, words);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{words:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn document(directory: &Path, words: &[&str], status: i32) -> Value {
    let mut all = vec!["--format", "json"];
    all.extend(words);
    without_time(serde_json::from_str(&printed(directory, &all, status)).unwrap())
}

/// A report that does not say when it was made: two runs may be in two seconds.
fn without_time(mut document: Value) -> Value {
    let time = document.as_object_mut().unwrap().remove("time");
    let time = time.as_ref().and_then(Value::as_str).expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 20, "{time}");
    document
}

fn share(guest: &str, export: Option<&str>, rewritable: bool) -> Value {
    json!({
        "file": format!("/etc/libvirt/qemu/{guest}.xml"), "line": 12, "kind": "libvirt", "guest": guest,
        "fsdev": "fs0", "mount_tag": "data", "socket": "/run/p.sock", "sock_fd": null, "readonly": false,
        "writeout": false, "device": null, "export": export, "export_from": null, "resolved": export.is_some(),
        "rewritable": rewritable, "notes": ["proxy-share"],
    })
}

fn audit(shares: &[Value], unread: usize) -> Value {
    let findings: Vec<_> = shares
        .iter()
        .map(|share| {
            json!({"id": "proxy-share", "severity": "error", "file": share["file"], "line": 12, "message": "m", "remedy": "r"})
        })
        .collect();
    json!({
        "schema": 1, "target_qemu": "9.2", "shares": shares, "helpers": [], "findings": findings,
        "unread": vec![json!({"file": "/root/x", "reason": "Permission denied"}); unread],
        "summary": {
            "unread": unread, "shares": shares.len(), "helpers": 0,
            "findings": {"errors": shares.len(), "warnings": 0, "infos": 0},
        },
    })
}

/// Five hosts: two with shares, one of them in YAML; one clean, one not fully read, one that could not be reached.
fn fleet() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let audits = place.path().join("audits");
    fs::create_dir(&audits).unwrap();
    let web = audit(&[share("shop", Some("/srv/shop"), true), share("blog", None, true)], 0);
    fs::write(audits.join("web1.json"), web.to_string()).unwrap();
    let db = audit(&[share("pg", Some("/srv/pg"), false)], 1);
    fs::write(audits.join("db1.example.com.yaml"), serde_yaml::to_string(&db).unwrap()).unwrap();
    fs::write(audits.join("mail.json"), audit(&[], 0).to_string()).unwrap();
    fs::write(audits.join("old.json"), audit(&[], 3).to_string()).unwrap();
    fs::write(
        audits.join("far.json"),
        json!({"schema": 1, "error": "unreachable: no route to host"}).to_string(),
    )
    .unwrap();
    fs::write(audits.join("README.txt"), "not a report").unwrap();
    place
}

fn host<'a>(document: &'a Value, name: &str) -> &'a Value {
    let hosts = document["hosts"].as_array().unwrap();
    hosts.iter().find(|host| host["host"] == name).unwrap_or_else(|| panic!("no host {name} in {hosts:#?}"))
}

/// However many lines of an audit arrive, it counts as an audit only when all have.
#[test]
fn an_audit_that_was_cut_short_is_a_failed_host() {
    // In an audit's own order, the summary comes last.
    let mut audited = audit(&[share("shop", Some("/srv/shop"), true)], 1);
    let summary = json!({"summary": audited["summary"].take()});
    audited.as_object_mut().unwrap().remove("summary");
    let whole = serde_yaml::to_string(&audited).unwrap() + &serde_yaml::to_string(&summary).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    for length in 0..=lines.len() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("web.yaml");
        fs::write(&file, lines[..length].concat()).unwrap();
        let expected = if length == lines.len() { "proxy" } else { "failed" };
        let output = report(place.path(), &["--format=json", "--exit-zero", "."]);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(host(&document, "web")["status"], expected, "{length} of {} lines", lines.len());
    }
    // A list that lost rows, in a document that parses.
    let place = tempfile::tempdir().unwrap();
    let mut audit = audit(&[share("shop", Some("/srv/shop"), true)], 0);
    audit["shares"] = json!([]);
    fs::write(place.path().join("web.json"), audit.to_string()).unwrap();
    let output = report(place.path(), &["--format=json", "--exit-zero", "."]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(host(&document, "web")["status"], "failed");
    let reason = host(&document, "web")["reason"].as_str().unwrap();
    assert!(reason.contains("its summary counts 1 shares, and it lists 0"), "{reason}");
}

#[test]
fn every_host_is_there_with_its_shares() {
    let place = fleet();
    let document = document(place.path(), &["audits"], 3);
    let summary = &document["summary"];
    for (name, number) in [
        ("hosts", 5),
        ("proxy", 2),
        ("unread", 1),
        ("clean", 1),
        ("failed", 1),
        ("shares", 3),
        ("ready", 1),
        ("export_unknown", 1),
        ("by_hand", 1),
    ] {
        assert_eq!(summary[name], number, "{name}");
    }
    assert_eq!(host(&document, "db1.example.com")["status"], "proxy");
    assert_eq!(host(&document, "far")["reason"], "unreachable: no route to host");
    assert_eq!(host(&document, "old")["unread"], 3);
    assert_eq!(
        document["findings"][0],
        json!({"id": "proxy-share", "severity": "error", "count": 3, "hosts": 2})
    );
    let yaml: Value =
        serde_yaml::from_str(&printed(place.path(), &["--format", "yaml", "audits"], 3)).unwrap();
    assert_eq!(without_time(yaml), document);
}

#[test]
fn the_exit_status_is_the_same_in_every_format() {
    let place = fleet();
    for format in ["text", "json", "yaml", "csv", "markdown", "html"] {
        printed(place.path(), &["--format", format, "audits"], 3);
        printed(place.path(), &["--format", format, "audits/mail.json"], 0);
        printed(place.path(), &["--format", format, "audits/old.json"], 4);
        printed(place.path(), &["--format", format, "audits/far.json", "audits/mail.json"], 4);
        printed(place.path(), &["--format", format, "--exit-zero", "audits"], 0);
    }
}

#[test]
fn text_and_markdown_put_shares_together() {
    let place = fleet();
    for (by, heading) in [
        ("host", "web1: 2 shares"),
        ("guest", "shop: 1 share"),
        ("share", "(export unknown): 1 share"),
        ("status", "by-hand: 1 share"),
        ("target", "QEMU 9.2: 3 shares"),
        ("owner", "(owner unknown): 3 shares"),
    ] {
        let text = printed(place.path(), &["--by", by, "audits"], 3);
        assert!(text.lines().any(|line| line == heading), "{by}: {text}");
        assert!(text.contains("far: failed: unreachable: no route to host\n"), "{text}");
        assert!(
            text.ends_with("5 hosts: 2 with proxy setups, 1 not fully read, 1 failed, 1 clean\n"),
            "{text}"
        );
        let markdown = printed(place.path(), &["--format", "markdown", "--by", by, "audits"], 3);
        let title = heading.split(": ").next().unwrap();
        assert!(markdown.contains(&format!("\n## {title}\n")), "{markdown}");
    }
    let text = printed(place.path(), &["audits"], 3);
    let line = "    guest shop, share 'data', /srv/shop (/etc/libvirt/qemu/shop.xml:12; ready)";
    assert!(text.lines().any(|found| found == line), "{text}");
}

#[test]
fn csv_has_a_line_for_each_share_and_each_host_without() {
    let place = fleet();
    let csv = printed(place.path(), &["--format", "csv", "audits"], 3);
    let lines: Vec<_> = csv.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), 1 + 3 + 3, "{csv}");
    let columns = lines[0].split(',').count();
    assert!(lines.iter().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(lines.iter().any(|line| line.starts_with("far,,failed,unreachable: no route to host,")), "{csv}");
}

#[test]
fn an_inventory_names_owners_and_the_hosts_that_should_be_there() {
    let place = fleet();
    let inventory = "hosts:\n  web1: {owner: Ann, notes: shop front}\n  db: {owner: Bob, report: db1.example.com.yaml}\n  lost:\n";
    fs::write(place.path().join("inventory.yaml"), inventory).unwrap();
    let document = document(place.path(), &["--inventory", "inventory.yaml", "audits"], 3);
    assert_eq!(host(&document, "web1")["owner"], "Ann");
    assert_eq!(host(&document, "web1")["notes"], "shop front");
    assert_eq!(host(&document, "db")["shares"], 1);
    assert_eq!(host(&document, "lost")["status"], "failed");
    assert_eq!(document["summary"]["hosts"], 6);
    let text = printed(place.path(), &["--inventory", "inventory.yaml", "--by", "owner", "audits"], 3);
    assert!(
        text.contains("Ann: 2 shares\n") && text.contains("lost: failed: there is no report of it\n"),
        "{text}"
    );

    fs::write(place.path().join("wrong.yaml"), "hosts: {web1: {ownre: Ann}}").unwrap();
    let output = report(place.path(), &["--inventory", "wrong.yaml", "audits"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("wrong.yaml") && said.contains("ownre"), "{said}");
}

#[test]
fn two_rounds_show_the_progress() {
    let place = fleet();
    let now = place.path().join("now");
    fs::create_dir(&now).unwrap();
    // The blog has moved, a new share has come, the database's host can't be reached, one host was not asked.
    let web = audit(&[share("shop", Some("/srv/shop"), true), share("chat", None, true)], 0);
    fs::write(now.join("web1.json"), web.to_string()).unwrap();
    fs::write(now.join("db1.example.com.json"), "").unwrap();
    fs::write(now.join("mail.json"), audit(&[], 0).to_string()).unwrap();
    fs::write(now.join("far.json"), audit(&[], 0).to_string()).unwrap();
    let document = document(place.path(), &["--since", "audits", "now"], 3);
    assert_eq!(document["summary"]["since"], json!({"new": 1, "unchanged": 1, "gone": 1, "unknown": 1}));
    assert_eq!(document["summary"]["shares"], 2);
    let change = |guest: &str| {
        let shares = document["shares"].as_array().unwrap();
        shares.iter().find(|share| share["guest"] == guest).unwrap()["change"].as_str().unwrap().to_owned()
    };
    assert_eq!(["shop", "chat", "blog", "pg"].map(change), ["unchanged", "new", "gone", "unknown"]);
    assert_eq!(host(&document, "db1.example.com")["reason"], "it is empty: the audit said nothing");
    assert_eq!(host(&document, "old")["reason"], "no report this time, though there was one before");
    let text = printed(place.path(), &["--since", "audits", "now"], 3);
    assert!(text.contains("since then: 1 new, 1 unchanged, 1 gone, 1 unknown\n"), "{text}");

    // Two single audits, whatever they are called.
    fs::copy(now.join("web1.json"), place.path().join("after.json")).unwrap();
    let text = printed(place.path(), &["--since", "audits/web1.json", "after.json"], 3);
    assert!(text.contains("since then: 1 new, 1 unchanged, 1 gone, 0 unknown\n"), "{text}");
}

#[test]
fn what_cannot_be_read_is_a_failed_host_with_a_reason() {
    let place = tempfile::tempdir().unwrap();
    let fifo = place.path().join("fifo.json");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (name, text) in [
        ("empty.json", ""),
        ("cut.json", "{\"schema\": 1, \"shares\": ["),
        ("newer.json", "{\"schema\": 99}"),
        ("other.json", "{\"name\": \"x\"}"),
        ("bomb.yaml", "a: &a [x,x,x,x]\nb: &b [*a,*a,*a]\nshares: [*b,*b"),
        ("binary.yaml", "\0\u{1}\u{2}"),
    ] {
        fs::write(place.path().join(name), text).unwrap();
    }
    let document = document(place.path(), &["."], 4);
    for (name, reason) in [
        ("empty", "it is empty"),
        ("cut", "EOF while parsing"),
        ("newer", "its schema is 99"),
        ("other", "it says no 'schema'"),
        ("bomb", ""),
        ("binary", ""),
        ("fifo", "not a regular file"),
    ] {
        let host = host(&document, name);
        assert_eq!(host["status"], "failed", "{name}");
        assert!(host["reason"].as_str().unwrap().contains(reason), "{host}");
    }
}

#[test]
fn misuse_is_said_in_a_sentence() {
    let place = fleet();
    fs::create_dir(place.path().join("none")).unwrap();
    fs::copy(place.path().join("audits/web1.json"), place.path().join("web1.yaml")).unwrap();
    for (words, status, sense) in [
        (&["none"][..], 1, "holds no report"),
        (&["missing.json"], 1, "cannot read 'missing.json'"),
        (&["audits", "web1.yaml"], 1, "two reports for the host 'web1'"),
        (&[], 2, "FILE|DIR"),
        (&["--format", "pdf", "audits"], 2, "pdf"),
    ] {
        let output = report(place.path(), words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{words:?}: {said}");
        assert!(said.contains(sense), "{words:?}: {said}");
    }
    let schema: Value = serde_json::from_str(&printed(place.path(), &["--schema"], 0)).unwrap();
    assert_eq!(schema["title"], "FleetDocument");
}

/// A fleet whose names do their worst.
fn hostile() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let mut worst = share("<script>document.title='bad'</script>", Some("/srv/\u{1b}[2Jx|y`\u{202e}z"), true);
    worst["mount_tag"] = json!("\" onmouseover=\"alert(1)");
    worst["kind"] = json!("=1+1");
    worst["fsdev"] = json!("\u{ff1d}1+1");
    let audit = audit(&[worst], 0);
    fs::write(place.path().join("a<b>.json"), audit.to_string()).unwrap();
    place
}

#[test]
fn names_harm_neither_terminal_nor_table() {
    let place = hostile();
    for format in ["text", "csv", "markdown", "html"] {
        let text = printed(place.path(), &["--format", format, "."], 3);
        let harmful = |c: char| (c.is_control() && !"\r\n".contains(c)) || c == '\u{202e}';
        assert!(!text.contains(harmful), "{format}: {text:?}");
        match format {
            "csv" => assert!(text.contains(",'=1+1,") && text.contains(",'\u{ff1d}1+1,"), "{text}"),
            "text" => {}
            _ => assert!(!text.contains("<script>document"), "{text}"),
        }
    }
}
