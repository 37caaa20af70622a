//! A Compose file's services with what they take over from others: merge keys and `extends`. Source: the Compose specification.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::depth::refuse_deep;
use super::tree::{Node, Value, nodes};
use crate::sources::format::Beside;

/// How far services may extend each other.
const MAX_DEPTH: usize = 8;

/// Keys whose values are put together with those that are taken over.
const JOINED: &[&str] = &["volumes", "volumes_from", "tmpfs", "environment"];

/// What makes a file be one with the one that is called like this.
const OVERRIDES: &[&str] = &[
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
];

/// Keys by which another file changes what a container runs or sees.
const CHANGES: &[&str] =
    &["command", "entrypoint", "env_file", "environment", "extends", "image", "user", "volumes", "<<"];

/// How many of the YAML files beside a document are looked at.
const MOST_BESIDE: usize = 64;

/// The services of a document, and its volumes.
pub(super) struct Services(Option<Rc<Node>>, Option<Rc<Node>>);

/// A key with its value.
type Pair = (Rc<Node>, Rc<Node>);

impl Services {
    /// Those below the document's root.
    pub(super) fn of(root: &Node) -> Self {
        let mapping = |key: &str| root.get(key).filter(|all| matches!(all.value, Value::Mapping(_))).cloned();
        Self(mapping("services"), mapping("volumes"))
    }

    /// What the document says of a volume.
    pub(super) fn volume(&self, name: &str) -> Option<&Rc<Node>> {
        self.1.as_ref()?.get(name)
    }

    /// A service with what it takes over, and its own node.
    pub(super) fn named(&self, name: &str) -> Option<(Rc<Node>, Rc<Node>)> {
        let own = self.0.as_ref()?.get(name)?;
        Some((self.whole(own), Rc::clone(own)))
    }

    /// Whether a node describes one.
    pub(super) fn has(&self, node: &Rc<Node>) -> bool {
        let Some(Value::Mapping(all)) = self.0.as_ref().map(|all| &all.value) else { return false };
        all.iter().any(|(_, value)| Rc::ptr_eq(value, node))
    }

    /// What a node's service is called.
    pub(super) fn name(&self, node: &Rc<Node>) -> Option<String> {
        let Value::Mapping(all) = &self.0.as_ref()?.value else { return None };
        let (name, _) = all.iter().find(|(_, value)| Rc::ptr_eq(value, node))?;
        name.text().map(str::to_owned)
    }

    /// A service with what it takes over. What is in another file stays out.
    pub(super) fn whole(&self, node: &Rc<Node>) -> Rc<Node> {
        let value = Value::Mapping(self.pairs(node, 0));
        Rc::new(Node { value, span: node.span.clone() })
    }

    fn pairs(&self, node: &Node, depth: usize) -> Vec<Pair> {
        let Value::Mapping(own) = &node.value else { return Vec::new() };
        let mut pairs = own.clone();
        if depth == MAX_DEPTH {
            return pairs;
        }
        for merged in
            own.iter().filter(|(key, _)| key.text() == Some("<<")).flat_map(|(_, value)| targets(value))
        {
            take(&mut pairs, self.pairs(&merged, depth + 1), false);
        }
        let base = node.get("extends").filter(|given| given.get("file").is_none());
        let name = base.and_then(|given| given.text().or_else(|| given.get("service")?.text()));
        if let Some(base) = name.and_then(|name| self.0.as_ref()?.get(name)) {
            take(&mut pairs, self.pairs(base, depth + 1), true);
        }
        pairs
    }
}

/// The nodes that a merge key names.
fn targets(value: &Node) -> Vec<Rc<Node>> {
    match &value.value {
        Value::Alias(Some(other)) => vec![Rc::clone(other)],
        Value::Sequence(items) => items.iter().flat_map(|item| targets(item)).collect(),
        _ => Vec::new(),
    }
}

/// Takes over what is not there yet; `joins`: lists of both are put together, the own one last.
fn take(pairs: &mut Vec<Pair>, others: Vec<Pair>, joins: bool) {
    for (key, value) in others {
        let Some((_, own)) = pairs.iter_mut().find(|(own, _)| own.text() == key.text()) else {
            pairs.push((key, value));
            continue;
        };
        let is_joined = joins && key.text().is_some_and(|key| JOINED.contains(&key));
        let both = match (&value.value, &own.value) {
            (Value::Sequence(first), Value::Sequence(last)) => {
                Value::Sequence([first.clone(), last.clone()].concat())
            }
            (Value::Mapping(first), Value::Mapping(last)) => {
                Value::Mapping([first.clone(), last.clone()].concat())
            }
            _ => continue,
        };
        if is_joined {
            *own = Rc::new(Node { value: both, span: own.span.clone() });
        }
    }
}

/// What the file leaves to others: what to point at, what is missing, and what to do.
pub(super) fn remarks(node: &Node) -> Vec<(std::ops::Range<usize>, String, String)> {
    let remedy = || "see that it leaves the export visible and writable for QEMU's user".to_owned();
    let file = node.get("extends").and_then(|given| Some((given.span.clone(), given.get("file")?.text()?)));
    if let Some((at, file)) = file {
        let file = crate::text::escape(file.as_bytes());
        return vec![(
            at,
            format!("the service takes its other settings from {file}, which is not read here"),
            remedy(),
        )];
    }
    if node.get("image").is_none() && node.get("build").is_none() {
        let at = node.span.start..node.span.start;
        return vec![(
            at,
            "another Compose file has this service's image, and is not read here".to_owned(),
            remedy(),
        )];
    }
    Vec::new()
}

/// The services that other Compose files in `folder` change, with these files: the one that Compose takes by its name, and those
/// that only have parts of a service, as with `-f FILE -f FILE` or `COMPOSE_FILE`.
pub(super) fn changed(own: &Path, folder: &Path, beside: &dyn Beside) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let files = beside.files(folder);
    let is_yaml = |path: &&PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    for path in files.iter().filter(is_yaml).filter(|path| *path != own).take(MOST_BESIDE) {
        let Ok(Some(bytes)) = beside.file(path) else { continue };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        if !text.contains("services:") || refuse_deep(text.as_bytes()).is_err() {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for root in nodes(text).unwrap_or_default() {
            let Some(Value::Mapping(all)) = root.get("services").map(|all| &all.value) else { continue };
            let is_part = |node: &Node| {
                OVERRIDES.contains(&name)
                    || ["image", "build", "extends"].iter().all(|key| node.get(key).is_none())
            };
            let changes = |node: &Node| CHANGES.iter().any(|key| node.get(key).is_some());
            let changed = all.iter().filter(|(_, node)| is_part(node) && changes(node));
            found.extend(changed.filter_map(|(service, _)| Some((service.text()?.to_owned(), path.clone()))));
        }
    }
    found
}

/// The file that Compose reads together with the one of this name.
pub(super) fn override_of<'a>(name: &str, mut beside: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"))?;
    matches!(stem, "compose" | "docker-compose").then_some(())?;
    beside.find(|other| OVERRIDES.contains(other) && other.starts_with(stem))
}
