//! `fs.protected_regular` (proc_sys_fs(5)): in a sticky directory that others can write to, a create does not open another user's file.
//!
//! The kernel applies this setting to opens with `O_CREAT` only. An existing file is opened here through its pin, without that
//! flag, so the same decision is made here, on the pinned file. `fs.protected_fifos` needs nothing: no FIFO is opened.

use nix::sys::stat::FileStat;

/// The value of `fs.protected_regular`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtectedRegular(u8);

impl ProtectedRegular {
    /// Reads it: call this while `/proc` is in reach. 0 on a kernel without the setting (before 4.19).
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/sys/fs/protected_regular").unwrap_or_default();
        Self(text.trim().parse().unwrap_or(0))
    }

    /// Whether there is anything to decide.
    pub fn is_set(self) -> bool {
        self.0 > 0
    }

    /// Whether the kernel refuses (`EACCES`) that `fsuid` opens the regular file `file` in `directory` with `O_CREAT`.
    pub fn refuses(self, directory: &FileStat, file: &FileStat, fsuid: u32) -> bool {
        let is_own = file.st_uid == directory.st_uid || file.st_uid == fsuid;
        let least = match directory.st_mode {
            mode if mode & libc::S_ISVTX == 0 || is_own => return false,
            mode if mode & libc::S_IWOTH != 0 => 1,
            mode if mode & libc::S_IWGRP != 0 => 2,
            _ => return false,
        };
        self.0 >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mode: u32, uid: u32) -> FileStat {
        // SAFETY: all fields are numbers.
        let mut stat: FileStat = unsafe { std::mem::zeroed() };
        (stat.st_mode, stat.st_uid) = (mode, uid);
        stat
    }

    #[test]
    fn another_users_file_is_refused_in_a_sticky_directory_that_others_can_write_to() {
        // The directory's mode and owner, the file's owner, who creates; the least value that refuses.
        for (mode, owner, file, fsuid, least) in [
            (0o1777, 0, 1001, 1000, Some(1)),
            (0o1777, 0, 1001, 0, Some(1)),
            (0o1757, 0, 1001, 1000, Some(1)),
            (0o1773, 0, 1001, 1000, Some(1)),
            (0o1775, 0, 1001, 1000, Some(2)),
            (0o1770, 0, 1001, 0, Some(2)),
            (0o1755, 0, 1001, 1000, None),
            (0o0777, 0, 1001, 1000, None),
            (0o0775, 0, 1001, 1000, None),
            (0o1777, 0, 1000, 1000, None),
            (0o1777, 0, 0, 1000, None),
            (0o1777, 1001, 1001, 1000, None),
            (0o1777, 1000, 1001, 1000, Some(1)),
            (0o1775, 1001, 1001, 1000, None),
        ] {
            for value in 0..=2 {
                let refuses = ProtectedRegular(value).refuses(&stat(mode, owner), &stat(0o666, file), fsuid);
                let expected = least.is_some_and(|least| value >= least);
                assert_eq!(refuses, expected, "{value}: {mode:o} of {owner}, {file}'s file, {fsuid}");
            }
        }
    }
}
