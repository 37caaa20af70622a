//! What serves the shares: the running helpers, those of the files, and the sockets that systemd holds for them.

use std::io;

use super::managers;
use super::scan::Scan;
use crate::share::helper::Helper;
use crate::sources::join::Servers;

/// How many helpers of template units and of managers, and how many sockets of systemd's, shares are joined with. More than any
/// machine has.
const MOST: usize = 10_000;

/// Everything that serves.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// All helpers, by their sockets.
    pub servers: Servers,
    /// Those that LXD and Incus started.
    pub managed: Vec<Helper>,
    /// How many were not taken.
    left_out: usize,
}

impl Serving {
    /// Collects it. What is beyond the bound is told as unread.
    pub(super) fn new(running: &[Helper], scan: &mut Scan) -> io::Result<Self> {
        let mut serving = Self::default();
        for helper in running {
            serving.add(helper);
        }
        let mut listeners = Vec::new();
        for file in scan.readings.iter() {
            let reading = file?.reading;
            for helper in &reading.helpers {
                serving.add(helper);
            }
            let room = MOST.saturating_sub(listeners.len());
            serving.left_out += reading.listeners.len().saturating_sub(room);
            listeners.extend(reading.listeners.into_iter().take(room));
        }
        serving.servers.listen(listeners);
        if serving.left_out > 0 {
            let reason = format!(
                "more than {MOST} units or sockets start helpers: shares were not joined with {} of them, and their \
                 exports may be unknown or wrong",
                serving.left_out
            );
            scan.not_read(None, reason);
        }
        Ok(serving)
    }

    fn add(&mut self, helper: &Helper) {
        let is_managed = managers::has_started(helper);
        if self.servers.others() >= MOST || is_managed && self.managed.len() >= MOST {
            self.left_out += 1;
            return;
        }
        self.servers.add(helper);
        self.managed.extend(is_managed.then(|| helper.clone()));
    }
}
