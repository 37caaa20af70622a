//! What a conversion makes of the export's files: as the options say; what they leave open is as an earlier run began it, or the
//! default.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::data::form::Model;
use crate::data::journal::Begin;
use crate::data::options::ConvertArgs;
use crate::data::owner::Owner;
use crate::text;

/// The real mode of files, and of directories, where nothing else is said.
const FMODE: u32 = 0o600;
const DMODE: u32 = 0o700;

/// Who the export's files will belong to, and how what the guest sees of them is kept.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) owner: Owner,
    pub(super) model: Model,
    pub(super) fmode: u32,
    pub(super) dmode: u32,
}

impl Wanted {
    /// What the options ask for, where an earlier run has `begun` with the export, or none has.
    pub(super) fn of(args: &ConvertArgs, begun: Option<&Begin>) -> Result<Self> {
        let owner = match (&args.owner, begun) {
            (Some(owner), _) => Owner::parse(owner)?,
            (None, Some(begin)) => Owner::parse(&OsString::from(format!("{}:{}", begin.uid, begin.gid)))?,
            (None, None) => Owner::of_libvirt()?.context(
                "whom does QEMU run as? There is no libvirt here that would say so: give --owner=USER[:GROUP]",
            )?,
        };
        Ok(Self {
            owner,
            model: args.security_model.or_else(|| begun.and_then(Begin::model)).unwrap_or_default(),
            fmode: args.fmode.or_else(|| begun.map(|begin| begin.fmode)).unwrap_or(FMODE),
            dmode: args.dmode.or_else(|| begun.map(|begin| begin.dmode)).unwrap_or(DMODE),
        })
    }

    /// The options that were left open and are as an earlier run began: for a message.
    pub(super) fn taken(args: &ConvertArgs, begin: &Begin) -> Option<String> {
        let options = [
            (args.owner.is_none(), format!("--owner={}:{}", begin.uid, begin.gid)),
            (
                args.security_model.is_none() && begin.model() != Some(Model::default()),
                format!("--security-model={}", text::escape(begin.security_model.as_bytes())),
            ),
            (args.fmode.is_none() && begin.fmode != FMODE, format!("--fmode={:04o}", begin.fmode)),
            (args.dmode.is_none() && begin.dmode != DMODE, format!("--dmode={:04o}", begin.dmode)),
        ];
        let taken: Vec<_> =
            options.into_iter().filter_map(|(is_taken, option)| is_taken.then_some(option)).collect();
        (!taken.is_empty()).then(|| taken.join(" "))
    }

    /// What differs from how a conversion was begun; nothing where all is the same.
    pub(super) fn differences(&self, begin: &Begin) -> Option<String> {
        let Owner { uid, gid, .. } = self.owner;
        let pairs = [
            ("--security-model", self.model.name().to_owned(), begin.security_model.clone()),
            ("--owner", format!("{uid}:{gid}"), format!("{}:{}", begin.uid, begin.gid)),
            ("--fmode", format!("{:04o}", self.fmode), format!("{:04o}", begin.fmode)),
            ("--dmode", format!("{:04o}", self.dmode), format!("{:04o}", begin.dmode)),
        ];
        let differing = pairs.into_iter().filter(|(_, now, then)| now != then);
        let said: Vec<_> = differing
            .map(|(option, now, then)| {
                format!(
                    "{option}={} and not {option}={}",
                    text::escape(then.as_bytes()),
                    text::escape(now.as_bytes())
                )
            })
            .collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}
