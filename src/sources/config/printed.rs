//! What surrounds QEMU, beside the shares that `--to` prints.

use std::collections::BTreeSet;

use super::super::format::{Beside, Document, Format};
use super::super::libvirt::{self, Libvirt};
use crate::report::finding::Finding;
use crate::share::Share;
use crate::share::bounds::bounded;
use crate::share::rewrite::{Edits, Look, Moved, Rewrite};
use crate::sources::config::options::Snippet;

/// What the surroundings mean for the shares of a document, which a form is to say.
pub(super) fn look(
    form: Snippet,
    format: &dyn Format,
    document: &Document,
    shares: &[Share],
    how: &Rewrite,
    beside: Option<&dyn Beside>,
) -> Edits {
    let of_libvirt = format.name() == Libvirt.name();
    let asked = Rewrite { look: Some(Look { native: form == Snippet::Libvirt }), ..how.clone() };
    let found = bounded(|| format.rewrite_beside(document, &asked, beside)).0;
    let mut edits = found.unwrap_or_else(|_| {
        // A form that is only listed says nothing of what is around it.
        let mut edits = Edits::default();
        for share in shares {
            edits.look(share, how);
        }
        edits
    });
    if form == Snippet::Libvirt && !of_libvirt {
        // libvirt is to start QEMU, and not what starts it now.
        let findings = beside.map(|beside| {
            let of_share = |moved: &Moved| libvirt::confinement_of_host(moved, beside);
            edits.moved.iter().flat_map(of_share).collect()
        });
        edits.findings = findings.unwrap_or_default();
        for moved in &mut edits.moved {
            moved.inside = None;
        }
    }
    edits
}

/// Says what the admin must see to.
pub(super) fn tell(findings: &[Finding]) {
    let mut said = BTreeSet::new();
    for finding in findings {
        let remedy = finding.remedy.as_ref().map(|remedy| format!(": {remedy}")).unwrap_or_default();
        let place = finding.location();
        let place = if place.is_empty() { place } else { format!("{place}: ") };
        let line = format!("{place}{}{remedy} [{}]", finding.message, finding.kind.id);
        if said.insert(line.clone()) {
            complain!("virtfs-proxy-helper: warning: {line}");
        }
    }
}
