use std::path::Path;

use super::*;
use crate::share::view::Trouble;

fn of(text: &str) -> View {
    let setting = |line: &str| {
        let (key, value) = line.split_once('=').unwrap();
        let words = value.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        Setting { key: key.as_bytes().to_vec(), words, place: Place::default() }
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
        ("ProtectSystem=strict;ProtectSystem=", "/srv/x", "ok /srv/x"),
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
        ("PrivateDevices=yes", "/dev/shm/x", "hidden: PrivateDevices=yes"),
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
