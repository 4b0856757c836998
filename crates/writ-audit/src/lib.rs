//! writ-audit
