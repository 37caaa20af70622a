//! The domain that a snapshot of libvirt's holds.

/// The elements that hold a domain; a domain that is reverted gets the first of these that the snapshot has (libvirt, formatsnapshot).
const HOLDERS: [&str; 2] = ["inactiveDomain", "domain"];

/// The domain of the snapshot `old` if the domain is that of the same snapshot as it is now, but for indentation.
pub(super) fn domain_before(old: &[u8], now: &[u8], domain: &[u8]) -> Option<Vec<u8>> {
    let now = held(std::str::from_utf8(now).ok()?)?;
    let is_same = lines(&now).eq(lines(std::str::from_utf8(domain).ok()?));
    held(std::str::from_utf8(old).ok()?).filter(|_| is_same).map(String::into_bytes)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// The domain that a revert to the snapshot gives.
fn held(text: &str) -> Option<String> {
    let document = roxmltree::Document::parse(text).ok()?;
    let root = document.root_element();
    let node = HOLDERS.iter().find_map(|name| root.children().find(|node| node.has_tag_name(*name)))?;
    let name = node.tag_name().name();
    let inner = text.get(node.range())?.strip_prefix('<')?.strip_prefix(name)?;
    let inner = inner.strip_suffix('>')?.trim_end().strip_suffix(name)?.strip_suffix("</")?;
    Some(format!("<domain{inner}</domain>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(domain: &str, other: &str) -> String {
        format!("<domainsnapshot>\n  <name>s</name>\n  {domain}\n  {other}\n</domainsnapshot>\n")
    }

    #[test]
    fn a_reverted_domain_is_the_one_of_its_snapshot() {
        let domain = |what: &str| format!("<domain type='kvm'>\n    <a>{what}</a>\n  </domain>");
        let inactive = |what: &str| domain(what).replace("domain", "inactiveDomain");
        for (old, now, current, expected) in [
            (snapshot(&domain("old"), ""), snapshot(&domain("new"), ""), domain("new"), Some(domain("old"))),
            // The running domain's own description does not matter where there is one of the inactive domain.
            (
                snapshot(&domain("x"), &inactive("old")),
                snapshot(&domain("y"), &inactive("new")),
                domain("new").replace("    ", " "),
                Some(domain("old")),
            ),
            (snapshot(&domain("old"), ""), snapshot(&domain("new"), ""), domain("edited"), None),
            (snapshot(&domain("old"), ""), "<domainsnapshot/>".to_owned(), domain("new"), None),
            ("no XML".to_owned(), snapshot(&domain("new"), ""), domain("new"), None),
        ] {
            let found = domain_before(old.as_bytes(), now.as_bytes(), current.as_bytes());
            let expected = expected.map(|text| format!("{text}\n").into_bytes());
            assert_eq!(found, expected, "{old} {now} {current}");
        }
    }
}
