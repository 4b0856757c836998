//! Tests of the whole: spellings against a table made by other software, streams against an oracle.

mod oracle;
mod set;
mod spellings;
mod stream;
