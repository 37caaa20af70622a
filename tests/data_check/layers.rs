//! Exports on mounts that show files otherwise than they are: id-mapped mounts, and overlays.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, Output};

use crate::program::{ours, scratch};

/// Runs a script in a mount namespace of its own, with the program as `$program`, in a scratch directory.
fn run(script: &str) -> String {
    let scratch = scratch();
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-ec", script]);
    said(
        command
            .current_dir(scratch.path())
            .env("program", ours())
            .env("tool", std::env::current_exe().unwrap()),
    )
}

fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(status.success(), "{said}");
    said
}

/// Makes an id-mapped mount of `SOURCE` at `TARGET`, with `MAP`, when the tests' program is called for that: util-linux can
/// do it only since 2.39.
#[test]
#[ignore = "a tool of the other tests"]
fn mount_with_an_id_map() {
    let [source, target, map] = ["SOURCE", "TARGET", "MAP"].map(|name| std::env::var(name).unwrap());
    let mut holder = Command::new("unshare").args(["-U", "sleep", "1000"]).spawn().unwrap();
    let pid = holder.id();
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    while std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap() == own {
        std::thread::yield_now();
    }
    for file in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{file}"), &map).unwrap();
    }
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/user")).unwrap();
    let source = std::ffi::CString::new(source).unwrap();
    let target = std::ffi::CString::new(target).unwrap();
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(namespace.as_raw_fd()).unwrap(),
    };
    // SAFETY: the names end with NUL and the structure has the size that is told; all of them outlive the calls.
    unsafe {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), flags);
        assert!(tree >= 0, "open_tree: {}", std::io::Error::last_os_error());
        let tree = OwnedFd::from_raw_fd(i32::try_from(tree).unwrap());
        let size = size_of::<libc::mount_attr>();
        let set = libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size,
        );
        assert_eq!(set, 0, "mount_setattr: {}", std::io::Error::last_os_error());
        let moved = libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        );
        assert_eq!(moved, 0, "move_mount: {}", std::io::Error::last_os_error());
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

/// An ext4 in a file, with an export, and `idmap MAP`, which shows that at `mapped`.
const DISK: &str = r#"
idmap() { SOURCE=disk/export TARGET=mapped MAP="$1" "$tool" --exact --ignored layers::mount_with_an_id_map >/dev/null; }
migrate() { "$program" migrate "$@" 2>&1 || echo "status $?"; }
state() { (cd disk/export && find . -printf '%p %U:%G %m %T@\n' | sort; getfattr -Rdm- . ); }
truncate -s 32M image; mkfs.ext4 -q image; mkdir disk mapped; mount -o loop image disk
mkdir -p disk/export/d; echo x >disk/export/f; ln -s f disk/export/l; chown 1000:1000 disk/export/f disk/export/l; chmod 755 .
"#;

#[test]
fn an_id_map_that_lacks_an_owner_is_an_error_before_the_first_change() {
    for (map, what) in [
        // Everything, to other numbers.
        ("0 100000 65536\n100000 0 65536", ""),
        ("0 0 1\n1000 1000 1", "its mount can't have files of QEMU's user (12345:12345)"),
        ("1000 1000 1\n12345 12345 1", "its mount can't have root's files (0:0)"),
        ("0 0 1\n12345 12345 1", "its owner or group is not in the id map of the mount"),
    ] {
        let script = format!(
            r"{DISK}
            idmap '{map}'
            state >before
            migrate convert mapped --owner=12345:12345 --apply --progress=never --accept=owner-kept-out
            if [ -e mapped.virtfs-journal ]; then
                migrate verify mapped
                migrate rollback mapped --apply --progress=never
            fi
            state >after
            cmp before after"
        );
        let said = run(&script);
        assert!(said.contains(what), "{map}: {said}");
        assert_eq!(
            said.contains("[ids-not-mapped]") && said.contains("status 3"),
            !what.is_empty(),
            "{map}: {said}"
        );
        assert!(!what.is_empty() || !said.contains("status"), "{map}: {said}");
    }
}

#[test]
fn a_rollback_through_a_map_that_lacks_an_owner_changes_nothing() {
    let script = format!(
        r"{DISK}
        state >before
        migrate convert disk/export --owner=12345:12345 --apply --progress=never --accept=owner-kept-out
        idmap '0 0 1
        12345 12345 1'
        state >converted
        migrate rollback mapped --apply --progress=never --journal disk/export.virtfs-journal
        state >after
        cmp converted after
        umount mapped
        migrate rollback disk/export --apply --progress=never
        state >after
        cmp before after"
    );
    let said = run(&script);
    assert!(said.contains("can't have files of 1000:1000") && said.contains("status 1"), "{said}");
    assert_eq!(said.matches("status").count(), 1, "{said}");
}

#[test]
fn an_unmapping_through_a_map_that_lacks_an_owner_changes_nothing() {
    let script = format!(
        r"{DISK}
        migrate convert disk/export --owner=12345:12345 --apply --progress=never --accept=owner-kept-out
        rm disk/export.virtfs-journal
        setfattr -x trusted.virtfs-migrate.journal disk/export
        idmap '0 0 1
        12345 12345 1'
        state >converted
        for apply in '' --apply; do migrate unmap mapped --from=mapped-xattr --progress=never $apply; done
        state >after
        cmp converted after
        ls
        idmap '0 0 1'
        chown 12345 disk/export
        migrate check mapped --owner=12345:12345"
    );
    let said = run(&script);
    assert_eq!(said.matches("can't have files of 1000:1000").count(), 2, "{said}");
    assert!(!said.contains("unmap-journal"), "{said}");
    assert!(
        said.contains("cannot open the export") && said.contains("the id map of the mount lacks"),
        "{said}"
    );
}

#[test]
fn an_acl_or_a_capability_outside_the_id_map_is_an_error_before_the_first_change() {
    for (model, make, what) in [
        (
            "mapped-xattr",
            "setfacl -m u:70000:r disk/export/f",
            "its ACL names users or groups that are not in the id map",
        ),
        (
            "mapped-file",
            "setfacl -d -m g:70000:r disk/export/d",
            "its ACL names users or groups that are not in the id map",
        ),
        (
            "mapped-xattr",
            "setcap -n 70000 cap_chown+p disk/export/f",
            "an id in its file capabilities is not in the id map",
        ),
        ("mapped-xattr", "setfacl -m u:1000:r disk/export/f", ""),
    ] {
        let script = format!(
            r"{DISK}
            {make}
            idmap '0 0 65536'
            state >before
            migrate convert mapped --owner=12345:12345 --apply --progress=never --accept=owner-kept-out --security-model={model}
            if [ -e mapped.virtfs-journal ]; then migrate rollback mapped --apply --progress=never; fi
            state >after
            cmp before after"
        );
        let said = run(&script);
        assert!(said.contains(what), "{make}: {said}");
        let is_refused = said.contains("[ids-not-mapped]") && said.contains("status 3");
        assert_eq!(is_refused, !what.is_empty(), "{make}: {said}");
        assert_eq!(said.contains("is rolled back"), what.is_empty(), "{make}: {said}");
    }
}

/// The host's root must not become the owner of what belonged to a container's root.
#[test]
fn nothing_goes_by_a_journal_where_ids_are_shown_otherwise_than_at_the_conversion() {
    let script = format!(
        r"{DISK}
        chown -Rh 100000:100000 disk/export; chmod 4755 disk/export/f; mkdir other
        idmap '100000 0 65536'
        state >before
        migrate convert mapped --owner=12345:12345 --apply --progress=never --accept=owner-kept-out --journal journal
        state >converted
        TARGET=other SOURCE=disk/export MAP='100000 5 100
        112345 12345 1' $tool --exact --ignored layers::mount_with_an_id_map >/dev/null
        for tree in disk/export other; do
            echo == $tree
            migrate rollback $tree --journal journal
            migrate rollback $tree --journal journal --apply --progress=never
            migrate rollback $tree --journal journal --by-path --apply --progress=never
            migrate convert $tree --journal journal --adopt --apply --progress=never
            migrate verify $tree --journal journal
        done
        echo == end
        state >after
        cmp converted after
        migrate rollback mapped --journal journal --apply --progress=never
        state >after
        cmp before after"
    );
    let said = run(&script);
    let [_, plain, other, end] = said.split("== ").collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!(
        plain.matches("through an id-mapped mount, and this mount has no id map").count(),
        5,
        "{said}"
    );
    assert_eq!(other.matches("shows the numbers of users and groups otherwise").count(), 5, "{said}");
    assert_eq!(said.matches("status 1").count(), 10, "{said}");
    assert!(end.contains("is rolled back"), "{said}");
}

/// An overlay with hard links in both layers at `export`; `$1` are further options.
const OVERLAY: &str = r#"
migrate() { "$program" migrate "$@" 2>&1 || echo "status $?"; }
mount -t tmpfs none .
cd "$PWD"
mkdir -p lower/d upper work export
dd if=/dev/zero of=lower/large bs=1M count=10 status=none
"#;

#[test]
fn hard_links_in_a_lower_layer_that_would_break_are_an_error() {
    for (index, links, breaks) in [("off", "a b", true), ("on", "a b", false), ("off", "", false)] {
        let script = format!(
            r#"{OVERLAY}
            set -- {links}
            if [ $# -gt 0 ]; then echo x >lower/a; ln lower/a lower/d/b; fi
            mount -t overlay -o lowerdir=lower,upperdir=$PWD/upper,workdir=work,index={index} none export
            # Of the upper layer alone: these stay.
            echo y >export/u
            ln export/u export/d/v
            migrate check export --owner=12345:12345 --format=json >check.json || :
            grep '"bytes"' check.json
            migrate convert export --owner=12345:12345 --apply --progress=never --accept=owner-kept-out
            stat -c 'links %h' export/u
            if [ $# -gt 0 ]; then stat -c 'links %h' export/a; fi"#
        );
        let said = run(&script);
        assert_eq!(said.contains("links-would-break"), breaks, "index={index}: {said}");
        assert_eq!(said.contains("status 3"), breaks, "index={index}: {said}");
        assert_eq!(
            said.matches("links 2").count(),
            if links.is_empty() { 1 } else { 2 },
            "index={index}: {said}"
        );
        // What is copied up is counted.
        let numbers: Vec<u64> = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix("\"bytes\": ")?.trim_end_matches(',').parse().ok())
            .collect();
        assert!(numbers.iter().any(|bytes| *bytes >= 10 << 20), "index={index}: {numbers:?} {said}");
    }
}
