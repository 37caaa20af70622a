//! What is known of moves on stable storage: a folder for each below the state's directory.
//!
//! ```text
//! DIR/ID/plan.yaml   the move that is carried out
//! DIR/ID/journal     a line for each event: CRC-32 in 8 hexadecimal digits, a space, a JSON object
//! DIR/ID/lock        held while somebody works on the move
//! DIR/ID/before/     what the move changed, as it was
//! ```
//! A line is on stable storage before the work that it announces begins. A last line without its end was being written when the
//! power failed, and counts for nothing. Any other line that is not whole is damage: nobody goes on from there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};

use super::document::Move;
use crate::text::escape_path;

/// Where the state is unless told otherwise.
pub(super) const DEFAULT: &str = "/var/lib/virtfs-proxy-helper/moves";
/// More than any journal or plan has, in bytes.
const LARGEST: u64 = 64 << 20;

// The C library's types of the constants and of the fields of a lock differ.
#[allow(clippy::cast_possible_truncation, reason = "it is 1")]
const EXCLUSIVE: libc::c_short = libc::F_WRLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, reason = "it is 2")]
const UNLOCKED: libc::c_short = libc::F_UNLCK as libc::c_short;
#[allow(clippy::cast_possible_truncation, reason = "it is 0")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Event {
    /// The move begins, for the first time or again after it was undone: no step is done.
    Planned,
    /// A step begins.
    Begin,
    /// A step is done.
    Done,
    /// A step failed; what it had begun is undone next.
    Failed,
    /// Everything is done.
    Finished,
    /// The move is being undone from here on.
    Undo,
    /// A step begins to be undone.
    UndoBegin,
    /// A step is undone.
    UndoDone,
    /// A step could not be undone.
    UndoFailed,
    /// Everything is undone.
    Undone,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// Its number, from 0.
    pub number: u64,
    /// When it was written, in seconds since 1970.
    pub time: u64,
    /// What happened.
    pub event: Event,
    /// The step that it is about, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// What there is to say: why it failed, or what has to be remembered for the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing of it is done, or all of it is undone.
    #[default]
    Open,
    /// It began, or began to be undone.
    Begun,
    /// It is done.
    Done,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has begun.
    Planned,
    /// Some steps are done: `migrate apply` goes on.
    InProgress,
    /// Everything is done.
    Applied,
    /// It is being undone: `migrate undo` goes on.
    Undoing,
    /// Everything is as it was.
    Undone,
    /// A step could not be undone: it needs the admin, then `migrate undo`.
    Failed,
}

/// A move as the state knows it.
#[derive(Debug, Clone)]
pub(super) struct MoveState {
    /// The digest of the plan's move, 16 hexadecimal digits.
    pub id: String,
    /// The move that is carried out.
    pub plan: Move,
    /// How far it is.
    pub phase: Phase,
    /// The step that it is at, from 0, and what that does.
    pub step: Option<(usize, String)>,
    /// Since when.
    pub since: SystemTime,
    /// What comes next, as a sentence.
    pub next: String,
    /// Whether somebody works on it now.
    pub is_running: bool,
}

/// The id of a plan's move.
pub(super) fn id_of(one: &Move) -> anyhow::Result<String> {
    let text = serde_json::to_vec(one).context("writing the move")?;
    let mut digest = super::configuration::digest(&text);
    digest.truncate(16);
    Ok(digest)
}

/// The state of one move, locked.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    /// The move's id.
    pub id: String,
    lines: Vec<Line>,
    journal: File,
    /// Closing it unlocks it.
    _lock: File,
}

impl State {
    /// Opens or makes the state of a move below `dir`. Never waits: where somebody else works on the move, it fails.
    pub(super) fn open(dir: &Path, id: &str) -> anyhow::Result<Self> {
        make_folder(dir)?;
        let folder = dir.join(id);
        make_folder(&folder)?;
        make_folder(&folder.join("before"))?;
        let shown = escape_path(&folder).into_owned();
        let lock = private(&folder.join("lock"), OpenOptions::new().write(true).create(true))?;
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&exclusive())).map_err(|errno| match errno {
            nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES => {
                anyhow!("another `migrate apply` or `migrate undo` works on this move ({shown}): wait until it has ended")
            }
            errno => anyhow::Error::new(errno).context(format!("locking {shown}/lock")),
        })?;
        let path = folder.join("journal");
        let mut journal = private(&path, OpenOptions::new().read(true).append(true).create(true))?;
        let text = read_limited(&mut journal).with_context(|| format!("reading {}", escape_path(&path)))?;
        let (lines, whole) = parse(&text).with_context(|| damaged(&path))?;
        if whole < text.len() {
            // What the power failure left of a line.
            journal.set_len(whole as u64).and_then(|()| journal.sync_all()).context("cutting a torn line")?;
        }
        sync(&folder)?;
        Ok(Self { folder, id: id.to_owned(), lines, journal, _lock: lock })
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The journal.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Writes a line, on stable storage when it returns.
    pub(super) fn append(
        &mut self,
        event: Event,
        step: Option<usize>,
        note: Option<String>,
    ) -> anyhow::Result<()> {
        let line = Line { number: self.lines.len() as u64, time: now(), event, step, note };
        let text = encode(&line)?;
        let before = self.journal.metadata().map(|metadata| metadata.len());
        let written = self.journal.write_all(&text).and_then(|()| self.journal.sync_data());
        if let Err(error) = written {
            // A part of a line must not stay before the next one.
            if let Ok(length) = before {
                let _ = self.journal.set_len(length);
            }
            return Err(error)
                .with_context(|| format!("writing {}", escape_path(&self.folder.join("journal"))));
        }
        self.lines.push(line);
        Ok(())
    }

    /// Keeps a file, on stable storage when it returns.
    pub(super) fn keep(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(name);
        write_whole(&path, bytes).with_context(|| format!("writing {}", escape_path(&path)))?;
        Ok(path)
    }

    /// The move that is carried out; nothing where none was kept.
    pub(super) fn plan(&self) -> anyhow::Result<Option<Move>> {
        plan_in(&self.folder)
    }

    /// Keeps the move that is carried out.
    pub(super) fn keep_plan(&self, one: &Move) -> anyhow::Result<()> {
        let mut text = Vec::new();
        crate::report::write(&Kept(one), crate::report::Format::Yaml, &mut text)
            .context("writing the plan")?;
        self.keep("plan.yaml", &text).map(drop)
    }

    /// How far each step is.
    pub(super) fn progress(&self, steps: usize) -> Vec<Progress> {
        progress(&self.lines, steps)
    }

    /// How far the move is.
    pub(super) fn phase(&self) -> Phase {
        phase(&self.lines)
    }

    /// The last note of a step's lines of this kind since the move began.
    pub(super) fn last_note(&self, step: usize, event: Event) -> Option<&str> {
        let lines = run(&self.lines).iter().rev();
        let mut own = lines.filter(|line| line.step == Some(step) && line.event == event);
        own.find_map(|line| line.note.as_deref())
    }

    /// The note of a step's last line of this kind since the move began.
    pub(super) fn note(&self, step: usize, event: Event) -> Option<&str> {
        let own = |line: &&Line| line.step == Some(step) && line.event == event;
        run(&self.lines).iter().rev().find(own)?.note.as_deref()
    }
}

/// A move as a document of its own.
#[derive(Serialize)]
#[serde(transparent)]
struct Kept<'a>(&'a Move);

impl crate::report::Text for Kept<'_> {
    fn text(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.0.text(out)
    }
}

/// Every move that the state below `dir` knows; none where there is no such directory.
pub(super) fn all(dir: &Path) -> anyhow::Result<Vec<MoveState>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", escape_path(dir))),
    };
    let mut moves = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", escape_path(dir)))?;
        let Some(id) = entry.file_name().to_str().filter(|name| is_id(name)).map(str::to_owned) else {
            continue;
        };
        moves.extend(one(&entry.path(), id)?);
    }
    moves.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(moves)
}

fn is_id(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn one(folder: &Path, id: String) -> anyhow::Result<Option<MoveState>> {
    let path = folder.join("journal");
    let text = match File::open(&path) {
        Ok(mut file) => read_limited(&mut file).with_context(|| format!("reading {}", escape_path(&path)))?,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", escape_path(&path))),
    };
    let (lines, _) = parse(&text).with_context(|| damaged(&path))?;
    let Some(plan) = plan_in(folder)? else {
        ensure!(lines.is_empty(), "{}: its plan.yaml is missing: {}", escape_path(folder), WAY);
        return Ok(None);
    };
    let phase = phase(&lines);
    let step = current(&lines, phase, plan.steps.len());
    let step = step.and_then(|index| Some((index, plan.steps.get(index)?.what.clone())));
    let since = lines.last().map_or(0, |line| line.time);
    let next = next(phase, step.as_ref());
    let is_running = is_locked(&folder.join("lock"));
    let since = UNIX_EPOCH.checked_add(Duration::from_secs(since)).unwrap_or(UNIX_EPOCH);
    Ok(Some(MoveState { id, plan, phase, step, since, next, is_running }))
}

/// Whether somebody has the lock. Takes none, not for an instant: who starts to work on the move would be refused.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut lock = exclusive();
    let asked = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && lock.l_type != UNLOCKED
}

/// A lock of a whole file, for one alone, by an open file description: it ends with the last descriptor.
fn exclusive() -> libc::flock {
    libc::flock { l_type: EXCLUSIVE, l_whence: FROM_START, l_start: 0, l_len: 0, l_pid: 0 }
}

/// The lines since the move began last.
fn run(lines: &[Line]) -> &[Line] {
    let start = lines.iter().rposition(|line| line.event == Event::Planned).unwrap_or(0);
    lines.get(start..).unwrap_or_default()
}

fn progress(lines: &[Line], steps: usize) -> Vec<Progress> {
    let mut progress = vec![Progress::Open; steps];
    for line in run(lines) {
        let Some(step) = line.step.and_then(|step| progress.get_mut(step)) else { continue };
        *step = match line.event {
            Event::Done => Progress::Done,
            Event::UndoDone => Progress::Open,
            _ => Progress::Begun,
        };
    }
    progress
}

fn phase(lines: &[Line]) -> Phase {
    let run = run(lines);
    let is_undoing = run.iter().any(|line| line.event == Event::Undo);
    match run.last().map(|line| line.event) {
        None | Some(Event::Planned) => Phase::Planned,
        Some(Event::Finished) => Phase::Applied,
        Some(Event::Undone) => Phase::Undone,
        Some(Event::UndoFailed) => Phase::Failed,
        Some(_) if is_undoing => Phase::Undoing,
        Some(_) => Phase::InProgress,
    }
}

/// The step that a move is at.
fn current(lines: &[Line], phase: Phase, steps: usize) -> Option<usize> {
    let progress = progress(lines, steps);
    match phase {
        Phase::Planned | Phase::InProgress => progress.iter().position(|step| *step != Progress::Done),
        Phase::Undoing | Phase::Failed => progress.iter().rposition(|step| *step != Progress::Open),
        Phase::Applied | Phase::Undone => None,
    }
}

fn next(phase: Phase, step: Option<&(usize, String)>) -> String {
    let what = step.map(|(_, what)| format!(" Step: {what}")).unwrap_or_default();
    match phase {
        Phase::Planned => format!("`migrate apply` carries it out.{what}"),
        Phase::InProgress => format!("`migrate apply` goes on, or `migrate undo` takes it back.{what}"),
        Phase::Applied => "Nothing is left to do; `migrate undo` takes it back.".to_owned(),
        Phase::Undoing => format!("`migrate undo` goes on taking it back.{what}"),
        Phase::Undone => "Everything is as it was before the move.".to_owned(),
        Phase::Failed => {
            format!("A step could not be undone: see the reason, then run `migrate undo` again.{what}")
        }
    }
}

/// What to do about a damaged state.
const WAY: &str = "restore the file from a backup; or take each conversion back by hand (`migrate rollback EXPORT`, then the \
                   configuration from the folder's before/), and remove the folder";

fn damaged(path: &Path) -> String {
    format!("{} is damaged: {WAY}", escape_path(path))
}

fn encode(line: &Line) -> anyhow::Result<Vec<u8>> {
    let json = serde_json::to_string(line).context("writing a line of the journal")?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).into_bytes())
}

/// The lines of a journal, and how many bytes they take. What follows the last end of a line is torn.
fn parse(text: &[u8]) -> anyhow::Result<(Vec<Line>, usize)> {
    let mut lines: Vec<Line> = Vec::new();
    let mut whole = 0;
    for raw in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(content) = raw.strip_suffix(b"\n") else { break };
        let number = lines.len() + 1;
        let line = decode(content).with_context(|| format!("line {number}"))?;
        ensure!(line.number == lines.len() as u64, "line {number} says that it is line {}", line.number + 1);
        lines.push(line);
        whole += raw.len();
    }
    Ok((lines, whole))
}

fn decode(content: &[u8]) -> anyhow::Result<Line> {
    let text = std::str::from_utf8(content).context("it is no text")?;
    let (sum, json) = text.split_once(' ').context("it has no checksum")?;
    if u32::from_str_radix(sum, 16).ok() != Some(crc32fast::hash(json.as_bytes())) {
        bail!("its checksum does not fit");
    }
    serde_json::from_str(json).context("its content is not known")
}

fn plan_in(folder: &Path) -> anyhow::Result<Option<Move>> {
    let path = folder.join("plan.yaml");
    let text = match File::open(&path) {
        Ok(mut file) => read_limited(&mut file).with_context(|| format!("reading {}", escape_path(&path)))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", escape_path(&path))),
    };
    crate::yaml::from_slice(&text).with_context(|| damaged(&path)).map(Some)
}

fn read_limited(file: &mut File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(text)
}

/// Makes a folder that only its owner may enter, on stable storage. One that others may write to is refused.
fn make_folder(folder: &Path) -> anyhow::Result<()> {
    let shown = escape_path(folder);
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        return Err(error).with_context(|| format!("making {shown}"));
    }
    let metadata = fs::symlink_metadata(folder).with_context(|| format!("looking at {shown}"))?;
    let own = nix::unistd::Uid::effective().as_raw();
    ensure!(
        metadata.is_dir() && metadata.uid() == own && metadata.mode() & 0o022 == 0,
        "{shown} must be a directory that only root may write to: remove it, or name another by --state"
    );
    folder.parent().map_or(Ok(()), sync)
}

fn private(path: &Path, options: &mut OpenOptions) -> anyhow::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    options
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
        .with_context(|| format!("opening {}", escape_path(path)))
}

/// Writes a file in one step, readable by its owner alone.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("it has no folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync(folder)
}

/// Puts a folder's names on stable storage.
fn sync(folder: &Path) -> anyhow::Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .with_context(|| format!("syncing {}", escape_path(folder)))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::document::Step;

    const ID: &str = "0123456789abcdef";

    fn with_two_steps(dir: &Path) -> State {
        let state = State::open(dir, ID).unwrap();
        let step = |what: &str| Step { what: what.to_owned(), ..Step::default() };
        let steps = vec![step("Convert /srv/share."), step("Start web.")];
        state.keep_plan(&Move { steps, ..Move::default() }).unwrap();
        state
    }

    fn told(dir: &Path) -> (Phase, Option<usize>) {
        let moves = all(dir).unwrap();
        let [one] = moves.as_slice() else { panic!("{moves:?}") };
        (one.phase, one.step.as_ref().map(|(index, _)| *index))
    }

    #[test]
    fn each_event_moves_the_phase_and_the_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = with_two_steps(dir.path());
        for (event, step, phase, at) in [
            (Event::Planned, None, Phase::Planned, Some(0)),
            (Event::Begin, Some(0), Phase::InProgress, Some(0)),
            (Event::Done, Some(0), Phase::InProgress, Some(1)),
            (Event::Begin, Some(1), Phase::InProgress, Some(1)),
            (Event::Failed, Some(1), Phase::InProgress, Some(1)),
            (Event::Undo, None, Phase::Undoing, Some(1)),
            (Event::UndoBegin, Some(1), Phase::Undoing, Some(1)),
            (Event::UndoDone, Some(1), Phase::Undoing, Some(0)),
            (Event::UndoBegin, Some(0), Phase::Undoing, Some(0)),
            (Event::UndoFailed, Some(0), Phase::Failed, Some(0)),
            (Event::UndoDone, Some(0), Phase::Undoing, None),
            (Event::Undone, None, Phase::Undone, None),
            (Event::Planned, None, Phase::Planned, Some(0)),
            (Event::Done, Some(0), Phase::InProgress, Some(1)),
            (Event::Finished, None, Phase::Applied, None),
        ] {
            state.append(event, step, None).unwrap();
            assert_eq!(told(dir.path()), (phase, at), "{event:?}");
        }
        assert!(all(dir.path()).unwrap()[0].is_running);
        drop(state);
        assert!(!all(dir.path()).unwrap()[0].is_running);
        assert_eq!(State::open(dir.path(), ID).unwrap().lines().len(), 15);
    }

    #[test]
    fn a_torn_last_line_counts_for_nothing_and_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = with_two_steps(dir.path());
        state.append(Event::Planned, None, None).unwrap();
        let path = state.folder().join("journal");
        let whole = fs::read(&path).unwrap();
        state.append(Event::Begin, Some(0), Some("a note".into())).unwrap();
        drop(state);
        let both = fs::read(&path).unwrap();
        for length in whole.len()..both.len() {
            fs::write(&path, &both[..length]).unwrap();
            assert_eq!(told(dir.path()).0, Phase::Planned, "{length}");
            let mut state = State::open(dir.path(), ID).unwrap();
            assert_eq!(state.lines().len(), 1, "{length}");
            state.append(Event::Begin, Some(0), None).unwrap();
            drop(state);
            assert_eq!(told(dir.path()).0, Phase::InProgress, "{length}");
        }
    }

    /// A power failure leaves the lines up to some byte. What is known then is what a whole line said.
    #[test]
    fn each_part_of_a_journal_says_what_its_whole_lines_say() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = with_two_steps(dir.path());
        let path = state.folder().join("journal");
        let mut known = vec![(0, told(dir.path()))];
        for (event, step) in [
            (Event::Planned, None),
            (Event::Begin, Some(0)),
            (Event::Done, Some(0)),
            (Event::Begin, Some(1)),
            (Event::Failed, Some(1)),
            (Event::Undo, None),
            (Event::UndoBegin, Some(1)),
            (Event::UndoDone, Some(1)),
            (Event::UndoBegin, Some(0)),
            (Event::UndoDone, Some(0)),
            (Event::Undone, None),
        ] {
            state.append(event, step, Some("a note".into())).unwrap();
            known.push((fs::read(&path).unwrap().len(), told(dir.path())));
        }
        drop(state);
        let whole = fs::read(&path).unwrap();
        let around = known.iter().flat_map(|(end, _)| [end.saturating_sub(1), *end, end + 1, end + 20]);
        for length in around.filter(|length| *length <= whole.len()) {
            fs::write(&path, &whole[..length]).unwrap();
            let expected = known.iter().rev().find(|(end, _)| *end <= length).unwrap();
            assert_eq!(told(dir.path()), expected.1, "{length}");
            let state = State::open(dir.path(), ID).unwrap();
            assert_eq!(fs::read(&path).unwrap().len(), expected.0, "{length}");
            drop(state);
        }
    }

    #[test]
    fn a_damaged_line_is_refused_with_the_way_forward() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = with_two_steps(dir.path());
        state.append(Event::Planned, None, None).unwrap();
        state.append(Event::Begin, Some(0), None).unwrap();
        let path = state.folder().join("journal");
        drop(state);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            let error = format!("{:#}", State::open(dir.path(), ID).unwrap_err());
            assert!(error.contains("is damaged: restore the file from a backup"), "{at}: {error}");
            assert!(all(dir.path()).is_err(), "{at}");
            assert_eq!(fs::read(&path).unwrap(), bad, "nothing of it is changed");
        }
        // A whole line that is missing.
        let second = good.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        fs::write(&path, &good[second..]).unwrap();
        assert!(State::open(dir.path(), ID).is_err());
    }

    #[test]
    fn a_second_one_does_not_wait_for_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let state = with_two_steps(dir.path());
        let error = State::open(dir.path(), ID).unwrap_err().to_string();
        assert!(error.contains("works on this move"), "{error}");
        drop(state);
        State::open(dir.path(), ID).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(State::open(dir.path(), ID).is_err());
        assert_eq!(all(&dir.path().join("missing")).unwrap().len(), 0);
    }
}
