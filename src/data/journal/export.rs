//! A journal and the export that it is of: whether the two fit each other, and whether the journal tells all that was done.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{AtFlags, StatxFlags};

use super::mark;
use super::mark::Mark;
use super::reader::Journal;
use super::records::{Begin, FileSystem, Stage};
use super::writer::Writer;
use crate::data::entry::Inode;
use crate::data::goal::ConversionTarget;
use crate::data::id_view::IdMaps;
use crate::data::mapped_file::METADATA_ROOT;
use crate::data::mapped_xattr::UID;
use crate::data::mounts::{self, Mounts};
use crate::data::{pin, sys};
use crate::text;

/// What to do about a journal that can't be relied on.
const WAY: &str = "restore the journal from a backup; `migrate journal FILE` says what is left of this one. Nothing was changed";

impl Journal {
    /// Opens the journal of the export with this open root. `None`: it was just being made when it was interrupted, and
    /// nothing was done yet.
    ///
    /// An error where it is another export's, where it is damaged, or where something was done to the export that it does
    /// not tell.
    pub fn of_export(path: &Path, root: BorrowedFd<'_>) -> Result<Option<Self>> {
        Self::of_export_by(path, root, Self::open)
    }

    /// [`Journal::of_export`] for one that is only looked at: its file system may be mounted read-only.
    pub fn of_export_to_read(path: &Path, root: BorrowedFd<'_>) -> Result<Option<Self>> {
        Self::of_export_by(path, root, Self::open_to_read)
    }

    fn of_export_by(
        path: &Path,
        root: BorrowedFd<'_>,
        open: impl FnOnce(&Path) -> Result<Self>,
    ) -> Result<Option<Self>> {
        let shown = text::escape_path(path);
        let mark = Mark::of_export(root)?;
        if Self::is_stillborn(path)? {
            let is_marked = mark.is_some() || Mark::of_journal(File::open(path)?)?.is_some();
            ensure!(
                !is_marked && !looks_mapped(root),
                "the journal {shown} is damaged: nothing of it is left, and the export is converted, at least in part: {WAY}"
            );
            return Ok(None);
        }
        let journal = open(path)?;
        journal.is_of(&pin::stat(root)?)?;
        match &mark {
            Some(mark) => {
                journal.keeps(mark, "the export").with_context(|| format!("the journal {shown}"))?;
                ensure!(
                    journal.stage() != Stage::RolledBack || mark.stage >= Stage::RollingBack,
                    "the journal {shown} says that the export is rolled back, and the export is marked as {}: a copy of the export was \
                     rolled back by this journal. Restore the journal from a backup; `migrate unmap` needs none. Nothing was changed",
                    mark.stage.name()
                );
            }
            // The mark is taken away when the rollback is on stable storage, and by nothing else here.
            None => ensure!(
                journal.stage() < Stage::Converted
                    || journal.stage() == Stage::RolledBack
                    || !journal.begin().marks
                    || !sys::sees_trusted_attributes(),
                "the journal {shown} says that the export is {}, and the export is not marked so: it was rolled back since, and this \
                 is an earlier copy of its journal; or another program took the mark away, as tools do that restore a backup. Nothing \
                 was changed. `migrate verify` and `migrate rollback` go by paths with --by-path",
                journal.stage().name()
            ),
        }
        ensure!(
            journal.stage() > Stage::Recording || journal.is_untouched(root, mark.as_ref())?,
            "the journal {shown} ends at byte {} before it says that everything is recorded, and the export was changed since it \
             began: either the journal is damaged, or somebody has worked in the export. {WAY}. If you know that nothing was \
             converted, remove the journal",
            journal.len()
        );
        Ok(Some(journal))
    }

    /// Whether the journal of an unmapping was just being made when that was interrupted, and nothing was done to the tree with this
    /// open root. What an earlier conversion has left there, its mark and its attributes, says nothing of it: of all entries the root
    /// is the first that an unmapping changes, and it is marked before.
    pub fn is_unbegun_unmapping(path: &Path, root: BorrowedFd<'_>) -> Result<bool> {
        let has_begun = Mark::of_export(root)?.is_some_and(|mark| mark.stage >= Stage::RollingBack);
        Ok(!has_begun
            && looks_mapped(root)
            && Self::is_stillborn(path)?
            && Mark::of_journal(File::open(path)?)?.is_none())
    }

    /// Opens the journal of a converted export of which the directory with this open root is a copy: its entries are known by
    /// their paths.
    pub fn of_copy(path: &Path, root: BorrowedFd<'_>) -> Result<Self> {
        Self::of_copy_by(root, Self::open(path)?)
    }

    /// [`Journal::of_copy`] for one that is only looked at.
    pub fn of_copy_to_read(path: &Path, root: BorrowedFd<'_>) -> Result<Self> {
        Self::of_copy_by(root, Self::open_to_read(path)?)
    }

    fn of_copy_by(root: BorrowedFd<'_>, journal: Self) -> Result<Self> {
        if let Some(mark) = Mark::of_export(root)? {
            journal.keeps(&mark, "the export")?;
        }
        ensure!(
            journal.stage() > Stage::Recording,
            "the journal {} does not tell all of the export: nothing can be compared by it",
            text::escape_path(journal.path())
        );
        Ok(journal.by_path())
    }

    /// Refuses to roll back by paths what is no copy of a converted export with all that says what the guest sees; also to write
    /// into the journal of an export that is still there itself.
    pub fn ensure_of_mapped_copy(&self, root: BorrowedFd<'_>) -> Result<()> {
        ensure!(
            self.stage() != Stage::Converted || looks_mapped(root),
            "the root has nothing that says what the guest sees: it was rolled back already, or was copied by a tool that leaves \
             user.* attributes or .virtfs_metadata_root behind. Nothing was changed. `migrate verify --by-path` names what is \
             different; restore a copy that has them (rsync -aHAX, tar --xattrs)"
        );
        if self.original(root)?.is_some() && self.is_own_file()? {
            bail!(
                "{} is the journal of {}, which is still there: for a rollback of a copy, copy the journal, too (cp), and name the \
                 copy by --journal. Nothing was changed",
                text::escape_path(self.path()),
                self.begin().export
            );
        }
        Ok(())
    }

    /// Refuses to change a copy of an export, block by block, while the export is still there: the two can't be told apart, and what is
    /// written to the journal is said of both.
    pub fn ensure_no_other(&self, root: BorrowedFd<'_>) -> Result<()> {
        let Some(original) = self.original(root)? else { return Ok(()) };
        let begin = self.begin();
        let is_converted = Mark::of_export(&original)?.map_or(!begin.marks, |mark| mark.id == begin.id);
        ensure!(
            !is_converted,
            "{} is the journal of {}, which is still there and is another directory: one of the two is a copy of the other's file system, \
             and what the journal says of one is not true of the other. To change the one that was converted, unmount the copy and mount \
             the other there. For a rollback of the copy, copy the journal, too (cp), name the copy by --journal, and add --by-path. \
             Nothing was changed",
            text::escape_path(self.path()),
            self.begin().export
        );
        Ok(())
    }

    /// The directory that was converted, where it is still at its place and is not the one with this open root.
    fn original(&self, root: BorrowedFd<'_>) -> Result<Option<File>> {
        let Ok(original) =
            File::open(PathBuf::from(OsString::from_vec(text::unescape(&self.begin().export))))
        else {
            return Ok(None);
        };
        let Ok(inode) = pin::stat(original.as_fd()) else { return Ok(None) };
        let is_it = self.is_of(&inode).is_ok() && pin::stat(root)?.identity != inode.identity;
        Ok(is_it.then_some(original))
    }

    /// Whether the journal's file is the one that the conversion wrote, not a copy: one that lies where it would be looked for, or one
    /// that is marked and was made when the conversion began.
    fn is_own_file(&self) -> Result<bool> {
        let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
        let usual = super::records::default_path(Path::new(&self.begin().export));
        if identity(&usual).is_some() && identity(&usual) == identity(self.path()) {
            return Ok(true);
        }
        let file = File::open(self.path())?;
        let told = rustix::fs::statx(&file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME)?;
        let is_younger = told.stx_mask & StatxFlags::BTIME.bits() != 0
            && u64::try_from(told.stx_btime.tv_sec).is_ok_and(|born| born > self.begin().at);
        Ok(!is_younger && mark::may_be_of_journal(&file)?)
    }

    /// Refuses the journal of an unmapping, which does not tell what a tree was.
    pub fn ensure_of_conversion(&self) -> Result<()> {
        ensure!(
            !self.begin().unmaps,
            "{} is the journal of an unmapping, which records nothing: go on with it by `migrate unmap`, and name the journal of the \
             conversion by --journal",
            text::escape_path(self.path())
        );
        Ok(())
    }

    /// Goes on writing it; the export with this open root is marked from now on.
    pub fn append_marking(&self, root: BorrowedFd<'_>) -> Result<Writer> {
        let writer = self.append()?;
        Ok(if self.begin().marks && sys::sees_trusted_attributes() { writer.marking(root)? } else { writer })
    }

    fn is_of(&self, root: &Inode) -> Result<()> {
        let begin = self.begin();
        let is_same = match &begin.root {
            Some(id) => id.is(&root.id, root.changed),
            None => begin.root_inode == root.identity.number,
        };
        if is_same {
            return Ok(());
        }
        bail!(
            "{} is the journal of another directory ({}{}). If the export was restored from a backup or copied, `migrate verify` and \
             `migrate rollback` go by paths with --by-path",
            text::escape_path(self.path()),
            begin.export,
            begin.on_host()
        )
    }

    /// Whether nothing was done to the export of a journal that does not tell all of it: everything that touches it marks it
    /// first. Where it can't be marked, or the mark not be seen, the root must be as it was recorded.
    fn is_untouched(&self, root: BorrowedFd<'_>, mark: Option<&Mark>) -> Result<bool> {
        if self.begin().marks && sys::sees_trusted_attributes() {
            return Ok(mark.is_none());
        }
        let now = pin::stat(root)?;
        // Before its record is written nothing is, and what follows the beginning is the root's.
        match self.listings()?.next() {
            None => Ok(self.torn() == 0 && !looks_mapped(root)),
            Some(listing) => Ok(listing?.1.own.changed == now.changed),
        }
    }
}

impl Begin {
    /// What is begun with the export at `export`, whose open root is `root`.
    pub fn of(export: &Path, root: &File, goal: &ConversionTarget, accepted: &[String]) -> Result<Self> {
        let inode = pin::stat(root.as_fd())?;
        let mounts = Mounts::own()?;
        let mount = mounts::mount_id(root).ok().and_then(|id| mounts.by_id(id));
        let (kind, source) = mount.map_or((&b""[..], &b""[..]), |mount| (&mount.kind, &mount.source));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self {
            program: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
            export: text::escape(export.as_os_str().as_bytes()).into_owned(),
            root_inode: inode.id.number,
            security_model: goal.model.name().into(),
            uid: goal.uid,
            gid: goal.gid,
            fmode: goal.fmode,
            dmode: goal.dmode,
            staging: format!(".virtfs-convert-{}.", random::<8>()?),
            accepted: accepted.to_vec(),
            at: super::records::now(),
            id: random::<16>()?,
            host: text::escape(host.trim_end().as_bytes()).into_owned(),
            file_system: FileSystem {
                kind: text::escape(kind).into_owned(),
                source: text::escape(source).into_owned(),
                id: rustix::fs::fstatvfs(root)
                    .map_or_else(|_| String::new(), |told| format!("{:016x}", told.f_fsid)),
            },
            root: Some(inode.id),
            ids: Some(IdMaps::of(root.as_fd(), mount)),
            marks: mark::is_possible(root),
            adopts: goal.adopts,
            unmaps: false,
        })
    }

    /// The host that it was written on, for a message; empty where that is not known.
    fn on_host(&self) -> String {
        if self.host.is_empty() { String::new() } else { format!(", on the host {}", self.host) }
    }
}

/// Whether the root of an export has what a conversion to a mapped model gives it.
fn looks_mapped(root: BorrowedFd<'_>) -> bool {
    let has_attribute = rustix::fs::fgetxattr(root, UID, &mut [0_u8; 16][..]).is_ok();
    let has_file = rustix::fs::statat(root, METADATA_ROOT, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    has_attribute || has_file
}

/// `N` random bytes in hexadecimal.
fn random<const N: usize>() -> Result<String> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("reading /dev/urandom")?;
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect())
}
