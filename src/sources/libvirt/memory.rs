//! `<memoryBacking>` for virtiofs: virtiofsd maps the guest's memory, so libvirt must make it shared.

use roxmltree::Node;

use super::arguments::{Domain, elements};
use super::file::File;
use super::layout::Slot;
use crate::share::memory::{Memory, Plain};
use crate::share::rewrite::{Edit, Refusal};
use crate::share::virtiofs::MEMORY_BACKING;

/// The edit by which a domain's memory becomes shared; `None` where it is already.
pub(super) fn share(file: &File, domain: &Domain) -> Result<Option<Edit>, Refusal> {
    refuse_conflicts(file, domain)?;
    let Some(backing) = elements(domain.node, "memoryBacking").next() else {
        let slot = Slot::behind_memory(file.text, domain.node);
        let mut lines = vec!["<memoryBacking>".to_owned()];
        lines.extend(MEMORY_BACKING.iter().map(|line| format!("{}{line}", slot.unit)));
        lines.push("</memoryBacking>".to_owned());
        return Ok(Some(put(file, slot, &lines)));
    };
    let [source, access] = MEMORY_BACKING;
    let has = |name: &str| elements(backing, name).next().is_some();
    let mut lines = Vec::new();
    // Huge pages have a file of their own behind them.
    if !has("source") && !has("hugepages") {
        lines.push(source.to_owned());
    }
    if !has("access") {
        lines.push(access.to_owned());
    }
    if lines.is_empty() {
        return Ok(None);
    }
    Ok(Some(put(file, Slot::last_in(file.text, domain.node, backing), &lines)))
}

fn put(file: &File, slot: Slot, lines: &[String]) -> Edit {
    let text = lines.iter().fold(String::new(), |text, line| text + &slot.indent + line + slot.newline);
    let (before, after) = &slot.around;
    Edit { span: file.at(slot.span), with: format!("{before}{text}{after}").into_bytes() }
}

/// What the domain says of its memory and virtiofs can't have.
fn refuse_conflicts(file: &File, domain: &Domain) -> Result<(), Refusal> {
    let refuse = |node: Node, message: &str, remedy: &str| {
        Err(Refusal::at(Some(file.line(node.range().start)), message, remedy))
    };
    if let Some(backing) = elements(domain.node, "memoryBacking").next() {
        let is = |name: &str, attribute: &str, value: &str| {
            elements(backing, name).find(|node| node.attribute(attribute) == Some(value))
        };
        if let Some(node) = is("source", "type", "anonymous") {
            let message = "the domain asks for anonymous memory, which virtiofsd can't map";
            return refuse(node, message, "write <source type='memfd'/> in its place first");
        }
        if let Some(node) = is("access", "mode", "private") {
            let message = "the domain asks for private memory, and virtiofs needs shared memory";
            return refuse(node, message, "write <access mode='shared'/> in its place first");
        }
    }
    let numa = elements(domain.node, "cpu").flat_map(|cpu| elements(cpu, "numa"));
    let mut cells = numa.flat_map(|numa| elements(numa, "cell"));
    if let Some(node) = cells.find(|node| node.attribute("memAccess") == Some("private")) {
        let message = "a NUMA cell asks for private memory, and virtiofs needs shared memory";
        return refuse(node, message, "take memAccess='private' out of it first");
    }
    // Memory that is plugged in has a setting of its own.
    let mut modules = elements(domain.node, "devices").flat_map(|devices| elements(devices, "memory"));
    if let Some(node) = modules.find(|node| node.attribute("access") == Some("private")) {
        let message =
            "a <memory> device asks for private memory, and virtiofs needs all of the guest's memory shared";
        let remedy = "write access='shared' in its place first; what the guest writes into an NVDIMM is then stored in its file";
        return refuse(node, message, remedy);
    }
    if let Some(node) = unsaid_nvdimm(domain) {
        let message = "an NVDIMM keeps what the guest writes to itself, and would store it in its file once all of the memory is shared";
        return refuse(
            node,
            message,
            "write access='shared' into its <memory> first, if that file may change",
        );
    }
    let message = match crate::share::argv::memory(&domain.args) {
        Memory::Plain(Plain { size: None, .. }) => return Ok(()),
        Memory::Conflict(why) => why,
        Memory::Plain(_) | Memory::Shared => "QEMU's own arguments here say how the memory is made".into(),
    };
    let line = domain.args.first().map(|arg| arg.line);
    Err(Refusal::at(
        line,
        message,
        "take what speaks of memory out of <qemu:commandline> first, and say it by <memoryBacking>",
    ))
}

/// An NVDIMM that is private so far because nothing makes it shared.
fn unsaid_nvdimm<'a, 'input>(domain: &Domain<'a, 'input>) -> Option<Node<'a, 'input>> {
    let is_shared = |node: Node| node.attribute("mode") == Some("shared");
    let backing = elements(domain.node, "memoryBacking");
    if backing.flat_map(|backing| elements(backing, "access")).any(is_shared) {
        return None;
    }
    let cells = elements(domain.node, "cpu").flat_map(|cpu| elements(cpu, "numa"));
    let shared: Vec<_> = cells
        .flat_map(|numa| elements(numa, "cell"))
        .filter(|cell| cell.attribute("memAccess") == Some("shared"))
        .filter_map(|cell| cell.attribute("id"))
        .collect();
    let of_shared_node = |node: &Node| {
        let mut targets = elements(*node, "target").flat_map(|target| elements(target, "node"));
        targets.any(|number| number.text().is_some_and(|number| shared.contains(&number.trim())))
    };
    elements(domain.node, "devices")
        .flat_map(|devices| elements(devices, "memory"))
        .filter(|node| node.attribute("model") == Some("nvdimm"))
        .find(|node| node.attribute("access").is_none() && !of_shared_node(node))
}
