//! What the lexers have in common: commands and embedded documents → shares, helpers and edits.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::chars::{Command, Embedded, Lines, Word, span, unknown_parts};
use super::containers::{self, Container};
use super::format::{Document, Format, Reading, Unreadable};
use super::lexed::{Lexed, Required};
use super::mention::{says_word, stands_alone};
use super::quote_style::QuoteStyle;
use super::spelling::respell;
use super::templates;
use super::wrappers::{self, users};
use crate::report::finding::{self, Finding};
use crate::share::argv::{self, Arg, ArgvShare, Splice};
use crate::share::backend::Backend;
use crate::share::helper::Helper;
use crate::share::invocation::{self, Invocation, Text};
use crate::share::rewrite::{Edit, Edits, Refusal, Rewrite};
use crate::share::target::Target;
use crate::share::view::{Addition, By, View};
use crate::share::{ExportFrom, ExportPath, Note, Part, Place, Share, Transport};
use crate::text::{escape, escape_path};

/// How deep documents may lie in documents.
const MAX_DEPTH: usize = 6;

/// The longest text that lexers take apart, in bytes.
const MAX_TEXT: usize = 512 << 10;

/// More words than the command line of any guest has. Each is kept with the places of its bytes, which takes many times as much.
pub(super) const MAX_WORDS: usize = 20_000;

/// Why a command is not read that has more words than that.
pub(super) const TOO_MANY_WORDS: &str = "it has a command of more than 20000 words: split it";

/// What no text of ours lacks.
pub(super) const MARKS: &[&[u8]] =
    &[b"fsdev", b"virtfs", b"fsdriver", b"virtfs-proxy-helper", b"fs_driver", b"proxy,"];

/// A command's shares with what is needed to rewrite them.
struct Found<'a> {
    command: &'a Command,
    args: Vec<Arg>,
    shares: Vec<ArgvShare>,
}

/// The helpers that a file starts and where, by their sockets.
type Invocations = HashMap<Vec<u8>, Vec<(Invocation, Place)>>;

/// Whether a file can hold anything of ours: every proxy share and every helper says this word.
pub(super) fn is_candidate(bytes: &[u8]) -> bool {
    Backend::sought().is_in(bytes) || Backend::sought() == Backend::Proxy && says_word(bytes)
}

/// Whether a text, however long, has the word in other words alone.
pub(super) fn lacks_word(bytes: &[u8]) -> bool {
    Backend::sought() == Backend::Proxy && !stands_alone(bytes)
}

/// Stops at a text that is longer than any that starts guests, and that could hold something of ours. Each of its bytes
/// is kept together with its place, which takes many times as much.
pub(super) fn refuse_long(bytes: &[u8]) -> Result<(), Unreadable> {
    let has_mark = || MARKS.iter().any(|mark| memchr::memmem::find(bytes, mark).is_some());
    if bytes.len() <= MAX_TEXT || !has_mark() || lacks_word(bytes) {
        return Ok(());
    }
    let reason = format!("it is longer than {} KiB: split it", MAX_TEXT >> 10);
    Err(Unreadable { line: None, reason })
}

/// Whether a text is so long that no lexer is to look at it.
pub(super) fn is_long(bytes: &[u8]) -> bool {
    bytes.len() > MAX_TEXT
}

/// The shares and helpers in what a lexer found in `document`.
pub(super) fn read(document: &Document, lexed: &Lexed) -> Reading {
    let lines = Lines::new(document.bytes);
    let mut reading = Reading::default();
    let invocations = helpers(document, lexed, &lines, &mut reading);
    let shares = shares(lexed, &lines);
    let own = own_words(&shares);
    for found in shares {
        let guest = found.command.guest.clone().or_else(|| argv::guest_name(&found.args));
        for share in found.shares {
            let mut share = share.share;
            share.place.file = document.path.map(Into::into);
            share.place.guest.clone_from(&guest);
            share.socket_on_host = socket_on_host(lexed, found.command, &share.transport);
            join_within(&mut share, &invocations);
            reading.shares.push(share);
        }
    }
    for embedded in candidates(lexed, &own) {
        let (format, bytes) = inside(embedded);
        let inner = Document { path: embedded.name.as_deref(), bytes: &bytes };
        // A text that only looks like a document of that format is no reason to give up the file.
        if let Some(Ok(inner)) = deeper(embedded, || format.read(&inner)) {
            reading.take(inner, document, embedded, &lines);
        }
    }
    reading.deduplicate();
    reading
}

/// The edits by which every share in `document` becomes a `local` one.
pub(super) fn rewrite(document: &Document, lexed: &Lexed, how: &Rewrite) -> Result<Edits, Refusal> {
    let around = how;
    let lines = Lines::new(document.bytes);
    let invocations = helpers(document, lexed, &lines, &mut Reading::default());
    let mut all = Edits::default();
    let shares = shares(lexed, &lines);
    let own_words = own_words(&shares);
    for found in shares {
        let mut pairs = Vec::new();
        let own = view_of(document, lexed, &lines, &found.command.words, None);
        let inner = how.inside_of(own.clone());
        let (view, around) = (inner.view.as_ref(), inner.around.as_slice());
        for share in found.shares.iter().filter(|share| how.wants(&share.share)) {
            let mut joined = share.share.clone();
            join_within(&mut joined, &invocations);
            if how.look.is_some() {
                all.look(&joined, &inner);
                continue;
            }
            let export = how.export_of(&joined)?;
            refuse_name(&joined, &export)?;
            all.findings.extend(how.doubt(&joined));
            let joined = how.answered(&joined)?;
            all.take_around(&joined, &export, around);
            let path = all.take(joined, export.clone(), view);
            pairs.push((share, path, export));
        }
        if how.target == Target::Local {
            let root = wrappers::own_root(document, &lines, &found.command.words);
            all.findings.extend(root.map(|remark| remark.finding()));
        }
        if how.look.is_some() {
            continue;
        }
        argv::refuse_twins(found.shares.iter().map(|share| &share.share))?;
        let inside = pairs.iter().map(|(_, path, export)| (path.clone(), export.clone())).collect();
        let how = &Rewrite { inside, ..how.clone() };
        let pairs: Vec<_> = pairs.iter().map(|(share, path, _)| (*share, path.as_path())).collect();
        for edit in argv::rewrite(&found.args, &pairs, how)? {
            let Some(word) = found.command.words.get(edit.arg) else { continue };
            let edits =
                respell(document.bytes, word, &edit.splices).map_err(|why| refusal(&lines, word, &why))?;
            all.edits.extend(edits);
        }
    }
    for embedded in candidates(lexed, &own_words) {
        let own = view_around(document, lexed, &lines, embedded);
        let inner = own.is_some().then(|| how.inside_of(own));
        let how = inner.as_ref().unwrap_or(around);
        rewrite_embedded(document, embedded, how, &lines, &mut all)?;
    }
    settle(&mut all, &lines)?;
    if !all.moved.is_empty() {
        for required in &lexed.required {
            all.require(required, document, &lines);
        }
    }
    Ok(all)
}

impl Edits {
    /// Takes the helper out of what a service requires.
    fn require(&mut self, required: &Required, document: &Document, lines: &Lines) {
        let said = escape(required.said.as_bytes());
        self.findings.push(Finding {
            kind: &finding::HELPER_REQUIRED,
            place: Place {
                file: document.path.map(Into::into),
                line: Some(lines.line(required.span.start)),
                ..Place::default()
            },
            message: format!("{said}: the service is not started once the helper is removed"),
            remedy: Some(format!("remove {said}")),
            subject: None,
        });
        let additions = required.edits.iter().cloned();
        self.additions.extend(additions.map(|edit| Addition { edit, what: format!("removes {said}") }));
    }
}

/// Rewrites a document in the document, and spells its new text the way its place asks for.
fn rewrite_embedded(
    document: &Document,
    embedded: &Embedded,
    how: &Rewrite,
    lines: &Lines,
    all: &mut Edits,
) -> Result<(), Refusal> {
    let (format, bytes) = inside(embedded);
    let inner = Document { path: embedded.name.as_deref(), bytes: &bytes };
    let holds_shares = |read: Result<Reading, _>| read.is_ok_and(|read| !read.shares.is_empty());
    if !deeper(embedded, || format.read(&inner)).is_some_and(holds_shares) {
        return Ok(());
    }
    let Some(edits) = deeper(embedded, || format.rewrite(&inner, how)) else { return Ok(()) };
    let word = Word { chars: embedded.chars.clone(), span: span(&embedded.chars) };
    let edits = edits.map_err(|refusal| Refusal { line: Some(lines.line(word.span.start)), ..refusal })?;
    for edit in edits.edits {
        let splice = Splice { range: edit.span, with: edit.with };
        let outer = respell(document.bytes, &word, &[splice]);
        all.edits.extend(outer.map_err(|why| refusal(lines, &word, &why))?);
    }
    for addition in edits.additions {
        // What the place can't hold is said all the same, by its finding.
        let splice = Splice { range: addition.edit.span, with: addition.edit.with };
        let edits = respell(document.bytes, &word, &[splice]).unwrap_or_default();
        all.additions.extend(edits.into_iter().map(|edit| Addition { edit, what: addition.what.clone() }));
    }
    all.moved.extend(edits.moved);
    all.users.extend(edits.users);
    all.findings.extend(edits.findings.into_iter().map(|mut finding| {
        if finding.place.file.is_none() || finding.place.file.as_deref() == embedded.name.as_deref() {
            let at =
                finding.place.span.and_then(|span| embedded.chars.get(span.start)).map(|c| c.range().start);
            finding.place = Place {
                file: document.path.map(Into::into),
                line: Some(lines.line(at.unwrap_or(word.span.start))),
                ..Place::default()
            };
        }
        finding
    }));
    Ok(())
}

/// What the container or the program shows QEMU in which a command of the document runs it, and what a user namespace around it means.
/// `at`: a place in the word that holds QEMU's command line, where that is a text of its own.
fn view_of(
    document: &Document,
    lexed: &Lexed,
    lines: &Lines,
    words: &[Word],
    at: Option<usize>,
) -> Option<View> {
    let view = mounts_of(document, lexed, lines, words, at);
    let Some(remark) = users::remark(document, lines, words, at) else { return view };
    let mut view = view.unwrap_or_else(|| View::new(By::Unshare, true, remark.place.clone()));
    view.user = None;
    view.remarks.push(remark);
    Some(view)
}

/// The same of its mounts alone.
fn mounts_of(
    document: &Document,
    lexed: &Lexed,
    lines: &Lines,
    words: &[Word],
    at: Option<usize>,
) -> Option<View> {
    if let Some(container) = containers::of_commands(words, lexed) {
        return Some(container.view_for(document, lines, lexed.user_map.as_ref()));
    }
    wrappers::view(document, lines, words, at).or_else(|| {
        let start = words.first()?.span.start;
        Some(described_at(lexed, start)?.view_for(document, lines, lexed.user_map.as_ref()))
    })
}

/// The same of a document in the document: the command that runs it as its argument, or the container around it.
fn view_around(document: &Document, lexed: &Lexed, lines: &Lines, embedded: &Embedded) -> Option<View> {
    let at = span(&embedded.chars).start;
    let command =
        lexed.commands.iter().find(|command| command.words.iter().any(|word| word.span.contains(&at)));
    command
        .and_then(|command| view_of(document, lexed, lines, &command.words, Some(at)))
        .or_else(|| Some(described_at(lexed, at)?.view_for(document, lines, lexed.user_map.as_ref())))
}

/// A line's end ends an argument in most of these formats, quotes or not; and a template's expression is filled in.
fn refuse_name(share: &Share, export: &Path) -> Result<(), Refusal> {
    if templates::may_open(export.as_os_str().as_bytes()) {
        return Err(Refusal::at(
            share.place.line,
            format!("{} has a template's expression in its name", escape_path(export)),
            "give the directory another name, or change this share by hand",
        ));
    }
    if export.as_os_str().as_bytes().contains(&b'\n') {
        return Err(Refusal::at(
            share.place.line,
            format!("{} has a line break in its name", escape_path(export)),
            "give the directory another name",
        ));
    }
    Ok(())
}

fn refusal(lines: &Lines, word: &Word, why: &str) -> Refusal {
    Refusal::at(
        Some(lines.line(word.span.start)),
        format!("this argument can't be rewritten where it stands: {why}"),
        "change it by hand; `--to qemu-args` prints what it should say",
    )
}

/// The same edit twice is one: two commands may use one variable. Edits in each other's way are none.
fn settle(all: &mut Edits, lines: &Lines) -> Result<(), Refusal> {
    all.edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    all.edits.dedup();
    let clash = |pair: &&[Edit]| matches!(pair, [a, b] if a.span.end > b.span.start || a.span == b.span);
    if let Some([edit, _]) = all.edits.windows(2).find(clash) {
        return Err(Refusal::at(
            Some(lines.line(edit.span.start)),
            "two commands share this text and would need it changed in different ways",
            "give each command its own arguments first",
        ));
    }
    Ok(())
}

/// The shares of each command. One that several commands have counts once: in the first that has its device, too.
fn shares<'a>(lexed: &'a Lexed, lines: &Lines) -> Vec<Found<'a>> {
    let mut all = Vec::new();
    for command in &lexed.commands {
        if !command.words.iter().any(|word| word.contains(Backend::sought().name())) {
            continue;
        }
        let args: Vec<_> = command.words.iter().map(|word| word.arg(lines)).collect();
        let mut shares = argv::shares(&args);
        shares.retain(|share| is_ours(command, share) && !is_synopsis(command, share));
        if !shares.is_empty() {
            all.push(Found { command, args, shares });
        }
    }
    let mut best: HashMap<(u32, Vec<u8>), (u8, usize)> = HashMap::new();
    for (index, found) in all.iter().enumerate() {
        for share in &found.shares {
            let seen = u8::from(share.share.device.is_some()) + u8::from(share.share.mount_tag.is_some());
            let Some(place) = origin(found.command, share) else { continue };
            match best.get(&place) {
                Some((before, _)) if *before >= seen => {}
                _ => drop(best.insert(place, (seen, index))),
            }
        }
    }
    for (index, found) in all.iter_mut().enumerate() {
        let command = found.command;
        found.shares.retain(|share| {
            origin(command, share).and_then(|place| best.get(&place)).is_some_and(|(_, best)| *best == index)
        });
    }
    all.retain(|found| !found.shares.is_empty());
    all.sort_by_key(|found| found.shares.first().and_then(|share| origin(found.command, share)));
    all
}

/// Where a share's text begins, through variables: what its occurrences in several commands have in common.
/// All that comes from another file begins at that file's name here: its text tells the shares apart.
fn origin(command: &Command, share: &ArgvShare) -> Option<(u32, Vec<u8>)> {
    let word = command.words.get(share.fsdev)?;
    let first = word.chars.first()?;
    Some((first.start, if first.spelt == QuoteStyle::Fixed { word.bytes() } else { Vec::new() }))
}

/// Whether the command is QEMU's: other emulators have a `-virtfs proxy,ws://…` of their own.
fn is_ours(command: &Command, share: &ArgvShare) -> bool {
    let value = command.words.get(share.fsdev).map(Word::bytes).unwrap_or_default();
    let connects = [&b"socket"[..], b"sock_fd"].iter().any(|key| memchr::memmem::find(&value, key).is_some());
    connects
        || Backend::sought() == Backend::Local
        || command.words.iter().take(share.fsdev).any(|word| word.contains(b"qemu"))
}

/// Whether the option string describes what may be written, as manuals and usage messages do: `[,readonly=on]`,
/// `socket=<path>`.
fn is_synopsis(command: &Command, share: &ArgvShare) -> bool {
    let Some(word) = command.words.get(share.fsdev) else { return false };
    let known = |at: usize, byte: u8| word.chars.get(at).is_some_and(|c| c.known && c.byte == byte);
    // A comma in a path is doubled.
    let optional = (0..word.chars.len()).any(|at| {
        known(at, b'[')
            && known(at + 1, b',')
            && !known(at + 2, b',')
            && (at + 2..word.chars.len()).any(|end| known(end, b']'))
    });
    // `<path>`, `<export directory>`; not `<%= @tag %>`.
    let placeholder = |at: usize| {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./: ".contains(&byte);
        let mut rest = word.chars.iter().skip(at + 2).skip_while(|c| is_name(c.byte));
        known(at, b'=') && known(at + 1, b'<') && rest.next().is_some_and(|c| c.byte == b'>')
    };
    optional || (0..word.chars.len()).any(placeholder)
}

fn helpers(document: &Document, lexed: &Lexed, lines: &Lines, reading: &mut Reading) -> Invocations {
    let mut seen: HashSet<Range<usize>> = HashSet::new();
    let mut all = Invocations::new();
    let at = |span: Range<usize>| Place {
        file: document.path.map(Into::into),
        line: Some(lines.line(span.start)),
        span: Some(span),
        ..Place::default()
    };
    for container in &lexed.containers {
        reading
            .helpers
            .extend(container.helper().map(|helper| Helper { place: at(container.place.clone()), ..helper }));
    }
    for command in &lexed.commands {
        if !command.words.iter().any(|word| word.contains(b"virtfs-proxy-helper")) {
            continue;
        }
        // The paths in a container's options are the container's.
        if let Some(container) = containers::of_commands(&command.words, lexed) {
            if seen.insert(container.place.clone()) {
                let helper =
                    container.helper().map(|helper| Helper { place: at(container.place.clone()), ..helper });
                reading.helpers.extend(helper);
            }
            continue;
        }
        if described(lexed, command).is_some_and(|container| container.helper().is_some()) {
            continue;
        }
        let words: Vec<_> = command.words.iter().map(Text::of).collect();
        let Some((index, invocation)) = invocation::find(&words) else { continue };
        let place = command.words.get(index).map(|word| word.span.clone()).unwrap_or_default();
        if !seen.insert(place.clone()) {
            continue;
        }
        let helper = Helper { place: at(place), ..invocation.helper(None) };
        if let Some(socket) = &invocation.socket {
            all.entry(bare(&socket.bytes)).or_default().push((invocation.clone(), helper.place.clone()));
        }
        reading.helpers.push(helper);
    }
    all
}

/// The container that the document describes a command in.
fn described<'a>(lexed: &'a Lexed, command: &Command) -> Option<&'a Container> {
    described_at(lexed, command.words.first()?.span.start)
}

fn described_at(lexed: &Lexed, start: usize) -> Option<&Container> {
    let around = lexed.containers.iter().filter(|container| container.span.contains(&start));
    let around = around.min_by_key(|container| container.span.len());
    // An alias takes arguments from elsewhere in the file.
    let by_alias = |container: &&Container| {
        let mut words = container.entrypoint.iter().chain(&container.arguments);
        words.any(|word| word.span.contains(&start))
    };
    around.or_else(|| lexed.containers.iter().find(by_alias))
}

/// What the host calls the socket of a share whose QEMU runs in a container.
fn socket_on_host(lexed: &Lexed, command: &Command, transport: &Transport) -> Option<PathBuf> {
    let Transport::Socket(socket) = transport else { return None };
    match containers::of_commands(&command.words, lexed) {
        Some(container) => container.on_host(socket),
        None => described(lexed, command)?.on_host(socket),
    }
}

/// Joins a share with the helper that the same file starts: the same variable means the same socket.
fn join_within(share: &mut Share, invocations: &Invocations) {
    let socket = match &share.transport {
        Transport::Socket(path) => path.as_os_str().as_bytes(),
        Transport::Unknown(text) => text.as_slice(),
        Transport::Fd(_) => return,
    };
    let Some([(invocation, place)]) = invocations.get(&bare(socket)).map(Vec::as_slice) else { return };
    if let Some(path) = invocation.helper(None).export.filter(|path| path.is_absolute()) {
        let from = ExportFrom::Helper(place.clone());
        share.export = ExportPath::Known { path, from };
    }
}

/// What texts that name the same socket have in common, `$NAME` and `${NAME}` being the same.
fn bare(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| !matches!(byte, b'{' | b'}' | b'"')).collect()
}

/// Where the option strings of shares are. With a blank in a path, such a word looks like a text of its own.
fn own_words(shares: &[Found]) -> Vec<Range<usize>> {
    let words = shares.iter().flat_map(|found| {
        let words = found.shares.iter().filter_map(|share| found.command.words.get(share.fsdev));
        words.map(|word| span(&word.chars))
    });
    words.collect()
}

/// The texts in a document that can hold a share or a helper, but for the option strings of shares.
fn candidates<'a>(lexed: &'a Lexed, own: &'a [Range<usize>]) -> impl Iterator<Item = &'a Embedded> {
    lexed.embedded.iter().filter(|embedded| {
        let at = span(&embedded.chars);
        if own.iter().any(|own| own.start <= at.start && at.end <= own.end) {
            return false;
        }
        let bytes: Vec<u8> = embedded.chars.iter().map(|c| c.byte).collect();
        is_candidate(&bytes)
    })
}

/// The format of an embedded document, and its text.
fn inside(embedded: &Embedded) -> (&'static dyn Format, Vec<u8>) {
    let bytes: Vec<u8> = embedded.chars.iter().map(|c| c.byte).collect();
    let document = Document { path: embedded.name.as_deref(), bytes: &bytes };
    let format = super::registry::recognise(&document).unwrap_or(&super::shell::Shell);
    (format, bytes)
}

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Goes one document deeper, unless that is too deep. What is not known in the text around it is not known inside.
fn deeper<T>(embedded: &Embedded, work: impl FnOnce() -> T) -> Option<T> {
    let depth = DEPTH.get();
    if depth >= MAX_DEPTH {
        return None;
    }
    DEPTH.set(depth + 1);
    let result = templates::with_opaque(unknown_parts(&embedded.chars), work);
    DEPTH.set(depth);
    Some(result)
}

impl Reading {
    /// Takes what an embedded document holds, with places of the outer one.
    fn take(&mut self, inner: Reading, document: &Document, embedded: &Embedded, lines: &Lines) {
        let place = |place: &mut Place| {
            let chars = place.span.clone().and_then(|span| embedded.chars.get(span)).unwrap_or_default();
            let at = if chars.is_empty() { span(&embedded.chars) } else { span(chars) };
            place.file = document.path.map(Into::into);
            place.line = Some(lines.line(at.start));
            place.span = Some(at);
            if place.guest.is_none() {
                place.guest.clone_from(&embedded.guest);
            }
            chars.iter().find(|c| !c.known).map(|_| chars.iter().map(|c| c.byte).collect::<Vec<u8>>())
        };
        for mut share in inner.shares {
            let unknown = place(&mut share.place);
            if let (Some(text), Transport::Socket(_)) = (unknown, &share.transport)
                && !share.notes.iter().any(|note| matches!(note, Note::Unknown(..)))
            {
                share.transport = Transport::Unknown(text.clone());
                share.notes.push(Note::Unknown(Part::Socket, text));
            }
            self.shares.push(share);
        }
        for mut helper in inner.helpers {
            place(&mut helper.place);
            self.helpers.push(helper);
        }
        for mut finding in inner.findings {
            place(&mut finding.place);
            self.findings.push(finding);
        }
    }

    /// One place holds one share: a lexer may show the same text from two sides.
    fn deduplicate(&mut self) {
        let mut seen = HashSet::new();
        self.shares.retain(|share| {
            seen.insert((share.place.span.clone(), share.fsdev.clone(), share.mount_tag.clone()))
        });
        let mut seen = HashSet::new();
        self.helpers.retain(|helper| seen.insert(helper.place.span.clone()));
    }
}
