//! Which shares are mounted in a guest, as its agent says: asked before the guest is shut down, and again after its start.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::agent::{PAUSE, tags};
use super::document::Guest;
use super::guests::is_running;
use super::managers;
use crate::text::unescape;

/// The tags of the guest's shares that its agent says are mounted, as the plan has them.
pub(super) fn mounted(guest: &Guest) -> anyhow::Result<BTreeSet<String>> {
    let text = managers::of(guest.manager).mounts(guest)?;
    let tags = tags(&text);
    let own = guest.shares.iter().filter_map(|share| share.mount_tag.as_ref());
    Ok(own.filter(|tag| tags.contains(&unescape(tag))).cloned().collect())
}

/// Waits until the agent says that all of these shares are mounted again. Returns what is to be said of an agent that does not answer;
/// it is an error if one answers, and a share is not mounted when the time is up.
pub(super) fn expect(
    guest: &Guest,
    before: &BTreeSet<String>,
    limit: Duration,
) -> anyhow::Result<Option<String>> {
    let start = Instant::now();
    let mut missing = Vec::new();
    loop {
        let silence = match mounted(guest) {
            Ok(now) => {
                missing = before.difference(&now).cloned().collect();
                if missing.is_empty() {
                    return Ok(None);
                }
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
        ensure!(is_running(guest)?, "{} has ended meanwhile", guest.name);
        if start.elapsed() >= limit {
            ensure!(
                missing.is_empty(),
                "the agent of {} says that what was mounted before the guest was shut down is not mounted {} seconds after its start: {}. \
                 If that is not mounted at every start of the guest, add --no-agent",
                guest.name,
                limit.as_secs(),
                missing.join(", ")
            );
            return Ok(silence.map(|reason| {
                format!("the agent of {} does not answer, and whether its shares are mounted is not known: {reason}", guest.name)
            }));
        }
        sleep(PAUSE);
    }
}
