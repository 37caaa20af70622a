//! How a file spells text: quoting styles, and how each spells new bytes.

/// How a file spells the text around a byte: what a new byte there must look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum QuoteStyle {
    /// As it is, the text itself.
    #[default]
    Verbatim,
    /// A shell's word without quotes.
    ShellBare,
    /// A shell's `'…'`.
    ShellSingle,
    /// A shell's `"…"`.
    ShellDouble,
    /// A shell's `$'…'`.
    ShellAnsi,
    /// A heredoc in which the shell expands.
    Heredoc,
    /// A unit's command line without quotes.
    UnitBare,
    /// A unit's `'…'`.
    UnitSingle,
    /// A unit's `"…"`.
    UnitDouble,
    /// YAML's plain style.
    YamlPlain,
    /// YAML's plain style inside `[…]` or `{…}`.
    YamlFlow,
    /// YAML's `'…'`.
    YamlSingle,
    /// YAML's `"…"`, and JSON.
    YamlDouble,
    /// YAML's `|` and `>`.
    YamlBlock,
    /// A string literal of some programming language: only what means itself in all of them.
    Literal,
    /// A makefile, in which `$` is make's.
    Make,
    /// A desktop entry's command, in which `%` is a field code's, and a backslash the entry's own.
    Desktop,
    /// supervisord's settings, in which `%` begins an expansion, and `;` a comment.
    Supervisor,
    /// Something that this program can't spell.
    Fixed,
}

impl QuoteStyle {
    /// Whether a unit of systemd's spells it.
    pub(super) fn is_unit(self) -> bool {
        matches!(self, Self::UnitBare | Self::UnitSingle | Self::UnitDouble)
    }

    /// What opens and closes it.
    pub(crate) fn quotes(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::ShellBare | Self::UnitBare => Some(("", "")),
            Self::ShellSingle | Self::UnitSingle => Some(("'", "'")),
            Self::ShellDouble | Self::UnitDouble => Some(("\"", "\"")),
            Self::ShellAnsi => Some(("$'", "'")),
            _ => None,
        }
    }

    /// Spells `text` here; why it can't be otherwise.
    pub(crate) fn spell(self, text: &[u8]) -> Result<Vec<u8>, String> {
        if let Some(bad) = text.iter().find(|byte| !self.takes(**byte)) {
            return Err(format!("{:?} can't be spelt here", char::from(*bad)));
        }
        let yaml = matches!(
            self,
            Self::YamlPlain | Self::YamlFlow | Self::YamlSingle | Self::YamlDouble | Self::YamlBlock
        );
        // Compose, Kubernetes and Ansible would fill these in.
        let filled_in = text.contains(&b'$') || memchr::memmem::find(text, b"{{").is_some();
        if yaml && filled_in {
            return Err("a $ or {{ would mean something else here".to_owned());
        }
        if yaml {
            let Ok(text) = std::str::from_utf8(text) else {
                return Err("bytes that are not UTF-8 can't be spelt here".to_owned());
            };
            if let Some(odd) = text.chars().find(|c| self != Self::YamlDouble && is_break_or_control(*c)) {
                return Err(format!(
                    "some YAML readers take {} for a line's end, or not at all",
                    odd.escape_unicode()
                ));
            }
        }
        if matches!(self, Self::YamlPlain | Self::YamlFlow)
            && [&b": "[..], b" #"].iter().any(|mark| memchr::memmem::find(text, mark).is_some())
        {
            return Err("the new text needs quotes around the value".to_owned());
        }
        let mut out = Vec::with_capacity(text.len());
        if self == Self::YamlDouble {
            for c in std::str::from_utf8(text).unwrap_or_default().chars() {
                if is_break_or_control(c) {
                    out.extend(format!("\\u{:04x}", u32::from(c)).bytes());
                } else {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| self.push(byte, &mut out));
                }
            }
            return Ok(out);
        }
        for &byte in text {
            self.push(byte, &mut out);
        }
        Ok(out)
    }

    /// Whether `byte` can stand here at all.
    pub(crate) fn takes(self, byte: u8) -> bool {
        match self {
            Self::Fixed => false,
            Self::Desktop => is_plain_in_shell(byte) || byte == b' ',
            Self::Supervisor => byte != 0 && byte != b';',
            Self::Literal => is_plain_in_shell(byte) && byte != b'%' || byte == b' ',
            Self::YamlDouble | Self::Verbatim | Self::Heredoc => byte != 0,
            Self::YamlFlow => byte >= b' ' && byte != 0x7f && !b",[]{}".contains(&byte),
            Self::ShellSingle | Self::ShellDouble | Self::YamlBlock => byte != 0 && byte != b'\r',
            _ => byte >= b' ' && byte != 0x7f,
        }
    }

    pub(crate) fn push(self, byte: u8, out: &mut Vec<u8>) {
        match (self, byte) {
            (Self::ShellBare, _) if !is_plain_in_shell(byte) => out.extend([b'\\', byte]),
            (Self::ShellSingle, b'\'') => out.extend(br"'\''"),
            (Self::ShellDouble | Self::Heredoc, b'\\' | b'$' | b'`')
            | (Self::ShellDouble | Self::UnitDouble | Self::YamlDouble, b'"')
            | (Self::ShellAnsi | Self::UnitSingle, b'\'')
            | (
                Self::ShellAnsi | Self::UnitBare | Self::UnitSingle | Self::UnitDouble | Self::YamlDouble,
                b'\\',
            ) => {
                out.extend([b'\\', byte]);
            }
            (Self::UnitBare, b' ' | b'"' | b'\'' | b';') => out.extend(format!("\\x{byte:02x}").bytes()),
            (Self::UnitBare | Self::UnitSingle | Self::UnitDouble, b'%' | b'$') => out.extend([byte, byte]),
            (Self::Desktop | Self::Supervisor, b'%') => out.extend(b"%%"),
            (Self::Make, b'$') => out.extend(b"$$"),
            (Self::YamlSingle, b'\'') => out.extend(b"''"),
            (Self::YamlDouble, 0..b' ' | 0x7f) => out.extend(format!("\\u{byte:04x}").bytes()),
            _ => out.push(byte),
        }
    }
}

/// Whether a character ends a line for readers of YAML 1.1 (PyYAML), or may not stand in a document as it is.
fn is_break_or_control(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Whether a shell takes `byte` for itself in an unquoted word.
fn is_plain_in_shell(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"_/.,:=+@%^-".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What readers of YAML 1.1 take for a line's end is escaped, or refused where nothing can be.
    #[test]
    fn line_ends_of_yaml_are_escaped_or_refused() {
        for odd in ["\u{85}", "\u{2028}", "\u{2029}", "\u{feff}", "\u{9f}"] {
            let text = format!("/srv/a{odd}b");
            let spelt = QuoteStyle::YamlDouble.spell(text.as_bytes()).unwrap();
            assert_eq!(spelt, format!("/srv/a\\u{:04x}b", u32::from(odd.chars().next().unwrap())).as_bytes());
            for style in
                [QuoteStyle::YamlPlain, QuoteStyle::YamlFlow, QuoteStyle::YamlSingle, QuoteStyle::YamlBlock]
            {
                assert!(
                    style.spell(text.as_bytes()).unwrap_err().contains("line's end"),
                    "{style:?} {odd:?}"
                );
            }
        }
        assert_eq!(
            QuoteStyle::YamlDouble.spell("é\u{a0}\u{1f600}\"".as_bytes()).unwrap(),
            "é\u{a0}\u{1f600}\\\"".as_bytes()
        );
    }
}
