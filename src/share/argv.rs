//! QEMU's argument list → shares, and the edits by which a share becomes its `local` equivalent.
//!
//! The same functions serve running processes, shell scripts, systemd units, Proxmox's `args:`, YAML and JSON
//! documents and libvirt's `<qemu:arg>`: each of them is a lexer that yields [`Arg`]s and, for rewriting, a
//! [`Spelling`] that knows the way back.

#![forbid(unsafe_code)]

mod arg;
mod describe;
mod in_place;
mod memory;
mod model;
mod scan;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::rewrite::{Refusal, Rewrite};
use super::{Note, Part, Share, Transport, bounds, qemu_opts};
use crate::text::escape;
pub use arg::Arg;
pub(crate) use arg::{ArgEdit, ArgvShare, Spelling, Splice};
use describe::is_proxy;
pub(crate) use memory::{REST, memory};
use model::{GuestDevice, Model, Value};

/// What a part of a share costs that is held once more, in bytes.
const BASE: usize = 64;

/// The proxy shares of an argument list. Words that are not QEMU's (`sudo`, the program itself) don't disturb; what
/// is wrong with a share stands in its notes. A share that several devices name is several shares.
pub fn shares(args: &[Arg]) -> Vec<ArgvShare> {
    let model = Model::of(args);
    let mut devices: HashMap<&Value, Vec<&GuestDevice>> = HashMap::new();
    for device in model.devices.iter().filter(|device| device.is_9p()) {
        if let Some(fsdev) = device.get(b"fsdev") {
            devices.entry(fsdev).or_default().push(device);
        }
    }
    let mut ids = HashSet::new();
    let mut found = Vec::new();
    for fsdev in &model.fsdevs {
        let is_first = fsdev.id.as_ref().is_none_or(|id| ids.insert(id));
        if !is_proxy(fsdev) {
            continue;
        }
        let mut base = describe::fsdev(args, fsdev);
        if !is_first {
            base.share.notes.push(Note::Refused("another fsdev has the same id".into()));
        }
        // Two spellings of one variable are taken for one value.
        let own = fsdev.id.as_ref().and_then(|id| devices.get(id)).map_or(&[][..], Vec::as_slice);
        if fsdev.is_virtfs() {
            found.push(describe::with_virtfs_device(base.clone(), fsdev));
        } else if own.is_empty() {
            base.share.notes.push(if is_complete(args) { Note::NoDevice } else { Note::DeviceElsewhere });
            found.push(base.clone());
        }
        // A base is as large as what is set about it.
        let pays = |_: &&&GuestDevice| bounds::spend(BASE * (1 + base.args.len() + base.share.notes.len()));
        found.extend(
            own.iter().take_while(pays).map(|device| describe::with_device(args, base.clone(), device)),
        );
    }
    if !found.is_empty() {
        let memory = memory(args);
        for one in &mut found {
            one.share.memory.clone_from(&memory);
        }
    }
    found
}

/// Whether the list is all of QEMU's command line: it starts QEMU, and holds nothing that could stand for more.
fn is_complete(args: &[Arg]) -> bool {
    let name = |arg: &Arg| arg.value.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let is_qemu = |arg: &Arg| {
        let name = name(arg);
        name.starts_with(b"qemu-system-") || [&b"qemu"[..], b"qemu-kvm", b"kvm"].contains(&name.as_slice())
    };
    args.iter().all(|arg| arg.unknown.is_empty())
        && args.iter().any(is_qemu)
        && !args.iter().any(|arg| {
            arg.value == b"-readconfig" || arg.value == b"-preconfig" || arg.value.starts_with(b"@")
        })
}

/// The guest's name, as the last `-name` says it.
pub fn guest_name(args: &[Arg]) -> Option<Vec<u8>> {
    let word = scan::scan(args).into_iter().rfind(|word| word.kind == scan::Kind::Name)?;
    let arg = args.get(word.value)?;
    let opts = qemu_opts::parse(&arg.value, &arg.unknown, Some(b"guest"));
    let name = qemu_opts::last(&opts, b"guest").filter(|opt| !opt.unknown)?;
    Some(name.value.clone())
}

/// The tags of every 9p device of an argument list, over whatever backend.
pub fn mount_tags(args: &[Arg]) -> Vec<Vec<u8>> {
    let model = Model::of(args);
    let of_virtfs = model.fsdevs.iter().filter(|fsdev| fsdev.is_virtfs());
    let tags = of_virtfs.filter_map(|fsdev| fsdev.get(b"mount_tag"));
    let devices = model.devices.iter().filter(|device| device.is_9p());
    let tags = tags.chain(devices.filter_map(|device| device.get(b"mount_tag").cloned()));
    tags.filter(|tag| !tag.unknown).map(|tag| tag.bytes).collect()
}

/// The ids of the fsdevs and devices of an argument list whose argument `wanted` says yes to.
pub fn ids(args: &[Arg], wanted: impl Fn(usize) -> bool) -> Vec<Vec<u8>> {
    let model = Model::of(args);
    let fsdevs = model.fsdevs.iter().map(|fsdev| (fsdev.word.value, fsdev.id.as_ref()));
    let devices = model.devices.iter().map(|device| (device.word.value, device.id.as_ref()));
    let ids = fsdevs.chain(devices).filter(|(arg, _)| wanted(*arg));
    ids.filter_map(|(_, id)| id.map(|id| id.bytes.clone())).collect()
}

/// The edits by which each of `shares` becomes a `local` share of the path beside it, in place: ids, tags, order
/// and everything else stay.
pub fn rewrite(args: &[Arg], shares: &[(&ArgvShare, &Path)], how: &Rewrite) -> Result<Vec<ArgEdit>, Refusal> {
    refuse_twins(shares.iter().map(|(share, _)| &share.share))?;
    let model = Model::of(args);
    let mut edits: Vec<ArgEdit> = Vec::new();
    let mut done: Vec<(usize, &Path)> = Vec::new();
    for &(share, path) in shares {
        if let Some((_, other)) = done.iter().find(|(fsdev, _)| *fsdev == share.fsdev) {
            if *other == path {
                continue;
            }
            return Err(Refusal::at(
                share.share.place.line,
                format!("the fsdev {} would export two directories", escape(&share.share.fsdev)),
                "name one of them",
            ));
        }
        refuse_doubtful(&share.share)?;
        refuse_hidden_socket(&share.share)?;
        let fsdev = model.fsdevs.iter().find(|fsdev| fsdev.word.value == share.fsdev);
        let Some((fsdev, arg)) = fsdev.zip(args.get(share.fsdev)) else { continue };
        let readonly = how.readonly_of(&share.share)?;
        edits.extend(in_place::edits(fsdev, &arg.value, path, &how.local_for(path), readonly));
        done.push((share.fsdev, path));
    }
    Ok(edits)
}

/// Two shares of one guest with one tag: the guest would mount either, and `--export` could mean either.
pub(crate) fn refuse_twins<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Result<(), Refusal> {
    let mut tags = HashSet::new();
    for share in shares {
        let Some(tag) = &share.mount_tag else { continue };
        if !tags.insert(tag) {
            return Err(Refusal::at(
                share.place.line,
                format!("two shares have the tag {}", escape(tag)),
                "give one of them another tag first, here and in the guest's fstab",
            ));
        }
    }
    Ok(())
}

/// Stops at what QEMU refuses, and where not even the place of the socket is known. Everything else that is not known
/// stays as it is; the socket itself goes.
pub(crate) fn refuse_doubtful(share: &Share) -> Result<(), Refusal> {
    for note in &share.notes {
        match note {
            Note::Refused(reason) => {
                return Err(Refusal::at(
                    share.place.line,
                    format!("QEMU refuses the share {} as it stands: {reason}", share.title()),
                    "mend or remove it first",
                ));
            }
            Note::Unknown(..)
            | Note::UnknownOfDevice(_)
            | Note::NoDevice
            | Note::DeviceElsewhere
            | Note::OfInstance(..)
            | Note::Generated => {}
        }
    }
    Ok(())
}

/// Stops where the socket is in a part of which nothing is known: it can't be taken out there.
fn refuse_hidden_socket(share: &Share) -> Result<(), Refusal> {
    match (share.unknown(Part::More), &share.transport) {
        (Some(text), Transport::Unknown(socket)) if socket.is_empty() => Err(Refusal::at(
            share.place.line,
            format!("the socket of the share {} can only be in {}", share.title(), escape(text)),
            "change this share by hand; `--to qemu-args` prints what it should say",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
