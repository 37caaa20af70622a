use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::share::view::Trouble;
use crate::sources::format::{Beside, Document, Unreadable};
use crate::sources::systemd::lines::entries;
use crate::sources::systemd::starting;

fn of(text: &str) -> View {
    let setting = |line: &str| {
        let (key, value) = line.split_once('=').unwrap();
        let words = value.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let (section, key) = (b"Service".to_vec(), key.as_bytes().to_vec());
        Setting { section, key, words, place: Place::default() }
    };
    view(
        By::Unit,
        &text.split(';').filter(|line| !line.is_empty()).map(setting).collect::<Vec<_>>(),
        Place::default(),
    )
}

/// The export as QEMU sees it, and what stands against it.
fn seen(text: &str, export: &str, readonly: bool) -> String {
    let view = of(text);
    let seen = view.see(Path::new(export), readonly);
    let troubles = seen.troubles.iter().map(|trouble| match trouble {
        Trouble::Hidden(layer) => format!("hidden: {}", layer.said),
        Trouble::Absent => "absent".to_owned(),
        Trouble::ReadOnly(layer) => format!("read-only: {}", layer.said),
        Trouble::PartHidden(layer) => format!("part hidden: {}", layer.said),
        Trouble::PartReadOnly(layer) => format!("part read-only: {}", layer.said),
    });
    let troubles: Vec<_> = troubles.collect();
    if troubles.is_empty() { format!("ok {}", seen.inside.display()) } else { troubles.join(", ") }
}

#[test]
fn settings_mean_what_systemd_says() {
    for (text, export, expected) in [
        ("", "/srv/x", "ok /srv/x"),
        ("ProtectSystem=strict", "/srv/x", "read-only: ProtectSystem=strict"),
        ("ProtectSystem=strict;ReadWritePaths=/srv/x", "/srv/x", "ok /srv/x"),
        ("ProtectSystem=strict;ReadWritePaths=-/srv", "/srv/x", "ok /srv/x"),
        (
            "ProtectSystem=strict;ReadWritePaths=/srv;ReadWritePaths=",
            "/srv/x",
            "read-only: ProtectSystem=strict",
        ),
        ("ProtectSystem=strict;ReadWritePaths=/srv/y", "/srv/x", "read-only: ProtectSystem=strict"),
        ("ProtectSystem=strict;ReadWritePaths=/", "/srv/x", "read-only: ProtectSystem=strict"),
        ("ProtectSystem=strict;BindPaths=/srv/x", "/srv/x", "ok /srv/x"),
        ("ProtectSystem=strict;StateDirectory=vm", "/var/lib/vm/x", "ok /var/lib/vm/x"),
        ("ProtectSystem=strict;RuntimeDirectory=vm:alias", "/run/vm/x", "ok /run/vm/x"),
        ("ProtectSystem=full", "/srv/x", "ok /srv/x"),
        ("ProtectSystem=full", "/etc/x", "read-only: ProtectSystem=full"),
        ("ProtectSystem=yes", "/usr/share/x", "read-only: ProtectSystem=yes"),
        ("ProtectSystem=strict;ProtectSystem=no", "/srv/x", "ok /srv/x"),
        ("ProtectSystem=strict;ProtectSystem=", "/srv/x", "read-only: ProtectSystem=strict"),
        ("ProtectHome=yes", "/srv/x", "ok /srv/x"),
        ("ProtectHome=true", "/home/a/x", "hidden: ProtectHome=true"),
        ("ProtectHome=yes;BindPaths=/home/a/x", "/home/a/x", "hidden: ProtectHome=yes"),
        ("ProtectHome=tmpfs", "/home/a/x", "hidden: ProtectHome=tmpfs"),
        ("ProtectHome=tmpfs;BindPaths=/home/a", "/home/a/x", "ok /home/a/x"),
        ("ProtectHome=read-only", "/root/x", "read-only: ProtectHome=read-only"),
        ("ProtectHome=read-only;ReadWritePaths=/root/x", "/root/x", "ok /root/x"),
        ("PrivateTmp=yes", "/tmp/x", "hidden: PrivateTmp=yes"),
        ("PrivateTmp=disconnected", "/var/tmp/x", "hidden: PrivateTmp=disconnected"),
        ("PrivateTmp=yes", "/tmpx", "ok /tmpx"),
        ("PrivateTmp=no", "/tmp/x", "ok /tmp/x"),
        ("InaccessiblePaths=/srv", "/srv/x", "hidden: InaccessiblePaths=/srv"),
        ("InaccessibleDirectories=-/srv", "/srv/x", "hidden: InaccessibleDirectories=-/srv"),
        ("InaccessiblePaths=/srv/x/a", "/srv/x", "part hidden: InaccessiblePaths=/srv/x/a"),
        ("ReadOnlyPaths=/srv", "/srv/x", "read-only: ReadOnlyPaths=/srv"),
        ("ReadOnlyPaths=/;ReadWritePaths=/srv", "/srv/x", "ok /srv/x"),
        ("TemporaryFileSystem=/srv:ro", "/srv/x", "hidden: TemporaryFileSystem=/srv:ro"),
        (
            "TemporaryFileSystem=/srv;BindReadOnlyPaths=/srv/x",
            "/srv/x",
            "read-only: BindReadOnlyPaths=/srv/x",
        ),
        ("RootDirectory=/vm", "/srv/x", "absent"),
        ("RootDirectory=/vm", "/vm/x", "ok /x"),
        ("RootDirectory=/", "/srv/x", "ok /srv/x"),
        ("RootDirectory=/vm;BindPaths=/srv:/data", "/srv/x", "ok /data/x"),
        ("RootImage=/vm.raw", "/srv/x", "absent"),
        ("BindPaths=/srv/x:/data", "/srv/x", "ok /srv/x"),
        ("BindPaths=/other:/srv/x", "/srv/x", "hidden: BindPaths=/other:/srv/x"),
        ("DynamicUser=yes", "/srv/x", "read-only: DynamicUser=yes"),
        ("DynamicUser=yes", "/home/x", "read-only: DynamicUser=yes"),
        ("DynamicUser=yes", "/tmp/x", "hidden: DynamicUser=yes"),
        ("DynamicUser=yes;ReadWritePaths=/srv", "/srv/x", "ok /srv/x"),
        ("DynamicUser=yes;ProtectSystem=no", "/srv/x", "read-only: DynamicUser=yes"),
        ("DynamicUser=no", "/srv/x", "ok /srv/x"),
        ("PrivateDevices=yes", "/dev/shm/x", "ok /dev/shm/x"),
        ("PrivateDevices=yes", "/dev/x", "hidden: PrivateDevices=yes"),
    ] {
        assert_eq!(seen(text, export, false), expected, "{text} {export}");
    }
    for (text, expected) in [
        ("ProtectSystem=strict", "ok /srv/x"),
        ("BindReadOnlyPaths=/srv/x", "ok /srv/x"),
        ("InaccessiblePaths=/srv", "hidden: InaccessiblePaths=/srv"),
    ] {
        assert_eq!(seen(text, "/srv/x", true), expected, "{text}");
    }
}

#[test]
fn users_and_confinements_are_told() {
    assert_eq!(of("User=vm").user.as_deref(), Some("vm"));
    assert!(of("User=vm").remarks.is_empty());
    for text in ["DynamicUser=yes", "AppArmorProfile=vm", "SELinuxContext=a:b:c", "RestrictFileSystems=ext4"]
    {
        assert_eq!(of(text).remarks.len(), 1, "{text}");
    }
}

/// The files of one unit.
struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Beside for Files {
    fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.0.iter().find(|(own, _)| own == path).map(|(_, text)| text.clone()))
    }

    fn files(&self, folder: &Path) -> Arc<[PathBuf]> {
        let entry = |path: &PathBuf| Some(folder.join(path.strip_prefix(folder).ok()?.components().next()?));
        let entries: BTreeSet<_> = self.0.iter().filter_map(|(own, _)| entry(own)).collect();
        entries.into_iter().collect()
    }
}

/// The unit of a row of the table: `Key=value; [10-x.conf]; Key=value`.
fn unit_of(row: &str) -> Files {
    let folder = Path::new("/etc/systemd/system");
    let mut files = vec![(folder.join("vm@x.service"), "[Service]\nExecStart=/q\n".to_owned())];
    for line in row.split("; ").filter(|line| *line != "-") {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => files.push((folder.join("vm@.service.d").join(name), "[Service]\n".to_owned())),
            None => files.last_mut().unwrap().1 += &[line, "\n"].concat(),
        }
    }
    Files(files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect())
}

/// The places at which a unit has a directory, `/x=rw,a=hidden /y=ro`: whether it can write, and what it can do with the folder a.
fn places_of(found: &str) -> Vec<(PathBuf, bool, String)> {
    if matches!(found, "hidden" | "fails") {
        return Vec::new();
    }
    let mut places = Vec::new();
    let mut rest = found;
    while let Some(at) = rest.find("=r") {
        let path = rest[..at].trim_start();
        let end = rest[at..].find(" /").map_or(rest.len(), |end| at + end);
        let state = &rest[at + 1..end];
        let part = state.split_once(",a=").map_or("", |(_, part)| part);
        places.push((PathBuf::from(path), state.starts_with("rw"), part.to_owned()));
        rest = &rest[end..];
    }
    places
}

/// Rows in which the model is stricter than the systemd that made the table.
const STRICTER: &[&str] = &[
    // systemd 257 makes what is bound there read-only, as that tmpfs is.
    "ProtectHome=tmpfs; BindPaths=/home",
    // Whether a path is there the model does not know.
    "ReadOnlyPaths=-/srv/x/nowhere",
    // The read-only setting wins over the file system at its path.
    "TemporaryFileSystem=/home; ProtectHome=read-only",
];

#[test]
fn the_model_says_what_systemd_does() {
    let table = include_str!("../../../../tests/golden/systemd-sandbox.tsv");
    let rows: Vec<&str> = table.lines().filter(|row| !row.starts_with('#')).collect();
    assert!(rows.len() > 200);
    let mut wrong = Vec::new();
    for row in rows {
        let [settings, export, found] = row.split('\t').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let files = unit_of(settings);
        let (path, text) = &files.0[0];
        let document = Document { path: Some(path), bytes: text };
        let view = starting::view(&document, &entries(text), Some(&files)).unwrap();
        if settings.contains("SystemCallFilter=") {
            // What the probe needs the calls for is to write.
            let denied = view.remarks.iter().any(|remark| remark.message.contains("system calls"));
            if denied != (found != format!("{export}=rw")) {
                wrong.push(format!("{row}\n    the model: {:?}", view.remarks));
            }
            continue;
        }
        let seen = view.see(Path::new(export), false);
        let places = places_of(found);
        let own = places.iter().find(|(path, ..)| *path == seen.inside);
        let is = |wanted: fn(&Trouble) -> bool| seen.troubles.iter().any(wanted);
        let gone = is(|trouble| matches!(trouble, Trouble::Hidden(_) | Trouble::Absent));
        let locked = is(|trouble| matches!(trouble, Trouble::ReadOnly(_)));
        let part_gone = is(|trouble| matches!(trouble, Trouble::PartHidden(_)));
        let part_locked = is(|trouble| matches!(trouble, Trouble::PartReadOnly(_)));
        let right = match own {
            // A unit that does not start shows nobody anything.
            None if found == "fails" => true,
            None => gone,
            Some((_, writable, part)) => {
                !gone
                    && locked != *writable
                    && part_gone == (part == "hidden")
                    && part_locked == (*writable && part == "ro")
                    // Of several places, one that can be written is taken.
                    && (*writable || places.iter().all(|(_, writable, _)| !writable))
            }
        };
        if right == STRICTER.contains(&settings) {
            wrong.push(format!("{row}\n    the model: {} {:?}", seen.inside.display(), seen.troubles));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
