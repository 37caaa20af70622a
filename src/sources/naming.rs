//! The name that tells a file's format: `vm.sh` for `vm.sh.orig`, `vm.sh~`, `vm.sh.dpkg-old` and `vm.sh.j2`.
//!
//! Package managers, editors, template engines and admins add a suffix to a copy's name. A format is found by the name
//! before it.

#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::format::Document;
use super::launcher::is_language;

/// Extensions that tell a format, and those of documentation, besides the programming languages'.
const EXTENSIONS: &[&str] = &[
    "sh",
    "bash",
    "ksh",
    "zsh",
    "dash",
    "env",
    "cron",
    "crontab",
    "initd",
    "service",
    "socket",
    "timer",
    "target",
    "container",
    "kube",
    "pod",
    "conf",
    "cfg",
    "ini",
    "desktop",
    "yaml",
    "yml",
    "sls",
    "eyaml",
    "json",
    "jsonc",
    "xml",
    "mk",
    "mak",
    "make",
    "dockerfile",
    "containerfile",
    "bb",
    "bbappend",
    "inc",
    "md",
    "markdown",
    "text",
    "rst",
    "log",
    "html",
    "htm",
    "adoc",
    "tex",
    "texi",
    "org",
    "csv",
    "eml",
    "mbox",
    "diff",
    "patch",
    "rej",
    "po",
    "pot",
    "hx",
];

/// Whole names that tell a format.
const NAMES: &[&str] = &[
    ".bashrc",
    ".env",
    ".profile",
    "containerfile",
    "crontab",
    "dockerfile",
    "gnumakefile",
    "makefile",
    "profile",
    "rc.local",
    "xinitrc",
];

/// Extensions of templates: what is before them is the name of the file that is made of it.
const TEMPLATES: &[&str] = &[
    "j2", "jinja", "jinja2", "tmpl", "tpl", "tftpl", "gotmpl", "mustache", "hbs", "template", "in", "erb",
    "epp", "ejs",
];

impl Document<'_> {
    /// The path with the name that tells the format; `None` where the document has no name.
    pub fn telling_path(&self) -> Option<PathBuf> {
        self.path.map(telling)
    }

    /// Whether the name is a template's.
    pub fn is_named_as_template(&self) -> bool {
        let extension = self.path.and_then(Path::extension).and_then(OsStr::to_str).unwrap_or_default();
        TEMPLATES.contains(&extension)
    }
}

/// The path with the name that tells the format: the longest beginning of the file's name that does, or all of it.
fn telling(path: &Path) -> PathBuf {
    let Some(name) = path.file_name().map(OsStrExt::as_bytes) else { return path.to_owned() };
    if [&b".swp"[..], b".swo", b".swn"].iter().any(|suffix| name.ends_with(suffix)) {
        // An editor's own file, in pieces.
        return path.to_owned();
    }
    let plain = without_marks(name);
    let ends = memchr::memrchr_iter(b'.', plain).filter(|at| *at > 0);
    let mut candidates = std::iter::once(plain.len()).chain(ends).filter_map(|end| plain.get(..end));
    let found = candidates.find(|candidate| tells(candidate)).unwrap_or(name);
    path.with_file_name(OsStr::from_bytes(found))
}

/// A name without what editors put around it: `name~`, `name.~1~`, `#name#`.
fn without_marks(name: &[u8]) -> &[u8] {
    let own = name.strip_prefix(b"#").and_then(|rest| rest.strip_suffix(b"#")).unwrap_or(name);
    let own = own.strip_suffix(b"~").unwrap_or(own);
    if own.is_empty() { name } else { own }
}

fn tells(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(tells_format)
}

/// Whether a name tells a format.
pub(super) fn tells_format(name: &str) -> bool {
    if NAMES.contains(&name.to_ascii_lowercase().as_str()) || is_language(name) {
        return true;
    }
    let Some((before, extension)) = name.rsplit_once('.') else { return false };
    let extension = extension.to_ascii_lowercase();
    !before.is_empty() && EXTENSIONS.contains(&extension.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_before_a_copys_suffix_tells_the_format() {
        for (name, expected) in [
            ("vm.sh", "vm.sh"),
            ("vm.sh.orig", "vm.sh"),
            ("vm.sh.orig.2", "vm.sh"),
            ("vm.sh~", "vm.sh"),
            ("vm.sh.~3~", "vm.sh"),
            ("#vm.sh#", "vm.sh"),
            ("vm.sh.1", "vm.sh"),
            ("vm.sh.txt", "vm.sh"),
            ("vm.sh.dpkg-old", "vm.sh"),
            ("vm.sh.1234.2024-01-01@12:00:00~", "vm.sh"),
            ("vm-1.2.sh.bak", "vm-1.2.sh"),
            ("a.service.rpmsave", "a.service"),
            ("main.go.j2", "main.go"),
            ("compose.yml.rpmnew", "compose.yml"),
            ("Makefile.old", "Makefile"),
            ("Dockerfile.save", "Dockerfile"),
            ("Vagrantfile.orig", "Vagrantfile"),
            ("rc.local.bak", "rc.local"),
            (".bashrc.orig", ".bashrc"),
            ("domain.xml.save", "domain.xml"),
            ("guest.save", "guest.save"),
            ("notes.md.orig", "notes.md"),
            ("vm.sh.log", "vm.sh.log"),
            ("vm.conf.md", "vm.conf.md"),
            ("vm.orig", "vm.orig"),
            ("vm", "vm"),
            (".vm.sh.swp", ".vm.sh.swp"),
            ("vm~", "vm~"),
            ("~", "~"),
            ("qemu.1", "qemu.1"),
        ] {
            let path = Path::new("/x").join(name);
            assert_eq!(telling(&path), Path::new("/x").join(expected), "{name}");
        }
    }
}
