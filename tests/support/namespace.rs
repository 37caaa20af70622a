//! Helpers in user namespaces, as LXD and Incus start them.

use std::fs;

use crate::process;
use crate::program::{Launch, Running, ours_for_all, scratch, wait_until};

/// Starts our helper inside a user namespace of its own with the map given, for users and groups alike.
///
/// What `unshare --map-auto` does with the ranges of /etc/subuid, without needing any there: the shell that is to become
/// the helper waits for a file to appear while its maps are written from outside.
pub fn in_user_namespace<T>(
    launch: Launch,
    map: &str,
    start: impl FnOnce(&Launch) -> (Running, T),
) -> (Running, T) {
    const WAIT: &str = r#"go=$1; shift; while [ ! -e "$go" ]; do sleep 0.01; done; exec "$@""#;
    let dir = scratch();
    let go = dir.path().join("go");
    let launch = launch.program(ours_for_all(dir.path()));
    let launch = launch.under(["unshare", "--user", "--keep-caps", "sh", "-c", WAIT, "sh"]);
    let launch = launch.under([&go]);
    // As LXD and Incus do it: root inside, where the namespace has a root.
    let root = ["setpriv", "--reuid", "0", "--regid", "0", "--clear-groups", "--"];
    let launch = if map.starts_with("0 ") { launch.under(root) } else { launch };
    let (running, client) = start(&launch);
    let own = fs::read_link("/proc/self/ns/user").unwrap();
    wait_until("a user namespace", || {
        fs::read_link(process::of(running.pid(), "ns/user")).is_ok_and(|other| other != own)
    });
    fs::write(process::of(running.pid(), "uid_map"), map).expect("a map of users");
    fs::write(process::of(running.pid(), "gid_map"), map).expect("a map of groups");
    fs::write(go, b"").unwrap();
    wait_until("the helper in the shell's place", || {
        fs::read_to_string(process::of(running.pid(), "comm")).is_ok_and(|name| name.starts_with("virtfs"))
    });
    (running, client)
}
