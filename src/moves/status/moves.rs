//! The state of moves → what it adds to the rows of shares.

use std::time::SystemTime;

use super::tree::Told;
use crate::moves::document::{Kind, Share};
use crate::moves::state::{MoveState, Phase as At};
use crate::report::origin::rfc3339;
use crate::report::status::{Phase, StatusRow};

/// Adds what the newest move says that has this share. `told`: what the journal of the share's export tells.
pub(super) fn add(row: &mut StatusRow, told: Option<&Told>, moves: &[MoveState]) {
    let own = moves.iter().filter(|one| has(one, row));
    let Some(newest) = own.max_by_key(|one| one.since) else { return };
    match newest.phase {
        At::Planned if row.phase == Phase::Proxy => {
            row.phase = Phase::Planned;
            since(row, newest);
            row.next = Some(newest.next.clone());
        }
        At::InProgress | At::Undoing | At::Failed => in_progress(row, newest),
        At::Applied if row.phase == Phase::Converted && is_verified(row, told, newest) => {
            row.phase = Phase::Verified;
            since(row, newest);
        }
        At::Undone if row.phase == Phase::Proxy && row.problem.is_none() => {
            row.phase = Phase::Undone;
            since(row, newest);
        }
        At::Planned | At::Applied | At::Undone => {}
    }
}

/// Rows for the shares of moves that are in progress and that no row has.
pub(super) fn missing(rows: &[StatusRow], moves: &[MoveState]) -> Vec<StatusRow> {
    let going_on = |one: &&MoveState| matches!(one.phase, At::InProgress | At::Undoing | At::Failed);
    let mut missing = Vec::new();
    for one in moves.iter().filter(going_on) {
        for guest in &one.plan.guests {
            for share in guest.shares.iter().filter(|share| !rows.iter().any(|row| is_same(row, share))) {
                let mut row = StatusRow {
                    guest: Some(guest.name.clone()),
                    mount_tag: share.mount_tag.clone(),
                    fsdev: share.fsdev.clone(),
                    export: share.export.clone(),
                    ..StatusRow::default()
                };
                in_progress(&mut row, one);
                missing.push(row);
            }
        }
    }
    missing
}

fn in_progress(row: &mut StatusRow, one: &MoveState) {
    row.phase = Phase::InProgress;
    since(row, one);
    row.step = one.step.as_ref().map(|(index, what)| format!("{}. {what}", index + 1));
    row.next = Some(if one.is_running { "wait: it is going on now".to_owned() } else { one.next.clone() });
    if one.phase == At::Failed && row.problem.is_none() {
        row.problem = Some("a step of its move could not be undone".to_owned());
    }
}

fn since(row: &mut StatusRow, one: &MoveState) {
    row.since = Some(rfc3339(one.since));
}

fn has(one: &MoveState, row: &StatusRow) -> bool {
    one.plan.guests.iter().flat_map(|guest| &guest.shares).any(|share| is_same(row, share))
}

/// Whether a share of a plan is that of a row: the same directory, by the same name.
fn is_same(row: &StatusRow, share: &Share) -> bool {
    let by_tag = row.mount_tag.is_some() && row.mount_tag == share.mount_tag;
    let by_id = row.fsdev.is_some() && row.fsdev == share.fsdev;
    row.export.is_some() && row.export == share.export && (by_tag || by_id)
}

/// Whether a move that is done has verified the conversion that the journal tells of, and nothing was adopted at any time: an
/// adoption may be later than the verification.
fn is_verified(row: &StatusRow, told: Option<&Told>, one: &MoveState) -> bool {
    let Some(told) = told else { return false };
    let verifies =
        |export: &str| one.plan.steps.iter().any(|step| step.kind == Kind::Verify && step.about == export);
    let seconds = one.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    row.export.as_deref().is_some_and(verifies)
        && !told.has_adopted
        && told.begun <= seconds
        && told.converted.is_some_and(|converted| converted <= seconds)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::data::journal::Stage;
    use crate::moves::document::{Guest, Move, Step};

    const EXPORT: &str = "/srv/a";

    fn share() -> Share {
        Share { mount_tag: Some("data".to_owned()), export: Some(EXPORT.to_owned()), ..Share::default() }
    }

    fn state(phase: At, since: u64) -> MoveState {
        let guests = vec![Guest { name: "web".to_owned(), shares: vec![share()], ..Guest::default() }];
        let verify = Step { kind: Kind::Verify, about: EXPORT.to_owned(), ..Step::default() };
        MoveState {
            id: "0123456789abcdef".to_owned(),
            plan: Move { guests, steps: vec![verify], ..Move::default() },
            phase,
            step: Some((0, "Convert /srv/a.".to_owned())),
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(since),
            next: "go on".to_owned(),
            is_running: false,
        }
    }

    fn told(converted: u64, has_adopted: bool) -> Told {
        Told {
            journal: PathBuf::from("/srv/a.virtfs-journal"),
            stage: Stage::Converted,
            model: "mapped-xattr".to_owned(),
            owner: (1, 1),
            begun: converted,
            converted: Some(converted),
            is_adopting: false,
            has_adopted,
            unmaps: false,
        }
    }

    fn row(phase: Phase, tag: &str) -> StatusRow {
        let (mount_tag, export) = (Some(tag.to_owned()), Some(EXPORT.to_owned()));
        StatusRow { mount_tag, export, phase, ..StatusRow::default() }
    }

    #[test]
    fn a_move_says_how_far_its_shares_are_and_nothing_of_others() {
        for (at, phase, tag, expected) in [
            (At::Planned, Phase::Proxy, "data", Phase::Planned),
            (At::Planned, Phase::Proxy, "other", Phase::Proxy),
            (At::Planned, Phase::Converted, "data", Phase::Converted),
            (At::InProgress, Phase::Proxy, "data", Phase::InProgress),
            (At::Undoing, Phase::Converted, "data", Phase::InProgress),
            (At::Failed, Phase::Converted, "data", Phase::InProgress),
            (At::Applied, Phase::Converted, "data", Phase::Verified),
            (At::Applied, Phase::Converted, "other", Phase::Converted),
            (At::Applied, Phase::Local, "data", Phase::Local),
            (At::Applied, Phase::Proxy, "data", Phase::Proxy),
            (At::Undone, Phase::Proxy, "data", Phase::Undone),
            (At::Undone, Phase::Converted, "data", Phase::Converted),
        ] {
            let mut row = row(phase, tag);
            add(&mut row, Some(&told(50, false)), &[state(at, 100)]);
            assert_eq!(row.phase, expected, "{at:?} {phase:?} {tag}");
            assert_eq!(row.problem.is_some(), at == At::Failed, "{at:?} {phase:?} {tag}");
        }
    }

    #[test]
    fn only_the_conversion_that_was_verified_is_called_so() {
        for (told, moves, expected) in [
            (told(50, false), vec![state(At::Applied, 100)], Phase::Verified),
            // Rolled back and converted again since, by hand.
            (told(150, false), vec![state(At::Applied, 100)], Phase::Converted),
            (told(50, true), vec![state(At::Applied, 100)], Phase::Converted),
            // The newest move counts.
            (told(50, false), vec![state(At::Applied, 100), state(At::Undone, 200)], Phase::Converted),
            (told(50, false), vec![state(At::Undone, 60), state(At::Applied, 100)], Phase::Verified),
            (told(50, false), Vec::new(), Phase::Converted),
        ] {
            let mut row = row(Phase::Converted, "data");
            add(&mut row, Some(&told), &moves);
            assert_eq!(row.phase, expected, "{told:?} {moves:?}");
        }
        let mut without = row(Phase::Converted, "data");
        let mut one = state(At::Applied, 100);
        one.plan.steps.clear();
        add(&mut without, Some(&told(50, false)), &[one]);
        assert_eq!(without.phase, Phase::Converted, "no step verified it");
    }

    #[test]
    fn a_move_that_is_going_on_is_listed_whatever_is_configured() {
        let moves = [state(At::InProgress, 100), state(At::Applied, 100)];
        assert_eq!(missing(&[], &moves).len(), 1);
        assert!(missing(&[row(Phase::Proxy, "data")], &moves).is_empty());
    }
}
