//! A unified diff of two texts of any bytes.
//!
//! It calls the one algorithm that it needs: `similar::TextDiff` chooses among all of them when it runs, and brings in 200 KiB of code.

use std::io::Write as _;

use similar::algorithms::{Capture, Compact, Replace, myers};
use similar::udiff::UnifiedHunkHeader;
use similar::{DiffOp, group_diff_ops};

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// What makes `new` of `old`, both named `name`; nothing where they are the same.
pub(super) fn diff(name: &str, old: &[u8], new: &[u8]) -> Vec<u8> {
    let (old, new): (Vec<_>, Vec<_>) = (lines(old), lines(new));
    let mut hook = Compact::new(Replace::new(Capture::new()), old.as_slice(), new.as_slice());
    let Ok(()) = myers::diff(&mut hook, old.as_slice(), 0..old.len(), new.as_slice(), 0..new.len());
    let changes = group_diff_ops(hook.into_inner().into_inner().into_ops(), CONTEXT);
    let mut out = Vec::new();
    if !changes.is_empty() {
        out.extend_from_slice(format!("--- {name}\n+++ {name}\n").as_bytes());
    }
    for hunk in changes {
        // Writing to a Vec does not fail.
        let _ = writeln!(out, "{}", UnifiedHunkHeader::new(&hunk));
        for operation in hunk {
            let (before, after) = (&old[operation.old_range()], &new[operation.new_range()]);
            if matches!(operation, DiffOp::Equal { .. }) {
                put(&mut out, b' ', before);
            } else {
                put(&mut out, b'-', before);
                put(&mut out, b'+', after);
            }
        }
    }
    out
}

/// Lines with their ends.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|&byte| byte == b'\n').collect()
}

fn put(out: &mut Vec<u8>, sign: u8, lines: &[&[u8]]) {
    for line in lines {
        out.push(sign);
        out.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            out.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_has_context_and_says_where_a_newline_is_missing() {
        let table: [(&[u8], &[u8], &[u8]); 5] = [
            (b"a\nb\n", b"a\nb\n", b""),
            (b"", b"\xff\n", b"--- f\n+++ f\n@@ -0,0 +1 @@\n+\xff\n"),
            (
                b"a\nb",
                b"a\nc\n",
                b"--- f\n+++ f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n",
            ),
            (
                b"1\n2\n3\n4\nold\n6\n7\n8\n9\n",
                b"1\n2\n3\n4\nnew\n6\n7\n8\n9\n",
                b"--- f\n+++ f\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-old\n+new\n 6\n 7\n 8\n",
            ),
            (b"a\rb\n", b"a\rc\n", b"--- f\n+++ f\n@@ -1 +1 @@\n-a\rb\n+a\rc\n"),
        ];
        for (old, new, expected) in table {
            assert_eq!(
                String::from_utf8_lossy(&diff("f", old, new)),
                String::from_utf8_lossy(expected),
                "{}",
                String::from_utf8_lossy(old)
            );
        }
    }

    /// `patch` makes the new text of the old one by it.
    #[test]
    fn a_diff_is_what_patch_takes() {
        let folder = tempfile::tempdir().unwrap();
        let lines =
            |which: &[u32]| which.iter().fold(String::new(), |text, line| format!("{text}line {line}\n"));
        let (old, new) = (
            lines(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
            lines(&[0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 14]),
        );
        std::fs::write(folder.path().join("f"), &old).unwrap();
        std::fs::write(folder.path().join("f.diff"), diff("f", old.as_bytes(), new.as_bytes())).unwrap();
        let output = std::process::Command::new("patch")
            .args(["-s", "-i", "f.diff"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(std::fs::read_to_string(folder.path().join("f")).unwrap(), new);
    }
}
