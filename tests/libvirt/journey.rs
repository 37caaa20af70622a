//! MIGRATION.md, command by command: every `sh` block runs, section by section, in a machine of its own.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::instance::Instance;

const PAGE: &str = include_str!("../../MIGRATION.md");

/// A command block.
#[derive(Debug)]
pub struct Block {
    section: String,
    line: usize,
    text: String,
    /// The exit status that the page says, 0 unless `<!-- exit status N -->` stands before it.
    status: i32,
}

impl Block {
    /// Commands that must all succeed.
    pub fn of(text: &str) -> Self {
        Self { section: String::new(), line: 0, text: text.to_owned(), status: 0 }
    }
}

fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut section = String::new();
    let mut status = 0;
    let mut inside = false;
    for (number, line) in (1..).zip(PAGE.lines()) {
        if inside {
            inside = line != "```";
            if let Some(block) = blocks.last_mut().filter(|_| inside) {
                block.text += line;
                block.text.push('\n');
            }
        } else if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut section);
        } else if let Some(text) = line.strip_prefix("<!-- exit status ") {
            status = text.trim_end_matches(" -->").parse().expect("an exit status");
        } else if let Some(language) = line.strip_prefix("```") {
            assert_eq!(language, "sh", "MIGRATION.md:{number}: a block that no test runs");
            blocks.push(Block { section: section.clone(), line: number, text: String::new(), status });
            inside = true;
            status = 0;
        }
    }
    blocks
}

pub const START_VM: &str = r#"#!/bin/sh
# Starts the guest and what serves its files.
SOCKET=/run/vm.sock
/usr/lib/qemu/virtfs-proxy-helper -p /srv/share -s $SOCKET -u vm -g vm
exec qemu-system-x86_64 -m 1G -runas vm \
    -fsdev "proxy,id=share,socket=$SOCKET" \
    -device virtio-9p-pci,fsdev=share,mount_tag=share
"#;

const UNITS: [(&str, &str); 2] = [
    (
        "vm-share.service",
        "[Service]\nType=forking\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -p /srv/share -s /run/vm.sock -u vm -g vm\n",
    ),
    (
        "vm.service",
        "[Unit]\nRequires=vm-share.service\n\n[Service]\nUser=vm\nExecStartPre=/usr/lib/qemu/virtfs-proxy-helper -p \
         /srv/share -s /run/vm.sock -u vm -g vm\nExecStart=/usr/bin/qemu-system-x86_64 -m 1G \\\n  -fsdev \
         proxy,id=share,socket=/run/vm.sock \\\n  -device virtio-9p-pci,fsdev=share,mount_tag=share\n",
    ),
];

const READCONFIG: &str = "[fsdev \"share\"]\n  fsdriver = \"proxy\"\n  socket = \"/run/vm.sock\"\n\n[device]\n  driver = \
                          \"virtio-9p-pci\"\n  fsdev = \"share\"\n  mount_tag = \"share\"\n";

const PROXMOX: &str = "args: -fsdev proxy,id=share,socket=/run/vm.sock -device \
                       virtio-9p-pci,fsdev=share,mount_tag=share\ncores: 1\nmemory: 512\nname: web\n";

const INCUS: &str = "[fsdev \"incus_data\"]\nfsdriver = \"proxy\"\nsock_fd = \"4\"\nreadonly = \"off\"\n\n[device \
                     \"dev-incus_data-9p\"]\ndriver = \"virtio-9p-pci\"\nbus = \"qemu_pcie4\"\naddr = \
                     \"00.0\"\nmount_tag = \"data\"\nfsdev = \"incus_data\"\n";

pub const DOMAIN: &str = "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
  <qemu:commandline>
    <qemu:arg value='-fsdev'/>
    <qemu:arg value='proxy,id=share,socket=/run/vm.sock'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-9p-pci,fsdev=share,mount_tag=share,bus=pci.0,addr=0x7'/>
  </qemu:commandline>
</domain>
";

const SNAPSHOT: &str =
    "<domainsnapshot><name>before</name><state>shutoff</state><creationTime>1</creationTime>";

/// A machine like the page's, in folders that a namespace puts in place of the real ones.
pub struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    pub fn new(libvirt: &Instance) -> Self {
        let folder = tempfile::Builder::new().prefix("vph-journey-").tempdir().expect("a scratch folder");
        let at = |path: &str| folder.path().join(path);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let copied = Command::new("cp").arg("-a").arg("/etc").arg(at("etc")).status().expect("cp");
        assert!(copied.success(), "copying /etc");
        for path in [
            "srv/share/d",
            "run/incus/web",
            "bin",
            "work",
            "etc/qemu",
            "etc/pve/qemu-server",
            "etc/systemd/system",
        ] {
            fs::create_dir_all(at(path)).expect("a folder");
        }
        for (file, line) in [
            ("etc/passwd", "vm:x:2001:2001::/:/bin/sh"),
            ("etc/group", "vm:x:2001:"),
            ("etc/passwd", "libvirt-qemu:x:64055:64055::/:/bin/sh"),
            ("etc/group", "libvirt-qemu:x:64055:"),
        ] {
            let mut text = fs::read_to_string(at(file)).expect("the users");
            let name = line.split(':').next().expect("a name");
            if !text.lines().any(|other| other.split(':').next() == Some(name)) {
                text += line;
                text.push('\n');
                fs::write(at(file), text).expect("the users");
            }
        }
        let files = [
            ("bin/start-vm", START_VM),
            ("etc/systemd/system/vm-share.service", UNITS[0].1),
            ("etc/systemd/system/vm.service", UNITS[1].1),
            ("etc/qemu/vm.conf", READCONFIG),
            ("etc/pve/qemu-server/100.conf", PROXMOX),
            ("run/incus/web/qemu.conf", INCUS),
            ("srv/share/file", "a file\n"),
            ("work/domain.xml", DOMAIN),
        ];
        for (path, text) in files {
            fs::write(at(path), text).expect("a file");
        }
        fs::set_permissions(at("bin/start-vm"), fs::Permissions::from_mode(0o755)).expect("a mode");
        std::os::unix::fs::chown(at("srv/share/file"), Some(1000), Some(1001)).expect("root");
        symlink("nowhere", at("srv/share/link")).expect("a link");
        symlink(env!("CARGO_BIN_EXE_virtfs-proxy-helper"), at("bin/virtfs-proxy-helper")).expect("a link");

        let domain = at("work/domain.xml");
        libvirt.virsh(["define".as_ref(), domain.as_os_str()]);
        let snapshot = at("work/made.xml");
        let inner = libvirt.virsh(["dumpxml", "--inactive", "vm"]);
        fs::write(&snapshot, format!("{SNAPSHOT}{inner}</domainsnapshot>")).expect("a snapshot");
        libvirt.virsh([
            "snapshot-create".as_ref(),
            "vm".as_ref(),
            snapshot.as_os_str(),
            "--redefine".as_ref(),
        ]);
        Self { folder }
    }

    /// Runs a block as the page's reader would.
    pub fn run(&self, block: &Block, uri: &str) -> Result<(), String> {
        let script = self.folder.path().join("block");
        fs::write(&script, &block.text).expect("a block");
        let inside = r#"
            mount --bind "$0/etc" /etc
            mount --bind "$0/srv" /srv
            mount --bind "$0/run" /run
            mount --bind "$0/bin" /usr/local/bin
            cd "$0/work"
            exec sh -e "$0/block"
        "#;
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc", inside])
            .arg(self.folder.path())
            .env("PATH", "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("VIRSH_DEFAULT_CONNECT_URI", uri)
            .env("VIRTFS_STATE", self.folder.path().join("state"))
            .stdin(Stdio::null())
            .output()
            .expect("unshare");
        // What else runs on this machine and can't be seen is not the page's affair.
        let is_unseen = (block.text.contains("migrate check") || block.text.contains("migrate plan"))
            && block.status == 0
            && output.status.code() == Some(4)
            && String::from_utf8_lossy(&output.stdout).contains("[processes-unseen]");
        if output.status.code() == Some(block.status) || is_unseen {
            return Ok(());
        }
        Err(format!(
            "MIGRATION.md:{}: exit status {:?} instead of {}:\n{}{}{}",
            block.line,
            output.status.code(),
            block.status,
            block.text,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.folder.path().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Where a path of the machine's is on this one.
    pub fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    pub fn is_link(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).expect("an entry").is_symlink()
    }
}

#[test]
fn every_command_of_the_migration_page_does_what_it_says() {
    crate::program::need_root();
    let blocks = blocks();
    assert!(blocks.len() > 25, "only {} blocks", blocks.len());
    let mut sections: Vec<&str> = blocks.iter().map(|block| block.section.as_str()).collect();
    sections.dedup();
    let libvirt = Instance::start();
    for section in sections {
        let machine = Machine::new(&libvirt);
        for block in blocks.iter().filter(|block| block.section == section) {
            machine.run(block, &libvirt.uri()).unwrap_or_else(|error| panic!("{error}"));
            follow(section, block, &machine, &libvirt);
        }
        forget(&libvirt);
    }
}

/// Takes from libvirt what [`Machine::new`] defined.
fn forget(libvirt: &Instance) {
    libvirt.virsh(["snapshot-delete", "vm", "before", "--metadata"]);
    libvirt.virsh(["undefine", "vm"]);
}

/// What must be true after some of the steps.
fn follow(section: &str, block: &Block, machine: &Machine, libvirt: &Instance) {
    let share = machine.folder.path().join("srv/share");
    let is_link = || fs::symlink_metadata(share.join("link")).expect("the link").is_symlink();
    let says = |text: &str| block.text.contains(text);
    if says("migrate apply") {
        assert!(!is_link(), "{section}: the link is a file");
        assert!(machine.read("bin/start-vm").contains("local,id=share"), "{section}: the script is changed");
    } else if says("migrate undo") {
        assert!(is_link(), "{section}: the link is back");
        assert_eq!(machine.read("bin/start-vm"), START_VM, "{section}: the script is back");
    }
    if says("rollback") && says("--apply") {
        assert!(is_link(), "{section}: the link is back");
    } else if says("convert") && says("--apply") {
        assert!(!is_link(), "{section}: the link is a file");
    }
    if says("start-vm --in-place") {
        let text = machine.read("bin/start-vm");
        let helper = "/usr/lib/qemu/virtfs-proxy-helper -p";
        let reason = "# QEMU opens the directory itself from now on, so that the helper is not started:";
        let local = "local,id=share,path=/srv/share,security_model=mapped-xattr,multidevs=warn\"";
        let expected = START_VM.replace("proxy,id=share,socket=$SOCKET\"", local);
        assert_eq!(text, expected.replace(helper, &format!("{reason}\n# {helper}")));
    }
    if says("start-vm.orig ") {
        assert_eq!(machine.read("bin/start-vm"), START_VM);
    }
    if says("virsh define vm-local.xml") {
        let text = libvirt.virsh(["dumpxml", "vm"]);
        assert!(text.contains("<source dir='/srv/share'/>") && !text.contains("proxy"), "{text}");
    }
    if says("--redefine") {
        let text = libvirt.virsh(["snapshot-dumpxml", "vm", "before"]);
        assert!(text.contains("local,id=share,path=/srv/share") && !text.contains("proxy"), "{text}");
    }
}

#[test]
fn the_pages_links_lead_somewhere() {
    let anchors: Vec<String> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## ").or_else(|| line.strip_prefix("### ")))
        .map(|title| title.to_lowercase().replace(' ', "-").replace([',', ':', '`'], ""))
        .collect();
    for link in PAGE.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(anchors.iter().any(|anchor| anchor == link), "#{link} is none of {anchors:?}");
    }
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("MIGRATION.md").exists());
}
