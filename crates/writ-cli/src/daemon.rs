//! The daemon.
use std::process::ExitCode;

/// The hidden first argument.
pub const STAGE: &str = "__daemon";

pub fn stage() -> Option<ExitCode> {
    None
}
