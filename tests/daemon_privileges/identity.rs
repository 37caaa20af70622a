//! Whose files are made, whoever the helper runs as; and that a switch that fails ends the process.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::{O_CREAT, O_RDWR};

use crate::calls;
use crate::process::{self, capabilities, status};
use crate::program::{self, Launch, wait_until};
use crate::tree::Owned;
use crate::wire::{Client, LEAVE, ask};
use crate::{SANDBOXES, ours};

/// The capabilities that requests need.
const NEEDED: &str = "chown,dac_override,fowner,fsetid,setgid,setuid,mknod";
/// Those, and what building the isolation layers takes.
const NEEDED_AND_LAYERS: &str =
    "chown,dac_override,fowner,fsetid,setgid,setuid,mknod,sys_admin,sys_chroot,setpcap";

/// `setpriv` to user and group 1000 with these capabilities, as `AmbientCapabilities=` in a unit gives them.
fn ambient(capabilities: &str) -> Vec<String> {
    let set = |option: &str| {
        let list: Vec<String> = capabilities.split(',').map(|name| format!("+{name}")).collect();
        format!("--{option}={}", list.join(","))
    };
    let user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"].map(String::from);
    user.into_iter().chain([set("inh-caps"), set("ambient-caps"), "--".into()]).collect()
}

/// A tree in which what a create may do shows: a directory of a foreign group with the setgid bit, files of others.
fn prepare(root: &Path) {
    Owned::below(root)
        .dir("set", 0o2777, 5, 9)
        .dir("closed", 0o700, 5, 9)
        .file("file", b"content", 0o644, 5, 9);
}

/// What became of requests that need capabilities after creates as this and that user: one line each.
fn outcomes(client: &mut Client, root: &Path, pid: u32) -> Vec<String> {
    let mut lines = Vec::new();
    let before = capabilities(pid, "CapEff");
    for (at, (uid, gid)) in
        [(0, 0), (1001, 1001), (0, 7), (1000, 1000), (1000, 7), (1001, LEAVE), (LEAVE, 7), (LEAVE, LEAVE)]
            .into_iter()
            .enumerate()
    {
        let mut try_it = |what: &str, request: crate::wire::Request| {
            let answer = client.ask(&request);
            lines.push(format!("{what} after or as {uid}:{gid}: {:?}", answer.errno()));
        };
        let name = |text: &str| format!("/{text}{at}").into_bytes();
        try_it("mkdir", ask::mkdir(&name("d"), 0o2755, uid, gid));
        try_it("create", ask::create(&name("set/f"), O_CREAT | O_RDWR, 0o2775, uid, gid));
        try_it("create", ask::create(&name("closed/f"), O_CREAT | O_RDWR, 0o644, uid, gid));
        try_it("symlink", ask::symlink(b"to", &name("l"), uid, gid));
        try_it("device", ask::mknod(&name("n"), libc::S_IFCHR | 0o600, 0x103, uid, gid));
        try_it("chown", ask::chown(b"/file", 6, 7));
        try_it("chown", ask::chown(b"/file", 5, 9));
        try_it("chmod", ask::chmod(b"/file", 0o6755));
        try_it("utime", ask::utime(b"/file", (1, 1), (1, 1)));
        try_it("device", ask::mknod(&name("m"), libc::S_IFCHR | 0o600, 0x103, LEAVE, LEAVE));
        for made in ["d", "set/f", "closed/f", "l", "n", "m", "file"] {
            let path = if made == "file" { root.join(made) } else { root.join(format!("{made}{at}")) };
            let seen = fs::symlink_metadata(path).map(|meta| {
                // The helper's own ids stand where the client named none.
                let owner = |id: u32| if id == 1000 { 0 } else { id };
                (meta.mode(), owner(meta.uid()), owner(meta.gid()))
            });
            lines.push(format!("{made} of {uid}:{gid}: {:?}", seen.ok()));
        }
        assert_eq!(capabilities(pid, "CapEff"), before, "after a create as {uid}:{gid}");
    }
    lines
}

#[test]
fn a_helper_of_another_user_with_ambient_capabilities_does_what_roots_helper_does() {
    for sandbox in SANDBOXES {
        let served = |launch: &dyn Fn(&Path) -> Launch| {
            let dir = program::scratch();
            prepare(dir.path());
            let (running, mut client) = launch(dir.path()).by_fd();
            client.ask(&ask::lstat(b"/")).ok();
            let lines = outcomes(&mut client, dir.path(), running.pid());
            (status(running.pid(), "Uid"), lines, running.log())
        };
        let (_, as_root, _) = served(&|root| ours(root, sandbox));
        let capabilities = if sandbox == "none" { NEEDED } else { NEEDED_AND_LAYERS };
        let program = program::scratch();
        let copy = program::ours_for_all(program.path());
        let (user, as_user, log) =
            served(&|root| ours(root, sandbox).program(copy.clone()).under(ambient(capabilities)));
        assert_eq!(user, "1000\t1000\t1000\t1000", "{sandbox}");
        assert!(!log.contains("falling back"), "{sandbox}: {log}");
        assert_eq!(as_user, as_root, "{sandbox}");
        // The same where the kernel was told to leave capabilities alone.
        let (_, fixed, _) =
            served(&|root| ours(root, sandbox).under(["setpriv", "--securebits=+no_setuid_fixup", "--"]));
        assert_eq!(fixed, as_root, "{sandbox}");
    }
}

/// The supervisor makes its socket anew as another user: neither it nor later workers lose anything by that.
#[test]
fn a_supervisor_of_another_user_with_ambient_capabilities_keeps_them() {
    let dir = program::scratch();
    let export = dir.path().join("export");
    fs::create_dir(&export).unwrap();
    prepare(&export);
    let socket = dir.path().join("socket");
    let copy = program::ours_for_all(dir.path());
    let launch = ours(&export, "namespace").program(copy).under(ambient(NEEDED_AND_LAYERS));
    let running = launch.option("--persistent").option("--shared=2").by_socket(&socket);
    for round in 0..3 {
        let mut client = Client::connect_soon(&socket);
        client.ask(&ask::mkdir(format!("/{round}").as_bytes(), 0o755, 0, 0)).ok();
        client.ask(&ask::chown(b"/file", 6, 6)).ok();
        let expected = capabilities(running.pid(), "CapPrm");
        assert_eq!(capabilities(running.pid(), "CapEff"), expected, "round {round}");
        let inode = fs::metadata(&socket).unwrap().ino();
        fs::remove_file(&socket).unwrap();
        wait_until("a new socket", || fs::metadata(&socket).is_ok_and(|meta| meta.ino() != inode));
        drop(client);
        wait_until("the worker's end", || process::children(running.pid()).is_empty());
    }
}

#[test]
fn what_the_helper_was_started_with_beyond_its_needs_is_given_up() {
    for sandbox in SANDBOXES {
        let dir = program::scratch();
        prepare(dir.path());
        let copy = program::ours_for_all(dir.path());
        let inherited = ["setpriv", "--groups", "4,5,6", "--inh-caps", "+chown,+net_admin,+sys_admin", "--"];
        let as_root = ours(dir.path(), sandbox).under(inherited);
        let ambient = ours(dir.path(), sandbox).program(copy.clone()).under(ambient(NEEDED_AND_LAYERS));
        let mut helpers = vec![("root", as_root), ("1000", ambient)];
        if sandbox == "none" {
            let user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--groups", "4,5", "--"];
            helpers.push(("an ordinary user", ours(dir.path(), sandbox).program(copy).under(user)));
        }
        for (user, launch) in helpers {
            let when = format!("{sandbox}, as {user}");
            let (running, mut client) = launch.by_fd();
            client.ask(&ask::lstat(b"/")).ok();
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(capabilities(running.pid(), set), 0, "{set}, {when}");
            }
            // Without CAP_SETGID nobody can give groups up.
            let groups = if user == "an ordinary user" { "4 5" } else { "" };
            assert_eq!(status(running.pid(), "Groups"), groups, "{when}");
            // The files in /proc of a process that is not dumpable are root's. No request has switched an identity
            // yet, which would have the same effect.
            let owner = fs::metadata(process::of(running.pid(), "fd")).unwrap().uid();
            assert_eq!(owner, 0, "{when}");
        }
    }
}

#[test]
fn a_create_as_another_user_takes_four_calls_more_than_one_as_root() {
    const REQUESTS: u64 = 100;
    let dir = program::scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let notes = program::scratch();
    let (running, mut client) = ours(dir.path(), "namespace").option("--busy-poll=0").by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    for (uid, gid, calls) in [(0, 0, 3), (LEAVE, LEAVE, 3), (0, 7, 5), (1000, 0, 5), (1000, 1000, 7)] {
        let made = calls::during(running.pid(), notes.path(), || {
            for at in 0..REQUESTS {
                client.ask(&ask::mkdir(format!("/{uid}.{gid}.{at}").as_bytes(), 0o755, uid, gid)).ok();
            }
        });
        // strace finds one call in progress as it attaches, and leaves one: less than half a call a request.
        assert_eq!((made + REQUESTS / 2) / REQUESTS, calls, "as {uid}:{gid}: {made} calls");
    }
}

/// The kernel reports no error of setfsuid(2) and setfsgid(2): what they return tells whether the switch before held.
#[test]
fn a_switch_that_fails_ends_the_process() {
    for (call, what) in [("setfsuid", "uid"), ("setfsgid", "gid")] {
        // The first call is not made, or the second finds another id than was set.
        for (when, result) in [(1, 0), (2, 7)] {
            let dir = program::scratch();
            let (mut running, mut client) = ours(dir.path(), "namespace").by_fd();
            client.ask(&ask::lstat(b"/")).ok();
            // getpid, which the filter allows, takes the place of the call that is not made.
            let inject = format!("inject={call}:retval={result}:when={when}:syscall=getpid");
            let pid = running.pid().to_string();
            let mut strace = Command::new("strace")
                .args(["-q", "-o", "/dev/null", "-e", "trace=all", "-e", &inject, "-p", &pid])
                .stdin(Stdio::null())
                .spawn()
                .expect("strace is missing: install it");
            wait_until("strace", || status(running.pid(), "TracerPid") != "0");
            client.ask(&ask::mkdir(b"/d", 0o755, 1000, 1000)).closed();
            let ended = running.wait();
            let _ = strace.wait();
            assert_eq!(ended.signal(), Some(libc::SIGABRT), "{call}, {when}: {}", running.log());
            running.wait_for_log(&format!("did not have the file system {what}"));
        }
    }
}
