//! What an export says of itself: the journal beside it, the mark on it, and its first entries.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::data::form::Model;
use crate::data::journal::{Journal, Mark, Stage, default_path};
use crate::data::sample::Sample;
use crate::report::origin::rfc3339;
use crate::sources::audit::Survey;
use crate::text::escape_path;

/// An export.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where it is on its host, free of symbolic links.
    pub path: PathBuf,
    /// Where this program reaches it.
    here: PathBuf,
    /// What the journal beside it says.
    pub said: Said,
}

/// What the journal beside an export says.
#[derive(Debug)]
pub(super) enum Said {
    /// There is none, and the export has no mark of one.
    Nothing,
    /// This, and it is of this export.
    Journal(Told),
    /// It can't be relied on, or it is not beside the export, which is marked by it.
    Doubt(String),
}

/// What a journal tells.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// Where it is on the host.
    pub journal: PathBuf,
    /// How far the conversion got.
    pub stage: Stage,
    /// To which model.
    pub model: String,
    /// For which user and group.
    pub owner: (u32, u32),
    /// When it began: seconds since 1970.
    pub begun: u64,
    /// When all was converted.
    pub converted: Option<u64>,
    /// Whether an adoption of entries that were added has begun and is not finished.
    pub is_adopting: bool,
    /// Whether entries were adopted, or begun to be, at any time.
    pub has_adopted: bool,
    /// Whether it is of an unmapping.
    pub unmaps: bool,
}

impl Tree {
    /// Looks at a directory.
    pub(super) fn of(survey: &Survey, path: &Path) -> io::Result<Self> {
        let (path, here) = survey.directory(path)?;
        let root = open(&here)?;
        let said = said(survey, &path, &root);
        Ok(Self { path, here, said })
    }

    /// What its journal tells, if it can be relied on.
    pub(super) fn told(&self) -> Option<&Told> {
        match &self.said {
            Said::Journal(told) => Some(told),
            _ => None,
        }
    }

    /// One of which that is said.
    #[cfg(test)]
    pub(super) fn with(path: PathBuf, said: Said) -> Self {
        Self { here: path.clone(), path, said }
    }

    /// Looks at its first entries.
    pub(super) fn sample(&self, model: Option<Model>) -> io::Result<Sample> {
        Ok(Sample::of(open(&self.here)?.into(), model)?)
    }
}

fn open(directory: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(directory)
}

fn said(survey: &Survey, path: &Path, root: &File) -> Said {
    let mark = match Mark::of_export(root.as_fd()) {
        Ok(mark) => mark,
        Err(error) => return Said::Doubt(format!("{error:#}")),
    };
    let beside = default_path(path);
    let journal = match beside_or_elsewhere(survey, &beside, root) {
        Ok(Some(found)) => found,
        Ok(None) => {
            return mark.map_or(Said::Nothing, |mark| {
                Said::Doubt(format!(
                    "it is marked as {} by the journal {}, which is not at {}: if the journal is elsewhere, `migrate verify --journal` \
                     says more",
                    mark.stage.name(),
                    mark.id,
                    escape_path(&beside)
                ))
            });
        }
        Err(error) => return Said::Doubt(format!("the journal {}: {error}", escape_path(&beside))),
    };
    let (named, here) = journal;
    match Journal::of_export_to_read(&here, root.as_fd()) {
        Ok(Some(journal)) => {
            let begin = journal.begin();
            Said::Journal(Told {
                journal: named,
                stage: journal.stage(),
                model: begin.security_model.clone(),
                owner: (begin.uid, begin.gid),
                begun: begin.at,
                converted: journal.converted_at(),
                is_adopting: journal.adopting().is_some(),
                has_adopted: journal.has_adopted(),
                unmaps: begin.unmaps,
            })
        }
        Ok(None) => Said::Nothing,
        Err(error) => Said::Doubt(survey.as_on_host(&format!("{error:#}"))),
    }
}

/// The journal beside an export, as the host names it and where it is here; else the one beside another name of the same directory.
fn beside_or_elsewhere(
    survey: &Survey,
    beside: &Path,
    root: &File,
) -> io::Result<Option<(PathBuf, PathBuf)>> {
    if let Some(here) = survey.file(beside)? {
        return Ok(Some((beside.to_owned(), here)));
    }
    let own = root.metadata()?;
    for other in &survey.journaled {
        let Ok((_, here)) = survey.directory(other) else { continue };
        let is_same = here.metadata().is_ok_and(|it| (it.dev(), it.ino()) == (own.dev(), own.ino()));
        let journal = default_path(other);
        if is_same && let Some(here) = survey.file(&journal)? {
            return Ok(Some((journal, here)));
        }
    }
    Ok(None)
}

/// Seconds since 1970 as RFC 3339.
pub(super) fn time(seconds: u64) -> String {
    rfc3339(
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH),
    )
}

/// When what a journal tells of was done.
pub(super) fn since(told: &Told) -> String {
    time(told.converted.unwrap_or(told.begun))
}
