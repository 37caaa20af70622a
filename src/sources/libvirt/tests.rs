//! Properties of reading and rewriting domain XML, however it is laid out.

use std::fmt::Write as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::share::rewrite::apply;

/// How a domain's text is laid out.
#[derive(Debug, Clone)]
struct Layout {
    prefix: &'static str,
    quote: char,
    newline: &'static str,
    unit: &'static str,
    /// After each argument: another on the same line, a line's end, a comment.
    after: Vec<u8>,
    long_tags: bool,
}

/// What is between the arguments.
#[derive(Debug, Clone)]
struct Content {
    shares: Vec<(bool, bool, Option<u8>)>,
    others: Vec<&'static str>,
    devices: usize,
    filesystems: usize,
    order: Vec<u16>,
}

fn layout() -> impl Strategy<Value = Layout> {
    (
        prop_oneof![Just("qemu:"), Just("q:"), Just("")],
        prop_oneof![Just('\''), Just('"')],
        prop_oneof![Just("\n"), Just("\r\n"), Just("")],
        prop_oneof![Just("  "), Just("\t"), Just("")],
        proptest::collection::vec(0..5_u8, 40),
        any::<bool>(),
    )
        .prop_map(|(prefix, quote, newline, unit, after, long_tags)| Layout {
            prefix,
            quote,
            newline,
            unit,
            after,
            long_tags,
        })
}

fn content() -> impl Strategy<Value = Content> {
    (
        proptest::collection::vec((any::<bool>(), any::<bool>(), proptest::option::of(1..30_u8)), 0..4),
        proptest::collection::vec(
            prop_oneof![Just("-snapshot"), Just("-no-reboot"), Just("-S"), Just("-nodefaults")],
            0..4,
        ),
        0..3_usize,
        0..3_usize,
        proptest::collection::vec(any::<u16>(), 12),
    )
        .prop_map(|(shares, others, devices, filesystems, order)| Content {
            shares,
            others,
            devices,
            filesystems,
            order,
        })
}

/// The arguments in pairs or alone, in an order of chance.
fn arguments(content: &Content) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = content.others.iter().map(|&other| vec![other.to_owned()]).collect();
    for (index, (virtfs, readonly, addr)) in content.shares.iter().enumerate() {
        let readonly = if *readonly { ",readonly=on" } else { "" };
        if *virtfs {
            groups.push(vec![
                "-virtfs".to_owned(),
                format!("proxy,id=f{index},mount_tag=t{index},socket=/run/{index}&amp;.sock{readonly}"),
            ]);
            continue;
        }
        let addr = addr.map_or(String::new(), |addr| format!(",addr={addr:#x}"));
        groups.push(vec!["-fsdev".to_owned(), format!("proxy,id=f{index},sock_fd={index}{readonly}")]);
        groups.push(vec![
            "-device".to_owned(),
            format!("virtio-9p-pci,fsdev=f{index},mount_tag=t{index}{addr}"),
        ]);
    }
    let mut keyed: Vec<_> = content.order.iter().cycle().zip(groups).collect();
    keyed.sort_by_key(|(key, _)| **key);
    keyed.into_iter().map(|(_, group)| group).collect()
}

fn text(layout: &Layout, content: &Content) -> String {
    let Layout { prefix, quote, newline, unit, .. } = layout;
    let line = |depth: usize, text: &str| format!("{}{text}{newline}", unit.repeat(depth));
    let (name, colon) = prefix.split_once(':').unwrap_or(("", ""));
    let namespace = "http://libvirt.org/schemas/domain/qemu/1.0";
    let (on_domain, on_line) = if colon.is_empty() && name.is_empty() && prefix.is_empty() {
        (String::new(), format!(" xmlns={quote}{namespace}{quote}"))
    } else {
        (format!(" xmlns:{name}={quote}{namespace}{quote}"), String::new())
    };
    let mut out =
        line(0, "<!-- kept -->") + &line(0, &format!("<domain{on_domain}>")) + &line(1, "<name>vm</name>");
    if content.devices > 0 {
        out += &line(1, "<devices>");
        out += &line(2, "<emulator>/q</emulator><!-- kept -->");
        for index in 0..content.filesystems {
            out += &line(2, &format!("<filesystem><target dir='old{index}'/></filesystem> <!-- kept -->"));
        }
        out += &line(2, "<memballoon/>");
        out += &line(1, "</devices>");
    }
    out += &line(1, &format!("<{prefix}commandline{on_line}>"));
    let mut after = layout.after.iter().cycle();
    for value in arguments(content).concat() {
        let end = if layout.long_tags { format!("></{prefix}arg>") } else { "/>".to_owned() };
        let _ = write!(out, "{}<{prefix}arg value={quote}{value}{quote}{end}", unit.repeat(2));
        if let Some(1) = after.next() {
            out += " <!-- kept -->";
            out += newline;
        } else if after.next() != Some(&0) {
            out += newline;
        }
    }
    out + &line(1, &format!("</{prefix}commandline>")) + &line(0, "</domain>")
}

fn exports() -> Rewrite {
    let exports =
        (0..4).map(|index| (format!("t{index}").into_bytes(), PathBuf::from(format!("/srv/{index}"))));
    Rewrite { exports: exports.collect(), ..Rewrite::default() }
}

fn document(text: &str) -> Document<'_> {
    Document { path: None, bytes: text.as_bytes() }
}

fn values(text: &str) -> Vec<String> {
    let file = File::open(text.as_bytes()).unwrap();
    let xml = file.parse().unwrap();
    let domains = arguments::domains(&file, &xml);
    domains
        .iter()
        .flat_map(|domain| &domain.args)
        .map(|arg| String::from_utf8(arg.value.clone()).unwrap())
        .collect()
}

proptest! {
    #[test]
    fn a_rewrite_takes_out_the_shares_and_nothing_else(layout in layout(), content in content(), in_place in any::<bool>()) {
        let before = text(&layout, &content);
        let how = Rewrite { in_place_args: in_place, ..exports() };
        let reading = Libvirt.read(&document(&before)).unwrap();
        prop_assert_eq!(reading.shares.len(), content.shares.len());
        let mut edits = Libvirt.rewrite(&document(&before), &how).unwrap().edits;
        edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
        for pair in edits.windows(2) {
            prop_assert!(pair[0].span.end <= pair[1].span.start, "{:?}", pair);
        }
        let after = String::from_utf8(apply(before.as_bytes(), &edits)).unwrap();
        prop_assert!(Libvirt.read(&document(&after)).unwrap().shares.is_empty(), "{}", after);
        prop_assert!(Libvirt.rewrite(&document(&after), &how).unwrap().edits.is_empty());

        let kept: Vec<_> = values(&before).into_iter().filter(|value| content.others.contains(&value.as_str())).collect();
        let left = values(&after);
        let moved = if in_place { 0 } else { content.shares.len() };
        if in_place {
            prop_assert_eq!(left.len(), values(&before).len());
        } else {
            prop_assert_eq!(left, kept);
        }
        let count = |text: &str, what: &str| text.matches(what).count();
        prop_assert_eq!(count(&after, "<!-- kept -->"), count(&before, "<!-- kept -->"));
        prop_assert_eq!(count(&after, "</filesystem>"), count(&before, "</filesystem>") + moved);
        let readonly = content.shares.iter().filter(|(_, readonly, _)| *readonly).count();
        prop_assert_eq!(count(&after, "<readonly/>"), if in_place { 0 } else { readonly });
        // What was one line's end stays so everywhere.
        if layout.newline == "\r\n" {
            prop_assert_eq!(count(&after, "\n"), count(&after, "\r\n"));
        }
        if layout.newline.is_empty() {
            prop_assert_eq!(count(&after, "\n"), 0);
        }
        // No line is left with blanks alone.
        if !layout.newline.is_empty() {
            prop_assert!(after.lines().all(|line| !line.trim().is_empty()), "{}", after);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[<>/a-z'\"= &;!\\-\\[\\]?:\n]{0,200}") {
        let wrapped = format!("<domain>{text}</domain>");
        for text in [text, wrapped] {
            if let Ok(reading) = Libvirt.read(&document(&text)) {
                prop_assert!(reading.shares.is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Libvirt.read(&Document { path: None, bytes: &bytes });
        let saved = [&b"LibvirtQemudSave"[..], &bytes].concat();
        let _ = Libvirt.read(&Document { path: None, bytes: &saved });
    }
}
