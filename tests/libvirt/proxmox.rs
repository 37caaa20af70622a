//! What `migrate apply` and `undo` tell Proxmox VE's `qm`. Debian has no package of it: a script with the same words stands in
//! for it, starts a real QEMU, and notes each command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::instance::Instance;
use crate::journey::{Block, Machine};

/// `qm`, as far as a move asks it.
const QM: &str = r#"#!/bin/sh
pid=$(cat "/run/qemu-$2.pid" 2>/dev/null)
file=/etc/pve/qemu-server/$2.conf
running() { [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; }
case $1 in
status) if running; then echo "status: running"; else echo "status: stopped"; fi && exit ;;
config) cat "$file" && exit ;;
esac
echo "qm $*" >>/srv/qm.log
case $1 in
shutdown | stop)
    kill "$pid"
    while running; do sleep 0.1; done
    ;;
start)
    # As a hookscript does.
    [ -S /run/pve.sock ] || ! grep -q proxy "$file" || virtfs-proxy-helper -p /srv/share -s /run/pve.sock -u 0 -g 0
    # shellcheck disable=SC2046 # the line holds words
    exec qemu-system-x86_64 -name web -accel tcg -S -display none -m 16 -nodefaults -daemonize \
        -pidfile "/run/qemu-$2.pid" $(sed -n 's/^args: //p' "$file")
    ;;
guest) printf '{"exitcode":0,"exited":1,"out-data":"pve /mnt 9p rw 0 0\\n"}\n' ;;
set) sed -i "s/^onboot: .*/onboot: $4/" "$file" ;;
esac
"#;

/// The command lines that change something, in their order.
const TOLD: &str = "\
qm start 100
qm guest exec 100 --timeout 10 -- cat /proc/self/mounts
qm shutdown 100
qm set 100 --onboot 0
qm set 100 --onboot 1
qm start 100
qm guest exec 100 --timeout 10 -- cat /proc/self/mounts
qm shutdown 100
qm set 100 --onboot 0
qm set 100 --onboot 1
qm start 100
";

#[test]
fn apply_and_undo_tell_qm_what_to_do() {
    crate::program::need_root();
    let libvirt = Instance::start();
    let machine = Machine::new(&libvirt);
    fs::write(machine.path("bin/qm"), QM).unwrap();
    fs::set_permissions(machine.path("bin/qm"), fs::Permissions::from_mode(0o755)).unwrap();
    let conf = machine.path("etc/pve/qemu-server/100.conf");
    // Names of its own: other tests, which run beside it, look at the whole machine.
    let before = fs::read_to_string(&conf).unwrap();
    let before = before.replace("/run/vm.sock", "/run/pve.sock").replace("=share", "=pve");
    let before = before.replace("name: web", "name: web\nonboot: 1");
    fs::write(&conf, &before).unwrap();
    let run = |text: &str| {
        machine.run(&Block::of(text), &libvirt.uri()).unwrap_or_else(|error| panic!("{error}"));
    };
    run("qm start 100\n\
         virtfs-proxy-helper migrate plan --export pve=/srv/share --output plan.yaml /etc/pve/qemu-server/100.conf || [ $? = 4 ]\n\
         virtfs-proxy-helper migrate apply plan.yaml --yes --settle 0\n");
    let after = fs::read_to_string(&conf).unwrap();
    assert!(after.contains("-fsdev local,id=pve,path=/srv/share,") && after.contains("onboot: 1"), "{after}");
    assert!(!machine.is_link("srv/share/link"));
    run("virtfs-proxy-helper migrate undo plan.yaml --yes --settle 0\n");
    assert_eq!(fs::read_to_string(&conf).unwrap(), before);
    assert!(machine.is_link("srv/share/link"));
    run("kill $(cat /run/qemu-100.pid)\n");
    assert_eq!(machine.read("srv/qm.log"), TOLD);
}
