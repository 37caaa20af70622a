//! How programming languages spell strings and comments: one line a language.

#![forbid(unsafe_code)]

/// What a backslash, or whatever else a language has for it, does in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// Nothing: the string is raw.
    Raw,
    /// A backslash changes what comes next.
    Backslash,
    /// A backslash changes what comes next, and HCL's `$${` and `%%{` open no expression, closed or not.
    Hcl,
    /// A backslash stands in front of itself and of the closing quote; elsewhere it is a backslash.
    Itself,
    /// Nix's `''`: before `$`, `'` and `\`.
    Nix,
    /// The closing quote twice.
    Doubled,
    /// It is one character, and no string.
    Character,
    /// It is a list of words, with blanks between them.
    Words,
}

/// A kind of string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quote {
    /// What opens it.
    pub open: &'static [u8],
    /// What closes it.
    pub close: &'static [u8],
    /// Whether it may go over several lines.
    pub lines: bool,
    /// How it escapes.
    pub escapes: Escapes,
    /// Whether an expression inside it (`${…}`, `#{…}`) may hold what closes it.
    pub nests: bool,
}

/// A language.
#[derive(Debug, Clone, Copy)]
pub(super) struct Language {
    /// The extensions of its files' names, and whole names.
    pub names: &'static [&'static str],
    /// The programs that run it.
    interpreters: &'static [&'static str],
    /// What begins a comment that ends with its line.
    line: &'static [&'static [u8]],
    /// What begins and ends a comment of several lines.
    block: &'static [(&'static [u8], &'static [u8])],
    /// Its strings, those with longer openings first.
    quotes: &'static [Quote],
    /// Whether literals that follow each other are one.
    pub adjacent: bool,
}

const fn quote(open: &'static str, close: &'static str, lines: bool, escapes: Escapes) -> Quote {
    Quote { open: open.as_bytes(), close: close.as_bytes(), lines, escapes, nests: false }
}

const fn nesting(quote: Quote) -> Quote {
    Quote { nests: true, ..quote }
}

const DOUBLE: Quote = quote("\"", "\"", false, Escapes::Backslash);
const SINGLE: Quote = quote("'", "'", false, Escapes::Backslash);
const DOUBLE_LINES: Quote = quote("\"", "\"", true, Escapes::Backslash);
const SINGLE_LINES: Quote = quote("'", "'", true, Escapes::Backslash);
const TRIPLE: Quote = quote("\"\"\"", "\"\"\"", true, Escapes::Backslash);
const TRIPLE_SINGLE: Quote = quote("'''", "'''", true, Escapes::Backslash);
const SINGLE_ITSELF: Quote = quote("'", "'", true, Escapes::Itself);
const SINGLE_RAW: Quote = quote("'", "'", false, Escapes::Raw);
const TRIPLE_SINGLE_RAW: Quote = quote("'''", "'''", true, Escapes::Raw);
const BACKTICK: Quote = quote("`", "`", true, Escapes::Backslash);
const RAW_BACKTICK: Quote = quote("`", "`", true, Escapes::Raw);
const CHARACTER: Quote = quote("'", "'", false, Escapes::Character);

const SLASHES: &[&[u8]] = &[b"//"];
const HASH: &[&[u8]] = &[b"#"];
const STARS: &[(&[u8], &[u8])] = &[(b"/*", b"*/")];

/// What is read as a list of literals without a language of its own.
pub(super) static PYTHON: Language = Language {
    names: &["py", "pyw", "star", "bzl", "bazel", "SConstruct", "wscript"],
    interpreters: &["python"],
    line: HASH,
    block: &[],
    quotes: &[TRIPLE, TRIPLE_SINGLE, DOUBLE, SINGLE],
    adjacent: true,
};

static LANGUAGES: &[&Language] = &[
    &PYTHON,
    &Language {
        names: &["nix"],
        interpreters: &[],
        line: HASH,
        block: STARS,
        quotes: &[nesting(quote("''", "''", true, Escapes::Nix)), nesting(DOUBLE_LINES)],
        adjacent: false,
    },
    &Language {
        names: &["rb", "Vagrantfile", "Rakefile", "rake", "gemspec", "cr"],
        interpreters: &["ruby"],
        line: HASH,
        block: &[(b"\n=begin", b"\n=end")],
        quotes: &[
            quote("%w(", ")", true, Escapes::Words),
            quote("%w[", "]", true, Escapes::Words),
            quote("%w{", "}", true, Escapes::Words),
            quote("%q(", ")", true, Escapes::Itself),
            nesting(quote("%Q(", ")", true, Escapes::Backslash)),
            quote("%q{", "}", true, Escapes::Itself),
            nesting(quote("%Q{", "}", true, Escapes::Backslash)),
            nesting(DOUBLE_LINES),
            SINGLE_ITSELF,
            nesting(BACKTICK),
        ],
        adjacent: true,
    },
    &Language {
        names: &["pl", "pm", "t"],
        interpreters: &["perl"],
        line: HASH,
        block: &[(b"\n=pod", b"\n=cut"), (b"\n=head", b"\n=cut")],
        quotes: &[
            quote("qw(", ")", true, Escapes::Words),
            quote("qw{", "}", true, Escapes::Words),
            quote("qw[", "]", true, Escapes::Words),
            quote("qw/", "/", true, Escapes::Words),
            nesting(quote("qq(", ")", true, Escapes::Backslash)),
            nesting(quote("qq{", "}", true, Escapes::Backslash)),
            quote("q(", ")", true, Escapes::Itself),
            quote("q{", "}", true, Escapes::Itself),
            nesting(DOUBLE_LINES),
            SINGLE_ITSELF,
            nesting(BACKTICK),
        ],
        adjacent: false,
    },
    &Language {
        names: &["php"],
        interpreters: &["php"],
        line: &[b"//", b"#"],
        block: STARS,
        quotes: &[nesting(DOUBLE_LINES), SINGLE_ITSELF, nesting(BACKTICK)],
        adjacent: false,
    },
    &Language {
        names: &["go"],
        interpreters: &[],
        line: SLASHES,
        block: STARS,
        quotes: &[RAW_BACKTICK, DOUBLE, CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["rs"],
        interpreters: &["rust-script"],
        line: SLASHES,
        block: STARS,
        quotes: &[
            quote("r##\"", "\"##", true, Escapes::Raw),
            quote("r#\"", "\"#", true, Escapes::Raw),
            quote("r\"", "\"", true, Escapes::Raw),
            DOUBLE_LINES,
            CHARACTER,
        ],
        adjacent: false,
    },
    &Language {
        names: &["c", "h", "cc", "cpp", "cxx", "hh", "hpp", "m", "mm", "vala", "zig"],
        interpreters: &["tcc"],
        line: SLASHES,
        block: STARS,
        quotes: &[quote("R\"(", ")\"", true, Escapes::Raw), DOUBLE, CHARACTER],
        adjacent: true,
    },
    &Language {
        names: &["java"],
        interpreters: &["java"],
        line: SLASHES,
        block: STARS,
        quotes: &[TRIPLE, DOUBLE, CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["kt", "kts", "scala", "swift"],
        interpreters: &["kotlin", "scala", "swift"],
        line: SLASHES,
        block: STARS,
        quotes: &[nesting(TRIPLE), nesting(DOUBLE), CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["cs", "fs"],
        interpreters: &["dotnet"],
        line: SLASHES,
        block: STARS,
        quotes: &[TRIPLE, quote("@\"", "\"", true, Escapes::Doubled), DOUBLE, CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["groovy", "gradle", "Jenkinsfile", "dart", "d"],
        interpreters: &["groovy", "dart"],
        line: SLASHES,
        block: STARS,
        quotes: &[nesting(TRIPLE), TRIPLE_SINGLE, nesting(DOUBLE), SINGLE],
        adjacent: false,
    },
    &Language {
        names: &["js", "ts", "mjs", "cjs", "mts", "cts", "jsx", "tsx", "cue"],
        interpreters: &["node", "deno", "bun"],
        line: SLASHES,
        block: STARS,
        quotes: &[nesting(BACKTICK), DOUBLE, SINGLE],
        adjacent: false,
    },
    &Language {
        names: &["jsonnet", "libsonnet"],
        interpreters: &["jsonnet"],
        line: &[b"//", b"#"],
        block: STARS,
        quotes: &[quote("|||", "|||", true, Escapes::Raw), DOUBLE_LINES, SINGLE_LINES],
        adjacent: false,
    },
    &Language {
        names: &["lua"],
        interpreters: &["lua"],
        line: &[b"--"],
        block: &[(b"--[[", b"]]")],
        quotes: &[quote("[[", "]]", true, Escapes::Raw), DOUBLE, SINGLE],
        adjacent: false,
    },
    &Language {
        names: &["hcl", "tf", "tfvars", "nomad"],
        interpreters: &[],
        line: &[b"#", b"//"],
        block: STARS,
        quotes: &[TRIPLE, TRIPLE_SINGLE, nesting(quote("\"", "\"", false, Escapes::Hcl)), SINGLE],
        adjacent: false,
    },
    &Language {
        names: &["pp"],
        interpreters: &["puppet"],
        line: HASH,
        block: STARS,
        quotes: &[nesting(DOUBLE_LINES), SINGLE_ITSELF],
        adjacent: false,
    },
    &Language {
        names: &["dhall"],
        interpreters: &[],
        line: &[b"--"],
        block: &[(b"{-", b"-}")],
        quotes: &[nesting(quote("''", "''", true, Escapes::Nix)), nesting(DOUBLE)],
        adjacent: false,
    },
    &Language {
        names: &["toml"],
        interpreters: &[],
        line: HASH,
        block: &[],
        quotes: &[TRIPLE, TRIPLE_SINGLE_RAW, DOUBLE, SINGLE_RAW],
        adjacent: false,
    },
    &Language {
        names: &["ex", "exs"],
        interpreters: &["elixir"],
        line: HASH,
        block: &[],
        quotes: &[
            nesting(TRIPLE),
            quote("~w(", ")", true, Escapes::Words),
            nesting(DOUBLE_LINES),
            SINGLE_LINES,
        ],
        adjacent: false,
    },
    &Language {
        names: &["hs"],
        interpreters: &["runghc", "runhaskell"],
        line: &[b"--"],
        block: &[(b"{-", b"-}")],
        quotes: &[DOUBLE, CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["ml"],
        interpreters: &["ocaml"],
        line: &[],
        block: &[(b"(*", b"*)")],
        quotes: &[DOUBLE_LINES, CHARACTER],
        adjacent: false,
    },
    &Language {
        names: &["scm", "el", "lisp", "clj", "rkt", "edn"],
        interpreters: &["guile", "emacs", "sbcl", "clojure", "racket", "bb"],
        line: &[b";"],
        block: &[(b"#|", b"|#")],
        quotes: &[DOUBLE_LINES],
        adjacent: false,
    },
    &Language {
        names: &["jl", "R", "r", "nim"],
        interpreters: &["julia", "Rscript", "nim"],
        line: HASH,
        block: &[(b"#=", b"=#"), (b"#[", b"]#")],
        quotes: &[nesting(TRIPLE), nesting(DOUBLE_LINES), SINGLE],
        adjacent: false,
    },
];

/// The language of a file, by its name or its first line.
pub(super) fn of(name: &str, first_line: &[u8]) -> Option<&'static Language> {
    let extension = name.rsplit_once('.').map_or(name, |(_, extension)| extension);
    let named = LANGUAGES.iter().find(|language| language.names.contains(&extension));
    let runs = |language: &&&Language| {
        let first = first_line.strip_prefix(b"#!").unwrap_or_default();
        first
            .split(|byte| matches!(byte, b' ' | b'/' | b'\t'))
            .any(|word| language.interpreters.iter().any(|program| word.starts_with(program.as_bytes())))
    };
    named.or_else(|| LANGUAGES.iter().find(runs)).copied()
}

impl Language {
    /// Where the comment ends that begins at `at`, if one does.
    pub(super) fn comment(&self, file: &[u8], at: usize) -> Option<usize> {
        let rest = file.get(at..)?;
        let block = self.block.iter().find(|(open, _)| rest.starts_with(open));
        if let Some((open, close)) = block {
            let body = rest.get(open.len()..)?;
            let length = memchr::memmem::find(body, close).map_or(body.len(), |length| length + close.len());
            return Some(at + open.len() + length);
        }
        // Perl's $#array, and Ruby's #{x}, are none.
        let is_sigil = rest.starts_with(b"#")
            && (at.checked_sub(1).and_then(|at| file.get(at)) == Some(&b'$') || rest.starts_with(b"#{"));
        if is_sigil || !self.line.iter().any(|open| rest.starts_with(open)) {
            return None;
        }
        Some(at + memchr::memchr(b'\n', rest).unwrap_or(rest.len()))
    }

    /// The kind of the string that opens at `at`, if one does.
    pub(super) fn quote(&self, file: &[u8], at: usize) -> Option<Quote> {
        let rest = file.get(at..)?;
        let before = at.checked_sub(1).and_then(|at| file.get(at));
        let in_name =
            before.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'>'));
        let opens = |quote: &&Quote| {
            let is_word = quote.open.first().is_some_and(u8::is_ascii_alphabetic);
            rest.starts_with(quote.open) && !(is_word && in_name)
        };
        self.quotes.iter().find(opens).copied()
    }
}
