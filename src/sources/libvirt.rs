//! libvirt's domain XML, and the wrappers that hold one: the state of a running guest, snapshots, checkpoints,
//! backups, saved images.
//!
//! libvirt never had an element for the proxy backend: its users pass QEMU's own arguments, in
//! `<qemu:commandline>`. A rewrite takes them out and says the share as `<filesystem>`; where libvirt can't say it
//! so, and in what can't gain an element, the argument itself changes.

#![forbid(unsafe_code)]

mod address;
mod arguments;
mod confinement;
mod file;
mod glance;
mod layout;
mod local;
mod memory;
mod rewrite;
mod spelling;

use std::path::Path;

use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::mention::can_hold;
use crate::report::finding::{self, Finding};
use crate::share::argv::{self, ArgvShare};
use crate::share::backend::Backend;
use crate::share::rewrite::{Edits, Refusal, Rewrite};
use crate::share::{Note, Place};
use crate::text::escape;
use arguments::Domain;
pub(super) use arguments::Holder;
pub(super) use confinement::{of_host as confinement_of_host, relabel};
use file::File;
pub(super) use file::is_saved_image;
pub(super) use local::filesystems;

/// Domain XML and its wrappers.
pub struct Libvirt;

/// What a document is to libvirt.
#[derive(Debug)]
pub(super) struct Held {
    /// What holds the domain.
    pub holder: Holder,
    /// The domain's name.
    pub domain: Option<Vec<u8>>,
    /// The name of what holds it: the snapshot's or the checkpoint's.
    pub name: Option<Vec<u8>>,
}

impl Format for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn recognises(&self, document: &Document) -> bool {
        file::recognises(document)
    }

    fn read_beside(&self, document: &Document, _beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        let file = File::open(document.bytes)?;
        if Backend::sought() == Backend::Proxy && glance::holds_nothing(file.text.as_bytes()) {
            return Ok(Reading::default());
        }
        let mut reading = Reading::default();
        let parts = file.documents();
        let mut broken = Vec::new();
        for part in &parts {
            if let Err(error) = read_one(document, part, &mut reading) {
                broken.push((error, part));
            }
        }
        if broken.len() == parts.len() {
            return broken.into_iter().next().map_or(Ok(reading), |(error, _)| Err(error));
        }
        // What can hold nothing is not unread.
        let telling = broken.into_iter().filter(|(_, part)| can_hold(part.text.as_bytes()));
        reading.unread = telling.map(|(error, _)| error).collect();
        Ok(reading)
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        let file = File::open(document.bytes).map_err(mend)?;
        let mut edits = Edits::default();
        for part in file.documents() {
            rewrite_one(document, &part, how, beside, &mut edits)?;
        }
        file.close(&mut edits.edits)?;
        Ok(edits)
    }
}

/// Reads one document of a file.
fn read_one(document: &Document, file: &File, reading: &mut Reading) -> Result<(), Unreadable> {
    let xml = file.parse()?;
    for domain in arguments::domains(file, &xml) {
        let generated = is_runtime(document.path, domain.holder);
        for mut found in argv::shares(&domain.args) {
            found.share.place = place(document, &domain, &found);
            if generated {
                found.share.notes.push(Note::Generated);
                reading.findings.push(generated_finding(&domain, found.share.place.clone()));
            }
            reading.shares.push(found.share);
        }
    }
    Ok(())
}

/// Rewrites one document of a file.
fn rewrite_one(
    document: &Document,
    file: &File,
    how: &Rewrite,
    beside: Option<&dyn Beside>,
    edits: &mut Edits,
) -> Result<(), Refusal> {
    let xml = file.parse().map_err(mend)?;
    for domain in arguments::domains(file, &xml) {
        let shares = argv::shares(&domain.args);
        let Some(first) = shares.first() else { continue };
        if is_runtime(document.path, domain.holder) {
            let line = first.share.place.line;
            return Err(Refusal::at(line, "libvirt writes this file itself", runtime_remedy(&domain)));
        }
        let first_line = first.share.place.line;
        let wanted: Vec<_> = shares.into_iter().filter(|share| how.wants(&share.share)).collect();
        let mut found = match how.look {
            Some(look) => rewrite::look(file, &domain, &wanted, how, look.native, beside),
            None => rewrite::domain(file, &domain, &wanted, how, beside)?,
        };
        if domain.holder == Holder::Stylesheet
            && found.edits.iter().any(|edit| edit.with.iter().any(|byte| b"{}".contains(byte)))
        {
            let message = "a brace in the directory's name would be an expression of the stylesheet";
            return Err(Refusal::at(first_line, message, "give the directory another name"));
        }
        for moved in &mut found.moved {
            moved.share.place.file = document.path.map(Path::to_owned);
        }
        for finding in &mut found.findings {
            // Those about libvirt's own files name these.
            if finding.place.file.is_none() {
                finding.place.file = document.path.map(Path::to_owned);
            }
        }
        edits.edits.append(&mut found.edits);
        edits.moved.append(&mut found.moved);
        edits.findings.append(&mut found.findings);
    }
    Ok(())
}

fn mend(error: Unreadable) -> Refusal {
    Refusal::at(error.line, error.reason, "mend the file first")
}

/// What a document is to libvirt; `None` where it holds no domain.
pub(super) fn held(document: &Document) -> Option<Held> {
    let file = File::open(document.bytes).ok()?;
    let xml = file.parse().ok()?;
    let domains = arguments::domains(&file, &xml);
    let first = domains.first()?;
    let own = arguments::elements(xml.root_element(), "name").next().and_then(|name| name.text());
    Some(Held {
        holder: first.holder,
        domain: first.name.clone(),
        name: own.map(|name| name.trim().as_bytes().to_vec()),
    })
}

/// Whether libvirt keeps a file for itself while a guest runs.
fn is_runtime(path: Option<&Path>, holder: Holder) -> bool {
    holder == Holder::Status
        || path.is_some_and(|path| path.starts_with("/run/libvirt") || path.starts_with("/var/run/libvirt"))
}

fn runtime_remedy(domain: &Domain) -> String {
    let name = domain.name.as_deref().map_or("NAME".into(), escape);
    format!(
        "rewrite the guest's lasting configuration instead, `virsh dumpxml --inactive --security-info {name}`, and \
         shut the guest down and start it"
    )
}

fn generated_finding(domain: &Domain, place: Place) -> Finding {
    let name = domain.name.as_deref().map_or("without a name".into(), escape);
    Finding {
        kind: &finding::GENERATED_FILE,
        place,
        message: format!("libvirt writes this file itself while the guest {name} runs"),
        remedy: Some(runtime_remedy(domain)),
        subject: None,
    }
}

fn place(document: &Document, domain: &Domain, found: &ArgvShare) -> Place {
    Place { file: document.path.map(Path::to_owned), guest: domain.name.clone(), ..found.share.place.clone() }
}

#[cfg(test)]
mod tests;
