//! In user namespaces: `--uidmap` as root, and rootless podman as a real ordinary user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use libc::{O_CREAT, O_RDWR};
use nix::errno::Errno::{EINVAL, EPERM};

use crate::container::{Engine, IMAGE, image, need, stdout_of};
use crate::wire::{Client, ask};

fn owner(path: &Path) -> (u32, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

/// The same requests wherever root is `base` outside: the guest's ids are the namespace's, devices can't be made.
fn works_in_a_namespace(export: &Path, socket: &Path, root: u32, base: u32) {
    let mut client = Client::connect_soon(socket);
    client.ask(&ask::mkdir(b"/theirs", 0o755, 1000, 1000)).ok();
    client.ask(&ask::create(b"/theirs/file", O_CREAT | O_RDWR, 0o644, 1000, 2000)).ok();
    client.ask(&ask::chmod(b"/theirs/file", 0o4755)).ok();
    client.ask(&ask::mkdir(b"/roots", 0o755, 0, 0)).ok();
    client.ask(&ask::chown(b"/roots", 5, 6)).ok();
    client.ask(&ask::mknod(b"/fifo", libc::S_IFIFO | 0o600, 0, 7, 7)).ok();
    client.ask(&ask::mknod(b"/null", libc::S_IFCHR | 0o600, 0x103, 0, 0)).fails(EPERM);
    client.ask(&ask::chown(b"/roots", 70_000, 0)).fails(EINVAL);
    let file = export.join("theirs/file");
    assert_eq!(owner(&file), (base + 1000, base + 2000));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o4755);
    assert_eq!(owner(&export.join("roots")), (base + 5, base + 6));
    assert_eq!(owner(&export.join("fifo")), (base + 7, base + 7));
    assert_eq!(owner(socket), (root, root));
    // The guest sees its own ids.
    let stat = client.ask(&ask::lstat(b"/theirs/file")).stat().expect("a stat");
    assert_eq!((stat.uid, stat.gid), (1000, 2000));
}

#[test]
fn with_a_uidmap_the_export_belongs_to_the_mapped_ids() {
    let engine = Engine::new();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    fs::write(export.join("roots-file"), "content").unwrap();
    let sidecar = |name: &str, options: &[&str]| {
        let mut words = vec!["--name", name, "--uidmap", "0:100000:65536"];
        words.extend(options);
        words.extend([export.to_str().unwrap(), sockets.to_str().unwrap()]);
        engine.sidecar(words)
    };
    chown(&export, Some(100_000), Some(100_000)).unwrap();
    chown(&sockets, Some(100_000), Some(100_000)).unwrap();
    stdout_of("scripts/run-sidecar", &sidecar("mapped", &["--uid", "0", "--gid", "0"]));
    engine.wait_healthy("mapped");
    let socket = sockets.join("helper.sock");
    works_in_a_namespace(&export, &socket, 100_000, 100_000);
    // What the host's root owns is nobody's in there: it can be read, and that is all.
    let mut client = Client::connect_soon(&socket);
    let stat = client.ask(&ask::lstat(b"/roots-file")).stat().expect("a stat");
    assert_eq!(stat.uid, 65534);
    client.ask(&ask::chown(b"/roots-file", 0, 0)).fails(EPERM);
    drop(client);
    engine.run(["stop", "--time", "8", "mapped"]);

    // A QEMU that the namespace has no id for can't be given a socket.
    stdout_of("scripts/run-sidecar", &sidecar("unmapped", &["--uid", "70000", "--gid", "70000"]));
    crate::program::wait_until("an explanation", || {
        engine.log("unmapped").contains("ids that this user namespace has")
    });
}

/// The user that the rootless test runs podman as. It is in the password file of a mount namespace alone.
const USER: u32 = 4242;
/// The first of its subordinate ids: what 1 is inside.
const SUBORDINATE: u32 = 500_000;

/// Runs `"$@"` as the user, with the account files of directory `$0`.
const AS_USER: &str = r#"
mount --make-rshared /
for file in passwd group subuid subgid; do mount --bind "$0/etc/$file" "/etc/$file"; done
exec setpriv --reuid 4242 --regid 4242 --clear-groups \
    env HOME="$0/home" XDG_RUNTIME_DIR="$0/xdg" "$@"
"#;

#[test]
fn an_ordinary_user_serves_own_files() {
    need("newuidmap");
    let engine = Engine::empty();
    let place = engine.scratch().to_owned();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    let accounts = engine.directory("etc");
    let home = place.join("home");
    for (name, text) in [
        (
            "passwd",
            format!("root:x:0:0::/root:/bin/sh\nsomebody:x:{USER}:{USER}::{}:/bin/sh\n", home.display()),
        ),
        ("group", format!("root:x:0:\nsomebody:x:{USER}:\n")),
        ("subuid", format!("somebody:{SUBORDINATE}:65536\n")),
        ("subgid", format!("somebody:{SUBORDINATE}:65536\n")),
    ] {
        fs::write(accounts.join(name), text).unwrap();
    }
    for name in ["home", "xdg", "root", "run", "tmp", "export", "sockets"] {
        let path = place.join(name);
        fs::create_dir_all(&path).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
    }
    fs::set_permissions(place.join("xdg"), fs::Permissions::from_mode(0o700)).unwrap();
    let archive = place.join("image.tar");
    fs::copy(&image().archive, &archive).unwrap();

    let script = format!(
        r#"set -e
        podman load --quiet --input "{archive}"
        "{sidecar}" --engine podman --image {IMAGE} --name helper --uid 0 --gid 0 "{export}" "{sockets}"
        until podman exec helper /virtfs-proxy-helper healthcheck; do sleep 0.1; done
        echo ready
        while [ ! -e "{place}/done" ]; do sleep 0.1; done
        podman stop --time 8 helper
        podman rm helper
        podman unshare rm -rf "{export}/theirs" "{export}/roots" "{export}/fifo"
        "#,
        archive = archive.display(),
        sidecar = crate::container::script("run-sidecar").display(),
        export = export.display(),
        sockets = sockets.display(),
        place = place.display(),
    );
    let mut command = engine.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc", AS_USER]).arg(&place);
    command.args(["bash", "-c", &script]);
    let mut running = crate::program::Running::spawn(&mut command);
    running.wait_for_log("ready");
    // Root inside is the user, and whoever else is there is a subordinate id.
    works_in_a_namespace(&export, &sockets.join("helper.sock"), USER, SUBORDINATE - 1);
    fs::write(place.join("done"), "").unwrap();
    let status = running.wait();
    assert!(status.success(), "{}", running.log());
    assert_eq!(fs::read_dir(&sockets).unwrap().count(), 0, "the socket stays behind");
}
