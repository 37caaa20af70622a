//! The virtiofsd programs that there are, and how each spells its options.

use std::path::{Path, PathBuf};

/// A virtiofsd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// Where it is.
    pub program: PathBuf,
    /// Whether it is QEMU's own, in C, which was part of QEMU up to 7.2: it takes `-o source=DIR`.
    pub of_qemu: bool,
}

/// Where distributions have it: Debian 13, Fedora, openSUSE; Arch; QEMU's own, in Debian and Ubuntu.
const PLACES: [&str; 3] = ["/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// An option that only the later program has, in Rust.
const OF_RUST: &[u8] = b"shared-dir";

impl Default for Daemon {
    /// The program of today, where most distributions have it.
    fn default() -> Self {
        Self { program: PLACES[0].into(), of_qemu: false }
    }
}

impl Daemon {
    /// The one below `root`, this machine's `/`; the default where there is none.
    pub(crate) fn installed(root: &Path) -> Self {
        let found = PLACES.iter().find_map(|place| {
            let bytes = std::fs::read(root.join(place.trim_start_matches('/'))).ok()?;
            let of_qemu = memchr::memmem::find(&bytes, OF_RUST).is_none();
            Some(Self { program: place.into(), of_qemu })
        });
        found.unwrap_or_default()
    }

    /// For people: which program it is.
    pub(crate) fn told(&self) -> String {
        let kind =
            if self.of_qemu { "QEMU's own virtiofsd (QEMU 7.2 and older)" } else { "virtiofsd in Rust" };
        format!("{kind}, {}", self.program.display())
    }

    /// The options by which it serves `path`, a word of the unit's.
    pub(super) fn options(&self, path: &str) -> String {
        if self.of_qemu {
            format!("-o source={path} -o sandbox=namespace -o xattr -o posix_acl -o announce_submounts")
        } else {
            format!("--shared-dir={path} --sandbox=namespace --xattr --posix-acl --announce-submounts")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_at_hand_is_told_by_its_options() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Daemon::installed(root.path()), Daemon::default());
        let put = |place: &str, content: &str| {
            let file = root.path().join(place);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        };
        put("usr/lib/qemu/virtiofsd", "\x7fELF -o source=PATH    shared directory tree");
        let c = Daemon::installed(root.path());
        assert!(c.of_qemu && c.told().contains("/usr/lib/qemu/virtiofsd"));
        assert!(c.options("/srv").starts_with("-o source=/srv "));
        put("usr/libexec/virtiofsd", "\x7fELF --shared-dir");
        assert_eq!(Daemon::installed(root.path()), Daemon::default());
    }
}
