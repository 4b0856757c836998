//! writ-sys
