//! writ-engine
