//! Who has an export open: real processes in every relation to one.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use virtfs_proxy_helper::internals::data::{Live, Role, User, look};

use crate::program::{Launch, Running, ours, reference, scratch, wait_until};

/// A process that has said that it is where it should be, ended with its owner.
struct Actor(Child);

impl Actor {
    /// Runs a shell's script, which must go on to `echo ready` and wait.
    fn new(script: &str, arguments: &[&Path]) -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["-m", "--propagation", "private", "sh", "-ec", script, "sh"]);
        Self::spawn(child, arguments)
    }

    /// The same in our own mount namespace.
    fn near(script: &str, arguments: &[&Path]) -> Self {
        Self::spawn(Command::new("sh").args(["-ec", script, "sh"]), arguments)
    }

    fn spawn(command: &mut Command, arguments: &[&Path]) -> Self {
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("an actor");
        let mut word = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut word).expect("the actor's word");
        assert_eq!(&word, b"ready\n");
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn of(live: &Live, pid: i32) -> &User {
    live.users.iter().find(|user| user.pid == pid).unwrap_or_else(|| panic!("{pid} is not in {live:?}"))
}

/// An export with a directory and a file.
fn export() -> (tempfile::TempDir, PathBuf) {
    let scratch = scratch();
    let export = scratch.path().join("export");
    fs::create_dir_all(export.join("sub")).unwrap();
    fs::write(export.join("sub/file"), "content").unwrap();
    (scratch, export)
}

/// `read` keeps the shell itself waiting: no child of its would hold the same.
const WAIT: &str = "echo ready; read -r _";

#[test]
fn nobody_uses_a_new_export() {
    let (_scratch, export) = export();
    // Other tests have overlays with relative layers, which may be any directory of that name.
    let own = export.with_file_name("new");
    fs::rename(&export, &own).unwrap();
    let live = look(&own).unwrap();
    assert!(live.users.is_empty() && live.mounts.is_empty() && live.kernel.is_empty(), "{live:?}");
    assert!(!live.is_busy());
}

#[test]
fn an_open_file_is_seen_under_its_path_in_the_export() {
    let (_scratch, export) = export();
    let actor = Actor::near(&format!("exec 5<\"$1\"; {WAIT}"), &[&export.join("sub/file")]);
    let live = look(&export).unwrap();
    let user = of(&live, actor.pid());
    assert_eq!((user.open.count, user.open.first.as_deref()), (1, Some(Path::new("sub/file"))));
    assert!(user.is_busy() && live.is_busy());
    assert_eq!(user.role, Role::Other);
    // A neighbour of a longer name is another directory.
    fs::create_dir(export.with_file_name("exp")).unwrap();
    assert!(look(&export.with_file_name("exp")).unwrap().users.is_empty());
    // A directory around it is as busy as it is, one in it that holds nothing open is not.
    assert!(of(&look(export.parent().unwrap()).unwrap(), actor.pid()).is_busy());
    fs::create_dir(export.join("other")).unwrap();
    assert!(look(&export.join("other")).unwrap().users.is_empty());
}

#[test]
fn an_open_file_that_was_removed_still_counts() {
    let (_scratch, export) = export();
    let actor = Actor::near(&format!("exec 5<\"$1\"; rm \"$1\"; {WAIT}"), &[&export.join("sub/file")]);
    let live = look(&export).unwrap();
    assert_eq!(of(&live, actor.pid()).open.first.as_deref(), Some(Path::new("sub/file")));
}

#[test]
fn a_working_directory_is_told_and_does_not_make_it_busy() {
    let (_scratch, export) = export();
    let actor = Actor::near(&format!("cd \"$1\"; {WAIT}"), &[&export.join("sub")]);
    let live = look(&export).unwrap();
    let user = of(&live, actor.pid());
    assert_eq!((user.cwd.as_deref(), user.root.as_deref()), (Some(Path::new("sub")), None));
    assert!(!user.is_busy());
    assert!(user.to_string().ends_with("works in 'sub'"), "{user}");
}

#[test]
fn a_chroot_makes_it_busy() {
    let (_scratch, export) = export();
    fs::copy("/bin/busybox", export.join("busybox")).unwrap();
    let mut command = Command::new("chroot");
    let actor = Actor::spawn(command.arg(&export).args(["/busybox", "sh", "-ec", WAIT]), &[]);
    let live = look(&export).unwrap();
    let user = of(&live, actor.pid());
    assert_eq!(user.root.as_deref(), Some(Path::new("")));
    assert_eq!(user.mapped.first.as_deref(), Some(Path::new("busybox")), "the program that runs");
    assert!(user.is_busy());
}

#[test]
fn a_bind_mount_in_another_namespace_shows_the_same_export() {
    let (scratch, export) = export();
    let elsewhere = scratch.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let script = format!("mount --bind \"$1\" \"$2\"; exec 5<\"$2/file\"; {WAIT}");
    let actor = Actor::new(&script, &[&export.join("sub"), &elsewhere]);
    let live = look(&export).unwrap();
    let user = of(&live, actor.pid());
    assert_eq!(user.open.first.as_deref(), Some(Path::new("sub/file")));
    let mounted = &live.mounts[0];
    assert_eq!((mounted.point.as_path(), mounted.part.as_path()), (&*elsewhere, Path::new("sub")));
    assert!(mounted.namespace_of.is_some());
}

/// A descriptor that was opened before its process went to a mount namespace of its own, looked for from a third one.
#[test]
fn a_file_that_was_opened_in_another_namespace_than_its_process_is_in_now_is_placed() {
    let (_scratch, export) = export();
    let script = format!("exec 5<\"$1\"; exec unshare -m --propagation private sh -ec '{WAIT}'");
    let actor = Actor::near(&script, &[&export.join("sub/file")]);
    let check = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(ours())
        .args(["migrate", "check", "--format=json"])
        .arg(&export)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&check.stdout);
    let user = format!("process {} ", actor.pid());
    assert!(text.contains(&user) && text.contains("sub/file"), "{text}");
}

/// As with `podman run -v /srv/share:/srv/share`.
#[test]
fn a_mount_at_the_same_path_in_another_namespace_is_another_place() {
    let (_scratch, export) = export();
    let hold = scratch();
    let script = format!(
        "mount --bind \"$1\" \"$3\"; mount -t tmpfs none \"$2\"; mkdir \"$1\"; mount --bind \"$3\" \"$1\"; {WAIT}"
    );
    let _actor = Actor::new(&script, &[&export, export.parent().unwrap(), hold.path()]);
    let live = look(&export).unwrap();
    let mounted = live.mounts.iter().find(|mount| mount.point == export);
    assert!(mounted.is_some_and(|mount| mount.namespace_of.is_some()), "{live:?}");
    assert!(look(&export.join("sub")).unwrap().mounts.is_empty(), "it is around that one");
}

#[test]
fn an_overlay_is_found_in_another_namespace_and_by_a_relative_layer() {
    for lower in ["$1", "export", "export/sub"] {
        let (scratch, export) = export();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(scratch.path().join(name)).unwrap();
        }
        let options = format!("lowerdir={lower},upperdir=$2/upper,workdir=$2/work");
        let script = format!("cd \"$2\"; mount -t overlay -o {options} none merged; cd /; {WAIT}");
        let actor = Actor::new(&script, &[&export, scratch.path()]);
        let live = look(&export).unwrap();
        assert!(live.is_busy(), "{lower}: {live:?}");
        let said = live.kernel[0].to_string();
        assert!(said.contains("merged") && said.contains(&format!("of process {}", actor.pid())), "{said}");
        assert_eq!(said.contains("may be made of"), !lower.starts_with('$'), "{said}");
    }
}

#[test]
fn a_relative_layer_that_is_nowhere_is_not_seen() {
    let (_scratch, export) = export();
    let other = scratch();
    for name in ["relative-layer", "relative-other"] {
        fs::create_dir(other.path().join(name)).unwrap();
    }
    let script = format!(
        "cd \"$1\"; mount -t overlay -o lowerdir=relative-layer:relative-other none /mnt; cd /; {WAIT}"
    );
    let _actor = Actor::new(&script, &[other.path()]);
    let unseen = look(&export).unwrap().unseen;
    assert!(unseen.layers > 0 && unseen.sentence().unwrap().contains("overlay"), "{unseen:?}");
}

#[test]
fn a_socket_that_is_listened_at_makes_it_busy() {
    for path in ["$1/sub/socket", "socket"] {
        let (_scratch, export) = export();
        let script = "cd \"$1/sub\"; exec 3<&0 4>&1; exec python3 -c \"import socket, sys
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()
print('ready', flush=True); sys.stdin.read()\" "
            .to_owned()
            + path;
        let actor = Actor::new(&script, &[&export]);
        let live = look(&export).unwrap();
        let user = of(&live, actor.pid());
        assert_eq!(user.listens.first.as_deref(), Some(Path::new("sub/socket")), "{path}: {user}");
        assert!(user.is_busy() && user.to_string().contains("listens at 'sub/socket'"), "{user}");
    }
}

#[test]
fn an_open_file_on_its_way_between_processes_is_not_seen() {
    let (_scratch, export) = export();
    let script = "exec python3 -c \"import socket, os, sys
a, b = socket.socketpair(socket.AF_UNIX); f = os.open(sys.argv[1], os.O_RDONLY)
socket.send_fds(a, [b'x'], [f]); os.close(f)
print('ready', flush=True); sys.stdin.read()\" \"$1/sub/file\"";
    let actor = Actor::new(script, &[&export]);
    let live = look(&export).unwrap();
    assert!(!live.users.iter().any(|user| user.pid == actor.pid()), "{live:?}");
    assert!(live.unseen.in_flight > 0, "{live:?}");
    assert!(live.unseen.sentence().unwrap().contains("on"), "{live:?}");
}

#[test]
fn names_that_would_break_a_line_are_found_and_printed_safely() {
    let (_scratch, export) = export();
    let odd = export.join("a b\n\\040\x1b[2J");
    fs::write(&odd, "").unwrap();
    let actor = Actor::near(&format!("exec 5<\"$1\"; {WAIT}"), &[&odd]);
    let user = look(&export).unwrap().users.into_iter().find(|user| user.pid == actor.pid()).unwrap();
    assert_eq!(user.open.first.as_deref(), Some(Path::new("a b\n\\040\x1b[2J")));
    assert!(!user.to_string().contains(char::is_control), "{user}");
}

#[test]
fn a_process_can_not_hide_behind_an_odd_name() {
    let (_scratch, export) = export();
    let script = format!("printf 'a) Z \\377' >/proc/self/comm; exec 5<\"$1\"; {WAIT}");
    let actor = Actor::near(&script, &[&export.join("sub/file")]);
    let live = look(&export).unwrap();
    let user = of(&live, actor.pid());
    assert_eq!((user.name.as_slice(), user.open.count), (&b"a) Z \xff"[..], 1));
}

#[test]
fn helpers_that_serve_it_are_found_behind_every_wall() {
    let (scratch, export) = export();
    for (number, launch) in [
        Launch::new(&reference(), &export),
        Launch::new(&ours(), &export),
        Launch::new(&ours(), &export).option("--sandbox=chroot"),
        Launch::new(&ours(), &export).option("--sandbox=none"),
        Launch::new(&ours(), &export).option("--persistent"),
        Launch::new(&ours(), scratch.path()),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = scratch.path().join(format!("socket{number}"));
        let helper = launch.by_socket(&socket);
        wait_until("the socket", || socket.exists());
        let live = look(&export).unwrap();
        let user = of(&live, helper.pid().cast_signed());
        assert_eq!(user.role, Role::Helper, "{number}: {user:?}");
        assert!(user.is_busy(), "{number}");
    }
}

/// The helper of a container has its options from its environment, and names of its container's.
#[test]
fn a_helpers_environment_counts_and_that_of_the_one_who_looks_does_not() {
    let (scratch, export) = export();
    let other = scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    let socket = scratch.path().join("socket");
    let mut helper = Command::new(ours());
    helper
        .arg("--nodaemon")
        .env("VIRTFS_PATH", &other)
        .env("VIRTFS_SOCKET", &socket)
        .env("VIRTFS_SANDBOX", "none");
    let helper = Running::spawn(helper.env("VIRTFS_UID", "0").env("VIRTFS_GID", "0"));
    wait_until("the socket", || socket.exists());
    let user = look(&other).unwrap().users.into_iter().find(|user| user.pid == helper.pid().cast_signed());
    assert!(
        user.is_some_and(|user| user.role == Role::Helper && user.is_busy()),
        "it serves '{}'",
        other.display()
    );
    assert!(!look(&export).unwrap().is_busy(), "it does not serve '{}'", export.display());
    // With variables of its own, as in the image.
    let check = Command::new(ours())
        .env("VIRTFS_PATH", &export)
        .args(["migrate", "check", "--format=json", "--exit-zero"])
        .arg(&export)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&check.stdout);
    assert!(text.contains("findings") && !text.contains("in-use"), "{text}");
}

#[test]
fn a_name_of_another_mount_namespace_is_looked_up_there() {
    let (scratch, export) = export();
    let other = scratch.path().join("other");
    fs::create_dir(&other).unwrap();
    let (socket, program) = (scratch.path().join("socket"), ours());
    // There, the export's name shows the other directory.
    let script = "mount --bind \"$2\" \"$1\"; \"$3\" --nodaemon --sandbox=none --path \"$1\" \
        --socket \"$4\" --uid 0 --gid 0 2>&- >&- & until [ -S \"$4\" ]; do sleep 0.1; done; echo ready; read -r _ || kill $!";
    let mut actor = Actor::new(script, &[&export, &other, &program, &socket]);
    let serves = |directory: &Path| {
        look(directory).unwrap().users.iter().any(|user| user.role == Role::Helper && user.is_busy())
    };
    assert!(serves(&other));
    assert!(!serves(&export));
    drop(actor.0.stdin.take());
    actor.0.wait().unwrap();
}

#[test]
fn a_stranger_says_what_it_could_not_see() {
    let (_scratch, export) = export();
    let _actor = Actor::near(&format!("exec 5<\"$1\"; {WAIT}"), &[&export.join("sub/file")]);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(ours())
        .args(["migrate", "check", "--format=json"])
        .arg(&export)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("processes-unseen"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_not_a_directory_is_an_error() {
    let (_scratch, export) = export();
    assert!(look(&export.join("none")).is_err());
    assert!(File::open(&export).is_ok());
}
