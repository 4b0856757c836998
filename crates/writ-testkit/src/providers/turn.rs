//! What a model says when a coding agent asks it: a shell call, and then what the shell answered.
//!
//! The test decides by its prompt: `[[shell: COMMAND]]` in a message of the person's makes the model call the agent's shell
//! tool, if the agent offers one. The answer to the tool's result repeats that result, so that a test that reads the final
//! answer has seen every step: the prompt, the call, the shell, the second request. Any other request gets the usual words.

use serde_json::Value;

use super::WORDS;

/// Nested deeper than this, a request's text is not looked at.
const DEPTH_MAX: usize = 16;
const BEGIN: &str = "[[shell: ";
const END: &str = "]]";

/// One turn of the model.
pub(super) enum Turn {
    /// The agent's tool is called with this shell command.
    Shell { command: String },
    /// Text, in the pieces in which it is streamed.
    Says(Vec<String>),
}

impl Turn {
    /// What follows on `messages`, given the tool `results` among them and whether the agent offers a shell.
    pub(super) fn next(messages: &Value, results: &[&Value], has_shell: bool) -> Self {
        if let Some(result) = results.last() {
            let mut said = String::new();
            texts(result, DEPTH_MAX, &mut |text| said.push_str(text));
            return Self::Says(vec!["The shell said: ".to_owned(), said]);
        }
        let mut command = None;
        texts(messages, DEPTH_MAX, &mut |text| command = shell(text).or_else(|| command.take()));
        match command {
            Some(command) if has_shell => Self::Shell { command },
            _ => Self::Says(WORDS.map(str::to_owned).to_vec()),
        }
    }
}

fn shell(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(BEGIN)?;
    rest.split_once(END).map(|(command, _)| command.to_owned())
}

/// Every string below `value` but the names that describe it.
fn texts(value: &Value, depth: usize, see: &mut impl FnMut(&str)) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::String(text) => see(text),
        Value::Array(all) => all.iter().for_each(|one| texts(one, depth, see)),
        Value::Object(fields) => {
            fields.iter().filter(|(name, _)| *name != "type").for_each(|(_, one)| texts(one, depth, see));
        }
        _ => {}
    }
}
