//! What scripts/sidecar ships says the same in each form, and the engines take it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use serde_yaml::Value;

use crate::container::{Engine, IMAGE, script, stdout_of, tools};
use crate::process;
use crate::program::wait_until;
use crate::wire::{Client, ask};

fn shipped(name: &str) -> String {
    fs::read_to_string(script("sidecar").join(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&shipped(name)).unwrap()
}

/// The capabilities that every form must give: scripts/run-sidecar's.
fn capabilities() -> BTreeSet<String> {
    let output =
        std::process::Command::new(script("run-sidecar")).args(["--print", "/tmp", "/tmp"]).output().unwrap();
    let command = stdout_of("scripts/run-sidecar", &output);
    command.split_whitespace().filter_map(|word| word.strip_prefix("--cap-add=")).map(Into::into).collect()
}

fn set(list: &Value) -> BTreeSet<String> {
    list.as_sequence().expect("a list").iter().map(|name| name.as_str().unwrap().into()).collect()
}

#[test]
fn both_pods_have_the_same_helper() {
    let (kubernetes, podman) = (yaml("pod.yaml"), yaml("pod-podman.yaml"));
    let mut sidecar = kubernetes["spec"]["initContainers"][0].clone();
    let plain = &podman["spec"]["containers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always", "a sidecar is an init container that restarts always");
    let fields = sidecar.as_mapping_mut().unwrap();
    for only_there in ["restartPolicy", "startupProbe", "resources"] {
        assert!(fields.remove(only_there).is_some(), "{only_there}");
    }
    assert_eq!(&sidecar, plain);
    assert_eq!(set(&plain["securityContext"]["capabilities"]["add"]), capabilities());
    let qemu = |pod: &Value| pod["spec"]["containers"].as_sequence().unwrap().last().unwrap()["args"].clone();
    assert_eq!(qemu(&kubernetes), qemu(&podman));
}

#[test]
fn the_pod_is_kubernetes() {
    let output = std::process::Command::new(tools().join("kubernetes-validate"))
        .args(["--strict", "--kubernetes-version", "1.29"])
        .args([script("sidecar/pod.yaml"), script("sidecar/pod-podman.yaml")])
        .output()
        .unwrap();
    stdout_of("kubernetes-validate", &output);
}

#[test]
fn compose_runs_it() {
    assert_eq!(set(&yaml("compose.yaml")["services"]["helper"]["cap_add"]), capabilities());
    let engine = Engine::new();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    let compose = |verb: &[&str]| {
        let mut command = engine.command(tools().join("podman-compose"));
        command.arg("-f").arg(script("sidecar/compose.yaml")).args(verb).current_dir(engine.scratch());
        command.envs([("IMAGE", IMAGE), ("QEMU_UID", "107"), ("QEMU_GID", "108")]);
        command.env("EXPORT", &export).env("SOCKET_DIR", &sockets).env("COMPOSE_PROJECT_NAME", "guest");
        stdout_of("podman-compose", &command.output().unwrap())
    };
    compose(&["up", "-d"]);
    let name = "guest_helper_1";
    engine.wait_healthy(name);
    let socket = sockets.join("helper.sock");
    works(&socket, &export);
    let pid = engine.pid(name);
    assert_eq!(process::capabilities(pid, "CapBnd"), 0x0804_00db);
    assert_eq!(process::status(pid, "NoNewPrivs"), "1");
    assert!(has_only_loopback(pid));
    compose(&["down"]);
    wait_until("the socket's removal", || !socket.exists());
}

fn has_only_loopback(pid: u32) -> bool {
    let devices = fs::read_to_string(process::of(pid, "net/dev")).unwrap();
    devices.lines().skip(2).all(|line| line.trim_start().starts_with("lo:"))
}

fn works(socket: &Path, export: &Path) {
    use std::os::unix::fs::MetadataExt;
    let mut client = Client::connect_soon(socket);
    client.ask(&ask::mkdir(b"/made", 0o755, 12, 34)).ok();
    let made = export.join("made").metadata().unwrap();
    assert_eq!((made.uid(), made.gid()), (12, 34));
}

/// What podman's generator makes of a quadlet's keys, as podman-systemd.unit(5) says it. A key that is not here is a mistake,
/// or wants a line.
fn quadlet_to_words(unit: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut image, mut exec, mut section) = (None, Vec::new(), "");
    for line in unit.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("neither section nor key: {line}"));
        if section != "[Container]" {
            continue;
        }
        let each =
            |option: &str| value.split(' ').map(|value| format!("{option}={value}")).collect::<Vec<_>>();
        match key {
            "Image" => image = Some(value.to_owned()),
            "Exec" => exec = value.split(' ').map(Into::into).collect(),
            "ContainerName" => words.push(format!("--name={value}")),
            "Volume" => words.push(format!("--volume={value}")),
            "Environment" => words.extend(each("--env")),
            "Network" => words.push(format!("--network={value}")),
            "ReadOnly" if value == "true" => words.push("--read-only".into()),
            "DropCapability" => words.extend(each("--cap-drop")),
            "AddCapability" => words.extend(each("--cap-add")),
            "Notify" if value == "true" => words.push("--sdnotify=container".into()),
            "NoNewPrivileges" if value == "true" => words.push("--security-opt=no-new-privileges".into()),
            "HealthCmd" => words.push(format!("--health-cmd={value}")),
            _ => panic!("what does podman make of {key}={value}?"),
        }
    }
    words.push(image.expect("an image"));
    words.extend(exec);
    words
}

#[test]
fn the_quadlets_container_works() {
    let engine = Engine::new();
    let (export, sockets) = (engine.directory("export"), engine.directory("sockets"));
    let unit = shipped("virtfs-proxy-helper.container")
        .replace(concat!("localhost/virtfs-proxy-helper:", env!("CARGO_PKG_VERSION")), IMAGE)
        .replace("Volume=/srv/guest:", &format!("Volume={}:", export.display()))
        .replace("Volume=/run/virtfs:", &format!("Volume={}:", sockets.display()));
    let words = quadlet_to_words(&unit);
    let given: BTreeSet<_> =
        words.iter().filter_map(|word| word.strip_prefix("--cap-add=")).map(Into::into).collect();
    assert_eq!(given, capabilities());
    // systemd's end of the socket that the unit waits on.
    let notified = engine.scratch().join("notify");
    let manager = UnixDatagram::bind(&notified).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = engine.command("podman");
    command.args(["run", "--detach"]).args(words).env("NOTIFY_SOCKET", &notified);
    stdout_of("podman run", &command.output().unwrap());
    let mut said = String::new();
    while !said.contains("READY=1") {
        let mut message = [0; 512];
        let length = manager.recv(&mut message).expect("a message that it is ready");
        said.push_str(&String::from_utf8_lossy(&message[..length]));
    }
    assert!(sockets.join("helper.sock").exists(), "it says so when its socket is there");
    engine.wait_healthy("virtfs-proxy-helper");
    works(&sockets.join("helper.sock"), &export);
    assert_eq!(engine.run(["healthcheck", "run", "virtfs-proxy-helper"]), "");
}
