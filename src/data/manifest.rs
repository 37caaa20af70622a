//! `migrate manifest`: a tree as the guest sees it, one line an entry.
//!
//! The lines are made to be compared: the same tree gives the same bytes, directories before what is in them, names in
//! the order of their bytes. What is not the tree's own (inode numbers, the sizes of directories, change times) is
//! left out. A line is a name and fields `key=value`, separated by one blank each; in names and values
//! a blank stands as `\x20`, and [`crate::text::unescape`] takes everything back.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::acl;
use super::entry::{Entry, Identity, Inode, Kind, Time};
use super::form::{Form, Model};
use super::pin::Pin;
use super::tree::{Directory, Tree};
use super::walk::{self, Trouble, Visitor};
use crate::data::options::{ManifestArgs, TreeForm};
use crate::exit::Outcome;
use crate::text;
use crate::text::counted;

/// The version of the lines: grows when a field goes or changes its meaning.
const VERSION: u32 = 1;

/// `migrate manifest`.
pub(crate) fn run(args: &ManifestArgs) -> anyhow::Result<Outcome> {
    let tree = Tree::open(&args.tree)
        .with_context(|| format!("cannot open the tree '{}'", text::escape_path(&args.tree)))?;
    let form = match args.form {
        TreeForm::Passthrough => Form::Passthrough,
        TreeForm::MappedXattr => Form::Mapped(Model::MappedXattr),
        TreeForm::MappedFile => Form::Mapped(Model::MappedFile),
    };
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = write(&tree, form, args.atime, &mut out).and_then(|unread| {
        out.flush()?;
        Ok(unread)
    });
    match result {
        Ok(0) => Ok(Outcome::Clean),
        Ok(unread) => bail!(
            "{} could not be read: the manifest does not tell all of the tree",
            counted(unread, "entry")
        ),
        // Whoever read it has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Clean),
        Err(error) => Err(error).context("cannot write the manifest"),
    }
}

/// Writes the manifest of a tree of this form. How many entries could not be read; their lines say why.
pub(crate) fn write(tree: &Tree, form: Form, atime: bool, out: &mut dyn Write) -> io::Result<u64> {
    writeln!(out, "# manifest {VERSION} {}", form.name())?;
    let mut writer = Writer { form, atime, out, leaders: HashMap::new(), unread: 0 };
    walk::sorted(tree, &mut writer)?;
    Ok(writer.unread)
}

/// The walk's visitor.
struct Writer<'o> {
    form: Form,
    atime: bool,
    out: &'o mut dyn Write,
    /// Inodes of several names: the first of them, and how many are still to come.
    leaders: HashMap<Identity, (Vec<u8>, u64)>,
    unread: u64,
}

impl Writer<'_> {
    fn line(&mut self, path: &[u8], inode: &Inode, entry: rustix::io::Result<Entry>) -> io::Result<()> {
        match entry {
            Ok(entry) => {
                let leader = self.leader(path, inode);
                let line = describe(path, &entry, leader.as_deref(), self.atime);
                writeln!(self.out, "{line}")
            }
            Err(error) => self.failed(path, Trouble::of(error)),
        }
    }

    /// The first name of an inode that has several.
    fn leader(&mut self, path: &[u8], inode: &Inode) -> Option<Vec<u8>> {
        if !inode.is_linked() {
            return None;
        }
        let Some((leader, left)) = self.leaders.get_mut(&inode.identity) else {
            self.leaders.insert(inode.identity, (path.to_vec(), inode.links - 1));
            return None;
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return Some(leader.clone());
        }
        self.leaders.remove(&inode.identity).map(|(leader, _)| leader)
    }

    fn failed(&mut self, path: &[u8], trouble: Trouble) -> io::Result<()> {
        if trouble == Trouble::Mount {
            return writeln!(self.out, "{} type=mount", name(path));
        }
        self.unread += 1;
        writeln!(self.out, "{} unread={}", name(path), value(trouble.to_string().as_bytes()))
    }
}

impl Visitor for Writer<'_> {
    type Error = io::Error;

    fn directory(&mut self, directory: &Arc<Directory>, pin: &Pin) -> io::Result<()> {
        self.line(&directory.path(), pin.inode(), self.form.read_directory(directory, pin))
    }

    fn entry(&mut self, directory: &Arc<Directory>, name: &CStr, pin: Pin) -> io::Result<()> {
        self.line(&directory.path_of(name), pin.inode(), self.form.read(directory, name, &pin))
    }

    fn trouble(&mut self, directory: &Arc<Directory>, entry: &CStr, trouble: Trouble) -> io::Result<()> {
        let path = directory.path_of(entry);
        if trouble == Trouble::Mount && directory.is_absent_subvolume(entry) {
            return writeln!(self.out, "{} type=absent-subvolume", name(&path));
        }
        self.failed(&path, trouble)
    }

    fn hides(&self, directory: &Arc<Directory>, name: &CStr) -> bool {
        self.form.hides(directory, name)
    }
}

/// One entry's line, without its end. `leader` is another name of the same inode that was described before.
pub(crate) fn describe(path: &[u8], entry: &Entry, leader: Option<&[u8]>, atime: bool) -> String {
    let kind = entry.kind();
    let mut fields = vec![
        name(path),
        format!("type={}", kind.map_or('?', Kind::letter)),
        format!("mode={:04o}", entry.permissions()),
        format!("uid={}", entry.uid),
        format!("gid={}", entry.gid),
    ];
    if kind != Some(Kind::Directory) {
        fields.push(format!("links={}", entry.links));
    }
    if kind == Some(Kind::File) {
        fields.push(format!("size={}", entry.size));
    }
    if kind.is_some_and(Kind::is_device) {
        fields.push(format!("device={}:{}", libc::major(entry.rdev), libc::minor(entry.rdev)));
    }
    fields.push(format!("mtime={}", time(entry.modified)));
    if atime {
        fields.push(format!("atime={}", time(entry.accessed)));
    }
    if kind == Some(Kind::Symlink) {
        fields.push(
            entry
                .target
                .as_ref()
                .map_or_else(|| "target-unreadable=yes".into(), |target| format!("target={}", value(target))),
        );
    }
    if let Some(leader) = leader {
        fields.push(format!("same-as={}", name(leader)));
    }
    for (key, acl) in [("acl", &entry.access_acl), ("default-acl", &entry.default_acl)] {
        if let Some(acl) = acl {
            fields.push(format!("{key}={}", acl::text(acl).unwrap_or_else(|| value(acl))));
        }
    }
    for (key, content) in &entry.xattrs {
        fields.push(format!("xattr:{}={}", value(key).replace('=', r"\x3d"), value(content)));
    }
    fields.join(" ")
}

/// A path below the tree, as the first field of a line has it.
fn name(path: &[u8]) -> String {
    if path.is_empty() { ".".into() } else { format!("./{}", value(path)) }
}

/// Bytes as text without blanks of any kind.
fn value(bytes: &[u8]) -> String {
    let text = text::escape(bytes);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_whitespace() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String does not fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        } else {
            out.push(character);
        }
    }
    out
}

/// Seconds since 1970, with nine digits of their parts; a part always counts forward.
fn time(time: Time) -> String {
    format!("{}.{:09}", time.seconds, time.nanoseconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::entry::sample as entry;

    #[test]
    fn a_line_says_what_the_guest_sees() {
        let plain = entry();
        let device = Entry { mode: libc::S_IFBLK | 0o600, rdev: libc::makedev(259, 65537), ..entry() };
        let link = Entry { mode: libc::S_IFLNK | 0o777, target: Some(b"a b".to_vec()), ..entry() };
        let unreadable = Entry { target: None, ..link.clone() };
        let mut many = entry();
        many.push_xattr(b"user.a=b", b"1\n2".to_vec());
        many.push_xattr(b"system.posix_acl_access", b"bad".to_vec());
        for (path, entry, leader, line) in [
            (&b""[..], &plain, None, ". type=f mode=4755 uid=1000 gid=100 links=1 size=7 mtime=-2.000000001"),
            (
                b"d\xff/b",
                &device,
                None,
                r"./d\xff/b type=b mode=0600 uid=1000 gid=100 links=1 device=259:65537 mtime=-2.000000001",
            ),
            (
                b"l",
                &link,
                Some(&b"k"[..]),
                r"./l type=l mode=0777 uid=1000 gid=100 links=1 mtime=-2.000000001 target=a\x20b same-as=./k",
            ),
            (
                b"l",
                &unreadable,
                None,
                "./l type=l mode=0777 uid=1000 gid=100 links=1 mtime=-2.000000001 target-unreadable=yes",
            ),
            (
                b"m",
                &many,
                None,
                r"./m type=f mode=4755 uid=1000 gid=100 links=1 size=7 mtime=-2.000000001 acl=bad xattr:user.a\x3db=1\x0a2",
            ),
        ] {
            assert_eq!(describe(path, entry, leader, false), line);
        }
        assert!(describe(b"", &plain, None, true).ends_with("mtime=-2.000000001 atime=1.000000005"));
    }

    proptest! {
        #[test]
        fn any_name_is_one_field_and_comes_back(path in proptest::collection::vec(any::<u8>(), 1..80)) {
            let line = describe(&path, &entry(), None, true);
            let field = line.split(' ').next().unwrap();
            prop_assert!(!field.contains(char::is_whitespace));
            prop_assert_eq!(text::unescape(field.strip_prefix("./").unwrap()), path);
        }
    }
}
