//! The system fails: full disks, full tables, broken disks, deaf log daemons, stopped clients, odd clocks. The guest is told the errno,
//! and the helper lives.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libc::{O_CREAT, O_RDWR};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::apart::with_private_mounts;
use crate::disk::run;
use crate::process;
use crate::program::{self, Launch, Running, wait_until};
use crate::tree::Owned;
use crate::wire::{Answer, Client, Form, PATIENCE, Request, ask};

/// Every system call that touches the export.
const FILE_CALLS: &str = "openat,openat2,newfstatat,fstat,?lstat,?stat,mkdirat,mknodat,symlinkat,linkat,renameat,renameat2,unlinkat,\
    readlinkat,fchmodat,?fchmodat2,fchownat,utimensat,truncate,statfs,fstatfs,lgetxattr,getxattr,llistxattr,listxattr,\
    lsetxattr,setxattr,lremovexattr,removexattr,name_to_handle_at,ioctl";

fn ours(root: &Path) -> Launch {
    Launch::new(&program::ours(), root)
}

/// A tree on which every request of [`each`] goes well.
fn prepare(root: &Path) {
    Owned::below(root)
        .file("file", b"content", 0o644, 0, 0)
        .link("link", "target")
        .xattr("file", "user.a", b"1");
}

/// A request of every type, such that they can be asked again and again.
fn each() -> Vec<Request> {
    vec![
        ask::open(b"/file", O_RDWR),
        ask::open(b"/", libc::O_DIRECTORY),
        ask::create(b"/made", O_CREAT | O_RDWR, 0o644, 1000, 1000),
        ask::mknod(b"/node", libc::S_IFIFO | 0o600, 0, 1000, 1000),
        ask::mkdir(b"/dir", 0o755, 1000, 1000),
        ask::symlink(b"to", b"/symlink", 1000, 1000),
        ask::link(b"/file", b"/hard"),
        ask::lstat(b"/file"),
        ask::readlink(b"/link", 100),
        ask::statfs(b"/"),
        ask::chmod(b"/file", 0o600),
        ask::chown(b"/file", 0, 0),
        ask::truncate(b"/file", 7),
        ask::utime(b"/file", (1, 1), (1, 1)),
        ask::rename(b"/made", b"/moved"),
        ask::getxattr(b"/file", b"user.a", 10),
        ask::listxattr(b"/file", 100),
        ask::setxattr(b"/file", b"user.b", b"2", 0),
        ask::removexattr(b"/file", b"user.b"),
        ask::version(b"/file"),
        ask::remove(b"/moved"),
        ask::remove(b"/node"),
        ask::remove(b"/dir"),
        ask::remove(b"/symlink"),
        ask::remove(b"/hard"),
    ]
}

#[track_caller]
fn all_is_well(client: &mut Client, when: &str) {
    for request in each() {
        let answer = client.ask(&request);
        assert!(answer.is_success(), "{when}: {request:?}: {answer:?}");
    }
}

/// strace, letting system calls of a live process fail.
struct Injector {
    strace: Child,
    pid: u32,
}

impl Injector {
    /// What `inject` says (strace(1), "Tampering") happens to the process from now on. The call that takes the place of one
    /// that is to fail is one that the filter lets pass.
    fn attach(pid: u32, inject: &str) -> Self {
        let mut command = Command::new("strace");
        command.args(["-q", "-o", "/dev/null", "-e", "trace=all", "-e"]);
        command.arg(format!("inject={inject}:syscall=getpid"));
        let child = command.args(["-p", &pid.to_string()]).stdin(Stdio::null()).spawn();
        let strace = child.expect("strace is missing: install it");
        wait_until("strace", || process::status(pid, "TracerPid") != "0");
        Self { strace, pid }
    }
}

impl Drop for Injector {
    /// Lets the process go once it sleeps: in the middle of a call that is to fail it would see the other call's result.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            wait_until("a process at rest", || process::status(self.pid, "State").starts_with('S'));
        }
        let _ = kill(Pid::from_raw(self.strace.id().cast_signed()), Signal::SIGTERM);
        let _ = self.strace.wait();
    }
}

#[test]
fn an_error_of_the_file_systems_is_the_guests_to_know() {
    for sandbox in ["namespace", "none"] {
        let dir = program::scratch();
        prepare(dir.path());
        let (mut running, mut client) = ours(dir.path()).option(format!("--sandbox={sandbox}")).by_fd();
        all_is_well(&mut client, sandbox);
        for errno in [
            Errno::EIO,
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::EROFS,
            Errno::ESTALE,
        ] {
            let injector = Injector::attach(running.pid(), &format!("{FILE_CALLS}:error={errno:?}"));
            for request in each() {
                let answer = client.ask(&request);
                // fchmodat2(2) is younger than some straces.
                let passes = matches!(request, Request::Chmod { .. }) && answer.is_success();
                assert!(passes || answer.errno() == Some(errno), "{sandbox}: {request:?}: {answer:?}");
            }
            drop(injector);
            all_is_well(&mut client, &format!("{sandbox}, after {errno:?}"));
        }
        assert!(running.is_alive());
    }
}

#[test]
fn calls_that_are_interrupted_are_made_again() {
    let dir = program::scratch();
    prepare(dir.path());
    for calls in ["recvfrom", "sendto", "sendmsg"] {
        let (running, mut client) = ours(dir.path()).option("--busy-poll=0").by_fd();
        client.ask(&ask::lstat(b"/")).ok();
        let injector = Injector::attach(running.pid(), &format!("{calls}:error=EINTR:when=1+2"));
        for request in each() {
            let answer = client.ask(&request);
            assert!(answer.is_success(), "{calls}: {request:?}: {answer:?}: {}", running.log());
        }
        drop(injector);
        all_is_well(&mut client, calls);
    }
}

/// A mount that goes with its owner.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, options: &str) -> Self {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs");
        Self(at.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_file_system_is_full_and_no_more() {
    with_private_mounts(|| {
        let dir = program::scratch();
        let mounted = Mounted::tmpfs(dir.path(), "size=256k,nr_inodes=40,mode=755");
        prepare(dir.path());
        let (_running, mut client) = ours(dir.path()).by_fd();
        all_is_well(&mut client, "empty");
        // Without inodes.
        let full =
            (0..100).find_map(|at| client.ask(&ask::mkdir(format!("/{at}").as_bytes(), 0o755, 7, 7)).errno());
        assert_eq!(full, Some(Errno::ENOSPC));
        for request in [
            ask::create(b"/new", O_CREAT | O_RDWR, 0o644, 1000, 1000),
            ask::mknod(b"/new", libc::S_IFIFO | 0o600, 0, 1000, 1000),
            ask::symlink(&[b'x'; 4000], b"/new", 1000, 1000),
            ask::mkdir(b"/new", 0o755, 1000, 1000),
        ] {
            client.ask(&request).fails(Errno::ENOSPC);
        }
        client.ask(&ask::remove(b"/1")).ok();
        client.ask(&ask::remove(b"/2")).ok();
        // Without blocks: who writes is told by the kernel, through the descriptor that was handed over.
        let file = client.ask(&ask::create(b"/big", O_CREAT | O_RDWR, 0o644, 1000, 1000)).fd();
        let error = fs::File::from(file).write_all(&vec![1; 300_000]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        client.ask(&ask::symlink(&[b'x'; 4000], b"/long", 1000, 1000)).fails(Errno::ENOSPC);
        client.ask(&ask::remove(b"/big")).ok();
        client.ask(&ask::remove(b"/3")).ok();
        client.ask(&ask::remove(b"/4")).ok();
        client.ask(&ask::remove(b"/5")).ok();
        all_is_well(&mut client, "after room was made");
        drop(mounted);
    });
}

#[test]
fn a_disk_that_is_gone_gives_errors_and_no_end() {
    with_private_mounts(|| {
        let dir = program::scratch();
        let (disk, export) = (dir.path().join("disk"), dir.path().join("export"));
        fs::create_dir(&export).unwrap();
        fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
        run("mkfs.ext4", &[&"-q", &"-F", &"-O", &"^has_journal", &disk]);
        run("mount", &[&"-o", &"loop", &disk, &export]);
        for at in 0..40 {
            fs::create_dir(export.join(at.to_string())).unwrap();
            fs::write(export.join(format!("{at}/file")), b"content").unwrap();
        }
        // What is not in memory any more must come from the disk.
        // A process that another test has just started holds copies of this one's descriptors until it executes.
        wait_until("the end of the mount", || umount2(&export, MntFlags::empty()).is_ok());
        run("mount", &[&"-o", &"loop", &disk, &export]);
        let mounted = Mounted(export.clone());
        let (mut running, mut client) = ours(&export).by_fd();
        client.ask(&ask::lstat(b"/1/file")).ok();
        fs::File::options().write(true).open(&disk).unwrap().set_len(0).unwrap();
        run("sh", &[&"-c", &format!("blockdev --flushbufs $(findmnt -no SOURCE {})", export.display())]);
        let errors = (2..40).filter(|at| {
            let answer = client.ask(&ask::lstat(format!("/{at}/file").as_bytes()));
            assert!(matches!(answer, Answer::Data(_) | Answer::Errno(_)), "{answer:?}: {}", running.log());
            answer.errno() == Some(Errno::EIO)
        });
        assert!(errors.count() > 0, "no read from the disk failed");
        client.ask(&ask::lstat(b"/1/file")).ok();
        assert!(running.is_alive());
        drop((client, running, mounted));
    });
}

#[test]
fn a_quota_that_is_used_up_is_the_guests_to_know() {
    with_private_mounts(|| {
        let dir = program::scratch();
        let (disk, export) = (dir.path().join("disk"), dir.path().join("export"));
        fs::create_dir(&export).unwrap();
        fs::File::create(&disk).unwrap().set_len(200 << 20).unwrap();
        run("mkfs.btrfs", &[&"-q", &disk]);
        run("mount", &[&"-o", &"loop", &disk, &export]);
        let mounted = Mounted(export.clone());
        prepare(&export);
        run("btrfs", &[&"quota", &"enable", &export]);
        run("btrfs", &[&"qgroup", &"limit", &"256K", &export]);
        let (running, mut client) = ours(&export).by_fd();
        let file = client.ask(&ask::create(b"/big", O_CREAT | O_RDWR, 0o644, 1000, 1000)).fd();
        let error = fs::File::from(file).write_all(&vec![1; 1 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT));
        for request in [
            ask::symlink(&[b'x'; 3000], b"/new", 1000, 1000),
            ask::setxattr(b"/file", b"user.b", &[7; 1000], 0),
        ] {
            client.ask(&request).fails(Errno::EDQUOT);
        }
        for request in each() {
            let answer = client.ask(&request);
            let told = matches!(
                answer.errno(),
                Some(Errno::EDQUOT | Errno::ENOENT | Errno::ENODATA | Errno::EEXIST)
            );
            assert!(answer.is_success() || told, "{request:?}: {answer:?}: {}", running.log());
        }
        client.ask(&ask::remove(b"/big")).ok();
        run("btrfs", &[&"qgroup", &"limit", &"none", &export]);
        for name in [b"/made".as_slice(), b"/moved", b"/node", b"/dir", b"/symlink", b"/hard"] {
            let _ = client.ask(&ask::remove(name));
        }
        client.ask(&ask::setxattr(b"/file", b"user.b", b"1", 0)).ok();
        all_is_well(&mut client, "after the quota was lifted");
        drop((client, running, mounted));
    });
}

/// Changes a limit of a live process.
fn limit(pid: u32, what: &str) {
    run("prlimit", &[&"--pid", &pid.to_string(), &what]);
}

#[test]
fn a_worker_without_descriptors_says_so_and_goes_on() {
    let dir = program::scratch();
    prepare(dir.path());
    let (running, mut client) = ours(dir.path()).by_fd();
    all_is_well(&mut client, "before");
    leave_no_descriptor(running.pid());
    client.ask(&ask::open(b"/file", O_RDWR)).fails(Errno::EMFILE);
    client.ask(&ask::create(b"/made", O_CREAT | O_RDWR, 0o644, 0, 0)).fails(Errno::EMFILE);
    for request in [
        ask::truncate(b"/file", 7),
        ask::lstat(b"/file"),
        ask::mkdir(b"/dir", 0o755, 5, 5),
        ask::remove(b"/dir"),
    ] {
        client.ask(&request).ok();
    }
    limit(running.pid(), "--nofile=100:");
    all_is_well(&mut client, "after");
}

#[test]
fn serving_takes_no_memory_but_what_is_there() {
    let dir = program::scratch();
    prepare(dir.path());
    let (running, mut client) = ours(dir.path()).by_fd();
    client.ask(&ask::lstat(b"/")).ok();
    // Not a page more than now.
    limit(running.pid(), "--as=4096");
    limit(running.pid(), "--data=4096");
    all_is_well(&mut client, "without memory to be had");
    client.ask(&ask::setxattr(b"/file", b"user.big", &vec![7; 60_000], 0));
    client.ask(&ask::getxattr(b"/file", b"user.big", i32::MAX));
    client.ask(&ask::readlink(b"/link", i32::MAX)).ok();
    all_is_well(&mut client, "after large ones");
}

/// Lets a process open nothing more.
fn leave_no_descriptor(pid: u32) {
    let open = process::descriptors(pid);
    let free = (0..1024).find(|number| !open.contains_key(number)).unwrap();
    limit(pid, &format!("--nofile={free}:"));
}

/// CPU time that a process has used, in clock ticks.
fn cpu_time(pid: u32) -> u64 {
    let text = fs::read_to_string(process::of(pid, "stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_supervisor_without_descriptors_waits_for_better_times() {
    let dir = program::scratch();
    prepare(dir.path());
    let socket = dir.path().join("socket");
    let running = ours(dir.path()).option("--persistent").option("--shared=4").by_socket(&socket);
    let mut first = Client::connect_soon(&socket);
    all_is_well(&mut first, "before");
    leave_no_descriptor(running.pid());
    let mut second = Client::connect_soon(&socket);
    second.patience(Duration::from_secs(2));
    let before = cpu_time(running.pid());
    assert!(matches!(second.ask(&ask::lstat(b"/file")), Answer::Silent));
    let used = cpu_time(running.pid()) - before;
    assert!(used < 50, "{used} ticks of CPU time to wait two seconds");
    all_is_well(&mut first, "meanwhile");
    running.wait_for_log("cannot take a client");
    limit(running.pid(), "--nofile=100:");
    second.patience(PATIENCE);
    second.reply(Form::Response).ok();
    all_is_well(&mut second, "after");
}

#[test]
fn a_supervisor_that_can_not_fork_says_so_and_goes_on() {
    let dir = program::scratch();
    prepare(dir.path());
    let socket = dir.path().join("socket");
    let running = ours(dir.path()).option("--persistent").by_socket(&socket);
    all_is_well(&mut Client::connect_soon(&socket), "before");
    let injector = Injector::attach(running.pid(), "clone,clone3,fork:error=EAGAIN");
    let mut refused = Client::connect_soon(&socket);
    refused.ask(&ask::lstat(b"/file")).closed();
    running.wait_for_log("fork");
    drop(injector);
    all_is_well(&mut Client::connect_soon(&socket), "after");
}

#[test]
fn a_log_daemon_that_does_not_listen_keeps_nobody_waiting() {
    with_private_mounts(|| {
        let dir = program::scratch();
        let export = dir.path().join("export");
        fs::create_dir(&export).unwrap();
        prepare(&export);
        // A system log of our own: what is not read fills it.
        let dev = Mounted::tmpfs(Path::new("/dev"), "mode=755");
        Owned::below(Path::new("/dev")).node("null", rustix::fs::FileType::CharacterDevice, 0x103);
        let log = UnixDatagram::bind("/dev/log").unwrap();
        let options = ["--syslog", "--log-level=trace"];
        let launch = options.iter().fold(ours(&export), Launch::option);
        let (mut running, mut client) = launch.by_fd();
        for _ in 0..100 {
            all_is_well(&mut client, "a full log");
        }
        let mut line = [0; 1000];
        let count = log.recv(&mut line).unwrap();
        let expected = format!("virtfs-proxy-helper[{}]: ", running.pid());
        assert!(String::from_utf8_lossy(&line[..count]).contains(&expected));
        drop(log);
        all_is_well(&mut client, "no log daemon any more");
        drop(client);
        assert_eq!(running.wait().code(), Some(0));
        drop((running, dev));
    });
}

#[test]
fn the_smallest_socket_buffers_carry_the_largest_replies() {
    let dir = program::scratch();
    prepare(dir.path());
    let (near, far) = UnixStream::pair().unwrap();
    for end in [&near, &far] {
        setsockopt(end, sockopt::SndBuf, &1).unwrap();
        setsockopt(end, sockopt::RcvBuf, &1).unwrap();
    }
    let value = vec![7; 60_000];
    let _running = ours(dir.path()).on_descriptor(OwnedFd::from(far));
    let mut client = Client::new(near);
    all_is_well(&mut client, "small buffers");
    if client.ask(&ask::setxattr(b"/file", b"user.big", &value, 0)).is_success() {
        assert_eq!(client.ask(&ask::getxattr(b"/file", b"user.big", 65_000)).string(), Some(&value[..]));
    }
    let target = [b'x'; 4000];
    client.ask(&ask::symlink(&target, b"/long", 0, 0)).ok();
    assert_eq!(client.ask(&ask::readlink(b"/long", 65_000)).string(), Some(&target[..]));
    // Replies and descriptors pile up in a buffer for one.
    let requests = [ask::open(b"/file", O_RDWR), ask::readlink(b"/long", 5000), ask::lstat(b"/file")];
    let writer = client.stream().try_clone().unwrap();
    let bytes: Vec<u8> = requests.iter().flat_map(Request::encode).collect();
    let sender = std::thread::spawn(move || (&writer).write_all(&bytes.repeat(200)).unwrap());
    std::thread::sleep(Duration::from_millis(20));
    for _ in 0..200 {
        for request in &requests {
            client.reply(request.form()).ok();
        }
    }
    sender.join().unwrap();
}

/// Stops a process, and says so when it has stopped.
fn stop(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP).unwrap();
    wait_until("a stopped process", || process::status(pid, "State").starts_with('T'));
}

fn go_on(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT).unwrap();
}

#[test]
fn a_stopped_client_keeps_nobody_else_waiting() {
    let dir = program::scratch();
    prepare(dir.path());
    let socket = dir.path().join("socket");
    let mut running: Running =
        ours(dir.path()).option("--persistent").option("--shared=3").by_socket(&socket);
    let mut other = Client::connect_soon(&socket);
    all_is_well(&mut other, "before");
    // A process that sends all it has and reads nothing, stopped in the middle of a request.
    let requests = dir.path().join("requests");
    fs::write(&requests, ask::lstat(b"/file").encode().repeat(100_000)).unwrap();
    let stream = UnixStream::connect(&socket).unwrap();
    let mut client = Command::new("cat").arg(&requests).stdout(OwnedFd::from(stream)).spawn().unwrap();
    wait_until("a second worker", || process::children(running.pid()).len() == 2);
    stop(client.id());
    all_is_well(&mut other, "a client is stopped");
    // And a worker that is stopped keeps only its own client waiting.
    let mut third = Client::connect_soon(&socket);
    all_is_well(&mut third, "a third one");
    let workers = process::children(running.pid());
    let newest = *workers.iter().max().unwrap();
    stop(newest);
    all_is_well(&mut other, "a worker is stopped");
    go_on(newest);
    all_is_well(&mut third, "it goes on");
    stop(newest);
    running.signal(Signal::SIGTERM);
    wait_until("the supervisor's end", || !running.is_alive());
    assert_eq!(running.wait().code(), Some(0));
    wait_until("the workers' end", || !workers.iter().any(|worker| process::of(*worker, "exe").exists()));
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn an_odd_clock_is_no_clock_to_go_by() {
    let dir = program::scratch();
    prepare(dir.path());
    for offset in ["--monotonic=-1", "--monotonic=3000000000", "--boottime=3000000000"] {
        let launch = ours(dir.path()).under(["unshare", "--time", offset, "--"]);
        let (running, mut client) = launch.by_fd();
        let answer = client.ask(&ask::lstat(b"/file"));
        assert!(answer.is_success(), "{offset}: {answer:?}: {}", running.log());
        all_is_well(&mut client, offset);
    }
    // Times of files are as the guest has them, however odd.
    let (_running, mut client) = ours(dir.path()).by_fd();
    for time in [i64::MIN, -1, 0, 1 << 31, 1 << 33, i64::MAX] {
        client.ask(&ask::utime(b"/file", (time, 0), (time, 999_999_999))).ok();
    }
    client.ask(&ask::utime(b"/file", (0, -1), (0, 0))).fails(Errno::EINVAL);
    client.ask(&ask::utime(b"/file", (0, 0), (0, 1_000_000_000))).fails(Errno::EINVAL);
}
