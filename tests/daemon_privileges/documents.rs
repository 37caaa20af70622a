//! What README and SECURITY.md say of privileges is what the program does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::errno::Errno;

use crate::process;
use crate::program::{self, Launch, wait_until};
use crate::wire::{Client, ask};

const README: &str = include_str!("../../README.md");
const SECURITY: &str = include_str!("../../.github/SECURITY.md");

/// The cells of the table that begins with this line.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let rest = document.split(&format!("{head}\n")).nth(1).unwrap_or_else(|| panic!("no table {head}"));
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The words between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What happens without a capability, in README's words. The directory of the socket is root's, the socket another user's.
fn outcome(launch: &Launch, capability: &str, export: &Path, socket: &Path) -> String {
    let mut helper = launch.by_socket(socket);
    // A helper that can't give its socket away removes it again.
    let mut client = None;
    wait_until("a connection, or the helper's end", || {
        client = Client::connect(socket).ok();
        client.is_some() || !helper.is_alive()
    });
    let Some(mut client) = client else {
        assert_eq!(helper.wait().code(), Some(1), "{}", helper.log());
        let says = helper.log();
        assert!(
            says.contains("that needs CAP_SET")
                || says.contains("cannot give")
                || says.contains("SYS_CHROOT")
        );
        return "the container does not start".into();
    };
    client.ask(&ask::lstat(b"/theirs")).ok();
    let errno = match capability {
        "CHOWN" => client.ask(&ask::chown(b"/theirs", 5, 6)).errno(),
        "DAC_OVERRIDE" => client.ask(&ask::lstat(b"/locked/file")).errno(),
        "MKNOD" => client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).errno(),
        "FSETID" => {
            let mode = || fs::metadata(export.join("theirs")).unwrap().mode() & 0o7777;
            client.ask(&ask::chmod(b"/theirs", 0o6755)).ok();
            let after_chmod = mode();
            client.ask(&ask::truncate(b"/theirs", 1)).ok();
            let dropped = (after_chmod, mode()) == (0o4755, 0o755);
            return if dropped { "the bits are dropped" } else { "the bits stay" }.into();
        }
        _ => None,
    };
    match errno {
        Some(Errno::EPERM) => "EPERM".into(),
        Some(Errno::EACCES) => "EACCES".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_sidecars_capabilities_are_for_what_the_readme_says() {
    let rows = table(README, "| capability | for | without it |");
    let all: Vec<&str> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let sidecar = include_str!("../../scripts/run-sidecar");
    let given = sidecar.split("for capability in ").nth(1).and_then(|rest| rest.split(';').next()).unwrap();
    let sorted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&all), sorted(&given.split(' ').collect::<Vec<_>>()));
    for row in &rows {
        for missing in quoted(&row[0]) {
            for by_option in [false, true] {
                let dir = program::scratch();
                let (export, socket) = (dir.path().join("export"), dir.path().join("socket"));
                fs::create_dir_all(export.join("locked")).unwrap();
                fs::write(export.join("theirs"), "content").unwrap();
                fs::set_permissions(export.join("locked"), fs::Permissions::from_mode(0o700)).unwrap();
                for path in ["locked", "theirs"] {
                    chown(export.join(path), Some(1000), Some(1000)).unwrap();
                }
                let given = all.iter().filter(|name| by_option || **name != missing);
                let given: Vec<_> = given.map(|name| format!("+{}", name.to_lowercase())).collect();
                let given = given.join(",");
                let mut launch = Launch::new(&program::ours(), &export)
                    .under(["setpriv", "--no-new-privs", "--bounding-set", &format!("-all,{given}"), "--"])
                    .option("--persistent")
                    .option("--sandbox=chroot")
                    .option("-u107")
                    .option("-g107");
                if by_option {
                    launch = launch.option(format!("--modcaps=-{missing}"));
                }
                let found = outcome(&launch, missing, &export, &socket);
                assert_eq!(found, row[2], "{missing}, by --modcaps: {by_option}");
            }
        }
    }
}

#[test]
fn modcaps_takes_a_capability_from_every_process() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let launch = Launch::new(&program::ours(), dir.path()).option("--persistent");
    let running = launch.option("--modcaps=-sys_admin:-mknod").by_socket(&socket);
    let mut client = Client::connect_soon(&socket);
    client.ask(&ask::lstat(b"/")).ok();
    for pid in process::children(running.pid()).into_iter().chain([running.pid()]) {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(process::capabilities(pid, set) & (1 << 21 | 1 << 27), 0, "{set} of {pid}");
        }
    }
}

/// Capabilities and their numbers.
const NAMES: [(&str, u32); 7] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("SETGID", 6),
    ("SETUID", 7),
    ("MKNOD", 27),
];

#[test]
fn a_workers_limits_and_capabilities_are_as_security_says() {
    let layers = SECURITY.split("\n| capabilities | ").nth(1).expect("a row on capabilities");
    let named: BTreeSet<&str> = quoted(layers)[0].split(' ').collect();
    let limits = SECURITY.split("\n| limits | ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
    let dir = program::scratch();
    let (running, mut client) = Launch::new(&program::ours(), dir.path()).by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    let kept = process::capabilities(running.pid(), "CapPrm");
    assert_eq!(kept.count_ones() as usize, named.len());
    for (name, bit) in NAMES {
        assert_eq!(kept >> bit & 1 == 1, named.contains(name), "{name}");
    }
    let has = fs::read_to_string(process::of(running.pid(), "limits")).unwrap();
    let limit = |name: &str| {
        let line = has.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_ascii_whitespace().next().unwrap().to_owned()
    };
    for (said, name, value) in [
        ("64 MiB of address space", "Max address space", (64 << 20).to_string()),
        ("8192 descriptors", "Max open files", "8192".into()),
        ("no core file", "Max core file size", "0".into()),
        ("no new process", "Max processes", "0".into()),
    ] {
        assert!(limits.contains(said), "{said}: {limits}");
        assert_eq!(limit(name), value, "{name}");
    }
}
