//! QEMU's versions: what the proxy backend is in each, and (in [`advice`]) what each means for a `local` share.

#![forbid(unsafe_code)]

pub(crate) mod advice;

use std::fmt;
use std::str::FromStr;

/// A version of QEMU, as `qemu-system-x86_64 -version` prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    /// Major and minor.
    pub number: (u32, u32),
    /// The third number: a stable release counts from 0, a release candidate of the next version from 90. `None`: it is not
    /// said.
    pub micro: Option<u32>,
    /// All of it, as it was given.
    pub text: String,
}

/// What the proxy backend is in a version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Before 8.1.
    Fine,
    /// 8.1 to 9.1.
    Deprecated,
    /// From 9.2 on, release candidates included.
    Removed,
}

impl Version {
    /// What the proxy backend is in it.
    pub(crate) fn backend(&self) -> Backend {
        match self.feature_release() {
            number if number < (8, 1) => Backend::Fine,
            number if number < (9, 2) => Backend::Deprecated,
            _ => Backend::Removed,
        }
    }

    /// The version that its features are those of: 9.1.90 is the first release candidate of 9.2, and 10.2.90 that of 11.0.
    fn feature_release(&self) -> (u32, u32) {
        const FIRST_CANDIDATE: u32 = 90;
        // Since 4.0 each year has three: .0, .1 and .2.
        match (self.number, self.micro) {
            ((major, minor), Some(FIRST_CANDIDATE..)) if minor >= 2 => (major + 1, 0),
            ((major, minor), Some(FIRST_CANDIDATE..)) => (major, minor + 1),
            (number, _) => number,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "a QEMU version is like 9.2 or 10.0.11";
        let text = text.trim_start_matches('v');
        let mut parts = text.split('.');
        let number = |part: &str| {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u32>().ok()
        };
        let major = parts.next().and_then(number).ok_or(WANTED)?;
        let minor = parts.next().map_or(Some(0), number).ok_or(WANTED)?;
        let micro = parts.next().map(|part| number(part).ok_or(WANTED)).transpose()?;
        if major > 1000 || minor > 1000 {
            return Err(WANTED.to_owned());
        }
        Ok(Self { number: (major, minor), micro, text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_judged() {
        for (text, backend) in [
            ("7.2.22", Backend::Fine),
            ("8.0", Backend::Fine),
            ("8.0.91", Backend::Deprecated),
            ("8.1", Backend::Deprecated),
            ("9.1.3", Backend::Deprecated),
            ("9.1.91", Backend::Removed),
            ("9.2", Backend::Removed),
            ("v10.0.0-rc1", Backend::Removed),
            ("10", Backend::Removed),
            ("11.1.3", Backend::Removed),
        ] {
            assert_eq!(text.parse::<Version>().unwrap().backend(), backend, "{text}");
        }
        for text in ["", "new", "x.1", "9.x", "9.2.x", "99999999999.1", "4294967295.2.90"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
