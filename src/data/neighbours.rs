//! Who else on this host is configured to use an export: NFS and Samba servers, bind mounts, units, containers, other guests, also
//! those that scripts start, web servers, backup jobs.
//!
//! Over the proxy the host's files had real owners. Once they are converted they belong to QEMU's user, and whoever else was
//! configured to use them can't. What is found here is found by its path alone, in the files where such things are configured.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;

/// A line of a configuration file that names the export, something in it or a directory around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mention {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What is configured there.
    pub what: &'static str,
    /// The path that is named.
    pub path: PathBuf,
}

/// Where things are configured that use directories.
struct Source {
    /// A file, or a directory that is looked through.
    path: &'static str,
    /// How names of files end there, of which the others are left out.
    suffixes: &'static [&'static str],
    what: &'static str,
    /// Whether naming a directory around the export means all that is in it.
    whole: bool,
    /// How deep a directory is looked through.
    depth: usize,
}

impl Source {
    /// Whether the name of a file is one of those.
    fn means(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().as_bytes();
        self.suffixes.is_empty() || self.suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
    }
}

const fn source(
    path: &'static str,
    suffixes: &'static [&'static str],
    what: &'static str,
    whole: bool,
) -> Source {
    Source { path, suffixes, what, whole, depth: DEPTH }
}

/// A [`source`] that is looked through to this depth: people keep other things there, too.
const fn shallow(
    path: &'static str,
    suffixes: &'static [&'static str],
    what: &'static str,
    whole: bool,
    depth: usize,
) -> Source {
    Source { path, suffixes, what, whole, depth }
}

const UNITS: &[&str] = &[".service", ".mount", ".automount", ".path", ".timer", ".socket", ".conf"];
const QUADLETS: &[&str] = &[".container", ".volume", ".pod", ".kube", ".yml", ".yaml"];

/// How the files of Compose are called, also behind a project's name.
const COMPOSE: &[&str] = &["compose.yaml", "compose.yml"];
/// What an instance of LXD or Incus is written down in beside its root.
const INSTANCE: &[&str] = &["backup.yaml"];

/// All of them.
const SOURCES: [Source; 40] = [
    source("etc/exports", &[], "an NFS export", true),
    source("etc/exports.d", &[".exports"], "an NFS export", true),
    source("etc/samba", &[".conf"], "a Samba share", true),
    source("etc/fstab", &[], "a mount", false),
    source("etc/systemd/system", UNITS, "a systemd unit", false),
    source("run/systemd/system", UNITS, "a systemd unit", false),
    source("usr/lib/systemd/system", UNITS, "a systemd unit", false),
    source("etc/containers/systemd", QUADLETS, "a container", true),
    source("var/lib/docker/containers", &["config.v2.json", "hostconfig.json"], "a Docker container", true),
    source("var/lib/containers/storage/overlay-containers", &["config.json"], "a Podman container", true),
    source("etc/libvirt/qemu", &[".xml"], "another share of a guest of libvirt's", true),
    source("etc/pve/qemu-server", &[".conf"], "another share of a guest of Proxmox's", true),
    source("etc/pve/lxc", &[".conf"], "a container of Proxmox's", true),
    source("etc/nginx", &[], "a web server", false),
    source("etc/apache2", &[".conf", ".load"], "a web server", false),
    source("etc/httpd", &[".conf"], "a web server", false),
    source("etc/rsyncd.conf", &[], "an rsync module", true),
    source("etc/vsftpd.conf", &[], "an FTP server", true),
    source("etc/crontab", &[], "a cron job", false),
    source("etc/cron.d", &[], "a cron job", false),
    source("var/spool/cron", &[], "a cron job", false),
    source("etc/borgmatic", &[".yaml", ".yml"], "a backup job", true),
    shallow("var/lib/incus/containers", INSTANCE, "a container of Incus's", true, 2),
    shallow("var/lib/incus/virtual-machines", INSTANCE, "a guest of Incus's", true, 2),
    shallow("var/lib/lxd/containers", INSTANCE, "a container of LXD's", true, 2),
    shallow("var/lib/lxd/virtual-machines", INSTANCE, "a guest of LXD's", true, 2),
    shallow("var/snap/lxd/common/lxd/containers", INSTANCE, "a container of LXD's", true, 2),
    shallow("var/snap/lxd/common/lxd/virtual-machines", INSTANCE, "a guest of LXD's", true, 2),
    shallow("var/lib/lxc", &["config"], "a container of LXC's", true, 2),
    shallow("opt", COMPOSE, "a Compose service", true, 2),
    shallow("srv", COMPOSE, "a Compose service", true, 2),
    shallow("root", COMPOSE, "a Compose service", true, 2),
    shallow("home", COMPOSE, "a Compose service", true, 3),
    shallow("etc/docker", COMPOSE, "a Compose service", true, 3),
    shallow("usr/local/bin", &[], "a program or script", false, 1),
    shallow("usr/local/sbin", &[], "a program or script", false, 1),
    shallow("etc/qemu", &[], "a guest's configuration", true, 2),
    shallow("etc/conf.d", &[], "a service", false, 1),
    shallow("etc/default", &[], "a service", false, 1),
    shallow("etc/init.d", &[], "a service", false, 1),
];

/// Words of lines that share a directory with a guest: naming a directory around the export means all that is in it.
const SHARES: [&[u8]; 4] = [b"virtfs", b"fsdev", b"virtiofsd", b"shared-dir"];

/// How many lines are told.
const TOLD: usize = 50;
/// How deep directories are looked through.
const DEPTH: usize = 4;
/// How many bytes of a file are read.
const LONGEST: u64 = 1 << 20;

/// The lines of the files below `root` (`/`, but for tests) that name `export`, which is free of symbolic links.
pub(crate) fn mentions(root: &Path, export: &Path) -> Vec<Mention> {
    let mut found = Vec::new();
    // Each path that is the export, in it or around it has the export's first name in it.
    let first = export.components().nth(1).map_or(OsStr::new(""), Component::as_os_str);
    let first = memmem::Finder::new(first.as_bytes());
    for source in &SOURCES {
        let path = root.join(source.path);
        look(&path, source, source.depth, export, &mut |file, text| {
            // A file may be named by several ways.
            if first.find(text).is_none() || found.iter().any(|mention: &Mention| mention.file == file) {
                return;
            }
            for (number, line) in (1..).zip(text.split(|&byte| byte == b'\n')) {
                if first.find(line).is_none() {
                    continue;
                }
                let Some(path) = named(line, export, source.whole) else { continue };
                if found.len() < TOLD {
                    found.push(Mention { file: file.to_path_buf(), line: number, what: source.what, path });
                }
            }
        });
    }
    found
}

fn look(path: &Path, source: &Source, depth: usize, export: &Path, met: &mut dyn FnMut(&Path, &[u8])) {
    // What is in the export configures nothing on the host.
    if path.starts_with(export) {
        return;
    }
    let Ok(metadata) = path.metadata() else { return };
    if metadata.is_dir() && depth > 0 {
        let Ok(entries) = fs::read_dir(path) else { return };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        // The last names are all files'.
        for path in paths.into_iter().filter(|path| depth > 1 || source.means(path)) {
            look(&path, source, depth - 1, export, met);
        }
        return;
    }
    if !metadata.is_file() || !source.means(path) {
        return;
    }
    let mut text = Vec::new();
    if File::open(path).is_ok_and(|file| file.take(LONGEST).read_to_end(&mut text).is_ok()) {
        met(path, &text);
    }
}

/// The path in a line that is the export, in it or (with `whole`) around it.
fn named(line: &[u8], export: &Path, whole: bool) -> Option<PathBuf> {
    let line = line.trim_ascii_start();
    // The helper serves the share itself, which is another finding.
    let is_helper = memmem::find(line, b"virtfs-proxy-helper").is_some();
    if line.starts_with(b"#") || line.starts_with(b";") || is_helper {
        return None;
    }
    let is_share = SHARES.iter().any(|word| memmem::find(line, word).is_some());
    let whole = whole || is_share;
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || b"\"'`,:;=<>()[]{}|&$*?".contains(byte);
    line.split(is_end).filter(|word| word.first() == Some(&b'/')).find_map(|word| {
        let path: PathBuf = Path::new(OsStr::from_bytes(word)).components().collect();
        let is_around = whole && path.components().count() > 1 && export.starts_with(&path);
        (path.starts_with(export) || is_around).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_name_an_export_by_whole_components() {
        for (line, whole, expected) in [
            ("/srv/share *(rw)", true, Some("/srv/share")),
            ("/srv  *(rw)", true, Some("/srv")),
            ("/srv  *(rw)", false, None),
            ("/ *(ro)", true, None),
            ("/srv/shareother *(rw)", true, None),
            ("   path = /srv/share/", true, Some("/srv/share")),
            ("# /srv/share *(rw)", true, None),
            ("; path = /srv/share", true, None),
            ("  <source dir='/srv/share/sub'/>", true, Some("/srv/share/sub")),
            ("Volume=/srv/share:/data:Z", true, Some("/srv/share")),
            ("/srv/share /mnt none bind 0 0", false, Some("/srv/share")),
            ("ExecStart=/usr/bin/tar -C /srv/share -cf /backup.tar .", false, Some("/srv/share")),
            ("ExecStart=/usr/bin/virtfs-proxy-helper -p /srv/share", false, None),
            (r#""Binds":["/srv/share:/data"]"#, true, Some("/srv/share")),
            // Shares of a directory around the export, in scripts.
            (
                "qemu-system-x86_64 -virtfs local,path=/srv,mount_tag=s,security_model=none",
                false,
                Some("/srv"),
            ),
            (
                "  -fsdev local,id=f,path=/srv/share/sub,security_model=mapped \\",
                false,
                Some("/srv/share/sub"),
            ),
            ("/usr/libexec/virtiofsd --shared-dir=/srv --socket-path=/run/s", false, Some("/srv")),
            ("virtiofsd --shared-dir /srv/other", false, None),
            ("      - /srv/share:/data:ro", true, Some("/srv/share")),
            ("    source: /srv/share", true, Some("/srv/share")),
            ("lxc.mount.entry = /srv/share data none bind 0 0", true, Some("/srv/share")),
        ] {
            let found = named(line.as_bytes(), Path::new("/srv/share"), whole);
            assert_eq!(found.as_deref(), expected.map(Path::new), "{line}");
        }
    }

    #[test]
    fn files_below_a_root_are_looked_through() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("etc/exports", "# comment\n/srv/share host(rw)\n");
        write("etc/samba/smb.conf", "[global]\n[share]\n\tpath = /srv\n");
        write("etc/systemd/system/backup.service.d/more.conf", "[Service]\nReadOnlyPaths=/srv/share\n");
        write("etc/systemd/system/backup.txt", "/srv/share\n");
        write("opt/app/docker-compose.yml", "services:\n  a:\n    volumes:\n      - /srv/share:/data\n");
        write("opt/app/other.yml", "/srv/share\n");
        write("var/lib/incus/containers/c/backup.yaml", "devices:\n  d:\n    source: /srv\n    type: disk\n");
        write("var/lib/incus/containers/c/rootfs/backup.yaml", "source: /srv\n");
        write("usr/local/bin/start-vm", "#!/bin/sh\nqemu -virtfs local,path=/srv,mount_tag=x\n");
        write("etc/libvirt/qemu/other.xml", "<domain>\n<source dir='/srv/share'/>\n</domain>\n");
        let found = mentions(root.path(), Path::new("/srv/share"));
        let found: Vec<_> = found
            .iter()
            .map(|of| (of.file.strip_prefix(root.path()).unwrap().to_str().unwrap(), of.line, of.what))
            .collect();
        assert_eq!(
            found,
            [
                ("etc/exports", 2, "an NFS export"),
                ("etc/samba/smb.conf", 3, "a Samba share"),
                ("etc/systemd/system/backup.service.d/more.conf", 2, "a systemd unit"),
                ("etc/libvirt/qemu/other.xml", 2, "another share of a guest of libvirt's"),
                ("var/lib/incus/containers/c/backup.yaml", 3, "a container of Incus's"),
                ("opt/app/docker-compose.yml", 4, "a Compose service"),
                ("usr/local/bin/start-vm", 2, "a program or script"),
            ]
        );
    }

    proptest! {
        #[test]
        fn lines_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = named(&bytes, Path::new("/srv/share"), true);
        }
    }
}
