//! Which arguments are options, and which are an option's value.

use super::arg::Arg;

/// The options that shares are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fsdev,
    Virtfs,
    Device,
    Set,
    Global,
    Name,
}

/// An option with its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    pub kind: Kind,
    /// The index of the option itself.
    pub option: usize,
    /// The index of its value.
    pub value: usize,
}

/// QEMU's other options that take the next argument, whatever that looks like: QEMU 2.0's to 10's.
const TAKES_A_VALUE: &[&str] = &[
    "accel",
    "acpitable",
    "action",
    "add-fd",
    "alt-grab-mod",
    "append",
    "audio",
    "audiodev",
    "balloon",
    "bios",
    "blockdev",
    "boot",
    "bt",
    "cdrom",
    "chardev",
    "chroot",
    "clock",
    "compat",
    "cpu",
    "cursor",
    "D",
    "d",
    "debugcon",
    "dfilter",
    "display",
    "drive",
    "dtb",
    "dump-vmstate",
    "echr",
    "fda",
    "fdb",
    "fw_cfg",
    "g",
    "gdb",
    "hda",
    "hdachs",
    "hdb",
    "hdc",
    "hdd",
    "icount",
    "incoming",
    "initrd",
    "iscsi",
    "k",
    "kernel",
    "L",
    "loadvm",
    "M",
    "m",
    "machine",
    "mem-path",
    "mon",
    "monitor",
    "msg",
    "mtdblock",
    "net",
    "netdev",
    "nic",
    "numa",
    "object",
    "option-rom",
    "overcommit",
    "parallel",
    "perfmap-file",
    "pflash",
    "pidfile",
    "plugin",
    "prom-env",
    "qmp",
    "qmp-pretty",
    "qtest",
    "qtest-log",
    "readconfig",
    "rotate",
    "rtc",
    "run-with",
    "runas",
    "sandbox",
    "sd",
    "seed",
    "serial",
    "shim",
    "smbios",
    "smp",
    "soundhw",
    "spice",
    "startdate",
    "tb-size",
    "tpmdev",
    "trace",
    "usbdevice",
    "uuid",
    "vga",
    "virtioconsole",
    "vnc",
    "watchdog",
    "watchdog-action",
    "writeconfig",
    "xen-domid",
];

/// An option with its value, whatever option it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Valued<'a> {
    /// Its name, without its one or two dashes.
    pub option: &'a [u8],
    /// Its value.
    pub value: &'a Arg,
}

/// Every option that takes a value and has one.
pub(crate) fn valued(args: &[Arg]) -> Vec<Valued<'_>> {
    let mut found = Vec::new();
    walk(args, |option, at| found.extend(args.get(at + 1).map(|value| Valued { option, value })));
    found
}

/// An argument that may stand for any number of others: a variable that is neither an option's value nor the program.
pub(super) fn loose(args: &[Arg]) -> Option<&Arg> {
    let mut values = vec![false; args.len()];
    walk(args, |_, at| values.iter_mut().skip(at + 1).take(1).for_each(|value| *value = true));
    let may_be_more = |(at, arg): &(usize, &Arg)| {
        let begins_unknown = arg.unknown.first().is_some_and(|range| range.start == 0);
        let is_list = arg.value.starts_with(b"@");
        !values.get(*at).is_some_and(|value| *value) && (is_list || begins_unknown && *at > 0)
    };
    args.iter().enumerate().find(may_be_more).map(|(_, arg)| arg)
}

/// The options that shares are made of, each with its value. A word that no QEMU knows as an option, or that takes no
/// value, stands alone.
pub(super) fn scan(args: &[Arg]) -> Vec<Word> {
    let mut words = Vec::new();
    walk(args, |name, at| {
        if let Some(kind) = kind(name)
            && at + 1 < args.len()
        {
            words.push(Word { kind, option: at, value: at + 1 });
        }
    });
    words
}

fn kind(name: &[u8]) -> Option<Kind> {
    match name {
        b"fsdev" => Some(Kind::Fsdev),
        b"virtfs" => Some(Kind::Virtfs),
        b"device" => Some(Kind::Device),
        b"set" => Some(Kind::Set),
        b"global" => Some(Kind::Global),
        b"name" => Some(Kind::Name),
        _ => None,
    }
}

/// Calls `each` with the name and the index of every option that takes a value.
fn walk<'a>(args: &'a [Arg], mut each: impl FnMut(&'a [u8], usize)) {
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        let Some(name) = option_name(arg) else {
            at += 1;
            continue;
        };
        if kind(name).is_some() || TAKES_A_VALUE.iter().any(|known| known.as_bytes() == name) {
            each(name, at);
            at += 2;
        } else {
            at += 1;
        }
    }
}

/// The option that an argument is, without its one or two dashes.
fn option_name(arg: &Arg) -> Option<&[u8]> {
    if !arg.unknown.is_empty() {
        return None;
    }
    let name = arg.value.strip_prefix(b"-")?;
    Some(name.strip_prefix(b"-").unwrap_or(name))
}
