//! A container's description → the helper that it runs, and where the host has its files.
//!
//! The paths in a container's options are the container's own. Its volumes say which of the host's directories they
//! are. Sources: podman-run(1), podman-systemd.unit(5), the Compose specification, Kubernetes's Pod.

mod script;

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::chars::{Chars, Lines, Word, bytes};
use super::format::{Beside, Document, path_of};
use super::quote_style::QuoteStyle;
use crate::share::Place;
use crate::share::helper::Helper;
use crate::share::invocation::{self, Invocation, Text, is_helper};
use crate::share::view::{Access, By, Effect, Gap, Layer, Remark, View};
use crate::text::escape;
pub(super) use script::{may_make, of_commands};

/// What this repository's image sets, where the description does not: see Containerfile.
const IMAGE_DEFAULTS: &[(&str, &[u8])] =
    &[("VIRTFS_PATH", b"/export"), ("VIRTFS_SOCKET", b"/run/virtfs/helper.sock")];

/// Programs that run containers, and their subcommands that take an image.
const ENGINES: &[&[u8]] = &[b"podman", b"docker", b"nerdctl"];
const RUN: &[&[u8]] = &[b"run", b"create"];

/// Options of `podman run` and `docker run` that take no value; all others do.
const FLAGS: &[&str] = &[
    "--detach",
    "--disable-content-trust",
    "--env-host",
    "--help",
    "--init",
    "--interactive",
    "--no-healthcheck",
    "--no-hosts",
    "--oom-kill-disable",
    "--passwd",
    "--privileged",
    "--publish-all",
    "--quiet",
    "--read-only",
    "--read-only-tmpfs",
    "--replace",
    "--rm",
    "--rmi",
    "--rootfs",
    "--sig-proxy",
    "--tls-verify",
    "--tty",
    "--http-proxy",
    "--infra",
    "--share-parent",
    "--use-api-socket",
];

/// How far containers may take their volumes from each other.
const MAX_OTHERS: usize = 8;

/// Short options that take no value.
const SHORT_FLAGS: &[u8] = b"ditqP";

/// A container, as a configuration describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Container {
    /// The image's name.
    pub image: Option<Word>,
    /// What runs in place of the image's entry point; empty: the image's own.
    pub entrypoint: Vec<Word>,
    /// The arguments.
    pub arguments: Vec<Word>,
    /// Variables; the last of a name counts. `None`: the value is elsewhere.
    pub environment: Vec<(Vec<u8>, Option<Word>)>,
    /// What of the host is seen where.
    pub volumes: Vec<Volume>,
    /// Where relative paths of the host start.
    pub folder: Option<PathBuf>,
    /// The bytes of the file that describe it.
    pub span: Range<usize>,
    /// Where to point: at the bytes that name the image or the program.
    pub place: Range<usize>,
    /// Who runs it.
    pub by: Option<By>,
    /// Empty file systems in it.
    pub tmpfs: Vec<Word>,
    /// Whom it runs as: `USER`, `UID:GID`.
    pub user: Option<Word>,
    /// The mode of its user namespace.
    pub user_namespace: Option<Word>,
    /// Whether the engine takes its volumes from its own mounts, and not from a daemon's.
    pub own_mounts: bool,
    /// What else there is to say.
    pub remarks: Vec<(Range<usize>, String, String)>,
    /// Where one more volume can stand.
    pub gap: Option<Gap>,
    /// Whether other files set variables, too.
    pub more_environment: bool,
    /// What Compose calls it.
    pub service: Option<String>,
    /// The other file that may change what it runs and sees.
    pub changed_in: Option<PathBuf>,
    /// The containers and pods whose volumes it has, too.
    pub others: Vec<Other>,
    /// What the engine calls it.
    pub name: Option<Vec<u8>>,
}

/// A container or pod whose volumes another container has, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Other {
    /// What it is called, without options; empty: nobody here knows it.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Whether its volumes can't be written here.
    pub readonly: bool,
    /// What says it: `--volumes-from data`.
    pub said: Vec<u8>,
}

/// What has volumes for containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another container.
    #[default]
    Container,
    /// The pod that the container is in.
    Pod,
    /// That pod, by the file that holds its id.
    PodIdFile,
    /// A pod that is made for the container, and has no volumes.
    NewPod,
}

impl Other {
    /// `NAME[:OPTIONS]`, which `said` spells with the option's name.
    pub(super) fn parse(text: &[u8], said: Vec<u8>) -> Self {
        let mut parts = text.split(|byte| *byte == b':');
        let name = parts.next().unwrap_or_default().to_vec();
        let readonly = parts.flat_map(|part| part.split(|byte| *byte == b',')).any(|option| option == b"ro");
        Self { name, kind: Kind::Container, readonly, said }
    }
}

/// The users of the host that the users of Docker's containers are: `userns-remap` in Docker's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct UserMap {
    /// Whom the host has for the container's root; `None` where /etc/subuid does not say it.
    first: Option<u32>,
}

/// Where Docker's daemon has its configuration, and the user that `default` stands for.
const DOCKER: &str = "/etc/docker/daemon.json";
const DOCKER_USER: &str = "dockremap";

impl UserMap {
    /// Docker's, where a text can be about its containers.
    pub(super) fn of_docker(text: &[u8], beside: &dyn Beside) -> Option<Self> {
        let has = |word: &[u8]| memchr::memmem::find(text, word).is_some();
        (has(b"docker") || has(b"services:")).then_some(())?;
        let settings = beside.file(Path::new(DOCKER)).ok()??;
        let settings: serde_json::Value = serde_json::from_slice(&settings).ok()?;
        let given = settings.get("userns-remap")?.as_str().filter(|given| !given.is_empty())?;
        let user = given.split(':').next().unwrap_or_default();
        let user = if user == "default" { DOCKER_USER } else { user };
        let ranges = beside.file(Path::new("/etc/subuid")).ok().flatten().unwrap_or_default();
        let first = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b':');
            (fields.next()? == user.as_bytes()).then_some(())?;
            std::str::from_utf8(fields.next()?).ok()?.parse().ok()
        };
        Some(Self { first: ranges.split(|byte| *byte == b'\n').find_map(first) })
    }

    /// The host's number of a container's user.
    fn on_host(&self, user: &str) -> Option<u32> {
        self.first?.checked_add(user.parse().ok()?)
    }
}

/// A directory or file of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    /// A path of the host's, or a volume's name.
    pub source: Word,
    /// The part of it that is mounted.
    pub below: PathBuf,
    /// Where the container has it.
    pub target: Word,
    /// Whether the container can't write it.
    pub readonly: bool,
    /// Whether podman gives all its files to the container's user: `U`.
    pub chowned: bool,
    /// Whether the engine keeps its files: it is no directory that the host has otherwise.
    pub engines: bool,
}

/// What a container's path is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// This directory or file, by an absolute path.
    Host(PathBuf),
    /// What the engine keeps under this name, or what is not statically known, as the file spells it.
    Other(PathBuf),
}

impl Volume {
    /// A volume of which all is mounted.
    pub(super) fn whole(source: Word, target: Word) -> Self {
        Self { source, below: PathBuf::new(), target, readonly: false, chowned: false, engines: false }
    }

    /// `SOURCE:TARGET[:OPTIONS]`.
    pub(super) fn parse(word: &Word) -> Option<Self> {
        let mut parts = split(word, b':').into_iter();
        let volume = Self::whole(parts.next()?, parts.next()?);
        let options: Vec<Word> = parts.flat_map(|part| split(&part, b',')).collect();
        let readonly = options.iter().any(|option| option.is(b"ro") || option.is(b"O"));
        let chowned = options.iter().any(|option| option.is(b"U"));
        Some(Self { readonly, chowned, ..volume })
    }

    /// `type=bind,source=SOURCE,target=TARGET`.
    pub(super) fn mount(word: &Word) -> Option<Self> {
        let parts = split(word, b',');
        let value = |names: &[&[u8]]| {
            parts.iter().find_map(|part| {
                let (name, value) = variable(part)?;
                value.filter(|_| names.contains(&name.as_slice()))
            })
        };
        let volume = Self::whole(value(&[b"source", b"src"])?, value(&[b"target", b"destination", b"dst"])?);
        let is_said = |word: &Word, names: &[&[u8]]| {
            let text = word.bytes();
            let (name, value) = match text.iter().position(|byte| *byte == b'=') {
                Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default()),
                None => (text.as_slice(), &b"true"[..]),
            };
            names.contains(&name) && matches!(value, b"true" | b"1")
        };
        let has = |names: &[&[u8]]| parts.iter().any(|part| is_said(part, names));
        Some(Self { readonly: has(&[b"ro", b"readonly"]), chowned: has(&[b"U", b"chown"]), ..volume })
    }

    /// Where the container has it; `None`: not statically known.
    fn target(&self) -> Option<PathBuf> {
        Text::of(&self.target).all_known().map(|bytes| plain(&path_of(bytes)))
    }

    /// What it is of the host's. A relative path starts at `folder`; without a slash it is a volume's name.
    fn source(&self, folder: Option<&Path>) -> Source {
        let text = Text::of(&self.source);
        let path = path_of(&text.bytes);
        let relative = text.bytes.starts_with(b".").then(|| Some(folder?.join(&path))).flatten();
        let path = relative.unwrap_or(path);
        let known = text.all_known().is_some() && path.is_absolute();
        let path = join(path, &self.below);
        if known { Source::Host(plain(&path)) } else { Source::Other(path) }
    }
}

/// Joins without the slash that an empty path would add.
fn join(path: PathBuf, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { path } else { path.join(below) }
}

impl Container {
    /// The helper that the container runs, with the host's paths. A socket on a volume whose directory is not known is
    /// `VOLUME/NAME`: relative, so that it means something in its own file alone.
    pub(super) fn helper(&self) -> Option<Helper> {
        let invocation = self.invocation()?;
        let inside = invocation.helper(None);
        Some(Helper {
            // Another file may show another directory there, or give it another command.
            export: inside.export.filter(|_| self.changed_in.is_none()).and_then(|path| {
                match self.shown(&path)? {
                    Source::Host(path) => Some(path),
                    Source::Other(_) => None,
                }
            }),
            socket: inside.socket.map(|path| self.on_host(&path).unwrap_or(path)),
            template: None,
            ..inside
        })
    }

    /// The options of the helper that the container runs.
    fn invocation(&self) -> Option<Invocation> {
        let words: Vec<_> = self.entrypoint.iter().chain(&self.arguments).map(Text::of).collect();
        let named = words.iter().position(|word| word.all_known().is_some_and(is_helper));
        let ours = self.image.as_ref().is_some_and(|image| is_image(&image.bytes()));
        let arguments = match named {
            Some(at) => words.get(at + 1..).unwrap_or_default(),
            // Another entry point of this image runs something else.
            None if self.entrypoint.is_empty() && ours => words.as_slice(),
            None => return None,
        };
        let mut invocation = invocation::of_words(arguments)?;
        invocation.fill_in(|name| {
            let given = self.environment.iter().rfind(|(variable, _)| variable == name.as_bytes());
            let default = || {
                if self.more_environment {
                    return Some(Text { bytes: b"?".to_vec(), known: vec![false] });
                }
                let (_, value) = IMAGE_DEFAULTS.iter().find(|(variable, _)| ours && *variable == name)?;
                Some(Text::certain(value))
            };
            match given {
                Some((_, Some(value))) => Some(Text::of(value)),
                Some((_, None)) => Some(Text { bytes: b"?".to_vec(), known: vec![false] }),
                None => default(),
            }
        });
        invocation.path.is_some().then_some(invocation)
    }

    /// What the host calls the container's `path`: a path of its own, or `VOLUME/…`; `None` where no volume shows it.
    pub(super) fn on_host(&self, path: &Path) -> Option<PathBuf> {
        match self.shown(path)? {
            Source::Host(path) | Source::Other(path) => Some(path),
        }
    }

    fn shown(&self, path: &Path) -> Option<Source> {
        let path = plain(path);
        let targets = self.volumes.iter().filter_map(|volume| Some((volume.target()?, volume)));
        let shows = targets.filter(|(target, _)| path.starts_with(target));
        let (target, volume) = shows.max_by_key(|(target, _)| target.as_os_str().len())?;
        let below = path.strip_prefix(&target).ok()?;
        Some(match volume.source(self.folder.as_deref()) {
            Source::Host(own) => Source::Host(join(own, below)),
            Source::Other(own) => Source::Other(join(own, below)),
        })
    }

    /// What it shows of the host's files, and whom it runs as there.
    pub(super) fn view_for(&self, document: &Document, lines: &Lines, users: Option<&UserMap>) -> View {
        let mut view = self.view(document, lines);
        let is_dockers = !self.own_mounts && matches!(self.by, Some(By::Compose | By::Engine));
        let Some(users) = users.filter(|_| is_dockers && self.user_namespace.is_none()) else { return view };
        let inside = self.user.as_ref().map_or_else(|| Some("0".to_owned()), user_of);
        let on_host = inside.as_ref().and_then(|user| users.on_host(user));
        let (inside, said) = match (&inside, on_host) {
            (Some(inside), Some(on_host)) => (inside.as_str(), format!("{on_host} on the host")),
            (Some(inside), None) => {
                (inside.as_str(), "another one on the host (/etc/subuid does not say which)".to_owned())
            }
            (None, _) => ("of QEMU", "another one on the host".to_owned()),
        };
        view.remarks.push(Remark {
            place: Place { span: Some(self.place.clone()), ..view.place.clone() },
            message: format!("Docker gives containers users of their own ({DOCKER}: userns-remap): the user {inside} is {said}"),
            remedy: match on_host {
                Some(on_host) => format!("convert the export with --owner {on_host}, or turn the map off for this container"),
                None => "give the files to that user, or turn the map off for this container".to_owned(),
            },
        });
        view.user = on_host.map(|user| user.to_string());
        view
    }

    /// What it shows of the host's files.
    pub(super) fn view(&self, document: &Document, lines: &Lines) -> View {
        let at = |span: &Range<usize>| Place {
            file: document.path.map(Into::into),
            line: Some(lines.line(span.start)),
            span: Some(span.clone()),
            ..Place::default()
        };
        let by = self.by.unwrap_or(By::Engine);
        let mut view = View::new(by, false, at(&self.place));
        for volume in &self.volumes {
            let Some(target) = volume.target() else { continue };
            let source = match volume.source(self.folder.as_deref()) {
                Source::Host(path) => Some(path),
                Source::Other(_) => None,
            };
            let access = if volume.readonly { Access::ReadOnly } else { Access::Writable };
            if volume.chowned {
                view.remarks_at.push((target.clone(), chowned(at(&volume.target.span), volume)));
            }
            let shown = [volume.source.bytes(), b":".to_vec(), volume.target.bytes()].concat();
            let ro = if volume.readonly { ":ro" } else { "" };
            let said = format!("the volume {}{ro}", escape(&shown));
            let place = at(&volume.target.span);
            let effect = if volume.engines { Effect::Empty } else { Effect::Bind(source, access) };
            view.layers.push(Layer { target, effect, place, said });
        }
        let others = self.others.iter().map(|other| escape(&other.said).into_owned());
        view.unknown = others.reduce(|all, other| format!("{all}, {other}"));
        for word in &self.tmpfs {
            let target = split(word, b':').first().map(Word::bytes).unwrap_or_default();
            let said = format!("the tmpfs {}", escape(&target));
            let place = at(&word.span);
            view.layers.push(Layer { target: plain(&path_of(&target)), effect: Effect::Empty, place, said });
        }
        view.user = self.user.as_ref().and_then(user_of);
        if let Some(word) = self.user_namespace.as_ref().filter(|word| !word.is_any(&["host", ""])) {
            view.remarks.push(Remark {
                place: at(&word.span),
                message: format!(
                    "QEMU's container has a user namespace ({}): the ids of its users are other ids on the host",
                    escape(&word.bytes())
                ),
                remedy: "give the files the host's id of the container's user: `podman top NAME huser hgroup` prints it"
                    .to_owned(),
            });
            view.user = None;
        }
        view.inherits = self.own_mounts;
        view.remarks.extend(self.remarks.iter().map(|(span, message, remedy)| Remark {
            place: at(span),
            message: message.clone(),
            remedy: remedy.clone(),
        }));
        view.gap.clone_from(&self.gap);
        view
    }

    /// Every text of the description.
    pub(super) fn texts(&mut self) -> impl Iterator<Item = &mut Chars> {
        let volumes = self.volumes.iter_mut().flat_map(|volume| [&mut volume.source, &mut volume.target]);
        let variables = self.environment.iter_mut().filter_map(|(_, value)| value.as_mut());
        let words = self.image.iter_mut().chain(&mut self.entrypoint).chain(&mut self.arguments);
        let words = words.chain(&mut self.tmpfs).chain(&mut self.user).chain(&mut self.user_namespace);
        words.chain(volumes).chain(variables).map(|word| &mut word.chars)
    }
}

/// What podman's `U` does to a volume's files.
fn chowned(place: Place, volume: &Volume) -> Remark {
    let shown = escape(&[volume.source.bytes(), b":".to_vec(), volume.target.bytes()].concat()).into_owned();
    Remark {
        place,
        message: format!(
            "the volume {shown} has the option U: before QEMU starts, podman changes the owner of every file in it on the host to the \
             container's user, and the owners that the guest knows are lost unless the export is converted before"
        ),
        remedy: "take U out, or start the container only after `migrate convert`; after a rollback U takes the owners again"
            .to_owned(),
    }
}

/// A container's user, where it is one of whom the host knows: a number.
fn user_of(word: &Word) -> Option<String> {
    let text = Text::of(word);
    let user = text.all_known()?.split(|byte| *byte == b':').next()?;
    let number = !user.is_empty() && user.iter().all(u8::is_ascii_digit);
    number.then(|| String::from_utf8_lossy(user).into_owned())
}

/// Whether an image is the helper's, by the last part of its name without tag and digest.
fn is_image(name: &[u8]) -> bool {
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let end = name.iter().position(|byte| matches!(byte, b':' | b'@')).unwrap_or(name.len());
    name.get(..end).is_some_and(is_helper)
}

/// Whether a word is one of these programs or subcommands.
fn is_of(word: &Word, names: &[&[u8]]) -> bool {
    let bytes = word.bytes();
    names.contains(&bytes.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
}

/// The container that a command line of an engine's runs.
pub(super) fn of_command(words: &[Word]) -> Option<Container> {
    let engine = words.iter().position(|word| is_of(word, ENGINES))?;
    // The engine's own options come before the subcommand: `podman --root /x container run`.
    let run = words.iter().skip(engine + 1).take(8).position(|word| is_of(word, RUN))? + engine + 1;
    // Those make something else.
    words.get(run - 1).filter(|word| !word.is_any(&["pod", "volume", "network", "secret"]))?;
    let mut container = Container::default();
    let mut rest = words.get(run + 1..)?.iter();
    while let Some(word) = rest.next() {
        if word.is(b"--") {
            image(&mut container, rest.next()?);
            break;
        }
        if !word.bytes().starts_with(b"-") {
            image(&mut container, word);
            break;
        }
        let (name, value) = option(word, &mut rest)?;
        container.option(&name, value);
    }
    container.image.as_ref()?;
    container.arguments = rest.cloned().collect();
    container.by = Some(By::Engine);
    container.own_mounts = words.get(engine).is_some_and(|word| is_of(word, &[b"podman"]));
    container.gap = container.image.as_ref().and_then(gap_before);
    container.span = words.first()?.span.start..words.last()?.span.end;
    Some(container)
}

/// The place in front of a word that the file spells as it is, where one more option can stand.
pub(super) fn gap_before(word: &Word) -> Option<Gap> {
    let direct = word.chars.first()?.via().is_none();
    let bare =
        word.chars.iter().all(|c| c.known && matches!(c.spelt, QuoteStyle::ShellBare | QuoteStyle::UnitBare));
    (direct && bare).then(|| Gap { at: word.span.start, before: Vec::new(), after: b" ".to_vec() })
}

fn image(container: &mut Container, word: &Word) {
    container.image = Some(word.clone());
    container.place = word.span.clone();
}

/// An option's name and value.
fn option<'a>(word: &Word, rest: &mut impl Iterator<Item = &'a Word>) -> Option<(Vec<u8>, Option<Word>)> {
    let text = word.bytes();
    if text.starts_with(b"--") {
        if text.contains(&b'=') {
            return variable(word);
        }
        let flag = FLAGS.iter().any(|flag| flag.as_bytes() == text);
        return Some((text, if flag { None } else { rest.next().cloned() }));
    }
    // `-v/srv:/export`, `-itv /srv:/export`.
    let letters = text.get(1..)?;
    let Some(at) = letters.iter().position(|letter| !SHORT_FLAGS.contains(letter)) else {
        return Some((text, None));
    };
    let name = vec![b'-', *letters.get(at)?];
    let inline = word.chars.get(at + 2..).filter(|inline| !inline.is_empty());
    Some((name, inline.map(|inline| Word::plain(inline.to_vec())).or_else(|| rest.next().cloned())))
}

impl Container {
    /// Takes the volumes of the containers and pods that `find` knows.
    pub(super) fn take_others(&mut self, find: &dyn Fn(&Other) -> Option<Self>) {
        self.take_others_below(find, 0);
    }

    fn take_others_below(&mut self, find: &dyn Fn(&Other) -> Option<Self>, depth: usize) {
        for other in std::mem::take(&mut self.others) {
            let found = Some(&other).filter(|other| depth < MAX_OTHERS && !other.name.is_empty());
            let Some(mut found) = found.and_then(find) else {
                self.others.push(other);
                continue;
            };
            found.take_others_below(find, depth + 1);
            // All containers of a pod are in its user namespace.
            if other.kind != Kind::Container {
                self.user_namespace = self.user_namespace.take().or_else(|| found.user_namespace.take());
            }
            self.take_volumes(found, other.readonly);
        }
    }

    /// Takes the volumes of another container. Its own ones count for more.
    pub(super) fn take_volumes(&mut self, other: Self, readonly: bool) {
        let taken = other
            .volumes
            .into_iter()
            .map(|volume| Volume { readonly: volume.readonly || readonly, ..volume });
        self.volumes.splice(..0, taken);
        self.others.extend(other.others);
    }

    /// `type=bind,source=SOURCE,target=TARGET`, `type=tmpfs,target=TARGET`.
    pub(super) fn mount(&mut self, word: &Word) {
        if let Some(volume) = Volume::mount(word) {
            self.volumes.push(volume);
            return;
        }
        let mut parts = split(word, b',').into_iter().filter_map(|part| variable(&part));
        let target = parts.find(|(name, _)| matches!(name.as_slice(), b"target" | b"destination" | b"dst"));
        self.tmpfs.extend(target.and_then(|(_, value)| value));
    }

    /// Takes options as `podman run` has them.
    pub(super) fn options(&mut self, words: &[Word]) {
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let Some((name, value)) = option(word, &mut rest) else { return };
            self.option(&name, value);
        }
    }

    fn option(&mut self, name: &[u8], value: Option<Word>) {
        let Some(value) = value else { return };
        match name {
            b"-v" | b"--volume" => self.volumes.extend(Volume::parse(&value)),
            b"--mount" => self.mount(&value),
            b"-e" | b"--env" => self.environment.extend(variable(&value)),
            b"--entrypoint" => self.entrypoint = vec![value],
            b"--tmpfs" => self.tmpfs.push(value),
            b"--volumes-from" => {
                for part in split(&value, b',') {
                    let text = part.bytes();
                    // Podman takes several names, and several options behind one.
                    let is_option = matches!(text.as_slice(), b"rw" | b"z" | b"ro");
                    if let Some(last) = self.others.last_mut().filter(|_| is_option) {
                        last.readonly |= text == b"ro";
                    } else {
                        let said = [b"--volumes-from ", text.as_slice()].concat();
                        self.others.push(Other::parse(&text, said));
                    }
                }
            }
            b"--name" => self.name = Some(value.bytes()),
            b"--pod" | b"--pod-id-file" => {
                let text = value.bytes();
                let said = [name, b" ", &text].concat();
                let (kind, name) = match text.strip_prefix(b"new:") {
                    _ if name == b"--pod-id-file" => (Kind::PodIdFile, text),
                    Some(new) => (Kind::NewPod, new.to_vec()),
                    None => (Kind::Pod, text),
                };
                self.others.push(Other { name, kind, readonly: false, said });
            }
            b"-u" | b"--user" => self.user = Some(value),
            b"--userns" | b"--uidmap" | b"--gidmap" | b"--subuidname" | b"--subgidname" => {
                self.user_namespace = Some(value);
            }
            _ => {}
        }
    }
}

/// `NAME=VALUE`; the value of `NAME` alone is elsewhere.
pub(super) fn variable(word: &Word) -> Option<(Vec<u8>, Option<Word>)> {
    let equals = word.chars.iter().position(|c| c.byte == b'=');
    let name = word.chars.get(..equals.unwrap_or(word.chars.len()))?;
    let value = equals.and_then(|equals| word.chars.get(equals + 1..));
    Some((bytes(name), value.map(|value| Word::plain(value.to_vec()))))
}

/// The parts of a word between known bytes `byte`.
fn split(word: &Word, byte: u8) -> Vec<Word> {
    word.chars.split(|c| c.known && c.byte == byte).map(|part| Word::plain(part.to_vec())).collect()
}

/// A path without `.`, doubled slashes and those at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|component| *component != Component::CurDir).collect()
}

impl Text {
    /// A word's value.
    pub(crate) fn of(word: &Word) -> Self {
        Self { bytes: word.bytes(), known: word.chars.iter().map(|c| c.known).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::chars::verbatim;

    fn run(line: &str) -> Option<Helper> {
        let words: Vec<_> = line
            .split(' ')
            .map(|word| Word::plain(verbatim(word.as_bytes(), 0..word.len(), QuoteStyle::ShellBare)))
            .collect();
        of_command(&words)?.helper()
    }

    #[test]
    fn an_engines_command_line_tells_the_hosts_paths() {
        let image = "localhost/virtfs-proxy-helper:1.0.0-rc.1";
        for (line, export, socket) in [
            (
                format!("podman run -d -v /srv/a:/export:rw --volume=/run/a:/run/virtfs -e VIRTFS_UID=1 -- {image}"),
                Some("/srv/a"),
                "/run/a/helper.sock",
            ),
            (
                format!("docker run --rm -itv /srv/a:/data --mount type=bind,src=/run/a,dst=/s {image} -p /data/sub -s /s/x"),
                Some("/srv/a/sub"),
                "/run/a/x",
            ),
            (
                "sudo /usr/bin/podman --log-level debug create -v/srv/a:/e --env VIRTFS_PATH=/e --entrypoint \
                 /virtfs-proxy-helper example.org/other@sha256:0 --socket=/run/x"
                    .to_owned(),
                Some("/srv/a"),
                "/run/x",
            ),
            (
                format!("podman run -v data:/export -v sockets:/run/virtfs {image}"),
                None,
                "sockets/helper.sock",
            ),
            // What no volume shows is the container's own.
            (format!("podman run {image} -s /tmp/x"), None, "/tmp/x"),
        ] {
            let helper = run(&line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(helper.export.as_deref(), export.map(Path::new), "{line}");
            assert_eq!(helper.socket.as_deref(), Some(Path::new(socket)), "{line}");
        }
    }

    #[test]
    fn what_runs_no_helper_is_none() {
        for line in [
            "podman run -v /:/host localhost/virtfs-proxy-helper:1.0.0-rc.1 migrate audit --root /host",
            "podman exec helper /virtfs-proxy-helper healthcheck",
            "podman run --entrypoint /bin/sh localhost/virtfs-proxy-helper:1.0.0-rc.1",
            "podman run docker.io/library/debian",
            "podman stop virtfs-proxy-helper",
        ] {
            assert_eq!(run(line), None, "{line}");
        }
    }

    /// Files of a host.
    struct Files(&'static [(&'static str, &'static str)]);

    impl Beside for Files {
        fn file(&self, path: &Path) -> Result<Option<Vec<u8>>, crate::sources::format::Unreadable> {
            let found = self.0.iter().find(|(name, _)| path == Path::new(name));
            Ok(found.map(|(_, text)| text.as_bytes().to_vec()))
        }

        fn files(&self, _folder: &Path) -> std::sync::Arc<[PathBuf]> {
            std::sync::Arc::default()
        }
    }

    /// A user of a container of Docker's is another one on the host where Docker maps users, and that one must own the export.
    #[test]
    fn users_of_docker_are_told_as_the_host_has_them() {
        const DEFAULT: &str = "{\"userns-remap\": \"default\"}";
        const RANGES: &str = "joe:1000:1\ndockremap:100000:65536\nbob:200000:65536\n";
        for (line, files, user, told) in [
            (
                "docker run -u 7:8 i",
                &[("/etc/docker/daemon.json", DEFAULT), ("/etc/subuid", RANGES)][..],
                Some("100007"),
                true,
            ),
            (
                "docker run i",
                &[("/etc/docker/daemon.json", DEFAULT), ("/etc/subuid", RANGES)],
                Some("100000"),
                true,
            ),
            (
                "docker run i",
                &[("/etc/docker/daemon.json", "{\"userns-remap\": \"bob:bob\"}"), ("/etc/subuid", RANGES)],
                Some("200000"),
                true,
            ),
            (
                "docker run -u qemu i",
                &[("/etc/docker/daemon.json", DEFAULT), ("/etc/subuid", RANGES)],
                None,
                true,
            ),
            ("docker run -u 7 i", &[("/etc/docker/daemon.json", DEFAULT)], None, true),
            ("docker run --userns host -u 7 i", &[("/etc/docker/daemon.json", DEFAULT)], Some("7"), false),
            (
                "docker run -u 7 i",
                &[("/etc/docker/daemon.json", "{\"userns-remap\": \"\"}")],
                Some("7"),
                false,
            ),
            ("docker run -u 7 i", &[], Some("7"), false),
            (
                "podman run -u 7 i",
                &[("/etc/docker/daemon.json", DEFAULT), ("/etc/subuid", RANGES)],
                Some("7"),
                false,
            ),
            ("podman run --uidmap 0:100000:65536 -u 7 i", &[], None, true),
        ] {
            let words: Vec<_> = line
                .split(' ')
                .scan(0, |at, word| {
                    let start = *at;
                    *at += word.len() + 1;
                    Some(Word::plain(verbatim(
                        line.as_bytes(),
                        start..start + word.len(),
                        QuoteStyle::ShellBare,
                    )))
                })
                .collect();
            let container = of_command(&words).unwrap();
            let document = Document { path: None, bytes: line.as_bytes() };
            let users = UserMap::of_docker(b"docker", &Files(files));
            let view = container.view_for(&document, &Lines::new(line.as_bytes()), users.as_ref());
            assert_eq!(view.user.as_deref(), user, "{line} {files:?}");
            assert_eq!(!view.remarks.is_empty(), told, "{line} {files:?}");
        }
    }
}
