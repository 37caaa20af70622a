//! Places for a list of arguments, and the ways in which each of them spells an argument.

#![allow(clippy::unnecessary_wraps, reason = "a table holds them all as one type")]

use std::fmt::Write as _;

/// Spells an argument; `None` where this way can't spell it.
pub(super) type Spelling = fn(&str) -> Option<String>;

/// A place for arguments.
pub(super) struct Form {
    /// The file's name.
    pub name: &'static str,
    /// The text in front of the arguments.
    pub before: &'static str,
    /// The text behind them.
    pub behind: &'static str,
    /// What stands between two of them.
    pub between: &'static str,
    /// How one is spelled.
    pub spellings: &'static [Spelling],
}

const fn form(
    name: &'static str,
    before: &'static str,
    behind: &'static str,
    between: &'static str,
    spellings: &'static [Spelling],
) -> Form {
    Form { name, before, behind, between, spellings }
}

/// What a shell takes for something else outside of quotes.
const OF_SHELL: &str = " \t\"'\\$`#&|;<>(){}[]*?!~^";

fn escaped(text: &str, special: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if special.contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Each character that is no letter or digit, spelled by `spell`.
fn numbered(text: &str, spell: fn(u32) -> String) -> String {
    let spelled = |c: char| if c.is_ascii_alphanumeric() { c.to_string() } else { spell(u32::from(c)) };
    text.chars().map(spelled).collect()
}

fn without(text: &str, special: &str) -> Option<String> {
    (!text.contains(|c| special.contains(c))).then(|| text.to_owned())
}

fn shell_bare(text: &str) -> Option<String> {
    without(text, OF_SHELL)
}

fn shell_single(text: &str) -> Option<String> {
    Some(format!("'{}'", text.replace('\'', r"'\''")))
}

fn shell_double(text: &str) -> Option<String> {
    Some(format!("\"{}\"", escaped(text, "\"\\$`")))
}

fn shell_escaped(text: &str) -> Option<String> {
    Some(escaped(text, OF_SHELL))
}

fn shell_pieces(text: &str) -> Option<String> {
    let (first, second) = text.split_at(text.char_indices().nth(text.chars().count() / 2)?.0);
    Some(shell_double(first)? + &shell_single(second)?)
}

fn bash_bytes(text: &str) -> Option<String> {
    Some(format!("$'{}'", bytes_escaped(text)?))
}

/// Inside the double quotes of `su -c "…"`.
fn shell_single_inside(text: &str) -> Option<String> {
    Some(escaped(&shell_single(text)?, "\"\\$`"))
}

fn shell_escaped_inside(text: &str) -> Option<String> {
    Some(escaped(&shell_escaped(text)?, "\"\\$`"))
}

/// Inside the single quotes of `sh -c '…'`.
fn shell_double_inside(text: &str) -> Option<String> {
    without(&shell_double(text)?, "'")
}

fn cron_single(text: &str) -> Option<String> {
    without(&shell_single(text)?, "%")
}

fn recipe_bare(text: &str) -> Option<String> {
    Some(without(&shell_bare(text)?, "#")?.replace('$', "$$"))
}

fn recipe_single(text: &str) -> Option<String> {
    Some(without(&shell_single(text)?, "#")?.replace('$', "$$"))
}

fn recipe_double(text: &str) -> Option<String> {
    Some(without(&shell_double(text)?, "#")?.replace('$', "$$"))
}

fn unit_bare(text: &str) -> Option<String> {
    Some(without(text, " \t\"';")?.replace('\\', r"\\").replace('%', "%%").replace('$', "$$"))
}

fn unit_single(text: &str) -> Option<String> {
    Some(format!("'{}'", escaped(text, "\\'").replace('%', "%%").replace('$', "$$")))
}

fn unit_double(text: &str) -> Option<String> {
    Some(format!("\"{}\"", escaped(text, "\\\"").replace('%', "%%").replace('$', "$$")))
}

/// systemd takes `%` and `$` for its own after it has taken away the escapes.
fn unit_bytes(text: &str) -> Option<String> {
    bytes_escaped(&text.replace('%', "%%").replace('$', "$$"))
}

fn bytes_escaped(text: &str) -> Option<String> {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b",=/-._".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "\\x{byte:02x}").ok()?;
        }
    }
    Some(out)
}

fn program_single(text: &str) -> Option<String> {
    Some(shell_single(text)?.replace('%', "%%"))
}

fn program_double(text: &str) -> Option<String> {
    Some(shell_double(text)?.replace('%', "%%"))
}

fn yaml_plain(text: &str) -> Option<String> {
    let opens = text.starts_with(|c: char| "?:,[]{}#&*!|>'\"%@` \t".contains(c)) || text == "-";
    let ends = text.contains(": ") || text.contains(" #") || text.ends_with([' ', ':', '\t']);
    (!opens && !ends).then(|| text.to_owned())
}

fn yaml_flow(text: &str) -> Option<String> {
    without(&yaml_plain(text)?, ",[]{}")
}

fn yaml_single(text: &str) -> Option<String> {
    Some(format!("'{}'", text.replace('\'', "''")))
}

fn json(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

fn json_numbered(text: &str) -> Option<String> {
    let is_long = text.chars().any(|c| u32::from(c) > 0xffff);
    (!is_long).then(|| format!("\"{}\"", numbered(text, |c| format!("\\u{c:04x}"))))
}

fn yaml_numbered(text: &str) -> Option<String> {
    let is_long = text.chars().any(|c| u32::from(c) > 0xff);
    (!is_long).then(|| format!("\"{}\"", numbered(text, |c| format!("\\x{c:02X}"))))
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\t', "&#9;")
}

fn xml_single(text: &str) -> Option<String> {
    Some(format!("'{}'", xml(text).replace('\'', "&apos;")))
}

fn xml_double(text: &str) -> Option<String> {
    Some(format!("\"{}\"", xml(text).replace('"', "&quot;")))
}

fn xml_numbered(text: &str) -> Option<String> {
    Some(format!("'{}'", numbered(text, |c| format!("&#{c};"))))
}

fn literal(text: &str) -> Option<String> {
    Some(format!("\"{}\"", escaped(text, "\\\"")))
}

fn literal_single(text: &str) -> Option<String> {
    Some(format!("'{}'", escaped(text, "\\'")))
}

fn raw_single(text: &str) -> Option<String> {
    Some(format!("'{}'", without(text, "'")?))
}

fn raw_python(text: &str) -> Option<String> {
    (!text.ends_with('\\')).then_some(())?;
    Some(format!("r'{}'", without(text, "'")?))
}

fn raw_go(text: &str) -> Option<String> {
    Some(format!("`{}`", without(text, "`")?))
}

fn raw_rust(text: &str) -> Option<String> {
    (!text.contains("\"#")).then(|| format!("r#\"{text}\"#"))
}

fn nix(text: &str) -> Option<String> {
    Some(literal(text)?.replace("${", "\\${"))
}

fn nix_indented(text: &str) -> Option<String> {
    let is_quote = text.contains("''") || text.ends_with('\'') || text.contains('\\');
    (!is_quote).then(|| format!("''{}''", text.replace("${", "''${")))
}

fn hcl(text: &str) -> Option<String> {
    Some(literal(text)?.replace("${", "$${").replace("%{", "%%{"))
}

fn compose_plain(text: &str) -> Option<String> {
    Some(yaml_plain(text)?.replace('$', "$$"))
}

fn compose_single(text: &str) -> Option<String> {
    Some(yaml_single(text)?.replace('$', "$$"))
}

fn compose_double(text: &str) -> Option<String> {
    Some(json(text)?.replace('$', "$$"))
}

fn dash_single_in_yaml_single(text: &str) -> Option<String> {
    Some(shell_single(text)?.replace('\'', "''"))
}

const SHELL: &[Spelling] = &[shell_bare, shell_single, shell_double, shell_escaped, shell_pieces];
const BASH: &[Spelling] = &[shell_bare, shell_single, shell_double, shell_escaped, shell_pieces, bash_bytes];
const UNIT: &[Spelling] = &[unit_bare, unit_single, unit_double, unit_bytes];
const RECIPE: &[Spelling] = &[recipe_bare, recipe_single, recipe_double];
const YAML: &[Spelling] = &[yaml_plain, yaml_single, json, json_numbered, yaml_numbered];
const FLOW: &[Spelling] = &[yaml_flow, yaml_single, json, yaml_numbered];
const COMPOSE: &[Spelling] = &[compose_plain, compose_single, compose_double];
const JSON: &[Spelling] = &[json, json_numbered];
const PROXMOX: &[Spelling] = &[shell_bare, shell_single];
const PROGRAM: &[Spelling] = &[program_single, program_double];
const XML: &[Spelling] = &[xml_single, xml_double, xml_numbered];
const SCRIPTS: &[Spelling] = &[literal, literal_single];

/// Every form.
pub(super) const FORMS: &[Form] = &[
    form("/vm.sh", "#!/bin/bash\nqemu-system-x86_64 -m 1G ", " -display none\n", " ", BASH),
    form("/vm.sh", "#!/bin/sh\nexec qemu-system-x86_64 \\\n  ", " \\\n  -display none\n", " \\\n  ", SHELL),
    form("/vm.sh", "#!/bin/bash\na=(-m 1G\n", ")\nqemu-system-x86_64 \"${a[@]}\"\n", "\n", BASH),
    form("/vm.sh", "#!/bin/sh\nset -- \"$@\" ", "\nexec qemu-system-x86_64 \"$@\"\n", " ", SHELL),
    form("/vm.sh", "#!/bin/sh\ncat >/x <<\"EOF\"\nqemu-system-x86_64 ", " -m 1\nEOF\n", " ", SHELL),
    form("/vm.sh", "#!/bin/sh\nsh -c 'qemu-system-x86_64 ", "'\n", " ", &[shell_bare, shell_double_inside]),
    form(
        "/vm.sh",
        "#!/bin/sh\nsu vm -c \"qemu-system-x86_64 ",
        "\"\n",
        " ",
        &[shell_bare, shell_single_inside, shell_escaped_inside],
    ),
    form("/vm.sh", "#!/bin/sh\n(cd / && qemu-system-x86_64 ", " &) >/dev/null 2>&1\n", " ", SHELL),
    form("/vm.sh", "#!/bin/sh\nif true; then\n\tqemu-system-x86_64 ", "; fi\n", " ", SHELL),
    form("/crontab", "@reboot qemu-system-x86_64 ", "\n", " ", &[cron_single]),
    form(
        "/vm.service",
        "[Service]\nExecStart=/usr/bin/qemu-system-x86_64 -m 1G ",
        " -display none\n",
        " ",
        UNIT,
    ),
    form("/vm.service", "[Service]\nExecStart=@/usr/bin/qemu-system-x86_64 vm \\\n  ", "\n", " \\\n  ", UNIT),
    form("/vm.container", "[Container]\nImage=q\nExec=", "\n", " ", &[unit_single, unit_double]),
    form(
        "/compose.yaml",
        "services:\n  vm:\n    image: q\n    command:\n      - ",
        "\n",
        "\n      - ",
        COMPOSE,
    ),
    form(
        "/compose.yaml",
        "services:\n  vm:\n    image: q\n    command: [q, ",
        "]\n",
        ", ",
        &[compose_single, compose_double],
    ),
    form(
        "/play.yml",
        "- hosts: all\n  tasks:\n  - command:\n      argv:\n      - ",
        "\n",
        "\n      - ",
        YAML,
    ),
    form("/pod.yaml", "kind: Pod\nspec:\n  containers:\n  - image: q\n    args: [", "]\n", ", ", FLOW),
    form("/vm.yaml", "run: |\n  qemu-system-x86_64 \\\n    ", "\n", " \\\n    ", SHELL),
    form("/vm.yaml", "run: >-\n  qemu-system-x86_64\n  ", "\n", "\n  ", SHELL),
    form(
        "/vm.sls",
        "vm:\n  cmd.run:\n  - name: 'qemu-system-x86_64 ",
        "'\n",
        " ",
        &[dash_single_in_yaml_single],
    ),
    form("/nameless", "vm:\n  run: 'qemu-system-x86_64 ", "'\n  on: 1\n", " ", &[dash_single_in_yaml_single]),
    form("/vm.json", "{\"args\": [\n  \"qemu-system-x86_64\",\n  ", "\n]}\n", ",\n  ", JSON),
    form("/Makefile", "run:\n\tqemu-system-x86_64 -m 1G ", "\n", " ", RECIPE),
    form("/vm.mk", "run:\n\t@qemu-system-x86_64 \\\n\t  ", "\n", " \\\n\t  ", RECIPE),
    form(
        "/vm.xml",
        "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\n<name>a</name>\n<q:commandline>\n<q:arg value=",
        "/>\n</q:commandline>\n</domain>\n",
        "/>\n<q:arg value=",
        XML,
    ),
    form("/qemu-server/100.conf", "name: x\nargs: -m 1 ", "\nmemory: 1\n", " ", PROXMOX),
    form("/vm.nix", "{ args = [\n", "\n]; }\n", "\n", &[nix, nix_indented]),
    form("/vm.py", "args = [\"qemu-system-x86_64\", ", "]\n", ", ", &[literal, literal_single, raw_python]),
    form("/vm.py", "args += [\n    ", ",\n]\n", ",\n    ", &[literal, literal_single, raw_python]),
    form("/vm.rb", "system(\"qemu\", ", ")\n", ", ", &[literal, literal_single]),
    form("/vm.go", "package main\nvar a = []string{\n\t", ",\n}\n", ",\n\t", &[literal, raw_go]),
    form("/vm.rs", "fn main() { Command::new(\"qemu\").args([", "]); }\n", ", ", &[literal, raw_rust]),
    form("/Vm.java", "class A { void f() { new ProcessBuilder(\"qemu\", ", "); } }\n", ", ", &[literal]),
    form("/vm.c", "int main(void) { execlp(\"qemu\", \"qemu\", ", ", NULL); }\n", ", ", &[literal]),
    form("/vm.js", "spawn(\"qemu\", [", "])\n", ", ", SCRIPTS),
    form("/vm.pl", "system(\"qemu\", ", ");\n", ", ", &[literal_single]),
    form("/vm.php", "<?php run([", "]);\n", ", ", &[literal_single]),
    form("/vm.lua", "os.execute({", "})\n", ", ", SCRIPTS),
    form("/vm.tf", "a = [", "]\n", ", ", &[hcl]),
    form("/vm.toml", "args = [", "]\n", ", ", &[literal, raw_single]),
    form("/Dockerfile", "FROM q\nCMD [\"qemu-system-x86_64\", ", "]\n", ", ", &[json]),
    form("/Dockerfile", "FROM q\nCMD exec qemu-system-x86_64 ", "\n", " ", SHELL),
    form("/supervisord.conf", "[program:vm]\ncommand=qemu-system-x86_64 ", "\n", " ", PROGRAM),
    form("/vm.cfg", "name=\"x\"\ndevice_model_args=[", "]\n", ", ", SCRIPTS),
    form("/vm.el", "(start-process \"a\" nil \"qemu-system-x86_64\" ", ")\n", " ", &[literal]),
];
