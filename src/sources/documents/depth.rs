//! How deep a document may nest.

use crate::sources::chars::Lines;
use crate::sources::format::Unreadable;

/// More open brackets than any configuration has, those in its texts counted in.
const MAX_BRACKETS: usize = 1000;

/// Stops at brackets that nest deeper than any document's: parsers take time by the square of their depth.
pub(super) fn refuse_deep(bytes: &[u8]) -> Result<(), Unreadable> {
    let mut depth = 0_usize;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_BRACKETS {
            let line = Some(Lines::new(bytes).line(at));
            return Err(Unreadable { line, reason: "its brackets nest too deep".to_owned() });
        }
    }
    Ok(())
}
