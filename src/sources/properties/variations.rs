//! One share in many spellings: the answer is the same whatever it is called, however its arguments are quoted, in whatever
//! order they stand, and whatever format is around them.
//!
//! `VIRTFS_VARIATIONS` sets the number of cases.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

mod forms;

use crate::share::rewrite::Rewrite;
use crate::share::{Share, Transport};
use crate::sources::registry::recognise_named;
use crate::sources::{Document, mention, proved};
use forms::{FORMS, Form};

/// Names of tags and sockets, besides those that are made at random.
const NAMES: &[&str] = &[
    "n", "a b", "ü ß", "日本", "a%b", "%i", "a$b", "${x}", "$(x)", "a\\b", "it's", "a\"b", "a,b", "a#b",
    "a&b", "a<b>", "a{b}", "{{ x }}", "<%= x %>", "[a]", "[,a]", "a;b", "a|b", "a~", "-e", "on", "no", "  a",
    "a  ", "a=b", "a:b", "a: b", "a`b", "a!b", "a*", "a@b", "x.y_z-1", "proxy", "socket=x", "a\tb",
];

/// A share to spell.
#[derive(Debug, Clone)]
struct Case {
    tag: String,
    /// `None`: QEMU gets a descriptor.
    socket: Option<String>,
    /// The directory that is exported.
    export: String,
    /// Other options of the share.
    more: Vec<&'static str>,
    layout: Layout,
    /// Which of the options comes first, and so on.
    order: Vec<usize>,
    spelling: usize,
    crlf: bool,
    last_line_ends: bool,
}

/// How QEMU's options make the share.
#[derive(Debug, Clone, Copy)]
enum Layout {
    Virtfs,
    Apart,
    DeviceFirst,
    WithOthersBetween,
    LongDashes,
    NamedDriver,
}

/// A name as QEMU's option strings have it.
fn option_value(text: &str) -> String {
    text.replace(',', ",,")
}

impl Case {
    /// The share's own option string, with its way to the helper replaced by `way` and its driver by `driver`.
    fn option(&self, driver: &str, way: &str) -> String {
        let mut parts = vec![way.to_owned(), "id=n".to_owned()];
        if let Layout::Virtfs = self.layout {
            parts.push(format!("mount_tag={}", option_value(&self.tag)));
        }
        parts.extend(self.more.iter().map(|part| (*part).to_owned()));
        let mut order = self.order.clone();
        let mut sorted = vec![if let Layout::NamedDriver = self.layout {
            format!("fsdriver={driver}")
        } else {
            driver.to_owned()
        }];
        while !parts.is_empty() {
            sorted.push(parts.remove(order.pop().unwrap_or(0) % parts.len()));
        }
        sorted.join(",")
    }

    fn proxy(&self) -> String {
        let way = self.socket.as_ref().map(|socket| format!("socket={}", option_value(socket)));
        self.option("proxy", &way.unwrap_or_else(|| "sock_fd=7".to_owned()))
    }

    fn local(&self) -> String {
        self.option("local", &format!("path={},security_model=mapped-xattr", option_value(&self.export)))
    }

    /// QEMU's arguments, with this option string in its place.
    fn arguments(&self, option: &str) -> Vec<String> {
        let device = format!("virtio-9p-pci,fsdev=n,mount_tag={}", option_value(&self.tag));
        let words: Vec<&str> = match self.layout {
            Layout::Virtfs => vec!["-virtfs", option],
            Layout::Apart | Layout::NamedDriver => vec!["-fsdev", option, "-device", &device],
            Layout::DeviceFirst => vec!["-device", &device, "-fsdev", option],
            Layout::WithOthersBetween => vec!["-fsdev", option, "-smp", "2", "-device", &device],
            Layout::LongDashes => vec!["--fsdev", option, "--device", &device],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    /// The file, with this option string in its place; `None` where this spelling can't spell it.
    fn file(&self, form: &Form, option: &str) -> Option<String> {
        let spell = form.spellings.get(self.spelling % form.spellings.len())?;
        let words: Option<Vec<_>> = self.arguments(option).iter().map(|word| spell(word)).collect();
        let text = [form.before, &words?.join(form.between), form.behind].concat();
        let text = if self.last_line_ends { &text } else { text.trim_end_matches('\n') };
        Some(if self.crlf { text.replace('\n', "\r\n") } else { text.to_owned() })
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![select(NAMES).prop_map(str::to_owned), "[a-z]{1,3}[ -~]{0,3}[é a-z]{1,3}",]
}

fn case() -> impl Strategy<Value = Case> {
    let layouts = vec![
        Layout::Virtfs,
        Layout::Apart,
        Layout::DeviceFirst,
        Layout::WithOthersBetween,
        Layout::LongDashes,
        Layout::NamedDriver,
    ];
    let socket = prop_oneof![8 => name().prop_map(|name| Some(format!("/run/{name}.sock"))), 1 => Just(None)];
    let more = select(vec![
        vec![],
        vec!["readonly=on"],
        vec!["readonly"],
        vec!["writeout=immediate", "readonly=off"],
    ]);
    let export = prop_oneof![2 => Just("n".to_owned()), 1 => name()].prop_map(|name| format!("/srv/{name}"));
    (
        name(),
        (socket, export),
        more,
        select(layouts),
        proptest::collection::vec(0..4_usize, 4),
        0..12_usize,
        any::<[bool; 2]>(),
    )
        .prop_map(|(tag, (socket, export), more, layout, order, spelling, [crlf, last_line_ends])| {
            Case { tag, socket, export, more, layout, order, spelling, crlf, last_line_ends }
        })
}

/// Whether a name looks like what some program fills in: then it may be said not to be known.
fn may_be_filled_in(name: &str) -> bool {
    name.contains(['$', '%', '{', '`']) || name.contains("<%")
}

/// Whether a name may be a part of an expression that another program fills in: by itself, or because it ends one that the other
/// name begins.
fn may_be_part(name: &str, other: Option<&str>) -> bool {
    may_be_filled_in(name) || name.contains(['}', ')', '>', '`']) && other.is_some_and(may_be_filled_in)
}

fn how(case: &Case) -> Rewrite {
    let readonly = case.more.iter().any(|more| matches!(*more, "readonly" | "readonly=on"));
    Rewrite {
        exports: vec![(b"n".to_vec(), (&case.export).into())],
        readonly: vec![(b"n".to_vec(), readonly)],
        in_place_args: true,
        ..Rewrite::default()
    }
}

/// Reads one spelling of a share and rewrites it. `None`: the form can't spell it. Else, whether it was rewritten.
fn check(form: &Form, case: &Case) -> Option<bool> {
    let text = case.file(form, &case.proxy())?;
    let document = Document { path: Some(Path::new(form.name)), bytes: text.as_bytes() };
    let hidden = may_be_filled_in(&case.tag) || case.socket.as_deref().is_some_and(may_be_filled_in);
    let format = recognise_named(&document).unwrap_or_else(|| panic!("no format: {text}"));
    let shares = match format.read(&document) {
        Ok(reading) => reading.shares,
        // A file that can't be read is named as such.
        Err(error) => {
            assert!(hidden, "{error}: {text}");
            return Some(false);
        }
    };
    let [share] = shares.as_slice() else {
        let is_told = shares.is_empty() && mention::first_unread(text.as_bytes(), &[]).is_some();
        assert!(hidden && is_told, "{} shares: {text}", shares.len());
        return Some(false);
    };
    as_spelt(share, case, &text);
    let rewritten = proved::rewrite(format, &document, &shares, &how(case), None, &|_| Vec::new());
    let new = match rewritten {
        Ok(rewritten) => rewritten.text,
        Err(refusal) => {
            // Not everything can be spelt in the place of a socket.
            let is_plain =
                case.export.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            assert!(hidden || !is_plain, "{}: {text}", refusal.message);
            return Some(false);
        }
    };
    let new = String::from_utf8(new).unwrap();
    if !is_as_spelt(form, case, &new) {
        assert_eq!(Some(&new), case.file(form, &case.local()).as_ref(), "{text}");
    }
    Some(true)
}

/// A share says what its text says, or that it is not known.
fn as_spelt(share: &Share, case: &Case, text: &str) {
    // An expression from one name to the other may hold the id, too.
    let reaches = case.socket.as_deref().is_some_and(|socket| {
        may_be_filled_in(socket) && may_be_part(&case.tag, Some(socket))
            || may_be_part(socket, Some(&case.tag))
    });
    assert!(share.fsdev == b"n" || share.fsdev.is_empty() && reaches, "{text}");
    match (&share.transport, &case.socket) {
        (Transport::Socket(path), Some(socket)) => assert_eq!(path, &PathBuf::from(socket), "{text}"),
        (Transport::Fd(7), None) => {}
        (Transport::Unknown(_), Some(socket)) => assert!(may_be_part(socket, Some(&case.tag)), "{text}"),
        other => panic!("{other:?}: {text}"),
    }
    match &share.mount_tag {
        Some(tag) => assert_eq!(tag, case.tag.as_bytes(), "{text}"),
        None => assert!(may_be_part(&case.tag, case.socket.as_deref()), "{text}"),
    }
}

/// Whether the new text is the old one but for the option string, and that says what it should. The rewriter keeps the spelling of
/// what it keeps, where a spelling from the start could be another one: in pieces, say.
fn is_as_spelt(form: &Form, case: &Case, new: &str) -> bool {
    let mark = "MARK";
    let Some(frame) = case.file(form, mark) else { return false };
    let spell = form.spellings.get(case.spelling % form.spellings.len());
    let Some(spelt) = spell.and_then(|spell| spell(mark)) else { return false };
    let Some((before, behind)) = frame.split_once(&spelt) else { return false };
    let Some(own) = new.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind)) else { return false };
    let again = own.replacen("local", "proxy", 1).replacen("path=", "socket=", 1);
    // Another option stays behind the path: a blank at its end would end the text, and not be the path's.
    let again =
        [before, &again.replacen(",security_model=mapped-xattr", ",writeout=immediate", 1), behind].concat();
    let document = Document { path: Some(Path::new(form.name)), bytes: again.as_bytes() };
    let Some(Ok(reading)) = recognise_named(&document).map(|format| format.read(&document)) else {
        return false;
    };
    let [share] = reading.shares.as_slice() else { return false };
    share.transport == Transport::Socket((&case.export).into())
}

/// Always the same 400 cases, or as many as `VIRTFS_VARIATIONS` says, which are others in each run.
fn config() -> ProptestConfig {
    let asked = std::env::var("VIRTFS_VARIATIONS").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(400),
        rng_seed: if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(9) },
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_share_is_the_same_however_it_is_spelt(form in 0..FORMS.len(), case in case()) {
        check(&FORMS[form], &case);
    }
}

/// An expression may begin in one name and end in the other: then neither is known.
#[test]
fn an_expression_may_reach_from_name_to_name() {
    for form in FORMS {
        for (socket, tag) in [("/run/a%{b.sock", "c}d"), ("/run/a}b.sock", "c%{d"), ("/run/a${b.sock", "c}d")]
        {
            let case = Case {
                tag: tag.to_owned(),
                socket: Some(socket.to_owned()),
                export: "/srv/n".to_owned(),
                more: vec![],
                layout: Layout::WithOthersBetween,
                order: vec![1, 0],
                spelling: 1,
                crlf: false,
                last_line_ends: true,
            };
            check(form, &case);
        }
    }
}

/// A blank at the end of the path is the path's own in every form.
#[test]
fn a_path_may_end_with_a_blank() {
    for form in FORMS {
        for spelling in 0..form.spellings.len() {
            let case = Case {
                tag: "tag".to_owned(),
                socket: Some("/run/n.sock".to_owned()),
                export: "/srv/a ".to_owned(),
                more: vec!["readonly"],
                layout: Layout::NamedDriver,
                order: vec![0, 1, 1],
                spelling,
                crlf: false,
                last_line_ends: true,
            };
            check(form, &case);
        }
    }
}

/// Every form and spelling, with plain names: each is read and rewritten.
#[test]
fn plain_names_are_rewritten_in_every_spelling() {
    let mut spelt = 0;
    for form in FORMS {
        for spelling in 0..form.spellings.len() {
            for (layout, crlf) in
                [(Layout::Virtfs, false), (Layout::Apart, true), (Layout::NamedDriver, false)]
            {
                let case = Case {
                    tag: "tag".to_owned(),
                    socket: Some("/run/n.sock".to_owned()),
                    export: "/srv/n".to_owned(),
                    more: vec!["readonly=on"],
                    layout,
                    order: vec![1, 0, 1],
                    spelling,
                    crlf,
                    last_line_ends: true,
                };
                // Only a list of YAML's flow style has a spelling that can't hold a comma.
                let expected = if case.file(form, &case.proxy()).is_some() { Some(true) } else { None };
                assert_eq!(check(form, &case), expected, "{} {spelling}", form.before);
                spelt += usize::from(expected.is_some());
            }
        }
    }
    assert!(spelt > 300, "{spelt}");
}
