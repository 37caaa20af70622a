//! Random option strings: QEMU's own parser and ours must see the same shares, before a rewrite and after it. QEMU is
//! asked by what it rejects: a share whose socket or directory is not there ends it with a message that names it.

use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use virtfs_proxy_helper::internals::share::argv::{self, Arg};
use virtfs_proxy_helper::internals::share::{Note, Rewrite, Transport, qemu_opts};

/// What QEMU makes of arguments.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It connected, or tried to: the socket's path.
    Proxy(Vec<u8>),
    /// It opened, or tried to: the directory.
    Local(Vec<u8>),
    /// It took a share that it could open, or one over a descriptor.
    Taken,
    /// It refused the arguments.
    Refused(String),
}

fn ask(args: &[Vec<u8>]) -> Verdict {
    use std::os::unix::ffi::OsStrExt;
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-machine",
        "pc",
        "-accel",
        "tcg",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
    ]);
    command.args(args.iter().map(|arg| std::ffi::OsStr::from_bytes(arg)));
    // A QEMU that starts ends at once: its monitor reads nothing.
    command.args(["-chardev", "stdio,id=m", "-mon", "chardev=m,mode=control"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("qemu-system-x86_64, of Debian's package qemu-system-x86");
    let orders = b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}";
    let _ = std::io::Write::write_all(&mut child.stdin.take().expect("its input"), orders);
    let output = child.wait_with_output().expect("its output");
    let said = output.stderr;
    let quoted = |what: &[u8]| {
        let start = memchr::memmem::find(&said, what)? + what.len();
        let end = memchr::memmem::rfind(&said, b"': ")?;
        Some(said.get(start..end)?.to_vec())
    };
    if let Some(path) = quoted(b"failed to connect to '") {
        return Verdict::Proxy(path);
    }
    if let Some(path) = quoted(b"failed to open '") {
        return Verdict::Local(path);
    }
    if output.status.success() {
        return Verdict::Taken;
    }
    Verdict::Refused(String::from_utf8_lossy(&said).into_owned())
}

prop_compose! {
    /// An option of an fsdev's, most of them sensible.
    fn option()(index in 0..16_usize, value in "[a-z/,=$ ]{0,6}") -> Vec<u8> {
        let value = qemu_opts::escape(value.as_bytes());
        let fixed: &[&[u8]] = &[
            b"id=f", b"id=f", b"fsdriver=proxy", b"readonly", b"noreadonly", b"readonly=on", b"readonly=1",
            b"writeout=immediate", b"socket=/nowhere", b"id=g",
        ];
        match index {
            0..10 => fixed[index].to_vec(),
            10 | 11 => [b"socket=", &value[..]].concat(),
            12 | 13 => [b"socket=/nowhere/", &value[..]].concat(),
            14 => [b"writeout=", &value[..]].concat(),
            _ => value,
        }
    }
}

/// Arguments with one fsdev: `-fsdev` or `-virtfs`, with or without a `-set`.
fn arguments() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let first = prop_oneof![6 => Just("proxy"), 1 => Just("local"), 1 => Just("fsdriver=proxy"), 1 => Just("id=f,proxy")];
    let options = proptest::collection::vec(option(), 1..6);
    (first, options, any::<bool>(), proptest::option::weighted(0.2, option())).prop_map(
        |(first, options, virtfs, set)| {
            let mut raw = first.as_bytes().to_vec();
            for option in options {
                raw.push(b',');
                raw.extend(option);
            }
            if virtfs {
                raw.extend_from_slice(b",mount_tag=t");
            }
            let name: &[u8] = if virtfs { b"-virtfs" } else { b"-fsdev" };
            let opts = qemu_opts::parse(&raw, &[], Some(b"fsdriver"));
            let id = qemu_opts::id(&opts).map_or(b"t".to_vec(), |opt| opt.value.clone());
            let mut args = vec![name.to_vec(), raw];
            if let Some(set) = set.filter(|set| set.contains(&b'=')) {
                args.extend([b"-set".to_vec(), [b"fsdev.", &id[..], b".", &set[..]].concat()]);
            }
            if !virtfs {
                let device = [b"virtio-9p-pci,mount_tag=t,fsdev=", &qemu_opts::escape(&id)[..]].concat();
                args.extend([b"-device".to_vec(), device]);
            }
            args
        },
    )
}

fn lexed(values: &[Vec<u8>]) -> Vec<Arg> {
    values.iter().map(|value| Arg { value: value.clone(), ..Arg::default() }).collect()
}

/// Compares; says whether there was a share to rewrite.
fn agree(values: &[Vec<u8>]) -> bool {
    let shown = || values.iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(" ");
    let args = lexed(values);
    let shares = argv::shares(&args);
    let verdict = ask(values);
    let Some(found) = shares.first() else {
        assert!(!matches!(verdict, Verdict::Proxy(_)), "{}: we see no share, QEMU says {verdict:?}", shown());
        return false;
    };
    if found.share.notes.iter().any(|note| matches!(note, Note::Refused(_))) {
        assert!(
            matches!(verdict, Verdict::Refused(_)),
            "{}: {:?}, QEMU says {verdict:?}",
            shown(),
            found.share.notes
        );
        return false;
    }
    let Transport::Socket(socket) = &found.share.transport else { panic!("{}: no socket", shown()) };
    let socket = std::os::unix::ffi::OsStrExt::as_bytes(socket.as_os_str()).to_vec();
    assert_eq!(verdict, Verdict::Proxy(socket), "{}", shown());

    let export = Path::new("/nowhere/of,all places");
    let edits = argv::rewrite(&args, &[(found, export)], &Rewrite::default()).expect("a rewrite");
    let mut rewritten = values.to_vec();
    for edit in edits {
        rewritten[edit.arg] = edit.applied(&values[edit.arg]);
    }
    let shown = rewritten.iter().map(|value| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(" ");
    assert_eq!(ask(&rewritten), Verdict::Local(b"/nowhere/of,all places".to_vec()), "{shown}");
    true
}

#[test]
fn qemus_parser_sees_the_same_shares() {
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let mut rewritten = 0;
    for _ in 0..150 {
        let values = arguments().new_tree(&mut runner).expect("arguments").current();
        rewritten += usize::from(agree(&values));
    }
    assert!(rewritten > 25, "only {rewritten} of them were shares to rewrite");
}

/// The peculiar spellings, one by one.
#[test]
fn qemu_takes_every_spelling_that_we_take() {
    for line in [
        "-fsdev proxy,id=f,socket=/nowhere -device virtio-9p-pci,fsdev=f,mount_tag=t",
        "--fsdev proxy,id=f,socket=/nowhere --device {\"driver\":\"virtio-9p-pci\",\"fsdev\":\"f\",\"mount_tag\":\"t\"}",
        "-fsdev local,id=f,id=g,socket=/a,socket=/nowhere,fsdriver=proxy, -device fsdev=f,mount_tag=t,driver=virtio-9p",
        "-fsdev proxy,id=f -set fsdev.f.socket=/no,where -device virtio-9p-pci,id=d,mount_tag=t -set device.d.fsdev=f",
        "-fsdev local,id=f,socket=/nowhere -set fsdev.f.fsdriver=proxy -device virtio-9p-pci,fsdev=f,mount_tag=t",
        "-fsdev proxy,id=f,socket=/nowhere -global virtio-9p-device.fsdev=f -device virtio-9p-pci,mount_tag=t",
        "-fsdev proxy,id=f,socket=/nowhere -global virtio-9p-pci.fsdev=f -global \
         driver=virtio-9p-device,property=mount_tag,value=t -device virtio-9p-pci",
        "-virtfs proxy,mount_tag=t,socket=/nowhere,readonly=yes",
        "-virtfs fsdriver=proxy,socket=/nowhere,mount_tag=t,id=f -set fsdev.f.readonly=on",
        "-device virtio-9p-pci,fsdev=f,mount_tag=t,addr=05.0 -fsdev proxy,id=f,socket=/nowhere",
    ] {
        let values: Vec<_> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        assert!(agree(&values), "{line}: no share");
    }
}
