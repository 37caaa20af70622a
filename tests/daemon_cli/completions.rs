//! The completions that are shipped, in the shells themselves.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::pages;

/// What is typed before the tab key, what the shell must offer then, and what it must not.
const TYPED: [(&str, &[&str], &[&str]); 10] = [
    ("virtfs-proxy-helper mig", &["migrate"], &["healthcheck"]),
    (
        "virtfs-proxy-helper migrate ",
        &["audit", "config", "check", "convert", "rollback", "report"],
        &["file-here"],
    ),
    ("virtfs-proxy-helper migrate co", &["config", "convert"], &["audit", "file-here"]),
    ("virtfs-proxy-helper migrate convert --sec", &["--security-model"], &["--apply"]),
    ("virtfs-proxy-helper migrate convert --security-model ", &["mapped-xattr", "mapped-file"], &["text"]),
    (
        "virtfs-proxy-helper migrate audit --format ",
        &["text", "json", "sarif", "prometheus"],
        &["mapped-file"],
    ),
    ("virtfs-proxy-helper migrate report --b", &["--by"], &["--since"]),
    ("virtfs-proxy-helper --sandbox ", &["namespace", "chroot", "none"], &["migrate"]),
    ("virtfs-proxy-helper --readonly --sec", &["--seccomp"], &["--socket"]),
    ("virtfs-proxy-helper healthcheck --", &["--socket", "--timeout"], &["--persistent"]),
];

/// Prints what bash offers for each line, by the function that it has registered.
const BASH: &str = r#"
. "$1/virtfs-proxy-helper.bash"
function=$(complete -p virtfs-proxy-helper | sed 's/.*-F \([^ ]*\).*/\1/')
while IFS= read -r line; do
    read -ra COMP_WORDS <<<"$line"
    case $line in *' ') COMP_WORDS+=('') ;; esac
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
    "$function" virtfs-proxy-helper "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}" "--- end"
done
"#;

/// The same of zsh, whose editor works on a terminal alone: `compadd` tells what it is given.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1= PS2=; stty -echo; unsetopt zle_bracketed_paste; fpath=(${(q)1} \$fpath); autoload -Uz compinit; compinit -u -D
compadd() {
    if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd \"\$@\"; return; fi
    typeset -a hits
    builtin compadd -A hits \"\$@\"
    builtin compadd \"\$@\"
    print -rl -- \$hits
}
offer() { print begins; zle complete-word; print -r -- '--- end'; zle kill-whole-line }
matches() { compstate[old_list]=; _main_complete; compstate[insert]=; compstate[list]=; }
zle -C complete-word complete-word matches
zle -N offer; bindkey '^T' offer; print 're''ady'"
zpty -r shell output '*ready*'
while IFS= read -r line; do
    zpty -w -n shell "$line"$'\C-T'
    zpty -r shell output '*--- end*'
    print -r -- "${output##*begins}"
done
"#;

/// The same of fish, which completes by a command.
const FISH: &str = r"
source $argv[1]/virtfs-proxy-helper.fish
while read -l line
    complete --do-complete $line | string replace -r '\t.*' ''
    echo '--- end'
end
";

/// What a shell offers for each line of [`TYPED`].
fn offered(shell: &[&str], completions: &Path, folder: &Path) -> Vec<BTreeSet<String>> {
    let typed = folder.join("typed");
    fs::write(&typed, TYPED.map(|(line, ..)| format!("{line}\n")).concat()).unwrap();
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).arg(completions).stdin(fs::File::open(&typed).unwrap());
    let command = command.env("HOME", folder).env("TERM", "dumb").current_dir(folder.join("here"));
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", shell[0]));
    let said = String::from_utf8(output.stdout).expect("text");
    let answers: Vec<&str> = said.split("--- end").collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(answers.len(), TYPED.len() + 1, "{}: {said}\n{errors}", shell[0]);
    answers.iter().map(|answer| answer.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn each_shell_completes_subcommands_options_and_values() {
    let folder = tempfile::tempdir().unwrap();
    pages::write(folder.path()).unwrap();
    fs::create_dir(folder.path().join("here")).unwrap();
    fs::write(folder.path().join("here/file-here"), "").unwrap();
    let completions = folder.path().join("completions");
    for shell in [
        &["bash", "--norc", "-c", BASH, "bash"][..],
        &["zsh", "-f", "-c", ZSH, "zsh"],
        &["fish", "--no-config", "-c", FISH],
    ] {
        let answers = offered(shell, &completions, folder.path());
        for ((line, wanted, unwanted), answer) in TYPED.iter().zip(answers) {
            for word in *wanted {
                assert!(answer.contains(*word), "{}: {line}: {word} is missing: {answer:?}", shell[0]);
            }
            for word in *unwanted {
                assert!(!answer.contains(*word), "{}: {line}: {word} is offered", shell[0]);
            }
        }
    }
}
