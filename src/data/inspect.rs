//! `migrate journal`: what a journal says of itself, every record checked. Touches nothing.

use std::path::Path;

use super::journal::{Begin, Journal, Stage};
use crate::data::options::JournalArgs;
use crate::exit::Outcome;
use crate::report::journal::JournalDocument;
use crate::report::{self, SCHEMA, rows};
use crate::text;

/// `migrate journal`.
pub(super) fn run(args: &JournalArgs) -> anyhow::Result<Outcome> {
    if args.look.schema {
        report::print_schema::<JournalDocument>()?;
        return Ok(Outcome::Clean);
    }
    let path = args.journal.as_deref().ok_or_else(|| anyhow::anyhow!("name the journal"))?;
    let document = document(path)?;
    report::print(&document, args.look.format)?;
    Ok(report::exit_zero(document.outcome(), args.look.exit_zero))
}

/// What a journal says. An error where nothing of it can be read.
fn document(path: &Path) -> anyhow::Result<JournalDocument> {
    let opened = Journal::open_to_read(path);
    let begin = match &opened {
        Ok(journal) => Some(journal.begin().clone()),
        Err(_) => Journal::begin_of(path),
    };
    let Some(begin) = begin else {
        return Err(opened.err().unwrap_or_else(|| anyhow::anyhow!("nothing can be read")));
    };
    let mut document = of(&begin);
    document.journal = rows::path(path);
    match opened {
        Ok(journal) => fill(&mut document, &journal),
        Err(error) => document.damage = Some(format!("{error:#}")),
    }
    Ok(document)
}

fn of(begin: &Begin) -> JournalDocument {
    let spelt = |text: &str| text::escape(text.as_bytes()).into_owned();
    let system = &begin.file_system;
    JournalDocument {
        schema: SCHEMA,
        id: spelt(&begin.id),
        program: spelt(&begin.program),
        // These were spelt so when they were written.
        host: begin.host.chars().filter(|letter| !letter.is_control()).collect(),
        export: begin.export.chars().filter(|letter| !letter.is_control()).collect(),
        file_system: [&system.kind, &system.source, &system.id]
            .map(|text| text.chars().filter(|letter| !letter.is_control()).collect()),
        begun: time(begin.at),
        security_model: spelt(&begin.security_model),
        owner: format!("{}:{}", begin.uid, begin.gid),
        modes: [begin.fmode, begin.dmode].map(|mode| format!("{mode:04o}")),
        unmaps: begin.unmaps,
        accepted: begin.accepted.iter().map(|id| spelt(id)).collect(),
        ..JournalDocument::default()
    }
}

fn fill(document: &mut JournalDocument, journal: &Journal) {
    document.format = journal.format().number();
    let is_adopting = journal.stage() == Stage::Converted && journal.adopting().is_some();
    document.state = if is_adopting { "adopting".into() } else { journal.stage().name().into() };
    document.times =
        [journal.totals().map(|totals| totals.at), journal.converted_at(), journal.rollback_since()]
            .map(|at| at.map(time));
    (document.bytes, document.torn) = (journal.len(), journal.torn());
    if let Some(at) = journal.mended() {
        document.damage = Some(format!(
            "a copy of a note, at byte {at}. The other copy of that note counts, and nothing is lost; keep a copy of the journal elsewhere"
        ));
    }
    if let Err(error) = count(document, journal) {
        document.damage = Some(format!("{error:#}"));
    }
}

/// Reads every record.
fn count(document: &mut JournalDocument, journal: &Journal) -> anyhow::Result<()> {
    let mut recorded = 0;
    for listing in journal.listings()? {
        let (at, listing) = listing?;
        let own = u64::from(listing.is_first(at));
        let entries = listing.entries.iter().filter(|(_, record)| record.is_some()).count() as u64;
        document.directories += own;
        document.entries += own + entries;
        if !listing.late {
            recorded += own + entries;
        }
    }
    if let Some(totals) = journal.totals() {
        anyhow::ensure!(
            totals.entries == recorded,
            "it says that {} entries were recorded, and tells of {recorded}",
            totals.entries
        );
    }
    Ok(())
}

/// Seconds since 1970 as people write them, in UTC.
fn time(at: u64) -> String {
    let time = i64::try_from(at).unwrap_or(i64::MAX).min(253_402_300_799);
    let (days, seconds) = (time / 86_400, time % 86_400);
    // The days of a year that begins with March: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(at), text);
        }
    }
}
