//! What tests need of Python's package index.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the tools of Python's package index are.
pub fn tools() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib/tools");
    let output = Command::new(script).output().expect("scripts/lib/tools");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

/// What a Python program of the tools prints for `input`.
pub fn python(program: &str, input: &[u8]) -> String {
    let mut command = Command::new(tools().join("python3"));
    let command = command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}\n{}", String::from_utf8_lossy(input));
    String::from_utf8(output.stdout).unwrap()
}
