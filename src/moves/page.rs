//! A plan as people read it.

use std::io::{self, Write};

use super::document::{Export, Guest, Helper, Manager, Move, PlanDocument, Share};
use crate::report::check::bytes;
use crate::report::{Text, write_findings};
use crate::text::counted;

impl Text for PlanDocument {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for one in &self.moves {
            one.page(self.root.is_some(), out)?;
        }
        for file in &self.unread {
            writeln!(out, "not read: {file}")?;
        }
        writeln!(out, "{}", self.conclusion())?;
        writeln!(out, "nothing was changed")
    }
}

impl PlanDocument {
    /// One line on the whole: how much there is to move, and whether it can be done.
    pub(super) fn conclusion(&self) -> String {
        let open = self.moves.iter().map(|one| one.questions.len()).sum::<usize>() as u64;
        let guests = self.moves.iter().map(|one| one.guests.len()).sum::<usize>() as u64;
        if guests == 0 {
            return "no proxy share was found: there is nothing to move".to_owned();
        }
        let state = if open == 0 && self.root.is_some() {
            "no question is open, as far as the host's files say".to_owned()
        } else if open == 0 {
            "the steps can be carried out as they are".to_owned()
        } else {
            format!("{} to deal with first", counted(open, "question"))
        };
        format!("{}, {}: {state}", counted(guests, "guest"), counted(self.moves.len() as u64, "move"))
    }
}

impl Text for Move {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.page(false, out)
    }
}

impl Move {
    /// What runs on a host that is looked at from elsewhere is not known.
    fn page(&self, is_elsewhere: bool, out: &mut dyn Write) -> io::Result<()> {
        self.guests.iter().try_for_each(|guest| guest.page(is_elsewhere, out))?;
        self.exports.iter().try_for_each(|export| export.text(out))?;
        self.helpers.iter().try_for_each(|helper| helper.page(is_elsewhere, out))?;
        if !self.questions.is_empty() {
            writeln!(out, "questions:")?;
            for question in &self.questions {
                writeln!(out, "    {}: {}", question.about, question.text)?;
                if let Some(option) = &question.option {
                    writeln!(out, "        answer by {option}")?;
                }
            }
        }
        if self.steps.is_empty() {
            return writeln!(out);
        }
        writeln!(out, "steps:")?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(out, "{number:>4}. {}", step.what)?;
            for command in &step.run {
                writeln!(out, "          {}", command.line())?;
            }
        }
        writeln!(out, "the way back:")?;
        for (number, command) in (1..).zip(self.steps.iter().rev().flat_map(|step| &step.undo)) {
            writeln!(out, "{number:>4}.     {}", command.line())?;
        }
        writeln!(out)
    }
}

impl Guest {
    fn page(&self, is_elsewhere: bool, out: &mut dyn Write) -> io::Result<()> {
        let manager = match self.manager {
            Manager::Libvirt => "libvirt",
            Manager::Proxmox => "Proxmox VE",
            Manager::Systemd => "systemd",
            Manager::Incus => "LXD or Incus",
            Manager::Commands => "started by hand or by a script",
        };
        let state = match self.pid {
            Some(pid) => format!("running as process {pid}"),
            None if is_elsewhere => "it is not known whether it runs".to_owned(),
            None => "shut down".to_owned(),
        };
        writeln!(out, "guest {} ({manager}, {state})", self.name)?;
        self.shares.iter().try_for_each(|share| share.text(out))?;
        match (&self.owner, &self.owner_from) {
            (Some(owner), Some(from)) => writeln!(out, "    QEMU runs as {owner} ({from})")?,
            _ => writeln!(out, "    QEMU's user is not known")?,
        }
        for file in &self.files {
            writeln!(out, "    configured in {file}")?;
        }
        for line in self.diff.lines() {
            writeln!(out, "        {line}")?;
        }
        Ok(())
    }
}

impl Text for Share {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let tag = self.mount_tag.as_deref().or(self.fsdev.as_deref()).unwrap_or("without a tag");
        let access = if self.readonly { "read-only" } else { "writable" };
        match (&self.export, &self.export_from) {
            (Some(export), Some(from)) => writeln!(out, "    share {tag}: {export}, {access} ({from})"),
            (Some(export), None) => writeln!(out, "    share {tag}: {export}, {access}"),
            _ => writeln!(out, "    share {tag}: an unknown directory, {access}"),
        }
    }
}

impl Text for Export {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let state = if self.converted { "converted already" } else { "to be converted" };
        writeln!(
            out,
            "export {}: {} {state}, to {}, in about {}; journal about {}",
            self.path,
            counted(self.entries, "entry"),
            self.security_model,
            counted(self.seconds.max(1), "second"),
            bytes(self.journal_bytes)
        )?;
        write_findings(&self.findings, out)
    }
}

impl Helper {
    fn page(&self, is_elsewhere: bool, out: &mut dyn Write) -> io::Result<()> {
        let who = match (&self.unit, self.pid) {
            (Some(unit), Some(pid)) => format!("{unit}, process {pid}"),
            (Some(unit), None) => unit.clone(),
            (None, Some(pid)) => format!("process {pid}"),
            (None, None) if is_elsewhere => "it is not known whether it runs".to_owned(),
            (None, None) => "not running".to_owned(),
        };
        let place = self.place.as_ref().map(|place| format!(", started in {place}")).unwrap_or_default();
        writeln!(out, "helper of {} ({who}{place})", self.export.as_deref().unwrap_or("an unknown directory"))
    }
}
