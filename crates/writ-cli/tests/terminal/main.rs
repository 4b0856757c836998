//! At a terminal, `writ run` is as if it were not there.
//!
//! Every test runs twice and more: with the program itself, which tells what is right, and behind `writ run` at each level. The
//! person sits at a real pseudo-terminal, mostly in an interactive bash. Nothing waits for a time to pass.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

mod jobs;
mod keys;
mod moments;
mod place;
mod screen;
