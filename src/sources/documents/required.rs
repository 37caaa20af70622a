//! Compose's services that are not started without the helper's.
//!
//! Source: the Compose specification, `depends_on`, `network_mode`, `volumes_from`.

use std::path::Path;
use std::rc::Rc;

use super::containers::container;
use super::tree::{Node, Value};
use crate::share::rewrite::Edit;
use crate::sources::lexed::Required;

/// What the services of a document require of the helper's.
pub(super) fn required(file: &str, root: &Rc<Node>, folder: Option<&Path>) -> Vec<Required> {
    let Some(Value::Mapping(services)) = root.get("services").map(|node| &node.value) else {
        return Vec::new();
    };
    let is_helper =
        |service: &Rc<Node>| container(file, service, None, folder).is_some_and(|it| it.helper().is_some());
    let helpers =
        services.iter().filter(|(_, service)| is_helper(service)).filter_map(|(name, _)| name.text());
    let helpers: Vec<&str> = helpers.collect();
    let mut found = Vec::new();
    for (_, service) in
        services.iter().filter(|_| !helpers.is_empty()).filter(|(_, service)| !is_helper(service))
    {
        depends(file, service, &helpers, &mut found);
        let texts = ["network_mode", "ipc", "pid"].iter().filter_map(|key| Some((*key, service.get(key)?)));
        for (key, node) in texts {
            let other = node.text().and_then(|text| text.strip_prefix("service:"));
            if let Some(other) = other.filter(|other| helpers.contains(other)) {
                let said = format!("{key}: service:{other}");
                found.push(Required { span: node.span.clone(), said, edits: Vec::new() });
            }
        }
        if let Some(Value::Sequence(items)) = service.get("volumes_from").map(|node| &node.value) {
            for item in items {
                let other = item.text().and_then(|text| text.split(':').next());
                if let Some(other) = other.filter(|other| helpers.contains(other)) {
                    let said = format!("volumes_from: {other}");
                    found.push(Required { span: item.span.clone(), said, edits: Vec::new() });
                }
            }
        }
    }
    found
}

fn depends(file: &str, service: &Node, helpers: &[&str], found: &mut Vec<Required>) {
    let Value::Mapping(pairs) = &service.value else { return };
    let Some((key, list)) = pairs.iter().find(|(key, _)| key.text() == Some("depends_on")) else { return };
    let items: Vec<(&Rc<Node>, usize)> = match &list.value {
        Value::Sequence(items) => items.iter().map(|item| (item, item.span.end)).collect(),
        Value::Mapping(pairs) => pairs.iter().map(|(name, value)| (name, value.span.end)).collect(),
        _ => return,
    };
    let goes = |node: &Rc<Node>| node.text().is_some_and(|text| helpers.contains(&text));
    let is_flow = matches!(file.as_bytes().get(list.span.start), Some(b'[' | b'{'));
    let all = items.iter().all(|(node, _)| goes(node));
    for (at, (node, end)) in items.iter().enumerate().filter(|(_, (node, _))| goes(node)) {
        let edit = match (all, is_flow) {
            // The key goes with the last of them.
            (true, _) if at + 1 == items.len() => {
                lines(file, key.span.start, list.span.end.min(if is_flow { list.span.end } else { *end }))
            }
            (true, _) | (_, true) => None,
            (false, false) => lines(file, node.span.start, *end),
        };
        let said = format!("depends_on: {}", node.text().unwrap_or_default());
        found.push(Required { span: node.span.clone(), said, edits: edit.into_iter().collect() });
    }
}

/// Takes the whole lines out that `start..end` is on, where nothing else is on them.
fn lines(file: &str, start: usize, end: usize) -> Option<Edit> {
    let from = file.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let before = file.get(from..start)?.trim();
    if !(before.is_empty() || before == "-") {
        return None;
    }
    let used = file.get(start..end)?.trim_end().len();
    let rest = file.get(start + used..)?;
    let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
    let behind = rest.get(..length)?.trim();
    if !(behind.is_empty() || behind.starts_with('#')) {
        return None;
    }
    Some(Edit { span: from..start + used + length, with: Vec::new() })
}
