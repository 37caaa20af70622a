//! The variables of the environment that stand for options, and the command line over them.

use std::process::{Command, Stdio};

use crate::program::{self, Launch};
use crate::start::{Daemon, Place, text};
use crate::wire::ask;

#[test]
fn a_descriptor_on_the_command_line_wins_over_the_variables_of_a_socket() {
    let place = Place::new();
    let launch = Launch::new(&program::ours(), &place.export())
        .variable("VIRTFS_SOCKET", place.socket())
        .variable("VIRTFS_PERSISTENT", "true")
        .variable("VIRTFS_SHARED", "3");
    let (mut running, mut client) = launch.by_fd();
    let answer = client.ask(&ask::lstat(b"/file"));
    assert!(answer.is_success(), "{answer:?}: {}", running.log());
    assert!(!place.socket().exists());
    drop(client);
    assert!(running.wait().success(), "{}", running.log());
}

#[test]
fn a_socket_on_the_command_line_wins_over_the_variable_of_a_descriptor() {
    let place = Place::new();
    let launch = Launch::new(&program::ours(), &place.export()).variable("VIRTFS_FD", "3");
    let running = launch.by_socket(&place.socket());
    let mut client = crate::wire::Client::connect_soon(&place.socket());
    let answer = client.ask(&ask::lstat(b"/file"));
    assert!(answer.is_success(), "{answer:?}: {}", running.log());
}

#[test]
fn two_variables_that_do_not_go_together_are_refused() {
    let place = Place::new();
    let mut command = Command::new(program::ours());
    command.args(["-n", "-p", "/"]).env("VIRTFS_SOCKET", place.socket()).env("VIRTFS_FD", "3");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("both -s and -f"), "{}", text(&output.stderr));
}

/// Whether the helper went to the background, with these variables and options.
fn is_daemon(variables: &[(&str, &str)], options: &[&str]) -> bool {
    let place = Place::new();
    let mut command = Command::new(program::ours());
    command.args(place.listening()).arg("--pid-file").arg(place.pid_file()).args(options);
    command.envs(variables.iter().copied());
    let mut started = program::Running::spawn(command.stdin(Stdio::null()));
    program::wait_until("the socket and the pid file", || {
        let pid = std::fs::read_to_string(place.pid_file()).unwrap_or_default();
        !started.is_alive() || (place.socket().exists() && pid.ends_with('\n'))
    });
    let pid = std::fs::read_to_string(place.pid_file()).unwrap_or_else(|_| panic!("{}", started.log()));
    let pid = pid.trim().parse().unwrap();
    let _ended = Daemon { pid };
    if pid == started.pid() {
        return false;
    }
    assert!(started.wait().success(), "{}", started.log());
    true
}

#[test]
fn a_switch_of_the_environment_can_be_undone() {
    for (variables, options, daemon) in [
        (&[][..], &[][..], true),
        (&[], &["-n"], false),
        (&[], &["--nodaemon=true"], false),
        (&[("VIRTFS_NODAEMON", "true")], &[], false),
        (&[("VIRTFS_NODAEMON", "1")], &[], false),
        (&[("VIRTFS_NODAEMON", "true")], &["--nodaemon=false"], true),
        (&[("VIRTFS_NODAEMON", "false")], &[], true),
        (&[("VIRTFS_NODAEMON", "")], &[], true),
        (&[("VIRTFS_NODAEMON", "false")], &["--nodaemon"], false),
        (&[("VIRTFS_FD", ""), ("VIRTFS_SHARED", "")], &["--persistent=no"], true),
    ] {
        assert_eq!(is_daemon(variables, options), daemon, "{variables:?} {options:?}");
    }
}

#[test]
fn every_option_has_the_variable_of_its_name() {
    use clap::CommandFactory;
    for arg in virtfs_proxy_helper::internals::Cli::command().get_arguments() {
        let name = arg.get_long().unwrap().to_uppercase().replace('-', "_");
        let variable = arg.get_env().unwrap_or_else(|| panic!("{name} has no variable"));
        assert_eq!(variable.to_str(), Some(format!("VIRTFS_{name}").as_str()));
    }
}

/// Those of `migrate` too: an empty one is unset, and not a wrong value.
#[test]
fn an_empty_variable_of_migrate_counts_as_unset() {
    let folder = program::scratch();
    let file = folder.path().join("vm.sh");
    std::fs::write(&file, "#!/bin/sh\n").unwrap();
    let mut command = Command::new(program::ours());
    command.args(["migrate", "status"]).arg(&file).env("VIRTFS_STATE", "").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}
