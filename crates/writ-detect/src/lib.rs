//! writ-detect
