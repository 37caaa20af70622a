//! Directories that the host itself lives from are refused: tried on a root directory made for it, in a mount namespace of
//! its own.

use std::process::Command;

use crate::program::{ours, scratch};

/// Makes a small system below `$1`, with the program `$2`, and enters it with the remaining words.
const ENTER: &str = r#"
root=$1 program=$2
shift 2
mount -t tmpfs none "$root"
cd "$root"
mkdir -p etc/sub var/lib/own var/www home/alice/share srv/share opt/tool root tmp proc usr dev mnt/etc mnt/all
mkdir -p srv/outer/inner
cp "$program" opt/tool/program
echo 'alice:x:4242:4242::/home/alice:/bin/sh' >etc/passwd
echo file | tee etc/file home/alice/share/file srv/share/file srv/outer/inner/file >home/alice/file
mount --bind /usr usr
mount -o remount,bind,ro usr
for name in bin lib lib64; do if [ -L /$name ]; then ln -s "usr/$name" $name; fi; done
mount --rbind /proc proc
: >dev/urandom
mount --bind /dev/urandom dev/urandom
mount --bind etc mnt/etc
mount --bind . mnt/all
exec chroot . "$@"
"#;

/// Runs a script in such a system. `convert PATH OPTION…` converts to mapped-xattr, whatever else may be found.
fn within(script: &str) -> String {
    let scratch = scratch();
    let convert = r#"convert() { "/opt/tool/program" migrate convert "$@" --owner=12345:12345 --apply --progress=never \
        --accept=owner-kept-out 2>&1 || echo "status $?"; }"#;
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-ec", ENTER, "sh"])
        .arg(scratch.path())
        .arg(ours());
    let output = command.args(["sh", "-ec", &format!("{convert}\n{script}")]).output().unwrap();
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn directories_that_the_host_lives_from_are_refused() {
    for (path, why) in [
        ("/", "directory of the system (/)"),
        ("/etc", "it is a directory of the system (/etc)"),
        ("/etc/sub", "it is inside /etc"),
        ("/usr", "it is a directory of the system (/usr)"),
        ("/var", "it is a directory of the system (/var)"),
        ("/var/lib", "it is a directory of the system (/var/lib)"),
        ("/home", "it is a directory of the system (/home)"),
        ("/home/alice", "it is the home of the account alice (/home/alice)"),
        ("/srv", "it is a directory of the system (/srv)"),
        ("/opt/tool", "it holds this program (/opt/tool/program)"),
        ("/mnt/etc", "it is a directory of the system (/etc)"),
        ("/mnt/etc/sub", "it is inside /etc"),
        ("/mnt/all", "directory of the system (/)"),
        ("/mnt/all/home/alice", "it is the home of the account alice (/home/alice)"),
    ] {
        let said = within(&format!(
            "convert {path}; stat -c 'owner %u' {path}; ls -A /*.virtfs-journal /*/*.virtfs-journal 2>/dev/null || :"
        ));
        assert!(said.contains("[system-directory]"), "{path}: {said}");
        assert!(said.contains(why), "{path}: {said}");
        assert!(said.ends_with("status 3\nowner 0\n"), "{path}: {said}");
    }
}

#[test]
fn exports_beside_them_and_those_that_are_named_are_converted() {
    for (words, owner) in [
        ("/srv/share", "owner 12345\n"),
        ("/home/alice/share", "owner 12345\n"),
        ("/var/lib/own", "owner 12345\n"),
        ("/home/alice --system-directory=/home/alice", "owner 12345\n"),
        ("/home/alice --system-directory=/home", "status 3\nowner 0\n"),
        ("/home/alice --accept=system-directory", "status 2\nowner 0\n"),
    ] {
        let path = words.split(' ').next().unwrap();
        let said = within(&format!("convert {words}; stat -c 'owner %u' {path}"));
        assert!(said.ends_with(owner), "{words}: {said}");
        assert!(owner.starts_with("status") || !said.contains("status"), "{words}: {said}");
    }
}

#[test]
fn exports_around_and_inside_a_converted_one_are_refused() {
    for (first, then) in [("/srv/outer", "/srv/outer/inner"), ("/srv/outer/inner", "/srv/outer")] {
        for model in ["mapped-xattr", "mapped-file"] {
            let model = format!("--security-model={model}");
            let said = within(&format!(
                "convert {first} {model} >/dev/null; convert {then} {model} --accept=already-mapped"
            ));
            assert!(
                said.contains("already-converted") && said.ends_with("status 3\n"),
                "{then} {model}: {said}"
            );
        }
    }
}
