//! writ-core
