//! scripts/fleet/kubernetes: the manifests as Kubernetes' own client puts them together, and their containers as far as podman
//! plays them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use serde_yaml::Value as Yaml;

use crate::container::{Engine, IMAGE, script, stdout_of, tools};
use crate::program::scratch;

/// The list of nodes; one has a name that YAML would take for a number.
const NODES: &str = "hosts:\n  \"node7\":\n  \"100\":\n";

/// A copy of the manifests, so that the list of nodes and an edit can be put there.
fn copied(place: &Path) -> PathBuf {
    let copy = place.join("kubernetes");
    let output = Command::new("cp").arg("-R").arg(script("fleet/kubernetes")).arg(&copy).output().unwrap();
    stdout_of("cp", &output);
    fs::write(copy.join("audit/nodes.yaml"), NODES).unwrap();
    copy
}

fn kustomized(folder: &Path) -> Vec<Yaml> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().expect("kubectl");
    let text = stdout_of("kubectl kustomize", &output);
    serde_yaml::Deserializer::from_str(&text).map(|one| Yaml::deserialize(one).unwrap()).collect()
}

fn kinds(objects: &[Yaml]) -> Vec<&str> {
    let mut kinds: Vec<_> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

/// Every container of an object.
fn containers(object: &Yaml) -> Vec<Yaml> {
    let pod = &object["spec"]["template"]["spec"];
    let lists = ["initContainers", "containers"].iter().filter_map(|list| pod[*list].as_sequence());
    lists.flatten().cloned().collect()
}

#[test]
fn the_manifests_are_kubernetes() {
    let files = ["audit/daemonset.yaml", "audit/job.yaml", "volume/namespace.yaml", "volume/claim.yaml"];
    let output = Command::new(tools().join("kubernetes-validate"))
        .args(["--strict", "--kubernetes-version", "1.29"])
        .args(files.map(|file| script("fleet/kubernetes").join(file)))
        .output()
        .unwrap();
    stdout_of("kubernetes-validate", &output);
}

/// `kubectl delete -k audit` leaves the volume with the page, and its namespace.
#[test]
fn the_page_is_not_among_what_is_deleted() {
    let scratch = scratch();
    let folder = copied(scratch.path());
    let audit = kustomized(&folder.join("audit"));
    assert_eq!(kinds(&audit), ["ConfigMap", "DaemonSet", "Job"]);
    let volume = kustomized(&folder.join("volume"));
    assert_eq!(kinds(&volume), ["Namespace", "PersistentVolumeClaim"]);
    for object in audit.iter().chain(&volume).filter(|object| object["kind"] != "Namespace") {
        assert_eq!(object["metadata"]["namespace"], "virtfs-audit", "{object:?}");
    }
    let namespace = volume.iter().find(|object| object["kind"] == "Namespace").unwrap();
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "privileged");
    let claim = volume.iter().find(|object| object["kind"] == "PersistentVolumeClaim").unwrap();
    for object in audit.iter().filter(|object| object["kind"] != "ConfigMap") {
        let volumes = object["spec"]["template"]["spec"]["volumes"].as_sequence().unwrap();
        let name = &claim["metadata"]["name"];
        let is_claimed = |volume: &Yaml| volume["persistentVolumeClaim"]["claimName"] == *name;
        assert!(volumes.iter().any(is_claimed), "{object:?}");
        for container in containers(object) {
            for bound in ["requests", "limits"] {
                assert!(container["resources"][bound]["memory"].is_string(), "{bound} of {container:?}");
            }
        }
    }
    // Each step of the instructions takes its objects by this label.
    for (kind, label) in
        [("DaemonSet", "virtfs-audit"), ("Job", "virtfs-report"), ("ConfigMap", "virtfs-report")]
    {
        let object = audit.iter().find(|object| object["kind"] == kind).unwrap();
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/name"], label, "{kind}");
    }
}

#[test]
fn the_images_name_is_changed_by_one_edit() {
    let scratch = scratch();
    let folder = copied(scratch.path());
    let file = folder.join("audit/kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let edited = text.replace("newName: localhost/virtfs-proxy-helper", "newName: registry.example/ours");
    assert_eq!(edited.lines().zip(text.lines()).filter(|(new, old)| new != old).count(), 1);
    fs::write(&file, edited).unwrap();
    let images: Vec<_> = kustomized(&folder.join("audit"))
        .iter()
        .flat_map(containers)
        .map(|container| container["image"].as_str().unwrap().to_owned())
        .filter(|image| !image.contains("/pause:"))
        .collect();
    assert_eq!(images, vec![format!("registry.example/ours:{}", env!("CARGO_PKG_VERSION")); 4]);
}

/// As much of an API server as lists two nodes.
fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut request = String::new();
    let _ = reader.read_line(&mut request);
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
    let body = match path {
        "/api" => serde_json::json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => serde_json::json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => serde_json::json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "nodes", "singularName": "", "namespaced": false, "kind": "Node", "verbs": ["get", "list"]}]}),
        _ => serde_json::json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": [
            {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node7"}},
            {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "100"}}]}),
    }
    .to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// The command of the instructions, by the real client, from an API server that has two nodes.
#[test]
fn the_list_of_nodes_is_an_inventory() {
    let scratch = scratch();
    let folder = copied(scratch.path());
    fs::remove_file(folder.join("audit/nodes.yaml")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    let config = scratch.path().join("config");
    fs::write(
        &config,
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        ),
    )
    .unwrap();
    let text = fs::read_to_string(folder.join("audit/kustomization.yaml")).unwrap();
    let mut commands = text.lines().filter_map(|line| line.strip_prefix("#   "));
    let command = commands.find(|command| command.starts_with("kubectl get nodes")).expect("the command");
    let output = Command::new("sh")
        .args(["-ec", command])
        .current_dir(&folder)
        .env("KUBECONFIG", &config)
        .env("HOME", scratch.path())
        .output()
        .unwrap();
    stdout_of("kubectl get nodes", &output);
    assert_eq!(fs::read_to_string(folder.join("audit/nodes.yaml")).unwrap(), NODES);
}

/// A container of a manifest as podman runs it, with these places in place of its volumes.
fn run(engine: &Engine, container: &Yaml, places: &[(&str, &Path)]) -> String {
    let text = |value: &Yaml| value.as_str().expect("text").to_owned();
    let list = |value: &Yaml| value.as_sequence().expect("a list").clone();
    let mut words: Vec<String> =
        ["run", "--rm", "--read-only", "--network=host", "--pid=host", "--cap-drop=ALL"]
            .map(Into::into)
            .into();
    let security = &container["securityContext"];
    assert_eq!(list(&security["capabilities"]["drop"]), ["ALL"]);
    words.extend(
        list(&security["capabilities"]["add"]).iter().map(|name| format!("--cap-add={}", text(name))),
    );
    words.push("--security-opt=no-new-privileges".into());
    for mount in list(&container["volumeMounts"]) {
        let (name, path) = (text(&mount["name"]), text(&mount["mountPath"]));
        let (_, from) = places.iter().find(|(known, _)| *known == name).expect("a place");
        let how = if mount["readOnly"] == true { "ro" } else { "rw" };
        words.push(format!("--volume={}:{path}:{how}", from.display()));
    }
    words.push(IMAGE.into());
    words.extend(list(&container["args"]).iter().map(|word| text(word).replace("$(NODE)", "node7")));
    engine.run(words)
}

#[test]
fn the_daemonset_audits_and_the_job_merges() {
    let engine = Engine::new();
    let [host, audits, nodes] = ["host", "audits", "nodes"].map(|name| engine.directory(name));
    fs::create_dir_all(host.join("etc/systemd/system")).unwrap();
    let unit = "[Service]\nExecStart=/usr/bin/qemu-system-x86_64 -name shop -fsdev proxy,id=fs0,socket=/run/shop.sock \
                -device virtio-9p-pci,fsdev=fs0,mount_tag=data\n";
    fs::write(host.join("etc/systemd/system/guest.service"), unit).unwrap();
    fs::write(nodes.join("nodes.yaml"), NODES).unwrap();
    let part = |name: &str| {
        let text = fs::read_to_string(script("fleet/kubernetes/audit").join(name)).unwrap();
        serde_yaml::from_str::<Yaml>(&text).unwrap()["spec"]["template"]["spec"].clone()
    };
    let places = [("host", &*host), ("audits", &*audits), ("nodes", &*nodes)];
    run(&engine, &part("daemonset.yaml")["initContainers"][0], &places);
    let document: Value = serde_json::from_slice(&fs::read(audits.join("node7.json")).unwrap()).unwrap();
    assert_eq!(document["shares"][0]["file"], "/etc/systemd/system/guest.service", "{document:#}");

    let job = part("job.yaml");
    run(&engine, &job["initContainers"][0], &places);
    let saved = fs::read_to_string(audits.join("report.html")).unwrap();
    assert!(saved.contains("<td>node7</td>"), "{saved}");
    let said = run(&engine, &job["containers"][0], &places);
    assert!(said.contains("node7: 1 share\n"), "{said}");
    assert!(said.contains("100: failed: there is no report of it\n"), "{said}");
    // The page comes out by the log.
    let logged = run(&engine, &job["containers"][1], &places);
    assert!(logged.trim_end().ends_with("</html>"), "{logged}");
    let rows = |page: &str| -> Vec<String> {
        page.lines().filter(|line| line.starts_with("<tr ")).map(str::to_owned).collect()
    };
    assert_eq!(rows(&logged), rows(&saved));
}
