//! A host as `migrate status` looks at it: its shares over the proxy and over the local backend, and the journals of conversions.

use std::io;
use std::path::{Path, PathBuf};

use super::host::{Host, Kind, why};
use super::judge::Judge;
use super::local;
use super::look::{look, running};
use super::options::AuditArgs;
use super::scan::Scan;
use crate::report::audit::{AuditDocument, UnreadRow};
use crate::report::formats::AuditFormat;
use crate::report::rows;
use crate::share::Share;

/// What was found on a host.
#[derive(Debug)]
pub(crate) struct Survey {
    /// What `migrate audit` says.
    pub audit: AuditDocument,
    /// Shares over the local backend, in files and in running QEMUs.
    pub local: Vec<Share>,
    /// The directories beside which there are journals of conversions.
    pub journaled: Vec<PathBuf>,
    host: Host,
}

/// Looks at the files and folders `paths`, or at all of the machine, its processes included, where there are none; at the host
/// whose file system is mounted at `root`.
pub(crate) fn survey(paths: &[PathBuf], root: Option<&Path>) -> anyhow::Result<Survey> {
    let args = AuditArgs {
        paths: paths.to_vec(),
        root: root.map(Path::to_owned),
        format: AuditFormat::Text,
        output: None,
        qemu: None,
        exit_zero: false,
        schema: false,
    };
    let mut audit = look(&args)?;
    let found = local::look(&audit.host, &audit.roots, !paths.is_empty());
    for (file, reason) in found.unread {
        let row = UnreadRow { file: Some(rows::path(&file)), reason };
        if audit.document.unread.iter().all(|other| other.is_ok_and(|other| other.file != row.file)) {
            audit.document.add_unread(&row);
        }
    }
    Ok(Survey {
        audit: audit.document,
        local: found.shares.into_iter().chain(audit.running).collect(),
        journaled: found.journals.iter().filter_map(|journal| local::export_of(journal)).collect(),
        host: audit.host,
    })
}

/// The shares of the QEMUs and the helpers that run on this host, as an audit of all of it has them. Of the files only those are read
/// that a QEMU has its configuration from.
pub(crate) fn running_now() -> anyhow::Result<AuditDocument> {
    let host = Host::new(None)?;
    let mut scan = Scan::default();
    let processes = running(&host, &mut scan)?;
    Ok(Judge::new(None, Vec::new(), false, None).document(&host, scan, processes)?)
}

impl Survey {
    /// A directory as the host names it, free of symbolic links, and as this program reaches it.
    pub(crate) fn directory(&self, path: &Path) -> io::Result<(PathBuf, PathBuf)> {
        if self.host.kind(path, true)? != Kind::Folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let path = self.host.canonical(path)?;
        let here = self.host.here(&path);
        Ok((path, here))
    }

    /// Why something can't be read, for people.
    pub(crate) fn why(error: &io::Error) -> String {
        why(error)
    }

    /// A message about files here, with the names that they have on the host.
    pub(crate) fn as_on_host(&self, message: &str) -> String {
        let prefix = self.host.here(Path::new("/"));
        let prefix = rows::path(&prefix);
        match prefix.trim_end_matches('/') {
            "" => message.to_owned(),
            prefix => message.replace(prefix, ""),
        }
    }

    /// A regular file of the host as this program reaches it; `None` where there is none.
    pub(crate) fn file(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        match self.host.kind(path, true) {
            Ok(Kind::File) => Ok(Some(self.host.here(&self.host.canonical(path)?))),
            Ok(_) => Err(io::Error::other("it is not a regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The directory of a share over the local backend; `None` where it is not known.
pub(crate) fn directory_of(share: &Share) -> Option<&Path> {
    local::directory(share)
}
