//! README and man pages say what the program does, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::{Arg, Command, CommandFactory, FromArgMatches};
use virtfs_proxy_helper::internals::Cli;
use virtfs_proxy_helper::internals::helper::Settings;

use crate::pages;
use crate::program;
use crate::start::{Daemon, Place, finish};
use crate::wire::{Client, ask};

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

/// The rows of the first table in this section of README that begins with this line, as cells.
fn table(section: &str, head: &str) -> Vec<Vec<&'static str>> {
    let text =
        README.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
    let rest = text.split(&format!("{head}\n")).nth(1).unwrap_or_else(|| panic!("no table {head}"));
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

#[test]
fn the_options_of_the_readme_take_what_the_program_takes() {
    let command = Cli::command();
    let mut choices = 0;
    for row in README.lines().filter(|line| line.starts_with("| `--")) {
        let cell = row.trim_start_matches('|').replace("\\|", ",").split(" | ").next().unwrap().to_owned();
        let words: Vec<&str> = cell.split(['`', ' ']).filter(|word| !word.is_empty()).collect();
        let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == words[0].strip_prefix("--"))
        else {
            continue;
        };
        let switch = arg.get_num_args().is_some_and(|count| count.min_values() == 0);
        assert_eq!(words.len() == 1, switch || !arg.get_action().takes_values(), "{cell}");
        let known: Vec<String> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if let Some(values) = words.get(1).filter(|values| values.contains(',')) {
            choices += 1;
            assert_eq!(values.split(',').collect::<Vec<_>>(), known, "{cell}");
        } else if !known.is_empty() && !switch {
            choices += 1;
            for value in known {
                assert!(row.contains(&format!("`{value}`")), "{value} is missing: {row}");
            }
        }
    }
    assert_eq!(choices, 3);
}

#[test]
fn each_exit_status_of_the_readme_is_given() {
    let rows = table("Signals and exit status", "| exit status | meaning |");
    assert_eq!(rows.len(), 3);
    for row in rows {
        let place = Place::new();
        let (args, daemon) = match row[0] {
            "0" => ("-p export -s socket -u 0 -g 0 --pid-file pid", true),
            "1" => ("-p nowhere -s socket -u 0 -g 0", false),
            "2" => ("-p export", false),
            other => panic!("nothing ends with {other}"),
        };
        let output = finish(&program::ours(), args.split(' '), place.path());
        let _daemon = daemon
            .then(|| Daemon { pid: fs::read_to_string(place.pid_file()).unwrap().trim().parse().unwrap() });
        assert_eq!(output.status.code().map(|code| code.to_string()).as_deref(), Some(row[0]), "{args}");
        assert!(!daemon || Client::connect(&place.socket()).is_ok());
    }
}

#[test]
fn each_signal_of_the_readme_does_what_it_says() {
    use nix::sys::signal::Signal;
    let mut seen = BTreeSet::new();
    for row in table("Signals and exit status", "| signal | effect |") {
        for name in row[0].split(", ") {
            seen.insert(name);
            let signal: Signal = name.parse().unwrap();
            for options in [&[][..], &["--persistent"]] {
                let place = Place::new();
                let mut launch = program::Launch::new(&program::ours(), &place.export());
                for option in options {
                    launch = launch.option(option);
                }
                let mut helper = launch.by_socket(&place.socket());
                let mut client = Client::connect_soon(&place.socket());
                client.ask(&ask::lstat(b"/file")).ok();
                helper.signal(signal);
                if row[1].contains("end after the request in hand, with status 0") {
                    assert_eq!(helper.wait().code(), Some(0), "{name}: {}", helper.log());
                    client.wait_closed().closed();
                    continue;
                }
                if row[1].starts_with("logs") {
                    helper.wait_for_log("lstat 1");
                } else {
                    assert_eq!(row[1], "ignored", "{name}");
                }
                client.ask(&ask::lstat(b"/file")).ok();
                assert!(helper.is_alive(), "{name}");
            }
        }
    }
    assert!(seen.is_superset(&BTreeSet::from(["SIGTERM", "SIGINT", "SIGHUP"])), "{seen:?}");
}

/// groff and mandoc have nothing to say of a page.
fn is_correct_roff(page: &Path) {
    let man = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"];
    for checker in [&man[..], &["mandoc", "-Tlint", "-Wwarning"]] {
        let output = std::process::Command::new(checker[0]).args(&checker[1..]).arg(page).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", checker[0]));
        // mandoc prints what it finds on standard output, where man prints the page.
        let said = if checker[0] == "man" { &output.stderr } else { &output.stdout };
        let said = String::from_utf8_lossy(said);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}

#[test]
fn each_command_has_examples_and_exit_statuses_in_its_help() {
    let mut examples = 0;
    for (name, command) in commands(&Cli::command().disable_help_subcommand(true), "virtfs-proxy-helper") {
        let end =
            command.get_after_long_help().unwrap_or_else(|| panic!("{name}: no end of its help")).to_string();
        let block = |heading: &str| {
            let text =
                end.split(&format!("{heading}:\n")).nth(1).unwrap_or_else(|| panic!("{name}: {heading}"));
            text.split("\n\n").next().unwrap().lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        };
        let statuses = block("Exit status");
        for (at, status) in ["0  ", "1  ", "2  "].iter().enumerate() {
            assert!(statuses[at].starts_with(status), "{name}: {statuses:?}");
        }
        let calls = name.replace('-', " ").replacen("virtfs proxy helper", "virtfs-proxy-helper", 1);
        let block = block("Examples");
        assert!(block.iter().any(|line| line.starts_with(&calls)), "{name}: {block:?}");
        for line in block.iter().filter(|line| !line.starts_with("# ")) {
            let words: Vec<&str> = line.split(" >").next().unwrap().split_ascii_whitespace().collect();
            is_understood(&words);
            examples += 1;
        }
    }
    assert!(examples > 20, "{examples}");
}

#[test]
fn each_command_has_a_man_page_without_fault() {
    let folder = tempfile::tempdir().unwrap();
    pages::write(folder.path()).unwrap();
    let root = Cli::command().disable_help_subcommand(true);
    let all = commands(&root, "virtfs-proxy-helper");
    assert!(all.len() > 8, "{}", all.len());
    for (name, command) in all {
        let path = folder.path().join(format!("man8/{name}.8"));
        let page = fs::read_to_string(&path).unwrap();
        for heading in ["SYNOPSIS", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            assert!(page.contains(&format!(".SH \"{heading}\"\n")), "{name}: {heading}");
        }
        let is_markdown = |line: &str| line.contains("](") || line.starts_with('|');
        assert!(!page.lines().any(is_markdown), "{name}: Markdown is left");
        is_correct_roff(&path);
        for option in command.get_arguments().flat_map(spellings) {
            // roff writes a hyphen as \-.
            assert!(page.contains(&option.replace('-', "\\-")), "{name}: {option}");
        }
    }
    let page = fs::read_to_string(folder.path().join("man8/virtfs-proxy-helper.8")).unwrap();
    for heading in ["SANDBOX", "CAPABILITIES", "SYSTEMD", "DIFFERENCES FROM THE ORIGINAL", "SIGNALS"] {
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
    let matches = Cli::command().try_get_matches_from(words);
    let matches = matches.unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| panic!("{words:?}: {error}"));
    if matches.subcommand_name().is_none() && words != ["virtfs-proxy-helper", "--help"] {
        // systemd's .service unit takes its socket from a .socket unit.
        match Settings::try_from(cli.helper) {
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

/// What scripts/test leaves out where QEMU has no proxy backend is there: a list that names nothing would leave out nothing.
#[test]
fn the_tests_that_need_the_proxy_backend_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let list = fs::read_to_string(tests.join("needs-proxy-backend")).unwrap();
    let lines: Vec<&str> = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(lines.len() > 5, "{lines:?}");
    for line in lines {
        let (binary, test) = line.split_once(' ').expect("a binary and a test");
        assert!(tests.join(binary).join("main.rs").exists(), "{line}");
        if test != "all" {
            let (module, name) = test.split_once("::").expect("a module and a function");
            let text = fs::read_to_string(tests.join(format!("{binary}/{module}.rs"))).unwrap();
            let before =
                text.split(&format!("\nfn {name}()")).next().filter(|before| before.len() < text.len());
            let attributes = before.and_then(|before| before.rsplit("\n\n").next()).unwrap_or_default();
            assert!(attributes.contains("#[test]"), "{line}");
        }
    }
}

/// The files that a script names below `$here`, which it sets from its own place, exist.
#[test]
fn what_the_scripts_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for script in
        ["build-image", "release", "lib/package", "lib/builder-image", "lib/tools", "lib/install", "demo"]
    {
        let path = root.join("scripts").join(script);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{script}: {error}"));
        let Some(definition) =
            text.lines().find_map(|line| line.trim().strip_prefix("here=$(cd \"$(dirname "))
        else {
            continue;
        };
        let below = definition.split_once(')').map_or("", |(_, rest)| rest.split('"').next().unwrap_or(""));
        let here = path.parent().unwrap().join(below.trim_start_matches('/'));
        for after in text.split("$here").skip(1) {
            let word: String = after
                .trim_start_matches('"')
                .chars()
                .take_while(|&letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter))
                .collect();
            let word = word.trim_start_matches('/').trim_end_matches('.');
            // What a build makes.
            if word.is_empty() || word.starts_with("target") || word.starts_with("..") {
                continue;
            }
            let (folder, name) = word.rsplit_once('/').unwrap_or(("", word));
            let entries =
                fs::read_dir(here.join(folder)).unwrap_or_else(|error| panic!("{script}: {word}: {error}"));
            let whole = after.trim_start_matches('"').as_bytes().get(word.len() + 1) != Some(&b'*');
            let exists = entries.flatten().any(|entry| {
                let entry = entry.file_name().into_string().unwrap_or_default();
                if whole { entry == name || name.is_empty() } else { entry.starts_with(name) }
            });
            assert!(exists, "scripts/{script} names '{word}', which does not exist");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");
}
