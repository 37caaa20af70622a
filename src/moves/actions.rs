//! What each kind of step does, and how it is taken back. Everything may be done a second time: it was interrupted the first time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::configuration::digest;
use super::document::{Command, Export, Guest, Helper, Kind, Manager, Move, Source, Step, path_of};
use super::guests::Starting;
use super::manager::PROXMOX;
use super::run::{Options, replace, run, run_all};
use super::state::{Event, State};
use super::{guests, helpers, managers, mounted, snapshot, tool};
use crate::data::journal::{Journal, Stage, default_path};
use crate::report::audit::Audited;
use crate::text::escape_path;

/// Where managers keep configurations.
const MANAGERS: [&str; 3] = ["/etc/systemd/system", "/etc/libvirt", "/var/lib/libvirt"];

/// What a step leaves.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// What the journal remembers.
    pub note: Option<String>,
    /// What people should know.
    pub remark: Option<String>,
}

/// Asks what can't be asked after a step: which shares are mounted in a guest that will be shut down.
pub(super) fn ask_before(step: &Step, one: &Move, options: &Options) -> Left {
    let guest = one.guests.get(step.index).filter(|_| step.kind == Kind::StopGuest && options.agent);
    let Some(guest) = guest.filter(|guest| guests::is_running(guest).unwrap_or(false)) else {
        return Left::default();
    };
    match mounted::mounted(guest) {
        Ok(tags) => Left { note: serde_json::to_string(&tags).ok(), remark: None },
        Err(error) => Left {
            note: None,
            remark: Some(format!(
                "whether its shares are mounted is not asked after its start: no agent answers in {}: {error:#}",
                guest.name
            )),
        },
    }
}

/// Waits until what was mounted in a guest before it was shut down is mounted again. Returns what people should know.
fn ask_again(step: &Step, one: &Move, state: &State, options: &Options) -> anyhow::Result<Option<String>> {
    let is_stop = |other: &Step| other.kind == Kind::StopGuest && other.index == step.index;
    let number = one.steps.iter().position(is_stop).filter(|_| options.agent);
    let note = number.and_then(|number| state.last_note(number, Event::Begin));
    let before: BTreeSet<String> = note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default();
    if before.is_empty() {
        return Ok(None);
    }
    mounted::expect(guest(one, step)?, &before, Duration::from_secs(options.up_timeout))
}

/// Does a step.
pub(super) fn carry_out(step: &Step, one: &Move, state: &State, options: &Options) -> anyhow::Result<Left> {
    match step.kind {
        Kind::StopGuest => guests::stop(guest(one, step)?, options)?,
        Kind::StopHelper => helpers::stop(helper(one, step)?, step)?,
        Kind::Hold | Kind::Release | Kind::Before | Kind::DisableHelper => run_all(&step.run)?,
        Kind::Convert | Kind::Adopt | Kind::Verify => {
            let export = one.exports.get(step.index).context("the plan has no such export")?;
            guests::nobody_runs(one)?;
            run_all(&step.run)?;
            ensure!(
                stage(export)? == Some(Stage::Converted),
                "{} is not converted although the command succeeded",
                export.path
            );
        }
        Kind::Configure => {
            return Ok(Left { note: Some(configure(step, one, state)?), remark: None });
        }
        Kind::StartGuest => {
            let guest = guest(one, step)?;
            fit(one, true)?;
            let starting = guests::start(guest, options)?;
            guests::wait_until_up(guest, starting, options)?;
            return Ok(Left { note: None, remark: ask_again(step, one, state, options)? });
        }
        Kind::Probe => probe(step, one, options)?,
    }
    Ok(Left::default())
}

/// Takes a step back that began.
pub(super) fn take_back(
    step: &Step,
    index: usize,
    one: &Move,
    state: &State,
    options: &Options,
    wanted: &[usize],
) -> anyhow::Result<()> {
    match step.kind {
        Kind::StartGuest => guests::stop(guest(one, step)?, options),
        Kind::Configure => {
            guests::stop_all(one, options)?;
            put_back(step, index, one, state)
        }
        Kind::Convert => {
            guests::stop_all(one, options)?;
            let export = one.exports.get(step.index).context("the plan has no such export")?;
            if matches!(stage(export)?, Some(Stage::Converting | Stage::Converted | Stage::RollingBack)) {
                run_all(&step.undo)?;
            }
            ensure!(is_plain(export)?, "{} is still converted although the rollback succeeded", export.path);
            Ok(())
        }
        Kind::StopHelper => helpers::start(helper(one, step)?, step),
        Kind::StopGuest => {
            if wanted.contains(&step.index) {
                start_old(one, step.index, options)
            } else {
                Ok(())
            }
        }
        Kind::Hold | Kind::Release | Kind::DisableHelper => {
            run_all(&step.undo.iter().filter(|command| !command.by_hand).cloned().collect::<Vec<_>>())
        }
        Kind::Before | Kind::Adopt | Kind::Verify | Kind::Probe => Ok(()),
    }
}

/// Puts what a step has changed in configurations on stable storage, before the journal says so: managers and their programs leave it in
/// memory. The conversions see to their files themselves.
pub(super) fn sync(step: &Step) -> anyhow::Result<()> {
    let changes = matches!(
        step.kind,
        Kind::Hold | Kind::StopHelper | Kind::Configure | Kind::Release | Kind::DisableHelper
    );
    if !changes {
        return Ok(());
    }
    let files = step.documents.iter().filter(|source| source.dump.is_empty());
    let mut folders: Vec<_> =
        files.filter_map(|source| Some(path_of(&source.file).parent()?.to_owned())).collect();
    folders.extend(MANAGERS.iter().map(PathBuf::from));
    folders.sort();
    folders.dedup();
    for folder in folders {
        match File::open(&folder) {
            Ok(folder_of) => rustix::fs::syncfs(&folder_of).with_context(|| {
                format!("putting what has changed in {} on stable storage", escape_path(&folder))
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("opening {}", escape_path(&folder))),
        }
    }
    Ok(())
}

/// The guests that run again after the way back.
pub(super) fn wanted(state: &State) -> Vec<usize> {
    let note = state.lines().iter().rev().find(|line| line.event == Event::Undo);
    note.and_then(|line| serde_json::from_str(line.note.as_deref()?).ok()).unwrap_or_default()
}

/// Starts the guests that ran before and have no step of their own for it.
pub(super) fn start_as_before(one: &Move, options: &Options, wanted: &[usize]) -> anyhow::Result<()> {
    wanted.iter().try_for_each(|index| start_old(one, *index, options))
}

fn start_old(one: &Move, index: usize, options: &Options) -> anyhow::Result<()> {
    let guest = one.guests.get(index).context("the plan has no such guest")?;
    if guests::is_running(guest)? {
        return Ok(());
    }
    fit(one, false)?;
    let mut starting = guests::start(guest, options)?;
    let up = guests::wait(Duration::from_secs(options.up_timeout), || {
        starting.as_mut().map_or(Ok(false), Starting::has_ended)?;
        guests::is_running(guest)
    })?;
    ensure!(up, "{} was started, and does not run", guest.name);
    Ok(())
}

fn guest<'a>(one: &'a Move, step: &Step) -> anyhow::Result<&'a Guest> {
    one.guests.get(step.index).context("the plan has no such guest")
}

fn helper<'a>(one: &'a Move, step: &Step) -> anyhow::Result<&'a Helper> {
    one.helpers.get(step.index).context("the plan has no such helper")
}

fn probe(step: &Step, one: &Move, options: &Options) -> anyhow::Result<()> {
    let mut last = String::new();
    let succeeded = guests::wait(Duration::from_secs(options.up_timeout), || {
        for command in &step.run {
            let (program, words) = command.words.split_first().context("a command")?;
            let said = tool::run(path_of(program), words.iter().map(|word| path_of(word)))?;
            if said.status != Some(0) {
                last = format!("{}: {}", said.how(), said.reason());
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    ensure!(succeeded, "the probe did not succeed within {} seconds: {last}", options.up_timeout);
    for guest in &one.guests {
        let is_started = one
            .steps
            .iter()
            .any(|step| step.kind == Kind::StartGuest && one.guests.get(step.index) == Some(guest));
        ensure!(!is_started || guests::is_running(guest)?, "{} has ended meanwhile", guest.name);
    }
    Ok(())
}

/// How far the conversion of an export is; nothing where none has begun.
fn stage(export: &Export) -> anyhow::Result<Option<Stage>> {
    let path = path_of(&export.path);
    let root = File::open(&path).with_context(|| format!("opening {}", export.path))?;
    let journal = default_path(&path);
    if fs::symlink_metadata(&journal).is_err() {
        return Ok(None);
    }
    Ok(Journal::of_export(&journal, root.as_fd())?.map(|journal| journal.stage()))
}

/// Whether an export is as the proxy serves it.
fn is_plain(export: &Export) -> anyhow::Result<bool> {
    Ok(matches!(stage(export)?, None | Some(Stage::Recording | Stage::RolledBack)))
}

/// The configuration and the files of the guests fit together: all of it changed (`new`), or all of it as it was. Otherwise a
/// guest would see a wrong tree, and nobody may start it.
fn fit(one: &Move, new: bool) -> anyhow::Result<()> {
    for export in &one.exports {
        if new {
            ensure!(
                stage(export)? == Some(Stage::Converted),
                "{} is not converted: a guest over local would see a wrong tree, and is not started",
                export.path
            );
        } else {
            ensure!(
                is_plain(export)?,
                "{} is converted: a guest over the proxy would see a wrong tree, and is not started",
                export.path
            );
        }
    }
    for source in one.steps.iter().flat_map(|step| &step.documents) {
        if source.is_gone()? {
            continue;
        }
        let has_proxy = has_proxy(source, &source.read()?)?;
        let (is, files) = if new {
            ("still has a share over the proxy", "converted")
        } else {
            ("has no share over the proxy", "as they were")
        };
        ensure!(
            has_proxy != new,
            "{} {is}, and the files are {files}: a guest would see a wrong tree, and is not started",
            source.shown
        );
    }
    fit_saved(one, new)
}

/// An applied move can be undone: each configuration can be put back, and no guest was saved since.
pub(super) fn may_undo(one: &Move, state: &State) -> anyhow::Result<()> {
    let mut is_image_back = false;
    for (number, step) in one.steps.iter().enumerate() {
        for (index, source) in step.documents.iter().enumerate() {
            // A new image at the place of the old one is told of below.
            match copy_to_put_back(source, number, index, one, state) {
                Ok(found) if source.is_image() => is_image_back |= found.is_some(),
                Ok(_) => {}
                Err(_) if source.is_image() => {}
                Err(error) => return Err(error),
            }
        }
    }
    if is_image_back { Ok(()) } else { fit_saved(one, false) }
}

/// What a guest would be restored from has the same shares. It may have been saved since the plan.
fn fit_saved(one: &Move, new: bool) -> anyhow::Result<()> {
    for guest in &one.guests {
        let Some(text) = managers::of(guest.manager).saved(guest)? else { continue };
        let shown = format!("saved image of {}", guest.name);
        let source = Source { dump: vec![shown.clone()], shown, ..Source::default() };
        let (way, files) = if new { ("over the proxy", "converted") } else { ("over local", "as they were") };
        ensure!(
            has_proxy(&source, &text)? != new,
            "{name} has a saved image with its shares {way}, and would be restored from it over files that are {files}: restore {name} \
             and shut it down, or remove the image by `virsh managedsave-remove {name}`, which loses what the guest had not written to disk",
            name = guest.name
        );
    }
    Ok(())
}

/// Whether a document has a share over the proxy. As the plan saw it, it has one.
fn has_proxy(source: &Source, text: &[u8]) -> anyhow::Result<bool> {
    if digest(text) == source.sha256 {
        return Ok(true);
    }
    let scratch = tempfile::tempdir().context("making a folder for a document")?;
    let file = if source.dump.is_empty() {
        path_of(&source.file)
    } else {
        let file = scratch.path().join("document.xml");
        fs::write(&file, text).context("writing the XML to a file")?;
        file
    };
    let audit: Audited =
        tool::document("audit", ["--format=json".as_ref(), "--".as_ref(), file.as_os_str()])?;
    if let Some(row) = audit.unread.first() {
        bail!("{} cannot be read: {}", source.shown, row.reason);
    }
    let own = crate::report::rows::path(&file);
    Ok(audit.shares.iter().any(|row| row.file.as_deref() == Some(own.as_str())))
}

fn old_name(step: usize, index: usize) -> String {
    format!("before/{step}.{index}.old")
}

/// Changes each document of a guest. Returns their digests afterwards.
fn configure(step: &Step, one: &Move, state: &State) -> anyhow::Result<String> {
    guests::nobody_runs(one)?;
    let number = one.steps.iter().position(|other| other == step).context("the plan has no such step")?;
    let guest = guest(one, step)?;
    let mut digests = Vec::new();
    for (index, source) in step.documents.iter().enumerate() {
        let text = source.read()?;
        if has_proxy(source, &text)? {
            // Proxmox keeps the hold in the same file.
            let is_held = one.steps.iter().any(|other| other.kind == Kind::Hold && other.index == step.index);
            ensure!(
                digest(&text) == source.sha256 || guest.manager == Manager::Proxmox && is_held,
                "{} has changed since the plan: make a new plan",
                source.shown
            );
            let old = state.keep(&old_name(number, index), &text)?;
            change(source, &old)?;
            ensure!(
                !has_proxy(source, &source.read()?)?,
                "{} still has a share over the proxy",
                source.shown
            );
        } else {
            ensure!(
                state.folder().join(old_name(number, index)).exists(),
                "{} has changed since the plan: it has no share over the proxy any more",
                source.shown
            );
        }
        digests.push(applied_digest(source, &source.read()?));
    }
    reload(&step.run)?;
    serde_json::to_string(&digests).context("writing the digests")
}

fn change(source: &Source, old: &Path) -> anyhow::Result<()> {
    let mut words: Vec<_> = source.options.iter().map(|option| path_of(option).into_os_string()).collect();
    if source.dump.is_empty() {
        words.extend(["--in-place".into(), "--".into(), path_of(&source.file).into_os_string()]);
        let said = tool::verb("config", words)?;
        ensure!(said.status == Some(0), "{}: {}", source.shown, said.reason());
        return Ok(());
    }
    // Under a name that is an XML document's.
    let scratch = tempfile::tempdir().context("making a folder for a document")?;
    let file = scratch.path().join("document.xml");
    fs::copy(old, &file).context("copying the XML")?;
    words.extend(["--".into(), file.clone().into_os_string()]);
    let said = tool::verb("config", words)?;
    ensure!(said.status == Some(0), "{}: {}", source.shown, said.reason());
    fs::write(&file, &said.stdout).context("writing the XML to a file")?;
    define(source, &file)
}

fn define(source: &Source, file: &Path) -> anyhow::Result<()> {
    run(&source.definition(&crate::report::rows::path(file)))
}

fn reload(commands: &[Command]) -> anyhow::Result<()> {
    let is_reload = |command: &&Command| command.words.first().is_some_and(|word| word == "systemctl");
    commands.iter().filter(is_reload).try_for_each(run)
}

/// The digest of a document as a move leaves it, without the line of Proxmox VE's that holding and releasing the guest changes in it.
fn applied_digest(source: &Source, text: &[u8]) -> String {
    if !source.file.starts_with(PROXMOX) {
        return digest(text);
    }
    let lines = text.split_inclusive(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"onboot:"));
    digest(&lines.collect::<Vec<_>>().concat())
}

/// A document as it was before the move; nothing where there is nothing to put back. It is an error if the document has changed since
/// the move, but for a domain that was reverted to a snapshot.
fn copy_to_put_back(
    source: &Source,
    number: usize,
    index: usize,
    one: &Move,
    state: &State,
) -> anyhow::Result<Option<Vec<u8>>> {
    if source.is_gone()? {
        return Ok(None);
    }
    let text = source.read()?;
    if has_proxy(source, &text)? {
        return Ok(None);
    }
    let old = state.folder().join(old_name(number, index));
    let shown = escape_path(&old);
    ensure!(old.exists(), "{} has no share over the proxy, and {shown} is missing", source.shown);
    let digests: Option<Vec<String>> =
        state.note(number, Event::Done).and_then(|note| serde_json::from_str(note).ok());
    if let Some(applied) = digests.as_ref().and_then(|digests| digests.get(index))
        && *applied != applied_digest(source, &text)
    {
        if let Some(reverted) = reverted(source, &text, one, state)? {
            return Ok(Some(reverted));
        }
        bail!(
            "{} has changed since the move, and to put it back would lose that: put the shares over the proxy into it by hand, as \
             {shown} has them, and run `migrate undo` again{}",
            source.shown,
            by_virsh(source)
        );
    }
    fs::read(&old).with_context(|| format!("reading {shown}")).map(Some)
}

/// The commands that edit a document which is no file.
fn by_virsh(source: &Source) -> String {
    match source.dump.as_slice() {
        [virsh, what, .., domain] if virsh == "virsh" && what == "dumpxml" => {
            format!(" (`virsh edit {}`)", super::document::shell(domain))
        }
        _ => String::new(),
    }
}

/// What a domain was before the move, if it was reverted since to a snapshot that has moved with it: the domain of that snapshot.
fn reverted(source: &Source, text: &[u8], one: &Move, state: &State) -> anyhow::Result<Option<Vec<u8>>> {
    if source.dump.get(1).is_none_or(|word| word != "dumpxml") {
        return Ok(None);
    }
    for (number, step) in one.steps.iter().enumerate() {
        for (index, other) in step.documents.iter().enumerate() {
            let is_snapshot = other.dump.get(1).is_some_and(|word| word == "snapshot-dumpxml");
            let is_of_domain = is_snapshot && other.dump.iter().rev().nth(1) == source.dump.last();
            if !is_of_domain || other.is_gone()? {
                continue;
            }
            let old = state.folder().join(old_name(number, index));
            let Ok(old) = fs::read(&old) else { continue };
            if let Some(domain) = snapshot::domain_before(&old, &other.read()?, text) {
                return Ok(Some(domain));
            }
        }
    }
    Ok(None)
}

/// Puts each document of a guest back.
fn put_back(step: &Step, number: usize, one: &Move, state: &State) -> anyhow::Result<()> {
    for (index, source) in step.documents.iter().enumerate() {
        let Some(old) = copy_to_put_back(source, number, index, one, state)? else { continue };
        if source.dump.is_empty() {
            put_file_back(&path_of(&source.file), &old)?;
        } else {
            let scratch = tempfile::tempdir().context("making a folder for a document")?;
            let file = scratch.path().join("document.xml");
            fs::write(&file, &old).context("writing the XML to a file")?;
            define(source, &file)?;
        }
        ensure!(
            has_proxy(source, &source.read()?)?,
            "{} was put back, and has no share over the proxy",
            source.shown
        );
    }
    reload(&step.undo)
}

/// The old file comes back under its name: the one that `migrate config` has kept, or a copy of it.
fn put_file_back(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let ends = std::iter::once(".orig".to_owned()).chain((2..=9999).map(|number| format!(".orig.{number}")));
    let named = |end: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let kept = ends.map(named).take_while(|kept| fs::symlink_metadata(kept).is_ok()).last();
    let is_regular = |kept: &PathBuf| fs::symlink_metadata(kept).is_ok_and(|metadata| metadata.is_file());
    if let Some(kept) = kept.filter(is_regular)
        && fs::read(&kept).is_ok_and(|text| text == bytes)
    {
        return fs::rename(&kept, path).with_context(|| format!("putting {} back", escape_path(path)));
    }
    let like = fs::metadata(path).with_context(|| format!("looking at {}", escape_path(path)))?;
    replace(path, bytes, Some(&like))
}
