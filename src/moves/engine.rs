//! Carries the steps of a move out, and takes them back in the opposite order. What each step does is in `actions`.

use anyhow::Context as _;

use super::document::{Kind, Move, Step};
use super::run::Options;
use super::state::{Event, Phase, Progress, State};
use super::telling::Teller;
use super::{actions, guests};

/// A move that is carried out.
pub(super) struct Engine<'a> {
    state: State,
    one: Move,
    options: &'a Options,
    teller: Teller,
}

/// How carrying a move out ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Everything is done; what is left to the admin, a sentence each.
    Applied(Vec<String>),
    /// A step failed, and everything is undone.
    TakenBack(String),
    /// A step failed, and so did the way back.
    Stuck(String),
}

impl<'a> Engine<'a> {
    pub(super) fn new(state: State, one: Move, options: &'a Options) -> Self {
        let teller = Teller::new(&state.id, one.steps.len(), options.json);
        Self { state, one, options, teller }
    }

    /// Does every step that is not done. When one fails, takes all back.
    pub(super) fn apply(&mut self) -> anyhow::Result<Ended> {
        match self.forward()? {
            Ok(left) => Ok(Ended::Applied(left)),
            Err((step, reason)) => {
                self.state.append(Event::Failed, Some(step), Some(reason.clone()))?;
                let failed = format!("step {} failed: {} {reason}", step + 1, self.what(step));
                self.teller.line(&format!("{failed}. Taking back what was done."));
                match self.undo()? {
                    Ok(()) => Ok(Ended::TakenBack(failed)),
                    Err(reason) => Ok(Ended::Stuck(format!("{failed}; and {reason}"))),
                }
            }
        }
    }

    /// The outer error: the state can't be written, and nothing more is done. The inner one: a step failed.
    fn forward(&mut self) -> anyhow::Result<Result<Vec<String>, (usize, String)>> {
        let progress = self.state.progress(self.one.steps.len());
        let at = progress.iter().position(|step| *step != Progress::Done).unwrap_or(progress.len());
        let is_start =
            |step: &Step| matches!(step.kind, Kind::Release | Kind::StartGuest | Kind::DisableHelper);
        let first_start = self.one.steps.iter().position(is_start).unwrap_or(progress.len());
        let mut left = Vec::new();
        for (index, done) in progress.iter().enumerate() {
            let Some(step) = self.one.steps.get(index).cloned() else {
                continue;
            };
            // After a reboot a guest or a helper may run again.
            let again =
                at < first_start && matches!(step.kind, Kind::StopGuest | Kind::Hold | Kind::StopHelper);
            if *done == Progress::Done && !again {
                continue;
            }
            let asked = actions::ask_before(&step, &self.one, self.options);
            self.state.append(Event::Begin, Some(index), asked.note)?;
            self.teller.step("begin", index, &step.what);
            asked.remark.iter().for_each(|text| self.teller.remark(index, text));
            crash_point("begin", index);
            let done = actions::carry_out(&step, &self.one, &self.state, self.options);
            match done.and_then(|done| actions::sync(&step).map(|()| done)) {
                Ok(done) => {
                    crash_point("end", index);
                    self.state.append(Event::Done, Some(index), done.note)?;
                    done.remark.iter().for_each(|text| self.teller.remark(index, text));
                    left.extend(step.run.iter().filter(|command| command.by_hand).map(|_| step.what.clone()));
                }
                Err(error) => return Ok(Err((index, format!("{error:#}")))),
            }
            crash_point("done", index);
        }
        self.state.append(Event::Finished, None, None)?;
        Ok(Ok(left))
    }

    /// Takes everything back that began. The inner error says what could not be taken back.
    pub(super) fn undo(&mut self) -> anyhow::Result<Result<(), String>> {
        let is_begun = matches!(self.state.phase(), Phase::Undoing | Phase::Failed);
        if !is_begun {
            if self.state.phase() == Phase::Applied
                && let Err(error) = actions::may_undo(&self.one, &self.state)
            {
                return Ok(Err(format!("nothing is taken back: {error:#}")));
            }
            let wanted = match self.wanted() {
                Ok(wanted) => wanted,
                Err(error) => {
                    return Ok(Err(format!(
                        "it is not known which guests run, and nothing is taken back: {error:#}"
                    )));
                }
            };
            self.state.append(Event::Undo, None, Some(wanted))?;
        }
        let wanted = actions::wanted(&self.state);
        let progress = self.state.progress(self.one.steps.len());
        for (index, how_far) in progress.iter().enumerate().rev() {
            let Some(step) = self.one.steps.get(index).cloned() else {
                continue;
            };
            if *how_far == Progress::Open {
                continue;
            }
            self.state.append(Event::UndoBegin, Some(index), None)?;
            self.teller.step("undo-begin", index, &step.what);
            crash_point("undo-begin", index);
            if let Err(error) =
                actions::take_back(&step, index, &self.one, &self.state, self.options, &wanted)
                    .and_then(|()| actions::sync(&step))
            {
                let reason = format!("{error:#}");
                self.state.append(Event::UndoFailed, Some(index), Some(reason.clone()))?;
                return Ok(Err(self.not_undone(index, &reason)));
            }
            crash_point("undo-end", index);
            self.state.append(Event::UndoDone, Some(index), None)?;
            crash_point("undo-done", index);
        }
        if let Err(error) = actions::start_as_before(&self.one, self.options, &wanted) {
            return Ok(Err(format!(
                "the configuration, the files and the helpers are as they were, but a guest was not started: {error:#}"
            )));
        }
        self.state.append(Event::Undone, None, None)?;
        Ok(Ok(()))
    }

    /// The guests that run again after the way back: those that a failed move has stopped, or that run when it is taken back later.
    fn wanted(&self) -> anyhow::Result<String> {
        let is_later = self.state.phase() == Phase::Applied;
        let progress = self.state.progress(self.one.steps.len());
        let mut wanted = Vec::new();
        for (index, guest) in self.one.guests.iter().enumerate() {
            let is_stopped = self.one.steps.iter().zip(&progress).any(|(step, how_far)| {
                step.kind == Kind::StopGuest && step.index == index && *how_far != Progress::Open
            });
            if !is_later && is_stopped || guests::is_running(guest)? {
                wanted.push(index);
            }
        }
        serde_json::to_string(&wanted).context("writing the list of guests")
    }

    fn what(&self, step: usize) -> String {
        self.one.steps.get(step).map(|step| step.what.clone()).unwrap_or_default()
    }

    /// What is left of the way back, with its commands.
    fn not_undone(&self, at: usize, reason: &str) -> String {
        let progress = self.state.progress(self.one.steps.len());
        let mut text = format!(
            "the way back stopped at step {} ({}): {reason}. No guest was started after that. Mend the cause and run `migrate undo` \
             again. Not undone, in this order:",
            at + 1,
            self.what(at)
        );
        let open = |(_, how_far): &(&Step, &Progress)| **how_far != Progress::Open;
        for (step, _) in self.one.steps.iter().zip(&progress).rev().filter(open) {
            for command in &step.undo {
                text.push_str("\n    ");
                text.push_str(&command.line());
            }
        }
        text
    }
}

/// Tests end the process here: `VIRTFS_TEST_CRASH=POINT:STEP`, in builds for tests alone.
fn crash_point(point: &str, step: usize) {
    if cfg!(debug_assertions)
        && std::env::var("VIRTFS_TEST_CRASH").is_ok_and(|at| at == format!("{point}:{step}"))
    {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}
