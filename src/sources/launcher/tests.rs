//! Launchers as people write them.

use std::path::Path;

use super::Launcher;
use crate::share::rewrite::{Rewrite, apply};
use crate::share::{ExportPath, Transport};
use crate::sources::format::{Document, Format};

fn shown(name: &str, text: &str) -> Vec<String> {
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    if !Launcher.recognises(&document) {
        return vec!["not ours".to_owned()];
    }
    let reading = Launcher.read(&document).unwrap();
    let shares = reading.shares.iter().map(|share| {
        let transport = match &share.transport {
            Transport::Socket(path) => path.display().to_string(),
            Transport::Fd(fd) => fd.to_string(),
            Transport::Unknown(text) => format!("? {}", String::from_utf8_lossy(text)),
        };
        let export = match &share.export {
            ExportPath::Known { path, .. } => format!(" = {}", path.display()),
            ExportPath::Unknown => String::new(),
        };
        let tag = String::from_utf8_lossy(share.mount_tag.as_deref().unwrap_or_default()).into_owned();
        format!("{}: {tag} {transport}{export}", share.place.line.unwrap())
    });
    let helpers = reading
        .helpers
        .iter()
        .map(|helper| format!("{}: helper {:?}", helper.place.line.unwrap(), helper.export.as_deref()));
    shares.chain(helpers).collect()
}

#[test]
fn expressions_end_where_their_language_ends_them() {
    for (name, text, expected) in [
        // HCL: a doubled sign opens no expression, whether a brace closes it or not.
        (
            "/vm.tf",
            "a = [\"-virtfs\", \"proxy,id=f,mount_tag=t$${x,socket=/a%%{b$${c}d$$$${\"]\n",
            vec!["1: t${x /a%{b${c}d$$${"],
        ),
        // What one literal opens, another can't close, unless the language lets an expression hold quotes.
        (
            "/vm.c",
            "char *a[] = {\"-fsdev\", \"proxy,id=f,socket=/a{{b${c\", \"-device\", \
             \"virtio-9p-pci,fsdev=f,mount_tag=a}}}\"};\n",
            vec!["1: a}}} /a{{b${c"],
        ),
        (
            "/vm.pp",
            "exec { 'vm':\n  command => \"/usr/bin/qemu -virtfs proxy,id=f,mount_tag=t,socket=${dir}/a\",\n}\n\
             exec { 'b': command => '/usr/bin/qemu -virtfs proxy,id=g,mount_tag=u,socket=/b' }\n",
            vec!["2: t ? ${dir}/a", "4: u /b"],
        ),
        (
            "/vm.rb",
            "a = [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=#{s[\"x\"]}\"]\n",
            vec!["1: t ? #{s[\"x\"]}"],
        ),
    ] {
        assert_eq!(shown(name, text), expected, "{name}");
    }
}

#[test]
fn shares_are_found_in_programs() {
    for (name, text, expected) in [
        (
            "/run.py",
            "#!/usr/bin/env python3\n# it's -fsdev proxy\nsubprocess.run([\n    'qemu-system-x86_64',\n    '-fsdev', \
             'proxy,id=f,socket=/a',\n    \"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\",\n])\n",
            vec!["5: t /a"],
        ),
        (
            "/run.py",
            "os.system('qemu -virtfs proxy,id=f,mount_tag=t,socket=/a')\nargs += ['-virtfs', \
             f'proxy,id=g,mount_tag=u,socket={sock}']\nrun(['-virtfs', 'proxy,id=h,mount_tag=v,socket=' + sock])\n",
            vec!["2: u ? {sock}", "3: v ? + sock", "1: t /a"],
        ),
        (
            "/made.py",
            "a = ['-virtfs']\na += ['-fsdev', 'proxy,id=f,socket=/a']\na += ['-device', \
             'virtio-9p-pci,fsdev=f,mount_tag=t']\nrun(['virtfs-proxy-helper', '-p', '/srv', '-s', SOCK, '-u', \
             '0'])\n",
            vec!["2: t /a", "4: helper Some(\"/srv\")"],
        ),
        (
            "/vm.nix",
            "{\n  virtualisation.qemu.options = [\n    \"-fsdev proxy,id=f,socket=/a\"\n    \"-device \
             virtio-9p-pci,fsdev=f,mount_tag=t\"\n  ];\n}\n",
            vec!["3: t /a"],
        ),
        (
            "/Vagrantfile",
            "l.qemuargs :value => '-fsdev'\nl.qemuargs :value => 'proxy,id=f,socket=/a'\nl.qemuargs :value => \
             '-device'\nl.qemuargs :value => 'virtio-9p-pci,fsdev=f,mount_tag=t'\n",
            vec!["2: t /a"],
        ),
        (
            "/vm.tf",
            "xml = <<-EOT\n  #!/bin/sh\n  qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n  EOT\n",
            vec!["3: t /a"],
        ),
        (
            "/Dockerfile",
            "FROM x\n# CMD [\"qemu\"]\nENTRYPOINT [\"qemu\", \\\n  \"-fsdev\", \"proxy,id=f,socket=/a\"]\nCMD \
             [\"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\"]\n",
            vec!["4: t /a"],
        ),
        (
            "/Containerfile.helper",
            "FROM x\nCMD exec virtfs-proxy-helper -n -p /srv -s /a\n",
            vec!["2: helper Some(\"/srv\")"],
        ),
        (
            "/supervisord.conf",
            "[program:h]\ncommand=/usr/bin/virtfs-proxy-helper -n -p /srv -s /a\n\n[program:vm]\ncommand=qemu -fsdev \
             proxy,id=f,socket=/a\n  -device virtio-9p-pci,fsdev=f,mount_tag=t\n",
            vec!["5: t /a", "2: helper Some(\"/srv\")"],
        ),
        (
            "/Vagrantfile",
            "Vagrant.configure(\"2\") do |c|\n  qe.extra_qemu_args = %w(-virtfs proxy,id=f,mount_tag=t,socket=/a)\nend\n",
            vec!["2: t /a"],
        ),
        (
            "/x.pkr.hcl",
            "qemuargs = [\n  [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=${var.s}\"],\n]\n",
            vec!["2: t ? ${var.s}"],
        ),
        (
            "/Makefile",
            "S := /run/a.sock\nrun: all\n\t$(QEMU) -m 1G \\\n\t  -virtfs proxy,id=f,mount_tag=t,socket=$(S)\n",
            vec!["4: t ? $(S)"],
        ),
        (
            "/vm.desktop",
            "[Desktop Entry]\nExec=qemu-system-x86_64 -virtfs proxy,id=f,mount_tag=t,socket=/a %f\n",
            vec!["2: t /a"],
        ),
        ("/machine.conf", "QB_OPT_APPEND = \"-virtfs proxy,id=f,mount_tag=t,socket=/a\"\n", vec!["1: t /a"]),
        (
            "/tests.cfg",
            "9p_fs_driver = proxy\n9p_socket_name = /run/a.sock\n9p_export_dir = \"/srv/x\"\n",
            vec!["1:  /run/a.sock = /srv/x"],
        ),
        ("/README.md", "qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n", vec!["not ours"]),
        ("/vm.log", "qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n", vec!["not ours"]),
        ("/.bash_history", "qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\n", vec!["not ours"]),
        ("/nginx.conf", "location / { proxy_pass http://x; }\n", vec!["not ours"]),
        ("/build", "./configure --enable-virtfs-proxy-helper --enable-virtfs\n", vec![]),
        (
            "/inventory.ini",
            "[vms]\nvm1 qemu_args='-virtfs proxy,id=f,mount_tag=t,socket=/a'\n",
            vec!["2: t /a"],
        ),
    ] {
        assert_eq!(shown(name, text), expected, "{name}");
    }
}

#[test]
fn plain_literals_are_rewritten() {
    let text = "a = ['-virtfs', 'proxy,id=f,mount_tag=t,socket=/a']\n";
    for (path, expected) in [("/x", Some("/x")), ("/it's", None)] {
        let how = Rewrite { exports: vec![(b"f".to_vec(), path.into())], ..Rewrite::default() };
        let document = Document { path: Some(Path::new("/x.py")), bytes: text.as_bytes() };
        let new = Launcher.rewrite(&document, &how).ok().map(|edits| apply(text.as_bytes(), &edits.edits));
        let expected = expected.map(|path| {
            text.replace("proxy", "local")
                .replace("socket=/a", &format!("path={path},security_model=mapped-xattr"))
        });
        assert_eq!(new.map(|new| String::from_utf8(new).unwrap()), expected);
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "it is one table")]
fn each_language_has_its_strings() {
    for (name, text, expected) in [
        ("/a.nix", "{ y = ''-virtfs proxy,socket=/run/e.sock,mount_tag=e''; }\n", vec!["1: e /run/e.sock"]),
        (
            "/b.nix",
            "{ script = ''\n  # it's\n  qemu -virtfs proxy,id=f,mount_tag=t,socket=${sock}\n ''; x = \"-virtfs\n              proxy,id=g,mount_tag=u,socket=/u\"; }\n",
            vec!["5: u /u", "3: t ? ${sock}"],
        ),
        (
            "/c.rb",
            "x = \"-fsdev proxy,id=s,socket=/run/s.sock\n     -device virtio-9p-pci,fsdev=s,mount_tag=s\".split\n",
            vec!["1: s /run/s.sock"],
        ),
        ("/d.rb", "# it's\nrun %w[qemu -virtfs proxy,id=f,mount_tag=t,socket=/a]\n", vec!["2: t /a"]),
        ("/e.rb", "run '-virtfs', 'proxy,id=f,' \\\n  'mount_tag=t,socket=/a'\n", vec!["1: t /a"]),
        (
            "/main.go",
            "func main() {\n\t// it's -virtfs proxy,id=x,socket=/x\n\tcmd := exec.Command(\"qemu\", \"-fsdev\",\n\t\t\"proxy,id=f,socket=/a\", \"-device\", \"virtio-9p-pci,fsdev=f,mount_tag=t\")\n}\n",
            vec!["4: t /a"],
        ),
        (
            "/slice.go",
            "var c = '\"'\nvar args = []string{\n\t\"-virtfs\",\n\t\"proxy,id=f,mount_tag=t,socket=\" + sock,\n}\nvar s = `qemu              -virtfs proxy,id=g,mount_tag=u,socket=/u`\n",
            vec!["4: t ? + sock", "6: u /u"],
        ),
        (
            "/main.rs",
            "fn f<'a>(x: &'a str) {\n    Command::new(\"qemu\")\n        .arg(\"-fsdev\")\n                     .arg(\"proxy,id=f,socket=/a\")\n        .args([\"-device\", r#\"virtio-9p-pci,fsdev=f,mount_tag=t\"#]);\n}\n",
            vec!["4: t /a"],
        ),
        (
            "/format.rs",
            "c.args([\"-virtfs\", &format!(\"proxy,id=f,mount_tag=t,socket={sock}\")]);\n",
            vec!["1: t ? {sock}"],
        ),
        (
            "/Vm.java",
            "class Vm {\n  String[] a = new String[] { \"qemu\", \"-virtfs\",\n    \"proxy,id=f,\" + \"mount_tag=t,socket=/a\"              };\n  /* \"proxy,id=x,socket=/x\" */\n}\n",
            vec!["3: t /a"],
        ),
        (
            "/Vm.kt",
            "val a = listOf(\"-virtfs\", \"\"\"proxy,id=f,mount_tag=t,socket=/a\"\"\")\n",
            vec!["1: t /a"],
        ),
        (
            "/vm.c",
            "char *argv[] = { \"qemu\", \"-virtfs\",\n  \"proxy,id=f,\"\n  \"mount_tag=t,socket=/a\", NULL };\nint q = '\"';\n",
            vec!["2: t /a"],
        ),
        (
            "/macro.c",
            "execl(\"qemu\", \"-virtfs\", \"proxy,id=f,mount_tag=t,socket=\" SOCK, NULL);\n",
            vec!["1: t ? SOCK"],
        ),
        ("/sh.cc", "system(\"qemu -virtfs proxy,id=f,mount_tag=t,socket=/a &\");\n", vec!["1: t /a"]),
        (
            "/vm.js",
            "spawn('qemu', [\n  `-virtfs`, `proxy,id=f,mount_tag=t,socket=${sock}`, // it's\n]);\n",
            vec!["2: t ? ${sock}"],
        ),
        ("/vm.ts", "const a = [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\"];\n", vec!["1: t /a"]),
        (
            "/vm.lua",
            "-- it's\nos.execute([[qemu -virtfs proxy,id=f,mount_tag=t,socket=/a]])\n",
            vec!["2: t /a"],
        ),
        (
            "/list.lua",
            "a = { \"-virtfs\", \"proxy,id=f,mount_tag=t,socket=\" .. sock }\n",
            vec!["1: t ? .. sock"],
        ),
        ("/vm.pl", "exec qw(qemu -virtfs proxy,id=f,mount_tag=t,socket=/a);\n", vec!["1: t /a"]),
        (
            "/n.pl",
            "my $n = $#a; # it's\nsystem('qemu -virtfs proxy,id=f,mount_tag=t,socket=/a');\n",
            vec!["2: t /a"],
        ),
        ("/vm.php", "<?php exec(\"qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\");\n", vec!["1: t /a"]),
        (
            "/vm.cs",
            "Process.Start(\"qemu\", @\"-virtfs proxy,id=f,mount_tag=t,socket=/a\");\n",
            vec!["1: t /a"],
        ),
        ("/Jenkinsfile", "sh 'qemu -virtfs proxy,id=f,mount_tag=t,socket=/a'\n", vec!["1: t /a"]),
        (
            "/vm.exs",
            "System.cmd(\"qemu\", [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\"])\n",
            vec!["1: t /a"],
        ),
        (
            "/vm.hs",
            "-- it's\nmain = callProcess \"qemu\" [\"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\"]\n",
            vec!["2: t /a"],
        ),
        (
            "/vm.ml",
            "let () = exit (Sys.command \"qemu -virtfs proxy,id=f,mount_tag=t,socket=/a\")\n",
            vec!["1: t /a"],
        ),
        (
            "/vm.scm",
            "; it's\n(list \"qemu\" \"-virtfs\" \"proxy,id=f,mount_tag=t,socket=/a\")\n",
            vec!["2: t /a"],
        ),
        ("/vm.jl", "run(`qemu`, \"-virtfs\", \"proxy,id=f,mount_tag=t,socket=/a\")\n", vec!["1: t /a"]),
        (
            "/adjacent.py",
            "run(['-virtfs', 'proxy,id=f,'\n     'mount_tag=t,' + 'socket=/a'])\n",
            vec!["1: t /a"],
        ),
        ("/escape.py", "run(['-virtfs', '\\x70roxy,id=f,mount_tag=t,socket=/\\u0061'])\n", vec!["1: t /a"]),
        (
            "/etc/xen/web",
            "name = \"web\"\ndevice_model_args = [ \"-fsdev\", \"proxy,id=f,socket=/a\",\n  \"-device\",              \"virtio-9p-pci,fsdev=f,mount_tag=t\" ]\n",
            vec!["2: t /a"],
        ),
        (
            "/h.go",
            "exec.Command(\"/usr/lib/qemu/virtfs-proxy-helper\", \"-n\", \"-p\", \"/srv\", \"-s\", \"/a\").Run()\n",
            vec!["1: helper Some(\"/srv\")"],
        ),
        (
            "/unit.nix",
            "{ systemd.services.h.serviceConfig.ExecStart = \"${pkgs.qemu}/bin/virtfs-proxy-helper -n -p /srv -s /a\"; }\n",
            vec!["1: helper Some(\"/srv\")"],
        ),
        (
            "/lines.nix",
            "{ ExecStart = ''\n  ${pkgs.qemu_full}/libexec/virtfs-proxy-helper \\\n    -n -p /srv \\\n    -s /a\n ''; }\n",
            vec!["2: helper Some(\"/srv\")"],
        ),
    ] {
        assert_eq!(shown(name, text), expected, "{name}: {text}");
    }
}

#[test]
fn literals_of_each_language_are_rewritten_where_they_stand() {
    for (name, text) in [
        ("/a.nix", "{ y = ''-virtfs proxy,id=f,socket=/a,mount_tag=e''; }\n"),
        (
            "/c.rb",
            "x = \"-fsdev proxy,id=f,socket=/a\n     -device virtio-9p-pci,fsdev=f,mount_tag=s\".split\n",
        ),
        ("/main.go", "exec.Command(\"qemu\", \"-virtfs\", \"proxy,id=f,socket=/a,mount_tag=t\")\n"),
        ("/main.rs", "c.arg(\"-virtfs\").arg(r#\"proxy,id=f,socket=/a,mount_tag=t\"#);\n"),
        ("/vm.c", "char *a[] = { \"-virtfs\", \"proxy,id=f,socket=/a,\"\n  \"mount_tag=t\" };\n"),
        ("/vm.js", "a = [`-virtfs`, `proxy,id=f,socket=/a,mount_tag=t`];\n"),
        ("/vm.lua", "a = { \"-virtfs\", [[proxy,id=f,socket=/a,mount_tag=t]] }\n"),
    ] {
        let how = Rewrite { exports: vec![(b"f".to_vec(), "/srv".into())], ..Rewrite::default() };
        let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
        let edits = Launcher.rewrite(&document, &how).unwrap_or_else(|refusal| panic!("{name}: {refusal:?}"));
        let new = String::from_utf8(apply(text.as_bytes(), &edits.edits)).unwrap();
        let expected =
            text.replace("proxy,id=f,socket=/a", "local,id=f,path=/srv,security_model=mapped-xattr");
        assert_eq!(new, expected, "{name}");
    }
}
