//! README and man pages say what the program does, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, Parser};
use virtfs_proxy_helper::cli::Cli;

use crate::pages;

const README: &str = include_str!("../../README.md");

/// Every command there is, with the words that call it.
fn commands(command: &Command, name: &str) -> Vec<(String, Command)> {
    let mut all = vec![(name.to_owned(), command.clone())];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        all.extend(commands(below, &format!("{name}-{}", below.get_name())));
    }
    all
}

/// How a visible option is written.
fn spellings(arg: &Arg) -> Vec<String> {
    let long = arg.get_long().map(|name| format!("--{name}"));
    let short = arg.get_short().map(|letter| format!("-{letter}"));
    if arg.is_hide_set() { Vec::new() } else { long.into_iter().chain(short).collect() }
}

#[test]
fn every_helper_option_is_in_the_readme_and_no_other() {
    let command = Cli::command();
    let known: BTreeSet<String> = command.get_arguments().flat_map(spellings).collect();
    let options = README.split("\n## Options\n").nth(1).expect("a section on options");
    let rows = options.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .flat_map(|row| row.split(" | ").next().unwrap_or("").split(['`', ' ', ',']))
        .filter(|word| word.starts_with('-'))
        .map(str::to_owned)
        .collect();
    let with_help = known.into_iter().chain(["--help", "-h", "--version", "-V"].map(String::from)).collect();
    assert_eq!(documented, with_help);
}

#[test]
fn every_option_of_every_command_is_in_its_man_page() {
    let folder = tempfile::tempdir().unwrap();
    pages::write(folder.path()).unwrap();
    let root = Cli::command().disable_help_subcommand(true);
    let all = commands(&root, "virtfs-proxy-helper");
    assert!(all.len() > 8, "{}", all.len());
    for (name, command) in all {
        let page = fs::read_to_string(folder.path().join(format!("man1/{name}.1"))).unwrap();
        for option in command.get_arguments().flat_map(spellings) {
            // roff writes a hyphen as \-.
            assert!(page.contains(&option.replace('-', "\\-")), "{name}: {option}");
        }
    }
    let page = fs::read_to_string(folder.path().join("man1/virtfs-proxy-helper.1")).unwrap();
    for heading in
        ["SANDBOX", "CAPABILITIES", "SYSTEMD", "DIFFERENCES FROM THE ORIGINAL", "SIGNALS AND EXIT STATUS"]
    {
        let text = page.split(&format!(".SH \"{heading}\"\n")).nth(1);
        let text = text.or_else(|| page.split(&format!(".SH {heading}\n")).nth(1));
        let text = text.unwrap_or_else(|| panic!("no section {heading}"));
        assert!(text.split("\n.SH").next().unwrap().len() > 200, "{heading} is not in the README any more");
    }
    assert_eq!(fs::read_dir(folder.path().join("completions")).unwrap().count(), 3);
}

/// The lines of the README's fenced blocks of this language.
fn fenced(language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let blocks = README.split(&fence).skip(1);
    blocks.flat_map(|block| block.split("\n```").next().unwrap_or("").lines()).collect()
}

#[track_caller]
fn is_understood(words: &[&str]) {
    let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    if cli.command.is_none() && words != ["virtfs-proxy-helper", "--help"] {
        // systemd's .service unit takes its socket from a .socket unit.
        match cli.helper.settings() {
            Ok(_) => {}
            Err(message) => assert!(
                message.starts_with("no socket") || message.contains("libvirt-qemu"),
                "{words:?}: {message}"
            ),
        }
    }
}

#[test]
fn the_readmes_commands_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = fenced("sh");
    assert!(lines.iter().any(|line| line.starts_with("scripts/demo")) && lines.len() > 5, "{lines:?}");
    for line in lines {
        let line = line.split(" #").next().unwrap().trim();
        let words: Vec<&str> = line.split_ascii_whitespace().skip_while(|&word| word == "sudo").collect();
        let Some(&first) = words.first() else { continue };
        if first.starts_with("scripts/") || first.starts_with("tests/") {
            let mode = fs::metadata(root.join(first))
                .unwrap_or_else(|error| panic!("{first}: {error}"))
                .permissions();
            assert!(mode.mode() & 0o111 != 0, "{first} can't be run");
        } else if first.ends_with("virtfs-proxy-helper") {
            is_understood(&words);
        } else if let Some(at) = words.iter().position(|&word| word == "--example") {
            assert!(root.join("examples").join(words[at + 1]).exists(), "{line}");
        }
    }
    for line in fenced("ini").iter().filter_map(|line| line.strip_prefix("ExecStart=")) {
        is_understood(&line.split_ascii_whitespace().collect::<Vec<_>>());
    }
}

/// Links and paths that the README names lead somewhere.
#[test]
fn what_the_readme_points_to_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bench = README.split("cargo bench --bench ").nth(1).expect("how to measure");
    let name = bench.split(['`', ' ', '\n']).next().unwrap();
    assert!(root.join(format!("benches/{name}.rs")).exists(), "{name}");
    for link in README.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let file = link.split('#').next().unwrap_or("");
        assert!(link.contains("://") || file.is_empty() || root.join(file).exists(), "{link}");
    }
    for word in README.split('`').skip(1).step_by(2).filter(|word| word.starts_with("tests/")) {
        assert!(root.join(word).exists(), "{word}");
    }
}
