//! Where in a file the domains are, and which arguments each passes to QEMU.

use std::ops::Range;

use roxmltree::{Document as Xml, Node};

use super::file::File;
use crate::share::argv::Arg;
use crate::sources::templates::all_expressions;

/// The namespace of `<qemu:commandline>`, whatever its prefix.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// The namespace of stylesheets.
const XSL: &str = "http://www.w3.org/1999/XSL/Transform";

/// What holds a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sources) enum Holder {
    /// Nothing: the file is the domain.
    Domain,
    /// libvirt's own notes on a running guest.
    Status,
    /// A snapshot.
    Snapshot,
    /// A checkpoint.
    Checkpoint,
    /// A saved image.
    SavedImage,
    /// A stylesheet, which puts arguments into domains.
    Stylesheet,
    /// Something else: a backup, a collection.
    Other,
}

/// A domain in a file.
#[derive(Debug)]
pub(super) struct Domain<'a, 'input> {
    pub node: Node<'a, 'input>,
    pub holder: Holder,
    /// `<name>`.
    pub name: Option<Vec<u8>>,
    /// What its `<qemu:commandline>`s pass to QEMU. The spans are the values', between their quotes.
    pub args: Vec<Arg>,
    /// The element of each argument.
    pub elements: Vec<Node<'a, 'input>>,
}

/// The domains of a file, none inside another.
pub(super) fn domains<'a, 'input>(file: &File, xml: &'a Xml<'input>) -> Vec<Domain<'a, 'input>> {
    let root = xml.root_element();
    if root.tag_name().namespace() == Some(XSL) {
        let templates = root.descendants().filter(|node| commandlines(*node).next().is_some());
        return templates.map(|node| Domain::of(file, node, Holder::Stylesheet)).collect();
    }
    let mut found = Vec::new();
    let mut inside = 0;
    for node in root.descendants() {
        // Nodes come in document order: what begins before the last domain ends is inside it.
        let is_domain = node.is_element() && matches!(node.tag_name().name(), "domain" | "inactiveDomain");
        if is_domain && node.range().start >= inside {
            inside = node.range().end;
            found.push(Domain::of(file, node, holder(file, node)));
        }
    }
    found
}

/// What holds a domain: the innermost element around it that says so.
fn holder(file: &File, domain: Node) -> Holder {
    if file.is_saved_image() {
        return Holder::SavedImage;
    }
    let around = domain.ancestors().skip(1).find_map(|node| match node.tag_name().name() {
        "domstatus" => Some(Holder::Status),
        "domainsnapshot" => Some(Holder::Snapshot),
        "domaincheckpoint" => Some(Holder::Checkpoint),
        _ => None,
    });
    let alone = domain.parent_element().is_none();
    around.unwrap_or(if alone { Holder::Domain } else { Holder::Other })
}

impl<'a, 'input> Domain<'a, 'input> {
    fn of(file: &File, node: Node<'a, 'input>, holder: Holder) -> Self {
        let name = elements(node, "name").next().and_then(|name| name.text());
        let arguments = commandlines(node).flat_map(|line| line.children());
        let (elements, mut args): (Vec<_>, Vec<Arg>) =
            arguments.filter_map(|arg| argument(file, arg)).unzip();
        if holder == Holder::Stylesheet {
            for arg in &mut args {
                arg.unknown = value_templates(&arg.value);
            }
        }
        Self { node, holder, name: name.map(|name| name.as_bytes().to_vec()), args, elements }
    }
}

/// The expressions `{…}` of an attribute of a stylesheet.
fn value_templates(value: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = value.get(at..).and_then(|rest| memchr::memchr(b'{', rest)) {
        let open = at + open;
        let end = value.get(open..).and_then(|rest| memchr::memchr(b'}', rest));
        at = end.map_or(value.len(), |end| open + end + 1);
        found.push(open..at);
    }
    found
}

/// The domain's command lines. libvirt heeds only those directly below it.
pub(super) fn commandlines<'a, 'input>(
    domain: Node<'a, 'input>,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input> {
    domain.children().filter(|node| node.has_tag_name((QEMU, "commandline")))
}

/// The child elements of that name, in libvirt's own namespace.
pub(super) fn elements<'a, 'input, 'n>(
    parent: Node<'a, 'input>,
    name: &'n str,
) -> impl Iterator<Item = Node<'a, 'input>> + use<'a, 'input, 'n> {
    parent.children().filter(move |node| node.is_element() && node.tag_name().name() == name)
}

fn argument<'a, 'input>(file: &File, node: Node<'a, 'input>) -> Option<(Node<'a, 'input>, Arg)> {
    if !node.has_tag_name((QEMU, "arg")) {
        return None;
    }
    let attribute = node.attributes().find(|attribute| attribute.name() == "value")?;
    let range = attribute.range();
    let text = file.text.get(range.clone()).unwrap_or_default();
    // From behind the first quote to before the last.
    let open = text.find(['\'', '"']).unwrap_or(0);
    let span = file.at(range.start + open + 1..range.end - 1);
    let line = file.line(node.range().start);
    let value = attribute.value().as_bytes().to_vec();
    // libvirt expands nothing: what looks so is filled in before it reads the file.
    let unknown = all_expressions(&value);
    Some((node, Arg { value, unknown, span, line }))
}
