//! Guests that a script or an admin starts.

use std::fs;
use std::process::Command;

use crate::host::Host;

#[test]
fn a_move_and_its_way_back() {
    let host = Host::new();
    host.start();
    host.plan(&[]);
    let said = host.apply(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    host.expect_moved();
    let again = host.apply(None);
    assert_eq!(again.status, Some(0));
    assert!(again.text.contains("is applied already"), "{}", again.text);
    // The configuration that comes back is on stable storage before the journal says so.
    let calls = host.traced("undo", "rename,renameat,renameat2,syncfs,fdatasync");
    let back = calls
        .iter()
        .position(|call| call.contains("rename") && call.contains("/vm.sh\""))
        .expect("it comes back");
    let next = calls[back..].iter().find(|call| !call.contains("rename")).expect("a call that syncs");
    assert!(next.contains("syncfs("), "{calls:#?}");
    host.expect_as_before();
    assert!(host.undo(None).text.contains("is undone already"));
    // The same plan a second time.
    assert_eq!(host.apply(None).status, Some(0));
    host.expect_moved();
    assert_eq!(host.undo(None).status, Some(0));
    host.expect_as_before();
}

/// The plan names the script alone. It has the helpers of the guest, and the way back starts them.
#[test]
fn helpers_that_no_file_starts_are_started_again() {
    let host = Host::with_helpers_by_hand();
    host.start();
    let plan = host.plan(&[]);
    let helpers = plan["moves"][0]["helpers"].as_array().unwrap();
    assert!(helpers.len() == 2 && helpers.iter().all(|helper| helper["pid"].is_number()), "{plan:#}");
    assert_eq!(host.apply(None).status, Some(0));
    host.expect_moved();
    let said = host.undo(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    host.expect_back();
    // One that has ended could not be started again: that is asked.
    host.end_helper("b");
    let said = host.migrate(&["plan", host.path("vm.sh").to_str().unwrap()], None);
    assert_eq!(said.status, Some(3), "{}", said.text);
    assert!(said.text.contains("no helper was found that serves its share b: "), "{}", said.text);
    assert!(!said.text.contains("its share a: "), "{}", said.text);
}

/// The command that starts it becomes QEMU, and ends with the guest.
#[test]
fn a_start_command_may_stay_in_the_foreground_and_a_guest_may_have_no_name() {
    let host = Host::with(|script| script.replace("NAME", "").replace("DAEMONIZE", ""));
    let mut first = Command::new(host.path("start")).spawn().unwrap();
    host.expect_up("proxy");
    let plan = host.plan(&[]);
    assert_eq!(plan["moves"][0]["guests"][0]["name"], host.path("vm.sh").to_str().unwrap());
    let waiter = std::thread::spawn(move || first.wait());
    let said = host.apply(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    waiter.join().unwrap().unwrap();
    host.expect_moved();
    assert_eq!(host.undo(None).status, Some(0));
    host.expect_as_before();
}

#[test]
fn a_step_that_fails_is_taken_back_and_the_old_guest_runs() {
    for (what, options, spoil, reason) in [
        // The limit holds for the old guest's start, too.
        (
            "a probe",
            vec!["--probe", "echo no mount >&2; false", "--up-timeout", "20"],
            None,
            "the probe did not succeed",
        ),
        ("a start", vec![], Some("s/-S /-no-such-option /"), "does not run with all its shares over local"),
    ] {
        let host = Host::new();
        host.start();
        host.plan(&[]);
        if let Some(change) = spoil {
            // The guest does not come up over local, and does over the proxy.
            let start = fs::read_to_string(host.path("start")).unwrap();
            let line =
                format!("grep -q proxy,id vm.sh || {{ sed '{change}' vm.sh >broken; exec sh broken; }}\n");
            fs::write(host.path("start"), start.replace("exec ./vm.sh", &format!("{line}exec ./vm.sh")))
                .unwrap();
        }
        let mut words = vec!["apply", "plan.yaml", "--yes", "--settle", "0"];
        words.extend(options);
        let said = host.migrate(&words, None);
        assert_eq!(said.status, Some(1), "{what}: {}", said.text);
        assert!(spoil.is_some() || said.text.contains(reason), "{what}: {}", said.text);
        assert!(said.text.contains("Nothing is lost."), "{what}: {}", said.text);
        host.expect_as_before();
    }
}

#[test]
fn an_agent_says_whether_what_was_mounted_is_mounted_again() {
    let host = Host::with_agent(|_| Some(true));
    host.start();
    host.plan(&[]);
    let said = host.apply(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    assert!(!said.text.contains("agent"), "{}", said.text);
    host.expect_moved();
    let journal = fs::read_to_string(host.journal()).unwrap();
    assert!(journal.contains(r#""note":"[\"a\",\"b\"]""#), "{journal}");
}

#[test]
fn a_share_that_is_not_mounted_again_is_a_failed_probe() {
    let host = Host::with_agent(|backend| Some(backend == "proxy"));
    host.start();
    host.plan(&[]);
    // The limit holds for the old guest's start, too.
    let said = host.migrate(&["apply", "plan.yaml", "--yes", "--settle", "0", "--up-timeout", "20"], None);
    assert_eq!(said.status, Some(1), "{}", said.text);
    assert!(said.text.contains("the agent of toy says that"), "{}", said.text);
    assert!(said.text.contains("20 seconds after its start: a, b. If"), "{}", said.text);
    assert!(said.text.contains("Nothing is lost."), "{}", said.text);
    host.expect_as_before();
    let said = host.migrate(&["apply", "plan.yaml", "--yes", "--settle", "0", "--no-agent"], None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    host.expect_moved();
}

#[test]
fn an_agent_that_does_not_answer_is_no_error() {
    let host = Host::with_agent(|backend| (backend == "proxy").then_some(true));
    host.start();
    host.plan(&[]);
    let said = host.migrate(&["apply", "plan.yaml", "--yes", "--settle", "0", "--up-timeout", "20"], None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    assert!(said.text.contains("the agent of toy does not answer"), "{}", said.text);
    host.expect_moved();
    assert_eq!(host.undo(None).status, Some(0));
    host.expect_as_before();
    let host = Host::with_agent(|_| None);
    host.start();
    host.plan(&[]);
    let said = host.apply(None);
    assert_eq!(said.status, Some(0), "{}", said.text);
    assert!(said.text.contains("no agent answers in toy: "), "{}", said.text);
    host.expect_moved();
}

#[test]
fn nothing_is_done_where_something_has_changed_since_the_plan() {
    let host = Host::new();
    host.start();
    host.plan(&[]);
    let script = fs::read_to_string(host.path("vm.sh")).unwrap();
    fs::write(host.path("vm.sh"), format!("{script}# a later edit\n")).unwrap();
    let said = host.apply(None);
    assert_eq!(said.status, Some(1), "{}", said.text);
    assert!(said.text.contains("vm.sh has changed since the plan; nothing was changed"), "{}", said.text);
    host.expect_up("proxy");
    // An edit of the plan's own commands would do nothing.
    fs::write(host.path("vm.sh"), &script).unwrap();
    let plan = fs::read_to_string(host.path("plan.yaml")).unwrap();
    let stop = host.path("stop");
    for (old, new, reason) in [
        (
            format!("stop: {}", stop.display()),
            "stop: /bin/true".to_owned(),
            "the commands of toy are not those",
        ),
        ("    - convert\n".to_owned(), "    - check\n".to_owned(), "the steps about files are not those"),
    ] {
        assert!(plan.contains(&old), "{plan}");
        fs::write(host.path("plan.yaml"), plan.replace(&old, &new)).unwrap();
        let said = host.apply(None);
        assert_eq!(said.status, Some(1), "{new}: {}", said.text);
        assert!(said.text.contains(reason) && said.text.contains("nothing was changed"), "{}", said.text);
        host.expect_up("proxy");
    }
    fs::write(host.path("plan.yaml"), plan).unwrap();
    // Without a terminal and --yes it is shown, and nothing is done.
    fs::write(host.path("vm.sh"), script).unwrap();
    let said = host.migrate(&["apply", "plan.yaml"], None);
    assert_eq!(said.status, Some(2), "{}", said.text);
    assert!(said.text.contains("To apply it, add --yes"), "{}", said.text);
    host.expect_up("proxy");
}
