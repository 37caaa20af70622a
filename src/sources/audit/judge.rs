//! What was found → what people should know.

use std::io;

use super::advise;
use super::host::Host;
use super::managers;
use super::merge::Users;
use super::processes::Processes;
use super::qemu::Installed;
use super::scan::{About, FileReading, Scan, Unread};
use super::serving::Serving;
use super::uses::{self, row_of_device};
use crate::report::audit::{AuditDocument, HelperRow, QemuRow, ShareRow, UnreadRow};
use crate::report::finding::{self, Finding, Kind, Severity};
use crate::report::rows::{FindingRow, bytes, path};
use crate::report::spool::Rows;
use crate::share::helper::Helper;
use crate::share::rewrite::Refusal;
use crate::share::version::{Backend, Version};
use crate::share::{ExportFrom, ExportPath, Note, Part, Place, Share, Transport};
use crate::sources::join::{Instance, Joined, join};
use crate::text::{escape, escape_path};

/// The kind of a share that a running process has.
const PROCESS: &str = "process";

/// Judges against one version of QEMU.
#[derive(Debug)]
pub(super) struct Judge {
    target: Option<Version>,
    installed: Vec<Installed>,
    /// Whether all of the machine was audited.
    everything: bool,
    /// What runs QEMU as root.
    as_root: Option<String>,
}

impl Judge {
    /// Judges against `asked`, else against the newest version installed.
    pub(super) fn new(
        asked: Option<Version>,
        installed: Vec<Installed>,
        everything: bool,
        as_root: Option<String>,
    ) -> Self {
        let newest = installed.iter().map(|one| one.version.clone()).max();
        Self { target: asked.or(newest), installed, everything, as_root }
    }

    /// The document of everything that was found. One file after the other is unpacked: they do not fit in memory together.
    pub(super) fn document(
        self,
        host: &Host,
        mut scan: Scan,
        mut processes: Processes,
    ) -> io::Result<AuditDocument> {
        let mut document = AuditDocument {
            target_qemu: self.target.as_ref().map(|version| version.text.clone()),
            installed_qemu: self.installed.iter().map(row_of_qemu).collect(),
            ..AuditDocument::new()
        };
        document.summary.looked_at = scan.looked_at + processes.looked_at;
        document.summary.processes = processes.looked_at;
        document.summary.skipped = scan.skipped;
        let mut about_helpers = Rows::default();
        for helper in &processes.helpers {
            processes.findings.extend(managers::explain(host, helper));
            self.helper(&mut document, &mut about_helpers, helper);
        }
        let serving = Serving::new(&processes.helpers, &mut scan)?;
        let users = Users::find(host, &scan.readings)?;
        for file in scan.readings.iter() {
            let mut file = file?;
            users.merge(&mut file);
            self.file(&mut document, &mut about_helpers, host, file, &serving);
        }
        users.failure()?;
        let live = Refusal::at(None, "a running process can't be rewritten", "rewrite what starts it");
        let live = About { refusal: Some(live), ..About::default() };
        for mut share in processes.shares {
            let joined = join(&mut share, &serving.servers);
            let mut row = self.share(&mut document, PROCESS, &share, &joined, &live);
            note_others(&mut row, &share, &processes.findings);
            document.add_share(&row);
        }
        serving.servers.failure()?;
        for finding in &processes.findings {
            document.add_finding(&FindingRow::from(finding));
        }
        for finding in about_helpers.iter() {
            document.add_finding(&finding?);
        }
        for one in scan.unread.iter() {
            unread(&mut document, one?);
        }
        for (path, line, reason) in processes.unread {
            unread(&mut document, Unread { path, line, reason });
        }
        if self.everything {
            self.backends(&mut document);
        }
        if !document.shares.is_empty() || !document.helpers.is_empty() {
            let as_root = self.as_root.as_deref();
            for row in &advise::findings(self.target.as_ref(), &self.installed, as_root) {
                document.add_finding(row);
            }
            document.advisories = advise::blocks(self.target.as_ref(), &self.installed, as_root);
        }
        Ok(document)
    }

    /// Judges what one file holds.
    fn file(
        &self,
        document: &mut AuditDocument,
        about_helpers: &mut Rows<FindingRow>,
        host: &Host,
        file: FileReading,
        serving: &Serving,
    ) {
        let FileReading { kind, mut reading, about, .. } = file;
        for share in &mut reading.shares {
            reading.findings.extend(managers::look_up(host, share));
            managers::join(share, &serving.managed);
        }
        reading.findings.extend(reading.helpers.iter().filter_map(|helper| managers::explain(host, helper)));
        for (mut share, about) in reading.shares.into_iter().zip(about) {
            uses::complete(&mut share, &about.users);
            let joined = join(&mut share, &serving.servers);
            let mut row = self.share(document, &kind, &share, &joined, &about);
            uses::fill(&mut row, &about);
            note_others(&mut row, &share, &reading.findings);
            document.add_share(&row);
        }
        for finding in &reading.findings {
            document.add_finding(&FindingRow::from(finding));
        }
        for helper in &reading.helpers {
            self.helper(document, about_helpers, helper);
        }
    }

    /// How much a proxy setup matters to the target.
    fn severity(&self) -> Severity {
        match self.target.as_ref().map(Version::backend) {
            Some(Backend::Fine) => Severity::Info,
            Some(Backend::Deprecated) => Severity::Warning,
            Some(Backend::Removed) | None => Severity::Error,
        }
    }

    /// What the target has to do with it.
    fn verdict(&self) -> String {
        let Some(target) = &self.target else {
            return "which QEMU 9.2 removed".to_owned();
        };
        match target.backend() {
            Backend::Fine => format!("which QEMU {} still has, 8.1 deprecates and 9.2 removes", target.text),
            Backend::Deprecated => format!("which is deprecated in QEMU {} and removed in 9.2", target.text),
            Backend::Removed => format!("which QEMU {} does not have any more", target.text),
        }
    }

    /// Judges one share; its row, for what is to be added.
    fn share(
        &self,
        document: &mut AuditDocument,
        kind: &str,
        share: &Share,
        joined: &Joined,
        known: &About,
    ) -> ShareRow {
        let refusal = known.refusal.as_ref();
        let mut row = row_of_share(kind, share);
        row.rewritable = refusal.is_none();
        let mut about = vec![self.proxy_share(share, known)];
        let refusal = refusal.filter(|_| share.place.pid.is_none() || kind != PROCESS);
        if let Some(remedy) = self::remedy(kind, share, refusal)
            && let Some(first) = about.first_mut()
        {
            remedy.clone_into(&mut first.remedy);
        }
        // A generated file has a finding of its reader's own.
        let generated = share.notes.contains(&Note::Generated);
        about.extend(share.notes.iter().filter_map(|note| about_note(share, note)));
        match joined {
            Joined::Known => {}
            Joined::Unknown => about.push(about_share(
                &finding::EXPORT_UNKNOWN,
                share,
                format!("nothing says which directory the share {} exports", share.title()),
                share.option("--export", "=PATH").map(|option| {
                    format!(
                        "pass it: `migrate config {option}`; the audit finds it itself where the helper runs \
                         (as root) or a file says how it is started"
                    )
                }),
            )),
            Joined::Instances(instances) => about.push(about_instances(share, instances)),
            Joined::Ambiguous(paths) => {
                let paths: Vec<_> = paths.iter().map(|path| escape_path(path).into_owned()).collect();
                about.push(about_share(
                    &finding::EXPORT_AMBIGUOUS,
                    share,
                    format!(
                        "helpers for {} on the socket of the share {}",
                        paths.join(" and "),
                        share.title()
                    ),
                    None,
                ));
            }
        }
        if let Some(refusal) = refusal {
            about.push(about_share(
                &finding::NOT_REWRITABLE,
                share,
                format!("`migrate config` will not rewrite this: {}", refusal.message),
                Some(refusal.remedy.clone()),
            ));
        }
        for (index, mut finding) in about.into_iter().enumerate() {
            if index == 0 {
                finding.severity = self.severity();
            }
            if index > 0 && !row.notes.contains(&finding.id) {
                row.notes.push(finding.id.clone());
            }
            document.add_finding(&finding);
        }
        if generated {
            row.notes.push(finding::GENERATED_FILE.id.to_owned());
        }
        row
    }

    fn proxy_share(&self, share: &Share, known: &About) -> FindingRow {
        let guest = share.place.guest.as_deref().map(|guest| format!(" of the guest {}", escape(guest)));
        let way = match &share.transport {
            Transport::Socket(socket) => format!("socket {}", escape_path(socket)),
            Transport::Fd(fd) => format!("descriptor {fd}"),
            Transport::Unknown(text) => format!("socket {}", escape(text)),
        };
        let export = match &share.export {
            ExportPath::Known { path, .. } => format!(", exporting {}", escape_path(path)),
            ExportPath::Unknown => String::new(),
        };
        let fsdev = Some(&share.fsdev).filter(|id| !id.is_empty());
        let fsdev = fsdev.map(|id| format!("fsdev {}, ", escape(id))).unwrap_or_default();
        let message = format!(
            "the share {}{} ({fsdev}{way}{export}) uses the proxy backend, {}{}",
            share.title(),
            guest.unwrap_or_default(),
            self.verdict(),
            uses::told(known).map(|told| format!("; {told}")).unwrap_or_default()
        );
        about_share(&finding::PROXY_SHARE, share, message, None)
    }

    fn helper(&self, document: &mut AuditDocument, about: &mut Rows<FindingRow>, helper: &Helper) {
        let export =
            helper.export.as_deref().map_or("a directory that is not known here".into(), escape_path);
        let way = match (&helper.socket, helper.fd) {
            (Some(socket), _) => format!("on {}", escape_path(socket)),
            (None, Some(fd)) => format!("on descriptor {fd}"),
            (None, None) => "on a socket that is not known here".to_owned(),
        };
        let verb = if helper.pid.is_some() { "is serving" } else { "is started to serve" };
        let message =
            format!("virtfs-proxy-helper {verb} {export} {way} to the proxy backend, {}", self.verdict());
        let mut row = row_of(&finding::PROXY_HELPER, &helper.place, message, None);
        row.severity = self.severity();
        about.push(&row);
        document.add_helper(&row_of_helper(helper));
    }

    /// What the installed programs mean for the shares.
    fn backends(&self, document: &mut AuditDocument) {
        for installed in &self.installed {
            let version = &installed.version;
            let has = if installed.has_backend { "has" } else { "does not have" };
            let place = Place { file: Some(installed.path.clone()), ..Place::default() };
            let message = format!("QEMU {} is installed here and {has} the proxy backend", version.text);
            let mut row = row_of(&finding::QEMU_BACKEND, &place, message, None);
            if !installed.has_backend && !document.shares.is_empty() {
                row.severity = Severity::Error;
                "guests with a proxy share do not start with it: move their shares"
                    .clone_into(&mut row.remedy);
            }
            document.add_finding(&row);
        }
    }
}

/// What to do about a share that `migrate config` doesn't rewrite where it stands.
fn remedy(kind: &str, share: &Share, refusal: Option<&Refusal>) -> Option<&'static str> {
    if kind == PROCESS {
        return Some(
            "rewrite what starts this process with `migrate config`, and convert the export's files with `migrate \
             convert` while it is down",
        );
    }
    if share.notes.contains(&Note::Generated) {
        return Some(
            "change the configuration of the program that writes this file: an edit of it does not last",
        );
    }
    refusal.map(|_| {
        "move it to the local backend: change this file by hand (why, stands below), and convert the export's files \
         with `migrate convert`; or move it to virtiofs, which converts nothing: `migrate config --backend virtiofs --to qemu-args` \
         prints what to write"
    })
}

/// Notes the findings of a share's reader that are about it.
fn note_others(row: &mut ShareRow, share: &Share, findings: &[Finding]) {
    let same = |one: &Place| one.file == share.place.file && one.line == share.place.line;
    for finding in findings.iter().filter(|finding| same(&finding.place)) {
        if !row.notes.iter().any(|note| note == finding.kind.id) {
            row.notes.push(finding.kind.id.to_owned());
        }
    }
}

fn unread(document: &mut AuditDocument, Unread { path: file, line, reason }: Unread) {
    let place = Place { file, line, ..Place::default() };
    document.add_finding(&row_of(&finding::UNREAD, &place, format!("not read: {reason}"), None));
    let reason = line.map_or_else(|| reason.clone(), |line| format!("line {line}: {reason}"));
    document.add_unread(&UnreadRow { file: place.file.as_deref().map(path), reason });
}

/// What each instance of a template unit exports.
fn about_instances(share: &Share, instances: &[Instance]) -> FindingRow {
    let told = instances.iter().map(|Instance { name, socket, export }| {
        let export =
            export.as_deref().map_or_else(|| "a directory that is not known here".into(), escape_path);
        format!("{} has {export} (socket {})", escape(name), escape_path(socket))
    });
    let message = format!(
        "the share {} has its directory from the instance of its template unit: {}",
        share.title(),
        told.collect::<Vec<_>>().join("; ")
    );
    let remedy = "convert each of these directories, and write the share by hand with what tells them apart (path=/srv/%i, or a variable \
                  of the instance's file), unless all have one directory";
    about_share(&finding::EXPORT_UNKNOWN, share, message, Some(remedy.to_owned()))
}

fn about_note(share: &Share, note: &Note) -> Option<FindingRow> {
    let (kind, message) = match note {
        Note::NoDevice => (
            &finding::NO_DEVICE,
            format!("no -device names the fsdev {}: the guest never sees it", share.title()),
        ),
        Note::DeviceElsewhere => {
            (&finding::DEVICE_ELSEWHERE, format!("no -device here names the fsdev {}", share.title()))
        }
        Note::Unknown(part, text) => {
            let message = format!("{} in the share {} is not statically known", escape(text), share.title());
            return Some(about_share(
                &finding::UNKNOWN_VALUE,
                share,
                message,
                remedy_of_unknown(share, *part),
            ));
        }
        Note::UnknownOfDevice(text) => (
            &finding::UNKNOWN_DEVICE_VALUE,
            format!("{} in the device of the share {} is not statically known", escape(text), share.title()),
        ),
        // Their reader and the join tell these.
        Note::Generated | Note::OfInstance(..) => return None,
        Note::Refused(why) => {
            (&finding::REFUSED_BY_QEMU, format!("QEMU refuses the share {}: {why}", share.title()))
        }
    };
    Some(about_share(kind, share, message, None))
}

/// What to do about a part of a share that is not statically known.
fn remedy_of_unknown(share: &Share, part: Part) -> Option<String> {
    let export = share.option("--export", "=PATH")?;
    let readonly = share.option("--readonly", "")?;
    let writable = share.option("--writable", "")?;
    match part {
        Part::Socket => Some(format!(
            "pass `migrate config {export}`: the socket goes. If it can hold more than a path, `,readonly=on` for \
             example, pass {readonly}, too"
        )),
        Part::Readonly => Some(format!(
            "it stays as it is in the file; {readonly} or {writable} of `migrate config` says it for good"
        )),
        _ => None,
    }
}

fn about_share(kind: &'static Kind, share: &Share, message: String, remedy: Option<String>) -> FindingRow {
    row_of(kind, &share.place, message, remedy)
}

fn row_of(kind: &'static Kind, place: &Place, message: String, remedy: Option<String>) -> FindingRow {
    FindingRow::from(&Finding { kind, place: place.clone(), message, remedy, subject: None })
}

fn row_of_qemu(installed: &Installed) -> QemuRow {
    QemuRow {
        file: path(&installed.path),
        version: Some(installed.version.text.clone()),
        proxy_backend: installed.has_backend,
    }
}

fn row_of_share(kind: &str, share: &Share) -> ShareRow {
    let (export, from) = match &share.export {
        ExportPath::Known { path, from } => (Some(path), Some(from)),
        ExportPath::Unknown => (None, None),
    };
    ShareRow {
        file: share.place.file.as_deref().map(path),
        line: share.place.line,
        kind: kind.to_owned(),
        guest: share.place.guest.as_deref().map(bytes),
        fsdev: Some(bytes(&share.fsdev)).filter(|fsdev| !fsdev.is_empty()),
        mount_tag: share.mount_tag.as_deref().map(bytes),
        socket: match &share.transport {
            Transport::Socket(socket) => Some(path(socket)),
            _ => None,
        },
        sock_fd: match share.transport {
            Transport::Fd(fd) => Some(fd),
            _ => None,
        },
        readonly: share.readonly,
        writeout: share.writeout,
        device: row_of_device(share),
        export: export.map(|export| path(export)),
        export_from: from.map(|from| {
            match from {
                ExportFrom::Argument => "argument",
                ExportFrom::Helper(_) => "helper",
                ExportFrom::Process(_) => "process",
                ExportFrom::Manager(_) => "manager",
            }
            .to_owned()
        }),
        export_place: from.and_then(place_of_export),
        resolved: export.is_some(),
        rewritable: false,
        notes: Vec::new(),
        pid: share.place.pid,
        other_places: Vec::new(),
    }
}

fn place_of_export(from: &ExportFrom) -> Option<String> {
    match from {
        ExportFrom::Argument => None,
        ExportFrom::Process(pid) => Some(format!("/proc/{pid}")),
        ExportFrom::Helper(place) | ExportFrom::Manager(place) => {
            Some(crate::report::rows::place(Some(&path(place.file.as_deref()?)), place.line))
        }
    }
}

fn row_of_helper(helper: &Helper) -> HelperRow {
    HelperRow {
        file: helper.place.file.as_deref().map(path),
        line: helper.place.line,
        export: helper.export.as_deref().map(path),
        socket: helper.socket.as_deref().map(path),
        fd: helper.fd,
        uid: helper.uid.as_deref().map(bytes),
        gid: helper.gid.as_deref().map(bytes),
        pid: helper.pid,
    }
}
