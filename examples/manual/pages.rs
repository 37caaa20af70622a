//! Man pages of all commands, from their declarations and the README, and completions for three shells.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::aot::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, line_break, roman};
use virtfs_proxy_helper::cli::Cli;

const README: &str = include_str!("../../README.md");

/// The README's sections that the helper's page has too.
const SECTIONS: [&str; 5] =
    ["Signals and exit status", "Sandbox", "Capabilities", "systemd", "Differences from the original"];

/// Writes `man1/*.1` and `completions/*` below `folder`.
pub fn write(folder: &Path) -> io::Result<()> {
    let (man, completions) = (folder.join("man1"), folder.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, &man)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut Cli::command(), "virtfs-proxy-helper", &completions)?;
    }
    Ok(())
}

/// A page for a command and one for each below it.
fn write_pages(command: &Command, folder: &Path) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        write_pages(below, folder)?;
    }
    let page = Man::new(command.clone()).manual("virtfs-proxy-helper").source(env!("CARGO_PKG_VERSION"));
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if let Some(after) = command.get_after_help() {
        notes(&after.to_string()).to_writer(&mut text)?;
    }
    if command.get_name() == "virtfs-proxy-helper" {
        readme_sections().to_writer(&mut text)?;
        see_also().to_writer(&mut text)?;
    }
    fs::write(folder.join(page.get_filename()), text)
}

/// What `--help` ends with.
fn notes(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["NOTES"]);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff
}

fn see_also() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("virtfs-proxy-helper-migrate"),
        roman("(1), "),
        bold("qemu-system-x86_64"),
        roman("(1), "),
        bold("capabilities"),
        roman("(7), "),
        bold("systemd.socket"),
        roman("(5)"),
    ]);
    roff
}

fn readme_sections() -> Roff {
    let mut roff = Roff::new();
    for name in SECTIONS {
        roff.control("SH", [name.to_uppercase().as_str()]);
        section(&mut roff, body(name));
    }
    roff
}

/// The text of one of the README's sections.
fn body(name: &str) -> &'static str {
    let heading = format!("\n## {name}\n");
    let start = README.find(&heading).map_or(README.len(), |at| at + heading.len());
    let rest = &README[start..];
    rest.split("\n## ").next().unwrap_or(rest)
}

/// Markdown as the README uses it: paragraphs, lists and fenced blocks.
fn section(roff: &mut Roff, markdown: &str) {
    let mut fenced = false;
    for line in markdown.lines() {
        match (fenced, line.strip_prefix("```")) {
            (false, Some(_)) => {
                roff.control("PP", []).control("RS", ["4"]).control("nf", []);
                fenced = true;
            }
            (true, Some(_)) => {
                roff.control("fi", []).control("RE", []);
                fenced = false;
            }
            (true, None) => {
                roff.text([roman(line), line_break()]);
            }
            (false, None) => prose(roff, line),
        }
    }
}

fn prose(roff: &mut Roff, line: &str) {
    if line.is_empty() {
        roff.control("PP", []);
    } else if let Some(item) = line.strip_prefix("- ") {
        roff.control("IP", [r"\(bu", "2"]);
        roff.text(inlines(item));
    } else {
        roff.text(inlines(line.trim_start()));
    }
}

/// Code in bold, emphasis in italics.
fn inlines(text: &str) -> Vec<Inline> {
    let part = |(number, part): (usize, &str)| match number % 2 {
        0 => roman(part.replace("**", "")),
        _ if part.starts_with("tests/") => italic(part),
        _ => bold(part),
    };
    text.split('`').enumerate().map(part).collect()
}
