//! The changes beside the shares that `--in-place` makes.

use crate::share::rewrite::{Edit, Edits};

/// Those that are in no other change's way, each once. The others are told of, not made.
pub(super) fn apart(edits: &mut Edits) -> Vec<Edit> {
    let mut taken: Vec<Edit> = Vec::new();
    let shares = edits.edits.clone();
    edits.additions.retain(|addition| {
        let own = &addition.edit;
        let is_apart = |other: &Edit| {
            let (a, b) = (&own.span, &other.span);
            a.end < b.start
                || b.end < a.start
                || (a.is_empty() != b.is_empty() && (a.end == b.start || b.end == a.start))
        };
        // Two lines may be added at one place.
        let both_add = |other: &Edit| own.span.is_empty() && own.span == other.span;
        let fits = shares.iter().all(is_apart)
            && taken.iter().all(|other| other != own && (is_apart(other) || both_add(other)));
        if fits {
            taken.push(own.clone());
        }
        fits
    });
    taken
}
