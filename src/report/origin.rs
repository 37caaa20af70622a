//! Where and when an audit was made, and by which version of this program.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Where and when an audit was made. Each field is null where it is not known, and in audits of versions without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Origin {
    /// When the audit began, in UTC, by the clock of the machine that made it: RFC 3339, `2026-01-31T12:00:00Z`.
    pub time: Option<String>,
    /// The audited host's name; with `--root` that of its `/etc/hostname`.
    pub host_name: Option<String>,
    /// The version of this program that made the audit.
    pub tool_version: Option<String>,
    /// The release of the kernel that runs on the audited host; with `--root` where that host's `/proc` is mounted.
    pub kernel: Option<String>,
}

impl Origin {
    /// This program, now.
    pub(crate) fn here() -> Self {
        Self {
            time: Some(rfc3339(SystemTime::now())),
            tool_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            ..Self::default()
        }
    }

    /// When the audit was made; `None` where it does not say, or not in RFC 3339.
    pub(crate) fn instant(&self) -> Option<SystemTime> {
        instant(self.time.as_deref()?)
    }

    /// One line for people.
    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let kernel = self.kernel.as_ref().map(|kernel| format!("Linux {kernel}"));
        let tool = self.tool_version.as_ref().map(|version| format!("{} {version}", env!("CARGO_PKG_NAME")));
        let known: Vec<_> =
            [&self.host_name, &kernel, &self.time, &tool].into_iter().flatten().map(String::as_str).collect();
        if known.is_empty() { Ok(()) } else { writeln!(out, "audited: {}", known.join(", ")) }
    }
}

/// A time in UTC as RFC 3339, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    // The formatter panics before 1970 and after 9999: a clock may say anything.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let last = Duration::from_secs(LAST_SECOND);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since.min(last)).to_string()
}

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// The time that RFC 3339 says in UTC.
pub(crate) fn instant(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_back_whatever_the_clock_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_769_860_800, "2026-01-31T12:00:00Z"),
            (LAST_SECOND, "9999-12-31T23:59:59Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(instant(text), Some(time));
        }
        let (before, after) = (Duration::from_secs(1), Duration::from_secs(LAST_SECOND * 2));
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - before), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH + after), "9999-12-31T23:59:59Z");
        for wrong in ["", "now", "2026-01-31", "2026-13-31T12:00:00Z", "99999-01-31T12:00:00Z", "\u{202e}"] {
            assert_eq!(instant(wrong), None, "{wrong}");
        }
    }
}
