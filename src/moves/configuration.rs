//! What changes in a guest's configuration, and the commands that put the change in place and take it back.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::document::{Manager, Question};
use super::manager::Managed;
use super::plan::{is_called, path_of, shell};
use super::tool;
use crate::cli::PlanArgs;
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
pub struct Change {
    pub questions: Vec<Question>,
    /// The commands that prepare and make it.
    pub run: Vec<String>,
    /// The commands that take it back.
    pub undo: Vec<String>,
    /// What changes.
    pub diff: String,
}

/// One document that holds shares: a file, or what a command of the manager's prints.
#[derive(Debug)]
struct Source {
    /// The file that `migrate config` reads, as the steps name it.
    file: String,
    /// How people call it.
    shown: String,
    /// The command that prints it into `file`; empty for a file that is there.
    dump: Vec<String>,
    /// The command that hands `file` back to the manager.
    define: Vec<String>,
    in_place_args: bool,
    rows: Vec<ShareRow>,
}

/// The change of a guest's configuration that moves its shares.
pub fn change(
    by: &Managed,
    rows: &[ShareRow],
    model: Option<&str>,
    args: &PlanArgs,
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
    let sources = sources(by, rows)?;
    if sources.is_empty() {
        change.questions.push(ask(
            "no file was found that starts QEMU with this share: name the file, or its folder, as PATH"
                .to_owned(),
        ));
    }
    for source in &sources {
        source.plan(by, model, args, &mut change)?;
    }
    if by.manager == Manager::Systemd && !sources.is_empty() {
        change.run.push("systemctl daemon-reload".to_owned());
        change.undo.push("systemctl daemon-reload".to_owned());
    }
    Ok(change)
}

fn sources(by: &Managed, rows: &[ShareRow]) -> anyhow::Result<Vec<Source>> {
    let files: BTreeSet<_> = rows.iter().filter_map(|row| row.file.as_deref()).collect();
    let mut sources = Vec::new();
    for file in files.into_iter().filter(|file| !file.starts_with("/proc/")) {
        let own: Vec<_> = rows.iter().filter(|row| row.file.as_deref() == Some(file)).cloned().collect();
        let mut source = match by.manager {
            Manager::Libvirt => libvirt(&by.name, &path_of(file))?,
            _ => Source::of_file(file),
        };
        source.rows = own;
        sources.push(source);
    }
    if by.manager == Manager::Libvirt && sources.is_empty() {
        // A domain that is not stored runs.
        let mut source = libvirt(&by.name, Path::new("/etc/libvirt/qemu/domain.xml"))?;
        source.rows = rows.to_vec();
        sources.push(source);
    }
    Ok(sources)
}

/// libvirt holds its files in memory: each goes out and in by virsh.
fn libvirt(domain: &str, file: &Path) -> anyhow::Result<Source> {
    let word = |text: &str| shell(text);
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let has = |part: &str| file.components().any(|component| component.as_os_str() == part);
    let text = file.to_string_lossy().into_owned();
    if !text.starts_with("/etc/libvirt/")
        && !text.starts_with("/var/lib/libvirt/")
        && !text.starts_with("/run/")
    {
        return Ok(Source::of_file(&crate::report::rows::path(file)));
    }
    if file.extension().is_some_and(|extension| extension == "save") {
        let kept = format!("{domain}.save.xml");
        return Ok(Source {
            shown: format!("saved image of {domain}"),
            dump: owned(&["virsh", "save-image-dumpxml", "--security-info", &word(&text)?]),
            define: owned(&["virsh", "save-image-define", &word(&text)?]),
            file: kept,
            in_place_args: true,
            rows: Vec::new(),
        });
    }
    for (folder, what) in [("snapshot", "snapshot"), ("checkpoint", "checkpoint")] {
        if has(folder) {
            return Ok(Source {
                shown: format!("{what} {stem} of {domain}"),
                dump: owned(&[
                    "virsh",
                    &format!("{what}-dumpxml"),
                    "--security-info",
                    &word(domain)?,
                    &word(&stem)?,
                ]),
                define: owned(&["virsh", &format!("{what}-create"), "--redefine", &word(domain)?]),
                file: format!("{domain}.{what}.{stem}.xml"),
                in_place_args: true,
                rows: Vec::new(),
            });
        }
    }
    Ok(Source {
        shown: format!("domain {domain}"),
        dump: owned(&["virsh", "dumpxml", "--inactive", "--security-info", &word(domain)?]),
        define: owned(&["virsh", "define"]),
        file: format!("{domain}.xml"),
        in_place_args: false,
        rows: Vec::new(),
    })
}

impl Source {
    fn of_file(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            shown: file.to_owned(),
            dump: Vec::new(),
            define: Vec::new(),
            in_place_args: false,
            rows: Vec::new(),
        }
    }

    /// Asks `migrate config` what changes, and writes down how to do it.
    fn plan(
        &self,
        by: &Managed,
        model: Option<&str>,
        args: &PlanArgs,
        change: &mut Change,
    ) -> anyhow::Result<()> {
        if self.rows.iter().any(|row| row.export.is_none()) {
            // That is asked already, and without it nothing can be rewritten.
            return Ok(());
        }
        let options = self.options(model, args);
        let scratch = tempfile::tempdir().context("making a folder for the domain's XML")?;
        let file = if self.dump.is_empty() { path_of(&self.file) } else { self.dumped(scratch.path())? };
        let mut words = options.clone();
        words.extend(["--diff".into(), "--".into(), file.clone().into_os_string()]);
        let output = tool::verb("config", words)?;
        if output.status != Some(0) {
            let reason = renamed(&output.reason(), &file, &self.shown);
            let text =
                if reason.starts_with(&self.shown) { reason } else { format!("{}: {reason}", self.shown) };
            change.questions.push(Question { about: by.name.clone(), text, option: None });
            return Ok(());
        }
        // Each change beside the shares deals with one of the findings.
        let around: Vec<_> = output.stderr.lines().filter(|line| is_around(line)).collect();
        let changes = output.stderr.lines().filter(|line| line.starts_with("  This change ")).count();
        if around.len() > changes {
            for line in around {
                let text = format!(
                    "{} (if the change above does not do it)",
                    renamed(line.trim(), &file, &self.shown)
                );
                change.questions.push(Question { about: by.name.clone(), text, option: None });
            }
        }
        if output.stdout.is_empty() {
            return Ok(());
        }
        change.diff += &renamed(&output.text(), &file, &self.shown);
        self.commands(&options, change)
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

    /// Lets the manager print it into a folder. The file is only root's: it may hold passwords.
    fn dumped(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let (program, words) = self.dump.split_first().context("a command")?;
        let words = words.iter().map(|word| unquoted(word));
        let output = tool::run(program, words)?;
        anyhow::ensure!(output.status == Some(0), "{}: {}", self.dump.join(" "), output.reason());
        let file = folder.join("document.xml");
        fs::write(&file, &output.stdout).context("writing the XML to a file")?;
        Ok(file)
    }

    fn commands(&self, options: &[OsString], change: &mut Change) -> anyhow::Result<()> {
        let file = shell(&self.file)?;
        let mut config = vec![PROGRAM.to_owned(), "migrate config --in-place".to_owned()];
        for option in options {
            config.push(shell(&crate::text::escape_os(option))?);
        }
        config.push(file.clone());
        if self.dump.is_empty() {
            change.run.push(config.join(" "));
            change.undo.push(format!("mv {file}{} {file}", kept_as(&path_of(&self.file))));
            return Ok(());
        }
        let define = |suffix: &str| {
            let mut words = self.define.clone();
            words.push(format!("{file}{suffix}"));
            words.join(" ")
        };
        change.run.push(format!("(umask 077; {} > {file})", self.dump.join(" ")));
        change.run.push(config.join(" "));
        change.run.push(define(""));
        change.undo.push(define(".orig"));
        Ok(())
    }
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

/// A word that [`shell`] quoted, as a program gets it.
fn unquoted(word: &str) -> OsString {
    word.strip_prefix('\'')
        .and_then(|word| word.strip_suffix('\''))
        .map_or_else(|| word.into(), |inner| inner.replace(r"'\''", "'").into())
}

/// Whether a line of `migrate config` is about what keeps QEMU from the export, or needs the helper, after the change.
fn is_around(line: &str) -> bool {
    AROUND.iter().any(|kind| line.ends_with(&format!("[{}]", kind.id)))
}

/// A message or diff about a file of this program's own, with the name that people know.
fn renamed(text: &str, file: &Path, shown: &str) -> String {
    text.replace(&*file.to_string_lossy(), shown)
}

/// The user of a domain's DAC label.
pub fn dac_label(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let is_dac =
        |node: &roxmltree::Node| node.has_tag_name("seclabel") && node.attribute("model") == Some("dac");
    let label =
        document.descendants().find(is_dac)?.children().find(|node| node.has_tag_name("label"))?.text()?;
    Some(label.trim().split(':').map(|part| part.trim_start_matches('+')).collect::<Vec<_>>().join(":"))
}
