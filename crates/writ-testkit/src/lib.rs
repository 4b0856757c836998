//! writ-testkit
