//! Everything that is found out about an export before it is judged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::unistd::Uid;

use crate::data::filesystem::{self, Filesystem};
use crate::data::form::Model;
use crate::data::idmap;
use crate::data::live::{self, Live};
use crate::data::neighbours::{self, Mention};
use crate::data::owner::Owner;
use crate::data::survey::{self, Survey};
use crate::data::tree::Tree;
use crate::text;

/// Everything that was found out about an export.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Where it is, free of symbolic links.
    pub export: PathBuf,
    /// Why it is a directory of the system's or of an account's; empty where it is not.
    pub system: Vec<String>,
    /// Its files.
    pub tree: Tree,
    /// What it lies on.
    pub filesystem: Filesystem,
    /// What it holds.
    pub survey: Survey,
    /// Who has it open.
    pub live: Live,
    /// Who else is configured to use it.
    pub mentions: Vec<Mention>,
    /// Who QEMU will run as, where that is known.
    pub owner: Option<Owner>,
    /// The first directory that keeps that user out, and why.
    pub barrier: Option<(PathBuf, Errno)>,
    /// The first owner that the export's mount can't give to a file: root's, or QEMU's user's.
    pub lacking: Option<(u32, u32)>,
    /// Whether the check could look at everything that root can.
    pub privileged: bool,
    /// How long the walk took.
    pub walk: Duration,
    /// How long it takes to give one inode its attributes, where that could be tried.
    pub per_inode: Option<Duration>,
}

impl Facts {
    /// Finds everything out, with `jobs` workers.
    pub(crate) fn gather(export: &Path, owner: Option<Owner>, jobs: usize) -> anyhow::Result<Self> {
        Self::gather_by(export, owner, |tree, filesystem| Ok(survey::survey(tree, filesystem, jobs)))
    }

    /// Finds everything out; `walk` makes the survey on its way.
    pub(crate) fn gather_by(
        export: &Path,
        owner: Option<Owner>,
        walk: impl FnOnce(&Tree, &Filesystem) -> anyhow::Result<Survey>,
    ) -> anyhow::Result<Self> {
        let shown = text::escape_path(export);
        let path = export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
        let directory = idmap::open_export(&path)?;
        let filesystem = Filesystem::of(&directory, &path)?;
        let per_inode = filesystem::time_per_inode(&directory);
        let lacking = idmap::lacking(&directory, owner.iter().map(|owner| (owner.uid, owner.gid)));
        drop(directory);
        let live = live::look(&path)?;
        let tree = Tree::open(&path).with_context(|| format!("cannot open the export '{shown}'"))?;
        let start = Instant::now();
        let survey = walk(&tree, &filesystem)?;
        let walk = start.elapsed();
        let is_root = Uid::effective().is_root();
        // Only the way to the export counts: the export itself will be this user's.
        let barrier = match (&owner, path.parent()) {
            (Some(owner), Some(parent)) if is_root => owner.barrier_to(parent)?,
            _ => None,
        };
        Ok(Self {
            system: super::system::reasons(&path),
            mentions: neighbours::mentions(Path::new("/"), &path),
            export: path,
            tree,
            filesystem,
            survey,
            live,
            owner,
            barrier,
            lacking: lacking.filter(|_| is_root),
            privileged: is_root && crate::data::sys::sees_trusted_attributes(),
            walk,
            per_inode,
        })
    }

    /// The model that fits: mapped-xattr wherever the filesystem can keep it.
    pub(crate) fn fitting_model(&self) -> Model {
        if self.filesystem.attributes.usable() { Model::MappedXattr } else { Model::MappedFile }
    }
}
