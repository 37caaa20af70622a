//! `migrate check`: whether an export's files can move, to which model, and what that takes. Changes nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use super::entry::Kind;
use super::filesystem::{self, Attributes, Filesystem};
use super::form::Model;
use super::idmap;
use super::live::{self, Live, Role};
use super::neighbours::{self, Mention};
use super::owner::Owner;
use super::survey::{self, Survey};
use super::tree::Tree;
use crate::data::options::CheckArgs;
use crate::exit::Outcome;
use crate::report::check::{CheckDocument, EntriesRow, FilesystemRow, OwnerRow, UserRow};
use crate::report::finding;
use crate::report::{self, Counts, FindingRow, SCHEMA, rows};
use crate::text;

mod configuration;
mod cost;
mod earlier;
mod judgement;
mod system;
mod trial;

pub(crate) use cost::{of as cost, rollback_room};
pub(crate) use judgement::{entry_findings, findings, live as live_findings, system as system_finding};
pub(crate) use system::is_by_name as is_system_by_name;
pub(super) use system::reasons as system_reasons;

/// Everything that was found out about an export.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Where it is, free of symbolic links.
    pub export: PathBuf,
    /// Why it is a directory of the system's or of an account's; empty where it is not.
    pub system: Vec<String>,
    /// Its files.
    pub tree: Tree,
    /// What it lies on.
    pub filesystem: Filesystem,
    /// What it holds.
    pub survey: Survey,
    /// Who has it open.
    pub live: Live,
    /// Who else is configured to use it.
    pub mentions: Vec<Mention>,
    /// Who QEMU will run as, where that is known.
    pub owner: Option<Owner>,
    /// The first directory that keeps that user out, and why.
    pub barrier: Option<(PathBuf, Errno)>,
    /// The first owner that the export's mount can't give to a file: root's, or QEMU's user's.
    pub lacking: Option<(u32, u32)>,
    /// Whether the check could look at everything that root can.
    pub privileged: bool,
    /// How long the walk took.
    pub walk: Duration,
    /// How long it takes to give one inode its attributes, where that could be tried.
    pub per_inode: Option<Duration>,
}

impl Facts {
    /// Finds everything out, with `jobs` workers.
    pub(crate) fn gather(export: &Path, owner: Option<Owner>, jobs: usize) -> anyhow::Result<Self> {
        Self::gather_by(export, owner, |tree, filesystem| Ok(survey::survey(tree, filesystem, jobs)))
    }

    /// Finds everything out; `walk` makes the survey on its way.
    pub(super) fn gather_by(
        export: &Path,
        owner: Option<Owner>,
        walk: impl FnOnce(&Tree, &Filesystem) -> anyhow::Result<Survey>,
    ) -> anyhow::Result<Self> {
        let shown = text::escape_path(export);
        let path = export.canonicalize().with_context(|| format!("cannot find the export '{shown}'"))?;
        let directory = idmap::open_export(&path)?;
        let filesystem = Filesystem::of(&directory, &path)?;
        let per_inode = filesystem::time_per_inode(&directory);
        let lacking = idmap::lacking(&directory, owner.iter().map(|owner| (owner.uid, owner.gid)));
        drop(directory);
        let live = live::look(&path)?;
        let tree = Tree::open(&path).with_context(|| format!("cannot open the export '{shown}'"))?;
        let start = Instant::now();
        let survey = walk(&tree, &filesystem)?;
        let walk = start.elapsed();
        let is_root = Uid::effective().is_root();
        // Only the way to the export counts: the export itself will be this user's.
        let barrier = match (&owner, path.parent()) {
            (Some(owner), Some(parent)) if is_root => owner.barrier_to(parent)?,
            _ => None,
        };
        Ok(Self {
            system: system::reasons(&path),
            mentions: neighbours::mentions(Path::new("/"), &path),
            export: path,
            tree,
            filesystem,
            survey,
            live,
            owner,
            barrier,
            lacking: lacking.filter(|_| is_root),
            privileged: is_root && super::sys::sees_trusted_attributes(),
            walk,
            per_inode,
        })
    }

    /// The model that fits: mapped-xattr wherever the filesystem can keep it.
    pub(crate) fn fitting_model(&self) -> Model {
        if self.filesystem.attributes.usable() { Model::MappedXattr } else { Model::MappedFile }
    }
}

/// `migrate check`.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<Outcome> {
    if args.look.schema {
        report::print_schema::<CheckDocument>()?;
        return Ok(Outcome::Clean);
    }
    let export = args.export.as_deref().context("name the export to check")?;
    if let Some(told) = &args.trial {
        trial::attempt(export, told)?;
        return Ok(Outcome::Clean);
    }
    let tried = trial::findings(export, args)?;
    let owner = match args.owner.as_ref().or(args.run_as.as_ref()) {
        Some(owner) => Some(Owner::parse(owner)?),
        None => Owner::of_libvirt()?,
    };
    let facts = Facts::gather(export, owner, args.look.jobs())?;
    let document = document(&facts, args.security_model, tried, args.look.jobs());
    report::print(&document, args.look.format)?;
    Ok(report::exit_zero(document.outcome(), args.look.exit_zero))
}

fn document(facts: &Facts, asked: Option<Model>, tried: Vec<finding::Finding>, jobs: usize) -> CheckDocument {
    let model = asked.unwrap_or_else(|| facts.fitting_model());
    let cost = cost::of(facts, model);
    let mut findings = findings(facts, model, asked.is_some(), &cost);
    if let Some(earlier) = earlier::conversion(&facts.export, &facts.tree) {
        // It says where the attributes come from.
        findings.retain(|finding| *finding.kind != finding::ALREADY_MAPPED);
        findings.insert(0, earlier);
        findings.extend(earlier::additions(&facts.export, &facts.tree, jobs));
    }
    findings.extend(tried);
    let findings: Vec<_> = findings.iter().map(FindingRow::from).collect();
    CheckDocument {
        schema: SCHEMA,
        export: rows::path(&facts.export),
        security_model: model.name().into(),
        owner: facts.owner.as_ref().map(ToString::to_string),
        filesystem: filesystem_row(&facts.filesystem),
        entries: entries_row(&facts.survey),
        owners: owner_rows(&facts.survey),
        in_use: user_rows(&facts.live),
        cost,
        configuration: configuration::of(facts, model),
        summary: Counts::of(&findings),
        findings,
    }
}

fn filesystem_row(filesystem: &Filesystem) -> FilesystemRow {
    let room = match filesystem.attributes {
        Attributes::Tried { room, .. } => u64::try_from(room).ok(),
        _ => None,
    };
    FilesystemRow {
        kind: rows::bytes(&filesystem.kind),
        read_only: filesystem.read_only,
        quota: filesystem.quota,
        free_bytes: filesystem.free_bytes,
        free_inodes: filesystem.free_inodes,
        user_xattrs: filesystem.attributes.usable(),
        tried: matches!(filesystem.attributes, Attributes::Tried { .. } | Attributes::Refused(_)),
        room,
    }
}

fn entries_row(survey: &Survey) -> EntriesRow {
    EntriesRow {
        total: survey.entries(),
        files: survey.of(Kind::File),
        directories: survey.of(Kind::Directory),
        symbolic_links: survey.of(Kind::Symlink),
        fifos: survey.of(Kind::Fifo),
        sockets: survey.of(Kind::Socket),
        character_devices: survey.of(Kind::CharacterDevice),
        block_devices: survey.of(Kind::BlockDevice),
        to_replace: survey.replaced(),
        with_acl: survey.acls,
        with_set_id: survey.set_id,
        bytes: survey.bytes,
    }
}

/// The owners with their names on this host; the one with the most entries first.
fn owner_rows(survey: &Survey) -> Vec<OwnerRow> {
    let mut users = HashMap::new();
    let mut groups = HashMap::new();
    let mut rows: Vec<_> = survey
        .owners
        .iter()
        .map(|(&(uid, gid), &entries)| OwnerRow {
            uid,
            gid,
            user: users.entry(uid).or_insert_with(|| user_name(uid)).clone(),
            group: groups.entry(gid).or_insert_with(|| group_name(gid)).clone(),
            entries,
        })
        .collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.entries), row.uid, row.gid));
    rows
}

fn user_name(uid: u32) -> Option<String> {
    let user = User::from_uid(Uid::from_raw(uid)).ok()??;
    Some(text::escape(user.name.as_bytes()).into_owned())
}

fn group_name(gid: u32) -> Option<String> {
    let group = Group::from_gid(Gid::from_raw(gid)).ok()??;
    Some(text::escape(group.name.as_bytes()).into_owned())
}

fn user_rows(live: &Live) -> Vec<UserRow> {
    let processes = live.users.iter().map(|user| {
        let kind = match user.role {
            Role::Helper => "helper",
            Role::Qemu => "qemu",
            Role::Other => "process",
        };
        UserRow { pid: Some(user.pid), kind: kind.into(), busy: user.is_busy(), how: user.to_string() }
    });
    let mounts = live.mounts.iter().map(|mount| UserRow {
        pid: mount.namespace_of,
        kind: "mount".into(),
        busy: false,
        how: mount.to_string(),
    });
    let kernel = live.kernel.iter().map(|used| UserRow {
        pid: None,
        kind: "kernel".into(),
        busy: true,
        how: used.to_string(),
    });
    processes.chain(mounts).chain(kernel).collect()
}
