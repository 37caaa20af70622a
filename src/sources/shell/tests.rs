//! Scripts as people write them: what is read from them, and what they become.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Shell;
use crate::share::rewrite::{Rewrite, apply};
use crate::share::{ExportPath, Share, Transport};
use crate::sources::format::{Document, Format, Reading};

fn read(script: &str) -> Reading {
    Shell.read(&Document { path: Some(Path::new("/x.sh")), bytes: script.as_bytes() }).unwrap()
}

fn show(share: &Share) -> String {
    let transport = match &share.transport {
        Transport::Socket(path) => String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned(),
        Transport::Fd(fd) => format!("fd {fd}"),
        Transport::Unknown(text) => format!("? {}", String::from_utf8_lossy(text)),
    };
    let export = match &share.export {
        ExportPath::Known { path, .. } => format!(" = {}", path.display()),
        ExportPath::Unknown => String::new(),
    };
    let tag =
        share.mount_tag.clone().map_or("-".to_owned(), |tag| String::from_utf8_lossy(&tag).into_owned());
    let line = share.place.line.unwrap_or(0);
    format!("{line}: {} {tag} {transport}{export}", String::from_utf8_lossy(&share.fsdev))
}

fn shown(script: &str) -> Vec<String> {
    read(script).shares.iter().map(show).collect()
}

fn rewritten(script: &str) -> Result<String, String> {
    let how = Rewrite {
        exports: vec![(b"fs0".to_vec(), "/srv/a".into()), (b"fs1".to_vec(), "/srv/b c".into())],
        ..Rewrite::default()
    };
    let document = Document { path: None, bytes: script.as_bytes() };
    let edits = Shell.rewrite(&document, &how).map_err(|refusal| refusal.message)?;
    Ok(String::from_utf8(apply(script.as_bytes(), &edits.edits)).unwrap())
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn shares_are_found_where_scripts_hide_them() {
    for (name, script, expected) in [
        (
            "continuation lines",
            "#!/bin/sh\nexec qemu-system-x86_64 \\\n  -m 512 \\\n  -fsdev proxy,id=fs0,socket=/run/a.sock \\\n  \
             -device virtio-9p-pci,fsdev=fs0,mount_tag=share\n",
            vec!["4: fs0 share /run/a.sock"],
        ),
        (
            "virt-install, one argument at a time",
            "virt-install --qemu-commandline=-fsdev --qemu-commandline proxy,id=fs0,socket=/a --qemu-commandline \
             '-device virtio-9p-pci,fsdev=fs0,mount_tag=t'\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "quotes",
            "qemu -fsdev \"proxy,id=fs0\",'socket=/run/a b.sock' -device 'virtio-9p-pci,fsdev=fs0,mount_tag=t'\n",
            vec!["1: fs0 t /run/a b.sock"],
        ),
        (
            "a variable in the socket",
            "SOCK=/run/a.sock\nqemu -fsdev proxy,id=fs0,socket=$SOCK -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n",
            vec!["2: fs0 t /run/a.sock"],
        ),
        (
            "an array that grows",
            "args=( -m 1G )\nargs+=( -fsdev proxy,id=fs0,socket=/run/a.sock )\nif x; then\n  args+=(-device \
             virtio-9p-pci,fsdev=fs0,mount_tag=t)\nfi\nqemu-system-x86_64 \"${args[@]}\"\n",
            vec!["2: fs0 t /run/a.sock"],
        ),
        (
            "an array for another script",
            "QEMU_OPTS+=( -fsdev proxy,id=fs0,socket=/a )\nQEMU_OPTS+=( -device virtio-9p-pci,fsdev=fs0,mount_tag=t )\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "a string that is split",
            "OPTS=\"-fsdev proxy,id=fs0,socket=/a\"\nOPTS=\"$OPTS -device virtio-9p-pci,fsdev=fs0,mount_tag=t\"\nqemu $OPTS\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "settings for another script",
            "# comment -fsdev proxy,id=no,socket=/no\nQEMU_OPTS=\"-fsdev proxy,id=fs0,socket=/a -device virtio-9p-pci,fsdev=fs0,mount_tag=t\"\n",
            vec!["2: fs0 t /a"],
        ),
        (
            "settings without quotes, as systemd reads them",
            "OPTS=-fsdev proxy,id=fs0,socket=/a -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "an fsdev in a variable",
            "FS=proxy,id=fs0,socket=/a\nqemu -fsdev \"$FS\" -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n",
            vec!["2: fs0 t /a"],
        ),
        (
            "a variable that depends",
            "if x; then S=/a; else S=/b; fi\nqemu -fsdev proxy,id=fs0,socket=$S -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n",
            vec!["2: fs0 t ? $S"],
        ),
        (
            "a variable of one branch",
            "case $1 in\n  a) S=/a; qemu -virtfs proxy,id=fs0,mount_tag=t,socket=$S ;;\n  *) S=/b; qemu -virtfs proxy,id=fs0,mount_tag=t,socket=$S ;;\nesac\n",
            vec!["2: fs0 t /a", "3: fs0 t /b"],
        ),
        (
            "a function's argument",
            "start() {\n  qemu -fsdev proxy,id=fs0,socket=$1 -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n}\nstart /a\n",
            vec!["2: fs0 t ? $1"],
        ),
        (
            "a function and a constant",
            "start() {\n  qemu -virtfs proxy,id=fs0,mount_tag=t,socket=$S\n}\nS=/a\nstart\n",
            vec!["2: fs0 t /a"],
        ),
        (
            "a loop's variable",
            "for i in 1 2; do qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/run/$i.sock; done\n",
            vec!["1: fs0 t ? /run/$i.sock"],
        ),
        (
            "a shell in a shell",
            "su -c 'qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a' vm\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "usage and comments are none",
            "usage() {\ncat <<EOF\n  qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a\nEOF\n}\necho \"qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a\"\n: <<'X'\nqemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a\nX\n",
            vec![],
        ),
        (
            "a script in a heredoc",
            "cat > /usr/bin/vm <<'EOF'\n#!/bin/sh\nqemu -virtfs proxy,id=fs0,mount_tag=t,socket=$S\nEOF\n",
            vec!["3: fs0 t ? $S"],
        ),
        (
            "other programs' options",
            "v86-system -virtfs proxy,ws://x\nssh -o ProxyCommand=x h\nqemu -accel devproxy -netdev user,id=proxy\n",
            vec![],
        ),
        (
            "the helper beside it",
            "S=$(mktemp -u)\nvirtfs-proxy-helper -p /srv/x -s \"$S\" -u 0 -g 0 &\nqemu -virtfs proxy,id=fs0,mount_tag=t,socket=${S}\n",
            vec!["3: fs0 t ? $(mktemp -u) = /srv/x"],
        ),
        (
            "the arguments of another shell",
            "set -- \"$@\" -fsdev proxy,id=fs0,socket=/a\nset -- \"$@\" -device virtio-9p-pci,fsdev=fs0,mount_tag=t\nexec qemu \"$@\"\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "CRLF",
            "qemu \\\r\n  -fsdev proxy,id=fs0,socket=/a \\\r\n  -device virtio-9p-pci,fsdev=fs0,mount_tag=t\r\n",
            vec!["2: fs0 t /a"],
        ),
        (
            "inside a substitution",
            "OUT=$(cd / && qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a) || exit 1\n",
            vec!["1: fs0 t /a"],
        ),
        (
            "an array of conditional parts",
            "a=()\n[ -n \"$X\" ] && a+=(-virtfs proxy,id=fs0,mount_tag=t,socket=/a)\nqemu ${a[@]+\"${a[@]}\"}\n",
            vec!["2: fs0 t /a"],
        ),
        (
            "an option for the case that",
            "qemu ${SHARE:+-virtfs proxy,id=fs0,mount_tag=t,socket=/a}\n",
            vec!["1: fs0 t /a"],
        ),
    ] {
        assert_eq!(shown(script), expected, "{name}");
    }
}

#[test]
fn rewriting_touches_nothing_else() {
    let to = "path=/srv/a,security_model=mapped-xattr";
    for (name, script, expected) in [
        (
            "plain",
            "qemu -fsdev proxy,id=fs0,socket=/a,readonly=on -device virtio-9p-pci,fsdev=fs0,mount_tag=t # x\n",
            format!(
                "qemu -fsdev local,id=fs0,{to},readonly=on -device virtio-9p-pci,fsdev=fs0,mount_tag=t # x\n"
            ),
        ),
        (
            "variables stay",
            "S=/a; ID=fs0\nqemu -fsdev \"proxy,id=$ID,socket=$S\" -device virtio-9p-pci,fsdev=$ID,mount_tag=$TAG\n",
            format!(
                "S=/a; ID=fs0\nqemu -fsdev \"local,id=$ID,{to}\" -device virtio-9p-pci,fsdev=$ID,mount_tag=$TAG\n"
            ),
        ),
        (
            "quotes end with the text",
            "qemu -virtfs proxy,id=fs0,mount_tag=t,socket=\"/a b\"\n",
            format!("qemu -virtfs local,id=fs0,mount_tag=t,{to}\n"),
        ),
        (
            "an array",
            "a=(\n  -virtfs 'proxy,id=fs0,mount_tag=t,socket=/a'  # c\n)\nqemu \"${a[@]}\"\n",
            format!("a=(\n  -virtfs 'local,id=fs0,mount_tag=t,{to}'  # c\n)\nqemu \"${{a[@]}}\"\n"),
        ),
        (
            "a split string",
            "O=\"-virtfs proxy,id=fs0,mount_tag=t,socket=/a\"\nqemu $O\n",
            format!("O=\"-virtfs local,id=fs0,mount_tag=t,{to}\"\nqemu $O\n"),
        ),
        (
            "an fsdev in a variable",
            "FS=proxy,id=fs0,socket=/a\nqemu -fsdev \"$FS\" -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n",
            format!(
                "FS=local,id=fs0,{to}\nqemu -fsdev \"$FS\" -device virtio-9p-pci,fsdev=fs0,mount_tag=t\n"
            ),
        ),
        (
            "a shell in a shell",
            "su -c 'qemu -virtfs proxy,id=fs0,mount_tag=t,socket=/a' vm\n",
            format!("su -c 'qemu -virtfs local,id=fs0,mount_tag=t,{to}' vm\n"),
        ),
        (
            "a path with a blank",
            "qemu -virtfs proxy,id=fs1,mount_tag=t,socket=/a\n",
            "qemu -virtfs local,id=fs1,mount_tag=t,path=/srv/b\\ c,security_model=mapped-xattr\n".to_owned(),
        ),
        (
            "a path with a blank in a script in a script",
            "sh -c \"qemu -virtfs proxy,id=fs1,mount_tag=t,socket=/a\"\n",
            "sh -c \"qemu -virtfs local,id=fs1,mount_tag=t,path=/srv/b\\\\ c,security_model=mapped-xattr\"\n"
                .to_owned(),
        ),
    ] {
        let once = rewritten(script).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!(once, expected, "{name}");
        assert_eq!(rewritten(&once).unwrap(), once, "{name}");
    }
}

#[test]
fn what_is_not_known_is_not_rewritten() {
    for script in [
        "qemu -virtfs proxy,id=other,mount_tag=u,socket=$1\n",
        "qemu -virtfs proxy,id=fs0,mount_tag=t,$MORE\n",
        "qemu -virtfs proxy,id=other,mount_tag=t,socket=/a\n",
        "O='-virtfs proxy,id=fs1,mount_tag=t,socket=/a'\nqemu $O\n",
    ] {
        assert!(rewritten(script).is_err(), "{script}");
    }
}

#[test]
fn a_script_that_breaks_off_is_said_to_be_unreadable() {
    for (script, line) in [("x proxy\necho 'abc\n", 2), ("proxy $(ls\n", 1), ("a=(proxy\n", 1)] {
        let bytes = script.as_bytes();
        assert_eq!(Shell.read(&Document { path: None, bytes }).unwrap_err().line, Some(line), "{script}");
    }
}

#[test]
fn variables_that_multiply_end() {
    let mut script = String::from("A=proxy\n");
    for _ in 0..64 {
        script.push_str("A=\"$A$A\"\n");
    }
    assert!(read(&script).shares.is_empty());
}

#[test]
fn blocks_that_nest_without_end_are_unreadable() {
    for open in ["if ", "( ", "(", "{ ", "while "] {
        let script = format!("qemu -fsdev proxy\n{}", open.repeat(20_000));
        let document = Document { path: Some(Path::new("/x.sh")), bytes: script.as_bytes() };
        assert_eq!(Shell.read(&document).unwrap_err().line, Some(2), "{open}");
    }
}
