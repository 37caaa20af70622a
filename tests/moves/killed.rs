//! SIGKILL before, in and after every step of a move and of its way back: `apply` goes on, `undo` takes back, and at no time is a guest
//! started over files that do not fit its configuration. `CRASH_POINTS=all` tries every point; otherwise some, evenly spread.

use std::fs;
use std::sync::Mutex;

use crate::host::Host;

/// How many points are tried.
const POINTS: usize = 2;
/// How many at a time: most of the time they wait.
const THREADS: usize = 4;

/// Where a run is killed.
#[derive(Debug, Clone)]
struct Case {
    event: &'static str,
    step: usize,
    /// What follows.
    then: &'static str,
    /// Whether the journal's last line was being written when it happened, as in a power failure.
    torn: bool,
}

fn cases(steps: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for step in 0..steps {
        for event in ["begin", "end", "done"] {
            for then in ["apply", "undo"] {
                cases.push(Case { event, step, then, torn: false });
                if event != "end" {
                    cases.push(Case { event, step, then, torn: true });
                }
            }
        }
        for event in ["undo-begin", "undo-end", "undo-done"] {
            cases.push(Case { event, step, then: "undo", torn: event == "undo-done" && step % 2 == 0 });
        }
    }
    if std::env::var_os("CRASH_POINTS").is_some_and(|value| value == "all") {
        return cases;
    }
    // A number that has no factor in common with the pattern.
    let step = cases.len().div_ceil(POINTS) | 1;
    cases.into_iter().step_by(step).collect()
}

#[test]
fn a_killed_move_goes_on_or_is_taken_back() {
    let sample = Host::new();
    sample.start();
    let plan = sample.plan(&[]);
    let steps = plan["moves"][0]["steps"].as_array().unwrap().len();
    assert_eq!(
        steps, 9,
        "stop, two helpers, two conversions, two verifications, configuration, start: {plan:#}"
    );
    drop(sample);
    let cases = cases(steps);
    assert!(cases.len() > POINTS / 2);
    let queue = Mutex::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = { queue.lock().unwrap().pop() } {
                    println!("{case:?}");
                    try_case(&case);
                }
            });
        }
    });
}

fn try_case(case: &Case) {
    let host = Host::new();
    host.start();
    host.plan(&[]);
    let crash = format!("{}:{}", case.event, case.step);
    let is_back = case.event.starts_with("undo");
    let killed = if is_back {
        let said = host.apply(None);
        assert_eq!(said.status, Some(0), "{case:?}: {}", said.text);
        host.expect_moved();
        host.undo(Some(&crash))
    } else {
        host.apply(Some(&crash))
    };
    assert!(killed.is_killed, "{case:?}: {killed:?}");
    host.assert_fits();
    if case.torn {
        tear(&host);
    }
    let (phases, status) = host.phases();
    let begun = fs::read_to_string(host.journal()).unwrap().lines().count() > 1;
    if begun {
        assert_eq!((phases, status), (vec!["in-progress".to_owned(); 2], Some(3)), "{case:?}");
    } else {
        assert_eq!((phases, status), (vec!["planned".to_owned(); 2], Some(3)), "{case:?}");
    }
    if is_back {
        let refused = host.apply(None);
        assert_eq!(refused.status, Some(1), "{case:?}: {}", refused.text);
        assert!(refused.text.contains("migrate undo"), "{case:?}: {}", refused.text);
    }
    if case.then == "apply" {
        let said = host.apply(None);
        assert_eq!(said.status, Some(0), "{case:?}: {}", said.text);
        host.expect_moved();
    }
    let said = host.undo(None);
    assert_eq!(said.status, Some(0), "{case:?}: {}", said.text);
    if begun || case.then == "apply" {
        host.expect_as_before();
    } else {
        assert!(said.text.contains("there is nothing to undo"), "{case:?}: {}", said.text);
        host.expect_up("proxy");
    }
}

/// Cuts the last line of the journal.
fn tear(host: &Host) {
    let text = fs::read(host.journal()).unwrap();
    let start = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let half = start + (text.len() - start) / 2;
    fs::write(host.journal(), &text[..half]).unwrap();
}

/// Where in a step it is killed: at a point of the guest's own commands, or once a file is as the step leaves it.
const INSIDE: [(&str, &str); 9] = [
    ("apply", "stop"),
    ("apply", "stopped"),
    ("apply", "start"),
    ("apply", "a.virtfs-journal"),
    ("apply", "b.virtfs-journal"),
    ("apply", "vm.sh.orig"),
    ("undo", "stop"),
    ("undo", "no vm.sh.orig"),
    ("undo", "start"),
];

/// The guest's command, the conversion or the change of the configuration is going on when `migrate` is killed.
#[test]
fn a_move_that_is_killed_within_a_step_goes_on_or_is_taken_back() {
    let is_all = std::env::var_os("CRASH_POINTS").is_some_and(|value| value == "all");
    let points = if is_all { &INSIDE[..] } else { &INSIDE[2..3] };
    for &(verb, point) in points {
        let thens = if verb == "undo" { &["undo"][..] } else { &["apply", "undo"] };
        std::thread::scope(|scope| {
            for then in thens {
                scope.spawn(move || try_inside(verb, point, then));
            }
        });
    }
}

fn try_inside(verb: &str, point: &str, then: &str) {
    println!("{verb}: {point}, {then}");
    let host = Host::new();
    host.start();
    host.plan(&[]);
    if verb == "undo" {
        assert_eq!(host.apply(None).status, Some(0));
    }
    if matches!(point, "stop" | "stopped" | "start") {
        fs::write(host.path(&format!("die-{point}")), "").unwrap();
        let killed = host.migrate(&[verb, "plan.yaml", "--yes", "--settle", "0"], None);
        assert!(killed.is_killed, "{verb} {point}: {killed:?}");
    } else if let Some(file) = point.strip_prefix("no ") {
        host.killed_when(verb, || !host.path(file).exists());
    } else {
        host.killed_when(verb, || host.path(point).exists());
    }
    host.assert_fits();
    if then == "apply" {
        let said = host.apply(None);
        assert_eq!(said.status, Some(0), "{verb} {point}: {}", said.text);
        host.expect_moved();
    }
    let said = host.undo(None);
    assert_eq!(said.status, Some(0), "{verb} {point}: {}", said.text);
    host.expect_as_before();
}

#[test]
fn a_damaged_journal_is_refused_and_nothing_is_changed() {
    let host = Host::new();
    host.start();
    host.plan(&[]);
    assert!(host.apply(Some("done:1")).is_killed);
    let whole = fs::read(host.journal()).unwrap();
    let mut bad = whole.clone();
    bad[20] ^= 1;
    fs::write(host.journal(), &bad).unwrap();
    for said in [host.apply(None), host.undo(None)] {
        assert_eq!(said.status, Some(1), "{}", said.text);
        assert!(said.text.contains("is damaged: restore the file from a backup"), "{}", said.text);
    }
    assert_eq!(fs::read(host.journal()).unwrap(), bad);
    let file = host.path("vm.sh");
    let status = host.migrate(&["status", file.to_str().unwrap()], None);
    assert!(status.text.contains("is damaged"), "{}", status.text);
    assert_ne!(status.status, Some(0));
    fs::write(host.journal(), &whole).unwrap();
    assert_eq!(host.undo(None).status, Some(0));
    host.expect_as_before();
}
