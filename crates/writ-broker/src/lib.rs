//! The control plane: who asks, may they, make it, record it.

pub mod config;
pub mod policy;
pub mod registration;
pub mod store;
