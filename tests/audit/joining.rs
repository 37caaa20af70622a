//! Shares find their export paths in what starts their helpers.

use crate::run::{audit, domain, write};
use serde_json::Value;

#[test]
fn a_socket_leads_to_the_helper_that_listens_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for (name, helper, socket) in [
        (
            "plain.service",
            "[Service]\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -n -p /srv/plain -s /run/plain.sock -u 0 -g 0\n",
            "/run/plain.sock",
        ),
        (
            "tpl@.service",
            "[Service]\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -p /srv/%i -s /run/tpl/%i.sock -u 0 -g 0\n",
            "/run/tpl/one.sock",
        ),
        (
            "act@.service",
            "[Service]\nStandardInput=socket\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -n -f 0 -p /srv/act\n",
            "/run/act.sock",
        ),
        (
            "hook.sh",
            "#!/bin/sh\nSOCK=/run/hook.sock\nvirtfs-proxy-helper --path /srv/hook --socket \"$SOCK\" -u qemu -g qemu\n",
            "/run/hook.sock",
        ),
        (
            "cron.cron",
            "@reboot root virtfs-proxy-helper -p/srv/cron -s/var/run/cron.sock -u0 -g0\n",
            "/run/cron.sock",
        ),
        (
            "env.service",
            "[Service]\nEnvironmentFile=/etc/default/env\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -n -p ${EXPORT} -s ${SOCK}\n",
            "/run/env.sock",
        ),
        (
            "list.service",
            "[Service]\nEnvironmentFile=/etc/default/list\nExecStart=/usr/bin/virtfs-proxy-helper -n $OPTIONS\n",
            "/run/list.sock",
        ),
        (
            "each@.service",
            "[Service]\nEnvironmentFile=/etc/each/%i.env\nExecStart=/usr/bin/virtfs-proxy-helper -p ${EXPORT} -s /run/%i.sock\n",
            "/run/one.sock",
        ),
        (
            "own@.service",
            "[Service]\nExecStart=/usr/bin/virtfs-proxy-helper --nodaemon --persistent --path %f --uid vm --gid vm\n",
            "/run/own/srv-own.sock",
        ),
        (
            "openrc.initd",
            "#!/sbin/openrc-run\ncommand=/usr/bin/virtfs-proxy-helper\ncommand_args=\"-p /srv/openrc -s /run/openrc.sock\"\n",
            "/run/openrc.sock",
        ),
    ] {
        let tag = name.split('.').next().unwrap().trim_end_matches('@');
        write(&root.join("etc/units").join(name), helper);
        write(&root.join("etc/libvirt").join(format!("{tag}.xml")), domain(tag, tag, socket));
    }
    write(&root.join("etc/units/act.socket"), "[Socket]\nListenStream=/run/act.sock\nAccept=yes\n");
    write(&root.join("etc/units/own@.socket"), "[Socket]\nListenStream=%t/own/%i.sock\n");
    write(&root.join("etc/default/list"), "OPTIONS=-p /srv/list -s /run/list.sock\n");
    write(&root.join("etc/each/one.env"), "EXPORT=/srv/each\n");
    write(&root.join("etc/default/env"), "EXPORT=/srv/env\nSOCK=/run/env.sock\n");
    let audit = audit(["--root", root.to_str().unwrap(), "/etc"]);
    for (tag, export) in [
        ("plain", "/srv/plain"),
        ("tpl", "/srv/one"),
        ("act", "/srv/act"),
        ("hook", "/srv/hook"),
        ("cron", "/srv/cron"),
        ("env", "/srv/env"),
        ("list", "/srv/list"),
        ("each", "/srv/each"),
        ("own", "/srv/own"),
        ("openrc", "/srv/openrc"),
    ] {
        let share = audit.share(tag);
        assert_eq!(share["export"], export, "{share:#}");
        assert_eq!(
            (&share["resolved"], &share["export_from"]),
            (&true.into(), &"helper".into()),
            "{share:#}"
        );
    }
}

#[test]
fn drop_ins_say_the_last_word() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let unit = root.join("etc/systemd/system/virtfs.service");
    write(
        &unit,
        "[Service]\nEnvironment=EXPORT=/srv/old\nExecStart=/usr/bin/virtfs-proxy-helper -n -p ${EXPORT} -s /run/a.sock\n",
    );
    write(
        &root.join("etc/systemd/system/virtfs.service.d/10-export.conf"),
        "[Service]\nEnvironment=EXPORT=/srv/new\n",
    );
    write(&root.join("etc/vm.xml"), domain("web", "t", "/run/a.sock"));
    let audit = audit(["--root", root.to_str().unwrap(), "/"]);
    assert_eq!(audit.share("t")["export"], "/srv/new", "{:#}", audit.document);
}

/// The tag of a unit's share, the unit's files, and the socket that is known.
type UnitFiles<'a> = (&'a str, &'a [(&'a str, String)], Option<&'a str>);

/// What systemd makes of a unit's files, in its order, and what is not certain for all instances of a template.
#[test]
fn a_units_files_are_read_in_systemds_order() {
    let share = |tag: &str| {
        format!("ExecStart=/usr/bin/qemu-system-x86_64 -virtfs proxy,id=f,socket=${{S}},mount_tag={tag}\n")
    };
    let (one, two) = ("Environment=S=/run/one\n", "Environment=S=/run/two\n");
    let read_only = "Environment=S=/run/two,readonly=on\n";
    let cases: &[UnitFiles] = &[
        ("own", &[("a.service", one.to_owned() + &share("own"))], Some("/run/one")),
        (
            "in",
            &[("a.service", one.into()), ("a.service.d/1.conf", two.to_owned() + &share("in"))],
            Some("/run/two"),
        ),
        (
            "by",
            &[
                ("a.service", one.to_owned() + &share("by")),
                ("a.service.d/2.conf", one.into()),
                ("a.service.d/3.conf", two.into()),
            ],
            Some("/run/two"),
        ),
        ("all", &[("a.service", share("all")), ("service.d/1.conf", two.into())], Some("/run/two")),
        (
            "dash",
            &[("a-b.service", one.to_owned() + &share("dash")), ("a-.service.d/1.conf", two.into())],
            Some("/run/two"),
        ),
        (
            "reset",
            &[
                ("a.service", one.to_owned() + &share("reset")),
                ("a.service.d/1.conf", "Environment=\n".into()),
            ],
            None,
        ),
        ("unset", &[("a.service", one.to_owned() + "UnsetEnvironment=S\n" + &share("unset"))], None),
        // Of an instance's drop-in, the template's own variables hold.
        (
            "inst",
            &[("a@.service", "Environment=S=/run/%i\n".into()), ("a@web.service.d/1.conf", share("inst"))],
            Some("/run/web"),
        ),
        ("tmpl", &[("a@.service", one.to_owned() + &share("tmpl"))], Some("/run/one")),
        // One instance has another socket than the others, and is read-only.
        (
            "some",
            &[("a@.service", one.to_owned() + &share("some")), ("a@web.service.d/1.conf", read_only.into())],
            None,
        ),
        (
            "file",
            &[
                ("a@.service", one.to_owned() + &share("file")),
                ("a@web.service.d/1.conf", "EnvironmentFile=/etc/x\n".into()),
            ],
            None,
        ),
        (
            "other",
            &[
                ("a@.service", one.to_owned() + &share("other")),
                ("a@web.service.d/1.conf", "Environment=T=1\n".into()),
            ],
            Some("/run/one"),
        ),
    ];
    for (tag, files, socket) in cases {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (name, text) in *files {
            write(&root.join("etc/systemd/system").join(name), format!("[Service]\n{text}"));
        }
        let audit = audit(["--root", root.to_str().unwrap(), "/etc"]);
        let share = audit.share(tag);
        assert_eq!(share["socket"].as_str(), *socket, "{tag}: {share:#}");
    }
}

/// A helper's template is read for the instances that files name.
#[test]
fn instances_are_found_by_links_and_drop_ins() {
    let unit = "[Service]\nEnvironmentFile=/etc/v/%i\nExecStart=/usr/bin/virtfs-proxy-helper -n -p ${E} -s /run/%i.sock\n";
    let folder = "etc/systemd/system";
    for by in [
        "v@.service.wants/x",
        "multi-user.target.wants/v@web.service",
        "vm.service.requires/v@web.service",
        "v@web.service.d/1.conf",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let unit = if by.starts_with("v@.") { unit.to_owned() } else { unit.replace("/v/%i", "/v/%i/env") };
        write(&root.join(folder).join("v@.service"), unit);
        write(&root.join(if by.starts_with("v@.") { "etc/v/web" } else { "etc/v/web/env" }), "E=/srv/web\n");
        let file = root.join(folder).join(by);
        if file.extension().is_some_and(|extension| extension == "conf") {
            write(&file, "[Service]\nNice=1\n");
        } else {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("../v@.service", &file).unwrap();
        }
        write(&root.join("etc/vm.xml"), domain("web", "t", "/run/web.sock"));
        let audit = audit(["--root", root.to_str().unwrap(), "/"]);
        assert_eq!(audit.share("t")["export"], "/srv/web", "{by}: {:#}", audit.document);
    }
}

/// A template unit's share is told for each instance that files name, and is not rewritten as if all had one directory.
#[test]
fn each_instance_of_a_template_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let units = root.join("etc/systemd/system");
    let vm = "[Service]\nEnvironmentFile=-/etc/vm/%i\nExecStart=/usr/bin/qemu-system-x86_64 -name %i -fsdev proxy,id=f,socket=${SOCK} \
              -device virtio-9p-pci,fsdev=f,mount_tag=data\n";
    write(&units.join("vm@.service"), vm);
    write(
        &units.join("share@.service"),
        "[Service]\nExecStart=/usr/lib/qemu/virtfs-proxy-helper -n -s /run/%i.sock -p /srv/%i\n",
    );
    write(&root.join("etc/vm/a"), "SOCK=/run/web.sock\n");
    write(&units.join("vm@b.service.d/1.conf"), "[Service]\nEnvironment=SOCK=/run/db.sock\n");
    write(&root.join("etc/vm/c"), "SOCK=/tmp/none.sock\n");
    let audit = audit(["--root", root.to_str().unwrap(), "/"]);
    let share = audit.share("data");
    assert_eq!((&share["export"], &share["rewritable"]), (&Value::Null, &Value::Bool(false)), "{share:#}");
    let of_kind = |id: &str| {
        let found =
            audit.list("findings").iter().filter(|one| one["id"] == id).map(|one| one["message"].to_string());
        found.collect::<Vec<_>>()
    };
    let unknown = of_kind("export-unknown");
    assert_eq!(unknown.len(), 1, "{:#}", audit.document);
    for part in [
        "a has /srv/web (socket /run/web.sock)",
        "b has /srv/db (socket /run/db.sock)",
        "c has a directory that is not known here (socket /tmp/none.sock)",
    ] {
        assert!(unknown[0].contains(part), "{part}: {unknown:?}");
    }
    // The same with the instance's name in the socket.
    write(&units.join("vm@.service"), vm.replace("${SOCK}", "/run/%i.sock"));
    let audit = self::audit(["--root", root.to_str().unwrap(), "/"]);
    let told = audit.document.to_string();
    assert!(told.contains("a has /srv/a (socket /run/a.sock)"), "{told}");
    assert!(told.contains("another socket in each instance of this template unit"), "{told}");
    // Without a file that names an instance.
    write(
        &root.join("other/guest@.service"),
        vm.replace("${SOCK}", "/run/%i.sock").replace("/etc/vm", "/etc/none"),
    );
    let audit = self::audit(["--root", root.to_str().unwrap(), "/other"]);
    let told = audit.document.to_string();
    assert!(told.contains("another text in each instance of this template unit"), "{told}");
}

#[test]
fn a_generated_file_leads_to_the_managers_own_source() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let conf = "[fsdev \"lxd_data\"]\nfsdriver = \"proxy\"\nsock_fd = \"9\"\nreadonly = \"off\"\n\n\
                [device \"dev-lxd_data-9p\"]\ndriver = \"virtio-9p-pci\"\nbus = \"qemu_pcie3\"\naddr = \"00.1\"\n\
                mount_tag = \"lxd_data\"\nfsdev = \"lxd_data\"\n";
    write(&root.join("var/log/lxd/work_vm1/qemu.conf"), conf);
    write(
        &root.join("var/lib/lxd/storage-pools/default/virtual-machines/work_vm1/backup.yaml"),
        "instance:\n  config:\n    raw.idmap: both 1000 1000\n  expanded_devices:\n    data:\n      type: disk\n      \
         path: /mnt\n      source: /srv/shared\n",
    );
    std::fs::create_dir_all(root.join("var/lib/lxd/virtual-machines")).unwrap();
    std::os::unix::fs::symlink(
        "/var/lib/lxd/storage-pools/default/virtual-machines/work_vm1",
        root.join("var/lib/lxd/virtual-machines/work_vm1"),
    )
    .unwrap();
    let audit = audit(["--root", root.to_str().unwrap()]);
    let share = audit.share("lxd_data");
    assert_eq!(share["export"], "/srv/shared", "{share:#}");
    assert_eq!((&share["guest"], &share["export_from"]), (&"vm1".into(), &"manager".into()));
    assert_eq!(share["rewritable"], false);
    let notes: Vec<_> =
        share["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert!(notes.contains(&"generated-file") && notes.contains(&"id-map"), "{notes:?}");
}
