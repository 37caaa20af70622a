//! An fsdev and its device → the share that they make.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::arg::{Arg, ArgvShare};
use super::model::{Fsdev, GuestDevice, Value};
use super::scan::Word;
use crate::share::backend::Backend;
use crate::share::qemu_opts::{Form, Opt, boolean, is_id, number};
use crate::share::{Device, ExportPath, Note, Part, Place, Share, Transport};
use crate::text::escape;

/// What QEMU's proxy driver takes, and what `-virtfs` and `-fsdev` take around it.
const PARAMETERS: &[&[u8]] = &[b"id", b"fsdriver", b"readonly", b"socket", b"sock_fd", b"writeout"];

/// How many parameters that QEMU does not know are worth a word each.
const FEW: usize = 8;

/// The longest tag that QEMU takes, in bytes.
const LONGEST_TAG: usize = 31;

/// Whether an fsdev goes over the proxy backend. Only that takes a socket, which tells where the driver's name is
/// not statically known.
pub(super) fn is_proxy(fsdev: &Fsdev) -> bool {
    let has_socket = || fsdev.keys().any(|key| key == b"socket" || key == b"sock_fd");
    match fsdev.get(b"fsdriver") {
        Some(Value { unknown: false, bytes }) => bytes == Backend::sought().name(),
        Some(Value { unknown: true, .. }) => has_socket(),
        None => false,
    }
}

/// The share that an fsdev makes, without its device.
pub(super) fn fsdev(args: &[Arg], fsdev: &Fsdev) -> ArgvShare {
    let arg = args.get(fsdev.word.value).cloned().unwrap_or_default();
    let mut notes = Vec::new();
    let id = known(fsdev.id.clone(), &mut notes, of(Part::Id));
    match (&fsdev.id, &id) {
        (None, _) => notes.push(Note::Refused("it has no id".into())),
        (_, Some(id)) if !is_id(id) => notes.push(Note::Refused(format!("{} is no valid id", escape(id)))),
        _ => {}
    }
    known(fsdev.get(b"fsdriver"), &mut notes, of(Part::Driver));
    let more: Vec<_> = fsdev.opts.iter().filter(|opt| has_unknown_key(&arg, opt)).collect();
    for opt in more.iter().take(FEW) {
        let text = arg.value.get(opt.range.clone()).unwrap_or_default();
        notes.push(Note::Unknown(Part::More, text.to_vec()));
    }
    let transport = transport(fsdev, !more.is_empty(), &mut notes);
    let readonly = known(fsdev.get(b"readonly"), &mut notes, of(Part::Readonly));
    let readonlys = fsdev.all(b"readonly");
    let bad = |value: &&Value| !value.unknown && boolean(&value.bytes).is_none();
    for value in readonlys.iter().filter(bad).take(FEW) {
        notes.push(Note::Refused(format!("readonly={} is neither on nor off", escape(&value.bytes))));
    }
    let readonly = readonly.and_then(|text| boolean(&text)).unwrap_or(false);
    let writeout = known(fsdev.get(b"writeout"), &mut notes, of(Part::Writeout));
    let of_virtfs = |key: &[u8]| fsdev.is_virtfs() && key == b"mount_tag";
    let unknown = |key: &&[u8]| more.iter().any(|opt| opt.key == *key);
    let others = fsdev.keys().filter(|key| !of_virtfs(key) && !PARAMETERS.contains(key) && !unknown(key));
    for key in others.take(FEW) {
        notes.push(Note::Refused(format!("the proxy driver has no parameter {}", escape(key))));
    }
    if fsdev.sets.iter().any(|set| set.key == b"id") {
        notes.push(Note::Refused("-set can't change its id".into()));
    }
    let mut words = vec![fsdev.word];
    words.extend(fsdev.sets.iter().map(|set| set.word));
    ArgvShare {
        share: Share {
            fsdev: id.unwrap_or_default(),
            mount_tag: None,
            transport,
            socket_on_host: None,
            model: model(fsdev),
            readonly,
            writeout: writeout.as_deref() == Some(b"immediate"),
            device: None,
            place: Place { line: Some(arg.line), span: Some(arg.span), ..Place::default() },
            export: ExportPath::Unknown,
            memory: crate::share::memory::Memory::default(),
            notes,
        },
        fsdev: fsdev.word.value,
        virtfs: fsdev.is_virtfs(),
        device: None,
        args: indexes(words),
    }
}

/// The share with the device that `-virtfs` makes by itself.
pub(super) fn with_virtfs_device(mut share: ArgvShare, fsdev: &Fsdev) -> ArgvShare {
    let notes = &mut share.share.notes;
    // -virtfs copies its tag to the device before any -set is heard.
    let tag = fsdev.opts.iter().rfind(|opt| opt.key == b"mount_tag");
    if tag.is_none() {
        notes.push(Note::Refused("-virtfs wants a mount_tag".into()));
    }
    let tag = tag.map(|opt| Value { bytes: opt.value.clone(), unknown: opt.unknown });
    share.share.mount_tag = checked_tag(known(tag, notes, of(Part::Tag)), notes);
    share.share.device = Some(Device { driver: b"virtio-9p-pci".to_vec(), ..Device::default() });
    share
}

/// The share with a device.
pub(super) fn with_device(args: &[Arg], mut share: ArgvShare, device: &GuestDevice) -> ArgvShare {
    let notes = &mut share.share.notes;
    let mut get = |value: Option<Value>| known(value, notes, Note::UnknownOfDevice);
    let mut described = Device {
        driver: get(Some(device.driver.clone())).unwrap_or_else(|| device.driver.bytes.clone()),
        id: get(device.id.clone()),
        bus: get(device.get(b"bus").cloned()),
        addr: get(device.get(b"addr").cloned()),
        properties: Vec::new(),
    };
    // Text that stands for a value stays text: no reader takes it for an address.
    let own = [("id", device.id.as_ref()), ("bus", device.get(b"bus")), ("addr", device.get(b"addr"))];
    for (key, value) in own.into_iter().filter_map(|(key, value)| Some((key, value.filter(|v| v.unknown)?))) {
        described.properties.push((key.as_bytes().to_vec(), value.bytes.clone()));
    }
    let tag = get(device.get(b"mount_tag").cloned());
    let last: HashMap<_, _> = device.properties.iter().enumerate().map(|(at, (key, _))| (key, at)).collect();
    for (index, (key, value)) in device.properties.iter().enumerate() {
        let counts = last.get(key) == Some(&index);
        if counts && ![b"bus".as_slice(), b"addr", b"fsdev", b"mount_tag"].contains(&key.as_slice()) {
            let value = get(Some(value.clone())).unwrap_or_else(|| value.bytes.clone());
            described.properties.push((key.clone(), value));
        }
    }
    if device.get(b"mount_tag").is_none() {
        notes.push(Note::Refused("its device has no mount_tag".into()));
    }
    share.share.mount_tag = checked_tag(tag, notes);
    share.share.device = Some(described);
    share.device = Some(device.word.value);
    let mut words = vec![device.word];
    words.extend(device.sets.iter().map(|set| set.word));
    words.extend(&device.globals);
    share.args.extend(indexes(words));
    share.args.sort_unstable();
    share.args.dedup();
    debug_assert!(share.args.iter().all(|&arg| arg < args.len()));
    share
}

/// Whether not even the option's name is known.
fn has_unknown_key(arg: &Arg, opt: &Opt) -> bool {
    let end = if opt.form == Form::Keyed { opt.value_range.start } else { opt.range.end };
    opt.form != Form::Implied
        && arg.unknown.iter().any(|unknown| unknown.start < end && unknown.end > opt.range.start)
}

/// `more`: whether options of which the names are not known may say the rest.
fn transport(fsdev: &Fsdev, more: bool, notes: &mut Vec<Note>) -> Transport {
    if Backend::sought() == Backend::Local {
        let path = known(fsdev.get(b"path"), notes, of(Part::Socket));
        return path.map_or(Transport::Unknown(Vec::new()), |path| {
            Transport::Socket(OsString::from_vec(path).into())
        });
    }
    let (socket, fd) = (fsdev.get(b"socket"), fsdev.get(b"sock_fd"));
    if socket.is_some() == fd.is_some() && (socket.is_some() || !more) {
        let said =
            if socket.is_some() { "both a socket and a sock_fd" } else { "neither a socket nor a sock_fd" };
        notes.push(Note::Refused(format!("it has {said}")));
    }
    let descriptors = fsdev.all(b"sock_fd");
    let bad = |value: &&Value| !value.unknown && descriptor(&value.bytes).is_none();
    for value in descriptors.iter().filter(bad).take(FEW) {
        notes.push(Note::Refused(format!("sock_fd={} is no descriptor", escape(&value.bytes))));
    }
    match (socket, fd) {
        (Some(socket), _) => match known(Some(socket.clone()), notes, of(Part::Socket)) {
            Some(path) => Transport::Socket(OsString::from_vec(path).into()),
            None => Transport::Unknown(socket.bytes),
        },
        (None, Some(fd)) => match known(Some(fd.clone()), notes, of(Part::Socket)) {
            Some(text) => descriptor(&text).map_or_else(|| Transport::Unknown(text.clone()), Transport::Fd),
            None => Transport::Unknown(fd.bytes),
        },
        (None, None) => Transport::Unknown(Vec::new()),
    }
}

/// Where a share over the local backend keeps the guest's owners and modes.
fn model(fsdev: &Fsdev) -> Option<Vec<u8>> {
    let value = fsdev.get(b"security_model").filter(|_| Backend::sought() == Backend::Local)?;
    (!value.unknown).then_some(value.bytes)
}

fn descriptor(text: &[u8]) -> Option<i32> {
    number(text).and_then(|fd| i32::try_from(fd).ok())
}

fn checked_tag(tag: Option<Vec<u8>>, notes: &mut Vec<Note>) -> Option<Vec<u8>> {
    if let Some(tag) = &tag
        && tag.len() > LONGEST_TAG
    {
        notes.push(Note::Refused(format!("the tag {} is longer than {LONGEST_TAG} bytes", escape(tag))));
    }
    tag
}

/// The value where all of it is known; a note where it isn't.
fn known(value: Option<Value>, notes: &mut Vec<Note>, note: impl Fn(Vec<u8>) -> Note) -> Option<Vec<u8>> {
    let value = value?;
    if value.unknown {
        let note = note(value.bytes);
        if !notes.contains(&note) {
            notes.push(note);
        }
        return None;
    }
    Some(value.bytes)
}

/// The note of a part of the fsdev.
fn of(part: Part) -> impl Fn(Vec<u8>) -> Note {
    move |text| Note::Unknown(part, text)
}

fn indexes(words: Vec<Word>) -> Vec<usize> {
    let mut all: Vec<_> = words.into_iter().flat_map(|word| [word.option, word.value]).collect();
    all.sort_unstable();
    all
}
