//! `migrate config`: the same file with each proxy share replaced, and nothing else.

mod additions;
mod after;
mod helpers;
mod in_place;
mod multidevs;
pub(crate) mod options;
mod own_of_libvirt;
mod printed;
mod reading;
mod snippet;
mod unified;
mod user;
mod virtiofs;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use self::reading::Held;
use super::audit::{EMPTY, Host, MAX_FILE, can_hold_all};
use super::elsewhere::Recorder;
use super::format::{Beside, Document, Format as _, Reading};
use super::join::{self, Joined, Servers};
use super::launcher::Launcher;
use super::libvirt::{Libvirt, is_saved_image};
use super::mention::first_unread;
use super::proved::{self, Rewritten};
use crate::data::devices::multidevs_of;
use crate::exit::Outcome;
use crate::share::local::{Multidevs, Options};
use crate::share::rewrite::{Edits, Refusal, Rewrite};
use crate::share::target::Target;
use crate::share::virtiofs::Daemon;
use crate::share::{ExportPath, Share, Transport};
use crate::sources::config::options::{ConfigArgs, Snippet};
use crate::text::{escape, escape_path, shell_word};

/// How much of a guest's memory is copied with the configuration of a saved image, in bytes.
const LARGEST_IMAGE: u64 = 64 << 20;

/// Runs `migrate config`.
pub(crate) fn run(args: &ConfigArgs) -> anyhow::Result<Outcome> {
    if let Some(why) = virtiofs::wrong_options(args) {
        complain!("virtfs-proxy-helper: {why}");
        return Ok(Outcome::Usage);
    }
    let input = match Input::open(&args.file, args.root.as_deref())? {
        Opened::Whole(input) => input,
        Opened::Long { name, file } => return unchanged_long(args, &name, file),
    };
    if args.in_place && input.path.is_none() {
        complain!("virtfs-proxy-helper: --in-place wants a file, and standard input is none");
        return Ok(Outcome::Usage);
    }
    if input.bytes.trim_ascii().is_empty() {
        // Mostly a pipe from a command that failed.
        bail!("{}: {EMPTY}", input.name);
    }
    if args.in_place
        && let Some(way) = input.path.as_deref().and_then(|path| own_of_libvirt::way(path, &input.bytes))
    {
        bail!(
            "{}: libvirt writes this file itself, and does not see an edit; nothing is written. {way}",
            input.name
        );
    }
    let document = Document { path: input.path.as_deref(), bytes: &input.bytes };
    // What comes through a pipe may be another host's: the files around it are none of this machine's.
    let host = if document.path.is_some() { Some(Host::new(args.root.as_deref())?) } else { None };
    let recorder = host.as_ref().map(|host| Recorder::new(host));
    let recording = recorder.as_ref().map(|recorder| recorder as &dyn Beside);
    let held = reading::read(&document, recording).map_err(|error| input.error(error.line, &error.reason))?;
    // Only the files that the document's shares come from are recorded, not those that are looked at for advice.
    let beside = host.as_ref().map(|host| host as &dyn Beside);
    let (format, reading) = match held {
        Held::Shares(format, reading) => (format, reading),
        // Whatever asks for last recognises much, and knows little of it.
        Held::Nothing(Some(format)) if format.name() == Launcher.name() => return input.unrecognised(args),
        Held::Nothing(_) => return input.unchanged(args),
    };
    if let Some(refusal) = Refusal::too_many(reading.shares.len()) {
        return Err(input.refused(&refusal));
    }
    let mut how = how(args, &reading).map_err(|refusal| input.refused(&refusal))?;
    if let Some(host) = host.as_ref().filter(|host| host.is_elsewhere()) {
        look_there(host, &reading, &mut how);
    }
    how.view =
        document.path.zip(beside).and_then(|(path, beside)| super::systemd::view_of_starter(path, beside));
    if let Some(form) = args.to {
        // What comes through a pipe may be for another host.
        let daemon = document.path.map(|_| Daemon::installed(Path::new("/"))).unwrap_or_default();
        let looked = printed::look(form, format, &document, &reading.shares, &how, beside);
        let text = snippet::print(form, &reading.shares, &how, &looked.moved, &daemon)
            .map_err(|refusal| input.refused(&refusal))?;
        crate::report::print_with(|out| out.write_all(&text))?;
        printed::tell(&looked.findings);
        let exports: Vec<_> = reading.shares.iter().filter_map(|share| how.export_of(share).ok()).collect();
        if how.target == Target::Virtiofs {
            virtiofs::tell_printed(form, &reading.shares, &daemon);
            return Ok(Outcome::Clean);
        }
        for finding in multidevs::findings(&exports, &how, form == Snippet::Libvirt) {
            complain!("virtfs-proxy-helper: note: {}", finding.message);
        }
        return Ok(Outcome::Clean);
    }
    if how.target == Target::Virtiofs && format.name() != Libvirt.name() {
        return Err(input.refused(&virtiofs::refusal_of_file(&reading.shares)));
    }
    let more = |edits: &mut Edits| {
        helpers::settle(&document, format.name(), &reading, edits);
        if args.in_place || args.diff { additions::apart(edits) } else { Vec::new() }
    };
    let rewritten = proved::rewrite(format, &document, &reading.shares, &how, beside, &more);
    let refused = |refusal: Refusal| {
        let elsewhere = recorder.as_ref().and_then(|recorder| recorder.refusal(&document, &reading.shares));
        input.refused(&elsewhere.unwrap_or(refusal))
    };
    let Rewritten { mut edits, text: new, native } = rewritten.map_err(refused)?;
    input.deliver(args, &new)?;
    let exports = edits.moved.iter().map(|moved| &moved.export);
    if how.target == Target::Local {
        let multidevs = multidevs::findings(exports, &how, native);
        edits.findings.extend(multidevs);
    }
    if let Some(line) = first_unread(&new, &[]) {
        complain!(
            "virtfs-proxy-helper: warning: {}:{line}: it still names a proxy share, in a form that is not known here: if that is in \
             use, change it by hand",
            input.name
        );
    }
    after::tell(&after::Told { document: &document, beside, edits: &edits, how: &how, args });
    Ok(if args.check { Outcome::Findings } else { Outcome::Clean })
}

/// The exports are another host's: whether they hold several file systems is looked at below its root.
fn look_there(host: &Host, reading: &Reading, how: &mut Rewrite) {
    how.multidevs_of = None;
    let exports = reading.shares.iter().filter_map(|share| how.export_of(share).ok());
    let found = exports.map(|export| multidevs_of(&host.here(&host.canonical(&export).ok()?)));
    let found: Option<BTreeSet<_>> = found.map(|one| one.map(Multidevs::name)).collect();
    let all = [Multidevs::Remap, Multidevs::Warn];
    let found = found.filter(|found| found.len() == 1);
    let is_it = |one: &Multidevs| found.as_ref().is_some_and(|found| found.contains(one.name()));
    how.local.multidevs = how.local.multidevs.or_else(|| all.into_iter().find(is_it));
}

/// The user that QEMU runs as, where files say it; `None` where none does, or they say different users.
pub(crate) fn user_of(files: &[PathBuf], root: Option<&Path>) -> Option<String> {
    let host = Host::new(root).ok()?;
    let mut users = BTreeSet::new();
    for path in files {
        let Ok(Some(bytes)) = host.file(path) else { continue };
        users.extend(user::of_document(&Document { path: Some(path), bytes: &bytes }, Some(&host)));
    }
    let mut users = users.into_iter();
    users.next().filter(|_| users.next().is_none())
}

/// What the admin wishes, with what the document's own helpers say.
fn how(args: &ConfigArgs, reading: &Reading) -> Result<Rewrite, Refusal> {
    let readonly = args.readonly.iter().map(|name| (name.as_bytes().to_vec(), true));
    let writable = args.writable.iter().map(|name| (name.as_bytes().to_vec(), false));
    let readonly: Vec<_> = readonly.chain(writable).collect();
    for (name, _) in &readonly {
        refuse_unnamed(name, &readonly, &reading.shares)?;
    }
    let exports: Vec<_> =
        args.exports.iter().map(|(name, path)| (name.as_bytes().to_vec(), path.clone())).collect();
    let names: BTreeSet<_> = exports.iter().map(|(name, _)| name).collect();
    for name in names {
        refuse_ambiguous(name, &reading.shares)?;
    }
    let mut served = Vec::new();
    for share in &reading.shares {
        let mut share = share.clone();
        let joined = join::join(&mut share, &Servers::new(&reading.helpers, &reading.listeners));
        let is_named = exports.iter().any(|(name, _)| share.is_called(name));
        match (&share.export, &share.transport) {
            (ExportPath::Known { path, .. }, Transport::Socket(socket)) => {
                served.push((socket.clone(), path.clone()));
            }
            _ if is_named => {}
            // What is printed has a placeholder there.
            _ if args.to.is_some() => {}
            _ => refuse_rivals(&share, joined)?,
        }
    }
    Ok(Rewrite {
        exports,
        readonly,
        served,
        target: args.backend,
        local: Options {
            security_model: args.security_model.unwrap_or_default(),
            fmode: args.fmode,
            dmode: args.dmode,
            multidevs: args.multidevs,
        },
        multidevs_of: Some(multidevs_of),
        only: None,
        in_place_args: args.in_place_args,
        view: None,
        around: Vec::new(),
        look: None,
        inside: Vec::new(),
    })
}

/// Helpers that say different directories leave it to the admin.
fn refuse_rivals(share: &Share, joined: Joined) -> Result<(), Refusal> {
    let Joined::Ambiguous(paths) = joined else { return Ok(()) };
    let paths: Vec<_> = paths.iter().map(|path| escape_path(path)).collect();
    Err(Refusal::at(
        share.place.line,
        format!(
            "the helpers here export {} on the socket of the share {}",
            paths.join(" and "),
            share.title()
        ),
        match share.option("--export", "=PATH") {
            Some(option) => format!("pass {option}"),
            None => "leave one of them".into(),
        },
    ))
}

/// An answer about a share that is not there must not go unheard.
fn refuse_unnamed(name: &[u8], answers: &[(Vec<u8>, bool)], shares: &[Share]) -> Result<(), Refusal> {
    let Some(share) = shares.iter().find(|share| share.is_called(name)) else {
        return Err(Refusal::at(
            None,
            format!("no proxy share here is called {}", escape(name)),
            "name one by its tag, its id or its socket's path in --readonly and --writable",
        ));
    };
    let mut said = answers.iter().filter(|(name, _)| share.is_called(name)).map(|(_, readonly)| readonly);
    let first = said.next();
    if said.any(|other| Some(other) != first) {
        return Err(Refusal::at(
            share.place.line,
            format!("the share {} can't be read-only and writable", share.title()),
            "pass one of --readonly and --writable for it",
        ));
    }
    Ok(())
}

/// One name for shares of different helpers would be a guess.
fn refuse_ambiguous(name: &[u8], shares: &[Share]) -> Result<(), Refusal> {
    let mut meant = shares.iter().filter(|share| share.is_called(name));
    let Some(first) = meant.next() else {
        let known: Vec<_> = shares.iter().take(20).map(Share::title).collect();
        complain!(
            "virtfs-proxy-helper: note: --export {}: no proxy share here has that tag or id (there is {})",
            escape(name),
            known.join(", ")
        );
        return Ok(());
    };
    match meant.find(|other| other.transport != first.transport) {
        Some(other) => Err(Refusal::at(
            other.place.line,
            format!(
                "--export {} means two shares: one on {}, the other on {}",
                escape(name),
                shown(&first.transport),
                shown(&other.transport)
            ),
            "name them by their tags, their ids or their sockets' paths (--export /run/x.sock=PATH)",
        )),
        None => Ok(()),
    }
}

fn shown(transport: &Transport) -> String {
    match transport {
        Transport::Socket(path) => escape_path(path).into_owned(),
        Transport::Fd(fd) => format!("sock_fd {fd}"),
        Transport::Unknown(text) => escape(text).into_owned(),
    }
}

/// A file that was opened.
enum Opened {
    /// All of it is in memory.
    Whole(Input),
    /// It is longer than readers take, and can hold no share.
    Long {
        /// As the admin calls it.
        name: String,
        file: File,
    },
}

/// The file to rewrite.
struct Input {
    /// As the admin calls it.
    name: String,
    /// Where it is, from the root; `None` for standard input.
    path: Option<PathBuf>,
    bytes: Vec<u8>,
    before: Option<in_place::Stamp>,
}

impl Input {
    /// Opens a file; with `root` one of the host whose file system is mounted there.
    fn open(file: &Path, root: Option<&Path>) -> anyhow::Result<Opened> {
        if file.as_os_str() == "-" {
            let bytes = read(io::stdin().lock()).context("reading standard input")?;
            return Ok(Opened::Whole(Self {
                name: "standard input".into(),
                path: None,
                bytes: bytes.whole()?,
                before: None,
            }));
        }
        let name = escape_path(file).into_owned();
        let host = Host::new(root)?;
        let found = if root.is_some() { host.canonical(&host.absolute(file)?) } else { file.canonicalize() };
        let path = found.with_context(|| format!("finding {name}"))?;
        let mut opened = if root.is_some() {
            let opened = host.open(&path).with_context(|| format!("opening {name}"))?;
            opened.with_context(|| format!("{name} is not a regular file"))?
        } else {
            File::open(&path).with_context(|| format!("opening {name}"))?
        };
        let before = in_place::Stamp::of(&opened).with_context(|| format!("looking at {name}"))?;
        let read = read(&opened).with_context(|| format!("reading {name}"))?;
        if let Content::Beginning(start) = &read
            && can_hold_all(&host, &path, start) == Ok(false)
        {
            opened.rewind().with_context(|| format!("reading {name}"))?;
            return Ok(Opened::Long { name, file: opened });
        }
        let bytes = read.whole().with_context(|| format!("reading {name}"))?;
        Ok(Opened::Whole(Self { name, path: Some(path), bytes, before: Some(before) }))
    }

    fn error(&self, line: Option<u64>, message: &str) -> anyhow::Error {
        let name = &self.name;
        match line {
            Some(line) => anyhow!("{name}:{line}: {message}; nothing is written"),
            None => anyhow!("{name}: {message}; nothing is written"),
        }
    }

    fn refused(&self, refusal: &Refusal) -> anyhow::Error {
        self.error(refusal.line, &format!("{}: {}", refusal.message, refusal.remedy))
    }

    /// No reader knows the file: documentation, say. What speaks of a proxy fsdev all the same is told of.
    fn unrecognised(&self, args: &ConfigArgs) -> anyhow::Result<Outcome> {
        let has = |word: &[u8]| memchr::memmem::find(&self.bytes, word).is_some();
        if has(b"proxy") && (has(b"fsdev") || has(b"virtfs") || has(b"9p_")) {
            complain!(
                "virtfs-proxy-helper: warning: {} is of no form that is known here, and it speaks of a proxy fsdev: if \
                 that is in use, change it by hand",
                self.name
            );
        }
        self.unchanged(args)
    }

    /// The file as it went in.
    fn unchanged(&self, args: &ConfigArgs) -> anyhow::Result<Outcome> {
        if prints_unchanged(args) {
            self.print(&self.bytes)?;
        }
        complain!("virtfs-proxy-helper: {}: no proxy share", self.name);
        Ok(Outcome::Clean)
    }

    fn print(&self, bytes: &[u8]) -> anyhow::Result<()> {
        crate::report::print_with(|out| out.write_all(bytes))
            .with_context(|| format!("printing {}", self.name))
    }

    /// Prints or stores what the file becomes.
    fn deliver(&self, args: &ConfigArgs, new: &[u8]) -> anyhow::Result<()> {
        if args.diff {
            return self.print(&self.diff(new));
        }
        if args.check {
            complain!("virtfs-proxy-helper: {} would change", self.name);
            return Ok(());
        }
        match (&self.path, &self.before) {
            (Some(path), Some(before)) if args.in_place => {
                let kept = in_place::replace(path, before, &self.bytes, new)
                    .with_context(|| format!("{}: changing the file", self.name))?;
                let word = |path: &Path| escape(&shell_word(path.as_os_str().as_bytes())).into_owned();
                complain!(
                    "virtfs-proxy-helper: {} is changed. The old file is kept as {}. To restore it: mv {} {}",
                    self.name,
                    escape_path(&kept),
                    word(&kept),
                    word(path)
                );
                if kept.extension().is_some_and(|extension| extension != "orig") {
                    complain!(
                        "virtfs-proxy-helper: note: the older {}.orig is from an earlier change",
                        escape_path(path)
                    );
                }
                Ok(())
            }
            _ => self.print(new),
        }
    }

    fn diff(&self, new: &[u8]) -> Vec<u8> {
        unified::diff(&self.name, self.bytes.as_slice(), new)
    }
}

/// What was read of a file.
enum Content {
    /// All of it.
    Whole(Vec<u8>),
    /// It is longer than [`MAX_FILE`], and no saved image: how it begins.
    Beginning(Vec<u8>),
}

impl Content {
    fn whole(self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Whole(bytes) => Ok(bytes),
            Self::Beginning(_) => bail!("it is larger than {} MiB", MAX_FILE >> 20),
        }
    }
}

/// A file of bearable size, or how a longer one begins.
fn read(mut from: impl Read) -> anyhow::Result<Content> {
    let mut bytes = Vec::new();
    from.by_ref().take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= MAX_FILE {
        return Ok(Content::Whole(bytes));
    }
    if !is_saved_image(&bytes) {
        return Ok(Content::Beginning(bytes));
    }
    from.take(LARGEST_IMAGE - MAX_FILE).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_IMAGE {
        bail!(
            "it is a saved image of more than {} MiB; take its XML out with `virsh save-image-dumpxml --security-info`, \
             rewrite that, and put it back with `virsh save-image-define`",
            LARGEST_IMAGE >> 20
        );
    }
    Ok(Content::Whole(bytes))
}

/// A file that is longer than readers take, and can hold no share: printed as it went in.
fn unchanged_long(args: &ConfigArgs, name: &str, mut file: File) -> anyhow::Result<Outcome> {
    if prints_unchanged(args) {
        crate::report::print_with(|out| io::copy(&mut file, out).map(drop))
            .with_context(|| format!("printing {name}"))?;
    }
    complain!("virtfs-proxy-helper: {name}: no proxy share");
    Ok(Outcome::Clean)
}

/// Whether a file without a share is printed.
fn prints_unchanged(args: &ConfigArgs) -> bool {
    args.to.is_none() && !args.diff && !args.check && !args.in_place
}
