//! The secrets engine `postgres` against a real server: what a login may do, what is left of it, what fails and how.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: a failure here is a failed test"
)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod faults;
mod many;
mod names;
mod resistance;
mod revocation;
mod rights;
mod rotation;
