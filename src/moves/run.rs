//! How commands are run, and files written.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, bail};

use super::document::{Command, path_of};
use super::tool;
use crate::text::escape_path;

/// How this program is called.
pub(super) const PROGRAM: &str = "virtfs-proxy-helper";

/// How steps are carried out.
#[derive(Debug, Clone)]
pub(super) struct Options {
    /// End a guest that does not shut down as a power failure does.
    pub force_stop: bool,
    /// How long a guest may take to shut down, in seconds.
    pub stop_timeout: u64,
    /// How long a guest may take to be up, and a probe to succeed, in seconds.
    pub up_timeout: u64,
    /// How long a guest has to stay up, in seconds.
    pub settle: u64,
    /// Ask agents whether what was mounted in the guests is mounted again.
    pub agent: bool,
    /// How progress is told.
    pub json: bool,
}

/// Runs commands one after the other; each must succeed. This program's own verbs are run by itself.
pub(super) fn run_all(commands: &[Command]) -> anyhow::Result<()> {
    commands.iter().filter(|command| !command.by_hand).try_for_each(run)
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    let (program, words) = command.words.split_first().context("a command without words")?;
    let program = if program == PROGRAM {
        std::env::current_exe().context("cannot find this program's own file")?
    } else {
        path_of(program)
    };
    let said = tool::run(program, words.iter().map(|word| path_of(word)))?;
    if said.status != Some(0) {
        let mut reason = said.reason();
        if said.stderr.trim().is_empty()
            && let Some(last) = said.text().lines().rev().find(|line| !line.trim().is_empty())
        {
            reason = crate::text::escape(last.as_bytes()).into_owned();
        }
        bail!("{}: {}: {reason}", command.line(), said.how());
    }
    if let Some(output) = &command.output {
        replace(&path_of(output), &said.stdout, None)?;
    }
    Ok(())
}

/// Writes a file in one step, on stable storage; with the owner and the mode of another, or else for root alone.
pub(super) fn replace(path: &Path, bytes: &[u8], like: Option<&fs::Metadata>) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
    let shown = escape_path(path);
    let folder = path.parent().with_context(|| format!("{shown} has no folder"))?;
    let write = || -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        if let Some(like) = like {
            fchown(file.as_file(), Some(like.uid()), Some(like.gid()))?;
            file.as_file().set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
        }
        file.as_file().sync_all()?;
        file.persist(path)?;
        // Proxmox's own file system can't.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    };
    write().with_context(|| format!("writing {shown}"))
}
