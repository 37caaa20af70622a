//! Small files of which an audit once said something wrong.

use std::fs;

use serde_json::Value;

use crate::run::audit;

/// What an audit says of files below a root.
fn audited(files: &[(&str, &str)]) -> (Vec<Value>, Vec<Value>, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let root = folder.path().to_str().unwrap().to_owned();
    let audit = audit(["--root", &root, "--qemu", "9.2", "/"]);
    let findings = serde_json::to_string(audit.list("findings")).unwrap();
    (audit.list("shares").to_vec(), audit.list("helpers").to_vec(), findings)
}

#[test]
fn later_versions_of_lxd_and_incus_name_their_devices_otherwise() {
    let long = "a-disk-of-which-the-name-is-longer-than-any-identifier-can-be";
    // The first part of the SHA-256 of the encoded name, in base64 for file names.
    for (file, backup, prefix, device, own) in [
        (
            "var/snap/lxd/common/lxd/logs/web/qemu.conf",
            "var/snap/lxd/common/lxd",
            "dev-lxd_",
            "pkg-cache",
            "pkg--cache",
        ),
        ("var/log/lxd/web/qemu.conf", "var/lib/lxd", "dev-lxd_", "a/b", "a-b"),
        ("run/incus/web/qemu.conf", "var/lib/incus", "dev-incus_", "data", "data"),
        ("run/incus/web/qemu.conf", "var/lib/incus", "dev-incus_", long, LONG_HASH),
    ] {
        let configuration = format!(
            "[fsdev \"{prefix}{own}-9p\"]\nfsdriver = \"proxy\"\nsock_fd = \"6\"\n\n[device \"{prefix}{own}-9p\"]\ndriver = \
             \"virtio-9p-pci\"\nmount_tag = \"t\"\nfsdev = \"{prefix}{own}-9p\"\n"
        );
        let yaml = format!(
            "instance:\n  name: web\n  devices:\n    {device}:\n      type: disk\n      source: /var/cache/apt\n      path: /x\n"
        );
        let backup = format!("{backup}/virtual-machines/web/backup.yaml");
        let (shares, _, findings) = audited(&[(file, &configuration), (&backup, &yaml)]);
        assert_eq!(shares.len(), 1, "{device}");
        assert_eq!(shares[0]["export"], "/var/cache/apt", "{device}: {findings}");
    }
}

/// Of `a--disk--of--which--…`.
const LONG_HASH: &str = "IX3B_cfOfy1rK6fm8Rdnvp64KtzYFB7IBpIQ2jwMdds";

/// The names that LXD and Incus give to a helper's files lead to the instance and its device.
#[test]
fn a_managers_helper_is_joined_by_the_names_of_its_files() {
    let yaml = "instance:\n  name: web\n  devices:\n    pkg-cache:\n      type: disk\n      source: /var/cache/apt\n      path: /mnt/x\n";
    for (base, run, prefix) in [
        ("var/lib/lxd", "var/log/lxd", "lxd"),
        ("var/snap/lxd/common/lxd", "var/snap/lxd/common/lxd/logs", "lxd"),
        ("var/lib/incus", "run/incus", "incus"),
    ] {
        let devices = format!("/{base}/devices/p_web");
        let served = format!("{devices}/disk.pkg--cache.mnt-x");
        let pid = format!(
            "name: /usr/lib/qemu/virtfs-proxy-helper\nargs:\n- --nodaemon\n- --fd\n- \"3\"\n- --path\n- {served}\napparmor: \"\"\npid: 4711\n"
        );
        let id = format!("dev-{prefix}_pkg--cache-9p");
        let section =
            format!("[device \"{id}\"]\ndriver = \"virtio-9p-pci\"\nmount_tag = \"t\"\nfsdev = \"{id}\"\n");
        let by_fd = format!("[fsdev \"{id}\"]\nfsdriver = \"proxy\"\nsock_fd = \"6\"\n\n{section}");
        let by_socket = by_fd.replace("sock_fd = \"6\"", &format!("socket = \"{devices}/pkg-cache.sock\""));
        let file = format!("{run}/p_web/qemu.conf");
        let pid_file = (&format!("{devices}/pkg--cache.pid")[1..], pid.as_str());
        let backup = format!("{base}/virtual-machines/p_web/backup.yaml");
        // Without the manager's own configuration, the helper's pid file says what is served.
        let (shares, helpers, findings) = audited(&[(&file, &by_fd), pid_file]);
        assert_eq!((shares.len(), helpers.len()), (1, 1), "{base}: {findings}");
        assert_eq!(shares[0]["export"], served.as_str(), "{base}");
        // With it, the true source is told, of the helper too.
        let (shares, _, findings) = audited(&[(&file, &by_fd), pid_file, (&backup, yaml)]);
        assert_eq!(shares[0]["export"], "/var/cache/apt", "{base}: {findings}");
        assert!(findings.contains("device pkg-cache: the true source is /var/cache/apt"), "{findings}");
        // A copy of the configuration in another place is joined by its socket.
        let (shares, _, findings) = audited(&[("root/copy.conf", &by_socket), (&backup, yaml)]);
        assert_eq!(shares[0]["export"], "/var/cache/apt", "{base}: {findings}");
        // Another instance's or device's helper is none of this one's.
        for (from, to) in [("p_web", "p_db"), ("pkg--cache", "other")] {
            let (name, text) = (pid_file.0.replace(from, to), pid.replace(from, to));
            let (shares, _, findings) = audited(&[(&file, &by_fd), (&name, &text)]);
            assert_eq!(shares[0]["export"], Value::Null, "{base} {to}: {findings}");
        }
    }
}

/// Another Compose file that may show the helper another directory makes its export unknown.
#[test]
fn a_service_that_other_compose_files_change_is_not_known() {
    let base = "services:\n  vm:\n    image: q\n    command: [qemu, -virtfs, 'proxy,id=f,mount_tag=t,socket=/run/s/a.sock']\n    \
                volumes: ['/srv/run:/run/s']\n  helper:\n    image: virtfs-proxy-helper\n    command: [--path, /export, \
                --socket, /run/s/a.sock]\n    volumes: ['/srv/base:/export', '/srv/run:/run/s']\n";
    let other = "services:\n  helper:\n    volumes: ['/srv/other:/export']\n";
    let whole = "services:\n  helper:\n    image: elsewhere\n    volumes: ['/srv/other:/export']\n";
    for (name, file, text, export) in [
        ("compose.yaml", "compose.override.yaml", other, None),
        ("compose.yaml", "compose.override.yaml", whole, None),
        ("docker-compose.yml", "docker-compose.override.yml", other, None),
        // `docker compose -f base.yml -f prod.yml`
        ("base.yml", "prod.yml", other, None),
        ("base.yml", "prod.yml", "services:\n  helper:\n    env_file: x\n", None),
        ("base.yml", "prod.yml", "services:\n  helper:\n    restart: always\n", Some("/srv/base")),
        ("base.yml", "prod.yml", "services:\n  vm:\n    volumes: ['/srv/other:/x']\n", Some("/srv/base")),
        // A file of its own, of another machine say.
        ("base.yml", "prod.yml", whole, Some("/srv/base")),
        ("base.yml", "prod.yml", "services: [\n", Some("/srv/base")),
    ] {
        let (shares, _, findings) =
            audited(&[(&format!("srv/{name}"), base), (&format!("srv/{file}"), text)]);
        assert_eq!(shares.len(), 1, "{file}: {findings}");
        assert_eq!(shares[0]["export"].as_str(), export, "{name} {file} {text}: {findings}");
    }
}

#[test]
fn a_device_that_is_elsewhere_is_no_reason_to_remove_the_fsdev() {
    for files in [
        &[(
            "vm.py",
            "args += [\"-fsdev\", \"proxy,id=data0,socket=/run/d.sock\"]\nargs += [\"-device\", \"virtio-9p-pci,fsdev=data0,mount_tag=%s\" % tag]\n",
        )][..],
        &[
            ("opts.sh", "OPTS=\"-fsdev proxy,id=data0,socket=/run/d.sock\"\n"),
            (
                "start.sh",
                ". ./opts.sh\nqemu-system-x86_64 $OPTS -device virtio-9p-pci,fsdev=data0,mount_tag=data\n",
            ),
        ],
    ] {
        let (shares, _, findings) = audited(files);
        assert_eq!(shares.len(), 1, "{findings}");
        assert!(!findings.contains("remove it"), "{findings}");
    }
    let (_, _, findings) =
        audited(&[("vm.sh", "qemu-system-x86_64 -fsdev proxy,id=data0,socket=/run/d.sock\n")]);
    assert!(findings.contains("remove it"), "{findings}");
}

/// A text that another file uses is one share, with both places.
#[test]
fn a_share_of_two_files_is_told_once() {
    let share = "-fsdev proxy,id=d,socket=/run/d.sock";
    let device = "-device virtio-9p-pci,fsdev=d,mount_tag=data";
    let unit =
        |more: &str| format!("[Service]\n{more}ExecStart=/usr/bin/qemu-system-x86_64 $OPTS {device}\n");
    for (text, user) in [
        (
            ("o/opts.sh", format!("# x\nOPTS=\"{share}\"\n")),
            ("o/start.sh", format!(". ./opts.sh\nqemu-kvm $OPTS {device}\n")),
        ),
        (
            ("o/opts", format!("\nOPTS='{share}'\n")),
            ("o/vm", format!("#!/bin/sh\n. \"$(dirname \"$0\")/opts\"\nqemu-kvm $OPTS {device}\n")),
        ),
        (
            ("o/opts.sh", format!("# x\nOPTS=({share})\n")),
            (
                "o/proxy.sh",
                format!("# a proxy share\nsource ./opts.sh\nqemu-kvm \"${{OPTS[@]}}\" {device}\n"),
            ),
        ),
        (
            ("etc/default/vm", format!("# x\nOPTS={share}\n")),
            ("etc/systemd/system/vm.service", unit("EnvironmentFile=/etc/default/vm\n")),
        ),
        (
            ("etc/systemd/system/vm.service.d/a.conf", format!("[Service]\nEnvironment=\"OPTS={share}\"\n")),
            ("etc/systemd/system/vm.service", unit("# proxy\n")),
        ),
        (
            (
                "etc/systemd/system/vm.service",
                format!("[Service]\nEnvironment=\"OPTS={share}\"\nExecStart=/bin/true\n"),
            ),
            ("etc/systemd/system/vm.service.d/proxy.conf", unit("ExecStart=\n")),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [&text, &user] {
            crate::run::write(&folder.path().join(name), content);
        }
        let root = folder.path().to_str().unwrap();
        let [text, user] = [&text, &user].map(|(name, _)| format!("/{name}"));
        for paths in
            [vec!["/".to_owned()], vec![text.clone(), user.clone()], vec![user.clone(), text.clone()]]
        {
            let audit =
                audit(["--root", root, "--qemu=9.2"].map(str::to_owned).into_iter().chain(paths.clone()));
            let shares = audit.list("shares");
            assert_eq!(shares.len(), 1, "{user} {paths:?}: {shares:#?}");
            assert_eq!(
                (&shares[0]["file"], &shares[0]["line"]),
                (&Value::from(text.as_str()), &Value::from(2)),
                "{user}"
            );
            assert_eq!(shares[0]["mount_tag"], "data", "{user} {paths:?}");
            let places = shares[0]["other_places"].as_array().unwrap();
            assert!(places.len() == 1 && places[0].as_str().unwrap().starts_with(&user), "{places:?}");
        }
        // Alone, it says where its text is, and what to rewrite.
        let audit = audit(["--root", root, "--qemu=9.2", &user]);
        let place = audit.share("data")["other_places"][0].as_str().unwrap().to_owned();
        assert_eq!(place, format!("{text}:2"));
        assert_eq!(audit.share("data")["rewritable"], false);
    }
}

/// A stylesheet that puts a share into domains, as users of libvirt's Terraform provider and of Vagrant do.
const STYLESHEET: &str = "<xsl:stylesheet version=\"1.0\" xmlns:xsl=\"http://www.w3.org/1999/XSL/Transform\"\n  \
     xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\">\n<xsl:template match=\"/domain\"><xsl:copy>\n\
     <qemu:commandline>\n<qemu:arg value=\"-fsdev\"/>\n<qemu:arg value=\"proxy,id=f,socket=/run/k.sock\"/>\n\
     <qemu:arg value=\"-device\"/>\n<qemu:arg value=\"virtio-9p-pci,fsdev=f,mount_tag=TAG\"/>\n\
     </qemu:commandline></xsl:copy></xsl:template>\n</xsl:stylesheet>\n";

/// What KubeVirt's hook sidecars do to a domain: shell, with the XML on one line or on several, and Python.
const HOOKS: &[(&str, &str)] = &[
    (
        "hook.sh",
        "#!/bin/sh\necho \"$4\" | sed \"s|</domain>|<qemu:commandline><qemu:arg value='-fsdev'/><qemu:arg \
         value='proxy,id=f,socket=/run/k.sock'/><qemu:arg value='-device'/><qemu:arg \
         value='virtio-9p-pci,fsdev=f,mount_tag=k'/></qemu:commandline></domain>|\"\n",
    ),
    (
        "lines.sh",
        "#!/bin/sh\nARGS=\"<qemu:commandline>\n<qemu:arg value='-fsdev'/>\n<qemu:arg \
         value='proxy,id=f,socket=/run/k.sock'/>\n</qemu:commandline>\"\necho \"$4\" | sed \"s|</domain>|$ARGS</domain>|\"\n",
    ),
    (
        "hook.py",
        "def on_define(domain):\n    for v in [\"-fsdev\", \"proxy,id=f,socket=/run/k.sock\"]:\n        \
         ET.SubElement(cl, \"qemu:arg\", value=v)\n    ET.SubElement(cl, \"qemu:arg\").set(\"value\", \"-device\")\n",
    ),
    (
        "configmap.yaml",
        "kind: ConfigMap\ndata:\n  hook.sh: |\n    #!/bin/sh\n    echo \"$4\" | sed \"s|</domain>|<qemu:arg \
         value='-fsdev'/><qemu:arg value='proxy,id=f,socket=/run/k.sock'/></domain>|\"\n",
    ),
];

#[test]
fn stylesheets_and_hooks_get_no_advice_to_remove_a_share() {
    let known = STYLESHEET.replace("TAG", "k");
    let unknown = STYLESHEET.replace("TAG", "{$tag}");
    let stylesheets = [("a.xsl", known.as_str()), ("b.xslt", unknown.as_str()), ("c.xml", known.as_str())];
    for file in stylesheets.iter().chain(HOOKS) {
        let (shares, _, findings) = audited(&[*file]);
        assert_eq!(shares.len(), 1, "{}: {findings}", file.0);
        assert_eq!(shares[0]["socket"], "/run/k.sock", "{}: {findings}", file.0);
        assert_eq!(shares[0]["rewritable"], true, "{}: {findings}", file.0);
        assert!(!findings.contains("remove it"), "{}: {findings}", file.0);
        let tag = if ["a.xsl", "c.xml"].contains(&file.0) { "k".into() } else { Value::Null };
        assert_eq!(shares[0]["mount_tag"], tag, "{}: {findings}", file.0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file.0);
        fs::write(&path, file.1).unwrap();
        let mut config = std::process::Command::new(crate::program::ours());
        let output = config.args(["migrate", "config", "--export", "f=/srv/n"]).arg(&path).output().unwrap();
        let expected = file
            .1
            .replace("proxy", "local")
            .replace("socket=/run/k.sock", "path=/srv/n,security_model=mapped-xattr");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", file.0);
    }
}

/// A script that starts QEMU with what it sources, as far as the sourced file says it.
#[test]
fn a_script_reads_what_it_sources_from_its_own_folder() {
    let script = "qemu-system-x86_64 $OPTS -device virtio-9p-pci,fsdev=d,mount_tag=k\n";
    let array = "qemu-system-x86_64 \"${OPTS[@]}\" -device virtio-9p-pci,fsdev=d,mount_tag=k\n";
    let device = "qemu-system-x86_64 -fsdev proxy,id=d,socket=$SOCK $DEVICE\n";
    let scalar = "OPTS=\"-fsdev proxy,id=d,socket=/run/d.sock\"\n";
    let words = "OPTS=(-fsdev proxy,id=d,socket=/run/d.sock)\n";
    let reverse = "SOCK=/run/d.sock\nDEVICE=\"-device virtio-9p-pci,fsdev=d,mount_tag=k\"\n";
    for how in [
        ". ./opts.sh\n",
        ". opts.sh\n",
        "source ../s/opts.sh\n",
        ". \"$(dirname \"$0\")/opts.sh\"\n",
        ". `dirname $0`/opts.sh\n",
        ". \"${0%/*}/opts.sh\"\n",
        "source \"${BASH_SOURCE[0]%/*}/opts.sh\"\n",
        "HERE=$(cd \"$(dirname \"${BASH_SOURCE[0]}\")\" && pwd)\n. \"$HERE/opts.sh\"\n",
    ] {
        for (opts, start) in [(scalar, script), (words, array), (reverse, device)] {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join("s");
            fs::create_dir(&root).unwrap();
            fs::write(root.join("opts.sh"), opts).unwrap();
            fs::write(root.join("start.sh"), format!("#!/bin/bash\n{how}{start}")).unwrap();
            let audit = audit([root.join("start.sh")]);
            let shares = audit.list("shares");
            assert_eq!(shares.len(), 1, "{how}{opts}{:#}", audit.document);
            let said = (&shares[0]["mount_tag"], &shares[0]["socket"]);
            assert_eq!(said, (&"k".into(), &"/run/d.sock".into()), "{how}{opts}");
            // Only what stands in the script itself is rewritten there.
            assert_eq!(shares[0]["rewritable"], start == device, "{how}{opts}");
        }
    }
}

#[test]
fn a_usage_message_is_no_share() {
    for (name, content) in [
        ("usage.py", "HELP = \"-virtfs proxy,mount_tag=TAG,socket=SOCKET[,id=ID][,readonly=on]\"\n"),
        ("options.hx", "    \"-virtfs proxy,mount_tag=tag,socket=socket[,id=id][,writeout=immediate]\\n\"\n"),
        ("usage.sh", "usage='-fsdev proxy,id=id,socket=socket[,readonly=on]'\n"),
        ("usage.py", "print('-virtfs proxy,mount_tag=<tag>,socket=<socket>')\n"),
    ] {
        let (shares, _, findings) = audited(&[(name, content)]);
        assert!(shares.is_empty(), "{content}: {findings}");
    }
}

#[test]
fn an_argument_that_is_not_known_is_no_option_of_the_next() {
    for directory in ["$export{$vmid}", "$dir", "$conf->{dir}[0]", "dir_of(vmid)", "@dirs"] {
        let content = format!(
            "system('/usr/lib/kvm/virtfs-proxy-helper', '-p', {directory}, '-s', '/run/a.sock', '-u', '0');\n"
        );
        let (_, helpers, findings) = audited(&[("hook.pl", &content)]);
        assert_eq!(helpers.len(), 1, "{findings}");
        assert_eq!(
            (&helpers[0]["export"], &helpers[0]["socket"]),
            (&Value::Null, &"/run/a.sock".into()),
            "{directory}"
        );
    }
}

#[test]
fn a_socket_in_a_variable_is_rewritable_with_an_answer() {
    for content in [
        "#!/bin/sh\nqemu-system-x86_64 -virtfs proxy,socket=$S,mount_tag=w\n",
        "#!/bin/sh\nqm set 1 --args \"-virtfs proxy,socket=$S,mount_tag=w\"\n",
    ] {
        let (shares, _, findings) = audited(&[("vm.sh", content)]);
        assert_eq!(
            (&shares[0]["rewritable"], &shares[0]["socket"]),
            (&true.into(), &Value::Null),
            "{findings}"
        );
        assert!(findings.contains("--export w=PATH") && findings.contains("--readonly w"), "{findings}");
    }
}
