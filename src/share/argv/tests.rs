//! Tables and properties of reading and rewriting argument lists.

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::share::local::Options;
use crate::share::local::{Multidevs, SecurityModel};
use crate::share::{Device, Transport};

/// Arguments from a line of words, apart by blanks; `{…}` and what stands between them is not statically known.
fn line(words: &str) -> Vec<Arg> {
    words.split_whitespace().map(arg).collect()
}

fn arg(word: &str) -> Arg {
    let mut unknown = Vec::new();
    let mut at = 0;
    while let Some(start) = word[at..].find("${").map(|start| at + start) {
        let end = word[start..].find('}').map_or(word.len(), |end| start + end + 1);
        unknown.push(start..end);
        at = end;
    }
    Arg { value: word.into(), unknown, span: 0..0, line: 1 }
}

/// A share in a few words: fsdev tag transport flags device.
fn brief(share: &ArgvShare) -> String {
    let share = &share.share;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let transport = match &share.transport {
        Transport::Socket(path) => path.display().to_string(),
        Transport::Fd(fd) => fd.to_string(),
        Transport::Unknown(raw) => format!("?{}", text(raw)),
    };
    let mut out =
        format!("{} {} {transport}", text(&share.fsdev), share.mount_tag.as_deref().map_or("-".into(), text));
    if share.readonly {
        out += " ro";
    }
    if share.writeout {
        out += " writeout";
    }
    if let Some(Device { driver, bus, addr, id, properties }) = &share.device {
        let _ = write!(out, " [{}", text(driver));
        for (key, value) in [("bus", bus), ("addr", addr), ("id", id)] {
            if let Some(value) = value {
                let _ = write!(out, " {key}={}", text(value));
            }
        }
        for (key, value) in properties {
            let _ = write!(out, " {}={}", text(key), text(value));
        }
        out += "]";
    }
    for note in &share.notes {
        let _ = write!(out, " !{}", note.id());
    }
    out
}

fn briefs(words: &str) -> Vec<String> {
    shares(&line(words)).iter().map(brief).collect()
}

#[test]
fn argument_lists_read_as_qemu_reads_them() {
    let pci = "[virtio-9p-pci]";
    let table: &[(&str, &[&str])] = &[
        (
            "-fsdev proxy,id=f,socket=/s -device virtio-9p-pci,fsdev=f,mount_tag=t",
            &[&format!("f t /s {pci}")],
        ),
        (
            "--fsdev proxy,id=f,socket=/s --device virtio-9p-pci,fsdev=f,mount_tag=t",
            &[&format!("f t /s {pci}")],
        ),
        (
            "-device virtio-9p-pci,fsdev=f,mount_tag=t -m 1 -fsdev proxy,id=f,socket=/s",
            &[&format!("f t /s {pci}")],
        ),
        (
            "-fsdev id=f,socket=/s,fsdriver=proxy -device fsdev=f,mount_tag=t,driver=virtio-9p-pci",
            &[&format!("f t /s {pci}")],
        ),
        (
            "-fsdev local,id=f,socket=/s,fsdriver=proxy -device virtio-9p,mount_tag=t,fsdev=f",
            &["f t /s [virtio-9p]"],
        ),
        (
            "-fsdev proxy,id=f,sock_fd=0x3,readonly -device virtio-9p-ccw,fsdev=f,mount_tag=t,devno=fe.0.0001,id=d",
            &["f t 3 ro [virtio-9p-ccw id=d devno=fe.0.0001]"],
        ),
        (
            "-fsdev proxy,id=f,id=g,socket=/a,socket=/s,writeout=immediate,readonly=on,readonly=off -device \
          virtio-9p-pci,fsdev=f,mount_tag=t,bus=pci.0,addr=0x5,bus=pci.1",
            &["f t /s writeout [virtio-9p-pci bus=pci.1 addr=0x5]"],
        ),
        ("-virtfs proxy,mount_tag=t,socket=/s,readonly=yes", &[&format!("t t /s ro {pci}")]),
        ("-virtfs proxy,mount_tag=t,id=v,sock_fd=3", &[&format!("v t 3 {pci}")]),
        ("-fsdev proxy,id=f,socket=/s", &["f - /s !device-elsewhere"]),
        ("qemu-system-x86_64 -fsdev proxy,id=f,socket=/s", &["f - /s !no-device"]),
        (
            "-fsdev proxy,id=f,socket=/s,,x -device {\"driver\":\"virtio-9p-pci\",\"fsdev\":\"f\",\"mount_tag\":\"t\",\
          \"bus\":\"pci.0\",\"addr\":\"0x5\",\"multifunction\":true}",
            &["f t /s,x [virtio-9p-pci bus=pci.0 addr=0x5 multifunction=on]"],
        ),
        (
            "-fsdev proxy,id=f,socket=/s -device {'driver':'virtio-9p-pci','fsdev':'f','mount_tag':'t','addr':41}",
            &["f t /s [virtio-9p-pci addr=5.1]"],
        ),
        (
            "-fsdev proxy,id=f -set fsdev.f.socket=/s,x -device virtio-9p-pci,id=d,fsdev=g -set device.d.fsdev=f -set \
          device.d.mount_tag=t",
            &["f t /s,x [virtio-9p-pci id=d]"],
        ),
        (
            "-fsdev local,id=f,socket=/s -set fsdev.f.fsdriver=proxy -set fsdev.f.readonly=on",
            &["f - /s ro !device-elsewhere"],
        ),
        (
            "-fsdev proxy,id=f,socket=/s -device virtio-9p-pci -global virtio-9p-device.fsdev=f -global \
          driver=virtio-9p-pci,property=mount_tag,value=t",
            &[&format!("f t /s {pci}")],
        ),
        (
            "-fsdev proxy,id=a,socket=/a -fsdev proxy,id=b,socket=/b -device virtio-9p-pci,fsdev=b,mount_tag=tb -device \
          virtio-9p-pci,fsdev=a,mount_tag=ta",
            &[&format!("a ta /a {pci}"), &format!("b tb /b {pci}")],
        ),
        (
            "-fsdev proxy,id=f,socket=/s -device virtio-9p-pci,fsdev=f,mount_tag=t -device \
          virtio-9p-pci,fsdev=f,mount_tag=u",
            &[&format!("f t /s {pci}"), &format!("f u /s {pci}")],
        ),
        // What only looks like a share.
        ("-append -fsdev proxy,id=f,socket=/s", &[]),
        ("-fsdev=proxy,id=f,socket=/s", &[]),
        ("-fsdev local,id=f,path=/p,security_model=none", &[]),
        ("-fsdev proxy,id=f,socket=/s,fsdriver=local", &[]),
        ("-fsdev id=f,proxy,socket=/s", &[]),
        ("-accel devproxy -virtfs local,path=/p,mount_tag=proxy,security_model=none", &[]),
        ("-fsdev", &[]),
        // What QEMU refuses is told, not hidden.
        ("-fsdev proxy,socket=/s", &[" - /s !refused-by-qemu !device-elsewhere"]),
        ("-fsdev proxy,id=f,socket=/s,sock_fd=3", &["f - /s !refused-by-qemu !device-elsewhere"]),
        ("-fsdev proxy,id=f", &["f - ? !refused-by-qemu !device-elsewhere"]),
        ("-fsdev proxy,id=f,socket=/s,path=/p", &["f - /s !refused-by-qemu !device-elsewhere"]),
        ("-fsdev proxy,id=f,socket=/s,readonly=1", &["f - /s !refused-by-qemu !device-elsewhere"]),
        ("-fsdev proxy,id=f,sock_fd=x", &["f - ?x !refused-by-qemu !device-elsewhere"]),
        ("-virtfs proxy,mount_tag=9t,socket=/s", &[&format!("9t 9t /s {pci} !refused-by-qemu")]),
        // What is not statically known.
        (
            "-fsdev proxy,id=f,socket=${S} -device virtio-9p-pci,fsdev=f,mount_tag=${T}",
            &["f - ?${S} [virtio-9p-pci] !unknown-value !unknown-device-value"],
        ),
        (
            "-fsdev ${D},id=${I},socket=/s -device virtio-9p-pci,fsdev=${I},mount_tag=t",
            &[" t /s [virtio-9p-pci] !unknown-value !unknown-value"],
        ),
        ("-fsdev ${ALL} ${MORE}", &[]),
        (
            "sudo -u nobody qemu-system-x86_64 ${ARGS} -fsdev proxy,id=f,socket=/s",
            &["f - /s !device-elsewhere"],
        ),
    ];
    for (words, expected) in table {
        assert_eq!(&briefs(words), expected, "{words}");
    }
}

#[test]
fn the_last_name_is_the_guests() {
    for (words, expected) in [
        ("-name a", Some("a")),
        ("--name x -name guest=b,debug-threads=on", Some("b")),
        ("-name debug-threads=on,guest=c,,d", Some("c,d")),
        ("-name ${N}", None),
        ("-m 1", None),
    ] {
        let name = guest_name(&line(words)).map(|name| String::from_utf8(name).unwrap());
        assert_eq!(name.as_deref(), expected, "{words}");
    }
}

fn rewritten(words: &str, options: &Options) -> Result<String, Refusal> {
    let args = line(words);
    let found = shares(&args);
    let pairs: Vec<_> = found.iter().map(|share| (share, Path::new("/srv/a,b"))).collect();
    let edits = rewrite(&args, &pairs, &Rewrite { local: *options, ..Rewrite::default() })?;
    let value = |(index, arg): (usize, &Arg)| {
        let edit = edits.iter().find(|edit| edit.arg == index);
        String::from_utf8(edit.map_or(arg.value.clone(), |edit| edit.applied(&arg.value))).unwrap()
    };
    Ok(args.iter().enumerate().map(value).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_rewrite_in_place_changes_the_fsdev_alone() {
    let plain = Options::default();
    let all = Options {
        security_model: SecurityModel::MappedFile,
        fmode: Some(0o640),
        dmode: Some(0o750),
        multidevs: Some(Multidevs::Remap),
    };
    let xattr = "path=/srv/a,,b,security_model=mapped-xattr";
    let table: &[(&str, &Options, &str)] = &[
        ("-fsdev proxy,id=f,socket=/s", &plain, &format!("-fsdev local,id=f,{xattr}")),
        ("-fsdev proxy,id=f,socket=/s,,t,readonly", &plain, &format!("-fsdev local,id=f,{xattr},readonly")),
        (
            "-m 1 --fsdev fsdriver=proxy,writeout=immediate,sock_fd=3,id=f -device virtio-9p-pci,fsdev=f,mount_tag=t",
            &plain,
            &format!(
                "-m 1 --fsdev fsdriver=local,writeout=immediate,{xattr},id=f -device \
                      virtio-9p-pci,fsdev=f,mount_tag=t"
            ),
        ),
        (
            "-virtfs proxy,mount_tag=t,socket=/s",
            &all,
            "-virtfs local,mount_tag=t,path=/srv/a,,b,security_model=mapped-file,fmode=0640,dmode=0750,multidevs=remap",
        ),
        (
            "-fsdev socket=/a,fsdriver=proxy,socket=/b,id=f",
            &plain,
            &format!("-fsdev fsdriver=local,{xattr},id=f"),
        ),
        (
            "-fsdev local,socket=/s,fsdriver=proxy,id=f,",
            &plain,
            &format!("-fsdev local,{xattr},fsdriver=local,id=f,"),
        ),
        (
            "-fsdev proxy,id=f, -set fsdev.f.socket=/s",
            &plain,
            "-fsdev local,id=f,security_model=mapped-xattr -set fsdev.f.path=/srv/a,b",
        ),
        (
            "-fsdev local,id=f,socket=/s -set fsdev.f.fsdriver=proxy",
            &plain,
            &format!("-fsdev local,id=f,{xattr} -set fsdev.f.fsdriver=local"),
        ),
        (
            "-fsdev local,id=f,path=/p,security_model=none",
            &plain,
            "-fsdev local,id=f,path=/p,security_model=none",
        ),
    ];
    for (words, options, expected) in table {
        assert_eq!(rewritten(words, options).unwrap(), *expected, "{words}");
    }
}

#[test]
fn what_is_not_known_stays_but_for_the_socket() {
    let new = "path=/srv,security_model=mapped-xattr";
    for (words, readonly, expected) in [
        ("-fsdev proxy,id=f,socket=${S}", None, format!("-fsdev local,id=f,{new}")),
        ("-fsdev proxy,id=f,socket=${S}", Some(true), format!("-fsdev local,id=f,{new},readonly=on")),
        ("-fsdev proxy,id=f,socket=${S}", Some(false), format!("-fsdev local,id=f,{new}")),
        (
            "-fsdev proxy,id=f,socket=${S},readonly=on",
            Some(true),
            format!("-fsdev local,id=f,{new},readonly=on"),
        ),
        ("-fsdev proxy,socket=${S},id=f", Some(true), format!("-fsdev local,{new},id=f,readonly=on")),
        (
            "-fsdev proxy,id=f,socket=/s,readonly=${RO}",
            None,
            format!("-fsdev local,id=f,{new},readonly=${{RO}}"),
        ),
        (
            "-fsdev proxy,id=f,socket=/s,readonly=${RO}",
            Some(false),
            format!("-fsdev local,id=f,{new},readonly=off"),
        ),
        (
            "-fsdev proxy,id=f,socket=/s,readonly=${RO}",
            Some(true),
            format!("-fsdev local,id=f,{new},readonly=on"),
        ),
        ("-fsdev proxy,id=f,socket=/s,${MORE}", None, format!("-fsdev local,id=f,{new},${{MORE}}")),
        ("-fsdev ${D},id=f,socket=/s", None, format!("-fsdev local,id=f,{new}")),
        ("-virtfs proxy,mount_tag=f${T},socket=/s", None, format!("-virtfs local,mount_tag=f${{T}},{new}")),
    ] {
        let args = line(words);
        let found = shares(&args);
        let how = Rewrite {
            readonly: readonly
                .map(|readonly| (found[0].share.handle().unwrap(), readonly))
                .into_iter()
                .collect(),
            ..Rewrite::default()
        };
        let edits = rewrite(&args, &[(&found[0], Path::new("/srv"))], &how).unwrap();
        let new = args.iter().enumerate().map(|(at, arg)| {
            let edit = edits.iter().find(|edit| edit.arg == at);
            let value = edit.map_or_else(|| arg.value.clone(), |edit| edit.applied(&arg.value));
            String::from_utf8(value).unwrap()
        });
        assert_eq!(new.collect::<Vec<_>>().join(" "), expected, "{words}");
    }
}

#[test]
fn a_read_only_share_is_not_made_writable() {
    let args = line("-fsdev proxy,id=f,socket=/s,readonly=on");
    let how = Rewrite { readonly: vec![(b"f".to_vec(), false)], ..Rewrite::default() };
    let refusal = rewrite(&args, &[(&shares(&args)[0], Path::new("/srv"))], &how).unwrap_err();
    assert!(refusal.message.contains("read-only"), "{refusal}");
}

#[test]
fn doubt_stops_a_rewrite() {
    for (words, why) in [
        ("-fsdev proxy,id=f,${S}", "${S}"),
        ("-fsdev proxy,id=f,socket=/s,readonly=1", "readonly=1"),
        ("-fsdev proxy,id=f,socket=/s,path=/x", "parameter path"),
        ("-fsdev proxy,id=f,socket=/s -fsdev proxy,id=f,socket=/t", "same id"),
    ] {
        let refusal = rewritten(words, &Options::default()).unwrap_err();
        assert!(refusal.message.contains(why), "{words}: {refusal}");
    }
}

prop_compose! {
    /// An option of a proxy fsdev, most of them sensible.
    fn option()(index in 0..12_usize, value in "[a-z/,=$ ]{0,6}") -> Vec<u8> {
        let value = qemu_opts::escape(value.as_bytes());
        match index {
            0 => b"id=f".to_vec(),
            1 => b"fsdriver=proxy".to_vec(),
            2 => [b"socket=", &value[..]].concat(),
            3 => b"sock_fd=3".to_vec(),
            4 => b"readonly".to_vec(),
            5 => b"noreadonly".to_vec(),
            6 => b"readonly=on".to_vec(),
            7 => b"writeout=immediate".to_vec(),
            8 => [b"socket=/s", &value[..]].concat(),
            9 => [b"writeout=", &value[..]].concat(),
            10 => b"id=g".to_vec(),
            _ => value,
        }
    }
}

proptest! {
    #[test]
    fn a_rewritten_list_holds_no_proxy_and_keeps_the_rest(
        first in prop_oneof![Just("proxy"), Just("local"), Just("id=f")],
        options in proptest::collection::vec(option(), 0..6),
    ) {
        let mut raw = first.as_bytes().to_vec();
        for option in options {
            raw.push(b',');
            raw.extend(option);
        }
        let args = [
            Arg { value: b"-fsdev".to_vec(), ..Arg::default() },
            Arg { value: raw.clone(), ..Arg::default() },
        ];
        let found = shares(&args);
        prop_assume!(found.len() == 1);
        if let Ok(edits) = rewrite(&args, &[(&found[0], Path::new("/srv/x,y"))], &Rewrite::default()) {
            let after = edits[0].applied(&raw);
            let opts = qemu_opts::parse(&after, &[], Some(b"fsdriver"));
            let value = |key: &[u8]| qemu_opts::last(&opts, key).map(|opt| opt.value.clone());
            prop_assert_eq!(value(b"fsdriver").unwrap(), b"local");
            prop_assert_eq!(value(b"path").unwrap(), b"/srv/x,y");
            prop_assert_eq!(value(b"security_model").unwrap(), b"mapped-xattr");
            prop_assert!(value(b"socket").is_none() && value(b"sock_fd").is_none());
            let before = qemu_opts::parse(&raw, &[], Some(b"fsdriver"));
            for key in [&b"id"[..], b"readonly", b"writeout"] {
                let all = |opts: &[qemu_opts::Opt]| -> Vec<_> {
                    opts.iter().filter(|opt| opt.key == key).map(|opt| opt.value.clone()).collect()
                };
                prop_assert_eq!(all(&before), all(&opts));
            }
            let again = [args[0].clone(), Arg { value: after, ..Arg::default() }];
            prop_assert!(shares(&again).is_empty());
        }
    }

    #[test]
    fn any_arguments_are_read(values in proptest::collection::vec(
        prop_oneof![
            Just(b"-fsdev".to_vec()), Just(b"-device".to_vec()), Just(b"-set".to_vec()), Just(b"-global".to_vec()),
            "[a-z.=,{}\":'\\\\]{0,24}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..16),
        ], 0..12))
    {
        let args: Vec<_> = values.into_iter().map(|value| Arg { value, ..Arg::default() }).collect();
        let found = shares(&args);
        let pairs: Vec<_> = found.iter().map(|share| (share, Path::new("/x"))).collect();
        let _ = rewrite(&args, &pairs, &Rewrite::default());
    }
}
