//! Whom QEMU runs as, where the rewritten file says it.

use std::collections::BTreeSet;

use super::super::format::{Beside, Document};
use super::super::systemd;

/// The user that a document says, a unit's drop-ins included.
pub(super) fn of_document(document: &Document, beside: Option<&dyn Beside>) -> Option<String> {
    let own = of_file(document.bytes);
    let Some((path, beside)) = document.path.zip(beside) else { return own };
    systemd::user(path, document.bytes, beside).and_then(|user| name(&user)).or(own)
}

/// The user of `-runas`, `-run-with user=`, a unit's `User=` or libvirt's DAC label; `None` where none is said, or several
/// are.
pub(super) fn of_file(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut users = BTreeSet::new();
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || "\"'[]<>=".contains(c)).collect();
    let mut rest = words.iter().filter(|word| !word.is_empty() && **word != ",").peekable();
    while let Some(word) = rest.next() {
        if matches!(*word, "-runas" | "--runas") {
            users.extend(rest.peek().and_then(|next| name(next)));
        }
    }
    for line in text.lines() {
        if let Some((_, options)) = line.split_once("-run-with") {
            let user = options.split([',', ' ', '"', '\'']).find_map(|option| option.strip_prefix("user="));
            users.extend(user.and_then(name));
        }
        if let Some(user) = line.trim().strip_prefix("User=") {
            users.extend(name(user));
        }
    }
    for label in text.split("<seclabel").skip(1) {
        let element = label.split("</seclabel>").next().unwrap_or_default();
        let is_dac = element.contains("model='dac'") || element.contains("model=\"dac\"");
        let said = element.split_once("<label>").and_then(|(_, label)| label.split_once("</label>"));
        users.extend(said.filter(|_| is_dac).and_then(|(label, _)| name(label.trim())));
    }
    let mut users = users.into_iter();
    users.next().filter(|_| users.next().is_none())
}

/// `USER`, `USER:GROUP` or `+UID:+GID`, without the group.
fn name(text: &str) -> Option<String> {
    let user = text.trim_end_matches([',', ';', '\\']).split(':').next()?.trim_start_matches('+');
    let is_name = !user.is_empty() && user.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    (is_name && !user.starts_with('-')).then(|| user.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_where_it_is_said() {
        for (text, expected) in [
            ("qemu -runas games -virtfs x\n", Some("games")),
            ("x = ['-runas', 'games']\n", Some("games")),
            ("qemu -run-with chroot=/x,user=vm:kvm -m 1\n", Some("vm")),
            ("[Service]\nUser=vm\nExecStart=/q\n", Some("vm")),
            ("<seclabel type='static' model='dac'>\n  <label>+107:+107</label>\n</seclabel>", Some("107")),
            ("<seclabel type='static' model='selinux'><label>a:b</label></seclabel>", None),
            ("qemu -runas $WHO\n", None),
            ("qemu -runas a\nqemu -runas b\n", None),
            ("qemu\n", None),
        ] {
            assert_eq!(of_file(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
