//! `migrate audit` calls a share rewritable exactly where `migrate config` rewrites its file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{cases, config, text};

/// Files besides the golden ones.
const FILES: &[(&str, &str)] = &[
    ("a.yml", "a: \"-fsdev proxy,id=n,socket={{ sock }} -device virtio-9p-pci,fsdev=n,mount_tag=n\"\n"),
    ("a.sh", "#!/bin/sh\n: ${S:=/run/x}\nqemu-system-x86_64 -virtfs proxy,socket=$S,mount_tag=w\n"),
    (
        "b.sh",
        "#!/bin/sh\n. /etc/default/vm\nqm set 100 --args \"-fsdev proxy,id=m,socket=$S -device virtio-9p-pci,fsdev=m,mount_tag=m\"\n",
    ),
    ("c.sh", "#!/bin/sh\n[ \"$S\" ] || S=/run/a,readonly=on\nqemu -virtfs proxy,socket=$S,mount_tag=t\n"),
    ("d.sh", "qemu -virtfs proxy,id=n,socket=/a{% if ro %},readonly=on{% endif %},mount_tag=t\n"),
    (
        "e.sh",
        "S=/run/a\nqemu -virtfs proxy,socket=$S,mount_tag=t\nqemu -virtfs proxy,socket=$S,mount_tag=u,readonly=on\n",
    ),
    ("f.sh", "O=proxy,socket=/a,id=f\nqemu -fsdev $O -device virtio-9p-pci,fsdev=f,mount_tag=\"$T\"\n"),
    // One share of a file that can't be rewritten is in the way of the other one.
    (
        "g.sh",
        "qemu -virtfs proxy,socket=/a,mount_tag=t\nqemu -virtfs proxy,id=n,socket=/b{% if r %},readonly=on{% endif %},mount_tag=u\n",
    ),
    ("a.nix", "{ y = ''-virtfs proxy,socket=/run/e.sock,mount_tag=e''; }\n"),
    ("b.nix", "{ y = ''-virtfs proxy,socket=${s},mount_tag=e''; }\n"),
    (
        "a.py",
        "args += [\"-fsdev\", \"proxy,id=d,socket=/run/d\"]\nargs += [\"-device\", \"virtio-9p-pci,fsdev=d,mount_tag=%s\" % tag]\n",
    ),
    ("b.py", "x = f\"-virtfs proxy,socket={s},mount_tag=t,readonly={r}\"\n"),
    ("a.rb", "x = \"-fsdev proxy,id=s,socket=/run/s\n -device virtio-9p-pci,fsdev=s,mount_tag=s\".split\n"),
    (
        "ps_auxwww",
        "USER PID COMMAND\nroot 9 /usr/bin/qemu-system-x86_64 -virtfs proxy,socket=/run/d,mount_tag=d\n",
    ),
    ("Makefile", "S = /run/n\nrun:\n\tqemu -virtfs proxy,socket=$(S),mount_tag=n\n"),
    ("cmdline", "qemu-system-x86_64\0-virtfs\0proxy,socket=/run/a,mount_tag=t\0"),
    (
        "v.cfg",
        "variants:\n    - p9:\n        9p_fs_driver = proxy\n        9p_export_dir = /srv/r\n        9p_socket_name = /tmp/p9\n",
    ),
    ("a.desktop", "[Desktop Entry]\nExec=qemu -virtfs proxy,socket=/run/a,mount_tag=t\n"),
    (
        "supervisord.conf",
        "[program:vm]\ncommand=qemu -virtfs proxy,socket=/run/%(program_name)s,mount_tag=t\n",
    ),
    ("crontab", "@reboot qemu -virtfs proxy,socket=/run/a,mount_tag=t\n"),
    (
        "Dockerfile",
        "FROM debian\nCMD [\"qemu-system-x86_64\", \"-virtfs\", \"proxy,socket=/run/a,mount_tag=t\"]\n",
    ),
    (
        "Dockerfile.run",
        "FROM q\nENV O=\"-virtfs proxy,id=d,socket=/run/d,mount_tag=d\"\nENTRYPOINT [\"/bin/sh\", \"-c\", \"exec qemu $O -virtfs \
         proxy,id=e,socket=/run/e,mount_tag=e\"]\n",
    ),
    (
        "vm@.service",
        "[Service]\nEnvironment=FS=proxy,id=u,socket=/run/%i.sock\nExecStart=/usr/bin/qemu-system-x86_64 -fsdev ${FS} -device \
         virtio-9p-pci,fsdev=u,mount_tag=%i\n",
    ),
    ("qemu.container", "[Container]\nImage=q\nExec=-virtfs proxy,socket=/run/c,mount_tag=c\n"),
    ("a.tf", "a = \"-virtfs proxy,socket=${join(\"/\", [a, b])},mount_tag=t\"\n"),
    ("a.service", "[Service]\nExecStart=/q -virtfs proxy,socket=%t/a,mount_tag=%i\n"),
    ("a.go", "exec.Command(\"qemu\", \"-virtfs\", fmt.Sprintf(\"proxy,socket=%s,mount_tag=t\", s))\n"),
];

/// What each file is also tried with.
const CHANGES: &[(&str, &str)] = &[
    ("\0", "\0"),
    ("proxy,", "proxy,readonly=$RO,"),
    ("proxy,", "proxy,$MORE,"),
    ("proxy,", "proxy,sock_fd=3,"),
    ("proxy,", "{{ driver }},"),
    ("mount_tag=", "mount_tag=%s"),
    ("socket=/run/vm", "socket={{ s }}/vm"),
];

/// A share as audit reports it.
struct Audited {
    /// How config is to call it.
    name: String,
    rewritable: bool,
}

/// The shares that audit finds, by file.
fn audited(files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<Audited>> {
    let mut audit = Command::new(env!("CARGO_BIN_EXE_virtfs-proxy-helper"));
    let output = audit.args(["migrate", "audit", "--format", "json"]).args(files).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    // A share without any name that is known is called by the text that stands for it, as the remedy says.
    let mut said = BTreeMap::new();
    for finding in document["findings"].as_array().unwrap() {
        let words =
            finding["remedy"].as_str().and_then(|it| it.split_once("--export ")?.1.split_once("=PATH"));
        if let Some((name, _)) = words {
            said.insert(finding["file"].as_str().unwrap(), name.trim_matches('\'').to_owned());
        }
    }
    let mut found: BTreeMap<PathBuf, Vec<Audited>> = BTreeMap::new();
    for share in document["shares"].as_array().unwrap() {
        let file = share["file"].as_str().unwrap();
        let own = ["socket", "mount_tag", "fsdev"].into_iter().find_map(|key| share[key].as_str());
        let name = own.map(str::to_owned).or_else(|| said.get(file).cloned()).unwrap_or_default();
        let rewritable = share["rewritable"].as_bool().unwrap();
        found.entry(file.into()).or_default().push(Audited { name, rewritable });
    }
    found
}

/// Whether audit called a file's shares rewritable; the error says how config disagrees.
fn agree(file: &Path, shares: &[Audited]) -> Result<bool, String> {
    let answers: BTreeSet<bool> = shares.iter().map(|share| share.rewritable).collect();
    let content = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    let names: BTreeSet<_> = shares.iter().map(|share| &share.name).filter(|name| !name.is_empty()).collect();
    let exports = names.iter().map(|name| format!("--export={name}=/srv/n"));
    let args = exports.chain(["--check".to_owned(), file.to_str().unwrap().to_owned()]);
    let output = config(args, b"");
    let done = output.status.code() == Some(3);
    if answers == BTreeSet::from([done]) {
        return Ok(done);
    }
    Err(format!("audit says {answers:?} of {names:?}, config: {}{content}", text(&output.stderr)))
}

#[test]
fn audit_and_config_agree_on_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let golden = fs::read_dir(cases()).unwrap().map(|case| {
        let case = case.unwrap().path();
        let mut files = fs::read_dir(&case).unwrap().map(|file| file.unwrap().path());
        let input = files.find(|file| file.file_stem().is_some_and(|it| it == "in")).unwrap();
        (
            input.file_name().unwrap().to_str().unwrap().to_owned(),
            fs::read_to_string(&input).unwrap_or_default(),
        )
    });
    let others = FILES.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned()));
    let mut files = Vec::new();
    for (number, (name, content)) in golden.chain(others).enumerate() {
        for (change, (from, to)) in CHANGES.iter().enumerate() {
            let changed = content.replace(from, to);
            if change > 0 && changed == content {
                continue;
            }
            let place = folder.path().join(format!("{number}-{change}"));
            fs::create_dir(&place).unwrap();
            let file = place.join(&name);
            fs::write(&file, &changed).unwrap();
            files.push(file);
        }
    }
    let audited: Vec<_> = audited(&files).into_iter().collect();
    let answers = std::thread::scope(|scope| {
        let parts = audited.chunks(audited.len().div_ceil(4));
        let running: Vec<_> = parts
            .map(|part| {
                scope.spawn(|| part.iter().map(|(file, shares)| agree(file, shares)).collect::<Vec<_>>())
            })
            .collect();
        running.into_iter().flat_map(|part| part.join().unwrap()).collect::<Vec<_>>()
    });
    let wrong: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err().cloned()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let rewritten = answers.iter().filter(|answer| **answer == Ok(true)).count();
    assert!(rewritten > 80 && answers.len() - rewritten > 30, "{rewritten} of {}", answers.len());
}
