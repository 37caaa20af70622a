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

/// Whether ours differs on purpose here: the reference opens special files, and makes files through symbolic links that lead
/// nowhere.
fn differs_on_purpose(stage: &Stage, request: &Request) -> bool {
    if let Request::Link { old, .. } = request {
        // Two faults at once: without walls the other one is told.
        return stage.kind(old).is_none();
    }
    if is_diminished(request) {
        return true;
    }
    match request {
        Request::Open { path, .. } | Request::Version { path } => is_special(stage.target_kind(path)),
        Request::Create { path, .. } => {
            let target = stage.target_kind(path);
            is_special(target) || target.is_none() && stage.kind(path).is_some()
        }
        _ => false,
    }
}

fn is_special(kind: Option<u32>) -> bool {
    ![None, Some(libc::S_IFREG), Some(libc::S_IFDIR)].contains(&kind)
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
