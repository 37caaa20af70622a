//! `-readconfig` files: sections of QEMU's options, as people write them and as LXD and Incus do.

#![forbid(unsafe_code)]

mod lines;

use std::path::Path;

use super::commands;
use super::format::{Beside, Document, Format, Reading, Unreadable};
use super::managed::Managed;
use super::templates::all_expressions;
use crate::report::finding::{self, Finding};
use crate::share::argv::{self, Arg, ArgvShare};
use crate::share::local::{self, Options, Unrepresentable, quotable};
use crate::share::memory::Memory;
use crate::share::qemu_opts;
use crate::share::rewrite::{Edit, Edits, Refusal, Rewrite};
use crate::share::{Note, Place, Share};
use lines::{Pair, Section, Sections};

/// `-readconfig` files.
pub(crate) struct Readconfig;

/// Sections that say what a file is, at a line's start.
const TELLING: [&[u8]; 6] =
    [b"[fsdev", b"[device", b"[chardev \"", b"[netdev \"", b"[drive \"", b"[object \""];

impl Format for Readconfig {
    fn name(&self) -> &'static str {
        "readconfig"
    }

    fn recognises(&self, document: &Document) -> bool {
        let text = document.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document.bytes);
        let is_said = |line: &&[u8]| !line.is_empty() && !line.starts_with(b"#");
        let first = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).find(is_said);
        first.is_some_and(|line| line.starts_with(b"["))
            && TELLING.iter().any(|section| {
                memchr::memmem::find_iter(text, section)
                    .any(|at| at == 0 || text.get(at - 1).is_some_and(|before| b"\n \t".contains(before)))
            })
    }

    fn read_beside(&self, document: &Document, _beside: Option<&dyn Beside>) -> Result<Reading, Unreadable> {
        commands::refuse_long(document.bytes)?;
        let file = Configuration::of(document);
        let mut reading = Reading::default();
        for (found, _) in file.shares() {
            if let Some(managed) = Managed::of(&found.share.fsdev, document.path) {
                reading.findings.push(Finding {
                    kind: &finding::GENERATED_FILE,
                    place: found.share.place.clone(),
                    message: managed.message(),
                    remedy: Some(managed.remedy()),
                    subject: None,
                });
            }
            reading.shares.push(found.share);
        }
        Ok(reading)
    }

    fn rewrite_beside(
        &self,
        document: &Document,
        how: &Rewrite,
        _beside: Option<&dyn Beside>,
    ) -> Result<Edits, Refusal> {
        commands::refuse_long(document.bytes).map_err(Unreadable::refusal)?;
        let file = Configuration::of(document);
        let mut edits = Edits::default();
        let mut done: Vec<usize> = Vec::new();
        for (found, section) in file.shares().into_iter().filter(|(found, _)| how.wants(&found.share)) {
            if how.look.is_some() {
                edits.look(&found.share, how);
                continue;
            }
            let line = found.share.place.line;
            if let Some(managed) = Managed::of(&found.share.fsdev, document.path) {
                return Err(Refusal::at(line, managed.message(), managed.remedy()));
            }
            argv::refuse_doubtful(&found.share)?;
            let export = how.export_of(&found.share)?;
            let readonly = how.readonly_of(&found.share)?;
            edits.findings.extend(how.doubt(&found.share));
            let path = edits.take(how.answered(&found.share)?, export.clone(), how.view.as_ref());
            if !done.contains(&found.fsdev) {
                done.push(found.fsdev);
                let unsayable = |Unrepresentable(reason): Unrepresentable| {
                    Refusal::at(line, reason, "give the directory another name")
                };
                let path = quotable(local::path_bytes(&path)).map_err(unsayable)?;
                edits.edits.extend(file.section_edits(section, path, &how.local_for(&export), readonly));
            }
        }
        argv::refuse_twins(edits.moved.iter().map(|moved| &moved.share))?;
        Ok(edits)
    }
}

/// A file with its sections said as QEMU's arguments.
struct Configuration<'a> {
    document: &'a Document<'a>,
    sections: Sections,
    args: Vec<Arg>,
    /// The section of each argument.
    origins: Vec<usize>,
}

impl<'a> Configuration<'a> {
    fn of(document: &'a Document<'a>) -> Self {
        let sections = Sections::of(document.bytes);
        let mut file = Self { document, sections, args: Vec::new(), origins: Vec::new() };
        for (index, section) in file.sections.list.iter().enumerate() {
            if let Some(option) = option_of(&section.group) {
                let said = option_string(document.bytes, section);
                for value in [option.to_vec(), said] {
                    let span = section.span.clone();
                    let unknown = all_expressions(&value);
                    file.args.push(Arg { value, unknown, span, line: section.line });
                    file.origins.push(index);
                }
            }
        }
        file
    }

    /// The proxy shares, each with the section of its fsdev.
    fn shares(&self) -> Vec<(ArgvShare, &Section)> {
        let found = argv::shares(&self.args).into_iter();
        let guest = argv::guest_name(&self.args);
        found
            .filter_map(|mut found| {
                let section = self.sections.list.get(*self.origins.get(found.fsdev)?)?;
                self.complete(&mut found.share, guest.clone());
                Some((found, section))
            })
            .collect()
    }

    fn complete(&self, share: &mut Share, guest: Option<Vec<u8>>) {
        let managed = Managed::of(&share.fsdev, self.document.path);
        let instance = managed.as_ref().and_then(|managed| managed.instance.clone());
        share.place = Place {
            file: self.document.path.map(Path::to_owned),
            guest: guest.or(instance),
            ..share.place.clone()
        };
        if let Memory::Plain(plain) = &mut share.memory {
            plain.elsewhere.get_or_insert_with(|| argv::REST.to_owned());
        }
        if managed.is_some() {
            share.notes.push(Note::Generated);
        }
        if let Some(line) = self.sections.refused {
            share
                .notes
                .push(Note::Refused(format!("line {line} of the file is not as -readconfig wants it")));
        }
    }

    /// The edits by which a section of a proxy fsdev becomes that of a `local` one.
    fn section_edits(
        &self,
        section: &Section,
        path: &[u8],
        options: &Options,
        readonly: Option<bool>,
    ) -> Vec<Edit> {
        let on_off = |on: bool| if on { "on" } else { "off" };
        let says = section.pairs.iter().any(|pair| self.key(pair) == b"readonly");
        let mut more = local::model_pairs(options);
        more.extend(readonly.filter(|on| *on && !says).map(|on| ("readonly", on_off(on).to_owned())));
        let is_transport = |pair: &Pair| self.key(pair) == b"socket" || self.key(pair) == b"sock_fd";
        let counting = section.pairs.iter().rposition(is_transport);
        let mut edits = Vec::new();
        for (index, pair) in section.pairs.iter().enumerate() {
            if Some(index) == counting {
                edits.push(Edit { span: pair.key.clone(), with: b"path".to_vec() });
                edits.push(Edit { span: pair.value.clone(), with: path.to_vec() });
                edits.push(self.lines_behind(pair, &more));
            } else if is_transport(pair) {
                edits.push(Edit { span: pair.line.clone(), with: Vec::new() });
            } else if self.key(pair) == b"fsdriver" {
                edits.push(Edit { span: pair.value.clone(), with: b"local".to_vec() });
            } else if let Some(on) = readonly.filter(|_| self.key(pair) == b"readonly") {
                edits.push(Edit { span: pair.value.clone(), with: on_off(on).into() });
            }
        }
        edits
    }

    /// Lines behind `pair`'s, laid out as it is.
    fn lines_behind(&self, pair: &Pair, more: &[(&str, String)]) -> Edit {
        let bytes = self.document.bytes;
        let slice = |from: usize, to: usize| bytes.get(from..to).unwrap_or_default();
        let indent = slice(pair.line.start, pair.key.start);
        let between = slice(pair.key.end, pair.value.start);
        let own = slice(pair.line.start, pair.line.end);
        let newline: &[u8] = if own.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
        let is_last = !own.ends_with(b"\n");
        let mut with = Vec::new();
        for (key, value) in more {
            if is_last {
                with.extend_from_slice(newline);
            }
            with.extend([indent, key.as_bytes(), between, value.as_bytes(), b"\""].concat());
            if !is_last {
                with.extend_from_slice(newline);
            }
        }
        Edit { span: pair.line.end..pair.line.end, with }
    }

    fn key(&self, pair: &Pair) -> &[u8] {
        self.document.bytes.get(pair.key.clone()).unwrap_or_default()
    }
}

/// The option whose values a group of sections holds, of those that make shares and the guest's memory.
fn option_of(group: &[u8]) -> Option<&'static [u8]> {
    match group {
        b"fsdev" => Some(b"-fsdev"),
        b"device" => Some(b"-device"),
        b"global" => Some(b"-global"),
        b"name" => Some(b"-name"),
        b"memory" => Some(b"-m"),
        b"machine" => Some(b"-machine"),
        b"object" => Some(b"-object"),
        b"numa" => Some(b"-numa"),
        _ => None,
    }
}

/// A section as an option string.
fn option_string(bytes: &[u8], section: &Section) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(id) = &section.id {
        out.extend_from_slice(b"id=");
        out.extend(qemu_opts::escape(id));
        out.push(b',');
    }
    for pair in &section.pairs {
        let text = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        out.extend_from_slice(text(&pair.key));
        out.push(b'=');
        out.extend(qemu_opts::escape(text(&pair.value)));
        out.push(b',');
    }
    out
}
