//! Copies of configuration files under the names that package managers, editors and admins give them: no suffix hides a
//! share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::run::{Audit, audit, write};

/// One share in every format: the file's name and its content.
const FORMATS: &[(&str, &str)] = &[
    ("vm.sh", "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("shebang", "#!/bin/sh\nexec qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("vm.service", "[Service]\nExecStart=/q -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("vm.container", "[Container]\nImage=q\nExec=-virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("qemu-server/100.conf", "name: x\nargs: -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    (
        "compose.yml",
        "services:\n  q:\n    command: [\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]\n",
    ),
    ("vars.yaml", "vm_args: [\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]\n"),
    ("vm.json", "{\"args\": [\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]}\n"),
    (
        "vm.xml",
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name><qemu:commandline>\
         <qemu:arg value='-virtfs'/><qemu:arg value='proxy,id=n,socket=/run/n,mount_tag=n'/></qemu:commandline></domain>\n",
    ),
    (
        "vm.cfg",
        "[fsdev \"n\"]\n  fsdriver = \"proxy\"\n  socket = \"/run/n\"\n[device \"d\"]\n  driver = \"virtio-9p-pci\"\n  \
         fsdev = \"n\"\n  mount_tag = \"n\"\n",
    ),
    ("vm.nix", "{ a = [ \"-virtfs\" \"proxy,id=n,socket=/run/n,mount_tag=n\" ]; }\n"),
    ("vm.tf", "a = [\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]\n"),
    ("Makefile", "run:\n\tqemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("vm.py", "run([\"qemu\", \"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"])\n"),
    ("vm.go", "exec.Command(\"qemu\", \"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\")\n"),
    ("vm.rs", "Command::new(\"qemu\").args([\"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]);\n"),
    ("Vagrantfile", "q.extra_qemu_args = %w(-virtfs proxy,id=n,socket=/run/n,mount_tag=n)\n"),
    ("vm.pl", "system('qemu', '-virtfs', 'proxy,id=n,socket=/run/n,mount_tag=n');\n"),
    ("vm.js", "spawn('qemu', ['-virtfs', 'proxy,id=n,socket=/run/n,mount_tag=n']);\n"),
    ("Dockerfile", "FROM q\nCMD [\"qemu\", \"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"]\n"),
    ("crontab", "@reboot root qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("xl.cfg", "device_model_args = [ '-virtfs', 'proxy,id=n,socket=/run/n,mount_tag=n' ]\n"),
    (
        "supervisord.conf",
        "[program:vm]\ncommand=qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n",
    ),
    ("news-vm", "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n"),
    ("todo.py", "run([\"qemu\", \"-virtfs\", \"proxy,id=n,socket=/run/n,mount_tag=n\"])\n"),
];

/// Suffixes that copies have.
const SUFFIXES: &[&str] = &[
    "",
    ".orig",
    ".orig.2",
    ".bak",
    ".bak.1",
    "~",
    ".~2~",
    ".old",
    ".save",
    ".1",
    ".8",
    ".dpkg-old",
    ".dpkg-dist",
    ".ucf-dist",
    ".rpmsave",
    ".rpmnew",
    ".pacnew",
    ".20240131",
    ".4711.2024-01-31@12:00:00~",
    ".disabled",
    ".j2",
    ".anything",
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for (name, content) in FORMATS {
        for (number, suffix) in SUFFIXES.iter().enumerate() {
            let file = folder.join(number.to_string()).join(format!("{name}{suffix}"));
            write(&file, content);
            files.push(file);
        }
    }
    files
}

/// Every file has its one share, which its own reader found: so `migrate config` rewrites it by the format's rules.
fn has_all(audit: &Audit, files: &[PathBuf]) {
    let told: BTreeSet<_> =
        audit.list("shares").iter().map(|share| share["file"].as_str().unwrap()).collect();
    let missing: Vec<_> = files.iter().filter(|file| !told.contains(file.to_str().unwrap())).collect();
    assert!(missing.is_empty(), "{missing:?}: {:#?}", audit.list("unread"));
    assert_eq!(audit.list("shares").len(), files.len());
    assert_eq!(audit.status, 3);
    let refused: Vec<_> = audit.list("shares").iter().filter(|share| share["rewritable"] != true).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn no_suffix_hides_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    has_all(&audit(["--qemu=9.2", folder.path().to_str().unwrap()]), &files);
    let named = files.iter().map(|file| file.to_str().unwrap());
    has_all(&audit(std::iter::once("--qemu=9.2").chain(named)), &files);
}

/// Documentation is passed over in a folder, under any name of a copy.
#[test]
fn documentation_is_no_copy_of_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let text = "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n,mount_tag=n\n";
    for name in [
        "a.rst",
        "README",
        "README.Debian",
        "NOTES-9p",
        "notes.txt",
        "todo.old",
        "a.rej",
        "vm.sh.log",
        "a.org.bak",
    ] {
        write(&folder.path().join(name), text);
    }
    write(&folder.path().join("qemu.1"), format!(".TH QEMU 1\n{text}"));
    assert_eq!(audit(["--qemu=9.2", folder.path().to_str().unwrap()]).status, 0);
}

/// What no reader knows is not clean: another encoding, or a small binary file.
#[test]
fn a_share_in_an_unknown_form_is_unread_in_a_folder() {
    let text = "qemu -virtfs proxy,id=n,socket=/run/n,mount_tag=n\r\n";
    let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let swap = [&b"b0VIM 9.0\0\0\x01\0\x10"[..], text.as_bytes(), &[0; 64]].concat();
    for (name, content) in [("vm.ps1", wide), (".vm.sh.swp", swap)] {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join(name), &content);
        let audit = audit(["--qemu=9.2", folder.path().to_str().unwrap()]);
        assert_eq!((audit.status, audit.list("unread").len()), (4, 1), "{name}");
    }
}
