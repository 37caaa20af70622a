//! The containers that a script starts, and the volumes that one has from another: `--volumes-from`, `--pod`.
//!
//! Source: podman-run(1), podman-pod-create(1), docker-run(1).

#![forbid(unsafe_code)]

use super::{Container, ENGINES, Kind, Other, is_of, of_command, option};
use crate::share::bounds::spend;
use crate::share::view::By;
use crate::sources::chars::{Command, Word};
use crate::sources::lexed::Lexed;

/// The container that a command line of an engine's runs, with the volumes of those that other commands of the same file start.
pub(in crate::sources) fn of_commands(words: &[Word], lexed: &Lexed) -> Option<Container> {
    let mut container = of_command(words)?;
    container.take_others(&|other| find(other, lexed));
    Some(container)
}

/// Whether a command can make a container or a pod.
pub(in crate::sources) fn may_make(words: &[Word]) -> bool {
    words.iter().take(8).any(|word| is_of(word, ENGINES))
        && words.iter().any(|word| word.is_any(&["run", "create"]))
}

/// What a command makes that is called like this. Several that are not alike are not told apart.
fn find(other: &Other, lexed: &Lexed) -> Option<Container> {
    if other.kind == Kind::NewPod {
        return Some(Container::default());
    }
    let affordable = |command: &&Command| spend(command.words.len().saturating_mul(16));
    let all = lexed.engines.iter().chain(&lexed.commands);
    let made = all.take_while(affordable).filter_map(|command| match other.kind {
        Kind::Container => of_command(&command.words).filter(|it| it.is_called(&other.name)),
        Kind::Pod | Kind::PodIdFile => pod(&command.words, other),
        Kind::NewPod => None,
    });
    let mut found: Option<Container> = None;
    for made in made {
        match &found {
            Some(other) if !other.shows_like(&made) => return None,
            _ => found = Some(made),
        }
    }
    found
}

/// The pod that a command line makes, if that is the one that is meant.
fn pod(words: &[Word], meant: &Other) -> Option<Container> {
    let engine = words.iter().position(|word| is_of(word, ENGINES))?;
    let verb = words.iter().skip(engine + 1).take(8).position(|word| word.is(b"pod"))? + engine + 1;
    if !words.get(verb + 1).is_some_and(|word| word.is(b"create")) {
        // The first container of a pod can make it.
        let run = of_command(words)?;
        let makes =
            |other: &Other| other.kind == Kind::NewPod && other.name == meant.name && meant.kind == Kind::Pod;
        return run.others.iter().any(makes).then(Container::default);
    }
    let mut pod = Container { by: Some(By::Engine), ..Container::default() };
    let mut id_file = None;
    let mut rest = words.get(verb + 2..)?.iter();
    while let Some(word) = rest.next() {
        if !word.bytes().starts_with(b"-") {
            pod.name = Some(word.bytes());
            break;
        }
        let (name, value) = option(word, &mut rest)?;
        if name == b"--pod-id-file" {
            id_file = value.map(|value| value.bytes());
        } else {
            pod.option(&name, value);
        }
    }
    let own = if meant.kind == Kind::PodIdFile { id_file.as_ref() } else { pod.name.as_ref() };
    own.is_some_and(|own| *own == meant.name).then_some(pod)
}

impl Container {
    fn is_called(&self, name: &[u8]) -> bool {
        self.name.as_deref() == Some(name)
    }

    /// Whether both have the same volumes, wherever the file says them.
    fn shows_like(&self, other: &Self) -> bool {
        let volumes = |container: &Self| -> Vec<_> {
            let said = container.volumes.iter();
            said.map(|volume| (volume.source.bytes(), volume.target.bytes(), volume.readonly)).collect()
        };
        volumes(self) == volumes(other) && self.others == other.others
    }
}
