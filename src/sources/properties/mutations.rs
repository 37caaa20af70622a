//! Whatever else a file says, a rewrite changes the share's own words alone.
//!
//! The texts around the shares of [`super::templates::FORMS`] are changed at random: bytes go, come, are doubled, and pieces of
//! other formats come in. `VIRTFS_MUTATIONS` sets the number of cases.

use std::ops::Range;
use std::path::Path;

use proptest::prelude::*;

use super::templates::{EXPRESSIONS, FORMS, OPTIONS};
use crate::share::Transport;
use crate::share::rewrite::Rewrite;
use crate::sources::registry::recognise_named;
use crate::sources::{Document, proved};

/// What comes in: what quotes, ends, comments, opens and closes in one format or another.
const PIECES: &[&str] = &[
    "'",
    "\"",
    "`",
    "\\",
    "\n",
    "\r\n",
    "\t",
    " ",
    "  ",
    "$",
    "$x",
    "${x}",
    "$(x)",
    "{{ x }}",
    "{% x %}",
    "<%= x %>",
    "#",
    "# x\n",
    "//",
    "/*",
    "*/",
    "<!--",
    "-->",
    "--",
    ";",
    "&",
    "&amp;",
    "|",
    "&&",
    "<",
    ">",
    "<<EOF\n",
    "EOF\n",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    ": ",
    "- ",
    "=",
    "''",
    "\"\"\"",
    "%",
    "%%",
    "%i",
    "@",
    "~",
    "!",
    "*x",
    "&x ",
    "? ",
    "---\n",
    "...\n",
    "[Service]\n",
    "ExecStart=",
    "args: ",
    "-device virtio-9p-pci,fsdev=n,mount_tag=n ",
    "-virtfs local,path=/p,mount_tag=l,security_model=none ",
    "qemu ",
    "if x; then ",
    "fi\n",
    "case x in ",
    "esac\n",
    "f() {\n",
    "x=",
    "x=(",
    "\u{feff}",
    "\u{e9}",
    "\0",
    "proxy",
    "readonly=on",
];

/// A change of a text: what, where in thousandths, and how long.
type Change = (u8, u16, u8, usize);

/// Makes the changes in a text, on boundaries of its characters.
fn changed(text: &str, changes: &[Change]) -> String {
    let mut text = text.to_owned();
    for (kind, place, length, piece) in changes {
        let boundary =
            |at: usize| (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let at = boundary(text.len() * usize::from(*place) / 1000);
        let end = boundary((at + usize::from(*length)).min(text.len()));
        let own = text.get(at..end).unwrap_or_default().to_owned();
        match kind {
            0 => text.replace_range(at..end, ""),
            1 => text.insert_str(at, &own),
            2 => text.replace_range(at..end, PIECES[piece % PIECES.len()]),
            _ => text.insert_str(at, PIECES[piece % PIECES.len()]),
        }
    }
    text
}

/// Rewrites a text, and says whether that was done. Nothing but the option string between `before` and `behind` may change.
fn is_rewritten(name: &str, before: &str, option: &str, behind: &str, hidden: &Range<usize>) -> bool {
    let text = format!("{before}{option}{behind}");
    let document = Document { path: Some(Path::new(name)), bytes: text.as_bytes() };
    let Some(format) = recognise_named(&document) else { return false };
    let Ok(reading) = format.read(&document) else { return false };
    let [share] = reading.shares.as_slice() else { return false };
    // What comes behind may have become a part of the option string.
    let is_own = match &share.transport {
        Transport::Socket(socket) => option.contains(&*socket.to_string_lossy()),
        Transport::Unknown(text) => option.contains(&*String::from_utf8_lossy(text)),
        Transport::Fd(_) => false,
    };
    if !is_own || share.fsdev != b"n" {
        return false;
    }
    let mut how =
        Rewrite { in_place_args: true, readonly: vec![(b"n".to_vec(), true)], ..Rewrite::default() };
    how.exports = vec![(b"n".to_vec(), "/srv/n".into())];
    let Ok(done) = proved::rewrite(format, &document, &reading.shares, &how, None, &|_| Vec::new()) else {
        return false;
    };
    let own = before.len()..before.len() + option.len();
    let hidden = own.start + hidden.start..own.start + hidden.end;
    for edit in &done.edits.edits {
        assert!(own.start <= edit.span.start && edit.span.end <= own.end, "{name} {text:?}: {edit:?}");
        let apart = edit.span.end <= hidden.start || edit.span.start >= hidden.end;
        assert!(
            apart || edit.span.start <= hidden.start && edit.span.end >= hidden.end,
            "{name} {text:?} is cut: {edit:?}"
        );
    }
    let new = String::from_utf8(done.text).unwrap();
    assert!(new.starts_with(before) && new.ends_with(behind), "{text:?} {new:?}");
    !done.edits.edits.is_empty()
}

fn cases() -> u32 {
    std::env::var("VIRTFS_MUTATIONS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    proptest::collection::vec((0..5_u8, 0..1000_u16, 1..24_u8, any::<usize>()), 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_beside_a_share_changes(
        form in 0..FORMS.len(),
        option in 0..OPTIONS.len(),
        expression in 0..=EXPRESSIONS.len(),
        early in changes(),
        late in changes(),
        other in proptest::option::of((0..FORMS.len(), any::<bool>())),
    ) {
        let (name, before, behind) = FORMS[form];
        let expression = EXPRESSIONS.get(expression).copied().unwrap_or_default();
        let at = OPTIONS[option].find("@@").unwrap();
        let option = OPTIONS[option].replace("@@", expression);
        // What parts the option string from the rest stays, else it would be another one.
        let (early_text, gap) = before.split_at(before.len() - 2);
        let (end, late_text) = behind.split_at(behind.find([' ', '\n', '>', ']']).map_or(1, |at| at + 1));
        let mut before = changed(early_text, &early) + gap;
        let mut behind = end.to_owned() + &changed(late_text, &late);
        // Another file's text, with a share that moved, before or behind.
        if let Some((other, first)) = other {
            let (_, open, close) = FORMS[other];
            let piece = format!("{open}local,id=l,path=/l,security_model=none{close}");
            if first { before.insert_str(0, &piece) } else { behind.push_str(&piece) }
        }
        is_rewritten(name, &before, &option, &behind, &(at..at + expression.len()));
    }
}

/// The cases above say something: without a change, every form is rewritten.
#[test]
fn unchanged_forms_are_rewritten() {
    for (name, before, behind) in FORMS {
        assert!(is_rewritten(name, before, "proxy,id=n,socket=/run/a", behind, &(0..0)), "{name} {before}");
    }
}
