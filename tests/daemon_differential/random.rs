//! Long sessions of requests drawn at random, the same on every run: sequences nobody would think of.

use crate::creating::zoo;
use crate::dice::Dice;
use crate::stage::Stage;
use crate::wire::{LEAVE, Request};

/// Whether the reference loses capabilities before it does this (its defect 1), and they would be needed.
fn is_diminished(request: &Request) -> bool {
    match request {
        Request::Mknod { uid, gid, mode, .. } => {
            diminishes(*uid, *gid) && mode & libc::S_IFMT != libc::S_IFIFO
        }
        Request::Create { uid, gid, mode, .. } => diminishes(*uid, *gid) && mode & libc::S_ISGID != 0,
        _ => false,
    }
}

fn diminishes(uid: i32, gid: i32) -> bool {
    (uid, gid) != (0, 0) && [0, LEAVE].contains(&uid)
}

/// Whether ours differs on purpose here: where the last name is a symbolic link or a special file, the reference
/// follows the one and opens the other.
fn differs_on_purpose(stage: &Stage, request: &Request) -> bool {
    if let Request::Link { old, .. } = request {
        // Two faults at once: without walls the other one is told.
        return stage.kind(old).is_none();
    }
    if is_diminished(request) {
        return true;
    }
    let (Request::Open { path, .. }
    | Request::Create { path, .. }
    | Request::Chmod { path, .. }
    | Request::Truncate { path, .. }
    | Request::Version { path }) = request
    else {
        return false;
    };
    let kind = stage.kind(path);
    let is_special = ![None, Some(libc::S_IFREG), Some(libc::S_IFDIR), Some(libc::S_IFLNK)].contains(&kind);
    kind == Some(libc::S_IFLNK)
        || is_special
            && matches!(request, Request::Open { .. } | Request::Create { .. } | Request::Version { .. })
}

fn session(sandbox: &str, seed: u64, steps: usize) {
    let mut stage = Stage::new(sandbox, zoo);
    let mut dice = Dice::new(seed);
    while stage.steps() < steps {
        let request = dice.request();
        if !differs_on_purpose(&stage, &request) {
            stage.compare([request]);
        }
    }
    stage.finish();
}

#[test]
fn sessions_behind_a_namespace() {
    for seed in 1..=4 {
        session("namespace", seed, 600);
    }
}

#[test]
fn sessions_behind_a_chroot() {
    for seed in 11..=12 {
        session("chroot", seed, 600);
    }
}

#[test]
fn sessions_without_walls() {
    for seed in 21..=24 {
        session("none", seed, 600);
    }
}
