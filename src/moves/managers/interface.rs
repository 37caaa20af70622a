//! What a manager of guests is asked and told.

use crate::moves::agent;
use crate::moves::document::{Command, Guest};

/// What stops and starts guests.
pub(crate) trait Guests: Sync {
    /// Whether the guest runs.
    fn is_running(&self, guest: &Guest) -> anyhow::Result<bool>;
    /// The commands that ask the guest to shut down; none where nobody said how.
    fn stop(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that end the guest as a power failure does; none where there are none.
    fn force_stop(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that start the guest; none where nobody said how.
    fn start(&self, guest: &Guest) -> Vec<Command>;
    /// The commands that keep the guest from being started with the host, or at all; none where nothing starts it by itself.
    fn hold(&self, guest: &Guest) -> Vec<Command>;
    /// What the guest would be restored from at its next start, as a document of its manager's; nothing where it would boot.
    fn saved(&self, _guest: &Guest) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(None)
    }
    /// The text of the guest's `/proc/self/mounts`, as its agent has it; an error where there is no agent that answers.
    fn mounts(&self, guest: &Guest) -> anyhow::Result<Vec<u8>> {
        agent::read_mounts(&mut agent::Socket::of(guest)?)
    }
    /// The commands that take the hold back.
    fn release(&self, guest: &Guest) -> Vec<Command>;
}

/// The command that the admin named, if any.
pub(super) fn named(command: Option<&String>) -> Vec<Command> {
    command.map(|text| Command::shell(text)).into_iter().collect()
}
