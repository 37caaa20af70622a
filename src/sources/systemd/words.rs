//! A setting's value → words, the way systemd takes it apart: quotes, C escapes, specifiers, variables.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::share::bounds::spend;
use crate::sources::chars::{Char, Chars, Lines, Word, offset, span, through};
use crate::sources::commands::{MAX_WORDS, TOO_MANY_WORDS};
use crate::sources::expansions::Expansion;
use crate::sources::format::Unreadable;
use crate::sources::quote_style::QuoteStyle;
use crate::sources::unit_names::unescape;

/// What stands in front of a program's path and says how it is run.
const PREFIXES: &[u8] = b"@-:+!|";

/// Settings for which systemd makes a folder, the variable that names it, and the specifier of where it is.
const DIRECTORIES: &[(&str, &str, u8)] = &[
    ("RuntimeDirectory", "RUNTIME_DIRECTORY", b't'),
    ("StateDirectory", "STATE_DIRECTORY", b'S'),
    ("CacheDirectory", "CACHE_DIRECTORY", b'C'),
    ("LogsDirectory", "LOGS_DIRECTORY", b'L'),
    ("ConfigurationDirectory", "CONFIGURATION_DIRECTORY", b'E'),
];

/// The unit around the words: what its specifiers and variables stand for.
pub(super) struct Unit {
    /// `%i`, for an instance.
    instance: Option<Vec<u8>>,
    /// `%p`.
    prefix: Vec<u8>,
    /// `%n`.
    name: Vec<u8>,
    /// Whether it belongs to the system's manager, whose folders are known.
    system: bool,
    variables: HashMap<Vec<u8>, Chars>,
    /// What other files set: text without a place in this one.
    foreign: HashMap<Vec<u8>, Vec<u8>>,
    /// Whether another file may set variables, too.
    doubtful: bool,
    /// Variables that another file sets in some cases.
    unsure: HashSet<Vec<u8>>,
}

impl Unit {
    /// The unit that `path` describes.
    pub(super) fn new(path: Option<&Path>) -> Self {
        let text = path.map(|path| path.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let file = text.rsplit('/').next().unwrap_or_default();
        let parent = text.rsplit('/').nth(1).unwrap_or_default();
        let name = parent.strip_suffix(".d").filter(|unit| unit.contains('.')).unwrap_or(file);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let (prefix, instance) = match stem.split_once('@') {
            Some((prefix, instance)) => (prefix, Some(instance).filter(|instance| !instance.is_empty())),
            None => (stem, None),
        };
        Self {
            instance: instance.map(|instance| instance.as_bytes().to_vec()),
            prefix: prefix.as_bytes().to_vec(),
            name: name.as_bytes().to_vec(),
            system: !text.contains("/user/"),
            variables: HashMap::new(),
            foreign: HashMap::new(),
            doubtful: false,
            unsure: HashSet::new(),
        }
    }

    /// Takes an `Environment=`.
    pub(super) fn environment(&mut self, file: &[u8], value: &[Char]) -> Result<(), Unreadable> {
        if value.iter().all(|c| c.byte.is_ascii_whitespace()) {
            self.clear_environment();
        }
        for word in self.words(file, value)? {
            let Some(equals) = word.chars.iter().position(|c| c.byte == b'=') else { continue };
            let name: Vec<u8> = word.chars.iter().take(equals).map(|c| c.byte).collect();
            self.foreign.remove(&name);
            self.variables.insert(name, word.chars.into_iter().skip(equals + 1).collect());
        }
        Ok(())
    }

    /// Takes an `Environment=` of another file of the unit's.
    pub(super) fn foreign_environment(&mut self, file: &[u8], value: &[Char]) {
        if value.iter().all(|c| c.byte.is_ascii_whitespace()) {
            self.clear_environment();
        }
        for word in self.words(file, value).unwrap_or_default() {
            let text = word.bytes();
            if let Some(equals) = text.iter().position(|byte| *byte == b'=') {
                let (name, value) = text.split_at(equals);
                self.foreign(name, value.get(1..).unwrap_or_default());
            }
        }
    }

    /// An empty `Environment=` takes back what was said before. What systemd itself sets stays.
    fn clear_environment(&mut self) {
        self.variables.clear();
        self.foreign.retain(|name, _| DIRECTORIES.iter().any(|(_, own, _)| own.as_bytes() == name));
    }

    /// Takes a variable of which nobody knows what it is in the end.
    pub(super) fn doubt(&mut self, name: Vec<u8>) {
        self.unsure.insert(name);
    }

    /// Takes a variable that another file sets.
    pub(super) fn foreign(&mut self, name: &[u8], value: &[u8]) {
        self.variables.remove(name);
        self.foreign.insert(name.to_vec(), value.to_vec());
    }

    /// Takes a `RuntimeDirectory=` or the like: systemd tells the program where it is.
    pub(super) fn directory(&mut self, key: &[u8], value: &[u8]) {
        let Some((_, variable, letter)) = DIRECTORIES.iter().find(|(name, ..)| name.as_bytes() == key) else {
            return;
        };
        let folders = value.split(u8::is_ascii_whitespace).filter(|name| !name.is_empty());
        let folders: Option<Vec<Vec<u8>>> = folders
            .map(|name| {
                let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
                Some([self.specifier(*letter)?, b"/".to_vec(), self.resolved(name)?].concat())
            })
            .collect();
        if let Some(folders) = folders.filter(|folders| !folders.is_empty()) {
            self.foreign(variable.as_bytes(), &folders.join(&b':'));
        }
    }

    /// A text with those of its specifiers resolved that don't depend on the instance.
    pub(super) fn resolved_in_part(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match (byte, bytes.as_slice().first()) {
                (b'%', Some(letter)) => {
                    match self.specifier(*letter) {
                        Some(value) => out.extend(value),
                        None => out.extend([b'%', *letter]),
                    }
                    bytes.next();
                }
                _ => out.push(*byte),
            }
        }
        out
    }

    /// A file's name with its specifiers resolved.
    pub(super) fn resolved(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut bytes = name.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => out.extend(self.specifier(*bytes.next()?)?),
                _ => out.push(*byte),
            }
        }
        Some(out)
    }

    /// The value of a variable, for an expansion that the file spells `spelling`.
    fn value(&self, name: &[u8], spelling: &[Char], several: bool) -> Option<Chars> {
        if self.doubtful || self.unsure.contains(name) {
            return None;
        }
        if let Some(value) = self.variables.get(name) {
            if !spend(size_of_val(value.as_slice())) {
                return None;
            }
            let via = via_of(spelling, several);
            return Some(through(value.iter().copied(), via));
        }
        let place = span(spelling);
        let spelt = spelling.first().map_or(QuoteStyle::Fixed, |c| c.spelt);
        let value = self.foreign.get(name)?;
        Some(value.iter().map(|byte| Char::new(*byte, place.clone(), spelt)).collect())
    }

    /// Another file may say otherwise.
    pub(super) fn doubt_environment(&mut self) {
        self.doubtful = true;
    }

    /// The variables' values as lists of words.
    pub(super) fn leftovers(&self) -> Vec<Vec<Word>> {
        self.variables.values().map(|chars| split(chars)).collect()
    }

    /// The words of a command line, variables put in. `key`: the setting; those of quadlets have no prefixes.
    pub(super) fn command_words(
        &self,
        file: &[u8],
        key: &[u8],
        value: &[Char],
    ) -> Result<Vec<Word>, Unreadable> {
        let mut words = self.words(file, value)?;
        let first = words.first_mut().filter(|_| key.starts_with(b"Exec") && key != b"Exec");
        let mut expands = true;
        if let Some(first) = first {
            let prefixes = first.chars.iter().take_while(|c| PREFIXES.contains(&c.byte)).count();
            let renamed = first.chars.iter().take(prefixes).any(|c| c.byte == b'@');
            // With `:`, systemd leaves every `$` as it is.
            expands = !first.chars.iter().take(prefixes).any(|c| c.byte == b':');
            first.chars.drain(..prefixes);
            if renamed && words.len() > 1 {
                words.remove(1);
            }
        }
        if !expands {
            return Ok(words);
        }
        Ok(words.into_iter().flat_map(|word| self.expand(word)).collect())
    }

    /// Takes a value apart; escapes and specifiers are resolved.
    pub(super) fn words(&self, file: &[u8], value: &[Char]) -> Result<Vec<Word>, Unreadable> {
        let mut words = Vec::new();
        let mut at = 0;
        loop {
            while value.get(at).is_some_and(|c| c.byte.is_ascii_whitespace()) {
                at += 1;
            }
            if at >= value.len() {
                return Ok(words);
            }
            if words.len() == MAX_WORDS {
                let place = value.get(at).map_or(0, |c| c.start as usize);
                let line = Some(Lines::new(file).line(place));
                return Err(Unreadable { line, reason: TOO_MANY_WORDS.to_owned() });
            }
            words.push(self.word(file, value, &mut at)?);
        }
    }

    fn word(&self, file: &[u8], value: &[Char], at: &mut usize) -> Result<Word, Unreadable> {
        let mut chars = Vec::new();
        let mut quote: Option<(u8, usize)> = None;
        let start = *at;
        while let Some(c) = value.get(*at) {
            match (c.byte, quote) {
                (byte, None) if byte.is_ascii_whitespace() => break,
                (b'\'' | b'"', None) => {
                    quote = Some((c.byte, *at));
                    *at += 1;
                }
                (byte, Some((open, _))) if byte == open => {
                    quote = None;
                    *at += 1;
                }
                (b'\\', _) => {
                    let (byte, width) = escape(value.get(*at + 1..).unwrap_or_default());
                    let last = value.get(*at + width).unwrap_or(c);
                    let range = c.start as usize..last.end as usize;
                    chars.push(Char::new(byte, range, spelt(quote)));
                    *at += width + 1;
                }
                _ => {
                    chars.push(Char { spelt: spelt(quote), ..*c });
                    *at += 1;
                }
            }
        }
        if let Some((_, open)) = quote {
            let at = value.get(open).map_or(0, |c| c.start as usize);
            let line = Some(Lines::new(file).line(at));
            return Err(Unreadable { line, reason: "the quote that opens here is not closed".to_owned() });
        }
        let span = span(value.get(start..*at).unwrap_or_default());
        Ok(Word { chars: self.with_specifiers(chars), span })
    }

    /// Puts in what specifiers stand for. systemd does so when escapes are resolved already, so `\x25i` is one.
    fn with_specifiers(&self, chars: Chars) -> Chars {
        if !chars.iter().any(|c| c.byte == b'%') {
            return chars;
        }
        let mut out = Vec::with_capacity(chars.len());
        let mut rest = chars.as_slice();
        while let Some((c, behind)) = rest.split_first() {
            rest = behind;
            if c.byte != b'%' {
                out.push(*c);
                continue;
            }
            let last = behind.first().unwrap_or(c);
            let range = c.start as usize..last.end as usize;
            match self.specifier(last.byte) {
                Some(text) => out.extend(text.iter().map(|byte| Char::new(*byte, range.clone(), c.spelt))),
                None => out.extend([c, last].map(|c| Char { known: false, ..*c })),
            }
            rest = behind.get(1..).unwrap_or_default();
        }
        out
    }

    fn specifier(&self, letter: u8) -> Option<Vec<u8>> {
        let folder = |path: &str| self.system.then(|| path.as_bytes().to_vec());
        match letter {
            b'%' => Some(b"%".to_vec()),
            b'i' => self.instance.clone(),
            b'I' => Some(unescape(self.instance.as_deref()?)),
            b'f' => {
                let unescaped = unescape(self.instance.as_deref().unwrap_or(&self.prefix));
                (!self.is_template() || self.instance.is_some())
                    .then(|| [b"/", unescaped.as_slice()].concat())
            }
            b'j' => Some(self.prefix.rsplit(|byte| *byte == b'-').next().unwrap_or_default().to_vec()),
            b'p' | b'P' if !self.prefix.is_empty() => Some(self.prefix.clone()),
            b'n' | b'N' if !self.prefix.is_empty() && (self.instance.is_some() || !self.is_template()) => {
                let stem = self.name.iter().rposition(|byte| *byte == b'.').unwrap_or(self.name.len());
                let end = if letter == b'n' { self.name.len() } else { stem };
                self.name.get(..end).map(<[u8]>::to_vec)
            }
            b't' => folder("/run"),
            b'S' => folder("/var/lib"),
            b'C' => folder("/var/cache"),
            b'L' => folder("/var/log"),
            b'E' => folder("/etc"),
            b'T' => folder("/tmp"),
            b'V' => folder("/var/tmp"),
            b'h' => folder("/root"),
            _ => None,
        }
    }

    fn is_template(&self) -> bool {
        self.name.contains(&b'@')
    }

    /// Puts variables in: `$NAME` as a word of its own makes words, `${NAME}` makes text.
    fn expand(&self, word: Word) -> Vec<Word> {
        let bytes = word.bytes();
        if let [b'$', name @ ..] = bytes.as_slice()
            && is_name(name)
        {
            if let Some(mut value) = self.value(name, &word.chars, true) {
                // A list of another file's can't be changed here.
                let list =
                    self.foreign.contains_key(name) && value.iter().any(|c| c.byte.is_ascii_whitespace());
                for c in &mut value {
                    c.splits = true;
                    c.spelt = if list { QuoteStyle::Fixed } else { c.spelt };
                }
                return split(&value);
            }
            let chars = word.chars.iter().map(|c| Char { known: false, ..*c }).collect();
            return vec![Word { chars, span: word.span }];
        }
        let mut chars = Vec::new();
        let mut at = 0;
        while let Some(c) = word.chars.get(at) {
            let rest = bytes.get(at..).unwrap_or_default();
            match rest {
                [b'$', b'$', ..] => {
                    let end = word.chars.get(at + 1).map_or(c.end, |next| next.end);
                    chars.push(Char { end, ..*c });
                    at += 2;
                }
                [b'$', b'{', ..] => {
                    let length = rest.iter().position(|byte| *byte == b'}').map_or(rest.len(), |end| end + 1);
                    let spelling = word.chars.get(at..at + length).unwrap_or_default();
                    let name = rest.get(2..length.saturating_sub(1)).unwrap_or_default();
                    match self.value(name, spelling, false) {
                        Some(value) => chars.extend(value),
                        None => chars.extend(spelling.iter().map(|c| Char { known: false, ..*c })),
                    }
                    at += length;
                }
                [b'$', next, ..] if next.is_ascii_alphabetic() || *next == b'_' => {
                    let name = rest.get(1..).unwrap_or_default();
                    let length =
                        1 + name.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
                    let spelling = word.chars.get(at..at + length).unwrap_or_default();
                    chars.extend(spelling.iter().map(|c| Char { known: false, ..*c }));
                    at += length;
                }
                _ => {
                    chars.push(*c);
                    at += 1;
                }
            }
        }
        vec![Word { chars, span: word.span }]
    }
}

fn via_of(spelling: &[Char], several: bool) -> Expansion {
    let place = span(spelling);
    let spelt = spelling.first().map_or(QuoteStyle::UnitBare, |c| c.spelt);
    Expansion { start: offset(place.start), end: offset(place.end), spelt, several }
}

fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

fn spelt(quote: Option<(u8, usize)>) -> QuoteStyle {
    match quote {
        Some((b'\'', _)) => QuoteStyle::UnitSingle,
        Some(_) => QuoteStyle::UnitDouble,
        None => QuoteStyle::UnitBare,
    }
}

fn split(chars: &[Char]) -> Vec<Word> {
    chars
        .split(|c| c.byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| Word::plain(word.to_vec()))
        .collect()
}

/// What the escape behind a backslash stands for, and how long it is.
fn escape(rest: &[Char]) -> (u8, usize) {
    let digit = |at: usize, radix| char::from(rest.get(at)?.byte).to_digit(radix);
    let number = |from: usize, count: usize, radix| {
        let digits: Option<Vec<u32>> = (from..from + count).map(|at| digit(at, radix)).collect();
        let value = digits?.into_iter().fold(0, |value, digit| value * radix + digit);
        u8::try_from(value).ok()
    };
    match rest.first().map(|c| c.byte) {
        Some(b'n') => (b'\n', 1),
        Some(b't') => (b'\t', 1),
        Some(b'r') => (b'\r', 1),
        Some(b's') => (b' ', 1),
        Some(b'x') => number(1, 2, 16).map_or((b'x', 1), |byte| (byte, 3)),
        Some(b'0'..=b'7') => number(0, 3, 8).map_or((b'0', 1), |byte| (byte, 3)),
        Some(byte) => (byte, 1),
        None => (b'\\', 0),
    }
}
