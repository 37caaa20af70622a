//! How a guest's memory is made, as an argument list says it.

#![forbid(unsafe_code)]

use super::arg::Arg;
use super::scan::{Valued, valued};
use crate::share::memory::Memory;
use crate::share::qemu_opts::{self, Opt, boolean};
use crate::text::escape;

/// What the arguments say of memory.
#[derive(Default)]
struct Said {
    size: Option<u64>,
    /// `-machine memory-backend=`.
    machine: Option<Opt>,
    /// The options of each `-object memory-backend-…`.
    backends: Vec<Vec<Opt>>,
    /// `memdev=` of each `-numa node`.
    nodes: Vec<Option<Opt>>,
}

/// What an argument list says of its guest's memory.
pub fn memory(args: &[Arg]) -> Memory {
    let said = match Said::of(args) {
        Ok(said) => said,
        Err(why) => return Memory::Conflict(why),
    };
    said.memory().unwrap_or_else(Memory::Conflict)
}

impl Said {
    fn of(args: &[Arg]) -> Result<Self, String> {
        let mut said = Self::default();
        for Valued { option, value } in valued(args) {
            let opts = |implied: &[u8]| qemu_opts::parse(&value.value, &value.unknown, Some(implied));
            match option {
                // Without a size it speaks of slots.
                b"m" if qemu_opts::last(&opts(b"size"), b"size").is_some() => {
                    said.size = size(&opts(b"size"));
                }
                b"machine" | b"M" => {
                    said.machine =
                        qemu_opts::last(&opts(b"type"), b"memory-backend").cloned().or(said.machine);
                }
                b"object" if is_backend(value) => said.backends.push(backend(value)?),
                b"numa" if is_node(&opts(b"type")) => said.nodes.push(memdev(&opts(b"type"))?),
                b"mem-path" => {
                    return Err(format!(
                        "-mem-path can't stand beside a memory backend: write -object \
                         memory-backend-file,id=mem,mem-path={},share=on,size=SIZE -machine memory-backend=mem in its place",
                        escape(&value.value)
                    ));
                }
                _ => {}
            }
        }
        Ok(said)
    }

    fn memory(&self) -> Result<Memory, String> {
        for backend in &self.backends {
            require_shared(backend)?;
        }
        if let Some(machine) = &self.machine {
            self.require_known(machine, "-machine memory-backend=")?;
            return Ok(Memory::Shared);
        }
        if self.nodes.is_empty() {
            return Ok(Memory::Plain(self.size));
        }
        for node in &self.nodes {
            let memdev = node.as_ref().ok_or(
                "a -numa node has no memdev=: give each node one, of -object memory-backend-memfd with share=on",
            )?;
            self.require_known(memdev, "-numa node,memdev=")?;
        }
        Ok(Memory::Shared)
    }

    /// The backend that an option names must be here.
    fn require_known(&self, named: &Opt, by: &str) -> Result<(), String> {
        let is_named = |backend: &&Vec<Opt>| qemu_opts::id(backend).is_some_and(|id| id.value == named.value);
        if named.unknown || !self.backends.iter().any(|backend| is_named(&backend)) {
            return Err(format!(
                "the memory backend of {by}{} is not defined here: see that it is a memory-backend-memfd or -file with share=on",
                escape(&named.value)
            ));
        }
        Ok(())
    }
}

fn is_backend(value: &Arg) -> bool {
    memchr::memmem::find(&value.value, b"memory-backend").is_some()
}

fn backend(value: &Arg) -> Result<Vec<Opt>, String> {
    if value.value.starts_with(b"{") {
        return Err(
            "a memory backend is written in JSON, which is not read here: see that it is shared".to_owned()
        );
    }
    Ok(qemu_opts::parse(&value.value, &value.unknown, Some(b"qom-type")))
}

/// A vhost-user device needs a file behind every piece of memory, mapped shared.
fn require_shared(backend: &[Opt]) -> Result<(), String> {
    let value = |key: &[u8]| qemu_opts::last(backend, key);
    let id = qemu_opts::id(backend).map_or("without an id".into(), |id| escape(&id.value));
    let kind = value(b"qom-type").map(|kind| kind.value.as_slice()).unwrap_or_default();
    let share = value(b"share").map(|share| boolean(&share.value).filter(|_| !share.unknown));
    match (kind, share) {
        (b"memory-backend-memfd" | b"memory-backend-shm", None)
        | (b"memory-backend-memfd" | b"memory-backend-shm" | b"memory-backend-file", Some(Some(true))) => {
            Ok(())
        }
        (b"memory-backend-memfd" | b"memory-backend-file" | b"memory-backend-shm", _) => {
            Err(format!("the memory backend {id} is not shared: give it share=on"))
        }
        _ => Err(format!(
            "the memory backend {id} is a {}, which no other process can map: make it a memory-backend-memfd with share=on",
            escape(kind)
        )),
    }
}

/// Whether a `-numa` makes a node; others speak of distances and processors.
fn is_node(opts: &[Opt]) -> bool {
    qemu_opts::last(opts, b"type").is_some_and(|kind| kind.value == b"node")
}

/// The `memdev=` of a `-numa node`.
fn memdev(opts: &[Opt]) -> Result<Option<Opt>, String> {
    if qemu_opts::last(opts, b"mem").is_some() {
        return Err("-numa node,mem= makes memory that is not shared: give the node memdev= of an -object \
                    memory-backend-memfd of that size with share=on"
            .to_owned());
    }
    Ok(qemu_opts::last(opts, b"memdev").cloned())
}

/// The bytes of `-m`, as QEMU rounds them; `None` where that is not statically known.
fn size(opts: &[Opt]) -> Option<u64> {
    let size = qemu_opts::last(opts, b"size").filter(|size| !size.unknown)?;
    let digits = size.value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, suffix) = size.value.split_at(digits);
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let shift = match suffix.to_ascii_lowercase().as_slice() {
        b"b" => 0,
        b"k" => 10,
        b"" | b"m" => 20,
        b"g" => 30,
        b"t" => 40,
        _ => return None,
    };
    let bytes = number.checked_mul(1 << shift)?;
    bytes.checked_next_multiple_of(8192).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory_of(line: &str) -> Memory {
        let arg = |word: &str| Arg { value: word.into(), ..Arg::default() };
        memory(&line.split(' ').map(arg).collect::<Vec<_>>())
    }

    #[test]
    fn memory_is_read_from_the_arguments() {
        const MIB: u64 = 1 << 20;
        for (line, expected) in [
            ("qemu", Memory::Plain(None)),
            ("qemu -m 512", Memory::Plain(Some(512 * MIB))),
            ("qemu -m 512 -m slots=2,maxmem=4G", Memory::Plain(Some(512 * MIB))),
            ("qemu -m size=2G,slots=2 -machine q35", Memory::Plain(Some(2048 * MIB))),
            ("qemu -m 512 -m 1G", Memory::Plain(Some(1024 * MIB))),
            ("qemu -m 1000k", Memory::Plain(Some(1_024_000))),
            ("qemu -m 1001b", Memory::Plain(Some(8192))),
            ("qemu -m 1.5G", Memory::Plain(None)),
            ("qemu -m 0x200", Memory::Plain(None)),
            ("qemu -append -m 512", Memory::Plain(None)),
            ("qemu -object memory-backend-memfd,id=m,size=1G -machine q35,memory-backend=m", Memory::Shared),
            ("qemu -object memory-backend-file,id=m,share=on -numa node,memdev=m", Memory::Shared),
        ] {
            assert_eq!(memory_of(line), expected, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_merged_is_told() {
        for (line, why) in [
            ("qemu -mem-path /dev/hugepages", "-mem-path"),
            ("qemu -numa node", "no memdev="),
            ("qemu -numa node,mem=512", "mem="),
            ("qemu -numa node,memdev=m", "not defined here"),
            ("qemu -machine memory-backend=m", "not defined here"),
            ("qemu -object memory-backend-ram,id=m,share=on -machine memory-backend=m", "no other process"),
            ("qemu -object memory-backend-file,id=m,mem-path=/x -machine memory-backend=m", "share=on"),
            ("qemu -object memory-backend-memfd,id=m,share=off -machine memory-backend=m", "share=on"),
            ("qemu -m 1G -object memory-backend-ram,id=d -device pc-dimm,memdev=d", "no other process"),
            ("qemu -object {\"qom-type\":\"memory-backend-memfd\"}", "JSON"),
        ] {
            match memory_of(line) {
                Memory::Conflict(reason) => assert!(reason.contains(why), "{line}: {reason}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
