//! A domain's proxy shares → `<filesystem>`, or the same arguments over `local` where that can't be.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

use super::address::Buses;
use super::arguments::{Domain, Holder, commandlines, elements};
use super::confinement;
use super::file::File;
use super::layout::{Slot, removals};
use super::memory;
use super::spelling::AttributeValue;
use crate::report::finding::{self, Finding, Kind};
use crate::share::argv::{self, ArgvShare, Spelling as _};
use crate::share::local::Unrepresentable;
use crate::share::rewrite::{Edit, Edits, Moved, Refusal, Rewrite};
use crate::share::target::{Element, Target};
use crate::share::{Note, Part, Share};
use crate::sources::format::Beside;
use crate::text::escape;

/// What becomes of a share.
enum Way {
    /// libvirt says it.
    Native(Box<Element>),
    /// Its argument stays, over `local`.
    InPlace,
}

/// A share on its way.
struct Move<'a> {
    found: &'a ArgvShare,
    export: PathBuf,
    way: Way,
}

/// The edits by which a domain's shares become `local` ones. Their places have no file yet.
pub(super) fn domain(
    file: &File,
    domain: &Domain,
    shares: &[ArgvShare],
    how: &Rewrite,
    beside: Option<&dyn Beside>,
) -> Result<Edits, Refusal> {
    let mut edits = Edits::default();
    let mut moves = plan(domain, shares, how, &mut edits.findings)?;
    if domain.holder == Holder::Domain && domain.node.attribute("id").is_some() {
        edits.findings.extend(shares.first().map(|first| live_dump(domain, first)));
    }
    // This says as well what QEMU would refuse, for all of them.
    let pairs: Vec<_> = moves.iter().map(|step| (step.found, step.export.as_path())).collect();
    let in_place = argv::rewrite(&domain.args, &pairs, how)?;
    refuse_taken_tags(domain, &moves, how.target)?;
    keep_together(&mut moves, domain, &mut edits.findings);
    name_apart(domain, &mut moves)?;
    for edit in in_place {
        let stays =
            moves.iter().any(|step| matches!(step.way, Way::InPlace) && step.found.args.contains(&edit.arg));
        if let Some(arg) = domain.args.get(edit.arg).filter(|_| stays) {
            edits.edits.extend(AttributeValue.respell(file.bytes(), arg, &edit.splices)?);
        }
    }
    edits.edits.extend(take_out(file, domain, &moves));
    edits.edits.extend(put_in(file, domain, &moves));
    if how.target == Target::Virtiofs && !moves.is_empty() {
        edits.edits.extend(memory::share(file, domain)?);
    }
    for step in moves {
        let share = how.answered(&step.found.share)?;
        let moved = Moved { share: placed(domain, &share), export: step.export, inside: None };
        let native = matches!(step.way, Way::Native(_));
        edits.findings.extend(confinement::findings(file, domain, &moved, native, beside));
        edits.moved.push(moved);
    }
    Ok(edits)
}

/// What surrounds a domain's shares, and no edits.
pub(super) fn look(
    file: &File,
    domain: &Domain,
    shares: &[ArgvShare],
    how: &Rewrite,
    native: bool,
    beside: Option<&dyn Beside>,
) -> Edits {
    let mut edits = Edits::default();
    for found in shares {
        let (Ok(share), Ok(export)) = (how.answered(&found.share), how.export_of(&found.share)) else {
            continue;
        };
        let moved = Moved { share: placed(domain, &share), export, inside: None };
        edits.findings.extend(confinement::findings(file, domain, &moved, native, beside));
        edits.moved.push(moved);
    }
    edits
}

/// Decides for each share how it is said.
fn plan<'a>(
    domain: &Domain,
    shares: &'a [ArgvShare],
    how: &Rewrite,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Move<'a>>, Refusal> {
    let mut buses = Buses::of(domain, shares);
    let held = matches!(
        domain.holder,
        Holder::Snapshot | Holder::Checkpoint | Holder::SavedImage | Holder::Stylesheet
    );
    let mut moves = Vec::new();
    for found in shares {
        let export = how.export_of(&found.share)?;
        findings.extend(how.doubt(&found.share).map(|mut doubt| {
            doubt.place.guest.clone_from(&domain.name);
            doubt
        }));
        let answered = how.answered(&found.share)?;
        // What is not known stays as it is where it stands.
        let unknown = answered.notes.iter().any(|note| match note {
            Note::Unknown(part, _) => !matches!(part, Part::Socket | Part::Driver),
            other => matches!(other, Note::UnknownOfDevice(_)),
        });
        let way = if how.in_place_args || held || unknown {
            if how.target != Target::Local {
                return Err(cannot_be_native(held, &answered));
            }
            Way::InPlace
        } else {
            let (settled, note) = buses.settle(&answered);
            match how.target.element(&settled, &export, &how.local_for(&export)) {
                Ok(element) => {
                    if let Some(note) = note {
                        findings.push(about(domain, found, &finding::SLOT_MAY_CHANGE, &note));
                    }
                    Way::Native(Box::new(element))
                }
                Err(Unrepresentable(reason)) if how.target != Target::Local => {
                    return Err(Refusal::at(answered.place.line, reason, NO_ELEMENT));
                }
                Err(Unrepresentable(reason)) => {
                    findings.push(about(domain, found, &finding::KEPT_AS_ARGUMENT, &reason));
                    Way::InPlace
                }
            }
        };
        moves.push(Move { found, export, way });
    }
    Ok(moves)
}

/// Only the local backend takes the place of the argument where that stands.
fn cannot_be_native(held: bool, share: &Share) -> Refusal {
    if held {
        let message = "the devices of a snapshot, a checkpoint or a saved image can't become others";
        let remedy = "shut the guest down, rewrite the domain itself, and drop the saved state; or leave out --backend";
        return Refusal::at(share.place.line, message, remedy);
    }
    Refusal::at(share.place.line, format!("not all of the share {} is known here", share.title()), NO_ELEMENT)
}

/// What to do where libvirt has no element for a share.
const NO_ELEMENT: &str =
    "change the share's arguments in this file first, or leave out --backend to move it to local";

/// Several devices of one fsdev go one way: its argument either stays or goes.
fn keep_together(moves: &mut [Move], domain: &Domain, findings: &mut Vec<Finding>) {
    let staying: BTreeSet<usize> =
        moves.iter().filter(|step| matches!(step.way, Way::InPlace)).map(|step| step.found.fsdev).collect();
    for step in moves {
        if matches!(step.way, Way::Native(_)) && staying.contains(&step.found.fsdev) {
            let reason = "another device needs its fsdev to stay";
            let line = step.found.share.place.line;
            findings
                .retain(|finding| finding.kind != &finding::SLOT_MAY_CHANGE || finding.place.line != line);
            findings.push(about(domain, step.found, &finding::KEPT_AS_ARGUMENT, reason));
            step.way = Way::InPlace;
        }
    }
}

/// Two devices of one kind with one tag: the guest would mount either.
fn refuse_taken_tags(domain: &Domain, moves: &[Move], target: Target) -> Result<(), Refusal> {
    let of_libvirt: Vec<&str> = filesystems(domain)
        .filter(|node| {
            let driver = elements(*node, "driver").next().and_then(|driver| driver.attribute("type"));
            (driver == Some("virtiofs")) == (target == Target::Virtiofs)
        })
        .filter_map(|node| elements(node, "target").next()?.attribute("dir"))
        .collect();
    let of_arguments = argv::mount_tags(&domain.args);
    for step in moves {
        let Some(tag) = &step.found.share.mount_tag else { continue };
        let others = of_arguments.iter().filter(|other| *other == tag).count();
        if others > 1 || of_libvirt.iter().any(|other| other.as_bytes() == tag) {
            return Err(Refusal::at(
                step.found.share.place.line,
                format!("the domain has another share with the tag {}", escape(tag)),
                "give one of them another tag first, in the domain and in the guest's fstab",
            ));
        }
    }
    Ok(())
}

/// Gives a new file system an alias of its own where libvirt's would meet an argument that stays.
fn name_apart(domain: &Domain, moves: &mut [Move]) -> Result<(), Refusal> {
    let gone: BTreeSet<usize> = leaving(moves).collect();
    let kept = argv::ids(&domain.args, |arg| !gone.contains(&arg));
    let mut taken: BTreeSet<String> =
        kept.iter().map(|id| String::from_utf8_lossy(id).into_owned()).collect();
    let aliases = domain.node.descendants().filter(|node| node.has_tag_name("alias"));
    let aliases = aliases.filter_map(|node| node.attribute("name")).filter(|name| name.starts_with("ua-"));
    taken.extend(aliases.map(str::to_owned));
    let meets = |taken: &BTreeSet<String>, name: &str| {
        taken.contains(name) || taken.contains(&format!("fsdev-{name}"))
    };
    // libvirt numbers the file systems that have no alias of the user's.
    let is_named = |node: &roxmltree::Node| {
        let alias = elements(*node, "alias").next().and_then(|alias| alias.attribute("name"));
        alias.is_some_and(|name| name.starts_with("ua-"))
    };
    let mut number = filesystems(domain).filter(|node| !is_named(node)).count();
    let natives = moves.iter_mut().filter_map(|step| match &mut step.way {
        Way::Native(element) => Some((step.found, element)),
        Way::InPlace => None,
    });
    for (found, element) in natives {
        if !meets(&taken, &format!("fs{number}")) {
            number += 1;
            continue;
        }
        let fsdev = String::from_utf8_lossy(&found.share.fsdev);
        let own: String =
            fsdev.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
        let names = std::iter::once(format!("ua-{own}")).chain((2..100).map(|n| format!("ua-{own}-{n}")));
        let name = names.into_iter().find(|name| !meets(&taken, name)).ok_or_else(|| {
            Refusal::at(
                found.share.place.line,
                format!("no alias is free for the share {}", found.share.title()),
                "take out the arguments whose ids begin with ua-, or use --in-place-args",
            )
        })?;
        taken.insert(name.clone());
        element.set_alias(name);
    }
    Ok(())
}

/// The arguments that go.
fn leaving<'a>(moves: &'a [Move]) -> impl Iterator<Item = usize> + 'a {
    let native = moves.iter().filter(|step| matches!(step.way, Way::Native(_)));
    native.flat_map(|step| step.found.args.iter().copied())
}

fn take_out(file: &File, domain: &Domain, moves: &[Move]) -> Vec<Edit> {
    let gone: BTreeSet<usize> = leaving(moves).collect();
    let gone: Vec<Range<usize>> =
        gone.into_iter().filter_map(|index| Some(domain.elements.get(index)?.range())).collect();
    let mut ranges = Vec::new();
    for line in commandlines(domain.node) {
        let inside: Vec<_> =
            gone.iter().filter(|range| line.range().contains(&range.start)).cloned().collect();
        let is_gone = |node: roxmltree::Node| inside.contains(&node.range());
        let is_empty = line.children().all(|node| {
            is_gone(node) || node.is_text() && node.text().is_none_or(|text| text.trim().is_empty())
        });
        if is_empty && !inside.is_empty() {
            ranges.push(line.range());
        } else {
            ranges.extend(inside);
        }
    }
    let spans = removals(file.text, ranges).into_iter();
    spans.map(|range| Edit { span: file.at(range), with: Vec::new() }).collect()
}

fn put_in(file: &File, domain: &Domain, moves: &[Move]) -> Option<Edit> {
    let slot = Slot::of(file.text, domain.node);
    let elements: String = moves
        .iter()
        .filter_map(|step| match &step.way {
            Way::Native(element) => Some(element.print(&slot.indent, &slot.unit, slot.newline)),
            Way::InPlace => None,
        })
        .collect();
    if elements.is_empty() {
        return None;
    }
    let (before, after) = &slot.around;
    // Where more follows on the line, that brings its own line's end.
    Some(Edit { span: file.at(slot.span), with: format!("{before}{elements}{after}").into_bytes() })
}

fn filesystems<'a, 'input>(
    domain: &Domain<'a, 'input>,
) -> impl Iterator<Item = roxmltree::Node<'a, 'input>> + use<'a, 'input> {
    elements(domain.node, "devices").flat_map(|devices| elements(devices, "filesystem"))
}

fn placed(domain: &Domain, share: &Share) -> Share {
    let mut share = share.clone();
    share.place.guest.clone_from(&domain.name);
    share
}

fn about(domain: &Domain, found: &ArgvShare, kind: &'static Kind, reason: &str) -> Finding {
    let share = placed(domain, &found.share);
    Finding {
        kind,
        message: format!("{}: {reason}", share.title()),
        place: share.place,
        remedy: None,
        subject: None,
    }
}

/// What libvirt adds to a running guest's XML does not last, and its secrets are left out.
fn live_dump(domain: &Domain, first: &ArgvShare) -> Finding {
    let reason = "the file is the XML of the running guest, not its lasting configuration: take `virsh dumpxml \
                  --inactive --security-info`";
    about(domain, first, &finding::LIVE_DUMP, reason)
}
