//! What is in the image, and that it can be built again.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::container::{Engine, IMAGE, build, image, script, stdout_of, tools};
use crate::program::{Running, wait_until};

/// The image may take this much, unpacked.
const MOST: u64 = 6 << 20;

/// How large the binary may be: 4 MiB where it is linked to musl.
fn most_of_the_binary() -> u64 {
    let target =
        std::process::Command::new(script("lib/static-target")).env("CARGO_NET_OFFLINE", "true").output();
    if stdout_of("static-target", &target.unwrap()).trim().ends_with("-musl") { 4 << 20 } else { MOST }
}

fn inspect(engine: &Engine) -> Value {
    let all: Value = serde_json::from_str(&engine.run(["image", "inspect", IMAGE])).unwrap();
    all[0].clone()
}

/// The names of an archive's entries.
fn entries(archive: &Path) -> Vec<String> {
    let output = std::process::Command::new("tar").arg("-tf").arg(archive).output().expect("tar");
    stdout_of("tar", &output).lines().map(Into::into).collect()
}

#[test]
fn it_is_one_small_static_file_and_licences_with_the_usual_labels() {
    let engine = Engine::new();
    let inspected = inspect(&engine);
    assert!(inspected["Size"].as_u64().unwrap() <= MOST, "{}", inspected["Size"]);
    let config = &inspected["Config"];
    assert_eq!(config["Entrypoint"], serde_json::json!(["/virtfs-proxy-helper"]));
    assert_eq!(config["StopSignal"], "SIGTERM");
    let revision = stdout_of(
        "git",
        &std::process::Command::new("git")
            .args(["-c", "safe.directory=*", "-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "HEAD"])
            .output()
            .unwrap(),
    );
    for (name, value) in [
        ("title", "virtfs-proxy-helper"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", "MIT OR Apache-2.0"),
        ("revision", revision.trim()),
    ] {
        let name = format!("org.opencontainers.image.{name}");
        assert_eq!(inspected["Labels"][&name], value, "label {name}");
        assert_eq!(inspected["Annotations"][&name], value, "annotation {name}");
    }

    engine.run(["create", "--name", "one", IMAGE]);
    let archive = engine.scratch().join("root.tar");
    engine.run(["export".as_ref(), "--output".as_ref(), archive.as_os_str(), "one".as_ref()]);
    let binary =
        std::process::Command::new("tar").arg("-xOf").arg(&archive).arg("virtfs-proxy-helper").output();
    let length = u64::try_from(binary.unwrap().stdout.len()).unwrap();
    assert!(length > 1 << 20 && length <= most_of_the_binary(), "{length} bytes");
    let files = entries(&archive);
    // Mount points that the engine itself makes are empty directories.
    let files: Vec<_> = files.iter().filter(|name| !name.ends_with('/')).collect();
    let own: Vec<_> =
        files.iter().filter(|name| !name.starts_with("etc/") && !name.starts_with("run/")).collect();
    let licences = ["LGPL-2.1.txt", "LICENSE-APACHE", "LICENSE-MIT", "crates.txt"]
        .map(|name| format!("licences/{name}"));
    let expected: BTreeSet<&str> =
        licences.iter().map(String::as_str).chain(["virtfs-proxy-helper"]).collect();
    assert_eq!(own.iter().map(|name| name.as_str()).collect::<BTreeSet<_>>(), expected, "{files:?}");

    // It needs no loader, and says which it is.
    let said = engine.run(["run", "--rm", "--network=none", IMAGE, "--version"]);
    assert_eq!(said.trim(), concat!("virtfs-proxy-helper ", env!("CARGO_PKG_VERSION")));

    // An error is told even where its stack is asked for, which the binary has no tables for.
    let backtrace = ["run", "--rm", "--network=none", "--env=RUST_BACKTRACE=1", IMAGE];
    let output = engine.podman(backtrace.into_iter().chain(["migrate", "manifest", "/absent"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/absent"), "{output:?}");
}

#[test]
#[ignore = "builds all of the image once more: scripts/test slow"]
fn the_same_commit_gives_the_same_digest() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-again");
    let again = build(&directory, &["--no-cache"]);
    for name in ["id", "digest"] {
        assert_eq!(again.value(name), image().value(name), "{name}");
    }
    let same = |one: &Path, other: &Path| fs::read(one).unwrap() == fs::read(other).unwrap();
    assert!(same(&again.sbom, &image().sbom), "the bill of materials");
    assert!(same(&again.archive, &image().archive), "the archive");
}

/// A registry that holds what is put there below a directory.
struct Registry {
    process: Running,
    port: u16,
}

impl Registry {
    fn start(directory: &Path) -> Self {
        // Free a moment ago: another process may have taken it, then there is another try.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let file = directory.join("registry.yml");
            let store = directory.join("registry");
            let text = format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n",
                store.display()
            );
            fs::write(&file, text).unwrap();
            let mut command = std::process::Command::new("docker-registry");
            command.arg("serve").arg(&file).stdin(Stdio::null());
            let mut registry = Self { process: Running::spawn(&mut command), port };
            let mut alive = true;
            wait_until("the registry", || {
                alive = registry.process.is_alive();
                !alive || TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
            if alive {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }
}

/// The commands that build-image prints take the archive where they say, and the digest is the one there.
#[test]
fn the_printed_commands_keep_the_printed_digest() {
    let scratch = crate::program::scratch();
    let index =
        std::process::Command::new("tar").arg("-xOf").arg(&image().archive).arg("index.json").output();
    let index: Value = serde_json::from_str(&stdout_of("tar", &index.unwrap())).unwrap();
    assert_eq!(index["manifests"][0]["digest"], image().value("digest"), "the archive");

    let registry = Registry::start(scratch.path());
    let there =
        format!("docker://127.0.0.1:{}/virtfs-proxy-helper:{}", registry.port, env!("CARGO_PKG_VERSION"));
    let run = |command: &str| {
        let output = std::process::Command::new("sh").args(["-ec", command]).output().unwrap();
        stdout_of(command, &output)
    };
    let command = image().value("to a registry").replace(
        "docker://REGISTRY/",
        &format!("--dest-tls-verify=false docker://127.0.0.1:{}/", registry.port),
    );
    run(&command);
    let said: Value =
        serde_json::from_str(&run(&format!("skopeo inspect --tls-verify=false {there}"))).unwrap();
    assert_eq!(said["Digest"], image().value("digest"), "the registry");

    // What Docker's daemon is sent, in a file.
    let file = scratch.path().join("docker.tar");
    let command =
        image().value("to Docker").replace("docker-daemon:", &format!("docker-archive:{}:", file.display()));
    run(&command);
    let entries = entries(&file);
    assert!(entries.contains(&"manifest.json".to_owned()), "{entries:?}");
}

#[test]
fn the_docker_format_carries_the_health_check() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-docker");
    // Everything but the last steps comes from the first build's layers.
    image();
    build(&directory, &["--format", "docker", "--tag", "localhost/virtfs-proxy-helper:docker"]);
    let output = std::process::Command::new("podman")
        .args([
            "image",
            "inspect",
            "--format",
            "{{json .HealthCheck}}",
            "localhost/virtfs-proxy-helper:docker",
        ])
        .output()
        .unwrap();
    let check: Value = serde_json::from_str(&stdout_of("podman image inspect", &output)).unwrap();
    assert_eq!(check["Test"], serde_json::json!(["CMD", "/virtfs-proxy-helper", "healthcheck"]));
}

#[test]
fn the_bill_of_materials_names_what_is_locked() {
    let document: Value = serde_json::from_slice(&fs::read(&image().sbom).unwrap()).unwrap();
    assert_eq!(document["bomFormat"], "CycloneDX");
    assert_eq!(document["metadata"]["component"]["name"], "virtfs-proxy-helper");
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let components = document["components"].as_array().unwrap();
    let mut names = BTreeSet::new();
    for component in components {
        let field = |name: &str| component[name].as_str().unwrap_or_else(|| panic!("{name} of {component}"));
        names.insert(field("name"));
        if component["hashes"].is_null() {
            continue; // Of the toolchain.
        }
        let entry = format!("name = \"{}\"\nversion = \"{}\"\n", field("name"), field("version"));
        let locked = lock.find(&entry).unwrap_or_else(|| panic!("{entry} is not in Cargo.lock"));
        let sum = component["hashes"][0]["content"].as_str().expect("a checksum");
        assert!(lock[locked..].split("[[").next().unwrap().contains(sum), "{entry}{sum}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
    }
    for linked in ["libc", "nix", "clap", "serde_yaml", "rust-std"] {
        assert!(names.contains(linked), "{linked} is not in {names:?}");
    }
    assert!(names.contains("musl") || names.contains("glibc"), "no C library in {names:?}");
    for other in ["proptest", "command-fds", "serde_derive", "syn", "clap_derive"] {
        assert!(!names.contains(other), "{other} is in {names:?}, but not in the binary");
    }
}

#[test]
fn the_licences_are_those_of_the_bill_of_materials() {
    let scratch = crate::program::scratch();
    let [sbom, licences] = ["sbom", "licences"].map(|name| scratch.path().join(name));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = std::process::Command::new(script("lib/sbom"))
        .arg(manifest)
        .args([&sbom, &licences])
        .output()
        .unwrap();
    stdout_of("scripts/lib/sbom", &output);
    let document: Value = serde_json::from_slice(&fs::read(sbom).unwrap()).unwrap();
    let licences = fs::read_to_string(licences).unwrap();
    let (list, texts) = licences.split_once("\n=====").expect("texts after the list");
    for component in document["components"].as_array().unwrap() {
        if component["hashes"].is_null() {
            continue; // Of the toolchain: in the first sentence.
        }
        let line = format!("\n{} {}: ", component["name"], component["version"]).replace('"', "");
        assert!(list.contains(&line), "{line} is not in {list}");
    }
    for text in ["Permission is hereby granted", "Apache License", "THE SOFTWARE IS PROVIDED"] {
        assert!(texts.contains(text), "{text}");
    }
}

#[test]
fn the_bill_of_materials_is_cyclonedx() {
    const CHECK: &str = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read()) or 0)";
    let mut command = std::process::Command::new(tools().join("python3"));
    let output = command.args(["-c", CHECK]).arg(&image().sbom).output().unwrap();
    stdout_of("the validator", &output);
}

/// The list in SPDX has what the one in CycloneDX has.
#[test]
fn the_bill_of_materials_is_spdx_too() {
    const CHECK: &str = "import sys
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
document = parse_file(sys.argv[1])
for message in validate_full_spdx_document(document): print(message.validation_message)
print('packages', len(document.packages))";
    let scratch = crate::program::scratch();
    let [sbom, spdx] = ["sbom.json", "sbom.spdx.json"].map(|name| scratch.path().join(name));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut command = std::process::Command::new(script("lib/sbom"));
    let output = command.arg("--spdx").arg(&spdx).arg(manifest).arg(&sbom).output().unwrap();
    stdout_of("scripts/lib/sbom", &output);
    let document: Value = serde_json::from_slice(&fs::read(sbom).unwrap()).unwrap();
    let count = document["components"].as_array().unwrap().len() + 1;
    let mut command = std::process::Command::new(tools().join("python3"));
    let output = command.args(["-c", CHECK]).arg(&spdx).output().unwrap();
    assert_eq!(stdout_of("the validator", &output), format!("packages {count}\n"));
}

#[test]
fn build_image_says_what_is_wrong() {
    for (options, sense) in [
        (&["--format", "tar"][..], "oci or docker"),
        (&["--commit", "no-such-commit"], "no commit"),
        (&["--offline", "--platform", "linux/arm64"], "this machine's platform"),
        (&["--sbom"], "needs a value"),
        (&["--nonsense"], "see --help"),
    ] {
        let output = std::process::Command::new(script("build-image")).args(options).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(!output.status.success() && said.contains(sense), "{options:?}: {said}");
    }
}
