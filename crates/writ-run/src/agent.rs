//! The running agent, as its supervisor sees it: the same at every level.

use serde::{Deserialize, Serialize};

/// What happened to the agent's first process, as its parent saw it: init's word in a confined run, our own `waitpid` in others.
/// A signal that arrives from inside is never an event: the agent could send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It was executed: no step is left that could fail.
    Started,
    /// It was stopped by this signal, as `Ctrl-Z` does.
    Stopped {
        signal: i32,
    },
    Continued,
    /// It ended, with what `waitpid` calls its status.
    Ended {
        status: i32,
    },
}
