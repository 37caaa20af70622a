//! What surrounds QEMU: whether it can reach the export where it runs, and what to add.

use std::fs;

use crate::{config, text};

const QEMU: &str = "/usr/bin/qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/n.sock,mount_tag=n";

/// Rewrites the first of `files` in place and gives what it is then, and what was said.
fn in_place(files: &[(&str, &str)], export: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let here = folder.path().to_str().unwrap();
        let content = content.replace("@\n", &format!("{QEMU}\n")).replace("@ ", &format!("{QEMU} "));
        fs::write(&file, content.replace("HERE", here)).unwrap();
    }
    let file = folder.path().join(files[0].0);
    let original = fs::read_to_string(&file).unwrap();
    let plain = config(["--export", &format!("n={export}"), file.to_str().unwrap()], b"");
    let output = config(["--in-place", "--export", &format!("n={export}"), file.to_str().unwrap()], b"");
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Without --in-place the share alone changes.
    for (printed, line) in text(&plain.stdout).lines().zip(original.lines()) {
        assert!(printed == line || line.contains("proxy,"), "{printed}");
    }
    let new = fs::read_to_string(&file).unwrap();
    let here = folder.path().to_str().unwrap();
    (new, text(&output.stderr).replace(&format!("{here}/"), ""))
}

#[test]
fn a_unit_gets_the_line_that_it_lacks() {
    for (unit, export, line, said) in [
        ("ProtectSystem=strict", "/srv/x", "ReadWritePaths=/srv/x\n", "vm.service:2: "),
        ("ReadOnlyPaths=/srv", "/srv/x", "ReadWritePaths=/srv/x\n", "ReadOnlyPaths=/srv"),
        ("TemporaryFileSystem=/srv", "/srv/x", "BindPaths=/srv/x\n", "TemporaryFileSystem=/srv"),
        ("PrivateTmp=true", "/tmp/x", "BindPaths=/tmp/x\n", "PrivateTmp=true"),
        ("ProtectHome=tmpfs", "/home/a", "BindPaths=/home/a\n", "ProtectHome=tmpfs"),
        ("ProtectHome=read-only", "/home/a", "ReadWritePaths=/home/a\n", "ProtectHome=read-only"),
        ("RootDirectory=/vm", "/srv/x", "BindPaths=/srv/x\n", "vm.service:2: "),
        ("DynamicUser=yes", "/srv/x", "ReadWritePaths=/srv/x\n", "User=NAME"),
        ("ProtectHome=yes", "/home/a", "", "write ProtectHome=tmpfs"),
        ("InaccessiblePaths=/srv", "/srv/x", "", "take /srv out of InaccessiblePaths="),
        ("ReadOnlyPaths=/srv/x", "/srv/x", "", "take /srv/x out of that setting"),
        ("BindReadOnlyPaths=/srv/x", "/srv/x", "", "write BindPaths=/srv/x in its place"),
    ] {
        let (new, told) = in_place(&[("vm.service", &format!("[Service]\n{unit}\nExecStart=@\n"))], export);
        let expected = format!("[Service]\n{unit}\n{line}ExecStart=/usr/bin/qemu");
        assert!(new.starts_with(&expected), "{unit}:\n{new}");
        assert!(told.contains(said) && told.contains("vm.service:2"), "{unit}: {told}");
        assert_eq!(told.contains("This change adds"), !line.is_empty(), "{told}");
    }
}

#[test]
fn a_unit_in_which_all_is_well_is_left_alone() {
    for (unit, export) in [
        ("ProtectSystem=strict\nReadWritePaths=/srv", "/srv/x"),
        ("ProtectHome=yes\nPrivateTmp=yes", "/srv/x"),
        ("ProtectSystem=full", "/srv/x"),
        ("TemporaryFileSystem=/srv\nBindPaths=/srv/x", "/srv/x"),
        ("ProtectSystem=strict\nStateDirectory=vm", "/var/lib/vm/share"),
        ("InaccessiblePaths=/srv/xy", "/srv/x"),
    ] {
        let (new, told) = in_place(&[("vm.service", &format!("[Service]\n{unit}\nExecStart=@\n"))], export);
        assert_eq!(new.lines().count(), unit.lines().count() + 2, "{new}");
        assert!(!told.contains("[export-") && !told.contains("[qemu-confined]"), "{unit}: {told}");
    }
    let (_, told) = in_place(&[("vm.service", "[Service]\nProtectSystem=strict\nExecStart=+@\n")], "/srv/x");
    assert!(!told.contains("[export-"), "{told}");
}

#[test]
fn drop_ins_count_with_their_unit() {
    let unit = ("vm.service", "[Service]\nExecStart=@\n");
    let strict = ("vm.service.d/10-hard.conf", "[Service]\nProtectSystem=strict\n");
    let (new, told) = in_place(&[unit, strict], "/srv/x");
    assert!(new.contains("\nReadWritePaths=/srv/x\n"), "{new}");
    assert!(told.contains("vm.service.d/10-hard.conf:2: "), "{told}");
    let open = ("vm.service.d/20-open.conf", "[Service]\nReadWritePaths=/srv/x\n");
    let (_, told) = in_place(&[unit, strict, open], "/srv/x");
    assert!(!told.contains("[export-"), "{told}");
    let reset = ("vm.service.d/30-reset.conf", "[Service]\nProtectSystem=no\n");
    let (_, told) = in_place(&[unit, strict, reset], "/srv/x");
    assert!(!told.contains("[export-"), "{told}");
    // The share in the drop-in, the confinement in the unit; and drop-ins for all services.
    let share = ("vm.service.d/share.conf", "[Service]\nExecStart=\nExecStart=@\n");
    let (new, told) =
        in_place(&[share, ("vm.service", "[Service]\nPrivateTmp=yes\nExecStart=/q\n")], "/tmp/x");
    assert!(new.contains("\nBindPaths=/tmp/x\nExecStart=/usr"), "{new}");
    assert!(told.contains("vm.service:2: "), "{told}");
    let (_, told) = in_place(&[unit, ("service.d/all.conf", "[Service]\nProtectSystem=strict\n")], "/srv/x");
    assert!(told.contains("service.d/all.conf:2"), "{told}");
    let template = ("vm@web.service.d/x.conf", "[Service]\nReadOnlyPaths=/srv\n");
    let (_, told) = in_place(&[template, ("vm@.service", "[Service]\nExecStart=/q\n")], "/srv/x").clone();
    assert!(told.contains("no proxy share"), "{told}");
}

#[test]
fn the_unit_of_a_script_counts_for_it() {
    let script = ("start-vm", "#!/bin/sh\nexec @\n");
    let unit = ("vm.service", "[Service]\nProtectSystem=strict\nExecStart=HERE/start-vm -x\n");
    let (new, told) = in_place(&[script, unit], "/srv/x");
    assert_eq!(new.lines().count(), 2);
    assert!(told.contains("vm.service:2: ") && told.contains("add ReadWritePaths=/srv/x"), "{told}");
    let other = ("vm.service", "[Service]\nProtectSystem=strict\nExecStart=HERE/start-vm-2\n");
    assert!(!in_place(&[script, other], "/srv/x").1.contains("[export-"));
}

#[test]
fn programs_that_confine_qemu_get_the_option() {
    for (line, added) in [
        (
            "systemd-run -p ProtectSystem=strict @",
            "systemd-run -p ReadWritePaths=/srv/x -p ProtectSystem=strict ",
        ),
        (
            "systemd-run --unit=vm --property=ProtectSystem=strict -- @",
            "systemd-run -p ReadWritePaths=/srv/x --unit=vm ",
        ),
        ("systemd-run -pTemporaryFileSystem=/srv @", "systemd-run -p BindPaths=/srv/x -pTemp"),
        ("bwrap --ro-bind / / @", "bwrap --ro-bind / / --bind /srv/x /srv/x /usr/bin/qemu"),
        ("bwrap --bind /usr /usr --tmpfs /srv -- @", "--tmpfs /srv --bind /srv/x /srv/x -- /usr/bin/qemu"),
        ("firejail --read-only=/srv @", "firejail --read-only=/srv --read-write=/srv/x /usr"),
        ("systemd-nspawn -D /vm @", "systemd-nspawn -D /vm --bind=/srv/x /usr"),
    ] {
        let (new, told) = in_place(&[("vm.sh", &format!("#!/bin/sh\n{line}\n"))], "/srv/x");
        assert!(new.contains(added), "{new}\n{told}");
        assert!(told.contains("vm.sh:2: "), "{told}");
    }
    for line in [
        "systemd-run -p ProtectSystem=strict -p ReadWritePaths=/srv @",
        "bwrap --bind / / @",
        "bwrap --ro-bind / / --bind /srv /srv @",
        "systemd-run @",
    ] {
        let (_, told) = in_place(&[("vm.sh", &format!("#!/bin/sh\n{line}\n"))], "/srv/x");
        assert!(!told.contains("[export-"), "{line}: {told}");
    }
    let (new, _) = in_place(&[("vm.sh", "#!/bin/sh\nbwrap --bind /srv/x /share @\n")], "/srv/x");
    assert!(new.contains("path=/share,"), "{new}");
    let (new, _) = in_place(&[("vm.sh", "#!/bin/sh\nchroot /srv @\n")], "/srv/x");
    assert!(new.contains("path=/x,"), "{new}");
    let (_, told) = in_place(&[("vm.sh", "#!/bin/sh\nchroot /vm @\n")], "/srv/x");
    assert!(told.contains("vm.sh:2: ") && told.contains("[export-hidden]"), "{told}");
}

#[test]
fn a_container_gets_the_volume_that_it_lacks() {
    for (line, added) in [
        ("podman run -v /run:/run img @", "podman run -v /run:/run -v /srv/x:/srv/x img /usr"),
        ("docker run --rm -v /srv:/srv:ro img @", "-v /srv:/srv:ro -v /srv/x:/srv/x img /usr"),
        (
            "podman run --tmpfs /srv -v /srv/x:/srv/x img @",
            "podman run --tmpfs /srv -v /srv/x:/srv/x img /usr",
        ),
    ] {
        let (new, _) = in_place(&[("vm.sh", &format!("#!/bin/sh\n{line}\n"))], "/srv/x");
        assert!(new.contains(added), "{new}");
    }
    let (new, told) = in_place(&[("vm.sh", "#!/bin/sh\npodman run -v /srv/x:/data img @\n")], "/srv/x");
    assert!(new.contains("path=/data,") && told.contains("migrate convert /srv/x"), "{new}{told}");
    let (_, told) = in_place(&[("vm.sh", "#!/bin/sh\npodman run -v /srv/x:/data:ro,z img @\n")], "/srv/x");
    assert!(told.contains("vm.sh:2: ") && told.contains("write -v /srv/x:/data in its place"), "{told}");
    let (_, told) = in_place(
        &[("vm.sh", "#!/bin/sh\npodman run --userns=auto --user 7:8 -v /srv/x:/srv/x img @\n")],
        "/srv/x",
    );
    assert!(told.contains("[qemu-confined]") && told.contains("--owner USER"), "{told}");
    let (_, told) = in_place(&[("vm.sh", "#!/bin/sh\npodman run -u 7:8 -v /srv/x:/srv/x img @\n")], "/srv/x");
    assert!(told.contains("--owner 7 ") && !told.contains("[qemu-confined]"), "{told}");
}

const COMPOSE: &str = "services:\n  vm:\n    image: img\n    user: \"7:8\"\n    command: [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\n    volumes:\n      - /run:/run\n";

#[test]
fn compose_quadlets_and_pods_tell_the_volume() {
    let (new, told) = in_place(&[("compose.yml", COMPOSE)], "/srv/x");
    assert!(new.contains("      - /run:/run\n      - /srv/x:/srv/x\n"), "{new}");
    assert!(told.contains("--owner 7 ") && told.contains("compose.yml:3: "), "{told}");
    let (new, told) = in_place(&[("compose.yml", &format!("{COMPOSE}      - /srv:/data\n"))], "/srv/x");
    assert!(new.contains("path=/data/x,") && !told.contains("[export-"), "{new}{told}");
    let ro = "      - type: bind\n        source: /srv\n        target: /srv\n        read_only: true\n";
    let (_, told) = in_place(&[("compose.yml", &format!("{COMPOSE}{ro}"))], "/srv/x");
    assert!(told.contains("compose.yml:10: ") && told.contains("add /srv/x:/srv/x"), "{told}");
    let (new, told) =
        in_place(&[("vm.container", "[Container]\nImage=img\nExec=@\nVolume=/run:/run\n")], "/srv/x");
    assert!(new.contains("Volume=/srv/x:/srv/x\nImage=img\n"), "{new}");
    assert!(told.contains("vm.container:2: "), "{told}");
    let (new, _) = in_place(
        &[("vm.container", "[Container]\nImage=img\nExec=@\nMount=type=bind,src=/srv/x,dst=/data\n")],
        "/srv/x",
    );
    assert!(new.contains("path=/data,"), "{new}");
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - image: img\n    args: [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\n    volumeMounts:\n    - {name: d, mountPath: /data, readOnly: true}\n  volumes:\n  - name: d\n    hostPath: {path: /srv/x}\n";
    let (new, told) = in_place(&[("pod.yaml", pod)], "/srv/x");
    assert!(
        new.contains("path=/data,") && told.contains("pod.yaml:8: ") && told.contains("[export-locked]"),
        "{told}"
    );
    let (_, told) = in_place(&[("pod.yaml", &pod.replace("/srv/x", "/srv/y"))], "/srv/x");
    assert!(told.contains("pod.yaml:5: ") && told.contains("hostPath.path /srv/x"), "{told}");
}

/// A Compose service with what it takes over from others, and with what is in files that are not read.
#[test]
fn compose_services_are_read_with_what_they_take_over() {
    let command = "    command: [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\n";
    let volume = "volumes: [\"/srv/x:/srv/x\"]";
    let all_is_well: &[&str] = &[];
    for (top, service, expected) in [
        ("", "    build: .\n".to_owned(), &["add /srv/x:/srv/x"][..]),
        ("", format!("    build: .\n    {volume}\n"), all_is_well),
        ("", "    extends: base\n".to_owned(), &["add /srv/x:/srv/x"]),
        (
            &format!("  base: {{image: img, user: \"7:8\", {volume}}}\n"),
            "    extends: base\n".to_owned(),
            &["--owner 7 "],
        ),
        (
            &format!("  base: {{image: img, {volume}}}\n"),
            "    extends: {service: base}\n    volumes: [\"/run:/run\"]\n".to_owned(),
            all_is_well,
        ),
        ("  base: {image: img}\n", "    extends:\n      service: base\n".to_owned(), &["add /srv/x:/srv/x"]),
        (
            "",
            "    extends: {file: other.yml, service: base}\n".to_owned(),
            &["takes its other settings from other.yml"],
        ),
        (
            &format!("  one: &one {{{volume}}}\n  two: &two {{image: img}}\n"),
            "    <<: [*one, *two]\n".to_owned(),
            all_is_well,
        ),
        ("", format!("    {volume}\n"), &["another Compose file has this service's image"]),
    ] {
        let file = format!("services:\n{top}  vm:\n{service}{command}");
        let (_, told) = in_place(&[("compose.yml", &file)], "/srv/x");
        assert!(expected.iter().all(|part| told.contains(part)), "{file}{told}");
        let is_told = told.contains("[export-") || told.contains("[qemu-confined]");
        assert_eq!(is_told, expected.iter().any(|part| !part.starts_with("--owner")), "{file}{told}");
    }
    let (_, told) = in_place(
        &[("compose.yaml", COMPOSE), ("compose.override.yaml", "services:\n  vm:\n    user: root\n")],
        "/srv/x",
    );
    assert!(told.contains("Compose takes compose.override.yaml together with this file"), "{told}");
    let (_, told) =
        in_place(&[("compose.yaml", COMPOSE), ("docker-compose.override.yml", "services: {}\n")], "/srv/x");
    assert!(!told.contains("override"), "{told}");
    // An alias takes the arguments from above.
    let file = "x-args: &args [-virtfs, \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\nservices:\n  vm:\n    image: img\n    command: *args\n";
    let (_, told) = in_place(&[("compose.yaml", file)], "/srv/x");
    assert!(told.contains("add /srv/x:/srv/x"), "{told}");
}

#[test]
fn a_required_helper_is_taken_out() {
    let helper =
        ("share.service", "[Service]\nExecStart=/usr/libexec/virtfs-proxy-helper -p /srv/x -s /run/n.sock\n");
    for (requires, left) in [
        ("Requires=share.service", ""),
        ("BindsTo=share.service", ""),
        ("Requires=a.service share.service b.service", "Requires=a.service b.service\n"),
        ("Requires=virtfs-proxy-helper.service", ""),
        ("Wants=share.service", "Wants=share.service\n"),
        ("Requires=network.target", "Requires=network.target\n"),
    ] {
        let unit = format!("[Unit]\n{requires}\nAfter=share.service\n[Service]\nExecStart=@\n");
        let (new, told) = in_place(&[("vm.service", &unit), helper], "/srv/x");
        assert!(new.starts_with(&format!("[Unit]\n{left}After=share.service\n[Service]\n")), "{new}");
        assert_eq!(
            told.contains("vm.service:2: ") && told.contains("[helper-required]"),
            !left.contains(requires),
            "{told}"
        );
    }
    let socket = ("share.socket", "[Socket]\nListenStream=/run/n.sock\n");
    let unit = ("vm.service", "[Unit]\nRequires=share.socket\n[Service]\nExecStart=@\n");
    assert!(in_place(&[unit, socket, helper], "/srv/x").1.contains("[helper-required]"));
    let (_, told) = in_place(&[("compose.yml", &(COMPOSE.to_owned() + "    depends_on: [db]\n"))], "/srv/x");
    assert!(!told.contains("[helper-required]"), "{told}");
    let depends = "services:\n  share:\n    image: virtfs-proxy-helper\n    command: [--path, /srv/x]\n";
    for depends_on in [
        "    depends_on:\n      - share\n",
        "    depends_on: [share]\n",
        "    depends_on:\n      share:\n        condition: service_started\n",
    ] {
        let compose = COMPOSE.replace("services:\n", depends) + depends_on;
        let (new, told) = in_place(&[("compose.yml", &compose)], "/srv/x");
        assert!(told.contains("[helper-required]") && told.contains("compose.yml:1"), "{told}");
        assert!(!new.contains("depends_on"), "{new}");
    }
}

#[test]
fn mapped_shares_need_proc_and_some_system_calls() {
    let unit = |settings: &str| format!("[Service]\n{settings}\nExecStart=@\n");
    let script = |line: &str| format!("#!/bin/sh\n{line}\n");
    for (name, text, told) in [
        (
            "vm.service",
            unit("SystemCallFilter=~@file-system"),
            "vm.service:2: SystemCallFilter=~@file-system denies",
        ),
        ("vm.service", unit("SystemCallFilter=@basic-io @network-io"), "lsetxattr, "),
        (
            "vm.service",
            unit("SystemCallFilter=@system-service\nSystemCallFilter=~lsetxattr"),
            "vm.service:3: ",
        ),
        ("vm.service", unit("SystemCallFilter=@system-service\nSystemCallFilter=~@privileged"), ""),
        ("vm.service", unit("SystemCallFilter=~@privileged @mount"), ""),
        (
            "vm.service",
            unit("RootDirectory=/vm\nBindPaths=/srv/x\nMountAPIVFS=no"),
            "MountAPIVFS=no leaves QEMU without /proc",
        ),
        ("vm.service", unit("RootDirectory=/vm\nBindPaths=/srv/x /proc\nMountAPIVFS=no"), ""),
        ("vm.service", unit("RootDirectory=/vm\nBindPaths=/srv/x"), ""),
        (
            "vm.sh",
            script("systemd-run -p SystemCallFilter=~setxattr -p SystemCallFilter=~lsetxattr @"),
            "vm.sh:2: ",
        ),
        ("vm.sh", script("bwrap --bind /srv /srv --bind /usr /usr @"), "bwrap without --proc"),
        ("vm.sh", script("bwrap --bind /srv /srv --proc /proc @"), ""),
        ("vm.sh", script("bwrap --bind / / @"), ""),
        ("vm.sh", script("chroot /srv @"), "mount /proc at /srv/proc"),
        ("vm.sh", script("@ -chroot /var/empty/x"), "chroot to /var/empty/x leaves"),
        ("vm.sh", script("@ -run-with user=x,chroot=/srv"), "chroot to /srv leaves"),
        ("vm.sh", script("@ -chroot /"), ""),
    ] {
        let (_, said) = in_place(&[(name, &text)], "/srv/x");
        assert_eq!(said.contains("[qemu-confined]"), !told.is_empty(), "{text}: {said}");
        assert!(said.contains(told), "{text}: {said}");
    }
}

#[test]
fn views_inside_views_are_all_looked_through() {
    let strict = "[Service]\nProtectSystem=strict\n";
    for (name, text, told) in [
        // bwrap and podman have their unit's mounts, the daemon of docker has not.
        ("vm.service", format!("{strict}ExecStart=bwrap --bind / / @\n"), "vm.service:2: "),
        ("vm.service", format!("{strict}ReadWritePaths=/srv\nExecStart=bwrap --bind / / @\n"), ""),
        ("vm.service", format!("{strict}ExecStart=podman run -v /srv/x:/srv/x img @\n"), "vm.service:2: "),
        ("vm.service", format!("{strict}ExecStart=docker run -v /srv/x:/srv/x img @\n"), ""),
        ("vm.service", format!("{strict}ExecStart=/bin/sh -c \"exec @ \"\n"), "vm.service:2: "),
        ("vm.sh", "#!/bin/sh\nsystemd-run -p ProtectSystem=strict sh -c '@ '\n".to_owned(), "vm.sh:2: "),
        ("vm.sh", "#!/bin/sh\nbwrap --ro-bind / / sh -c 'exec @ '\n".to_owned(), "vm.sh:2: "),
        ("vm.sh", "#!/bin/sh\npodman run -v /srv/x:/srv/x:O img @\n".to_owned(), "vm.sh:2: "),
        (
            "vm.sh",
            "#!/bin/sh\npodman run -v /srv:/srv --mount type=tmpfs,dst=/srv/x img @\n".to_owned(),
            "shows QEMU no directory that is /srv/x",
        ),
        ("vm.container", "[Container]\nImage=img\nExec=@\nPodmanArgs=-v /srv/x:/srv/x\n".to_owned(), ""),
        (
            "vm.container",
            "[Container]\nImage=img\nExec=@\nVolume=/srv/x:/srv/x\nPodmanArgs=--tmpfs /srv/x/a\n".to_owned(),
            "the tmpfs /srv/x/a",
        ),
    ] {
        let (_, said) = in_place(&[(name, &text)], "/srv/x");
        assert_eq!(said.contains("[export-"), !told.is_empty(), "{text}: {said}");
        assert!(said.contains(told), "{text}: {said}");
    }
    let quadlet = ("vm.container", "[Container]\nImage=img\nExec=@\nVolume=/srv/x:/srv/x\n");
    let drop_in = ("vm.container.d/x.conf", "[Container]\nVolume=/srv/x:/srv/x:ro\n");
    let (_, said) = in_place(&[quadlet, drop_in], "/srv/x");
    assert!(said.contains("[qemu-confined]") && said.contains("vm.container.d/x.conf"), "{said}");
    let pod = "apiVersion: v1\nkind: Pod\nspec:\n  hostUsers: false\n  containers:\n  - image: img\n    args: [\"-virtfs\", \"proxy,id=n,socket=/run/n.sock,mount_tag=n\"]\n    volumeMounts:\n    - {name: d, mountPath: /srv/x}\n  volumes:\n  - name: d\n    hostPath: {path: /srv/x}\n";
    let (_, said) = in_place(&[("pod.yaml", pod)], "/srv/x");
    assert!(said.contains("[qemu-confined]") && said.contains("hostUsers"), "{said}");
}

#[test]
fn what_waits_for_the_helper_is_named() {
    let helper =
        ("share.service", "[Service]\nExecStart=/usr/libexec/virtfs-proxy-helper -p /srv/x -s /run/n.sock\n");
    let unit = ("vm.service", "[Unit]\nConditionPathExists=/run/n.sock\n[Service]\nExecStart=@\n");
    let (_, said) = in_place(&[unit, helper], "/srv/x");
    assert!(said.contains("vm.service:2: this line uses the helper's socket"), "{said}");
    let script = ("vm.sh", "#!/bin/sh\nuntil [ -S /run/n.sock ]; do sleep 1; done\n@\n");
    let (_, said) = in_place(&[script, helper], "/srv/x");
    assert!(said.contains("vm.sh:2: this line uses the helper's socket"), "{said}");
    // To remove the socket harms nobody, and the helper of today needs it.
    for (line, is_named) in [
        ("rm -f /run/n.sock", false),
        ("/bin/rm --force -- '/run/n.sock'", false),
        ("rm /run/n.sock", true),
        ("rm -f /run/n.sock; until [ -S /run/n.sock ]; do sleep 1; done", true),
        ("inotifywait -f /run/n.sock", true),
    ] {
        let (_, said) = in_place(&[("vm.sh", &format!("#!/bin/sh\n{line}\n@\n")), helper], "/srv/x");
        assert_eq!(said.contains("this line uses the helper's socket"), is_named, "{line}: {said}");
    }
    for (line, is_named) in [
        ("ExecStartPre=/bin/rm -f /run/n.sock", false),
        ("ExecStartPre=-/bin/rm /run/n.sock", false),
        ("ExecStartPre=/bin/rm /run/n.sock", true),
    ] {
        let unit = format!("[Service]\n{line}\nExecStart=@\n");
        let (_, said) = in_place(&[("vm.service", &unit), helper], "/srv/x");
        assert_eq!(said.contains("this line uses the helper's socket"), is_named, "{line}: {said}");
    }
    let link = ("vm.service.requires/share.service", helper.1);
    let (_, said) = in_place(&[("vm.service", "[Service]\nExecStart=@\n"), helper, link], "/srv/x");
    assert!(
        said.contains("[helper-required]") && said.contains("vm.service.requires/share.service"),
        "{said}"
    );
}

/// Volumes that are described elsewhere: in the file, in one beside it, or where nobody here knows.
#[test]
fn volumes_are_found_where_they_are_described() {
    let vm = |more: &str| format!("[Container]\nImage=img\nExec=@\nVolume=/run:/run\n{more}");
    let pod = |more: &str| ("vm.pod", format!("[Pod]\n{more}"));
    let compose = |more: &str| format!("{COMPOSE}{more}");
    let volumes_of = |more: &str| format!("{COMPOSE}      - d:/data\nvolumes:\n  d:\n{more}");
    let script = |line: &str| format!("#!/bin/sh\n{line}\n");
    let well: &[&str] = &["path=/data,"];
    let none: (&str, String) = ("other", String::new());
    let not_known = &["path=/srv/x,", "is not known here", "[qemu-confined]"][..];
    let absent = &["path=/srv/x,", "[export-hidden]", "add "][..];
    for (name, file, beside, expected) in [
        ("vm.container", vm("Pod=vm.pod\n"), pod("Volume=/srv/x:/data\n"), well),
        ("vm.container", vm("Pod=vm.pod\n"), pod("PodmanArgs=-v /srv/x:/data\n"), well),
        (
            "vm.container",
            vm("Pod=vm.pod\n"),
            pod("Volume=/srv/x:/data:ro\n"),
            &["path=/data,", "[export-locked]"],
        ),
        ("vm.container", vm("Pod=vm.pod\n"), pod("Volume=/srv/y:/data\n"), absent),
        (
            "vm.container",
            vm("Pod=vm.pod\n"),
            pod("Volume=/srv/x:/data\nUserNS=auto\n"),
            &["path=/data,", "[qemu-confined]"],
        ),
        ("vm.container", vm("Pod=vm.pod\n"), none.clone(), not_known),
        ("vm.container", vm("PodmanArgs=--volumes-from other\n"), none.clone(), not_known),
        (
            "vm.container",
            vm("Volume=d.volume:/data\n"),
            ("d.volume", "[Volume]\nDevice=/srv/x\nOptions=bind\nType=none\n".to_owned()),
            well,
        ),
        (
            "vm.container",
            vm("Volume=d.volume:/data\n"),
            ("d.volume", "[Volume]\nDevice=/srv/x\nOptions=ro,bind\n".to_owned()),
            &["path=/data,", "[export-locked]"],
        ),
        (
            "vm.container",
            vm("Volume=d.volume:/data\n"),
            ("d.volume", "[Volume]\nLabel=a=b\n".to_owned()),
            absent,
        ),
        ("vm.container", vm("Volume=d.volume:/data\n"), none.clone(), not_known),
        (
            "compose.yml",
            volumes_of("    driver_opts: {type: none, o: bind, device: /srv/x}\n"),
            none.clone(),
            well,
        ),
        (
            "compose.yml",
            volumes_of("    driver_opts: {type: none, o: \"bind,ro\", device: /srv/x}\n"),
            none.clone(),
            &["path=/data,", "[export-locked]"],
        ),
        (
            "compose.yml",
            volumes_of("    driver_opts: {type: none, o: bind, device: \"${D}\"}\n"),
            none.clone(),
            not_known,
        ),
        ("compose.yml", volumes_of("    external: true\n"), none.clone(), not_known),
        ("compose.yml", volumes_of("    labels: [a]\n"), none.clone(), absent),
        (
            "compose.yml",
            compose(
                "    volumes_from: [a]\n  a: {image: i, volumes_from: [b]}\n  b: {image: i, volumes: [\"/srv/x:/data\"]}\n",
            ),
            none.clone(),
            well,
        ),
        (
            "compose.yml",
            compose("    volumes_from: [\"a:ro\"]\n  a: {image: i, volumes: [\"/srv/x:/data\"]}\n"),
            none.clone(),
            &["path=/data,", "[export-locked]"],
        ),
        (
            "compose.yml",
            compose("    volumes_from: [a]\n  a: {image: i, volumes_from: [vm]}\n"),
            none.clone(),
            not_known,
        ),
        ("compose.yml", compose("    volumes_from: [\"container:a\"]\n"), none.clone(), not_known),
        ("vm.sh", script("docker run --volumes-from b i @"), none.clone(), not_known),
        ("vm.sh", script("podman run --pod p i @"), none.clone(), not_known),
        ("vm.sh", script("podman run -v $D:/data i @"), none.clone(), not_known),
    ] {
        assert_volumes(name, &file, (beside.0, &beside.1), expected);
    }
}

/// What is said where these files surround QEMU: `expected` is the path, and what else there is.
fn assert_volumes(name: &str, file: &str, beside: (&str, &str), expected: &[&str]) {
    let (new, told) = in_place(&[(name, file), beside], "/srv/x");
    for part in expected {
        assert!(new.contains(part) || told.contains(part), "{part}:\n{file}{new}{told}");
    }
    let is_told = told.contains("[export-") || told.contains("[qemu-confined]");
    assert_eq!(is_told, expected.len() > 1, "{file}{told}");
    // What is not known is no reason to add a volume.
    let adds = expected.contains(&"[export-hidden]");
    assert_eq!(told.contains("This change adds"), adds, "{file}{told}");
}

/// A script starts the container, or makes the pod, whose volumes QEMU's container has.
#[test]
fn volumes_of_a_scripts_other_containers_are_found() {
    let well: &[&str] = &["path=/data,"];
    let not_known = &["path=/srv/x,", "is not known here", "[qemu-confined]"][..];
    let absent = &["path=/srv/x,", "[export-hidden]", "add "][..];
    let locked = &["path=/data,", "[export-locked]"][..];
    for (lines, expected) in [
        ("podman create --name b -v /srv/x:/data i\npodman run -v /run:/run --volumes-from b i @", well),
        ("docker run -d --name=\"$B\" -v /srv/x:/data i\ndocker run --volumes-from \"$B\":ro i @", locked),
        (
            "podman run --name a -v /srv/x:/data i\npodman run --name b --volumes-from a i\npodman run --volumes-from b i @",
            well,
        ),
        ("podman run --name b -v /srv/y:/data i\npodman run --volumes-from b i @", absent),
        // Two of one name: it is not known which one counts.
        (
            "podman run --name b -v /srv/x:/data i\npodman run --name b -v /srv/y:/data i\npodman run --volumes-from b i @",
            not_known,
        ),
        ("podman run --name b --volumes-from b i\npodman run --volumes-from b i @", not_known),
        ("podman pod create --infra --name p -v /srv/x:/data\npodman run --pod p i @", well),
        ("podman pod create -v /srv/x:/data --pod-id-file /run/p\npodman run --pod-id-file /run/p i @", well),
        (
            "podman pod create --userns auto -v /srv/x:/data p\npodman run --pod p i @",
            &["path=/data,", "[qemu-confined]"],
        ),
        ("podman pod create --name q -v /srv/x:/data\npodman run --pod p i @", not_known),
        ("podman run --pod new:p -v /run:/run -v /srv/x:/data i @", well),
        ("podman run -d --pod new:p i\npodman run --pod p -v /srv/x:/data i @", well),
    ] {
        assert_volumes("vm.sh", &format!("#!/bin/sh\n{lines}\n"), ("other", ""), expected);
    }
}

/// What changes the owner of files, or what QEMU's user is on the host.
#[test]
fn other_users_around_qemu_are_told() {
    const CHOWNED: &str = "podman changes the owner of every file";
    const ONE: &str = "to the host it is the user that starts it";
    const MANY: &str = "the ids of its users are other ids on the host";
    for (name, file, expected) in [
        ("vm.sh", "podman run -v /srv/x:/data:z,U i @\n", Some(CHOWNED)),
        ("vm.sh", "podman run --mount type=bind,src=/srv,dst=/srv,U=true i @\n", Some(CHOWNED)),
        ("vm.sh", "podman run -v /run:/run:U -v /srv/x:/srv/x i @\n", None),
        ("vm.container", "[Container]\nImage=i\nExec=@\nVolume=/srv/x:/srv/x:U\n", Some(CHOWNED)),
        ("vm.sh", "unshare -U @\n", Some(ONE)),
        ("vm.sh", "unshare -mr --fork @\n", Some(ONE)),
        ("vm.sh", "exec unshare --map-user=1000 -- @\n", Some(ONE)),
        ("vm.sh", "unshare --map-auto -r @\n", Some(MANY)),
        ("vm.sh", "podman unshare @\n", Some(MANY)),
        ("vm.sh", "unshare -r sh -c '@'\n", Some(ONE)),
        ("vm.sh", "unshare -m @\n", None),
        ("vm.sh", "unshare -m -S 7 -R /root su -c '@'\n", None),
        ("vm.sh", "systemd-nspawn -U -D / @\n", Some(MANY)),
        ("vm.sh", "systemd-nspawn --private-users=no -D / @\n", None),
        ("vm.service", "[Service]\nExecStart=unshare -r @\n", Some(ONE)),
    ] {
        let file = if name == "vm.sh" { format!("#!/bin/sh\n{file}") } else { file.to_owned() };
        let file = file.replace("@'", &format!("{QEMU}'"));
        let (_, told) = in_place(&[(name, &file)], "/srv/x");
        assert_eq!(told.contains("[qemu-confined]"), expected.is_some(), "{file}{told}");
        assert!(told.contains(expected.unwrap_or_default()), "{file}{told}");
    }
}
