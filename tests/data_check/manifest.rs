//! `migrate manifest`: the same tree gives the same bytes, and the same lines in every form.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::program::{ours, scratch};

/// Fills a folder with one of everything, everything being fixed: the golden file holds it.
const FILL: &str = r#"
umask 022
mkdir -p dir/sub 'odd names'
printf hello >dir/file
ln dir/file dir/sub/again
ln dir/file a-first
ln -s 'a target' dir/link
ln -P dir/link dir/sub/link
mknod dir/char c 1 3
mknod dir/block b 259 65537
mkfifo dir/fifo
printf x >"odd names/$(printf 'new\nline \377 \\ \342\200\256')"
printf x >'odd names/a=b'
chown -h 1000:1001 dir/link dir/file dir/char
chmod 4755 dir/file
chmod 1777 dir/sub
chmod 0 dir/fifo
setfacl -m u:1000:rw,g:7:r dir/block
setfacl -d -m u:1000:rwx dir/sub
setfattr -n user.plain -v 'a value' dir/file
setfattr -n user.with=sign -v 0x000aff dir/sub
find . -depth -exec touch -h -d @-1.5 {} +
touch -d @4294967296.123456789 dir/file
"#;

fn filled() -> tempfile::TempDir {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let filled = Command::new("bash").args(["-ec", FILL]).current_dir(&tree).output().unwrap();
    assert!(filled.status.success(), "{filled:?}");
    scratch
}

fn manifest(tree: &Path, options: &[&str]) -> Output {
    Command::new(ours()).args(["migrate", "manifest"]).args(options).arg(tree).output().unwrap()
}

/// The lines of a manifest that has all of a tree, the heading left out.
#[track_caller]
fn lines(tree: &Path, options: &[&str]) -> String {
    let output = manifest(tree, options);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (heading, lines) = text.split_once('\n').unwrap();
    assert!(heading.starts_with("# manifest 1 "), "{heading}");
    lines.to_owned()
}

#[test]
fn a_tree_is_described_as_agreed() {
    let scratch = filled();
    let text = lines(&scratch.path().join("tree"), &[]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/manifest.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(golden).unwrap());
}

#[test]
fn the_lines_are_the_same_in_every_form() {
    for model in ["mapped-xattr", "mapped-file"] {
        let scratch = filled();
        let tree = scratch.path().join("tree");
        let before = lines(&tree, &["--atime"]);
        let mut convert = Command::new(ours());
        convert.args(["migrate", "convert", "--apply", "--progress=never", "--owner=12345:54321"]);
        convert.args(["--security-model", model]).arg(&tree);
        let output = convert.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let form = format!("--as={model}");
        assert_eq!(lines(&tree, &["--atime", &form]), before);
        assert_ne!(lines(&tree, &["--atime"]), before, "the files themselves are others");
    }
}

#[test]
fn looking_twice_changes_nothing() {
    let scratch = filled();
    let tree = scratch.path().join("tree");
    let first = lines(&tree, &["--atime"]);
    fs::read_link(tree.join("dir/link")).unwrap();
    assert_eq!(lines(&tree, &["--atime"]).lines().count(), first.lines().count());
    let again = lines(&tree, &["--atime"]);
    assert_eq!(lines(&tree, &["--atime"]), again);
}

#[test]
fn names_come_back_from_their_fields() {
    let scratch = filled();
    let text = lines(&scratch.path().join("tree"), &[]);
    let names: Vec<_> = text
        .lines()
        .map(|line| virtfs_proxy_helper::internals::report::unescape(line.split(' ').next().unwrap()))
        .collect();
    assert!(names.contains(&b"./odd names/new\nline \xff \\ \xe2\x80\xae".to_vec()), "{text}");
    for name in names {
        let path = scratch.path().join("tree").join(OsStr::from_bytes(&name));
        assert!(path.symlink_metadata().is_ok(), "{}", path.display());
    }
}

#[test]
fn what_can_not_be_read_is_said_and_is_a_failure() {
    let scratch = filled();
    let tree = scratch.path().join("tree");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    fs::set_permissions(tree.join("dir/sub"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let output = command.arg(ours()).args(["migrate", "manifest"]).arg(&tree).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("./dir/sub unread=")), "{text}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("1 entries could not be read") || said.contains("1 entry could not be read"),
        "{said}"
    );
}

#[test]
fn a_reader_may_have_enough() {
    let scratch = filled();
    let mut command = Command::new(ours());
    command.args(["migrate", "manifest"]).arg(scratch.path().join("tree"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
