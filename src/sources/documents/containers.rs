//! A document's node → the container that it describes: Compose's services, Kubernetes's pods, Ansible's modules.

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use super::compose::Services;
use super::scalars::chars;
use super::tree::{Node, Value};
use super::words::{known, words};
use crate::share::view::{By, Gap};
use crate::sources::chars::Word;
use crate::sources::containers::{Container, Other, Volume, variable};
use crate::sources::format::path_of;

/// Keys of which a container's description has one besides its image.
const KEYS: &[&str] = &["command", "args", "entrypoint", "env", "environment", "volumes", "volumeMounts"];

/// Volumes of a pod that are no directory of the host's otherwise.
const OF_ENGINE: &[&str] = &["emptyDir", "configMap", "secret", "projected", "downwardAPI"];

/// The container that `node` describes. `pod`: the node with the volumes that a pod's containers mount. `folder`: where
/// relative paths of the host start.
pub(super) fn container(
    file: &str,
    node: &Node,
    pod: Option<&Node>,
    folder: Option<&Path>,
) -> Option<Container> {
    let image = node.get("image")?;
    if !KEYS.iter().any(|key| node.get(key).is_some()) {
        return None;
    }
    let list = |key: &str| node.get(key).map(|part| words(file, part, Some(node))).unwrap_or_default();
    let in_a_pod = node.get("args").is_some() || node.get("volumeMounts").is_some();
    let (entrypoint, arguments) = if in_a_pod { ("command", "args") } else { ("entrypoint", "command") };
    Some(Container {
        image: Some(text(file, node, image)),
        entrypoint: list(entrypoint),
        arguments: list(arguments),
        environment: environment(file, node),
        volumes: volumes(file, node, pod),
        folder: folder.map(Path::to_owned),
        span: node.span.clone(),
        place: image.span.clone(),
        by: Some(if in_a_pod { By::Pod } else { By::Compose }),
        own_mounts: false,
        remarks: own_users(node, pod),
        tmpfs: tmpfs(file, node),
        user: user(file, node, pod),
        user_namespace: user_namespace(file, node),
        gap: if in_a_pod { None } else { gap(file, node) },
        more_environment: node.get("envFrom").is_some(),
        service: None,
        changed_in: None,
        others: Vec::new(),
        name: None,
    })
}

/// The container of a Compose service, `whole` with what it takes over, `own` without. Its image may be built, or be in another
/// file.
pub(super) fn service(
    file: &str,
    name: Option<String>,
    whole: &Rc<Node>,
    own: &Node,
    folder: Option<&Path>,
    services: &Services,
) -> Container {
    let image = whole.get("image").filter(|image| image.text().is_some());
    let list = |key: &str| whole.get(key).map(|part| words(file, part, Some(whole))).unwrap_or_default();
    let mut container = Container {
        image: image.map(|image| text(file, whole, image)),
        entrypoint: list("entrypoint"),
        arguments: list("command"),
        environment: environment(file, whole),
        volumes: bound(file, services, volumes(file, whole, None)),
        folder: folder.map(Path::to_owned),
        span: own.span.clone(),
        place: own.get("image").map_or(own.span.start..own.span.start, |image| image.span.clone()),
        by: Some(By::Compose),
        own_mounts: false,
        remarks: super::compose::remarks(whole),
        tmpfs: tmpfs(file, whole),
        user: user(file, whole, None),
        user_namespace: user_namespace(file, whole),
        gap: gap(file, own),
        more_environment: whole.get("env_file").is_some()
            || whole.get("extends").is_some_and(|it| it.get("file").is_some()),
        service: name,
        changed_in: None,
        others: others(whole),
        name: None,
    };
    container.take_others(&|other| {
        let (whole, own) = services.named(std::str::from_utf8(&other.name).ok()?)?;
        let volumes = bound(file, services, volumes(file, &whole, None));
        Some(Container { volumes, others: others(&whole), span: own.span.clone(), ..Container::default() })
    });
    container
}

/// Compose's `volumes_from`: services of the same file, or containers of which it says nothing.
fn others(node: &Node) -> Vec<Other> {
    let given = items(node.get("volumes_from")).iter().filter_map(|item| item.text());
    let other = |text: &str| {
        let said = format!("volumes_from: {text}").into_bytes();
        // A container by its own name may be anywhere.
        match text.strip_prefix("container:") {
            Some(_) => Other { said, ..Other::default() },
            None => Other::parse(text.as_bytes(), said),
        }
    };
    given.map(other).collect()
}

/// Volumes with what the document says of those that have a name: a directory of the host that is mounted by `driver_opts`, or the
/// engine's own.
fn bound(file: &str, services: &Services, volumes: Vec<Volume>) -> Vec<Volume> {
    let bound = |volume: Volume| {
        let name = volume.source.bytes();
        let described = std::str::from_utf8(&name).ok().and_then(|name| services.volume(name));
        let Some(described) = described else { return volume };
        let Some(options) = described.get("driver_opts") else {
            let is_named = ["external", "driver", "name"].iter().any(|key| described.get(key).is_some());
            return Volume { engines: !is_named, ..volume };
        };
        let option = |key: &str| options.get(key).and_then(|value| value.text()).unwrap_or_default();
        let mut flags = option("o").split(',').map(str::trim);
        let binds = flags.clone().any(|flag| matches!(flag, "bind" | "rbind"));
        match options.get("device").filter(|device| binds && device.text().is_some()) {
            Some(device) => {
                let readonly = volume.readonly || flags.any(|flag| flag == "ro");
                Volume { source: text(file, options, device), readonly, ..volume }
            }
            None => volume,
        }
    };
    volumes.into_iter().map(bound).collect()
}

fn user_namespace(file: &str, node: &Node) -> Option<Word> {
    let mode = node.get("userns_mode").or_else(|| node.get("userns"))?;
    Some(text(file, node, mode))
}

/// Compose's `tmpfs`: a path, or several.
fn tmpfs(file: &str, node: &Node) -> Vec<Word> {
    let is_tmpfs = |item: &Node| item.get("type").and_then(|kind| kind.text()) == Some("tmpfs");
    let mounted = items(node.get("volumes")).iter().filter(|item| is_tmpfs(item));
    let mut all: Vec<Word> = mounted.filter_map(|item| Some(text(file, node, item.get("target")?))).collect();
    let Some(given) = node.get("tmpfs") else { return all };
    match given.text() {
        Some(_) => all.push(text(file, node, given)),
        None => all.extend(items(Some(given)).iter().map(|item| text(file, node, item))),
    }
    all
}

/// Compose's `user`, or `runAsUser` of the container or of its pod.
fn user(file: &str, node: &Node, pod: Option<&Node>) -> Option<Word> {
    let as_pods = |node: &Node| node.get("securityContext")?.get("runAsUser").cloned();
    let user = node.get("user").cloned().or_else(|| as_pods(node)).or_else(|| as_pods(pod?))?;
    Some(text(file, node, &user))
}

/// A pod with a user namespace: `hostUsers: false`.
fn own_users(node: &Node, pod: Option<&Node>) -> Vec<(Range<usize>, String, String)> {
    let given = node.get("hostUsers").or_else(|| pod?.get("hostUsers"));
    let has_own = given.and_then(|given| given.text()).is_some_and(|text| text == "false");
    let remark = (
        given.map(|given| given.span.clone()).unwrap_or_default(),
        "hostUsers: false gives the pod a user namespace: the ids of its users are other ids on the host"
            .to_owned(),
        "write hostUsers: true, or give the files the host's id of the container's user".to_owned(),
    );
    if has_own { vec![remark] } else { Vec::new() }
}

/// The place behind the last of the volumes, where each has a line of its own.
fn gap(file: &str, node: &Node) -> Option<Gap> {
    let list = node.get("volumes")?;
    if file.as_bytes().get(list.span.start) == Some(&b'[') {
        return None;
    }
    let last = items(Some(list)).last()?;
    last.text()?;
    let start = file.get(..last.span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let before = file.get(start..last.span.start)?;
    if !before.trim_start().starts_with('-') || !before.trim_start().trim_start_matches(['-', ' ']).is_empty()
    {
        return None;
    }
    let end = last.span.end + file.get(last.span.end..)?.find('\n')?;
    // A comment may follow; nothing else may.
    let rest = file.get(last.span.end..end)?.trim();
    if !(rest.is_empty() || rest.starts_with('#')) {
        return None;
    }
    let line_end = if file.get(..end)?.ends_with('\r') { end - 1 } else { end };
    let line_break = if line_end < end { "\r\n" } else { "\n" };
    Some(Gap { at: line_end, before: format!("{line_break}{before}").into_bytes(), after: Vec::new() })
}

/// A scalar's value, with what other programs fill in marked as unknown.
fn text(file: &str, around: &Node, node: &Rc<Node>) -> Word {
    Word { chars: known(&chars(file, node, false), file, Some(around)), span: node.span.clone() }
}

fn items(node: Option<&Rc<Node>>) -> &[Rc<Node>] {
    match node.map(|node| &node.value) {
        Some(Value::Sequence(items)) => items,
        _ => &[],
    }
}

/// `env: [{name, value}]`, `environment: [NAME=VALUE]`, or a mapping under either name.
fn environment(file: &str, node: &Node) -> Vec<(Vec<u8>, Option<Word>)> {
    let mut found = Vec::new();
    for given in ["env", "environment"].iter().filter_map(|key| node.get(key)) {
        if let Value::Mapping(pairs) = &given.value {
            let named = pairs.iter().filter_map(|(name, value)| {
                value.text()?;
                Some((name.text()?.as_bytes().to_vec(), Some(text(file, node, value))))
            });
            found.extend(named);
        }
        for item in items(Some(given)) {
            if item.text().is_some() {
                found.extend(variable(&text(file, node, item)));
            } else if let Some(name) = item.get("name").and_then(|name| name.text()) {
                // A value from elsewhere (`valueFrom`) is not known here.
                let value = item.get("value").map(|value| text(file, node, value));
                found.push((name.as_bytes().to_vec(), value));
            }
        }
    }
    found
}

fn volumes(file: &str, node: &Node, pod: Option<&Node>) -> Vec<Volume> {
    let text = |value: &Rc<Node>| text(file, node, value);
    let mut found = Vec::new();
    for item in items(node.get("volumes")) {
        if item.text().is_some() {
            found.extend(Volume::parse(&text(item)));
        } else if let Some((source, target)) = item.get("source").zip(item.get("target")) {
            let volume = Volume::whole(text(source), text(target));
            found.push(Volume { readonly: is_true(item.get("read_only")), ..volume });
        }
    }
    for item in items(node.get("volumeMounts")) {
        let Some((name, target)) = item.get("name").zip(item.get("mountPath")) else { continue };
        let volume = items(pod.and_then(|pod| pod.get("volumes")))
            .iter()
            .find(|volume| volume.get("name").and_then(|own| own.text()) == name.text());
        let host = volume.and_then(|volume| volume.get("hostPath")?.get("path"));
        let below = item.get("subPath").map(|below| path_of(&text(below).bytes())).unwrap_or_default();
        let readonly = is_true(item.get("readOnly"));
        let engines = OF_ENGINE.iter().any(|key| volume.is_some_and(|volume| volume.get(key).is_some()));
        let whole = Volume::whole(text(host.unwrap_or(name)), text(target));
        found.push(Volume { below, readonly, engines, ..whole });
    }
    found
}

fn is_true(node: Option<&Rc<Node>>) -> bool {
    node.and_then(|node| node.text()).is_some_and(|text| matches!(text, "true" | "True" | "yes" | "on"))
}
