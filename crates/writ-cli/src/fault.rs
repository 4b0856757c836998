//! What a command says when it fails: what happened, and the next step.

use writ_api::frame::FrameFault;
use writ_core::{Refusal, RefusalKind};

/// The status of a failure of writ's own, so that a program's status is never mistaken for it.
pub const EXIT_WRIT_FAILED: u8 = 125;
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
pub const EXIT_NOT_FOUND: u8 = 127;

/// A failure, for the person at the terminal.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    pub what: String,
    pub next: String,
    pub kind: Option<RefusalKind>,
    pub exit: u8,
}

impl Fault {
    pub fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), kind: None, exit: EXIT_WRIT_FAILED }
    }

    pub fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self { what: refusal.detail, next: refusal.next, kind: Some(refusal.kind), exit: EXIT_WRIT_FAILED }
    }
}

impl From<FrameFault> for Fault {
    fn from(fault: FrameFault) -> Self {
        Self::new(format!("the daemon: {fault}"), "look at daemon.log in the state directory, then try again")
    }
}
