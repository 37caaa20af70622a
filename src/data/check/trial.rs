//! `migrate check --as`, `--unit`, `--domain`, `--pid`: whether QEMU can use the export where it runs. It is tried, by a process of
//! its own that takes QEMU's user, groups, mount namespace and root.

mod attempt;
mod subject;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::time::TimeSpec;

use crate::data::labels;
use crate::data::options::CheckArgs;
use crate::report::finding::{self, Finding};
use crate::text;
use subject::{Subject, told};

pub(super) use attempt::run as attempt;

/// What a try says: a step, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    name: String,
    /// Empty: it worked.
    error: String,
}

/// Tries it, if the admin asks for that.
pub(super) fn findings(export: &Path, args: &CheckArgs) -> anyhow::Result<Vec<Finding>> {
    let Some(subject) = Subject::of(args)? else { return Ok(Vec::new()) };
    let export = export
        .canonicalize()
        .with_context(|| format!("cannot find the export '{}'", text::escape_path(export)))?;
    let mut all = subject.notes();
    let steps = subject.attempt(&export, args.read_only, None)?;
    let failed = steps.iter().find(|step| !step.error.is_empty());
    all.push(match failed {
        None => told(&finding::EXPORT_TRIED, done(&subject, args.read_only)),
        Some(step) => failure(&subject, &export, step, args)?,
    });
    all.extend(selinux(&export));
    Ok(all)
}

fn done(subject: &Subject, read_only: bool) -> String {
    let what = if read_only {
        "can enter and read the export"
    } else {
        "can enter and read the export, and write a file with user.* attributes in it"
    };
    format!("{subject} {what}: it was tried")
}

/// What a step that failed means: an export that is not converted yet belongs to others, and then a folder of that user's own
/// in it tells whether anything else is in the way.
fn failure(subject: &Subject, export: &Path, step: &Step, args: &CheckArgs) -> anyhow::Result<Finding> {
    let owner = fs::metadata(export).map(|metadata| (metadata.uid(), metadata.gid())).unwrap_or_default();
    let message = format!("{subject} can't {}: {}", step.name, step.error);
    let by_owner = step.error.contains("EACCES") && subject.uid != 0 && owner.0 != subject.uid;
    if args.read_only || !by_owner {
        return Ok(told(&finding::EXPORT_UNUSABLE, message));
    }
    let Some(scratch) = Scratch::new(export, subject)? else {
        return Ok(told(&finding::EXPORT_UNUSABLE, message));
    };
    let steps = subject.attempt(export, false, Some(&scratch.name))?;
    drop(scratch);
    Ok(match steps.iter().find(|step| !step.error.is_empty()) {
        None => told(
            &finding::EXPORT_USABLE_LATER,
            format!(
                "{message}, because the export belongs to {}:{}; in a folder of its own in it, it can",
                owner.0, owner.1
            ),
        ),
        // A folder in an export that this user can't enter can't be tried before the conversion.
        Some(second) if second.name == step.name && step.name.starts_with("enter the export") => told(
            &finding::EXPORT_USABLE_LATER,
            format!(
                "{message}, because the export belongs to {}:{}; more can't be tried yet",
                owner.0, owner.1
            ),
        ),
        Some(second) => {
            told(&finding::EXPORT_UNUSABLE, format!("{subject} can't {}: {}", second.name, second.error))
        }
    })
}

/// A folder in the export for the try, which goes with it. The export's own times stay.
struct Scratch<'a> {
    export: &'a Path,
    name: String,
    times: (TimeSpec, TimeSpec),
}

impl<'a> Scratch<'a> {
    /// `None`: not even this process can make one.
    fn new(export: &'a Path, subject: &Subject) -> anyhow::Result<Option<Self>> {
        let times = times_of(export)?;
        let Ok(folder) = tempfile::Builder::new().prefix(attempt::PREFIX).tempdir_in(export) else {
            return Ok(None);
        };
        let path = folder.keep();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let scratch = Self { export, name, times };
        std::os::unix::fs::chown(&path, Some(subject.uid), Some(subject.gid))
            .with_context(|| format!("giving {} to {subject}", text::escape_path(&path)))?;
        Ok(Some(scratch))
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let path = self.export.join(&self.name);
        if let Err(error) = fs::remove_dir_all(&path) {
            complain!("virtfs-proxy-helper: {} could not be removed: {error}", text::escape_path(&path));
        }
        let _ = utimensat(
            nix::fcntl::AT_FDCWD,
            self.export,
            &self.times.0,
            &self.times.1,
            UtimensatFlags::FollowSymlink,
        );
    }
}

fn times_of(export: &Path) -> anyhow::Result<(TimeSpec, TimeSpec)> {
    let metadata = fs::metadata(export)?;
    Ok((
        TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
        TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
    ))
}

/// Where SELinux is enforcing: an export of a type that guests may not use.
fn selinux(export: &Path) -> Option<Finding> {
    labels::unfit_selinux_type(export).map(|kind| {
        let kind = text::escape(kind.as_bytes()).into_owned();
        told(&finding::SELINUX_TYPE, format!("SELinux is enforcing here, and the export's type is {kind}"))
    })
}

impl Subject {
    /// Lets a process of its own try it. `scratch`: the folder in the export to write in, else the export.
    fn attempt(&self, export: &Path, read_only: bool, scratch: Option<&str>) -> anyhow::Result<Vec<Step>> {
        let (root, times) = (File::open(export)?, times_of(export)?);
        let program = std::env::current_exe().context("finding this program")?;
        let output = Command::new(program)
            .args(["migrate", "check", "--trial"])
            .arg(self.as_trial(read_only, scratch))
            .arg("--")
            .arg(export)
            .output()
            .context("starting the try")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let steps: Vec<Step> = said
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(name, error)| Step { name: name.to_owned(), error: error.to_owned() })
            .collect();
        anyhow::ensure!(
            output.status.success() && !steps.is_empty(),
            "the try as {self} could not be made: {}",
            text::escape(String::from_utf8_lossy(&output.stderr).trim().as_bytes())
        );
        if scratch.is_none() && steps.iter().any(|step| step.name.starts_with("make a file")) {
            // The scratch file came and went; what verify compares stays as it was.
            let _ = futimens(&root, &times.0, &times.1);
        }
        Ok(steps)
    }
}
