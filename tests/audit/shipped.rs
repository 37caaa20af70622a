//! What this repository ships and prints is found by its own audit.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::run::{audit, write};

fn shipped(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file).to_str().unwrap().to_owned()
}

/// The helpers in a file, as (export, socket).
fn helpers(file: &str) -> Vec<(Option<String>, Option<String>)> {
    let found = audit([file]);
    assert_eq!(found.status, 3, "{file}: {:#}", found.document);
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    found.list("helpers").iter().map(|row| (text(&row["export"]), text(&row["socket"]))).collect()
}

#[test]
fn every_shipped_description_of_a_sidecar_is_found() {
    for (file, export, socket) in [
        ("scripts/sidecar/compose.yaml", None, "${SOCKET_DIR:-/run/virtfs}/helper.sock"),
        ("scripts/sidecar/pod.yaml", None, "socket/helper.sock"),
        ("scripts/sidecar/pod-podman.yaml", Some("/srv/guest"), "socket/helper.sock"),
        ("scripts/sidecar/virtfs-proxy-helper.container", Some("/srv/guest"), "/run/virtfs/helper.sock"),
    ] {
        let expected = (export.map(str::to_owned), Some(socket.to_owned()));
        assert_eq!(helpers(&shipped(file)), [expected], "{file}");
    }
    let pod = audit([shipped("scripts/sidecar/pod-podman.yaml")]);
    assert_eq!(
        pod.share("share")["export"],
        "/srv/guest",
        "QEMU's container and the helper's share a volume"
    );
}

#[test]
fn what_run_sidecar_prints_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (export, sockets) = (dir.path().join("export"), dir.path().join("sockets"));
    fs::create_dir(&export).unwrap();
    fs::create_dir(&sockets).unwrap();
    for (engine, options) in [("podman", &["--readonly"][..]), ("docker", &["--privileged"])] {
        let output = Command::new(shipped("scripts/run-sidecar"))
            .args(["--print", "--engine", engine, "--uid", "107", "--gid", "107"])
            .args(options)
            .args([&export, &sockets])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let script = dir.path().join("start.sh");
        fs::write(&script, &output.stdout).unwrap();
        let found = helpers(script.to_str().unwrap());
        let socket = sockets.join("helper.sock").to_str().unwrap().to_owned();
        assert_eq!(found, [(Some(export.to_str().unwrap().to_owned()), Some(socket))], "{engine}");
    }
}

/// The same sidecar in each format; QEMU's container has the socket under another name.
#[test]
fn containers_are_joined_through_the_volume_that_both_mount() {
    let dir = tempfile::tempdir().unwrap();
    let qemu = "-fsdev\", \"proxy,id=s,socket=/sockets/helper.sock\", \"-device\", \"virtio-9p-pci,fsdev=s,mount_tag=s";
    for (name, text) in [
        (
            "compose.yaml",
            format!(
                "services:\n  helper:\n    image: example.org/virtfs-proxy-helper@sha256:0\n    environment: [VIRTFS_UID=1]\n    \
                 volumes: ['./data:/export', 'run:/run/virtfs']\n  qemu:\n    image: qemu\n    command: [\"{qemu}\"]\n    \
                 volumes: [{{type: volume, source: run, target: /sockets}}]\n"
            ),
        ),
        (
            "arguments.yaml",
            format!(
                "services:\n  helper:\n    image: example.org/mine\n    entrypoint: [/usr/bin/virtfs-proxy-helper]\n    \
                 command: [--path, /d/sub, --socket, /s/helper.sock]\n    volumes: ['{0}/data:/d', '{0}/run:/s']\n  qemu:\n    \
                 image: qemu\n    command: [\"{qemu}\"]\n    volumes: ['{0}/run:/sockets:ro']\n",
                dir.path().display()
            ),
        ),
        (
            "pod.yaml",
            format!(
                "kind: Pod\nspec:\n  containers:\n  - name: helper\n    image: virtfs-proxy-helper\n    env:\n    - {{name: \
                 VIRTFS_PATH, value: /e/data}}\n    volumeMounts:\n    - {{name: e, mountPath: /e}}\n    - {{name: r, mountPath: \
                 /run/virtfs}}\n  - name: qemu\n    image: qemu\n    args: [\"{qemu}\"]\n    volumeMounts:\n    - {{name: r, \
                 mountPath: /sockets}}\n  volumes:\n  - name: r\n    emptyDir: {{}}\n  - name: e\n    hostPath: {{path: {}}}\n",
                dir.path().display()
            ),
        ),
    ] {
        let file = dir.path().join(name);
        write(&file, &text);
        let found = audit([file]);
        let sub = if name == "arguments.yaml" { "data/sub" } else { "data" };
        let export = dir.path().join(sub);
        assert_eq!(found.share("s")["export"], export.to_str().unwrap(), "{name}: {:#}", found.document);
    }
}

#[test]
fn quadlets_tell_by_arguments_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (text, export, socket) in [
        (
            "[Container]\nImage=localhost/virtfs-proxy-helper\nExec=--path /d --socket /s/x\nVolume=/srv/a:/d\nVolume=/run/a:/s\n",
            "/srv/a",
            "/run/a/x",
        ),
        (
            "[Container]\nImage=other\nEntrypoint=/virtfs-proxy-helper\nEnvironment=VIRTFS_PATH=/d VIRTFS_SOCKET=/s/x\n\
             Volume=/srv/b:/d:ro,z\nVolume=/run/b:/s\n",
            "/srv/b",
            "/run/b/x",
        ),
    ] {
        let file = dir.path().join("helper.container");
        write(&file, text);
        let expected = (Some(export.to_owned()), Some(socket.to_owned()));
        assert_eq!(helpers(file.to_str().unwrap()), [expected], "{text}");
    }
}

#[test]
fn what_a_template_fills_in_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("compose.yaml.j2");
    let text = "services:\n  helper:\n    image: virtfs-proxy-helper\n    volumes: ['{{ export }}:/export', '/run/a:/run/virtfs']\n";
    write(&file, text);
    assert_eq!(helpers(file.to_str().unwrap()), [(None, Some("/run/a/helper.sock".to_owned()))]);
}
