//! The fsdevs and devices of an argument list, with what `-set` and `-global` add to them.

use std::ops::Range;

use super::arg::Arg;
use super::scan::{Kind, Word, scan};
use crate::share::bounds;
use crate::share::qemu_opts::{self, Opt};

/// More options of the kinds that shares are made of than any guest has: each is held against each other.
const MOST_WORDS: usize = 2048;

/// What a setting costs that is held once more, in bytes.
const SET: usize = 256;

/// The longest argument that Linux hands over to a program, in bytes.
const LONGEST_ARGUMENT: usize = 128 << 10;

/// A value, and whether all of it is statically known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Value {
    pub bytes: Vec<u8>,
    pub unknown: bool,
}

/// An fsdev, by `-fsdev` or `-virtfs`.
#[derive(Debug)]
pub(super) struct Fsdev {
    pub word: Word,
    pub opts: Vec<Opt>,
    pub sets: Vec<Set>,
    /// `None`: it has none, which QEMU refuses.
    pub id: Option<Value>,
}

/// A guest's device, by `-device`.
#[derive(Debug)]
pub(super) struct GuestDevice {
    pub word: Word,
    pub driver: Value,
    pub id: Option<Value>,
    /// All of its properties but the driver and the id, those of `-set` last; the last of a name counts.
    pub properties: Vec<(Vec<u8>, Value)>,
    pub sets: Vec<Set>,
    /// The `-global`s that give it its fsdev or its tag.
    pub globals: Vec<Word>,
}

/// A `-set group.id.key=value`.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub word: Word,
    group: Vec<u8>,
    id: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Value,
    pub key_range: Range<usize>,
    pub value_range: Range<usize>,
}

/// A `-global driver.property=value`.
#[derive(Debug)]
struct Global {
    word: Word,
    driver: Vec<u8>,
    property: Vec<u8>,
    value: Value,
}

/// What an argument list says about shares.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub fsdevs: Vec<Fsdev>,
    pub devices: Vec<GuestDevice>,
}

impl Model {
    pub(super) fn of(args: &[Arg]) -> Self {
        let mut words = scan(args);
        if words.len() > MOST_WORDS {
            bounds::cut(
                "an argument list has thousands of devices, shares and settings, and was not read further",
            );
            words.truncate(MOST_WORDS);
        }
        let of_kind = |kind| words.iter().copied().filter(move |word: &Word| word.kind == kind);
        let sets: Vec<_> =
            of_kind(Kind::Set).filter_map(|word| Set::of(word, args.get(word.value)?)).collect();
        let globals: Vec<_> =
            of_kind(Kind::Global).filter_map(|word| Global::of(word, args.get(word.value)?)).collect();
        let mut model = Self::default();
        for word in &words {
            let Some(arg) = args.get(word.value) else { continue };
            match word.kind {
                Kind::Fsdev | Kind::Virtfs => model.fsdevs.push(Fsdev::of(*word, arg, &sets)),
                Kind::Device => model.devices.extend(GuestDevice::of(*word, arg, &sets, &globals)),
                Kind::Set | Kind::Global | Kind::Name => {}
            }
        }
        model
    }
}

impl Fsdev {
    fn of(word: Word, arg: &Arg, sets: &[Set]) -> Self {
        let opts = parse(arg, Some(b"fsdriver"));
        let named = qemu_opts::id(&opts);
        let named =
            named.or_else(|| qemu_opts::last(&opts, b"mount_tag").filter(|_| word.kind == Kind::Virtfs));
        let id = named.map(|opt| Value { bytes: opt.value.clone(), unknown: opt.unknown });
        let sets = id.as_ref().map(|id| Set::meant(sets, b"fsdev", &id.bytes)).unwrap_or_default();
        Self { word, opts, sets, id }
    }

    pub(super) fn is_virtfs(&self) -> bool {
        self.word.kind == Kind::Virtfs
    }

    /// The value that counts.
    pub(super) fn get(&self, key: &[u8]) -> Option<Value> {
        if let Some(set) = self.sets.iter().rev().find(|set| set.key == key) {
            return Some(set.value.clone());
        }
        let opt = qemu_opts::last(&self.opts, key)?;
        Some(Value { bytes: opt.value.clone(), unknown: opt.unknown })
    }

    /// Every value that it says of a key: QEMU looks at those that don't count, too.
    pub(super) fn all(&self, key: &[u8]) -> Vec<Value> {
        let opts = self.opts.iter().filter(|opt| opt.key == key);
        let values = opts.map(|opt| Value { bytes: opt.value.clone(), unknown: opt.unknown });
        let sets = self.sets.iter().filter(|set| set.key == key).map(|set| set.value.clone());
        values.chain(sets).collect()
    }

    /// Every key that it says.
    pub(super) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        let sets = self.sets.iter().map(|set| set.key.as_slice());
        self.opts.iter().map(|opt| opt.key.as_slice()).chain(sets)
    }
}

impl GuestDevice {
    fn of(word: Word, arg: &Arg, sets: &[Set], globals: &[Global]) -> Option<Self> {
        let all = properties(arg, b"driver")?;
        let mut device = Self {
            word,
            driver: Value { bytes: Vec::new(), unknown: false },
            id: None,
            properties: Vec::new(),
            sets: Vec::new(),
            globals: Vec::new(),
        };
        for (key, value) in all {
            match key.as_slice() {
                b"driver" => device.driver = value,
                b"id" if device.id.is_none() => device.id = Some(value),
                b"id" => {}
                _ => device.properties.push((key, value)),
            }
        }
        if let Some(id) = &device.id {
            device.sets = Set::meant(sets, b"device", &id.bytes);
        }
        for set in &device.sets {
            device.properties.push((set.key.clone(), set.value.clone()));
        }
        let heeded: Vec<_> = globals.iter().filter(|global| device.heeds(global)).collect();
        for property in [b"fsdev".as_slice(), b"mount_tag"] {
            let last = heeded.iter().rfind(|global| global.property == property);
            if let Some(global) = last.filter(|_| device.get(property).is_none()) {
                device.properties.push((property.to_vec(), global.value.clone()));
            }
        }
        device.globals = heeded.iter().map(|global| global.word).collect();
        Some(device)
    }

    /// Whether a `-global` says this device's fsdev or tag.
    fn heeds(&self, global: &Global) -> bool {
        // virtio-9p is another name of virtio-9p-pci, or of virtio-9p-ccw.
        let own = self.driver.bytes.as_slice();
        let own = if own == b"virtio-9p" { b"virtio-9p-pci" } else { own };
        let drivers = [b"virtio-9p-device".as_slice(), b"virtio-9p-pci-base", own];
        self.is_9p()
            && drivers.contains(&global.driver.as_slice())
            && matches!(global.property.as_slice(), b"fsdev" | b"mount_tag")
    }

    pub(super) fn is_9p(&self) -> bool {
        self.driver.unknown || self.driver.bytes.starts_with(b"virtio-9p")
    }

    /// The value that counts.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.properties.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

impl Set {
    fn of(word: Word, arg: &Arg) -> Option<Self> {
        let text = &arg.value;
        let group_end = text.iter().position(|&byte| byte == b'.')?;
        let id_end = group_end + 1 + text.get(group_end + 1..)?.iter().position(|&byte| byte == b'.')?;
        let key_end = id_end + 1 + text.get(id_end + 1..)?.iter().position(|&byte| byte == b'=')?;
        let key_range = id_end + 1..key_end;
        let value_range = key_end + 1..text.len();
        if arg.unknown.iter().any(|unknown| unknown.start < key_end) {
            return None;
        }
        Some(Self {
            word,
            group: text.get(..group_end)?.to_vec(),
            id: text.get(group_end + 1..id_end)?.to_vec(),
            key: text.get(key_range.clone())?.to_vec(),
            value: Value { bytes: text.get(value_range.clone())?.to_vec(), unknown: !arg.unknown.is_empty() },
            key_range,
            value_range,
        })
    }

    /// Those that speak of one thing.
    fn meant(sets: &[Self], group: &[u8], id: &[u8]) -> Vec<Self> {
        let meant = sets.iter().filter(|set| set.group == group && set.id == id);
        meant.take_while(|set| bounds::spend(SET + set.value.bytes.len())).cloned().collect()
    }
}

impl Global {
    fn of(word: Word, arg: &Arg) -> Option<Self> {
        let opts = parse(arg, None);
        if let (Some(driver), Some(property), Some(value)) = (
            qemu_opts::last(&opts, b"driver"),
            qemu_opts::last(&opts, b"property"),
            qemu_opts::last(&opts, b"value"),
        ) {
            return Some(Self {
                word,
                driver: driver.value.clone(),
                property: property.value.clone(),
                value: Value { bytes: value.value.clone(), unknown: value.unknown },
            });
        }
        // The short form takes its value as it stands, commas and all.
        let dot = arg.value.iter().position(|&byte| byte == b'.')?;
        let equals = dot + 1 + arg.value.get(dot + 1..)?.iter().position(|&byte| byte == b'=')?;
        Some(Self {
            word,
            driver: arg.value.get(..dot)?.to_vec(),
            property: arg.value.get(dot + 1..equals)?.to_vec(),
            value: Value { bytes: arg.value.get(equals + 1..)?.to_vec(), unknown: !arg.unknown.is_empty() },
        })
    }
}

/// An argument's options; none of one that no program could be started with.
fn parse(arg: &Arg, first: Option<&[u8]>) -> Vec<Opt> {
    if arg.value.len() > LONGEST_ARGUMENT {
        bounds::cut("an argument is longer than any program can be started with, and was not read");
        return Vec::new();
    }
    qemu_opts::parse(&arg.value, &arg.unknown, first)
}

/// What an argument says of a device or an object, as an option string or as JSON; `None` where it is neither. `implied` is the key of
/// the first word.
pub(super) fn properties(arg: &Arg, implied: &[u8]) -> Option<Vec<(Vec<u8>, Value)>> {
    if arg.value.starts_with(b"{") && arg.value.len() <= LONGEST_ARGUMENT {
        return json_properties(arg);
    }
    let opts = parse(arg, Some(implied)).into_iter();
    Some(opts.map(|opt| (opt.key, Value { bytes: opt.value, unknown: opt.unknown })).collect())
}

/// The members of a JSON object, as text.
fn json_properties(arg: &Arg) -> Option<Vec<(Vec<u8>, Value)>> {
    use serde_json::Value as Json;
    let unknown_texts: Vec<_> = arg.unknown.iter().filter_map(|range| arg.value.get(range.clone())).collect();
    let object: serde_json::Map<String, Json> = serde_json::from_slice(&arg.value)
        .or_else(|_| serde_json::from_slice(&double_quoted(&arg.value)))
        .ok()?;
    let text = |key: &str, json: Json| match json {
        Json::String(text) => text.into_bytes(),
        Json::Bool(true) => b"on".to_vec(),
        Json::Bool(false) => b"off".to_vec(),
        // As a number, the address is QEMU's devfn: the slot times eight, and the function.
        Json::Number(number) if key == "addr" => match number.as_u64() {
            Some(devfn) => format!("{:x}.{}", devfn >> 3, devfn & 7).into_bytes(),
            None => number.to_string().into_bytes(),
        },
        other => other.to_string().into_bytes(),
    };
    let members = object.into_iter().map(|(key, json)| {
        let bytes = text(&key, json);
        let unknown = unknown_texts.iter().any(|part| contains(&bytes, part));
        (key.into_bytes(), Value { bytes, unknown })
    });
    Some(members.collect())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && text.windows(part.len()).any(|window| window == part)
}

/// QEMU's JSON allows strings in single quotes; this makes JSON of them.
fn double_quoted(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut quote = None;
    let mut escaped = false;
    for &byte in text {
        match quote {
            None if byte == b'\'' || byte == b'"' => {
                quote = Some(byte);
                out.push(b'"');
            }
            Some(_) if escaped => {
                escaped = false;
                // JSON knows no \'.
                if byte == b'\'' {
                    out.pop();
                }
                out.push(byte);
            }
            Some(open) if byte == open => {
                quote = None;
                out.push(b'"');
            }
            Some(b'\'') if byte == b'"' => out.extend_from_slice(b"\\\""),
            _ => {
                escaped = quote.is_some() && byte == b'\\';
                out.push(byte);
            }
        }
    }
    out
}
