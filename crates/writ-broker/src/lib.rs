//! writ-broker
