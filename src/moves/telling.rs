//! How a move tells what it does: a line for each step, or a JSON object for each.

use serde_json::json;

/// Tells the progress of a move on standard error.
pub(super) struct Teller {
    id: String,
    steps: usize,
    json: bool,
}

impl Teller {
    pub(super) fn new(id: &str, steps: usize, json: bool) -> Self {
        Self { id: id.to_owned(), steps, json }
    }

    /// A step begins.
    pub(super) fn step(&self, event: &str, step: usize, what: &str) {
        if self.json {
            complain!(
                "{}",
                json!({ "move": self.id, "event": event, "step": step + 1, "steps": self.steps, "what": what })
            );
        } else {
            let back = if event == "undo-begin" { "Take back: " } else { "" };
            complain!("[{}/{}] {back}{what}", step + 1, self.steps);
        }
    }

    /// What else there is to say of a step.
    pub(super) fn remark(&self, step: usize, text: &str) {
        if self.json {
            complain!("{}", json!({ "move": self.id, "event": "remark", "step": step + 1, "what": text }));
        } else {
            complain!("    {text}");
        }
    }

    /// Something else.
    pub(super) fn line(&self, text: &str) {
        if self.json {
            complain!("{}", json!({ "move": self.id, "event": "failed", "what": text }));
        } else {
            complain!("{text}");
        }
    }
}
