//! Mounts that come and go below the export while it is served.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use libc::{O_CREAT, O_DIRECTORY, O_NONBLOCK, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use crate::apart::with_own_mounts;
use crate::disk::run;
use crate::process;
use crate::program::{self, Launch, wait_until};
use crate::refuse::{Refused, refusing};
use crate::standing::{FOR_READING, each_way, each_way_of};
use crate::tree::Owned;
use crate::wire::{Answer, Client, ask};
use crate::{SANDBOXES, ours};

const NONE: Option<&str> = None;

/// Whether the host's mounts are shared, as under systemd, or private.
const PROPAGATIONS: [(&str, MsFlags); 2] = [("shared", MsFlags::MS_SHARED), ("private", MsFlags::MS_PRIVATE)];

/// An export, and file systems to mount in it.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = program::scratch();
        Owned::below(dir.path())
            .dir("export", 0o755, 0, 0)
            .dir("export/mnt", 0o755, 0, 0)
            .file("export/mnt/hidden", b"", 0o644, 0, 0)
            .file("export/file", b"hidden", 0o644, 0, 0)
            .dir("lower", 0o755, 0, 0)
            .file("lower/mounted", b"", 0o644, 0, 0)
            .dir("upper", 0o755, 0, 0)
            .dir("work", 0o755, 0, 0)
            .file("source", b"mounted", 0o644, 0, 0);
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let lower = dir.path().join("lower");
        run("mkfs.ext4", &[&"-q", &"-O", &"^has_journal", &"-d", &lower, &image]);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mounts a file system of this kind on `mnt` in the export. It holds a file `mounted`.
    fn mount(&self, kind: &str) {
        let mnt = self.path("export/mnt");
        match kind {
            "tmpfs" => {
                // Mounted elsewhere first would be another mount: the file comes later.
                mount(Some("tmpfs"), &mnt, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
                fs::write(mnt.join("mounted"), b"").unwrap();
            }
            "bind" => mount(Some(&self.path("lower")), &mnt, NONE, MsFlags::MS_BIND, NONE).unwrap(),
            "overlay" => {
                let path = |name| self.path(name).display().to_string();
                let options =
                    format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
                mount(Some("overlay"), &mnt, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                    .unwrap();
            }
            "ext4" => run("mount", &[&"-o", &"loop", &self.path("image"), &mnt]),
            kind => panic!("{kind}"),
        }
    }

    /// Tries to unmount it, as an administrator does: not lazily.
    fn try_unmount(&self) -> Result<(), Errno> {
        umount2(&self.path("export/mnt"), MntFlags::empty())
    }

    /// Whether nothing uses the ext4 file system any more: its loop device goes with its last mount.
    fn is_free(&self) -> bool {
        let output = Command::new("losetup").arg("-j").arg(self.path("image")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout.is_empty()
    }

    /// Unmounts it.
    fn unmount(&self, when: &str) {
        unmount(&self.path("export/mnt"), when);
    }
}

/// Unmounts what must not be busy. The processes that other tests of this process fork hold its descriptors for a moment.
fn unmount(path: &Path, when: &str) {
    let mut result = Ok(());
    wait_until(&format!("{} to be free, {when}: {result:?}", path.display()), || {
        result = umount2(path, MntFlags::empty());
        result != Err(Errno::EBUSY)
    });
    assert_eq!(result, Ok(()), "{when}");
}

/// Waits until the client is told of a file, or that there is none.
fn sees(client: &mut Client, path: &[u8], there: bool, when: &str) {
    let path_shown = String::from_utf8_lossy(path);
    wait_until(&format!("{path_shown} (there: {there}), {when}"), || {
        client.ask(&ask::lstat(path)).is_success() == there
    });
}

/// The same at once: the kernel propagates within the host's own system call.
fn sees_at_once(client: &mut Client, path: &[u8], there: bool, when: &str) {
    let answer = client.ask(&ask::lstat(path));
    assert_eq!(answer.is_success(), there, "{when}: {}: {answer:?}", String::from_utf8_lossy(path));
}

/// The mounts of a process that lack an attribute.
fn lacking(pid: u32) -> Vec<process::Mount> {
    let lacks = |mount: &process::Mount| {
        ["nodev", "nosuid", "noexec"].iter().any(|name| !mount.options.iter().any(|has| has == name))
    };
    process::mounts(pid).into_iter().filter(lacks).collect()
}

/// Runs a test with each propagation type, sandbox and way to serve.
fn everywhere(test: impl Fn(&Host, &str, (bool, &str), u32, &mut Client) + Clone + Send + 'static) {
    for (name, propagation) in PROPAGATIONS {
        let test = test.clone();
        with_own_mounts(propagation, move || {
            for sandbox in SANDBOXES {
                let host = Host::new();
                let at_once = name == "shared" || sandbox != "namespace";
                each_way(&host.path("export"), sandbox, |way, pid, client| {
                    test(&host, &format!("{name}, {sandbox}, {way}"), (at_once, sandbox), pid, client);
                });
            }
        });
    }
}

#[test]
fn a_mount_that_comes_later_is_served_and_one_that_goes_is_released() {
    everywhere(|host, way, (at_once, sandbox), pid, client| {
        let sees = if at_once { sees_at_once } else { sees };
        for kind in ["tmpfs", "bind", "overlay", "ext4"] {
            let when = format!("{way}, {kind}");
            sees(client, b"/mnt/hidden", true, &when);
            host.mount(kind);
            sees(client, b"/mnt/mounted", true, &when);
            sees(client, b"/mnt/hidden", false, &when);
            client.ask(&ask::mkdir(b"/mnt/made", 0o755, 0, 0)).ok();
            assert!(
                host.path("export/mnt/made").is_dir(),
                "{when}: the guest's directory is beneath the mount"
            );
            client.ask(&ask::remove(b"/mnt/made")).ok();
            if sandbox == "namespace" {
                wait_until(&format!("nodev, nosuid and noexec, {when}"), || lacking(pid).is_empty());
            }
            // One mount inside of the other.
            client.ask(&ask::mkdir(b"/mnt/deep", 0o755, 0, 0)).ok();
            let deep = host.path("export/mnt/deep");
            mount(Some("tmpfs"), &deep, Some("tmpfs"), MsFlags::empty(), Some("mode=700")).unwrap();
            fs::write(deep.join("below"), b"").unwrap();
            sees(client, b"/mnt/deep/below", true, &when);
            assert_eq!(host.try_unmount(), Err(Errno::EBUSY), "{when}: something is mounted on it");
            unmount(&deep, &when);
            sees(client, b"/mnt/deep/below", false, &when);
            client.ask(&ask::remove(b"/mnt/deep")).ok();
            host.unmount(&when);
            sees(client, b"/mnt/hidden", true, &when);
            sees(client, b"/mnt/mounted", false, &when);
        }
        // A file on a file.
        let file = host.path("export/file");
        mount(Some(&host.path("source")), &file, NONE, MsFlags::MS_BIND, NONE).unwrap();
        let size = |client: &mut Client| client.ask(&ask::lstat(b"/file")).stat().unwrap().size;
        wait_until(&format!("a mounted file, {way}"), || size(client) == 7);
        unmount(&file, way);
        wait_until(&format!("an unmounted file, {way}"), || size(client) == 6);
    });
}

/// Asks for the generation number of a file in a tmpfs, then in a Btrfs that has got its device number.
fn asks_for_a_generation_on_a_reused_number(host: &Host, way: &str, client: &mut Client) {
    let (first, mnt) = (host.path("first"), host.path("export/mnt"));
    let device = || fs::metadata(&mnt).unwrap().dev();
    // The kernel gives out the lowest number that is free, and others mount meanwhile.
    for _ in 0..1000 {
        // A Btrfs takes one number for itself and one for its files.
        mount(Some("tmpfs"), &first, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        host.mount("tmpfs");
        let before = device();
        sees(client, b"/mnt/mounted", true, way);
        for _ in 0..2 {
            assert_eq!(client.ask(&ask::version(b"/mnt/mounted")).word(), Some(0), "{way}: tmpfs has none");
        }
        unmount(&first, way);
        host.unmount(way);
        run("mount", &[&"-o", &"loop", &host.path("btrfs"), &mnt]);
        let after = device();
        fs::write(mnt.join("file"), b"").unwrap();
        sees(client, b"/mnt/file", true, way);
        let told = client.ask(&ask::version(b"/mnt/file")).word().unwrap();
        let expected = generation(&mnt.join("file"));
        assert!(expected > 0, "Btrfs has generations");
        host.unmount(way);
        if after == before {
            assert_eq!(told, expected, "{way}");
            return;
        }
    }
    panic!("{way}: no device number was given out again");
}

/// What the ioctl says of a file.
fn generation(path: &Path) -> u64 {
    let output = Command::new("lsattr").arg("-v").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn a_generation_is_told_whatever_file_system_had_its_device_number_before() {
    with_own_mounts(MsFlags::MS_SHARED, || {
        let host = Host::new();
        let image = host.path("btrfs");
        fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        run("mkfs.btrfs", &[&"-q", &image]);
        fs::create_dir(host.path("first")).unwrap();
        for sandbox in SANDBOXES {
            each_way(&host.path("export"), sandbox, |way, _, client| {
                asks_for_a_generation_on_a_reused_number(&host, &format!("{sandbox}, {way}"), client);
            });
        }
        // As before Linux 6.8, which tells no unique number of a mount. A mount namespace takes statx(2) there, too.
        let host = &host;
        refusing(Refused(libc::SYS_statx, None, Errno::ENOSYS), move || {
            for sandbox in ["chroot", "none"] {
                let (_running, mut client) = ours(&host.path("export"), sandbox).by_fd();
                asks_for_a_generation_on_a_reused_number(host, &format!("{sandbox}, no statx"), &mut client);
            }
        });
    });
}

/// The process that watches the mounts of a serving process.
fn watcher(serving: u32) -> Pid {
    let comm = |pid: u32| fs::read_to_string(process::of(pid, "comm")).unwrap_or_default();
    let found = process::children(serving).into_iter().find(|&pid| comm(pid) == "virtfs-mounts\n");
    Pid::from_raw(found.expect("a process that watches the mounts").cast_signed())
}

/// Runs the open file as an unprivileged user; it prints its effective user id.
fn effective_user(program: OwnedFd) -> String {
    let command = ["--reuid=1000", "--regid=1000", "--clear-groups", "/proc/self/fd/0", "-u"];
    let output = Command::new("setpriv").args(command).stdin(program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

#[test]
fn no_device_is_opened_and_no_set_id_bit_obeyed_before_a_late_mount_has_its_flags() {
    with_own_mounts(MsFlags::MS_SHARED, || {
        let host = Host::new();
        let export = host.path("export");
        each_way(&export, "namespace", |way, pid, client| {
            // With the watcher stopped the moment between the mount and its flags lasts.
            let watcher = watcher(pid);
            kill(watcher, Signal::SIGSTOP).unwrap();
            let mnt = export.join("mnt");
            mount(Some("tmpfs"), &mnt, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
            let tree = Owned::below(&mnt);
            tree.file("regular", b"", 0o644, 0, 0).fifo("fifo");
            run("mknod", &[&mnt.join("null"), &"c", &"1", &"3"]);
            fs::copy("/usr/bin/id", mnt.join("id")).unwrap();
            fs::set_permissions(mnt.join("id"), fs::Permissions::from_mode(0o4755)).unwrap();
            Owned::below(&export).link("tonull", "mnt/null");
            assert_eq!(lacking(pid).len(), 1, "{way}: the mount has its flags already");
            let opens = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).unwrap();
            for name in ["null", "fifo"] {
                opens.add_watch(&mnt.join(name), AddWatchFlags::IN_OPEN).unwrap();
            }
            for path in [b"/mnt/null".as_slice(), b"/tonull", b"/mnt/fifo"] {
                for flags in [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | O_NONBLOCK, 3] {
                    // As QEMU does: it asks for the file's status first.
                    client.ask(&ask::lstat(path)).ok();
                    client.ask(&ask::open(path, flags)).fails(Errno::ENXIO);
                    client.ask(&ask::create(path, flags | O_CREAT, 0o644, 0, 0)).fails(Errno::ENXIO);
                }
                client.ask(&ask::version(path)).fails(Errno::ENXIO);
            }
            // What was a regular file when it was looked at, and leads to the device when it is opened.
            fs::write(export.join("changing"), b"").unwrap();
            client.ask(&ask::lstat(b"/changing")).ok();
            fs::rename(export.join("tonull"), export.join("changing")).unwrap();
            client.ask(&ask::open(b"/changing", O_RDWR)).fails(Errno::ENXIO);
            client.ask(&ask::lstat(b"/mnt/regular")).ok();
            fs::rename(mnt.join("null"), mnt.join("regular")).unwrap();
            client.ask(&ask::open(b"/mnt/regular", O_RDWR)).fails(Errno::ENXIO);
            let events = opens.read_events().unwrap_or_default();
            assert!(events.is_empty(), "{way}: a device or FIFO was opened: {events:?}");
            // On the host it is a set-id program, through the helper's descriptor it is not.
            assert_eq!(effective_user(fs::File::open(mnt.join("id")).unwrap().into()), "0");
            let program = client.ask(&ask::open(b"/mnt/id", O_RDONLY)).fd();
            assert_eq!(effective_user(program), "1000", "{way}");
            kill(watcher, Signal::SIGCONT).unwrap();
            wait_until(&format!("nodev, nosuid and noexec, {way}"), || lacking(pid).is_empty());
            fs::remove_file(export.join("changing")).unwrap();
            unmount(&mnt, way);
        });
    });
}

#[test]
fn a_file_that_a_client_has_open_keeps_its_mount_and_nothing_else_does() {
    everywhere(|host, way, (at_once, _), _, client| {
        host.mount("ext4");
        let when = format!("{way}: before");
        let sees = if at_once { sees_at_once } else { sees };
        sees(client, b"/mnt/mounted", true, &when);
        let file = client.ask(&ask::open(b"/mnt/mounted", O_RDWR)).fd();
        if at_once {
            assert_eq!(host.try_unmount(), Err(Errno::EBUSY), "{way}");
            drop(file);
            // The helper has closed its own descriptor when it answers again.
            client.ask(&ask::lstat(b"/")).ok();
            host.unmount(way);
        } else {
            // A private mount is another one than the client's.
            host.unmount(way);
            drop(file);
        }
        wait_until(&format!("the loop device to be free, {way}"), || host.is_free());
        sees(client, b"/mnt/hidden", true, &format!("{way}: after"));
    });
}

#[test]
fn the_process_that_watches_the_mounts_has_what_it_needs_and_no_more() {
    /// DAC_OVERRIDE, SYS_CHROOT, SYS_ADMIN.
    const FOR_MOUNTS: u64 = 1 << 1 | 1 << 18 | 1 << 21;
    let dir = program::scratch();
    each_way(dir.path(), "namespace", |way, pid, _| {
        let watcher = watcher(pid).as_raw().unsigned_abs();
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(process::capabilities(watcher, set), FOR_MOUNTS, "{way}: {set}");
        }
        assert_eq!(process::status(watcher, "NoNewPrivs"), "1", "{way}");
        // The mode 2 is a filter.
        assert_eq!(process::status(watcher, "Seccomp"), "2", "{way}");
        // It holds no client's socket but its own end of the connection to the process that serves.
        let open = process::descriptors(watcher);
        let sockets = open.values().filter(|name| name.starts_with("socket:")).count();
        assert_eq!((sockets, open.len()), (1, 9), "{way}: {open:?}");
    });
}

#[test]
fn a_serving_process_ends_with_the_one_that_watches_its_mounts() {
    let dir = program::scratch();
    each_way(dir.path(), "namespace", |way, pid, client| {
        kill(watcher(pid), Signal::SIGKILL).unwrap();
        wait_until(&format!("an end, {way}"), || matches!(client.ask(&ask::lstat(b"/")), Answer::Closed));
    });
}

/// Ways to listen for clients: their options, and whether one after another is served.
const LISTENING: [(&[&str], bool); 3] =
    [(&[], false), (&["--persistent"], true), (&["--persistent", "--shared=4"], true)];

#[test]
fn the_directory_is_served_that_is_at_the_exports_path_when_a_client_comes() {
    for (_, propagation) in PROPAGATIONS {
        with_own_mounts(propagation, || {
            for sandbox in SANDBOXES {
                for (options, many) in LISTENING {
                    for change in ["re-created", "mounted over", "unmounted", "unmounted and mounted again"] {
                        changes(sandbox, options, many, change);
                    }
                }
            }
        });
    }
}

fn changes(sandbox: &str, options: &[&str], many: bool, change: &str) {
    let when = format!("{sandbox}, {options:?}, {change}");
    let host = Host::new();
    let (export, socket) = (host.path("export/mnt"), host.path("socket"));
    let starts_mounted = change.starts_with("unmounted");
    if starts_mounted {
        host.mount("ext4");
    }
    let launch = options.iter().fold(ours(&export, sandbox), Launch::option);
    let running = launch.by_socket(&socket);
    if many {
        let mut client = Client::connect_soon(&socket);
        let there: &[u8] = if starts_mounted { b"/mounted" } else { b"/hidden" };
        client.ask(&ask::lstat(there)).ok();
        if starts_mounted {
            assert_eq!(host.try_unmount(), Err(Errno::EBUSY), "{when}: it is served");
        }
        drop(client);
    } else {
        // It has given up what it does not need: it waits for its client.
        wait_until("the helper to be ready", || process::status(running.pid(), "NoNewPrivs") == "1");
    }
    let there: &[u8] = match change {
        "re-created" => {
            fs::remove_dir_all(&export).unwrap();
            fs::create_dir(&export).unwrap();
            fs::write(export.join("new"), b"").unwrap();
            b"/new"
        }
        "mounted over" => {
            host.mount("bind");
            b"/mounted"
        }
        "unmounted" => {
            // Nobody is served any more: the host's umount is not refused.
            host.unmount(&when);
            b"/hidden"
        }
        _ => {
            host.unmount(&when);
            wait_until(&format!("the loop device to be free, {when}"), || host.is_free());
            host.mount("ext4");
            b"/mounted"
        }
    };
    let mut client = Client::connect_soon(&socket);
    let answer = client.ask(&ask::lstat(there));
    assert!(answer.is_success(), "{when}: {answer:?}: {}", running.log());
    // Mounted again, it may be on another loop device: then it is another directory, too.
    let same = change == "unmounted and mounted again";
    assert!(same || running.log().contains("another directory"), "{when}: {}", running.log());
    drop((client, running));
    let _ = umount2(&export, MntFlags::MNT_DETACH);
}

#[test]
fn an_export_with_the_device_and_inode_number_of_the_earlier_one_is_another_directory() {
    with_own_mounts(MsFlags::MS_SHARED, || {
        let dir = program::scratch();
        let (export, socket) = (dir.path().join("export"), dir.path().join("socket"));
        fs::create_dir(&export).unwrap();
        let others = program::scratch();
        let mount_new = |at: &Path| mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), NONE).unwrap();
        let numbers = |at: &Path| fs::metadata(at).map(|it| (it.dev(), it.ino())).unwrap();
        for sandbox in SANDBOXES {
            for options in [&["--persistent"][..], &[]] {
                let when = format!("{sandbox}, {options:?}");
                mount_new(&export);
                let before = numbers(&export);
                let running = options.iter().fold(ours(&export, sandbox), Launch::option).by_socket(&socket);
                wait_until(&format!("a helper that is ready, {when}"), || {
                    process::status(running.pid(), "Seccomp") == "2" && socket.exists()
                });
                unmount(&export, &when);
                // Each root of a tmpfs has the same inode number, and each new one the lowest device number that is free.
                let mut tried = 0;
                wait_until(&format!("the same numbers, {when}"), || {
                    let other = others.path().join(tried.to_string());
                    tried += 1;
                    fs::create_dir_all(&other).unwrap();
                    mount_new(&other);
                    let is_same = numbers(&other) == before;
                    if is_same {
                        mount(Some(&other), &export, NONE, MsFlags::MS_BIND, NONE).unwrap();
                    }
                    if is_same || numbers(&other) > before {
                        (0..tried).for_each(|number| unmount(&others.path().join(number.to_string()), &when));
                        tried = 0;
                    }
                    is_same
                });
                Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
                assert!(running.log().contains("another directory"), "{when}: {}", running.log());
                drop(running);
                let _ = fs::remove_file(&socket);
                umount2(&export, MntFlags::MNT_DETACH).unwrap();
            }
        }
    });
}

#[test]
fn a_client_is_refused_while_there_is_no_export_and_the_next_one_is_served_again() {
    let dir = program::scratch();
    for sandbox in SANDBOXES {
        let (export, socket) = (dir.path().join(sandbox), dir.path().join(format!("{sandbox}.sock")));
        fs::create_dir(&export).unwrap();
        let mut running = ours(&export, sandbox).option("--persistent").by_socket(&socket);
        Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
        fs::remove_dir(&export).unwrap();
        let answer = Client::connect_soon(&socket).ask(&ask::lstat(b"/"));
        assert!(matches!(answer, Answer::Closed), "{sandbox}: {answer:?}");
        running.wait_for_log("does not exist");
        fs::create_dir(&export).unwrap();
        Client::connect_soon(&socket).ask(&ask::lstat(b"/")).ok();
        assert!(running.is_alive());
    }
}

/// Opens a file below an open directory, as QEMU could with a descriptor that it was sent.
fn open_below(directory: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
        .map_err(|error| Errno::from_raw(error.raw_os_error()))
}

#[test]
fn no_descriptor_of_a_readonly_helper_lets_its_client_write() {
    for (name, propagation) in PROPAGATIONS {
        with_own_mounts(propagation, move || {
            for sandbox in SANDBOXES {
                let host = Host::new();
                let export = host.path("export");
                let launch = ours(&export, sandbox).option("--readonly");
                each_way_of(&launch, |way, pid, client| {
                    let when = format!("{name}, {sandbox}, {way}");
                    for set in ["CapPrm", "CapEff", "CapBnd"] {
                        assert_eq!(process::capabilities(pid, set), FOR_READING, "{when}: {set}");
                    }
                    // A directory that only its owner may enter, and a file with access times.
                    client.ask(&ask::open(b"/file", O_RDONLY | libc::O_NOATIME)).ok();
                    host.mount("tmpfs");
                    sees(client, b"/mnt/mounted", true, &when);
                    if sandbox != "none" {
                        wait_until(&format!("a read-only mount, {when}"), || {
                            let is_readonly =
                                |mount: &process::Mount| mount.options.iter().any(|has| has == "ro");
                            process::mounts(pid).iter().all(is_readonly)
                        });
                    }
                    // `none` has no mounts of its own.
                    let expected = if sandbox == "none" { None } else { Some(Errno::EROFS) };
                    for (directory, file) in [("/", "/file"), ("/mnt", "/mnt/mounted")] {
                        let directory = client.ask(&ask::open(directory.as_bytes(), O_DIRECTORY)).fd();
                        let new = open_below(&directory, "new", OFlags::CREATE | OFlags::WRONLY);
                        assert_eq!(new.err(), expected, "{when}: a file below the descriptor of a directory");
                        let file = client.ask(&ask::open(file.as_bytes(), O_RDONLY)).fd();
                        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
                        let again = fs::File::options().write(true).open(link).err();
                        let again = again.and_then(|error| error.raw_os_error()).map(Errno::from_raw);
                        assert_eq!(again, expected, "{when}: a file opened again");
                    }
                    host.unmount(&when);
                    let _ = fs::remove_file(export.join("new"));
                });
            }
        });
    }
}

#[test]
fn no_descriptor_of_a_directory_leads_out_of_the_export_where_there_can_be_a_mount_namespace() {
    for (name, propagation) in PROPAGATIONS {
        with_own_mounts(propagation, move || {
            let host = Host::new();
            let export = host.path("export");
            let without = ["setpriv", "--bounding-set", "-sys_admin", "--"];
            for (launch, stays, when) in [
                (ours(&export, "namespace"), true, "namespace"),
                // Where mounts are private, it stays in the host's namespace to follow them at once.
                (ours(&export, "chroot"), name == "shared", "chroot"),
                (ours(&export, "chroot").option("--readonly"), true, "chroot, for reading"),
                (ours(&export, "chroot").under(without), false, "chroot without SYS_ADMIN"),
                (ours(&export, "none"), false, "none"),
            ] {
                each_way_of(&launch, |way, _, client| {
                    let root = client.ask(&ask::open(b"/", O_DIRECTORY)).fd();
                    let above = rustix::fs::fstat(open_below(&root, "..", OFlags::PATH).unwrap()).unwrap();
                    let expected = if stays { export.clone() } else { host.path("") };
                    let there = fs::metadata(&expected).unwrap();
                    assert_eq!(
                        (above.st_dev, above.st_ino),
                        (there.dev(), there.ino()),
                        "{name}, {when}, {way}: `..` of the export is not {}",
                        expected.display()
                    );
                });
            }
        });
    }
}
