//! Two guests that have one export: each is stopped, started and waited for on its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::host::Host;
use crate::process::naming;
use crate::program::{reference, wait_until};

/// The other guest's script: it starts its own helper of the export that both have.
const OTHER: &str = "#!/bin/sh
rm -f HERE/c.sock
REFERENCE -p HERE/a -s HERE/c.sock -u nobody -g nogroup
exec qemu-system-x86_64 -name other -accel tcg -S -display none -m 16 -nodefaults -runas nobody -daemonize -pidfile HERE/other.pid \
    -fsdev proxy,id=c,socket=HERE/c.sock -device virtio-9p-pci,fsdev=c,mount_tag=c
";

/// Waits until both QEMUs have their shares over a backend.
#[track_caller]
fn expect_both(host: &Host, backend: &str) {
    wait_until(&format!("both guests are up over {backend}"), || {
        let lines = naming(&host.path("")).into_iter().map(|(_, line)| line);
        let running: Vec<_> = lines.filter(|line| line.starts_with("qemu-system")).collect();
        let has = |name: &str, shares: usize| {
            let is_its = |line: &&String| line.contains(&format!("-name {name} "));
            running
                .iter()
                .filter(is_its)
                .any(|line| line.matches(&format!("{backend},id=")).count() == shares)
        };
        running.len() == 2 && has("toy", 2) && has("other", 1)
    });
}

#[test]
fn guests_with_one_export_move_together() {
    let host = Host::new();
    let here = host.path("");
    let fill = |text: &str| {
        text.replace("HERE/", here.to_str().unwrap()).replace("REFERENCE", reference().to_str().unwrap())
    };
    let other = host.path("other.sh");
    fs::write(&other, fill(OTHER)).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    host.start();
    assert!(Command::new(&other).status().unwrap().success());
    expect_both(&host, "proxy");
    let at = |name: &str| host.path(name).to_str().unwrap().to_owned();
    let answers = [
        format!("--stop=toy={}", at("stop")),
        format!("--start=toy={}", at("start")),
        format!("--stop=other=kill $(cat {})", at("other.pid")),
        format!("--start=other={}", at("other.sh")),
    ];
    let mut words = vec!["plan", "--output", "plan.yaml"];
    words.extend(answers.iter().map(String::as_str));
    let files = [at("vm.sh"), at("other.sh")];
    words.extend(files.iter().map(String::as_str));
    let said = host.migrate(&words, None);
    assert!(matches!(said.status, Some(0 | 4)), "{}", said.text);
    let said = host.apply(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    expect_both(&host, "local");
    let said = host.undo(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    expect_both(&host, "proxy");
    // A start command that fails is told with its own words, and nobody waits for what can't come.
    fs::write(
        &other,
        fill(OTHER).replace("exec ", "grep -q proxy,[i]d $0 || { echo no luck >&2; exit 7; }\nexec "),
    )
    .unwrap();
    let said = host.migrate(&words, None);
    assert!(matches!(said.status, Some(0 | 4)), "{}", said.text);
    let said = host.apply(None);
    assert_eq!(said.status, Some(1), "{}", said.text);
    assert!(
        said.text.contains("exit status 7: no luck") && said.text.contains("Nothing is lost."),
        "{}",
        said.text
    );
    expect_both(&host, "proxy");
}
