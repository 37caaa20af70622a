//! `--backend virtiofs`: what `--to` prints, what is refused, and what is said beside it. The rewrites of libvirt XML are
//! golden cases.

use crate::{config, text};

const SCRIPT: &str = "qemu-system-x86_64 -name web -m 2G -fsdev proxy,id=fs0,socket=/run/p.sock,readonly=on \\\n  \
                      -device virtio-9p-pci,id=d,fsdev=fs0,mount_tag=data,bus=pcie.0,addr=5\n";
const EXPORT: [&str; 2] = ["--export", "data=/srv/data"];

fn run(script: &str, more: &[&str]) -> (i32, String, String) {
    let args = [&["-"], EXPORT.as_slice(), more].concat();
    let output = config(args, script.as_bytes());
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn arguments_and_unit_name_the_same_socket() {
    let (code, out, errors) = run(SCRIPT, &["--backend", "virtiofs", "--to", "qemu-args"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(
        out,
        "-chardev socket,id=virtiofs-web-fs0,path=/run/virtiofsd-web-fs0/socket\n\
         -device vhost-user-fs-pci,id=d,chardev=virtiofs-web-fs0,tag=data,bus=pcie.0,addr=5\n\
         -object memory-backend-memfd,id=virtiofs-mem,size=2G,share=on\n\
         -machine memory-backend=virtiofs-mem\n"
    );
    for part in
        ["Convert nothing", "mount -t virtiofs -o ro data FOLDER", "data FOLDER virtiofs ro 0 0", "Linux 5.4"]
    {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let (code, unit, errors) = run(SCRIPT, &["--backend", "virtiofs", "--to", "virtiofsd-unit"]);
    assert_eq!(code, 0, "{errors}");
    for part in [
        "--socket-path=/run/virtiofsd-web-fs0/socket ",
        "--shared-dir=/srv/data ",
        "\nReadOnlyPaths=/srv/data\n",
    ] {
        assert!(unit.contains(part), "{part}: {unit}");
    }
    let (code, element, errors) = run(SCRIPT, &["--backend", "virtiofs", "--to", "libvirt"]);
    assert_eq!(code, 0, "{errors}");
    assert!(element.contains("<driver type='virtiofs'/>") && element.contains("<readonly/>"), "{element}");
    assert!(errors.contains("<access mode='shared'/>"), "{errors}");
}

#[test]
fn memory_is_merged_or_refused() {
    let shared = "-object memory-backend-memfd,id=m,size=2G -machine q35,memory-backend=m";
    for (memory, expected) in [
        (shared, None),
        ("-object memory-backend-file,id=m,mem-path=/x,share=on,size=2G -numa node,memdev=m", None),
        ("-object memory-backend-ram,id=m,size=2G -numa node,memdev=m", Some("no other process can map")),
        ("-numa node,mem=2G", Some("memdev=")),
        ("-mem-path /dev/hugepages", Some("-mem-path")),
    ] {
        let script = SCRIPT.replace("-m 2G", &format!("-m 2G {memory}"));
        let (code, out, errors) = run(&script, &["--backend", "virtiofs", "--to", "qemu-args"]);
        match expected {
            None => {
                assert_eq!(code, 0, "{memory}: {errors}");
                assert!(out.contains("vhost-user-fs-pci") && !out.contains("-object"), "{memory}: {out}");
            }
            Some(why) => {
                assert_eq!((code, out.as_str()), (1, ""), "{memory}");
                assert!(errors.contains(why), "{memory}: {errors}");
            }
        }
    }
    let script = SCRIPT.replace("-m 2G", "-m $MEMORY");
    let (code, out, errors) = run(&script, &["--backend", "virtiofs", "--to", "qemu-args"]);
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("size=SIZE") && errors.contains("SIZE is the guest's memory"), "{out}{errors}");
}

/// A new backend has an id of its own, and what is not read here is named.
#[test]
fn a_new_memory_backend_meets_no_other() {
    let printed = ["--backend", "virtiofs", "--to", "qemu-args"];
    let taken =
        "-m 2G -object memory-backend-memfd,id=virtiofs-mem,size=1G -device pc-dimm,memdev=virtiofs-mem";
    let (code, out, errors) = run(&SCRIPT.replace("-m 2G", taken), &printed);
    assert_eq!(code, 0, "{errors}");
    assert!(
        out.contains("id=virtiofs-mem2,size=2G") && out.contains("memory-backend=virtiofs-mem2\n"),
        "{out}"
    );
    assert!(!errors.contains("not read here"), "{errors}");
    for (more, named) in [("-readconfig /etc/vm.cfg", "-readconfig /etc/vm.cfg"), ("$MORE", "$MORE")] {
        let (code, out, errors) = run(&SCRIPT.replace("-m 2G", &format!("-m 2G {more}")), &printed);
        assert_eq!(code, 0, "{errors}");
        assert!(
            out.contains("size=2G") && errors.contains(&format!("See what {named} says")),
            "{out}{errors}"
        );
    }
    let random = "-m 2G -object rng-random,id=r,filename=/dev/memory-backend";
    let (code, _, errors) = run(&SCRIPT.replace("-m 2G", random), &printed);
    assert_eq!(code, 0, "{errors}");
}

/// What a file of -readconfig says of memory counts as what arguments say.
#[test]
fn the_memory_of_a_readconfig_file_is_read() {
    const SHARE: &str = "[fsdev \"fs0\"]\n  fsdriver = \"proxy\"\n  socket = \"/run/p.sock\"\n\n[device]\n  driver = \"virtio-9p-pci\"\n  \
                         fsdev = \"fs0\"\n  mount_tag = \"data\"\n";
    const SIZE: &str = "[memory]\n  size = \"512\"\n\n";
    let object = |share: &str| {
        format!(
            "[object \"m\"]\n  qom-type = \"memory-backend-file\"\n  mem-path = \"/x\"\n  size = \"512M\"\n  share = \"{share}\"\n\n"
        )
    };
    let machine = "[machine]\n  memory-backend = \"m\"\n\n";
    let node = "[numa]\n  type = \"node\"\n  memdev = \"m\"\n\n";
    for (memory, expected) in [
        (SIZE.to_owned(), Ok(Some("size=512M,"))),
        (object("on") + SIZE + machine, Ok(None)),
        (object("on") + SIZE + node, Ok(None)),
        (object("off") + SIZE + node, Err("the memory backend m is not shared")),
    ] {
        let (code, out, errors) =
            run(&(memory.clone() + SHARE), &["--backend", "virtiofs", "--to", "qemu-args"]);
        match expected {
            Ok(size) => {
                assert_eq!(code, 0, "{memory}: {errors}");
                assert_eq!(out.contains("-object"), size.is_some(), "{memory}: {out}");
                assert!(out.contains(size.unwrap_or_default()), "{memory}: {out}");
                assert_eq!(errors.contains("the rest of QEMU's command line"), size.is_some(), "{errors}");
            }
            Err(why) => {
                assert_eq!(code, 1, "{memory}: {out}");
                assert!(errors.contains(why), "{errors}");
            }
        }
    }
}

#[test]
fn variables_stay_variables_and_an_unknown_readonly_is_read_only() {
    let script = "#!/bin/sh\nqemu-system-x86_64 -m 1G -fsdev proxy,id=fs0,socket=/run/p.sock,readonly=$RO \\\n  \
                  -device virtio-9p-pci,fsdev=fs0,mount_tag=data,addr=$SLOT\n";
    let (code, out, errors) = run(script, &["--backend", "virtiofs", "--to", "qemu-args"]);
    assert_eq!(code, 0, "{errors}");
    assert!(out.contains("addr=\"$SLOT\""), "{out}");
    let (code, unit, errors) = run(script, &["--backend", "virtiofs", "--to", "virtiofsd-unit"]);
    assert_eq!(code, 0, "{errors}");
    assert!(unit.contains("ReadOnlyPaths=/srv/data"), "{unit}");
    let (_, unit, _) =
        run(script, &["--backend", "virtiofs", "--to", "virtiofsd-unit", "--writable", "data"]);
    assert!(!unit.contains("ReadOnlyPaths"), "{unit}");
}

#[test]
fn options_of_local_do_not_go_with_it() {
    for options in [
        &["--backend", "virtiofs", "--security-model", "mapped-xattr"][..],
        &["--backend", "virtiofs", "--fmode", "0640"],
        &["--backend", "virtiofs", "--multidevs", "remap"],
        &["--backend", "virtiofs", "--in-place-args"],
        &["--backend", "virtiofs", "--to", "readconfig"],
        &["--to", "virtiofsd-unit"],
    ] {
        let (code, out, errors) = run(SCRIPT, options);
        assert_eq!((code, out.as_str()), (2, ""), "{options:?}: {errors}");
        assert!(errors.contains("goes with --backend"), "{options:?}: {errors}");
    }
}

/// A domain with `before` in front of its processors and `device` among its devices.
fn domain(before: &str, device: &str) -> String {
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n  <name>web</name>\n  \
         <memory unit='GiB'>2</memory>\n  {before}\n  <vcpu>2</vcpu>\n  <devices>\n    {device}\n  </devices>\n  \
         <qemu:commandline>\n    <qemu:arg value='-fsdev'/>\n    <qemu:arg value='proxy,id=fs0,socket=/run/p.sock'/>\n    \
         <qemu:arg value='-device'/>\n    <qemu:arg value='virtio-9p-pci,fsdev=fs0,mount_tag=data'/>\n  \
         </qemu:commandline>\n</domain>\n"
    )
}

/// What a domain says of its memory is kept, and only what is missing is added; what virtiofs can't have is refused.
#[test]
fn a_domains_memory_is_merged_or_refused() {
    const MEMFD: &str = "<source type='memfd'/>";
    const SHARED: &str = "<access mode='shared'/>";
    let backing = |inner: &str| format!("<memoryBacking>{inner}</memoryBacking>");
    let cells = |access: &str| {
        format!("<cpu><numa><cell id='0' cpus='0-1' memory='2' unit='GiB'{access}/></numa></cpu>")
    };
    let dimm = |model: &str, access: &str| {
        format!(
            "<memory model='{model}'{access}><target><size unit='GiB'>1</size><node>0</node></target></memory>"
        )
    };
    for (before, device, expected) in [
        (cells(""), String::new(), Ok(&[MEMFD, SHARED][..])),
        (cells(" memAccess='shared'"), String::new(), Ok(&[MEMFD, SHARED])),
        (cells(" memAccess='private'"), String::new(), Err("a NUMA cell asks for private memory")),
        (
            "<metadata><x:cell xmlns:x='u' memAccess='private'/></metadata>".to_owned(),
            String::new(),
            Ok(&[MEMFD, SHARED]),
        ),
        (backing("<hugepages/>"), String::new(), Ok(&[SHARED])),
        (
            backing("<hugepages><page size='2' unit='M' nodeset='0'/></hugepages>") + &cells(""),
            String::new(),
            Ok(&[SHARED]),
        ),
        (
            backing("<hugepages/><access mode='private'/>"),
            String::new(),
            Err("the domain asks for private memory"),
        ),
        (backing(MEMFD), String::new(), Ok(&[SHARED])),
        (backing(&format!("{MEMFD}{SHARED}")), String::new(), Ok(&[])),
        (backing("<source type='file'/>"), String::new(), Ok(&[SHARED])),
        (backing("<source type='anonymous'/>"), String::new(), Err("anonymous memory")),
        (backing("<nosharepages/><locked/><discard/>"), String::new(), Ok(&[MEMFD, SHARED])),
        ("<memoryBacking/>".to_owned(), String::new(), Ok(&[MEMFD, SHARED])),
        (cells(""), dimm("dimm", ""), Ok(&[MEMFD, SHARED])),
        (cells(""), dimm("dimm", " access='shared'"), Ok(&[MEMFD, SHARED])),
        (cells(""), dimm("dimm", " access='private'"), Err("a <memory> device asks for private memory")),
        (cells(""), dimm("nvdimm", ""), Err("an NVDIMM keeps what the guest writes to itself")),
        (cells(""), dimm("nvdimm", " access='shared'"), Ok(&[MEMFD, SHARED])),
        (cells(" memAccess='shared'"), dimm("nvdimm", ""), Ok(&[MEMFD, SHARED])),
        (backing(SHARED), dimm("nvdimm", ""), Ok(&[MEMFD])),
        (cells(""), dimm("nvdimm", " access='private'"), Err("a <memory> device asks for private memory")),
    ] {
        let xml = domain(&before, &device);
        let (code, new, errors) = run(&xml, &["--backend", "virtiofs"]);
        match expected {
            Ok(added) => {
                assert_eq!(code, 0, "{xml}{errors}");
                for part in [MEMFD, SHARED] {
                    let more = new.matches(part).count() - xml.matches(part).count();
                    assert_eq!(more, usize::from(added.contains(&part)), "{part}: {new}");
                }
                assert!(before.contains("<memoryBacking") || new.contains(&before), "{new}");
            }
            Err(why) => {
                assert_eq!((code, new.as_str()), (1, ""), "{xml}{new}");
                assert!(errors.contains(why), "{errors}");
            }
        }
    }
}
