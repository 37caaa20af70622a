//! Units as people write them.

use std::path::Path;

use super::Systemd;
use crate::share::rewrite::{Rewrite, apply};
use crate::share::{ExportPath, Transport};
use crate::sources::format::{Document, Format, Reading};

fn read(path: &str, unit: &str) -> Reading {
    let document = Document { path: Some(Path::new(path)), bytes: unit.as_bytes() };
    assert!(Systemd.recognises(&document));
    Systemd.read(&document).unwrap()
}

fn sockets(path: &str, unit: &str) -> Vec<String> {
    read(path, unit)
        .shares
        .iter()
        .map(|share| match &share.transport {
            Transport::Socket(path) => format!("{}: {}", share.place.line.unwrap(), path.display()),
            other => format!("{}: {other:?}", share.place.line.unwrap()),
        })
        .collect()
}

#[test]
fn shares_are_found_in_units() {
    for (path, unit, expected) in [
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nExecStart=/usr/bin/qemu-system-x86_64 -m 1G \\\n  # a note\n  -fsdev \
             proxy,id=f,socket=/run/a.sock \\\n  -device virtio-9p-pci,fsdev=f,mount_tag=t\n",
            vec!["4: /run/a.sock"],
        ),
        (
            "/etc/systemd/system/vm.service.d/x.conf",
            "[Service]\nExecStart=/bin/old -virtfs proxy,id=a,mount_tag=a,socket=/old\nExecStart=\n\
             ExecStart=-/usr/bin/qemu \"-virtfs\" 'proxy,id=f,mount_tag=t,socket=/run/my vm.sock'\n",
            vec!["4: /run/my vm.sock"],
        ),
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nEnvironment=\"SOCK=/run/a.sock\" X=1\nExecStart=@/usr/bin/qemu kvm -virtfs \
             proxy,id=f,mount_tag=t,socket=${SOCK}\n",
            vec!["3: /run/a.sock"],
        ),
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nEnvironment=\"OPTS=-fsdev proxy,id=f,socket=/a -device virtio-9p-pci,fsdev=f,mount_tag=t\"\n\
             ExecStart=/usr/bin/qemu $OPTS\n",
            vec!["2: /a"],
        ),
        // systemd resolves escapes first, then specifiers, then variables.
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=\\x25t/a\\x25\\x25b\\x24\\x24c\n",
            vec!["2: /run/a%b$c"],
        ),
        // Behind a colon, there are no variables.
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nEnvironment=A=x\nExecStart=-:/usr/bin/qemu -virtfs \
             proxy,id=f,mount_tag=t,socket=/a$$b${A}$A\n",
            vec!["3: /a$$b${A}$A"],
        ),
        (
            "/etc/systemd/system/vm@web.service",
            "[Service]\nExecStart=/bin/sh -c 'exec qemu -virtfs proxy,id=f,mount_tag=t,socket=%t/%i.sock'\n",
            vec!["2: /run/web.sock"],
        ),
        (
            "/etc/systemd/system/vm.service",
            "[Service]\nRuntimeDirectory=vm:x\nExecStart=/usr/bin/qemu -virtfs \
             proxy,id=f,mount_tag=t,socket=${RUNTIME_DIRECTORY}/a\n",
            vec!["3: /run/vm/a"],
        ),
        (
            "/etc/systemd/system/vm@srv-a.service",
            "[Service]\nExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=%f/x\n",
            vec!["2: /srv/a/x"],
        ),
        (
            "/etc/containers/systemd/vm.container",
            "[Container]\nImage=x\nExec=qemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/run/a.sock\n",
            vec!["3: /run/a.sock"],
        ),
    ] {
        assert_eq!(sockets(path, unit), expected, "{unit}");
    }
}

#[test]
fn what_a_template_means_is_not_known() {
    let unit = "[Service]\nExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=/run/%i.sock\n";
    let reading = read("/etc/systemd/system/vm@.service", unit);
    assert_eq!(reading.shares[0].transport, Transport::Unknown(b"/run/%i.sock".to_vec()));
    assert_eq!(reading.shares[0].export, ExportPath::Unknown);
}

#[test]
fn helpers_are_found_in_units() {
    let unit = "[Service]\nType=forking\nExecStart=/usr/libexec/virtfs-proxy-helper -p /srv/%i -s /run/%i.sock -u \
                107 -g 107\n";
    let helper = &read("/etc/systemd/system/virtfs@.service", unit).helpers[0];
    assert_eq!(helper.export, None);
    assert_eq!(helper.template, Some((Some(b"/run/%i.sock".to_vec()), b"/srv/%i".to_vec())));
    let helper = &read("/etc/systemd/system/virtfs@a.service", unit).helpers[0];
    assert_eq!(helper.export.as_deref(), Some(Path::new("/srv/a")));
    assert_eq!((helper.uid.as_deref(), helper.place.line), (Some(&b"107"[..]), Some(3)));
}

#[test]
fn a_socket_unit_listens_for_its_service() {
    let reading =
        read("/etc/systemd/system/virtfs.socket", "[Socket]\nListenStream=/run/a.sock\nAccept=yes\n");
    assert_eq!(reading.listeners[0].socket, Path::new("/run/a.sock"));
    assert_eq!(reading.listeners[0].service, "virtfs");
}

#[test]
fn rewriting_touches_nothing_else() {
    let how = Rewrite { exports: vec![(b"f".to_vec(), "/srv/50% of it".into())], ..Rewrite::default() };
    for (unit, expected) in [
        (
            "[Service]\nExecStart=/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=/a \\\n  -m 1G\n",
            "[Service]\nExecStart=/usr/bin/qemu -virtfs \
             local,id=f,mount_tag=t,path=/srv/50%%\\x20of\\x20it,security_model=mapped-xattr \\\n  -m 1G\n",
        ),
        (
            "[Service]\nExecStart=/usr/bin/qemu -virtfs \"proxy,id=f,mount_tag=t,socket=/a b\" -m 1G\n",
            "[Service]\nExecStart=/usr/bin/qemu -virtfs \"local,id=f,mount_tag=t,path=/srv/50%% of \
             it,security_model=mapped-xattr\" -m 1G\n",
        ),
    ] {
        let document = Document { path: Some(Path::new("/x.service")), bytes: unit.as_bytes() };
        let edits = Systemd.rewrite(&document, &how).unwrap();
        let new = String::from_utf8(apply(unit.as_bytes(), &edits.edits)).unwrap();
        assert_eq!(new, expected);
    }
}
