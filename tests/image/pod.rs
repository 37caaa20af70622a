//! QEMU in one container, the helper in another, the socket in a volume between them: scripts/sidecar/pod-podman.yaml,
//! played by podman.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;

use serde_yaml::Value;

use crate::container::{Engine, IMAGE, script, stdout_of};
use crate::process;
use crate::program::wait_until;

/// Who QEMU runs as in the pod, by the file.
const QEMU: u32 = 107;

/// What the guest does: a little of everything that takes a capability, then it says so on the host.
const WORK: &str = r"
set -e
cd /mnt/work
mkdir made
echo content >made/file
chown 1234:567 made/file
chmod 4755 made/file
mknod made/null c 1 3
";

fn parse(text: &str) -> Value {
    serde_yaml::from_str(text).expect("YAML")
}

/// The shipped pod with the test's image, export and, for QEMU, the test's own rig instead of an image of QEMU's: the
/// container's tools are the host's.
fn pod(engine: &Engine, guest: &Path) -> Value {
    let text = fs::read_to_string(script("sidecar/pod-podman.yaml")).unwrap();
    let text = text.replace(concat!("localhost/virtfs-proxy-helper:", env!("CARGO_PKG_VERSION")), IMAGE);
    let mut pod = parse(&text.replace("/srv/guest", engine.scratch().join("export").to_str().unwrap()));
    let here = env!("CARGO_MANIFEST_DIR");
    let mut mounts = String::new();
    let mut volumes = String::new();
    let tmp = engine.scratch().join("guest-tmp");
    let places = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/var/lib", here, guest.to_str().unwrap()];
    for (number, place) in places.iter().copied().chain([tmp.to_str().unwrap()]).enumerate() {
        let read_only = place != guest.to_str().unwrap() && place != tmp.to_str().unwrap();
        let _ = writeln!(mounts, "- {{name: v{number}, mountPath: {place}, readOnly: {read_only}}}");
        let _ = writeln!(volumes, "- {{name: v{number}, hostPath: {{path: {place}}}}}");
    }
    let qemu = pod["spec"]["containers"]
        .as_sequence_mut()
        .and_then(|containers| containers.iter_mut().find(|container| container["name"] == "qemu"))
        .expect("QEMU's container");
    let share = qemu["args"][1].as_str().expect("-fsdev").replace("id=share,", "");
    qemu["image"] = IMAGE.into();
    qemu["command"] = parse(&format!("[/bin/bash, {here}/tests/guest/run]"));
    let words = ["--share", &format!("work={share}"), "-c", &WORK.trim().replace('\n', "; ")];
    qemu["args"] = words.map(Value::from).to_vec().into();
    qemu["env"] = parse(&format!(
        "[{{name: VPH_GUEST_DIR, value: {}}}, {{name: TMPDIR, value: {}}}, \
          {{name: PATH, value: '/usr/sbin:/usr/bin:/sbin:/bin'}}]",
        guest.display(),
        tmp.display()
    ));
    qemu["volumeMounts"].as_sequence_mut().unwrap().extend(parse(&mounts).as_sequence().unwrap().clone());
    pod["spec"]["volumes"].as_sequence_mut().unwrap().extend(parse(&volumes).as_sequence().unwrap().clone());
    // One day's work is enough.
    pod["spec"]["restartPolicy"] = "OnFailure".into();
    pod
}

/// A copy of the guest's image that the pod's user may lock.
fn guest_image(to: &Path) {
    let made =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/image")).output().unwrap();
    let from = stdout_of("tests/guest/image", &made);
    for name in ["vmlinux", "initramfs.cpio", "recipe"] {
        fs::copy(Path::new(from.trim()).join(name), to.join(name)).unwrap();
    }
    fs::write(to.join("lock"), "").unwrap();
    for entry in fs::read_dir(to).unwrap() {
        chown(entry.unwrap().path(), Some(QEMU), Some(QEMU)).unwrap();
    }
    chown(to, Some(QEMU), Some(QEMU)).unwrap();
}

#[test]
fn qemu_and_helper_work_side_by_side() {
    let engine = Engine::new();
    let export = engine.directory("export");
    let guest = engine.directory("guest-image");
    guest_image(&guest);
    chown(engine.directory("guest-tmp"), Some(QEMU), Some(QEMU)).unwrap();
    let file = engine.scratch().join("pod.yaml");
    fs::write(&file, serde_yaml::to_string(&pod(&engine, &guest)).unwrap()).unwrap();
    engine.run(["kube".as_ref(), "play".as_ref(), file.as_os_str()]);

    let (helper, qemu) = ("guest-helper", "guest-qemu");
    engine.wait_healthy(helper);
    let pid = engine.pid(helper);
    assert_eq!(process::capabilities(pid, "CapBnd"), 0x0804_00db, "the helper's capabilities");
    assert_eq!(process::status(pid, "NoNewPrivs"), "1");
    wait_until("QEMU at work", || {
        engine.run(["inspect", "--format", "{{.State.Status}}", qemu]).trim() == "exited"
            || engine.pid(qemu) != 0 && process::capabilities(engine.pid(qemu), "CapEff") == 0
    });
    let ended = engine.run(["wait", qemu]);
    assert_eq!(ended.trim(), "0", "the guest: {}\nthe helper: {}", engine.log(qemu), engine.log(helper));
    let made = export.join("made/file").symlink_metadata().unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode()), (1234, 567, 0o104_755));
    assert_eq!(export.join("made/null").symlink_metadata().unwrap().rdev(), nix::sys::stat::makedev(1, 3));
    // QEMU is gone; its helper is there for the next.
    assert!(engine.healthy(helper));
    assert_eq!(engine.pid(helper), pid);

    engine.remove(["kube".as_ref(), "down".as_ref(), file.as_os_str()]);
    assert!(!process::of(pid, "").exists());
}
