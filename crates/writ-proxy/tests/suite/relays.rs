//! Bytes that pass untouched.
