//! The next command for a share.

use super::document::{FleetShare, ShareStatus};
use crate::text::{shell_word, unescape};

/// The command that comes next, to be run on the share's host; `None` where nothing is left to do, or no line of a terminal
/// can hold the command.
pub(super) fn command(share: &FleetShare) -> Option<String> {
    let program = env!("CARGO_PKG_NAME");
    let verb = match (share.status, &share.export, &share.file) {
        (ShareStatus::Gone, ..) => return None,
        (ShareStatus::Ready | ShareStatus::ByHand, Some(export), _) => format!("check {}", word(export)?),
        (ShareStatus::ExportUnknown, _, Some(file)) => {
            // The first `=` ends the name.
            let name =
                share.mount_tag.as_ref().or(share.fsdev.as_ref()).filter(|name| !name.contains('='))?;
            format!("config --diff --export={} {}", word(&format!("{name}=/DIRECTORY"))?, word(file)?)
        }
        (ShareStatus::ByHand | ShareStatus::Ready, None, Some(file)) if !share.running => {
            format!("config --to qemu-args {}", word(file)?)
        }
        // Once more, as root: nobody looked, or the audit could not tell which directory it is.
        (
            ShareStatus::Unknown | ShareStatus::ByHand | ShareStatus::Ready | ShareStatus::ExportUnknown,
            ..,
        ) => "audit".to_owned(),
    };
    Some(format!("{program} migrate {verb}"))
}

/// A path of a document as a shell takes it.
fn word(path: &str) -> Option<String> {
    let bytes = unescape(path);
    let plain = crate::text::escape(&bytes);
    // A path that is shown with escapes is not the path.
    (!plain.contains('\\')).then(|| String::from_utf8_lossy(&shell_word(plain.as_bytes())).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_one_that_a_shell_takes() {
        let share = |status, export: Option<&str>, file: &str| FleetShare {
            status,
            export: export.map(Into::into),
            file: Some(file.to_owned()),
            running: file.starts_with("/proc/"),
            mount_tag: Some("data".to_owned()),
            ..FleetShare::default()
        };
        for (share, expected) in [
            (share(ShareStatus::Ready, Some("/srv/a b"), "/etc/a"), Some("check '/srv/a b'")),
            (share(ShareStatus::ByHand, Some("/srv/$(x)"), "/etc/a"), Some("check '/srv/$(x)'")),
            (share(ShareStatus::ByHand, None, "/etc/a"), Some("config --to qemu-args /etc/a")),
            (share(ShareStatus::ByHand, None, "/proc/7/cmdline"), Some("audit")),
            (
                share(ShareStatus::ExportUnknown, None, "/etc/a;b"),
                Some("config --diff --export=data=/DIRECTORY '/etc/a;b'"),
            ),
            (share(ShareStatus::Unknown, Some("/srv/a"), "/etc/a"), Some("audit")),
            (share(ShareStatus::Gone, Some("/srv/a"), "/etc/a"), None),
            (share(ShareStatus::Ready, Some(r"/srv/\x0aa"), "/etc/a"), None),
        ] {
            let expected = expected.map(|verb| format!("virtfs-proxy-helper migrate {verb}"));
            assert_eq!(command(&share), expected, "{share:?}");
        }
    }
}
