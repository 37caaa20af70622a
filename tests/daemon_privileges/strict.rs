//! `--strict`, and what the log says of the isolation layers.

use nix::errno::Errno::{EINVAL, ENOSYS, EPERM};

use crate::program::{self, Launch};
use crate::refuse::{Refused, refusing};
use crate::wire::{Client, ask};
use crate::{SANDBOXES, ours};

/// How the log begins to say which layers there are, and which are missing.
const ACTIVE: &str = "virtfs-proxy-helper: isolation layers: ";
const MISSING: &str = "virtfs-proxy-helper: warning: isolation layers that are missing here: ";

/// The ways to be served.
const WAYS: [&str; 3] = ["by -f", "by -s", "by a supervisor"];

/// Serves two requests of two clients, where one way takes two, and returns the log.
#[track_caller]
fn log_of(launch: &Launch, way: &str) -> String {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    let (running, mut clients) = match way {
        "by -f" => {
            let (running, client) = launch.by_fd();
            (running, vec![client])
        }
        "by -s" => {
            let running = launch.by_socket(&socket);
            (running, vec![Client::connect_soon(&socket)])
        }
        _ => {
            let running = launch.clone().option("--persistent").option("--shared=2").by_socket(&socket);
            (running, vec![Client::connect_soon(&socket), Client::connect_soon(&socket)])
        }
    };
    for client in &mut clients {
        let answer = client.ask(&ask::lstat(b"/"));
        assert!(answer.is_success(), "{way}: {answer:?}: {}", running.log());
    }
    running.log()
}

/// What the one line that begins so goes on with. `None` where there is no such line.
#[track_caller]
fn the_one_line<'l>(log: &'l str, start: &str) -> Option<&'l str> {
    let mut lines = log.lines().filter_map(|line| line.strip_prefix(start));
    let line = lines.next();
    assert_eq!(lines.next(), None, "{log}");
    line
}

#[test]
fn one_line_at_start_lists_the_layers() {
    let always = [
        "inherited descriptors closed",
        "reduced capabilities",
        "reduced bounding set",
        "no supplementary groups",
        "no_new_privs",
        "Landlock",
        "seccomp",
        "resource limits",
    ];
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        let own: &[&str] = match sandbox {
            "namespace" => &[
                "mount namespace",
                "mounts nodev,nosuid,noexec",
                "private view of /proc/self/fd",
                "network namespace",
                "IPC namespace",
                "UTS namespace",
            ],
            "chroot" => &["chroot"],
            _ => &["openat2 beneath the export"],
        };
        for way in WAYS {
            for options in [&[][..], &["--strict"]] {
                let when = format!("{sandbox}, {way}, {options:?}");
                let launch = options.iter().fold(ours(dir.path(), sandbox), Launch::option);
                let log = log_of(&launch, way);
                let line = the_one_line(&log, ACTIVE).unwrap_or_else(|| panic!("{when}: {log}"));
                let layers: Vec<_> = line.split(", ").collect();
                for layer in always.iter().chain(own) {
                    assert!(layers.contains(layer), "{when}: {layer}: {line}");
                }
                let of_its_own = way == "by a supervisor" && sandbox == "namespace";
                assert_eq!(layers.contains(&"PID namespace"), of_its_own, "{when}: {line}");
                assert_eq!(the_one_line(&log, MISSING), None, "{when}");
            }
        }
    }
    let log = log_of(&ours(dir.path(), "namespace").option("--readonly").option("--seccomp=none"), "by -f");
    let line = the_one_line(&log, ACTIVE).unwrap();
    assert!(line.contains("read-only mounts") && !line.contains("seccomp"), "{line}");
    assert_eq!(the_one_line(&log, MISSING), None);
}

/// Checks that a launch goes on without the layers `missing` and names them, and that `--strict` refuses it.
#[track_caller]
fn misses(launch: &Launch, way: &str, missing: &str) {
    let log = log_of(launch, way);
    let line = the_one_line(&log, MISSING).unwrap_or_else(|| panic!("{way}, {missing}: {log}"));
    assert!(line.starts_with(missing), "{way}: {line}");
    for strict in [launch.clone().option("--strict"), launch.clone().variable("VIRTFS_STRICT", "true")] {
        let dir = program::scratch();
        let socket = dir.path().join("socket");
        let mut running = match way {
            "by -f" => strict.by_fd().0,
            "by -s" => strict.by_socket(&socket),
            _ => strict.option("--persistent").by_socket(&socket),
        };
        assert_eq!(running.wait().code(), Some(1), "{way}, {missing}: {}", running.log());
        assert!(
            running.log().contains(&format!("isolation layers are missing: {missing}")),
            "{}",
            running.log()
        );
        assert!(running.log().contains("(--strict)"), "{}", running.log());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{way}, {missing}");
    }
}

#[test]
fn a_missing_layer_is_a_warning_and_with_strict_a_failure() {
    const WITHOUT_FLAG: u8 = 0;
    let flag = |flag: i32| Some((WITHOUT_FLAG, u64::from(flag.cast_unsigned())));
    let dir = program::scratch();
    let namespace = ours(dir.path(), "namespace");
    for way in WAYS {
        // As on a kernel without these.
        for (refused, missing) in [
            (Refused(libc::SYS_landlock_create_ruleset, None, ENOSYS), "Landlock. "),
            (Refused(libc::SYS_prctl, flag(libc::PR_GET_SECCOMP), EINVAL), "seccomp. "),
            (Refused(libc::SYS_unshare, flag(libc::CLONE_NEWNET), EPERM), "network namespace. "),
            (Refused(libc::SYS_unshare, flag(libc::CLONE_NEWIPC), EPERM), "IPC namespace. "),
            (Refused(libc::SYS_unshare, flag(libc::CLONE_NEWUTS), EPERM), "UTS namespace. "),
            (Refused(libc::SYS_mount_setattr, None, ENOSYS), "mount namespace, mounts nodev,nosuid,noexec. "),
            (Refused(libc::SYS_open_tree, flag(libc::AT_FDCWD), EPERM), "private view of /proc/self/fd. "),
        ] {
            refusing(refused, || misses(&namespace, way, missing.trim_end_matches(". ")));
        }
        // And as in a container.
        let setpriv = |options: &[&str]| {
            let options = ["setpriv"].iter().chain(options).chain(&["--"]).copied();
            namespace.clone().under(options.collect::<Vec<_>>())
        };
        misses(&setpriv(&["--bounding-set", "-setpcap"]), way, "reduced bounding set");
        misses(&setpriv(&["--bounding-set", "-sys_admin"]), way, "mount namespace, ");
        refusing(Refused(libc::SYS_setgroups, Some((0, 0)), EPERM), || {
            misses(&setpriv(&["--groups", "5"]), way, "no supplementary groups");
        });
    }
    refusing(Refused(libc::SYS_unshare, flag(libc::CLONE_NEWPID), EPERM), || {
        misses(&namespace, "by a supervisor", "PID namespace");
    });
    let read_only = ours(dir.path(), "chroot").option("--readonly");
    misses(&read_only.under(["setpriv", "--bounding-set", "-sys_admin", "--"]), "by -f", "read-only mounts");
}

/// What can't be had later is as little an excuse as what can't be had at the start.
#[test]
fn a_strict_worker_without_a_layer_serves_nobody() {
    let dir = program::scratch();
    let socket = dir.path().join("socket");
    // In a user namespace of the helper's own, whose limit of PID namespaces is nobody else's.
    let wrapper = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let launch = ours(dir.path(), "namespace").under(wrapper).option("--strict").option("--persistent");
    // The way to this build's folder may be closed to the namespace's root.
    let elsewhere = program::scratch();
    let running = launch.program(program::ours_for_all(elsewhere.path())).by_socket(&socket);
    Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
    let supervisor = crate::process::children(running.pid())[0];
    let set = std::process::Command::new("nsenter")
        .args(["--target", &supervisor.to_string(), "--user", "--preserve-credentials", "sh", "-c"])
        .arg("echo 0 >/proc/sys/user/max_pid_namespaces")
        .status()
        .unwrap();
    assert!(set.success());
    Client::connect_soon(&socket).ask(&ask::lstat(b"/")).closed();
    running.wait_for_log("isolation layers are missing: PID namespace (--strict)");
}

/// The sidecar's capabilities are not enough for `--strict`, and with SETPCAP they are.
#[test]
fn strict_in_a_sidecar_takes_setpcap() {
    let dir = program::scratch();
    let sidecar = "-all,+chown,+dac_override,+fowner,+fsetid,+mknod,+setgid,+setuid,+sys_chroot";
    let launch = |set: &str| ours(dir.path(), "chroot").under(["setpriv", "--bounding-set", set, "--"]);
    misses(&launch(sidecar), "by a supervisor", "reduced bounding set");
    let log = log_of(&launch(&format!("{sidecar},+setpcap")).option("--strict"), "by a supervisor");
    assert!(the_one_line(&log, ACTIVE).is_some() && the_one_line(&log, MISSING).is_none(), "{log}");
}
