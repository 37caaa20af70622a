//! What changes in a guest's configuration, and the commands that put the change in place and take it back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::document::{Command, Manager, Question, Source, path_of};
use super::found::is_called;
use super::manager::Managed;
use super::place::Place;
use super::tool;
use crate::moves::options::PlanArgs;
use crate::report::audit::ShareRow;
use crate::report::finding;

/// How this program is called.
const PROGRAM: &str = "virtfs-proxy-helper";

/// The findings of `migrate config` about other lines than the shares' own.
const AROUND: &[&finding::Kind] = &[
    &finding::EXPORT_HIDDEN,
    &finding::EXPORT_LOCKED,
    &finding::QEMU_CONFINED,
    &finding::HELPER_REQUIRED,
    &finding::HELPER_STARTED,
];

/// A change of a guest's configuration.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub questions: Vec<Question>,
    /// The commands that prepare and make it.
    pub run: Vec<Command>,
    /// The commands that take it back.
    pub undo: Vec<Command>,
    /// The documents that change.
    pub documents: Vec<Source>,
    /// What changes.
    pub diff: String,
}

/// One document that holds shares, and these.
#[derive(Debug)]
struct Found {
    source: Source,
    in_place_args: bool,
    rows: Vec<ShareRow>,
}

/// The change of a guest's configuration that moves its shares.
pub(super) fn change(
    by: &Managed,
    rows: &[ShareRow],
    model: Option<&str>,
    args: &PlanArgs,
    place: &Place,
) -> anyhow::Result<Change> {
    let mut change = Change::default();
    let ask = |text: String| Question { about: by.name.clone(), text, option: None };
    if by.manager == Manager::Incus {
        change.questions.push(ask(
            "LXD or Incus writes QEMU's configuration itself, and no edit of it lasts: upgrade it, or move the device to virtiofs \
             (MIGRATION.md, LXD and Incus)"
                .to_owned(),
        ));
        return Ok(change);
    }
    let found = sources(by, rows);
    if found.is_empty() {
        change.questions.push(ask(
            "no file was found that starts QEMU with this share: name the file, or its folder, as PATH"
                .to_owned(),
        ));
    }
    for one in &found {
        one.plan(by, model, args, place, &mut change)?;
    }
    if by.manager == Manager::Systemd && !change.documents.is_empty() {
        change.run.push(Command::of(["systemctl", "daemon-reload"]));
        change.undo.push(Command::of(["systemctl", "daemon-reload"]));
    }
    Ok(change)
}

fn sources(by: &Managed, rows: &[ShareRow]) -> Vec<Found> {
    let files: BTreeSet<_> = rows.iter().filter_map(|row| row.file.as_deref()).collect();
    let mut sources: Vec<Found> = Vec::new();
    for file in files.into_iter().filter(|file| !file.starts_with("/proc/")) {
        let own: Vec<_> = rows.iter().filter(|row| row.file.as_deref() == Some(file)).cloned().collect();
        let mut source = match by.manager {
            Manager::Libvirt => libvirt(&by.name, &path_of(file)),
            _ => Found::of_file(file),
        };
        source.rows = own;
        // libvirt keeps the state of a running domain in a file of its own.
        let is_same =
            |other: &&mut Found| !other.source.dump.is_empty() && other.source.dump == source.source.dump;
        match sources.iter_mut().find(is_same) {
            Some(other) => other.rows.append(&mut source.rows),
            None => sources.push(source),
        }
    }
    if by.manager == Manager::Libvirt && sources.is_empty() {
        // A domain that is not stored runs.
        let mut source = libvirt(&by.name, Path::new("/etc/libvirt/qemu/domain.xml"));
        source.rows = rows.to_vec();
        sources.push(source);
    }
    sources
}

/// libvirt holds its files in memory: each goes out and in by virsh.
fn libvirt(domain: &str, file: &Path) -> Found {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let has = |part: &str| file.components().any(|component| component.as_os_str() == part);
    let text = crate::report::rows::path(file);
    if !text.starts_with("/etc/libvirt/")
        && !text.starts_with("/var/lib/libvirt/")
        && !text.starts_with("/run/")
    {
        return Found::of_file(&text);
    }
    if file.extension().is_some_and(|extension| extension == "save") {
        return Found::of_command(
            format!("{domain}.save.virtfs-move.xml"),
            format!("saved image of {domain}"),
            &["virsh", "save-image-dumpxml", "--security-info", &text],
            &["virsh", "save-image-define", &text],
        );
    }
    for what in ["snapshot", "checkpoint"] {
        if has(what) {
            return Found::of_command(
                format!("{domain}.{what}.{stem}.virtfs-move.xml"),
                format!("{what} {stem} of {domain}"),
                &["virsh", &format!("{what}-dumpxml"), "--security-info", domain, &stem],
                &["virsh", &format!("{what}-create"), "--redefine", domain],
            );
        }
    }
    let mut found = Found::of_command(
        format!("{domain}.virtfs-move.xml"),
        format!("domain {domain}"),
        &["virsh", "dumpxml", "--inactive", "--security-info", domain],
        &["virsh", "define"],
    );
    found.in_place_args = false;
    found
}

impl Found {
    fn of_file(file: &str) -> Self {
        let source = Source { file: file.to_owned(), shown: file.to_owned(), ..Source::default() };
        Self { source, in_place_args: false, rows: Vec::new() }
    }

    fn of_command(file: String, shown: String, dump: &[&str], define: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let source = Source { file, shown, dump: owned(dump), define: owned(define), ..Source::default() };
        Self { source, in_place_args: true, rows: Vec::new() }
    }

    /// Asks `migrate config` what changes, and writes down how to do it.
    fn plan(
        &self,
        by: &Managed,
        model: Option<&str>,
        args: &PlanArgs,
        place: &Place,
        change: &mut Change,
    ) -> anyhow::Result<()> {
        if self.rows.iter().any(|row| row.export.is_none()) {
            // That is asked already, and without it nothing can be rewritten.
            return Ok(());
        }
        let options = self.options(model, args);
        let mut source = self.source.clone();
        // The managers here are not that host's: what it has is in its files.
        let on_host = self.rows.first().and_then(|row| row.file.as_deref()).filter(|_| place.is_elsewhere());
        let text = match on_host {
            Some(file) => {
                let bytes = place.read(&path_of(file));
                bytes.with_context(|| format!("{file} can't be read, or is too large"))?
            }
            None => source.read()?,
        };
        source.sha256 = digest(&text);
        source.options = options.iter().map(|option| crate::text::escape_os(option).into_owned()).collect();
        let scratch = tempfile::tempdir().context("making a folder for the domain's XML")?;
        let file = if let Some(file) = on_host {
            path_of(file)
        } else if source.dump.is_empty() {
            path_of(&source.file)
        } else {
            // The file is only root's: it may hold passwords.
            let file = scratch.path().join("document.xml");
            fs::write(&file, &text).context("writing the XML to a file")?;
            file
        };
        let mut words = options.clone();
        if let Some(root) = place.root() {
            words.extend(["--root".into(), root.as_os_str().to_owned()]);
        }
        words.extend(["--diff".into(), "--".into(), file.clone().into_os_string()]);
        let output = tool::verb("config", words)?;
        if output.status != Some(0) {
            let reason = renamed(&output.reason(), &file, &source.shown);
            let text = if reason.starts_with(&source.shown) {
                reason
            } else {
                format!("{}: {reason}", source.shown)
            };
            change.questions.push(Question { about: by.name.clone(), text, option: None });
            return Ok(());
        }
        for line in open_findings(&output.stderr, &file.to_string_lossy()) {
            let mut text = renamed(line, &file, &source.shown);
            if by.manager == Manager::Systemd {
                text += ". Do that first, run `systemctl daemon-reload`, and make the plan again";
            }
            change.questions.push(Question { about: by.name.clone(), text, option: None });
        }
        if output.stdout.is_empty() {
            return Ok(());
        }
        change.diff += &renamed(&output.text(), &file, &source.shown);
        source.commands(change, place);
        change.documents.push(source);
        Ok(())
    }

    /// The options of `migrate config` for this document.
    fn options(&self, model: Option<&str>, args: &PlanArgs) -> Vec<OsString> {
        let mut words = Vec::new();
        let mut named: BTreeSet<OsString> = BTreeSet::new();
        for row in &self.rows {
            let name = row.socket.as_ref().or(row.mount_tag.as_ref()).or(row.fsdev.as_ref());
            if let (Some(name), Some(export)) = (name, &row.export) {
                let mut word = OsString::from("--export=");
                word.push(path_of(name));
                word.push("=");
                word.push(path_of(export));
                named.insert(word);
            }
        }
        words.extend(named);
        let here = |name: &&OsString| self.rows.iter().any(|row| is_called(row, name));
        for (option, names) in [("--readonly=", &args.readonly), ("--writable=", &args.writable)] {
            for name in names.iter().filter(here) {
                let mut word = OsString::from(option);
                word.push(name);
                words.push(word);
            }
        }
        words.extend(
            model
                .filter(|model| *model != "mapped-xattr")
                .map(|model| format!("--security-model={model}").into()),
        );
        words.extend(self.in_place_args.then(|| "--in-place-args".into()));
        words
    }
}

impl Source {
    /// What it holds now.
    pub(super) fn read(&self) -> anyhow::Result<Vec<u8>> {
        let Some((program, words)) = self.dump.split_first() else {
            return fs::read(path_of(&self.file)).with_context(|| format!("reading {}", self.file));
        };
        let output = tool::run(program, words.iter().map(|word| path_of(word)))?;
        anyhow::ensure!(output.status == Some(0), "{}: {}", self.dump.join(" "), output.reason());
        Ok(output.stdout)
    }

    /// Whether it is the image of a saved guest.
    pub(super) fn is_image(&self) -> bool {
        self.dump.get(1).is_some_and(|word| word == "save-image-dumpxml")
    }

    /// Whether it is there no more: libvirt removes a saved image when it restores the guest, and people remove snapshots.
    pub(super) fn is_gone(&self) -> anyhow::Result<bool> {
        let words: Vec<_> = self.dump.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["virsh", "save-image-dumpxml", .., file] => Ok(!path_of(file).try_exists()?),
            ["virsh", what @ ("snapshot-dumpxml" | "checkpoint-dumpxml"), .., domain, name] => {
                let list = what.replace("dumpxml", "list");
                let said =
                    tool::run("virsh", [path_of(&list), "--name".into(), "--".into(), path_of(domain)])?;
                anyhow::ensure!(said.status == Some(0), "virsh {list} {domain}: {}", said.reason());
                let name = crate::text::unescape(name);
                Ok(!said.stdout.split(|byte| *byte == b'\n').any(|line| line == name))
            }
            _ => Ok(false),
        }
    }

    /// The command that hands the file back to the manager.
    pub(super) fn definition(&self, file: &str) -> Command {
        Command::of(self.define.iter().map(String::as_str).chain([file]))
    }

    fn commands(&self, change: &mut Change, place: &Place) {
        let mut config = vec![PROGRAM, "migrate", "config", "--in-place"];
        config.extend(self.options.iter().map(String::as_str));
        config.push(&self.file);
        let config = Command::of(config);
        if self.dump.is_empty() {
            change.run.push(config);
            let kept = format!("{}{}", self.file, kept_as(&place.here(&path_of(&self.file))));
            change.undo.push(Command::of(["mv", &kept, &self.file]));
            return;
        }
        let output = Some(self.file.clone());
        change.run.push(Command { output, ..Command::of(&self.dump) });
        change.run.push(config);
        change.run.push(self.definition(&self.file));
        change.undo.push(self.definition(&format!("{}.orig", self.file)));
    }
}

/// The SHA-256 of bytes, in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What `migrate config --in-place` puts behind a file's name to keep the old one: the first that is free.
fn kept_as(file: &Path) -> String {
    let is_free = |end: &String| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        fs::symlink_metadata(name).is_err()
    };
    let ends = (2..=9999).map(|number| format!(".orig.{number}"));
    std::iter::once(".orig".to_owned()).chain(ends).find(is_free).unwrap_or_else(|| ".orig".to_owned())
}

/// Whether a line of `migrate config` is about what keeps QEMU from the export, or needs the helper, after the change.
fn is_around(line: &str) -> bool {
    AROUND.iter().any(|kind| line.ends_with(&format!("[{}]", kind.id)))
}

/// The findings of `migrate config` about other lines than the shares' own that no change of the document deals with. `file` is the
/// document: a change removes a setting there, and not in a drop-in.
fn open_findings<'a>(said: &'a str, file: &str) -> Vec<&'a str> {
    let mut open: Vec<_> = said.lines().filter(|line| is_around(line)).map(str::trim).collect();
    let changes =
        said.lines().filter_map(|line| line.strip_prefix("  This change ")?.strip_suffix(" as well"));
    let own = format!("{file}:");
    for change in changes {
        if let Some(added) = change.strip_prefix("adds ") {
            let remedy = format!("add {added} ");
            open.retain(|line| !line.contains(&remedy));
            continue;
        }
        let removed = change.strip_prefix("removes ").map(|setting| format!(": {setting}: "));
        let is_its = |line: &&str| {
            line.starts_with(&own)
                && match &removed {
                    Some(setting) => line.contains(setting),
                    None => line.contains(": comment the line out ["),
                }
        };
        if let Some(at) = open.iter().position(is_its) {
            open.remove(at);
        }
    }
    open
}

/// A message or diff about a file of this program's own, with the name that people know.
fn renamed(text: &str, file: &Path, shown: &str) -> String {
    text.replace(&*file.to_string_lossy(), shown)
}

/// The user of a domain's DAC label.
pub(super) fn dac_label(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let is_dac =
        |node: &roxmltree::Node| node.has_tag_name("seclabel") && node.attribute("model") == Some("dac");
    let label =
        document.descendants().find(is_dac)?.children().find(|node| node.has_tag_name("label"))?.text()?;
    Some(label.trim().split(':').map(|part| part.trim_start_matches('+')).collect::<Vec<_>>().join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_stays_open_until_a_change_of_the_document_deals_with_it() {
        let locked = "/etc/vm.service.d/p.conf:2: ProtectSystem=strict makes /a read-only: add ReadWritePaths=/a [export-locked]";
        let longer = "/etc/vm.service.d/p.conf:2: ProtectSystem=strict makes /a/b read-only: add ReadWritePaths=/a/b [export-locked]";
        let own = "/etc/vm.service:3: Requires=h.service: the unit is not started: remove h.service from Requires= [helper-required]";
        let drop_in = "/etc/vm.service.d/o.conf:3: Requires=h.service: the unit is not started: remove h.service from Requires= [helper-required]";
        let started = "/etc/vm.service:9: this line starts the helper: comment the line out [helper-started]";
        let other = "/etc/vm.service:4: multidevs is not set [multidevs]";
        let all = [locked, longer, own, drop_in, started, other];
        for (changes, expected) in [
            (&[][..], &[locked, longer, own, drop_in, started][..]),
            (&["adds ReadWritePaths=/a"], &[longer, own, drop_in, started]),
            (&["removes Requires=h.service"], &[locked, longer, drop_in, started]),
            (&["comments the helper's line out"], &[locked, longer, own, drop_in]),
            (&["adds ReadWritePaths=/a", "adds ReadWritePaths=/a/b"], &[own, drop_in, started]),
        ] {
            let changes = changes.iter().map(|change| format!("  This change {change} as well\n"));
            let said: String = all.iter().map(|line| format!("  {line}\n")).chain(changes).collect();
            assert_eq!(open_findings(&said, "/etc/vm.service"), expected, "{said}");
        }
    }
}
