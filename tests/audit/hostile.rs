//! Input that is meant to hurt: clear findings, no hang, bounded memory.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::program::ours;
use crate::run::{audit, domain, write};

/// What an audit may take at most, in KiB: files are read up to 16 MiB, by as many readers as there are processors.
const MOST_MEMORY: u64 = 512 << 10;

/// What an audit may take for whatever it finds in short files, in KiB, beside what it takes for an empty folder.
const MOST_FOR_SHARES: u64 = 12 << 10;

/// What an audit may take for one large file, in KiB, beside what it takes for an empty folder.
const MOST_FOR_ONE_FILE: u64 = 24 << 10;

/// What the audit of a folder says, within [`MOST_MEMORY`].
#[track_caller]
fn audited_in_bounds(folder: &Path) -> serde_json::Value {
    let output = audited_within(MOST_MEMORY, "json", folder);
    serde_json::from_slice(&output).unwrap()
}

/// What the audit of a folder prints, within so many KiB.
#[track_caller]
fn audited_within(most: u64, format: &str, folder: &Path) -> Vec<u8> {
    let (printed, peak) = measured(format, folder);
    assert!(peak < most, "{format}: {peak} KiB are more than {most}");
    printed
}

/// What the audit of a folder prints, and its peak memory in KiB.
#[track_caller]
fn measured(format: &str, folder: &Path) -> (Vec<u8>, u64) {
    let output = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .arg(ours())
        .args(["migrate", "audit", "--format", format])
        .arg(folder)
        .output()
        .expect("/usr/bin/time (Debian's package time) measures the memory");
    let errors = String::from_utf8_lossy(&output.stderr);
    let peak = errors.lines().last().and_then(|line| line.trim().parse().ok()).expect(&errors);
    (output.stdout, peak)
}

/// A text of about `length` bytes, whose middle is repeated.
fn large(length: usize, start: &str, repeated: &str, end: &str) -> String {
    format!("{start}{}{end}", repeated.repeat((length - start.len() - end.len()) / repeated.len()))
}

#[test]
fn one_large_file_takes_little_memory_in_each_format() {
    const KIB: usize = 1 << 10;
    let q = "qemu -virtfs proxy,id=f,socket=/run/a,mount_tag=t";
    let one = domain("vm", "t", "/run/a");
    let open = one.strip_suffix("</domain>\n").unwrap();
    let section = "[device \"d\"]\n  driver = \"e1000\"\n";
    let values = "{\"name\": \"item\", \"value\": \"some text here\", \"more\": \"other text\"},\n";
    let items = "  - name: item\n    value: some text that is here\n";
    // Longer ones are not read, and say so.
    let files = [
        ("words.sh", large(144 * KIB, &format!("#!/bin/sh\n{q}"), " -drive file=/a", "\n"), true),
        ("more.sh", large(511 * KIB, &format!("#!/bin/sh\n{q}"), " -a", "\n"), false),
        ("long.service", large(511 * KIB, &format!("[Service]\nExecStart={q}"), " -a b", "\n"), false),
        ("lines.sh", large(511 * KIB, "#!/bin/sh\n", "echo a\n", &format!("{q}\n")), true),
        (
            "a.py",
            large(
                140 * KIB,
                "a = ['-virtfs', 'proxy,id=f,socket=/run/a,mount_tag=t']\n",
                "b = ['a', 'b']\n",
                "",
            ),
            true,
        ),
        (
            "a.service",
            large(380 * KIB, "[Service]\n", "Environment=A=value\n", &format!("ExecStart={q}\n")),
            true,
        ),
        (
            "b.service",
            large(511 * KIB, "[Service]\n", "Environment=A=value\n", &format!("ExecStart={q}\n")),
            false,
        ),
        ("a.toml", large(280 * KIB, &format!("[vm]\ncommand=\"{q}\"\n"), "[a]\nkey=\"text\"\n", ""), true),
        ("a.cfg", large(4096 * KIB, "[fsdev \"f\"]\n  fsdriver = \"proxy\"\n", section, ""), false),
        ("a.json", large(300 * KIB, &format!("{{\"vm\": \"{q}\", \"l\": [\n"), values, "1]}\n"), true),
        ("b.json", large(4000 * KIB, &format!("{{\"vm\": \"{q}\", \"l\": [\n"), values, "1]}\n"), false),
        ("flow.yaml", large(1000 * KIB, &format!("vm: \"{q}\"\nl: ["), "a,", "]\n"), false),
        ("a.yaml", large(460 * KIB, &format!("vm: \"{q}\"\nl:\n"), items, ""), true),
        ("domains.xml", large(200 * KIB, "", &one, ""), true),
        ("one.xml", large(1500 * KIB, open, "<a b='c'>text, which is long enough</a>", "</domain>\n"), true),
        ("nodes.xml", large(15 << 20, open, "<a/>", "</domain>\n"), false),
        ("text.xml", large(15 << 20, open, "text\n\n", "</domain>\n"), false),
    ];
    let empty = tempfile::tempdir().unwrap();
    let (_, base) = measured("json", empty.path());
    let look = |(name, text, whole): &(&str, String, bool)| {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join(name), text);
        let (printed, peak) = measured("json", dir.path());
        let document: serde_json::Value = serde_json::from_slice(&printed).unwrap();
        let is_empty = |list: &str| document[list].as_array().unwrap().is_empty();
        assert_eq!((is_empty("shares"), is_empty("unread")), (!whole, *whole), "{name}: {document:#}");
        assert!(peak < base + MOST_FOR_ONE_FILE, "{name}: {peak} KiB, and {base} for an empty folder");
    };
    std::thread::scope(|scope| {
        let (some, others) = files.split_at(files.len() / 2);
        scope.spawn(|| some.iter().for_each(look));
        others.iter().for_each(look);
    });
}

#[test]
fn memory_does_not_grow_with_what_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (_, base) = measured("json", dir.path());
    // Each share's export is in four rows and a helper.
    let long = "x".repeat(500);
    let shares = 10;
    let write_files = |folder: &str, files: usize| {
        for file in 0..files {
            let lines = (0..shares).map(|n| {
                format!(
                    "qemu -virtfs proxy,id=f{n},mount_tag=t{n},socket=/run/{file}-{n}\n\
                     virtfs-proxy-helper -p /srv/{long} -s /run/{file}-{n}\n"
                )
            });
            let text = format!("#!/bin/sh\n{}", lines.collect::<String>());
            write(&dir.path().join(folder).join(format!("{file}.sh")), text);
        }
    };
    // SARIF takes more for each finding.
    for (format, folder, files) in [("json", "some", 50), ("sarif", "many", 50)] {
        write_files(folder, files);
        let printed = audited_within(base + MOST_FOR_SHARES, format, &dir.path().join(folder));
        let document: serde_json::Value = serde_json::from_slice(&printed).unwrap();
        let (findings, id) = match format {
            "sarif" => (&document["runs"][0]["results"], "ruleId"),
            _ => (&document["findings"], "id"),
        };
        let of_shares = findings.as_array().unwrap().iter().filter(|finding| finding[id] == "proxy-share");
        assert_eq!(of_shares.count(), files * shares, "{format}");
        if format == "json" {
            for count in ["shares", "resolved", "helpers"] {
                assert_eq!(document["summary"][count], files * shares, "{count}");
            }
        }
    }
}

#[test]
fn each_hostile_file_is_told_and_the_rest_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let good = domain("web", "good", "/run/a.sock");
    write(&root.join("good.xml"), &good);
    let mut bomb = String::from("<!DOCTYPE x [<!ENTITY a0 \"proxy\">\n");
    for level in 1..40 {
        let before = level - 1;
        bomb.extend([format!("<!ENTITY a{level} \"&a{before};&a{before};\">\n")]);
    }
    write(&root.join("bomb.xml"), format!("{bomb}]><domain>&a39;</domain>"));
    write(
        &root.join("external.xml"),
        "<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><domain><name>&e;</name></domain>",
    );
    let wide: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    write(&root.join("wide.xml"), [&[0xff, 0xfe][..], &wide].concat());
    write(&root.join("truncated.xml"), &good[..good.len() - 30]);
    write(&root.join("quote.sh"), "qemu -virtfs 'proxy,id=f\n");
    write(&root.join("broken.yaml"), "a: [-fsdev, proxy\nb: {\n");
    write(&root.join("nul.sh"), "#!/bin/sh\nqemu \0 -virtfs proxy,id=n,mount_tag=nul,socket=/a\n");
    write(&root.join("latin.xml"), b"<domain><name>caf\xe9 -fsdev proxy</name></domain>");
    symlink("loop", root.join("loop")).unwrap();
    symlink(".", root.join("self")).unwrap();
    mkfifo(&root.join("fifo.xml"), Mode::from_bits_truncate(0o644)).unwrap();
    let _socket = UnixListener::bind(root.join("socket.xml")).unwrap();
    let audit = audit([root]);
    assert_eq!(audit.status, 3);
    assert_eq!(audit.share("good")["guest"], "web");
    assert_eq!(audit.share("nul")["socket"], "/a");
    let unread = audit.unread(root);
    for name in
        ["bomb.xml", "external.xml", "wide.xml", "truncated.xml", "quote.sh", "broken.yaml", "latin.xml"]
    {
        assert!(unread.iter().any(|row| row.starts_with(&format!("{name}: "))), "{name}: {unread:#?}");
    }
    assert_eq!(unread.len(), 7, "{unread:#?}");
    assert!(!audit.document.to_string().contains("root:"), "an external entity was read");
}

#[test]
fn a_fifo_that_is_named_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o644)).unwrap();
    let audit = audit([fifo, "/dev/zero".into()]);
    assert_eq!(audit.status, 4);
    assert_eq!(audit.list("unread").len(), 2);
}

#[test]
fn long_lines_and_long_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let line = vec![b'x'; 100 << 20];
    fs::write(dir.path().join("long"), [b"#!/bin/sh -fsdev proxy,id=f,", &line[..]].concat()).unwrap();
    for name in ["long.sh", "long.xml", "long.yaml", "long.conf"] {
        fs::hard_link(dir.path().join("long"), dir.path().join(name)).unwrap();
    }
    // Short enough to be read, and all of it one word.
    let word = vec![b'x'; 15 << 20];
    fs::write(
        dir.path().join("word.sh"),
        [b"#!/bin/sh\nqemu -fsdev proxy,id=f,socket=/", &word[..]].concat(),
    )
    .unwrap();
    write(&dir.path().join("deep.yaml"), format!("# -fsdev proxy\n{}", "[".repeat(100_000)));
    write(&dir.path().join("deep.sh"), format!("# -fsdev proxy\necho {}", "$(".repeat(100_000)));
    write(&dir.path().join("deep.xml"), format!("<!-- -fsdev proxy -->{}", "<a>".repeat(100_000)));
    let document = audited_in_bounds(dir.path());
    assert!(document["unread"].as_array().unwrap().len() >= 6, "{:#}", document["unread"]);
}

#[test]
fn files_that_come_and_go_are_no_end() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    write(&root.join("stays.xml"), domain("web", "stays", "/a"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let busy = {
        let (root, stop) = (root.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for index in 0..200 {
                    let _ = File::create(root.join(format!("{index}.xml")));
                }
                for index in 0..200 {
                    let _ = fs::remove_file(root.join(format!("{index}.xml")));
                }
            }
        })
    };
    for _ in 0..10 {
        let audit = audit([&root]);
        assert_eq!(audit.status, 3);
        audit.share("stays");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    busy.join().unwrap();
}

#[test]
fn what_may_not_be_read_is_told() {
    crate::program::need_root();
    let dir = crate::program::scratch();
    let program = crate::program::ours_for_all(dir.path());
    let root = dir.path().join("etc");
    write(&root.join("secret.xml"), domain("web", "t", "/a"));
    write(&root.join("closed/x.xml"), "<domain/>");
    let close = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    };
    close(&root.join("secret.xml"));
    close(&root.join("closed"));
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["migrate", "audit", "--format=json"])
        .arg(&root)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let unread = document["unread"].as_array().unwrap();
    assert_eq!(unread.len(), 2, "{unread:#?}");
    assert!(unread.iter().all(|row| row["reason"].as_str().unwrap().contains("permission denied")));
}

/// Files whose text multiplies itself, or that make each of many things meet each other.
fn multiplying() -> Vec<(&'static str, String, bool)> {
    let fsdev = "-fsdev proxy,id=f,socket=/a -device virtio-9p-pci,fsdev=f,mount_tag=t";
    let device = "-device virtio-9p-pci,fsdev=f,mount_tag=t ";
    let long = format!("#!/bin/sh\n# -fsdev proxy\na={}\n", "x".repeat(60_000));
    let numbered = |what: &dyn Fn(usize) -> String, times| (0..times).map(what).collect::<String>();
    let pair =
        |i| format!(" -fsdev proxy,id=f{i},socket=/s{i} -device virtio-9p-pci,fsdev=f{i},mount_tag=t{i}");
    let script = |text: String| format!("#!/bin/sh\nqemu {text}\n");
    let list = "- \"-fsdev proxy,id=f,socket=/aaaaaaaaaaaaaaaaaaaaaaaa\"\n".repeat(1100);
    let lists = "- [*a]\n".repeat(700);
    vec![
        // The name, its text, and whether something of it is left out.
        ("shares.sh", script(numbered(&pair, 1100)), true),
        ("commands.sh", numbered(&|i| format!("qemu{}\n", pair(i)), 20_000), true),
        ("sets.sh", script(format!("{fsdev} {}", "-set fsdev.f.readonly=on ".repeat(20_000))), true),
        (
            "devices.sh",
            script(format!("{fsdev} {}{}", device.repeat(900), "-set fsdev.f.readonly=on ".repeat(900))),
            true,
        ),
        ("twins.sh", script(format!("{fsdev} {}", "-fsdev proxy,id=f,socket=/a ".repeat(1500))), true),
        ("properties.sh", script(format!("{fsdev}{}", numbered(&|i| format!(",a{i}=b"), 20_000))), true),
        (
            "doubling.sh",
            format!("#!/bin/sh\na=\"-fsdev proxy \"\n{}qemu $a\n", "a=\"$a$a\"\n".repeat(60)),
            true,
        ),
        ("uses.sh", format!("{long}{}", ": $a $a $a\n".repeat(40_000)), true),
        ("adds.sh", format!("{long}{}", "a+=x\n".repeat(80_000)), false),
        ("branches.sh", format!("{long}{}", "if x; then a+=y; else a+=y; fi\n".repeat(12_000)), true),
        (
            "nested.sh",
            script(format!("-fsdev proxy {}{}", "${a:+".repeat(100_000), "}".repeat(100_000))),
            true,
        ),
        ("sources.sh", format!("{long}{}", ". /etc/services\n".repeat(20_000)), true),
        ("list.yaml", format!("proxy: &a\n{list}x:\n{lists}"), true),
        ("sum.py", format!("a = [\"-fsdev\", \"proxy,id=f,socket=/a\"{}]", "+\"x\"".repeat(100_000)), true),
        ("settings.cfg", "9p_fs_driver = proxy\n".repeat(25_000), true),
        ("ini.conf", format!("[a]\ncommand=-fsdev proxy,\n{}", " x\n".repeat(500_000)), true),
        (
            "unit.service",
            format!(
                "[Service]\nEnvironment=A={}\nExecStart=/q -fsdev proxy,id=f,socket={}\n",
                "x".repeat(100_000),
                "${A}".repeat(50_000)
            ),
            true,
        ),
        ("Dockerfile", "CMD [\"-fsdev\", \"proxy,id=f,socket=/a\"]\n".repeat(20_000), true),
        (
            "qemu.cfg",
            numbered(&|i| format!("[fsdev \"f{i}\"]\n fsdriver = \"proxy\"\n socket = \"/s{i}\"\n"), 1100),
            true,
        ),
    ]
}

#[test]
fn what_multiplies_is_bounded_and_never_left_out_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let files = multiplying();
    for (name, text, _) in &files {
        write(&dir.path().join(name), text);
    }
    let document = audited_in_bounds(dir.path());
    let unread = document["unread"].as_array().unwrap();
    for (name, _, cut) in &files {
        let told = unread.iter().any(|row| row["file"].as_str().unwrap().ends_with(&format!("/{name}")));
        assert_eq!(told, *cut, "{name}: {unread:#?}");
    }
}
