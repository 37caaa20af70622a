//! How a guest's memory is made, as an argument list says it.

#![forbid(unsafe_code)]

use super::arg::Arg;
use super::model::{Value, properties};
use super::scan::{Valued, loose, valued};
use crate::share::memory::{Memory, Plain};
use crate::share::qemu_opts::{self, Opt, boolean};
use crate::text::escape;

/// What a part of a command line does not show.
pub(crate) const REST: &str = "the rest of QEMU's command line";

/// What the arguments say of memory.
#[derive(Default)]
struct Said {
    size: Option<u64>,
    /// `-machine memory-backend=`.
    machine: Option<Opt>,
    /// Each `-object memory-backend-…`.
    backends: Vec<Backend>,
    /// `memdev=` of each `-numa node`.
    nodes: Vec<Option<Opt>>,
    /// The ids of all objects.
    objects: Vec<String>,
    /// The driver and `memdev=` of each `-device` that names a backend.
    devices: Vec<(Vec<u8>, Vec<u8>)>,
    elsewhere: Option<String>,
}

/// An `-object memory-backend-…`.
struct Backend {
    kind: Vec<u8>,
    id: Option<Value>,
    share: Option<Value>,
}

/// What an argument list says of its guest's memory.
pub(crate) fn memory(args: &[Arg]) -> Memory {
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
                b"object" => said.object(value),
                b"device" => said.device(value),
                b"numa" if is_node(&opts(b"type")) => said.nodes.push(memdev(&opts(b"type"))?),
                b"mem-path" => {
                    return Err(format!(
                        "-mem-path can't stand beside a memory backend: write -object \
                         memory-backend-file,id=mem,mem-path={},share=on,size=SIZE -machine memory-backend=mem in its place",
                        escape(&value.value)
                    ));
                }
                b"readconfig" => said.elsewhere = Some(format!("-readconfig {}", escape(&value.value))),
                _ => {}
            }
        }
        let more = loose(args).map(|arg| escape(&arg.value).into_owned());
        // Without a program, the arguments are a part of a command line.
        let is_part = args.first().is_none_or(|first| first.value.starts_with(b"-"));
        let rest = is_part.then(|| REST.to_owned());
        said.elsewhere = said.elsewhere.or(more).or(rest);
        Ok(said)
    }

    fn object(&mut self, value: &Arg) {
        let all = properties(value, b"qom-type").unwrap_or_default();
        let last =
            |key: &[u8]| all.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let first = |key: &[u8]| all.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let (kind, id) = (last(b"qom-type"), first(b"id"));
        self.objects.extend(id.as_ref().map(|id| escape(&id.bytes).into_owned()));
        match kind {
            // Enclaves alone use it.
            Some(kind) if kind.bytes == b"memory-backend-epc" => {}
            Some(kind) if kind.bytes.starts_with(b"memory-backend-") => {
                self.backends.push(Backend { kind: kind.bytes, id, share: last(b"share") });
            }
            Some(kind) if !kind.unknown => {}
            _ => self.elsewhere = Some(format!("-object {}", escape(&value.value))),
        }
    }

    fn device(&mut self, value: &Arg) {
        let all = properties(value, b"driver").unwrap_or_default();
        let last = |key: &[u8]| all.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value);
        if let (Some(driver), Some(memdev)) = (last(b"driver"), last(b"memdev")) {
            self.devices.push((driver.bytes.clone(), memdev.bytes.clone()));
        }
    }

    fn memory(self) -> Result<Memory, String> {
        for backend in &self.backends {
            self.require_shared(backend)?;
        }
        if let Some(machine) = &self.machine {
            self.require_known(machine, "-machine memory-backend=")?;
            return Ok(Memory::Shared);
        }
        if self.nodes.is_empty() {
            let Self { size, objects, elsewhere, .. } = self;
            return Ok(Memory::Plain(Plain { size, objects, elsewhere }));
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
        let is_named = |backend: &Backend| backend.id.as_ref().is_some_and(|id| id.bytes == named.value);
        if named.unknown || !self.backends.iter().any(is_named) {
            return Err(format!(
                "the memory backend of {by}{} is not defined here: see that it is a memory-backend-memfd or -file with share=on",
                escape(&named.value)
            ));
        }
        Ok(())
    }

    /// A vhost-user device needs a file behind every piece of the guest's memory, mapped shared.
    fn require_shared(&self, backend: &Backend) -> Result<(), String> {
        let name = backend.id.as_ref().map(|id| id.bytes.as_slice());
        let users: Vec<_> =
            self.devices.iter().filter(|(_, memdev)| Some(memdev.as_slice()) == name).collect();
        let is_main = self
            .machine
            .iter()
            .chain(self.nodes.iter().flatten())
            .any(|opt| Some(opt.value.as_slice()) == name);
        // The memory of such a device is none of the guest's own.
        if !is_main && !users.is_empty() && users.iter().all(|(driver, _)| driver.starts_with(b"ivshmem")) {
            return Ok(());
        }
        let id = name.map_or("without an id".into(), escape);
        let share = backend.share.as_ref();
        let share = share.map(|share| boolean(&share.bytes).filter(|_| !share.unknown));
        match (backend.kind.as_slice(), share) {
            (b"memory-backend-memfd" | b"memory-backend-shm", None)
            | (b"memory-backend-memfd" | b"memory-backend-shm" | b"memory-backend-file", Some(Some(true))) => {
                Ok(())
            }
            (b"memory-backend-memfd" | b"memory-backend-file" | b"memory-backend-shm", _) => {
                let is_nvdimm = users.iter().any(|(driver, _)| driver == b"nvdimm");
                let kept = if is_nvdimm {
                    "; what the guest writes into the NVDIMM is then stored in its file"
                } else {
                    ""
                };
                Err(format!("the memory backend {id} is not shared: give it share=on{kept}"))
            }
            (kind, _) => Err(format!(
                "the memory backend {id} is a {}, which no other process can map: make it a memory-backend-memfd with share=on",
                escape(kind)
            )),
        }
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

    fn plain(size: Option<u64>) -> Memory {
        Memory::Plain(Plain { size, ..Plain::default() })
    }

    fn with_objects(id: &str) -> Memory {
        Memory::Plain(Plain { size: Some(512 << 20), objects: vec![id.to_owned()], elsewhere: None })
    }

    #[test]
    fn what_may_say_more_of_memory_is_named() {
        let arg = |word: &str| {
            let unknown = word.find('$').map(|at| at..word.len());
            Arg { value: word.into(), unknown: unknown.into_iter().collect(), ..Arg::default() }
        };
        for (line, expected) in [
            ("qemu -m 512 -readconfig /a.cfg", Some("-readconfig /a.cfg")),
            ("qemu -m 512 $OPTIONS", Some("$OPTIONS")),
            ("$QEMU -m 512 disk$N.img", None),
            ("-m 512 $OPTIONS", Some("$OPTIONS")),
            ("-m 512 -smp 2", Some(REST)),
            ("$QEMU $OPTIONS -m 512", Some("$OPTIONS")),
            ("qemu -m 512 -object $RNG", Some("-object $RNG")),
            ("qemu -m 512 -drive $DRIVE -name $NAME", None),
        ] {
            let args: Vec<_> = line.split(' ').map(arg).collect();
            let Memory::Plain(plain) = memory(&args) else { panic!("{line}") };
            assert_eq!((plain.size, plain.elsewhere.as_deref()), (Some(512 << 20), expected), "{line}");
        }
    }

    #[test]
    fn memory_is_read_from_the_arguments() {
        const MIB: u64 = 1 << 20;
        for (line, expected) in [
            ("qemu", plain(None)),
            ("qemu -m 512", plain(Some(512 * MIB))),
            ("qemu -m 512 -m slots=2,maxmem=4G", plain(Some(512 * MIB))),
            ("qemu -m size=2G,slots=2 -machine q35", plain(Some(2048 * MIB))),
            ("qemu -m 512 -m 1G", plain(Some(1024 * MIB))),
            ("qemu -m 1000k", plain(Some(1_024_000))),
            ("qemu -m 1001b", plain(Some(8192))),
            ("qemu -m 1.5G", plain(None)),
            ("qemu -m 0x200", plain(None)),
            ("qemu -append -m 512", plain(None)),
            ("qemu -object memory-backend-memfd,id=m,size=1G -machine q35,memory-backend=m", Memory::Shared),
            ("qemu -object memory-backend-file,id=m,share=on -numa node,memdev=m", Memory::Shared),
            (
                r#"qemu -object {"qom-type":"memory-backend-memfd","id":"m","size":1} -M memory-backend=m"#,
                Memory::Shared,
            ),
            (
                r#"qemu -object {"qom-type":"memory-backend-file","id":"m","share":true} -M memory-backend=m"#,
                Memory::Shared,
            ),
            ("qemu -object memory-backend-epc,id=e,size=1M -m 512", with_objects("e")),
            (
                "qemu -m 512 -object rng-random,id=memory-backend-rng,filename=/dev/memory-backend",
                with_objects("memory-backend-rng"),
            ),
            (
                "qemu -m 512 -object memory-backend-ram,id=shm,size=1M -device ivshmem-plain,memdev=shm",
                with_objects("shm"),
            ),
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
            (
                r#"qemu -object {"qom-type":"memory-backend-memfd","id":"m","share":false} -M memory-backend=m"#,
                "share=on",
            ),
            (
                "qemu -object memory-backend-ram,id=m -device ivshmem-plain,memdev=m -numa node,memdev=m",
                "no other process",
            ),
            (
                "qemu -object memory-backend-file,id=n,mem-path=/n -device nvdimm,memdev=n",
                "stored in its file",
            ),
        ] {
            match memory_of(line) {
                Memory::Conflict(reason) => assert!(reason.contains(why), "{line}: {reason}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
