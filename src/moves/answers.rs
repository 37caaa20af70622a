//! The paths and options that a plan was made with, so that it can be made again.

use std::ffi::{OsStr, OsString};

use super::document::{Answers, path_of};
use super::place::Place;
use crate::moves::options::PlanArgs;
use crate::report::rows;
use crate::text::escape_os;

/// The answers of a command line.
pub(super) fn of(args: &PlanArgs, place: &Place) -> anyhow::Result<Answers> {
    let mut answers = Answers::default();
    for path in &args.paths {
        answers.paths.push(rows::path(&place.absolute(path)?));
    }
    let mut add = |option: &str, value: &OsStr| {
        let mut word = OsString::from(option);
        word.push("=");
        word.push(value);
        answers.options.push(escape_os(&word).into_owned());
    };
    args.guests.iter().for_each(|name| add("--guest", name));
    args.owners.iter().for_each(|owner| add("--owner", owner.as_ref()));
    for (name, path) in &args.exports {
        let mut word = name.clone();
        word.push("=");
        word.push(path);
        add("--export", &word);
    }
    args.readonly.iter().for_each(|name| add("--readonly", name));
    args.writable.iter().for_each(|name| add("--writable", name));
    args.security_model.iter().for_each(|model| add("--security-model", model.name().as_ref()));
    args.accept.iter().for_each(|id| add("--accept", id.as_ref()));
    args.before.iter().for_each(|command| add("--before", command.as_ref()));
    for (option, commands) in [("--stop", &args.stop), ("--start", &args.start), ("--running", &args.running)]
    {
        for command in commands {
            add(option, command.as_ref());
        }
    }
    Ok(answers)
}

/// The words that make the same plan.
pub(super) fn words(answers: &Answers) -> Vec<OsString> {
    let own = |text: &String| path_of(text).into_os_string();
    let separator = std::iter::once(OsString::from("--"));
    answers.options.iter().map(own).chain(separator).chain(answers.paths.iter().map(own)).collect()
}

/// What was said for a guest by words of the form `[GUEST=]VALUE`. What begins with another guest's name is for that one.
pub(super) fn command(words: &[String], guest: &str, guests: &[String]) -> Option<String> {
    let own = words.iter().rev().find_map(|word| word.strip_prefix(guest)?.strip_prefix('='));
    let is_of_one = |word: &&String| {
        guests.iter().any(|name| word.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('=')))
    };
    own.map(str::to_owned).or_else(|| words.iter().rev().find(|word| !is_of_one(word)).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_for_the_guest_that_it_names_or_for_all() {
        let guests = ["a".to_owned(), "b".to_owned(), "/bin/vm".to_owned()];
        let words = ["a=stop a".to_owned(), "X=1 stop all".to_owned(), "/bin/vm=kill it=now".to_owned()];
        for (guest, expected) in [("a", "stop a"), ("b", "X=1 stop all"), ("/bin/vm", "kill it=now")] {
            assert_eq!(command(&words, guest, &guests).as_deref(), Some(expected));
        }
        assert_eq!(command(&words[..1], "b", &guests), None);
    }
}
