//! Shares + helpers → export paths: the configuration of a proxy share never says what it exports, its helper does.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::format::{Listener, path_of};
use super::unit_names::{unescape, unit_of};
use crate::report::spool::Rows;
use crate::share::helper::Helper;
use crate::share::{ExportFrom, ExportPath, Note, Share, Transport};

/// How joining a share ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Joined {
    /// The share's export is known.
    Known,
    /// No helper is known that serves it.
    Unknown,
    /// Several helpers say different directories.
    Ambiguous(Vec<PathBuf>),
    /// It stands in a template unit, and each instance has its own.
    Instances(Vec<Instance>),
}

/// What an instance of a template unit has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// What stands behind the unit's `@`.
    pub name: Vec<u8>,
    /// Its socket.
    pub socket: PathBuf,
    /// Its directory, where that is known.
    pub export: Option<PathBuf>,
}

/// Helpers, to be found by the sockets that they serve. Those that name one are kept packed: there may be very many.
#[derive(Debug, Default)]
pub(super) struct Servers {
    named: Rows<Helper>,
    /// Of each of these: what stands for its socket's one spelling, its number among all helpers, and where it is.
    by_socket: Vec<(u64, usize, u64)>,
    /// Those that may serve others, too: of template units, and with a socket that systemd holds.
    others: Vec<(usize, Helper)>,
    listeners: Vec<Listener>,
    count: usize,
    hasher: RandomState,
    /// Why one could not be unpacked.
    failed: RefCell<Option<io::Error>>,
}

impl Servers {
    /// What serves, and what systemd listens on for it.
    pub(super) fn new(helpers: &[Helper], listeners: &[Listener]) -> Self {
        let mut servers = Self::default();
        for helper in helpers {
            servers.add(helper);
        }
        servers.listen(listeners.to_vec());
        servers
    }

    /// Adds a helper.
    pub(super) fn add(&mut self, helper: &Helper) {
        self.count += 1;
        if helper.template.is_some() || helper.socket.is_none() {
            self.others.push((self.count, helper.clone()));
        } else if let Some(socket) = &helper.socket {
            let at = self.named.push(helper);
            self.by_socket.push((self.hasher.hash_one(plain(socket)), self.count, at));
        }
    }

    /// How many helpers are kept as they are.
    pub(super) fn others(&self) -> usize {
        self.others.len()
    }

    /// Takes the sockets that systemd listens on, once all helpers are there.
    pub(super) fn listen(&mut self, listeners: Vec<Listener>) {
        self.listeners = listeners;
        let services: HashSet<_> = self.listeners.iter().map(|listener| &listener.service).collect();
        self.others.retain(|(_, helper)| {
            let unit = || helper.place.file.as_deref().and_then(unit_of);
            helper.socket.is_some()
                || matches!(&helper.template, Some((Some(_), _)))
                || unit().is_some_and(|unit| services.contains(&unit))
        });
        self.by_socket.sort_unstable();
    }

    /// Why not all helpers could be looked at.
    pub(super) fn failure(&self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Those that may serve `socket`, in order.
    fn of(&self, socket: &Path) -> Vec<Cow<'_, Helper>> {
        let hash = self.hasher.hash_one(socket);
        let first = self.by_socket.partition_point(|one| one.0 < hash);
        let named = self.by_socket.iter().skip(first).take_while(|one| one.0 == hash);
        let mut found: Vec<_> =
            self.others.iter().map(|(number, helper)| (*number, Cow::Borrowed(helper))).collect();
        for (_, number, at) in named {
            match self.named.get(*at) {
                Ok(helper) => found.push((*number, Cow::Owned(helper))),
                Err(error) => *self.failed.borrow_mut() = Some(error),
            }
        }
        found.sort_by_key(|(number, _)| *number);
        found.into_iter().map(|(_, helper)| helper).collect()
    }
}

/// Joins the instances of a share whose own socket is not known.
fn join_instances(share: &Share, servers: &Servers) -> Joined {
    let instance = |note: &Note| {
        let Note::OfInstance(name, socket) = note else { return None };
        let transport = Transport::Socket(socket.clone());
        let mut one = Share { transport, notes: Vec::new(), ..share.clone() };
        let known = join(&mut one, servers) == Joined::Known;
        let export = match one.export {
            ExportPath::Known { path, .. } if known => Some(path),
            _ => None,
        };
        Some(Instance { name: name.clone(), socket: socket.clone(), export })
    };
    let instances: Vec<_> = share.notes.iter().filter_map(instance).collect();
    if instances.is_empty() { Joined::Unknown } else { Joined::Instances(instances) }
}

/// Joins `share` with the helper that serves its socket. Running helpers count before configured ones.
pub(super) fn join(share: &mut Share, servers: &Servers) -> Joined {
    if let ExportPath::Known { .. } = share.export {
        return Joined::Known;
    }
    let Transport::Socket(socket) = &share.transport else { return join_instances(share, servers) };
    // In a container the socket has another name than on the host.
    let socket = plain(share.socket_on_host.as_ref().unwrap_or(socket));
    let mut claims: Vec<(PathBuf, ExportFrom)> = Vec::new();
    // A relative path means something only where it stands.
    let near = |helper: &&Helper| socket.is_absolute() || helper.place.file == share.place.file;
    let all = servers.of(&socket);
    for helper in all.iter().map(AsRef::as_ref).filter(near) {
        let from = helper.pid.map_or_else(|| ExportFrom::Helper(helper.place.clone()), ExportFrom::Process);
        if let Some(export) = claim(helper, &socket, &servers.listeners).filter(|export| export.is_absolute())
        {
            claims.push((export, from));
        }
    }
    if claims.iter().any(|(_, from)| matches!(from, ExportFrom::Process(_))) {
        claims.retain(|(_, from)| matches!(from, ExportFrom::Process(_)));
    }
    // What a drop-in says stands for what its unit says.
    let overridden: Vec<_> = claims.iter().filter_map(|(_, from)| drop_in_of(from)).collect();
    claims.retain(|(_, from)| {
        drop_in_of(from).is_some() || !unit_in(from).is_some_and(|u| overridden.contains(&u))
    });
    let mut paths: Vec<_> = claims.iter().map(|(path, _)| path.clone()).collect();
    paths.sort();
    paths.dedup();
    match (paths.len(), claims.into_iter().next()) {
        (1, Some((path, from))) => {
            share.export = ExportPath::Known { path, from };
            Joined::Known
        }
        (0, _) | (_, None) => Joined::Unknown,
        _ => Joined::Ambiguous(paths),
    }
}

/// The unit that a claim's file describes.
fn unit_in(from: &ExportFrom) -> Option<String> {
    match from {
        ExportFrom::Helper(place) => unit_of(place.file.as_deref()?),
        _ => None,
    }
}

/// The unit whose drop-in a claim's file is.
fn drop_in_of(from: &ExportFrom) -> Option<String> {
    let ExportFrom::Helper(place) = from else { return None };
    let folder = place.file.as_deref()?.parent()?.file_name()?.to_str()?;
    folder.strip_suffix(".d").and_then(|_| unit_in(from))
}

/// What `helper` serves on `socket`, if it does.
fn claim(helper: &Helper, socket: &Path, listeners: &[Listener]) -> Option<PathBuf> {
    if helper.socket.as_deref().is_some_and(|own| plain(own) == socket) {
        return helper.export.clone();
    }
    let bytes = socket.as_os_str().as_bytes();
    let of_instance = |own: &[u8], export: &[u8]| Some(path_of(&fill(export, instance_of(own, bytes)?)?));
    match &helper.template {
        Some((Some(own), export)) => return of_instance(own, export),
        None if helper.socket.is_some() => return None,
        _ => {}
    }
    // systemd holds the socket for it.
    let unit = unit_of(helper.place.file.as_deref()?)?;
    let mut own = listeners.iter().filter(|listener| listener.service == unit);
    match &helper.template {
        Some((_, export)) => {
            own.find_map(|listener| of_instance(listener.socket.as_os_str().as_bytes(), export))
        }
        None => own.find(|own| plain(&own.socket) == socket).and_then(|_| helper.export.clone()),
    }
}

/// The instance by which a template unit's socket becomes `socket`.
fn instance_of<'a>(template: &[u8], socket: &'a [u8]) -> Option<&'a [u8]> {
    let at = template.windows(2).position(|two| two == b"%i" || two == b"%I" || two == b"%j")?;
    let (before, after) = (template.get(..at)?, template.get(at + 2..)?);
    if after.contains(&b'%') || before.contains(&b'%') || after.contains(&b'$') || before.contains(&b'$') {
        return None;
    }
    let instance = socket.strip_prefix(before)?.strip_suffix(after)?;
    (!instance.is_empty() && !instance.contains(&b'/')).then_some(instance)
}

/// A template unit's text for an instance; `None` where something else in it is unknown, too.
fn fill(template: &[u8], instance: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((byte, tail)) = rest.split_first() {
        match (byte, tail.first()) {
            // These unescape: a `-` of the instance stands for a slash.
            (b'%', Some(letter @ (b'I' | b'f'))) => {
                out.extend((*letter == b'f').then_some(b'/'));
                out.extend(unescape(instance));
            }
            (b'%', Some(b'i' | b'j')) => out.extend(instance),
            (b'%' | b'$', _) => return None,
            _ => {
                out.push(*byte);
                rest = tail;
                continue;
            }
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    Some(out)
}

/// One spelling for a path: no doubled slashes, no `.`, /run for /var/run.
pub(super) fn plain(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().collect();
    match path.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Place;

    fn share(socket: &str) -> Share {
        Share {
            fsdev: b"fs0".to_vec(),
            mount_tag: None,
            transport: Transport::Socket(socket.into()),
            socket_on_host: None,
            model: None,
            readonly: false,
            writeout: false,
            device: None,
            place: Place::default(),
            export: ExportPath::Unknown,
            memory: crate::share::memory::Memory::default(),
            notes: Vec::new(),
        }
    }

    fn helper(socket: &str, export: &str) -> Helper {
        Helper { socket: Some(socket.into()), export: Some(export.into()), ..Helper::default() }
    }

    fn export(share: &Share) -> Option<&Path> {
        match &share.export {
            ExportPath::Known { path, .. } => Some(path),
            ExportPath::Unknown => None,
        }
    }

    #[test]
    fn a_socket_finds_its_helper() {
        let mut share = share("/var/run//a.sock");
        assert_eq!(join(&mut share, &Servers::new(&[helper("/run/a.sock", "/srv")], &[])), Joined::Known);
        assert_eq!(export(&share), Some(Path::new("/srv")));
    }

    #[test]
    fn helpers_that_disagree_settle_nothing_but_a_running_one_does() {
        let mut helpers = vec![helper("/run/a", "/one"), helper("/run/a", "/two")];
        let mut undecided = share("/run/a");
        assert!(matches!(join(&mut undecided, &Servers::new(&helpers, &[])), Joined::Ambiguous(_)));
        helpers.push(Helper { pid: Some(7), ..helper("/run/a", "/three") });
        let mut decided = share("/run/a");
        assert_eq!(join(&mut decided, &Servers::new(&helpers, &[])), Joined::Known);
        assert_eq!(export(&decided), Some(Path::new("/three")));
    }

    #[test]
    fn a_template_unit_is_filled_in() {
        let template = (Some(b"/run/virtfs/%i.sock".to_vec()), b"/srv/%i/x".to_vec());
        let helper = Helper { template: Some(template), ..Helper::default() };
        let mut share = share("/run/virtfs/vm-1.sock");
        assert_eq!(join(&mut share, &Servers::new(&[helper], &[])), Joined::Known);
        assert_eq!(export(&share), Some(Path::new("/srv/vm-1/x")));
    }

    #[test]
    fn a_socket_unit_leads_to_its_service() {
        let place = Place { file: Some("/etc/systemd/system/virtfs@.service".into()), ..Place::default() };
        let helper = Helper { fd: Some(3), export: Some("/srv".into()), place, ..Helper::default() };
        let listener = Listener { socket: "/run/a".into(), service: "virtfs".to_owned() };
        let mut share = share("/run/a");
        assert_eq!(join(&mut share, &Servers::new(&[helper], &[listener])), Joined::Known);
    }
}
