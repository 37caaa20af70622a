//! A file system of its own in a file, whose power can be cut: what had not reached the file is lost.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system in a file.
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Makes a file system of so many MiB, and mounts it.
    pub fn format(kind: &str, mebibytes: u64, options: &str) -> Self {
        Self::format_with(kind, &[], mebibytes, options)
    }

    /// [`Disk::format`] with further arguments for mkfs.
    pub fn format_with(kind: &str, arguments: &[&str], mebibytes: u64, options: &str) -> Self {
        let disk = Self { folder: folder() };
        fs::File::create(disk.image())
            .and_then(|file| file.set_len(mebibytes << 20))
            .expect("a file for a disk");
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"-q"];
        if kind == "ext4" {
            // Directories list the same names in the same order each time.
            all.extend([&"-E" as &dyn AsRef<OsStr>, &"hash_seed=a1b2c3d4-0000-4000-8000-000000000001"]);
        }
        all.extend(arguments.iter().map(|argument| argument as &dyn AsRef<OsStr>));
        let image = disk.image();
        all.push(&image);
        run(&format!("mkfs.{kind}"), &all);
        disk.mount(options);
        disk
    }

    /// Mounts what is left of a file system on `image`, of which a copy is made.
    pub fn left(image: &Path, options: &str) -> Self {
        let disk = Self { folder: folder() };
        copy(image, &disk.image());
        disk.mount(options);
        disk
    }

    fn mount(&self, options: &str) {
        fs::create_dir(self.root()).expect("a directory");
        run("mount", &[&"-o", &format!("loop,{options}"), &self.image(), &self.root()]);
    }

    /// The file that it is in: what would be there after a power cut.
    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    /// The root of the file system.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Copies what would be there if the power were cut now: the kernel may be writing meanwhile, so that a copy is one
    /// of a moment only if the next one is the same.
    pub fn cut(&self, to: &Path) {
        let again = to.with_extension("again");
        copy(&self.image(), to);
        loop {
            copy(&self.image(), &again);
            if Command::new("cmp").arg("-s").arg(to).arg(&again).status().expect("cmp").success() {
                return fs::remove_file(again).expect("a copy removed");
            }
            fs::rename(&again, to).expect("a copy renamed");
        }
    }

    /// Puts everything on the disk.
    pub fn sync(&self) {
        let root = fs::File::open(self.root()).expect("the root");
        rustix::fs::syncfs(root).expect("everything on the disk");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mounted = Command::new("umount").arg("--lazy").arg(self.root()).status();
        assert!(std::thread::panicking() || mounted.is_ok_and(|status| status.success()), "umount failed");
    }
}

/// In memory where there is a place for that: these tests write much that nobody needs.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
        .expect("a scratch directory")
}

fn copy(from: &Path, to: &Path) {
    run("cp", &[&"--sparse=always", &from, &to]);
}

/// Runs a program, which must succeed.
pub fn run(program: &str, arguments: &[&dyn AsRef<OsStr>]) {
    let output = Command::new(program).args(arguments.iter().map(AsRef::as_ref)).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}
