//! Files in, files out: tests/golden/config/CASE holds `in.*`, the options in `args`, and what is expected: `out.*`, or
//! `refused`, the error. `UPDATE_GOLDEN=1 cargo test --test config golden` writes the expectations anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{cases, config, text};

/// A case on the disk.
struct Case {
    folder: PathBuf,
    input: PathBuf,
    args: Vec<String>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut folders: Vec<_> =
            fs::read_dir(cases()).expect("the cases").map(|entry| entry.expect("a case").path()).collect();
        folders.sort();
        folders.into_iter().map(Self::of).collect()
    }

    fn of(folder: PathBuf) -> Self {
        let input = fs::read_dir(&folder)
            .expect("the case's files")
            .map(|entry| entry.expect("a file").path())
            .find(|path| path.file_stem().is_some_and(|stem| stem == "in"))
            .unwrap_or_else(|| panic!("{} has no in.*", folder.display()));
        let args = fs::read_to_string(folder.join("args")).expect("the case's args");
        Self { folder, input, args: args.split_whitespace().map(str::to_owned).collect() }
    }

    fn ending(&self) -> &str {
        self.input.extension().and_then(|ending| ending.to_str()).expect("an ending")
    }

    fn expected(&self) -> PathBuf {
        self.folder.join(format!("out.{}", self.ending()))
    }

    fn run(&self, file: &Path, input: &[u8]) -> std::process::Output {
        let mut args = self.args.clone();
        args.insert(0, file.to_str().expect("a path of ours").to_owned());
        config(args, input)
    }

    fn check(&self) -> Result<(), String> {
        let output = self.run(&self.input, b"");
        let refused = self.folder.join("refused");
        let folder = format!("{}/", self.folder.display());
        let errors = text(&output.stderr).replace(&folder, "").replace("virtfs-proxy-helper: ", "");
        let code = output.status.code();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let _ = fs::remove_file(&refused);
            let _ = fs::remove_file(self.expected());
            if code == Some(0) {
                fs::write(self.expected(), &output.stdout).expect("an expectation");
            } else {
                fs::write(&refused, &errors).expect("an expectation");
            }
        }
        if refused.exists() {
            let expected = fs::read_to_string(&refused).expect("the expected error");
            return if code == Some(1) && errors == expected && output.stdout.is_empty() {
                Ok(())
            } else {
                Err(format!("status {code:?}, says\n{errors}instead of\n{expected}"))
            };
        }
        let expected = fs::read(self.expected()).map_err(|error| format!("{error}; it says {errors}"))?;
        if code != Some(0) || output.stdout != expected {
            return Err(format!("status {code:?}, prints\n{}{errors}", text(&output.stdout)));
        }
        self.check_again(&expected)
    }

    /// What comes out goes in and comes out as it is, from a file and from standard input.
    fn check_again(&self, expected: &[u8]) -> Result<(), String> {
        let again = self.run(&self.expected(), b"");
        let piped = self.run(Path::new("-"), expected);
        for output in [again, piped] {
            if output.stdout != expected || output.status.code() != Some(0) {
                return Err(format!("a second run changes it: {}", text(&output.stderr)));
            }
        }
        Ok(())
    }
}

#[test]
fn every_case_comes_out_as_expected() {
    let cases = Case::all();
    assert!(cases.len() > 40, "only {} cases", cases.len());
    let failures: Vec<_> = cases
        .iter()
        .filter_map(|case| case.check().err().map(|error| format!("{}: {error}", case.folder.display())))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Whatever the rewrite does, the file's other lines stand in the same order, byte for byte.
#[test]
fn lines_that_speak_of_no_share_stay() {
    for case in Case::all() {
        let Ok(after) = fs::read(case.expected()) else { continue };
        let before = fs::read(&case.input).expect("the input");
        let speaks = |line: &&[u8]| {
            [
                &b"arg value"[..],
                b"commandline",
                b"<devices",
                b"fsdriver",
                b"socket",
                b"sock_fd",
                b"proxy,",
                b"<memoryBacking/>",
            ]
            .iter()
            .any(|word| line.windows(word.len()).any(|window| window == *word))
        };
        let mut left = after.split_inclusive(|&byte| byte == b'\n');
        for line in before.split_inclusive(|&byte| byte == b'\n').filter(|line| !speaks(line)) {
            let found = left.any(|other| other == line);
            assert!(found || !line.ends_with(b"\n"), "{}: {} is lost", case.folder.display(), text(line));
        }
    }
}
