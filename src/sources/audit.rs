//! `migrate audit`: every proxy setup of a host, joined and judged.

mod host;
mod judge;
mod places;
mod progress;
mod qemu;
mod rewritable;
mod scan;
mod walk;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Document;
use crate::cli::AuditArgs;
use crate::exit::Outcome;
use crate::report::audit::AuditDocument;
use crate::report::{exit_zero, print, print_schema};
use host::Host;
use judge::Judge;
use progress::Progress;
pub use qemu::Version;
use scan::Scan;

/// Runs it.
pub fn run(args: &AuditArgs) -> anyhow::Result<Outcome> {
    if args.schema {
        print_schema::<AuditDocument>()?;
        return Ok(Outcome::Clean);
    }
    let document = audit(args)?;
    print(&document, args.format)?;
    Ok(exit_zero(document.outcome(), args.exit_zero))
}

/// Looks at everything that the arguments ask for.
fn audit(args: &AuditArgs) -> anyhow::Result<AuditDocument> {
    let host = Host::new(args.root.as_deref())?;
    let progress = Progress::new();
    let everything = args.paths.is_empty();
    let (standard_input, named): (Vec<_>, Vec<_>) = args.paths.iter().partition(|path| is_dash(path));
    let roots = if everything { places::usual(&host) } else { absolute(&host, &named)? };
    let mut scan = scan::scan(&host, &roots, !everything, &progress);
    if !standard_input.is_empty() {
        read_standard_input(&mut scan)?;
    }
    progress.doing("looking for QEMU");
    let installed = qemu::installed(&host, !everything);
    progress.finish();
    Ok(Judge::new(args.qemu.clone(), installed, everything).document(scan))
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

fn read_standard_input(scan: &mut Scan) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let limit = host::MAX_FILE + 1;
    std::io::stdin().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 == limit {
        let reason = format!("it is longer than {} MiB", host::MAX_FILE >> 20);
        scan.unread.push((None, None, reason));
    } else {
        scan.document(&Document { path: None, bytes: &bytes });
    }
    Ok(())
}
