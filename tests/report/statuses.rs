//! Status documents beside audits: how far each host is.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{audit, document, host, printed, share};

fn status(phases: &[(&str, Option<&str>)]) -> Value {
    let count = |wanted: &str| phases.iter().filter(|(phase, _)| *phase == wanted).count();
    let problems = phases.iter().filter(|(_, problem)| problem.is_some()).count();
    let rows: Vec<_> = phases
        .iter()
        .enumerate()
        .map(|(number, (phase, problem))| {
            json!({
                "guest": format!("guest{number}"), "mount_tag": "data", "fsdev": null, "export": "/srv/a", "backend": "local",
                "security_model": "mapped-xattr", "phase": phase, "since": null, "step": null, "problem": problem, "next": null,
                "places": [], "pid": null,
            })
        })
        .collect();
    json!({
        "schema": 1, "document": "status", "time": "2026-01-01T00:00:00Z", "host_name": null, "tool_version": null, "kernel": null,
        "shares": rows, "exports": [], "unread": [],
        "summary": {
            "shares": phases.len(), "proxy": count("proxy"), "planned": 0, "in_progress": count("in-progress"),
            "converted": count("converted"), "verified": count("verified"), "undone": 0, "local": count("local"),
            "problems": problems, "unread": 0,
        },
    })
}

fn put(place: &Path, name: &str, document: &Value) {
    fs::create_dir_all(place.join("audits")).unwrap();
    fs::write(place.join("audits").join(name), document.to_string()).unwrap();
}

#[test]
fn each_host_has_its_progress() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path();
    put(place, "web1.json", &audit(&[share("shop", Some("/srv/a"), true)], 0));
    put(place, "web1.status.json", &status(&[("proxy", None), ("converted", None)]));
    put(place, "db1.status.json", &status(&[("verified", None), ("local", Some("<b> is plain"))]));
    let report = document(place, &["audits"], 3);
    assert_eq!(report["hosts"].as_array().unwrap().len(), 2);
    assert_eq!(host(&report, "web1")["progress"]["summary"]["converted"], 1);
    assert_eq!(host(&report, "web1")["shares"], 1, "the audit's own counts stay");
    assert_eq!(host(&report, "db1")["progress"]["summary"]["problems"], 1);
    assert_eq!(report["summary"]["status"]["shares"], 4);
    let text = printed(place, &["audits"], 3);
    assert!(text.contains("status of db1: 1 verified; 1 over local; 1 problem\n    guest guest1, share 'data', /srv/a: over local: <b> is plain\n"), "{text}");
    assert!(text.contains("status: 4 shares: 1 on the proxy; 1 converted, not verified here; 1 verified; 1 over local; 1 problem, 0 unread"), "{text}");
    let page = printed(place, &["--format", "html", "audits"], 3);
    assert!(page.contains("<td>db1</td><td>guest1</td><td>data</td><td>/srv/a</td><td>over local</td><td></td><td>&lt;b&gt; is plain</td>"), "{page}");
}

#[test]
fn a_fleet_is_done_only_where_each_status_is() {
    for (phases, code) in [
        (&[("verified", None), ("converted", None)][..], 0),
        (&[("in-progress", None)], 3),
        (&[("verified", Some("it does not fit"))], 3),
        (&[], 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "web1.status.json", &status(phases));
        document(dir.path(), &["audits"], code);
    }
}

#[test]
fn a_status_that_was_cut_short_is_not_clean_and_two_of_a_host_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = status(&[("verified", None), ("verified", None)]);
    short["shares"].as_array_mut().unwrap().pop();
    put(dir.path(), "web1.status.json", &short);
    let report = document(dir.path(), &["audits"], 4);
    assert!(host(&report, "web1")["reason"].as_str().unwrap().contains("it is not whole"), "{report:#}");
    put(dir.path(), "web1.json", &audit(&[], 0));
    let report = document(dir.path(), &["audits"], 4);
    assert!(host(&report, "web1")["remarks"].to_string().contains("it is not whole"), "{report:#}");
    put(dir.path(), "web1.status.json", &status(&[]));
    put(dir.path(), "web1.status.yaml", &status(&[]));
    let output = crate::report(dir.path(), &["audits"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("two reports for the host 'web1'"));
}
