//! What a conversion costs: ours, and what people would do by hand.
//!
//! `cargo bench --bench convert` makes a tree for every contender in every round and prints a Markdown table of microseconds
//! per entry: elapsed, and of processors (which tells more on a busy machine), peak memory, the journal's bytes per entry, and
//! the medians' ratio to the bare minimum. The contenders of the conversion:
//!
//! - `convert`: ours, with one worker and with all processors
//! - `bare minimum`: open, stat, listxattr, three setxattrs, chown, chmod, close of every entry in a loop; no record of anything
//! - `Python, the same`: what ours does, by os.setxattr: recorded and on stable storage first, by descriptors, times kept
//! - `Python, by paths and without a record`: what one writes first
//! - `shell`: find, getfattr, setfattr --restore, and chown and chmod by xargs; with a record
//!
//! `cargo bench --bench convert -- --sizes 10000,100000,1000000` measures instead ours alone, with all processors, once for
//! each size: elapsed seconds, peak memory, the journal's bytes and the system calls per entry (by strace, another run).
//!
//! Options (after `--`): `--entries N`, `--rounds N`, `--dir DIR` (where the trees are made),
//! `--program FILE` (instead of the one that cargo has built).

#![allow(clippy::expect_used, reason = "a benchmark that cannot go on says where and stops")]
#![allow(clippy::cast_precision_loss, reason = "numbers of entries are small")]

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Parser;
use measure::median;
use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, Uid, XattrFlags};

#[path = "../tests/support/calls.rs"]
mod calls;
#[path = "../tests/support/measure.rs"]
mod measure;

/// Measures what a conversion costs.
#[derive(Debug, Parser)]
struct Options {
    /// Entries of the tree
    #[arg(long, default_value_t = 100_000)]
    entries: usize,
    /// Rounds that are measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure ours alone on trees of so many entries, once each
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Make the trees below this directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The program to measure, instead of the one that cargo has just built
    #[arg(long, default_value = env!("CARGO_BIN_EXE_virtfs-proxy-helper"))]
    program: PathBuf,
    /// Convert this tree with the bare minimum of system calls, and do nothing else
    #[arg(long, hide = true)]
    bare: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// Files of each directory.
const FILES: usize = 20;
/// Entries up to which strace is not too slow.
const MOST_TRACED: usize = 100_000;
/// QEMU's user.
const OWNER: u32 = 64055;

/// The same as a conversion: by descriptors beneath the tree, links never followed; everything recorded and on stable storage
/// first; an entry that is not what was recorded is left alone; times kept; a last look for what appeared meanwhile.
const PYTHON: &str = r#"
import json, os, struct, sys
root = sys.argv[1]
OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
FOLDER = OPEN | os.O_DIRECTORY
def look(st, attributes_of):
    attributes = {name: os.getxattr(attributes_of, name, follow_symlinks=isinstance(attributes_of, int)).hex()
                  for name in os.listxattr(attributes_of, follow_symlinks=isinstance(attributes_of, int))}
    return [st.st_ino, st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_size, st.st_rdev,
            st.st_mtime_ns, st.st_atime_ns, st.st_ctime_ns, attributes]
def entries(folder, path, subfolders):
    with os.scandir(folder) as listed:
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                subfolders.append(path + "/" + entry.name)
            elif entry.is_symlink():
                st = entry.stat(follow_symlinks=False)
                link = f"/proc/self/fd/{folder}/{entry.name}"
                yield entry.name, look(st, link), os.readlink(entry.name, dir_fd=folder)
            else:
                fd = os.open(entry.name, OPEN, dir_fd=folder)
                yield entry.name, look(os.fstat(fd), fd), None
                os.close(fd)
def record():
    folders = ["."]
    with open(root + ".record", "w") as journal:
        while folders:
            path = folders.pop()
            folder = os.open(path, FOLDER, dir_fd=top)
            subfolders = []
            own = look(os.fstat(folder), folder)
            journal.write(json.dumps([path, own, list(entries(folder, path, subfolders)), subfolders]) + "\n")
            folders += subfolders
            os.close(folder)
        journal.flush()
        os.fsync(journal.fileno())
def show(fd, recorded, becomes):
    os.setxattr(fd, "user.virtfs.uid", struct.pack("<I", recorded[2]))
    os.setxattr(fd, "user.virtfs.gid", struct.pack("<I", recorded[3]))
    os.setxattr(fd, "user.virtfs.mode", struct.pack("<I", recorded[1]))
    os.fchown(fd, 64055, 64055)
    os.fchmod(fd, becomes)
def is_same(st, recorded):
    return (st.st_ino, st.st_mode, st.st_ctime_ns) == (recorded[0], recorded[1], recorded[9])
def convert_entry(folder, name, recorded, target):
    if target is None:
        fd = os.open(name, OPEN, dir_fd=folder)
        if is_same(os.fstat(fd), recorded):
            show(fd, recorded, 0o600)
        else:
            print(name, "changed meanwhile")
    else:
        if not is_same(os.stat(name, dir_fd=folder, follow_symlinks=False), recorded):
            return print(name, "changed meanwhile")
        fd = os.open(name + ".staged", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        os.write(fd, os.fsencode(target))
        show(fd, recorded, 0o600)
        os.utime(fd, ns=(recorded[8], recorded[7]))
        os.rename(name + ".staged", name, src_dir_fd=folder, dst_dir_fd=folder)
    os.close(fd)
def convert():
    with open(root + ".record") as journal:
        for line in journal:
            path, own, entries, _ = json.loads(line)
            folder = os.open(path, FOLDER, dir_fd=top)
            if os.fstat(folder).st_ino != own[0]:
                print(path, "changed meanwhile")
                continue
            show(folder, own, 0o700)
            for entry in entries:
                convert_entry(folder, *entry)
            os.utime(folder, ns=(own[8], own[7]))
            os.close(folder)
def sweep():
    with open(root + ".record") as journal:
        for line in journal:
            path, _, entries, subfolders = json.loads(line)
            known = {name for name, _, _ in entries} | {path.rsplit("/", 1)[1] for path in subfolders}
            folder = os.open(path, FOLDER, dir_fd=top)
            for name in os.listdir(folder):
                if name not in known:
                    print(path, name, "appeared meanwhile")
            os.close(folder)
top = os.open(root, FOLDER)
record()
convert()
sweep()
os.sync()
"#;

/// What one writes first: by paths, whoever swaps them meanwhile; no record, no times kept.
const QUICK_PYTHON: &str = r#"
import os, struct, sys
def convert(path):
    st = os.lstat(path)
    mode = st.st_mode
    if mode & 0o170000 == 0o120000:
        target, link, path = os.readlink(path), path, path + ".staged"
        with open(path, "w") as file:
            file.write(target)
    else:
        link = None
    os.setxattr(path, "user.virtfs.uid", struct.pack("<I", st.st_uid))
    os.setxattr(path, "user.virtfs.gid", struct.pack("<I", st.st_gid))
    os.setxattr(path, "user.virtfs.mode", struct.pack("<I", mode))
    os.chown(path, 64055, 64055)
    os.chmod(path, 0o700 if mode & 0o170000 == 0o40000 else 0o600)
    if link:
        os.rename(path, link)
for folder, _, files in os.walk(sys.argv[1]):
    convert(folder)
    for name in files:
        convert(folder + "/" + name)
os.sync()
"#;

/// The same by programs that take many files at once; symbolic links are left as they are.
const SHELL: &str = r##"
set -e
cd "$1"
find . -printf '%i %m %U %G %n %s %T@ %A@ %C@ %l %P\0' >"$1.record"
getfattr -R -P -h -d -m - . >>"$1.record"
sync "$1.record"
find . ! -type l -printf '%y %m %U %G %p\n' | awk '
    function le(n) { return sprintf("0x%02x%02x%02x%02x", n % 256, int(n / 256) % 256, int(n / 65536) % 256, int(n / 16777216)) }
    function octal(s,  n, i) { for (i = 1; i <= length(s); i++) n = n * 8 + substr(s, i, 1); return n }
    {
        mode = octal($2) + ($1 == "d" ? 16384 : 32768)
        printf "# file: %s\nuser.virtfs.uid=%s\nuser.virtfs.gid=%s\nuser.virtfs.mode=%s\n\n", $5, le($3), le($4), le(mode)
    }' | setfattr --restore=-
find . ! -type l -print0 | xargs -0 chown 64055:64055
find . -type f -print0 | xargs -0 chmod 600
find . -type d -print0 | xargs -0 chmod 700
sync -f .
"##;

/// What a check is compared to: all that it looks at, by find and getfattr.
const FIND: &str = "cd \"$1\" && find . -printf '%i %m %U %G %n %s %T@ %y\\n' >/dev/null && getfattr -R -P -h -m - . >/dev/null";

/// What one run took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    processor: f64,
    /// KiB.
    memory: i64,
    /// Bytes.
    journal: u64,
}

fn main() {
    let options = Options::parse();
    if let Some(tree) = &options.bare {
        return bare(tree);
    }
    assert!(rustix::process::geteuid().is_root(), "a conversion changes owners: run this as root");
    let scratch = match &options.dir {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.expect("a scratch directory");
    let tree = scratch.path().join("tree");
    if !options.sizes.is_empty() {
        return sizes(&options, &tree);
    }
    let mut rows: Vec<(String, Vec<Cost>)> = Vec::new();
    for _ in 0..options.rounds {
        round(&options.program, &tree, options.entries, &mut |name, cost| match rows
            .iter_mut()
            .find(|(row, _)| row == name)
        {
            Some((_, costs)) => costs.push(cost),
            None => rows.push((name.into(), vec![cost])),
        });
    }
    print(&rows, options.entries);
}

/// Runs every contender once.
fn round(program: &Path, tree: &Path, entries: usize, note: &mut dyn FnMut(&str, Cost)) {
    let script = |text: &str, name: &str| {
        let mut command = Command::new(name);
        command.args(["-c", text]).args(if name == "sh" { vec!["sh"] } else { vec![] }).arg(tree);
        command
    };
    for jobs in [1, processors()] {
        plant(tree, entries);
        if jobs == 1 {
            note("check by find and getfattr", measure(script(FIND, "sh"), tree));
        } else {
            note("check", measure(ours(program, "check", tree, jobs), tree));
        }
        note(&format!("convert, {jobs} workers"), measure(ours(program, "convert", tree, jobs), tree));
        note(&format!("verify, {jobs} workers"), measure(ours(program, "verify", tree, jobs), tree));
        note(&format!("rollback, {jobs} workers"), measure(ours(program, "rollback", tree, jobs), tree));
        clear(tree);
    }
    let mut itself = Command::new(std::env::current_exe().expect("this program"));
    itself.arg("--bare").arg(tree);
    for (name, command) in [
        ("bare minimum", itself),
        ("Python, the same", script(PYTHON, "python3")),
        ("Python, by paths and without a record", script(QUICK_PYTHON, "python3")),
        ("shell", script(SHELL, "sh")),
    ] {
        plant(tree, entries);
        note(name, measure(command, tree));
        clear(tree);
    }
}

/// What each step costs by the size of the tree.
fn sizes(options: &Options, tree: &Path) {
    let jobs = processors();
    println!(
        "| entries | check s | convert s | verify s | rollback s | peak MiB of convert | of the journal, bytes per entry | \
         system calls of convert per entry |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    for &entries in &options.sizes {
        plant(tree, entries);
        let [check, convert, verify, rollback] = ["check", "convert", "verify", "rollback"]
            .map(|verb| measure(ours(&options.program, verb, tree, jobs), tree));
        clear(tree);
        let calls = if entries > MOST_TRACED {
            String::new()
        } else {
            plant(tree, entries);
            let calls = system_calls(&ours(&options.program, "convert", tree, jobs), tree);
            clear(tree);
            format!("{:.1}", calls as f64 / entries as f64)
        };
        println!(
            "| {entries} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {calls} |",
            check.seconds,
            convert.seconds,
            verify.seconds,
            rollback.seconds,
            convert.memory as f64 / 1024.0,
            convert.journal as f64 / entries as f64,
        );
    }
}

/// How many system calls a command makes.
fn system_calls(command: &Command, tree: &Path) -> u64 {
    let counts = tree.with_file_name("calls");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-U", "calls,name", "-o"]).arg(&counts);
    strace.arg(command.get_program()).args(command.get_args());
    measure(strace, tree);
    calls::total(&fs::read_to_string(&counts).expect("strace's counts"))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn ours(program: &Path, verb: &str, tree: &Path, jobs: usize) -> Command {
    let mut command = Command::new(program);
    command.args(["migrate", verb]).arg(tree);
    match verb {
        "convert" => {
            command.args(["--apply", "--progress=never", "--accept=owner-kept-out", "--owner=64055:64055"])
        }
        "rollback" => command.args(["--apply", "--progress=never"]),
        _ => command.arg("--exit-zero"),
    };
    command.arg(format!("--jobs={jobs}"));
    command
}

/// A tree like those that people share: twenty files to a directory, every twentieth a symbolic link, some owners.
fn plant(tree: &Path, entries: usize) {
    fs::create_dir(tree).expect("the tree");
    let folders = entries / (FILES + 1);
    for number in 0..folders {
        let folder = tree.join(format!("{}/{}/{number}", number % 17, number / 17 % 41));
        fs::create_dir_all(&folder).expect("a directory");
        for file in 1..FILES {
            fs::write(folder.join(format!("document-{file}.txt")), "").expect("a file");
        }
        symlink("document-1.txt", folder.join("latest")).expect("a symbolic link");
        let owner = u32::try_from(1000 + number % 7).expect("an owner");
        std::os::unix::fs::chown(folder.join("document-2.txt"), Some(owner), Some(owner)).expect("an owner");
    }
    let root = File::open(tree).expect("the tree");
    rustix::fs::syncfs(&root).expect("the tree on stable storage");
}

fn clear(tree: &Path) {
    fs::remove_dir_all(tree).expect("the tree removed");
    for entry in fs::read_dir(tree.parent().expect("a folder")).expect("the folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("a journal removed");
    }
}

/// Runs a command to its end.
fn measure(mut command: Command, tree: &Path) -> Cost {
    let start = Instant::now();
    #[allow(clippy::zombie_processes, reason = "it is waited for below, where what it took is told")]
    let child = command.stdout(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    let pid = libc::pid_t::try_from(child.id()).expect("a process's number");
    // SAFETY: the kernel writes to `status` and `usage`, which has room for it, and of which every bit pattern is valid.
    let (waited, usage) = unsafe {
        let waited = libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr());
        (waited, usage.assume_init())
    };
    let seconds = start.elapsed().as_secs_f64();
    assert!(waited == pid && status == 0, "{command:?} ended with {status}");
    let of = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let journal = tree.with_file_name("tree.virtfs-journal").metadata().map_or(0, |file| file.len());
    Cost { seconds, processor: of(usage.ru_utime) + of(usage.ru_stime), memory: usage.ru_maxrss, journal }
}

fn print(rows: &[(String, Vec<Cost>)], entries: usize) {
    let of = |name: &str, value: fn(&Cost) -> f64| {
        rows.iter()
            .find(|(row, _)| row == name)
            .map_or(f64::NAN, |(_, costs)| median(costs.iter().map(value)))
    };
    let base = of("bare minimum", |cost| cost.seconds);
    println!("{entries} entries, medians\n");
    println!("| | µs per entry | ratio | processors' µs | peak MiB | journal bytes per entry |");
    println!("|---|---:|---:|---:|---:|---:|");
    for (name, costs) in rows {
        let middle = |value: fn(&Cost) -> f64| median(costs.iter().map(value));
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} |",
            middle(|cost| cost.seconds) * 1e6 / entries as f64,
            middle(|cost| cost.seconds) / base,
            middle(|cost| cost.processor) * 1e6 / entries as f64,
            middle(|cost| cost.memory as f64) / 1024.0,
            middle(|cost| cost.journal as f64) / entries as f64,
        );
    }
}

/// Converts a tree with the fewest system calls, and no care.
fn bare(tree: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(tree, flags, Mode::empty()).expect("the tree");
    bare_directory(root);
    rustix::fs::sync();
}

fn bare_directory(directory: OwnedFd) {
    bare_inode(&directory, 0o700, None);
    let mut entries = Dir::new(directory).expect("a directory's entries");
    let mut below = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry.expect("an entry");
        let (name, fd) = (entry.file_name(), entries.fd().expect("a directory"));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match entry.file_type() {
            _ if matches!(name.to_bytes(), b"." | b"..") => {}
            FileType::Directory => {
                below.push(rustix::fs::openat(fd, name, flags, Mode::empty()).expect("a directory"));
            }
            FileType::Symlink => {
                let told =
                    rustix::fs::statat(fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("a link");
                let target = rustix::fs::readlinkat(fd, name, Vec::new()).expect("a target");
                let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file =
                    rustix::fs::openat(fd, c".staged", create, Mode::RUSR | Mode::WUSR).expect("a file");
                rustix::io::write(&file, target.to_bytes()).expect("a target written");
                bare_inode(&file, 0o600, Some(told.st_mode));
                rustix::fs::renameat(fd, c".staged", fd, name).expect("a link replaced");
            }
            _ => {
                let file = rustix::fs::openat(fd, name, flags, Mode::empty()).expect("a file");
                bare_inode(file, 0o600, None);
            }
        }
    }
    below.into_iter().for_each(bare_directory);
}

fn bare_inode(fd: impl AsFd, becomes: u32, shown: Option<u32>) {
    let told = rustix::fs::fstat(&fd).expect("an inode");
    let mut names = [0; 512];
    rustix::fs::flistxattr(&fd, &mut names[..]).expect("attributes");
    let mode = shown.unwrap_or(told.st_mode);
    for (name, value) in
        [(c"user.virtfs.uid", told.st_uid), (c"user.virtfs.gid", told.st_gid), (c"user.virtfs.mode", mode)]
    {
        rustix::fs::fsetxattr(&fd, name, &value.to_le_bytes(), XattrFlags::empty())
            .expect("an attribute set");
    }
    rustix::fs::fchown(&fd, Some(Uid::from_raw(OWNER)), Some(Gid::from_raw(OWNER))).expect("an owner");
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(becomes)).expect("a mode");
}
