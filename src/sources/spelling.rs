//! The way back: new text into a file, with the escapes that its place there needs.

use std::ops::Range;

use super::chars::{Char, LEVELS, Word, bytes, unknown_parts};
use super::quote_style::QuoteStyle;
use super::templates::{is_positional, steers};
use crate::share::argv::Splice;
use crate::share::rewrite::Edit;

/// The edits of `file` by which `word`'s value changes as `splices` say. All else keeps its spelling.
pub(super) fn respell(file: &[u8], word: &Word, splices: &[Splice]) -> Result<Vec<Edit>, String> {
    splices.iter().map(|splice| respell_one(file, word, splice)).collect()
}

fn respell_one(file: &[u8], word: &Word, splice: &Splice) -> Result<Edit, String> {
    let Range { start, end } = splice.range.clone();
    let Some(old) = word.chars.get(start..end) else {
        return Err("it changed meanwhile".to_owned());
    };
    let (Some(first), Some(last)) = (old.first(), old.last()) else {
        return insert(file, word, start, &splice.with);
    };
    for part in unknown_parts(old) {
        let text = bytes(old.get(part).unwrap_or_default());
        if is_positional(&text) {
            let text = crate::text::escape(&text).into_owned();
            if first.spelt.is_unit() {
                return Err(format!(
                    "{text} is another text in each instance of this template unit, and so may be the directory: where it is, write it with \
                     what tells the instances apart, path=/srv/%i for example; where all have one, write that"
                ));
            }
            return Err(format!("{text} takes an argument of the call that fills this text in"));
        }
        if steers(&text) {
            return Err("a template's condition or loop is a part of it".to_owned());
        }
    }
    // The outermost place that holds all of it and nothing else: where a variable is used, else where it is set.
    let mut refusal = String::new();
    for level in 0..LEVELS {
        if let Err(reason) = whole_at(level, &word.chars, start..end, &splice.with) {
            refusal = reason;
            continue;
        }
        return replace(file, word, splice, level, (first, last));
    }
    Err(refusal)
}

/// Whether the text `range` of `chars`, at one level, is spelt in one piece that holds nothing else.
fn whole_at(level: usize, chars: &[Char], range: Range<usize>, with: &[u8]) -> Result<(), String> {
    let old = chars.get(range.clone()).unwrap_or_default();
    let torn = |c: &Char| {
        let Some(via) = c.expansion(level) else { return false };
        let same = |other: &Char| {
            other.expansion(level).is_some_and(|other| (other.start, other.end) == (via.start, via.end))
        };
        via.several || chars.iter().enumerate().any(|(at, other)| same(other) && !range.contains(&at))
    };
    // What one piece of the file spells goes as a whole, too.
    let joined = |a: Option<usize>, b: usize| {
        let place = |at: usize| chars.get(at).map(|c| c.place(level).0);
        a.is_some_and(|a| place(a).is_some() && place(a) == place(b))
    };
    let cut = joined(range.start.checked_sub(1), range.start) || joined(range.end.checked_sub(1), range.end);
    if cut || old.iter().any(torn) {
        return Err("a variable holds only a part of it".to_owned());
    }
    // Where the text goes into the variable's own definition; at its place in the word it gets escapes.
    if level > 0 && old.iter().any(|c| c.splits) && with.iter().any(|byte| b" \t\n*?[".contains(byte)) {
        return Err("the shell would split the new text, for the variable stands without quotes".to_owned());
    }
    let disorder = |pair: &[Char]| match pair {
        [a, b] => {
            let (a, b) = (a.place(level).0, b.place(level).0);
            a != b && a.end > b.start
        }
        _ => false,
    };
    if old.windows(2).any(disorder) {
        return Err("its parts stand in another order in the file".to_owned());
    }
    Ok(())
}

/// The edit at a level at which the text is whole.
fn replace(
    file: &[u8],
    word: &Word,
    splice: &Splice,
    level: usize,
    (first, last): (&Char, &Char),
) -> Result<Edit, String> {
    let end = splice.range.end;
    let (from, from_spelt) = first.place(level);
    let (to, to_spelt) = last.place(level);
    let mut with = newline_as_file(file, &word.chars, from_spelt.spell(&splice.with)?, from_spelt);
    let mut span = from.start..to.end;
    if from_spelt != to_spelt {
        let (Some((_, close)), Some((open, closes))) = (from_spelt.quotes(), to_spelt.quotes()) else {
            return Err("its quotes are beyond this program".to_owned());
        };
        with.extend(close.bytes());
        let next = word.chars.get(end).map(|c| c.place(level).0.start);
        let gap = file.get(span.end..next.unwrap_or(word.span.end)).unwrap_or_default();
        if !closes.is_empty() && gap.starts_with(closes.as_bytes()) {
            span.end += closes.len();
        } else {
            with.extend(open.bytes());
        }
    }
    Ok(Edit { span, with })
}

/// New text before the byte `at` of `word`.
fn insert(file: &[u8], word: &Word, at: usize, with: &[u8]) -> Result<Edit, String> {
    let before = at.checked_sub(1).and_then(|at| word.chars.get(at));
    let after = word.chars.get(at);
    // The end of an expansion is no place of its own: the text after it is.
    let ends = |c: &Char, d: &Char| c.via() != d.via() && d.via().is_none();
    let (at, spelt) = match (before, after) {
        // Inside a variable that is made of others, the text would go into one of those.
        (Some(c), _) if c.is_nested() => {
            return Err("a variable holds only a part of it".to_owned());
        }
        (Some(c), Some(d)) if c.via().is_some() && ends(c, d) => (d.start as usize, d.spelt),
        (Some(c), None) if c.via().is_some_and(|via| !via.several) => {
            let (range, spelt) = c.place(0);
            (range.end, spelt)
        }
        (Some(c), _) => (c.end as usize, c.spelt),
        (None, Some(c)) => (c.start as usize, c.spelt),
        (None, None) => return Err("it is empty".to_owned()),
    };
    Ok(Edit { span: at..at, with: newline_as_file(file, &word.chars, spelt.spell(with)?, spelt) })
}

/// Gives the new lines of a block the indentation of the old ones.
fn newline_as_file(file: &[u8], text: &[Char], with: Vec<u8>, spelt: QuoteStyle) -> Vec<u8> {
    let newline = text.iter().find(|c| c.byte == b'\n' && c.end - c.start > 1);
    match newline.and_then(|c| file.get(c.range())) {
        Some(indented)
            if spelt == QuoteStyle::YamlBlock
                || spelt == QuoteStyle::Verbatim
                || spelt == QuoteStyle::Heredoc =>
        {
            with.iter()
                .flat_map(|byte| if *byte == b'\n' { indented } else { std::slice::from_ref(byte) })
                .copied()
                .collect()
        }
        _ => with,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::chars::{through, verbatim};
    use crate::sources::expansions::Expansion;

    #[test]
    fn each_place_has_its_escapes() {
        for (spelt, text, spelling) in [
            (QuoteStyle::ShellBare, "/my srv", r"/my\ srv"),
            (QuoteStyle::ShellSingle, "it's", r"it'\''s"),
            (QuoteStyle::ShellDouble, "a$b\"c", r#"a\$b\"c"#),
            (QuoteStyle::UnitBare, "50% of $x y", r"50%%\x20of\x20$$x\x20y"),
            (QuoteStyle::YamlSingle, "it's", "it''s"),
            (QuoteStyle::YamlDouble, "a\"\t", r#"a\"\u0009"#),
        ] {
            assert_eq!(spelt.spell(text.as_bytes()).unwrap(), spelling.as_bytes(), "{spelt:?}");
        }
        assert!(QuoteStyle::YamlFlow.spell(b"a,b").is_err());
        assert!(QuoteStyle::YamlPlain.spell(b"a: b").is_err());
        assert!(QuoteStyle::ShellBare.spell(b"a\nb").is_err());
    }

    #[test]
    fn a_quote_that_ends_with_the_text_goes_with_it() {
        let file = br#"socket="/a",ro"#;
        let mut chars = verbatim(file, 0..7, QuoteStyle::ShellBare);
        chars.extend(verbatim(file, 8..10, QuoteStyle::ShellDouble));
        chars.extend(verbatim(file, 11..14, QuoteStyle::ShellBare));
        let word = Word { chars, span: 0..14 };
        let splice = Splice { range: 0..9, with: b"path=/b".to_vec() };
        let edit = respell_one(file, &word, &splice).unwrap();
        assert_eq!((edit.span, edit.with), (0..11, b"path=/b".to_vec()));
    }

    #[test]
    fn a_whole_expansion_is_replaced_where_it_is_used() {
        let file = b"S=/a;socket=$S";
        let splits = |c: Char| Char { splits: true, ..c };
        let via = Expansion { start: 12, end: 14, spelt: QuoteStyle::ShellBare, several: false };
        let mut chars = verbatim(file, 5..12, QuoteStyle::ShellBare);
        chars.extend(through(verbatim(file, 2..4, QuoteStyle::ShellBare), via).into_iter().map(splits));
        let word = Word { chars, span: 5..14 };
        let edit = respell_one(file, &word, &Splice { range: 0..9, with: b"path=/b c".to_vec() }).unwrap();
        assert_eq!((edit.span, edit.with), (5..14, br"path=/b\ c".to_vec()));
    }
}
