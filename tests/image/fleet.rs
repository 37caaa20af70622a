//! What scripts/fleet ships: the playbook against real hosts.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::container::{Engine, IMAGE, script, stdout_of, tools};
use crate::program::{ours, scratch};

/// A script that starts a guest with a share over the proxy backend.
const START: &str = "#!/bin/sh
exec qemu-system-x86_64 -name shop -fsdev proxy,id=fs0,socket=/run/shop.sock -device virtio-9p-pci,fsdev=fs0,mount_tag=data
";

/// Two hosts that work, one that has no Python, one that is not there.
const HOSTS: &str = "[all]
web1 ansible_host=10.77.0.10 ansible_python_interpreter=/usr/bin/python3
db1 ansible_host=10.77.0.11 ansible_python_interpreter=/usr/bin/python3
broken ansible_host=10.77.0.11 ansible_python_interpreter=/no/such/python
gone ansible_host=10.77.0.99
[all:vars]
ansible_user=root
ansible_ssh_private_key_file=HERE/key
ansible_ssh_common_args=-o ConnectTimeout=10 -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o ControlMaster=no
";

fn playbook(place: &Path, options: &[&str]) -> String {
    for name in ["root", "tmp"] {
        let _ = fs::remove_dir(place.join(name));
    }
    for name in ["key", "key.pub"] {
        let _ = fs::remove_file(place.join(name));
    }
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/image/hosts"));
    command.arg(place).args(["web1", "db1", "--"]).arg(tools().join("ansible-playbook"));
    command.arg("-i").arg(place.join("hosts.ini")).arg(script("fleet/ansible/audit.yml"));
    command.args(["-e", &format!("audit_binary={}", ours().display())]);
    command.args(["-e", &format!("audit_reports={}", place.join("reports").display())]);
    command.args(["-e", &format!("{{\"audit_paths\": [\"{}\"]}}", place.join("root").display())]);
    command.args(options).env("HOME", place).env("ANSIBLE_NOCOLOR", "1").stdin(Stdio::null());
    stdout_of("the playbook", &command.output().expect("tests/image/hosts"))
}

fn host(report: &Value, name: &str) -> Value {
    let hosts = report["hosts"].as_array().unwrap();
    hosts
        .iter()
        .find(|host| host["host"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report:#}"))
        .clone()
}

#[test]
fn the_playbook_audits_real_hosts_and_loses_none() {
    let scratch = scratch();
    let place = scratch.path();
    for name in ["web1", "db1"] {
        fs::create_dir(place.join(name)).unwrap();
    }
    fs::write(place.join("web1/start.sh"), START).unwrap();
    // A host where nothing was looked at is not clean.
    fs::write(place.join("db1/backup.sh"), "#!/bin/sh\nexec pg_dumpall\n").unwrap();
    fs::write(place.join("hosts.ini"), HOSTS.replace("HERE", place.to_str().unwrap())).unwrap();

    // Checking first: nothing is written, here or there.
    playbook(place, &["--check"]);
    assert!(!place.join("reports").exists());

    let said = playbook(place, &[]);
    assert!(said.contains("1 proxy share: 0 ready, 1 with an unknown export, 0 by hand"), "{said}");
    let reports = place.join("reports");
    let merged =
        Command::new(ours()).args(["migrate", "report", "--format", "json"]).arg(&reports).output().unwrap();
    assert_eq!(merged.status.code(), Some(3));
    let merged: Value = serde_json::from_slice(&merged.stdout).unwrap();
    assert_eq!(host(&merged, "web1")["status"], "proxy");
    let db1 = fs::read_to_string(place.join("reports/db1.json")).unwrap();
    assert_eq!(host(&merged, "db1")["status"], "clean", "{db1}");
    let reason = |name: &str| host(&merged, name)["reason"].as_str().unwrap().to_owned();
    assert!(reason("broken").contains("/no/such/python"), "{}", reason("broken"));
    assert!(reason("gone").contains("Failed to connect"), "{}", reason("gone"));
    let page = fs::read_to_string(reports.join("report.html")).unwrap();
    assert!(page.contains("<td>shop</td>"), "{page}");
    let left: Vec<_> = fs::read_dir(place.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// One host that has the image, one that has not, one that can't be reached, one without Python.
const HOSTS_WITH_IMAGES: &str = "[all]
here ansible_connection=local
bare ansible_connection=local audit_image=localhost/no-such-image:1
gone ansible_host=127.0.0.9 ansible_port=9 ansible_ssh_common_args='-o ConnectTimeout=10'
broken ansible_connection=local ansible_python_interpreter=/no/such/python
[all:vars]
audit_image=IMAGE
ansible_python_interpreter=/usr/bin/python3
";

#[test]
fn the_playbook_audits_by_the_image_where_a_host_has_it() {
    let engine = Engine::new();
    let (etc, reports) = (engine.directory("etc"), engine.scratch().join("reports"));
    fs::write(etc.join("start.sh"), START).unwrap();
    let hosts = engine.scratch().join("hosts.ini");
    fs::write(&hosts, HOSTS_WITH_IMAGES.replace("IMAGE", IMAGE)).unwrap();
    let mut command = engine.command(tools().join("ansible-playbook"));
    command.arg("-i").arg(hosts).arg(script("fleet/ansible/audit.yml"));
    let variables = serde_json::json!({
        "audit_binary": ours(), "audit_reports": reports, "audit_paths": [etc], "audit_become": false,
    });
    command.args(["-e", &variables.to_string()]);
    command.env("HOME", engine.scratch()).env("ANSIBLE_NOCOLOR", "1");
    stdout_of("the playbook", &command.output().unwrap());

    let merged =
        Command::new(ours()).args(["migrate", "report", "--format", "json"]).arg(&reports).output().unwrap();
    let merged: Value = serde_json::from_slice(&merged.stdout).unwrap();
    assert_eq!(merged["shares"][0]["file"], etc.join("start.sh").to_str().unwrap(), "{merged:#}");
    assert_eq!(host(&merged, "here")["status"], "proxy");
    for (name, reason) in
        [("bare", "no-such-image"), ("gone", "Connection refused"), ("broken", "/no/such/python")]
    {
        let host = host(&merged, name);
        assert_eq!(host["status"], "failed", "{host:#}");
        assert!(host["reason"].as_str().unwrap().contains(reason), "{host:#}");
    }
}

/// The playbook fails, and the report is there with the reasons all the same.
#[test]
fn the_playbook_fails_where_there_is_no_audit_of_any_host() {
    let scratch = scratch();
    let place = scratch.path();
    let hosts = "[all]\nbroken ansible_connection=local ansible_python_interpreter=/no/such/python\n\
                 gone ansible_host=127.0.0.9 ansible_port=9 ansible_ssh_common_args='-o ConnectTimeout=10'\n";
    let ours = ours();
    // The second binary runs, and says nothing of use.
    for (hosts, binary, reason) in [
        (hosts, ours.as_path(), "/no/such/python"),
        (
            "[all]\nbroken ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n",
            Path::new("/bin/false"),
            "Run the audit",
        ),
    ] {
        fs::write(place.join("hosts.ini"), hosts).unwrap();
        let reports = place.join("reports");
        let mut command = Command::new(tools().join("ansible-playbook"));
        command.arg("-i").arg(place.join("hosts.ini")).arg(script("fleet/ansible/audit.yml"));
        let variables = serde_json::json!({
            "audit_binary": binary, "audit_reports": reports, "audit_paths": [place], "audit_become": false,
        });
        command.args(["-e", &variables.to_string()]).env("HOME", place).env("ANSIBLE_NOCOLOR", "1");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let report = fs::read_to_string(reports.join("broken.json")).unwrap();
        assert!(report.contains(reason), "{report}");
    }
}

/// Three hosts, each with a guest of its own that a script starts and that is shut down.
const HOSTS_WITH_GUESTS: &str = "[all]
one
three
two
[all:vars]
ansible_connection=local
ansible_python_interpreter=/usr/bin/python3
";

/// One of the playbooks that plan, apply and undo: its status, and what it printed.
fn moves(place: &Path, name: &str) -> (Option<i32>, String) {
    let own = |below: &str| format!("{}/{{{{ inventory_hostname }}}}/{below}", place.display());
    let variables = serde_json::json!({
        "virtfs_binary": ours(), "virtfs_plans": place.join("plans"), "virtfs_become": false,
        "virtfs_paths": [own("vm.sh")], "virtfs_options": ["--owner", "nobody"], "virtfs_state": own("state"),
        "virtfs_program": own("program"), "virtfs_folder": own("folder"),
    });
    let mut command = Command::new(tools().join("ansible-playbook"));
    command.arg("-i").arg(place.join("hosts.ini")).arg(script(&format!("fleet/ansible/{name}.yml")));
    command.args(["-e", &variables.to_string()]).env("HOME", place).env("ANSIBLE_NOCOLOR", "1");
    let output = command.stdin(Stdio::null()).output().expect("ansible-playbook");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_playbooks_move_one_host_after_the_other_and_stop_at_the_first_that_fails() {
    let scratch = scratch();
    let place = scratch.path();
    fs::write(place.join("hosts.ini"), HOSTS_WITH_GUESTS).unwrap();
    let text = |host: &str| fs::read_to_string(place.join(host).join("vm.sh")).unwrap();
    let owner = |host: &str| {
        let file = fs::metadata(place.join(host).join("export/file")).unwrap();
        std::os::unix::fs::MetadataExt::uid(&file)
    };
    fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for host in ["one", "two", "three"] {
        fs::create_dir_all(place.join(host).join("export")).unwrap();
        fs::write(place.join(host).join("export/file"), host).unwrap();
        let here = place.join(host);
        let start = format!(
            "#!/bin/sh\nvirtfs-proxy-helper --path {0}/export --socket {0}/s --uid nobody --gid nogroup\n\
             exec qemu-system-x86_64 -name {host} -fsdev proxy,id=fs0,socket={0}/s -device virtio-9p-pci,fsdev=fs0,mount_tag=data\n",
            here.display()
        );
        fs::write(here.join("vm.sh"), start).unwrap();
    }
    let before = text("one");

    let (status, said) = moves(place, "plan");
    assert_eq!(status, Some(0), "{said}");
    let page = fs::read_to_string(place.join("plans/plans.txt")).unwrap();
    for host in ["one", "two", "three"] {
        assert!(page.contains(&format!("==== {host}\nguest {host} ")), "{page}");
        assert!(place.join(format!("plans/{host}.plan.yaml")).exists(), "{page}");
    }

    // The second host, in the order of the inventory, is not as it was planned for.
    fs::write(place.join("three/vm.sh"), text("three").replace("-name", "-m 512 -name")).unwrap();
    let (status, said) = moves(place, "apply");
    assert_eq!(status, Some(2), "{said}");
    assert!(text("one").contains("-fsdev local,"), "{}\n{said}", text("one"));
    assert_eq!(owner("one"), 65534, "{said}");
    for host in ["three", "two"] {
        assert!(text(host).contains("-fsdev proxy,") && owner(host) == 0, "{host}: {said}");
    }
    assert!(!place.join("two/program").exists(), "the play went on: {said}");
    let page = fs::read_to_string(place.join("plans/status/one.status.json")).unwrap();
    assert!(page.contains("\"phase\": \"applied\"") || page.contains("verified"), "{page}");

    fs::write(place.join("hosts.ini"), HOSTS_WITH_GUESTS.replace("three\ntwo\n", "")).unwrap();
    let (status, said) = moves(place, "undo");
    assert_eq!(status, Some(0), "{said}");
    assert_eq!((text("one"), owner("one")), (before, 0), "{said}");
}
