//! Man pages of all commands, from their declarations and the README, and completions for three shells.

#[path = "pages/markdown.rs"]
mod markdown;
#[path = "pages/roff.rs"]
mod roff;

use std::fs;
use std::io;
use std::path::Path;

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::aot::{Shell, generate};
use virtfs_proxy_helper::internals::Cli;

use roff::{Page, escape};

/// The program's name, and the name of its own page.
const PROGRAM: &str = "virtfs-proxy-helper";

/// Daemons and commands of administrators. QEMU's own package has a page `man1/virtfs-proxy-helper.1`: one of section 8 can be
/// installed beside it.
pub const SECTION: &str = "8";

/// The README's sections that the helper's page has too.
const SECTIONS: [(&str, &str); 5] = [
    ("Signals and exit status", "SIGNALS"),
    ("Sandbox", "SANDBOX"),
    ("Capabilities", "CAPABILITIES"),
    ("systemd", "SYSTEMD"),
    ("Differences from the original", "DIFFERENCES FROM THE ORIGINAL"),
];

/// Writes `man8/*.8` and `completions/*` below `folder`.
pub fn write(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join(format!("man{SECTION}")), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut all = Vec::new();
    collect(&command, PROGRAM, &mut all);
    // A page is called as its command is, with hyphens between the words.
    let names: Vec<String> = all.iter().map(|(words, _)| words.replace(' ', "-")).collect();
    for ((words, command), name) in all.iter().zip(&names) {
        fs::write(man.join(format!("{name}.{SECTION}")), page(words, command, name, &names))?;
    }
    for (shell, name) in [
        (Shell::Bash, "virtfs-proxy-helper.bash"),
        (Shell::Zsh, "_virtfs-proxy-helper"),
        (Shell::Fish, "virtfs-proxy-helper.fish"),
    ] {
        fs::write(completions.join(name), completion(shell))?;
    }
    Ok(())
}

/// A shell's completion.
fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    // A switch that may be undone by `=false` is offered as a switch: its value is never a word of its own.
    let mut command = Cli::command().mut_args(|arg| {
        let is_switch =
            arg.get_num_args().is_some_and(|count| count.min_values() == 0 && count.max_values() == 1);
        if is_switch { plain_switch(&arg) } else { arg }
    });
    generate(shell, &mut command, PROGRAM, &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        // clap_complete writes the labels of the cases in two ways where the program's name has hyphens, so that no subcommand
        // below the first is found: one way is made of both.
        Shell::Bash => {
            let label = |between: &str| PROGRAM.replace('-', between);
            script.replace(&label("__subcmd__"), &label("__")).into_bytes()
        }
        // fish reads the line up to the word that is completed: where that is an option's value, the line ends with an option
        // without one, which is no reason to offer nothing.
        Shell::Fish => script.replace("\n    or return\n", "\n    or return 0\n").into_bytes(),
        _ => script.into_owned().into_bytes(),
    }
}

fn plain_switch(arg: &Arg) -> Arg {
    let mut switch = Arg::new(arg.get_id().clone()).action(ArgAction::SetTrue);
    if let Some(long) = arg.get_long() {
        // For clap, names last as long as the program does.
        let long: &'static str = Box::leak(long.to_owned().into_boxed_str());
        switch = switch.long(long);
    }
    if let Some(short) = arg.get_short() {
        switch = switch.short(short);
    }
    if let Some(help) = arg.get_help() {
        switch = switch.help(help.clone());
    }
    switch
}

/// Every command that is shown, with the words that call it.
fn collect<'a>(command: &'a Command, words: &str, all: &mut Vec<(String, &'a Command)>) {
    all.push((words.to_owned(), command));
    for below in shown(command) {
        collect(below, &format!("{words} {}", below.get_name()), all);
    }
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set())
}

/// One command's page. `names` are those of all pages.
fn page(words: &str, command: &Command, name: &str, names: &[String]) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map_or_else(|| about.clone(), ToString::to_string);
    let mut page = Page::new(name, SECTION, &source(), PROGRAM);
    page.heading("NAME");
    page.line(&format!("{} \\- {}", escape(name), escape(about.trim_end_matches('.'))));
    page.heading("SYNOPSIS");
    synopsis(&mut page, words, command);
    page.heading("DESCRIPTION");
    page.text(&sentence(&long));
    options(&mut page, command);
    if shown(command).next().is_some() {
        page.heading("SUBCOMMANDS");
        for below in shown(command) {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            page.item(
                &format!("\\fB{}\\-{}\\fR({SECTION})", escape(name), escape(below.get_name())),
                &sentence(&about),
            );
        }
    }
    let end = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    blocks(&mut page, &end);
    if name == PROGRAM {
        for (section, heading) in SECTIONS {
            page.heading(heading);
            // Its first table is the section EXIT STATUS.
            let skipped = usize::from(heading == "SIGNALS");
            markdown::section(&mut page, section, skipped);
        }
    }
    page.heading("SEE ALSO");
    page.references(&see_also(name, names));
    page.end()
}

fn source() -> String {
    format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"))
}

/// A sentence of its own: clap's lack the full stop.
fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', ':', ')']) { text.to_owned() } else { format!("{text}.") }
}

/// How a command is called: the options with their values, then the arguments.
fn synopsis(page: &mut Page, words: &str, command: &Command) {
    let mut parts = vec![format!("\\fB{}\\fR", escape(words))];
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional()) {
        let name = arg
            .get_long()
            .map_or_else(|| format!("-{}", arg.get_short().unwrap_or('?')), |long| format!("--{long}"));
        let whole = format!("\\fB{}\\fR{}", escape(&name), value(arg));
        let repeated = if matches!(arg.get_action(), ArgAction::Append) { "..." } else { "" };
        parts.push(if arg.is_required_set() { whole } else { format!("[{whole}]{repeated}") });
    }
    for arg in command.get_positionals() {
        let many = arg.get_num_args().is_some_and(|count| count.max_values() > 1);
        let name = format!("\\fI{}\\fR{}", escape(&value_name(arg)), if many { "..." } else { "" });
        parts.push(if arg.is_required_set() { name } else { format!("[{name}]") });
    }
    if shown(command).next().is_some() {
        parts.push("[\\fISUBCOMMAND\\fR]".into());
    }
    for part in parts {
        page.line(&part);
    }
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names().unwrap_or_default().first().map(ToString::to_string).unwrap_or_default()
}

/// An option's value as it stands behind the name.
fn value(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    let name = escape(&value_name(arg));
    if arg.get_num_args().is_some_and(|count| count.min_values() == 0) {
        format!("[=\\fI{name}\\fR]")
    } else {
        format!(" \\fI{name}\\fR")
    }
}

/// The options below their headings, then the arguments.
fn options(page: &mut Page, command: &Command) {
    let visible = |arg: &&Arg| !arg.is_hide_set() && !arg.is_positional();
    let mut headings: Vec<&str> = Vec::new();
    for arg in command.get_arguments().filter(visible) {
        let heading = arg.get_help_heading().unwrap_or("Options");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    if command.get_positionals().next().is_some() {
        page.heading("ARGUMENTS");
        for arg in command.get_positionals() {
            described(page, &format!("\\fI{}\\fR", escape(&value_name(arg))), arg);
        }
    }
    for heading in headings {
        page.heading(&heading.to_uppercase());
        let of_this = |arg: &&Arg| arg.get_help_heading().unwrap_or("Options") == heading;
        for arg in command.get_arguments().filter(visible).filter(of_this) {
            let short = arg.get_short().map(|letter| format!("\\fB\\-{letter}\\fR"));
            let long = arg.get_long().map(|long| format!("\\fB{}\\fR", escape(&format!("--{long}"))));
            let names: Vec<String> = short.into_iter().chain(long).collect();
            described(page, &format!("{}{}", names.join(", "), value(arg)), arg);
        }
    }
}

/// One option or argument, with its default and its possible values.
fn described(page: &mut Page, term: &str, arg: &Arg) {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = match help.trim_end_matches(']').split_once(" [default: ") {
        Some((help, default)) => format!("{} Default: {default}.", sentence(help)),
        None => sentence(&help),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if arg.get_action().takes_values() && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        text = format!("{text} Default: {}.", defaults.join(", "));
    }
    page.item(term, &text);
    if arg.is_hide_possible_values_set() || !arg.get_action().takes_values() {
        return;
    }
    let values: Vec<PossibleValue> =
        arg.get_possible_values().into_iter().filter(|value| !value.is_hide_set()).collect();
    if values.is_empty() {
        return;
    }
    page.indented(|page| {
        for value in values {
            let help = value.get_help().map(ToString::to_string).unwrap_or_default();
            page.item(&format!("\\fB{}\\fR", escape(value.get_name())), &sentence(&help));
        }
    });
}

/// What `--help` ends with, as sections: see `src/cli/help.rs`.
fn blocks(page: &mut Page, text: &str) {
    let mut heading = "";
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        if let Some(name) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            heading = name;
            page.heading(&name.to_uppercase());
        } else if !line.starts_with(' ') {
            page.heading("NOTES");
            page.text(line);
        } else if heading == "Examples" {
            match line.trim_start().strip_prefix("# ") {
                Some(sentence) => page.paragraph(sentence),
                None => page.code(&[line.trim_start()]),
            }
        } else {
            let (word, meaning) = line.trim_start().split_once("  ").unwrap_or((line.trim(), ""));
            let mut meaning = meaning.trim().to_owned();
            while let Some(more) = lines.next_if(|next| next.starts_with("   ")) {
                meaning = format!("{meaning} {}", more.trim());
            }
            page.item(&format!("\\fB{}\\fR", escape(word)), &sentence(&meaning));
        }
    }
}

/// The pages that belong to this one, and those of others.
fn see_also(name: &str, names: &[String]) -> Vec<(String, String)> {
    let others: &[(&str, &str)] = match name {
        PROGRAM => &[("qemu-system-x86_64", "1"), ("capabilities", "7"), ("systemd.socket", "5")],
        _ if name.ends_with("-healthcheck") => &[("systemd.service", "5")],
        _ if name.ends_with("-audit") || name.ends_with("-config") => {
            &[("qemu-system-x86_64", "1"), ("virsh", "1")]
        }
        _ => &[("qemu-system-x86_64", "1"), ("xattr", "7")],
    };
    let siblings = names.iter().filter(|other| *other != name);
    let ours = siblings.map(|other| (other.clone(), SECTION.to_owned()));
    ours.chain(others.iter().map(|(page, section)| ((*page).to_owned(), (*section).to_owned()))).collect()
}
