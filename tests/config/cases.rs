//! Small files that once were rewritten wrongly, and what becomes of them.

use std::fs;
use std::process::Output;

use super::{config, text};

/// Rewrites a file of this name and content.
fn rewritten(name: &str, content: &str, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, content).unwrap();
    let file = file.to_str().unwrap().to_owned();
    let output = config(options.iter().map(|option| (*option).to_owned()).chain([file.clone()]), b"");
    assert_eq!(fs::read(&file).unwrap(), content.as_bytes());
    output
}

const LOCAL: &str = "path=/srv/n,security_model=mapped-xattr";

#[test]
fn a_templates_expression_goes_as_a_whole() {
    for (name, content, socket) in [
        ("a.yml", "a: \"-fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n", "{{ sock }}"),
        (
            "a.yml",
            "a: '-fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t'\n",
            "{{ vm.sock | default('/x y') }}",
        ),
        (
            "a.json",
            "{\"a\": \"-fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\"}\n",
            "{{ sock }}",
        ),
        ("a.sh.erb", "qemu -fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\n", "<%= @sock %>"),
        (
            "a.service",
            "[Service]\nExecStart=/q -fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\n",
            "{{ sock }}",
        ),
        ("vm.j2", "X=\"-fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n", "{{ sock }}"),
        (
            "a.tf",
            "a = \"-fsdev proxy,id=n,@ -device virtio-9p-pci,fsdev=n,mount_tag=t\"\n",
            "${join(\"/\", [a, b])}",
        ),
    ] {
        let output =
            rewritten(name, &content.replace('@', &format!("socket={socket}")), &["--export", "n=/srv/n"]);
        if output.status.success() {
            let expected = content.replace("proxy", "local").replace('@', LOCAL);
            assert_eq!(text(&output.stdout), expected, "{name}");
            assert!(text(&output.stderr).contains("--readonly"), "{name}");
        } else {
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{name}");
        }
    }
}

#[test]
fn a_condition_of_a_template_is_not_torn() {
    let content = "qemu -virtfs proxy,id=n,socket=/a{% if ro %},readonly=on{% endif %},mount_tag=t\n";
    let output = rewritten("a.sh", content, &["--export", "t=/srv/n"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{}", text(&output.stderr));
}

#[test]
fn a_socket_in_a_variable_goes_where_the_admin_says_so() {
    for (content, tag) in [
        (
            "#!/bin/sh\n: ${SOCK:=/run/x.sock}\nqemu-system-x86_64 -virtfs proxy,socket=$SOCK,mount_tag=w\n",
            "w",
        ),
        ("#!/bin/sh\nqemu -virtfs \"proxy,socket=${SOCK},mount_tag=w\"\n", "w"),
        ("#!/bin/sh\nqm set 100 --args \"-virtfs proxy,socket=$SOCK,mount_tag=w\"\n", "w"),
        ("#!/bin/sh\nqemu -virtfs proxy,socket=$SOCK,mount_tag=$TAG\n", "$TAG"),
    ] {
        let export = format!("{tag}=/srv/n");
        let socket = if content.contains("${SOCK}") { "socket=${SOCK}" } else { "socket=$SOCK" };
        let local = content.replace("proxy", "local");
        for (options, share) in [(vec![], LOCAL.to_owned()), (vec!["--writable", tag], LOCAL.to_owned())] {
            let options: Vec<_> = ["--export", &export].into_iter().chain(options).collect();
            let output = rewritten("vm.sh", content, &options);
            assert_eq!(text(&output.stdout), local.replace(socket, &share), "{}", text(&output.stderr));
            let warned = text(&output.stderr).contains("would become writable");
            assert_eq!(warned, options.len() == 2, "{}", text(&output.stderr));
        }
        let output = rewritten("vm.sh", content, &["--export", &export, "--readonly", tag]);
        assert!(text(&output.stdout).contains("readonly=on"), "{}", text(&output.stderr));
        let output = rewritten("vm.sh", content, &["--export", &export, "--to", "qemu-args"]);
        assert!(text(&output.stdout).contains(LOCAL), "{}", text(&output.stderr));
        // Nobody has said what it exports: the refusal says how.
        let output = rewritten("vm.sh", content, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("--export"), "{}", text(&output.stderr));
    }
}

#[test]
fn readonly_elsewhere_in_the_file_asks_for_an_answer() {
    let content =
        "#!/bin/sh\n[ -n \"$S\" ] || S=/run/a,readonly=on\nqemu -virtfs proxy,socket=$S,mount_tag=t\n";
    let output = rewritten("vm.sh", content, &["--export", "t=/srv/n"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("--readonly t or --writable t"), "{}", text(&output.stderr));
    let output = rewritten("vm.sh", content, &["--export", "t=/srv/n", "--readonly", "t"]);
    assert!(
        text(&output.stdout).contains("readonly=on,mount_tag=t")
            || text(&output.stdout).contains("mount_tag=t,readonly=on")
    );
}

#[test]
fn a_printed_share_keeps_its_variables() {
    let content = "#!/bin/sh\nqemu -fsdev proxy,id=n,socket=/a,readonly=$RO -device virtio-9p-pci,fsdev=n,mount_tag=$TAG,bus=$BUS\n";
    let output = rewritten("vm.sh", content, &["--export", "n=/srv/$x", "--to", "qemu-args"]);
    let printed = text(&output.stdout);
    for part in [
        "'local,id=n,path=/srv/$x,security_model=mapped-xattr,readonly='\"$RO\"",
        "mount_tag=\"$TAG\"",
        "bus=\"$BUS\"",
    ] {
        assert!(printed.replace("'\"", "\"").contains(&part.replace("'\"", "\"")), "{printed}");
    }
    for form in ["readconfig", "libvirt"] {
        let content = content.replace(",bus=$BUS", "");
        let output = rewritten("vm.sh", &content, &["--export", "n=/srv/n", "--to", form]);
        assert!(output.status.success(), "{form}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("readonly"), "{form}");
    }
}

#[test]
fn a_dollar_of_a_recipe_is_doubled() {
    let content = "run:\n\tqemu-system-x86_64 -fsdev proxy,id=n,socket=/run/n.sock -device virtio-9p-pci,fsdev=n,mount_tag=n\n";
    let output = rewritten("Makefile", content, &["--export", "n=/srv/$HOME"]);
    let expected = content
        .replace("proxy", "local")
        .replace("socket=/run/n.sock", "path=/srv/\\$$HOME,security_model=mapped-xattr");
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

#[test]
fn a_listing_of_processes_is_not_rewritten() {
    let content = "USER PID COMMAND\nroot 930 /usr/bin/qemu-system-x86_64 -virtfs proxy,id=d,socket=/run/d.sock,mount_tag=d\n";
    let output = rewritten("ps_auxwww", content, &["--export", "d=/srv/d"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("rewrite what starts them"), "{}", text(&output.stderr));
}

#[test]
fn empty_input_is_no_success() {
    for content in ["", "\n", " \n\t\n"] {
        for options in [&[][..], &["--check"], &["--diff"], &["--to", "libvirt"]] {
            let output = config(options.iter().chain(&["-"]), content.as_bytes());
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{options:?}");
            assert!(text(&output.stderr).contains("it is empty"));
        }
        assert_eq!(rewritten("vm.xml", content, &[]).status.code(), Some(1));
    }
}

#[test]
fn libvirts_own_files_are_not_edited() {
    let (sample, _) = super::in_place::sample();
    let sample = text(&sample).replace("<name>vm</name>", "<name>web</name>");
    let generated = format!(
        "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE. CHANGES TO IT ARE LIKELY TO BE\nOVERWRITTEN AND LOST. Changes to this xml configuration should be made using:\n  virsh edit web\n-->\n{sample}"
    );
    for (name, content) in [
        (".config/libvirt/qemu/web.xml", &sample),
        ("etc/libvirt/qemu/web.xml", &sample),
        ("web.xml", &generated),
    ] {
        let output = rewritten(name, content, &["--in-place"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = text(&output.stderr);
        assert!(
            said.contains("virsh define") && said.contains("dumpxml --inactive --security-info web"),
            "{said}"
        );
    }
}

#[test]
fn what_libvirt_holds_is_redefined_by_its_own_names() {
    let golden = |case: &str| text(&fs::read(super::cases().join(case).join("in.xml")).unwrap());
    let domain = golden("plain").replace('\0', "");
    let mut image = b"LibvirtQemudSave".to_vec();
    for word in [2_u32, u32::try_from(domain.len() + 1).unwrap(), 0, 0].into_iter().chain([0; 15]) {
        image.extend(word.to_ne_bytes());
    }
    image.extend([domain.as_bytes(), b"\0"].concat());
    let folder = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        (
            "var/lib/libvirt/qemu/snapshot/vm/file.xml",
            golden("snapshot").into_bytes(),
            &[
                "virsh snapshot-dumpxml --security-info vm before",
                "virsh snapshot-create vm NEW.xml --redefine",
            ][..],
        ),
        (
            "var/lib/libvirt/qemu/checkpoint/vm/file.xml",
            golden("checkpoint").into_bytes(),
            &[
                "virsh checkpoint-dumpxml --security-info vm ",
                "virsh checkpoint-create vm NEW.xml --redefine",
            ],
        ),
        (
            "var/lib/libvirt/qemu/save/file.save",
            image,
            &[
                "virsh save-image-dumpxml --security-info /",
                "--in-place-args NEW.xml; virsh save-image-define /",
            ],
        ),
        ("etc/libvirt/qemu/file.xml", domain.into_bytes(), &["--security-info vm ", "virsh define NEW.xml"]),
    ] {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &content).unwrap();
        let output = config(["--in-place", "--export=share=/srv/n", file.to_str().unwrap()], b"");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[test]
fn the_user_of_qemu_is_filled_in() {
    let content = "qemu -runas games -virtfs proxy,id=n,socket=/a,mount_tag=n\n";
    let output = rewritten("vm.sh", content, &["--export", "n=/srv/n"]);
    assert!(text(&output.stderr).contains("--owner games"), "{}", text(&output.stderr));
}

#[test]
fn printed_options_are_quoted_for_a_shell() {
    for (tag, option) in [("share 102", "--export 'share 102'=PATH"), ("-e", "--export=-e=PATH")] {
        let content = format!("qemu -virtfs \"proxy,id=n,socket=/a,mount_tag={tag}\"\n");
        let output = rewritten("vm.sh", &content, &[]);
        assert!(text(&output.stderr).contains(option), "{}", text(&output.stderr));
    }
}

#[test]
fn a_percent_sign_is_doubled_where_it_would_be_expanded() {
    let command = "qemu-system-x86_64 -virtfs proxy,id=n,socket=/run/a,mount_tag=n";
    for (name, before, doubled) in [
        ("vm.desktop", "[Desktop Entry]\nType=Application\nExec=", true),
        ("supervisord.conf", "[supervisord]\nnodaemon=true\n\n[program:vm]\ncommand=", true),
        ("vm.conf", "[eventlistener:vm]\ncommand=", true),
        ("other.conf", "[vm]\ncommand=", false),
        ("vm.sh", "", false),
    ] {
        let content = format!("{before}{command}\n");
        let output = rewritten(name, &content, &["--export", "n=/srv/50%U"]);
        let path = if doubled { "path=/srv/50%%U" } else { "path=/srv/50%U" };
        let expected = content
            .replace("proxy", "local")
            .replace("socket=/run/a", &format!("{path},security_model=mapped-xattr"));
        assert_eq!(text(&output.stdout), expected, "{name}: {}", text(&output.stderr));
        // What was written is read as it was meant.
        let again = rewritten(name, &text(&output.stdout), &[]);
        assert!(again.status.success(), "{name}");
    }
    // A cron table's command ends there, whatever the table is called.
    for (name, line) in [
        ("crontab", "@reboot root "),
        ("etc/cron.d/vm", "@reboot root "),
        ("saved", "@reboot "),
        ("saved", "*/5 4 * * mon-fri "),
    ] {
        let output = rewritten(name, &format!("{line}{command}\n"), &["--export", "n=/srv/50%"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{name}");
        assert!(text(&output.stderr).contains("cron table"), "{}", text(&output.stderr));
    }
}

#[test]
fn what_is_printed_has_placeholders_for_what_is_not_known() {
    let arguments = "qemu -fsdev proxy,id=n,socket=/a -device virtio-9p-pci,fsdev=n,mount_tag=t";
    for (content, options, form, expected, said) in [
        (
            format!("{arguments}\n"),
            vec![],
            "qemu-args",
            "path=/DIRECTORY,",
            "which directory the share t exports",
        ),
        (format!("{arguments}\n"), vec![], "libvirt", "<source dir='/DIRECTORY'/>", "--export t=PATH"),
        (
            format!("{arguments}\n"),
            vec![],
            "readconfig",
            "path = \"/DIRECTORY\"",
            "/DIRECTORY stands in its place",
        ),
        // QEMU refuses it as it stands.
        (
            "qemu -virtfs proxy,socket=/a,sock_fd=3,mount_tag=t\n".to_owned(),
            vec!["--export", "t=/srv/n"],
            "qemu-args",
            "path=/srv/n,",
            "both a socket and a sock_fd",
        ),
        // No device is here.
        (
            "OPTS='-fsdev proxy,id=n,socket=/a'\n".to_owned(),
            vec!["--export", "n=/srv/n"],
            "libvirt",
            "<qemu:arg value='local,id=n,path=/srv/n,",
            "no device shows the fsdev n",
        ),
        // libvirt's element has no word for it.
        (
            format!("{arguments}\n"),
            vec!["--export", "t=/srv/it's", "--security-model", "mapped-file"],
            "libvirt",
            "path=/srv/it&apos;s,security_model=mapped-file",
            "libvirt has no accessmode for mapped-file",
        ),
        (
            format!("{arguments}\n"),
            vec!["--export", "t=/srv/a\"b"],
            "readconfig",
            "# -fsdev 'local,id=n,path=/srv/a\"b,",
            "can't hold the value",
        ),
        // Two helpers say two directories.
        (
            format!("virtfs-proxy-helper -p /a -s /a\nvirtfs-proxy-helper -p /b -s /a\n{arguments}\n"),
            vec![],
            "qemu-args",
            "path=/DIRECTORY,",
            "stands in its place",
        ),
    ] {
        let options: Vec<_> = options.into_iter().chain(["--to", form]).collect();
        let output = rewritten("vm.sh", &content, &options);
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{content}{errors}");
        assert!(printed.contains(expected), "{content}{printed}");
        assert!(errors.contains(said), "{content}{errors}");
    }
}

#[test]
fn the_user_of_a_drop_in_is_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("vm.service");
    let drop_ins = folder.path().join("vm.service.d");
    fs::create_dir(&drop_ins).unwrap();
    let exec = "ExecStart=/usr/bin/qemu -virtfs proxy,id=n,socket=/run/a,mount_tag=n\n";
    let owner = |file: &std::path::Path| {
        let said = text(&config(["--export=n=/srv/n", file.to_str().unwrap()], b"").stderr);
        said.split_once("--owner ").unwrap().1.split(' ').next().unwrap().to_owned()
    };
    fs::write(&unit, format!("[Service]\nUser=first\n{exec}")).unwrap();
    assert_eq!(owner(&unit), "first");
    fs::write(drop_ins.join("20-late.conf"), "[Service]\nUser=late\n").unwrap();
    fs::write(drop_ins.join("10-early.conf"), "[Service]\nUser=early\n").unwrap();
    assert_eq!(owner(&unit), "late");
    // The command itself may be in a drop-in.
    fs::write(&unit, "[Service]\nUser=first\n").unwrap();
    let command = drop_ins.join("15-command.conf");
    fs::write(&command, format!("[Service]\n{exec}")).unwrap();
    assert_eq!(owner(&command), "late");
    fs::remove_file(drop_ins.join("20-late.conf")).unwrap();
    fs::remove_file(drop_ins.join("10-early.conf")).unwrap();
    assert_eq!(owner(&command), "first");
}

#[test]
fn no_line_is_printed_twice() {
    for case in fs::read_dir(super::cases()).unwrap() {
        let case = case.unwrap().path();
        let args = fs::read_to_string(case.join("args")).unwrap();
        let mut files = fs::read_dir(&case).unwrap().map(|file| file.unwrap().path());
        let input = files.find(|file| file.file_stem().is_some_and(|it| it == "in")).unwrap();
        for options in [&[][..], &["--to", "libvirt"], &["--to", "qemu-args"]] {
            if args.contains("--in-place-args") && !options.is_empty() {
                continue;
            }
            let words =
                args.split_whitespace().chain(options.iter().copied()).chain([input.to_str().unwrap()]);
            let said = text(&config(words, b"").stderr);
            let mut lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            let all = lines.len();
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), all, "{}: {said}", input.display());
        }
    }
}
