//! A look at all that the arguments of an audit ask for.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::judge::Judge;
use super::options::AuditArgs;
use super::processes::Processes;
use super::progress::Progress;
use super::scan::Scan;
use crate::report::audit::AuditDocument;
use crate::report::origin::Origin;
use crate::report::rows::{bytes, path};
use crate::share::Share;

use super::host::{Host, MAX_FILE};
use super::{merge, named, places, processes, qemu, root_user, scan};

/// Why an audit ends that found more than it keeps in memory.
const CANNOT_READ_BACK: &str = "cannot read back what was found from a temporary file";

/// How many files may start each other, one after the other.
const MOST_STEPS: usize = 8;

/// A host's name and a kernel's release have fewer bytes.
const LONGEST_NAME: usize = 255;

/// An audit, and what it leaves for a look at other backends.
pub(super) struct Audit {
    pub document: AuditDocument,
    pub host: Host,
    /// The files and folders that were looked at.
    pub roots: Vec<PathBuf>,
    /// Shares of running QEMUs over the local backend.
    pub running: Vec<Share>,
}

/// Looks at everything that the arguments ask for.
pub(super) fn look(args: &AuditArgs) -> anyhow::Result<Audit> {
    let host = Host::new(args.root.as_deref())?;
    let origin = origin(&host);
    let progress = Progress::new();
    let everything = args.paths.is_empty();
    let (standard_input, named): (Vec<_>, Vec<_>) = args.paths.iter().partition(|path| is_dash(path));
    let roots = if everything { places::usual(&host) } else { absolute(&host, &named)? };
    // Who names the version needs no look at the programs.
    let wanted = everything || args.qemu.is_none();
    let (mut scan, installed) = std::thread::scope(|scope| {
        let programs = scope.spawn(|| if wanted { qemu::installed(&host, !everything) } else { Vec::new() });
        (scan::scan(&host, &roots, !everything, named::file, &progress), programs.join().unwrap_or_default())
    });
    if !standard_input.is_empty() {
        read_standard_input(&host, &mut scan)?;
    }
    let mut processes = Processes::default();
    let mut followed = Vec::new();
    if everything {
        progress.doing("looking at processes");
        processes = running(&host, &mut scan).context(CANNOT_READ_BACK)?;
        scan.started.extend(std::mem::take(&mut processes.started));
        followed = follow(&host, &roots, &mut scan, &progress).context(CANNOT_READ_BACK)?;
    }
    progress.finish();
    merge::find_users(&host, &roots, &mut scan).context(CANNOT_READ_BACK)?;
    if everything {
        scan.left_out.extend(places::not_read(&host, &roots));
        scan.left_out.sort();
    }
    let left_out = std::mem::take(&mut scan.left_out);
    let running = std::mem::take(&mut processes.local);
    let as_root = root_user::find(&host, &scan, &processes).context(CANNOT_READ_BACK)?;
    let judge = Judge::new(args.qemu.clone(), installed, everything, as_root);
    let mut document = judge.document(&host, scan, processes).context(CANNOT_READ_BACK)?;
    document.origin = origin;
    document.looked_in = roots.iter().map(|root| path(root)).collect();
    document.looked_in.extend((!standard_input.is_empty()).then(|| "-".to_owned()));
    document.followed = followed.iter().map(|file| path(file)).collect();
    document.left_out = left_out.iter().map(|folder| path(folder)).collect();
    let roots = roots.into_iter().chain(followed).collect();
    Ok(Audit { document, host, roots, running })
}

/// The audited host, and this audit. Below `--root` this machine's own name would be another host's.
fn origin(host: &Host) -> Origin {
    let name = if host.is_elsewhere() { "/etc/hostname" } else { "/proc/sys/kernel/hostname" };
    Origin {
        host_name: first_line(host, name),
        kernel: first_line(host, "/proc/sys/kernel/osrelease"),
        ..Origin::here()
    }
}

/// A small file's first line that is no comment.
fn first_line(host: &Host, file: &str) -> Option<String> {
    let content = host.read_small(Path::new(file))?;
    let mut lines = content.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"))?;
    Some(bytes(line.get(..LONGEST_NAME).unwrap_or(line)))
}

/// Reads what the files and the processes that were looked at start, wherever it is, and what that starts.
fn follow(host: &Host, roots: &[PathBuf], scan: &mut Scan, progress: &Progress) -> io::Result<Vec<PathBuf>> {
    let roots: Vec<_> =
        roots.iter().map(|root| host.canonical(root).unwrap_or_else(|_| root.clone())).collect();
    let mut seen = BTreeSet::new();
    for file in scan.readings.iter() {
        // What is below the roots is followed by nobody.
        seen.extend(file?.path.filter(|file| !roots.iter().any(|root| file.starts_with(root))));
    }
    let mut followed = Vec::new();
    for _ in 0..MOST_STEPS {
        let files = std::mem::take(&mut scan.started).files(host, &roots, &mut seen);
        if files.is_empty() {
            break;
        }
        scan.add(scan::scan(host, &files, false, named::file, progress));
        followed.extend(files);
    }
    scan.sort();
    followed.sort();
    Ok(followed)
}

/// Looks at the processes, and joins the shares of the files that they were started with.
pub(super) fn running(host: &Host, scan: &mut Scan) -> io::Result<Processes> {
    let (mut found, mut live) = processes::look(host);
    let wanted: BTreeSet<_> = found.configured.iter().map(|one| one.file.clone()).collect();
    if !wanted.is_empty() {
        let mut files = scan.take(|file| wanted.contains(file))?;
        let is_missing = |path: &PathBuf| !files.iter().any(|file| file.path.as_ref() == Some(path));
        let missing: Vec<_> = wanted.iter().filter(|path| is_missing(path)).cloned().collect();
        let mut others = scan::scan(host, &missing, true, named::file, &Progress::new());
        files.extend(others.take(|file| wanted.contains(file))?);
        scan.add(others);
        for configured in std::mem::take(&mut found.configured) {
            let read = files.iter_mut().find(|file| file.path.as_ref() == Some(&configured.file));
            let Some(file) = read else { continue };
            let alone = file.reading.shares.len() == 1;
            for share in &mut file.reading.shares {
                share.place.pid = Some(configured.pid);
                if share.place.guest.is_none() {
                    share.place.guest.clone_from(&configured.guest);
                }
                file.reading.findings.extend(live.join(share, alone));
            }
        }
        for file in &files {
            scan.readings.push(file);
        }
    }
    found.helpers = live.helpers();
    Ok(found)
}

fn is_dash(path: &Path) -> bool {
    path == Path::new("-")
}

fn absolute(host: &Host, paths: &[&PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        let path = host.absolute(path).with_context(|| format!("{} is no path", path.display()))?;
        all.push(path);
    }
    Ok(all)
}

fn read_standard_input(host: &Host, scan: &mut Scan) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let limit = MAX_FILE + 1;
    std::io::stdin().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 == limit {
        let reason = format!("it is longer than {} MiB", MAX_FILE >> 20);
        scan.not_read(None, reason);
    } else {
        named::content(scan, host, None, &bytes);
    }
    Ok(())
}
